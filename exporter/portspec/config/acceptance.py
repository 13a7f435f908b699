"""Write into conf.yml that a deviation or a vulnerability is right: in the specification, or as an exception. Pure."""

from __future__ import annotations

import codecs
import ipaddress
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from portspec.config.edit import EditError, Editor
from portspec.config.fields import read_identifier
from portspec.config.load import load
from portspec.config.model import HostConfig, PortException, Specification, VulnerabilityException
from portspec.config.yaml_document import decode
from portspec.errors import ConfigError, PortspecError, spell_source
from portspec.names import address_of, canonical
from portspec.ports import NO_PORTS, PortSet
from portspec.times import read_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.config.model import Config

Way = Literal["expect", "allow", "until"]

_BOM: Final = codecs.BOM_UTF8


class AcceptanceError(PortspecError):
    """The acceptance cannot be written; the message says what to write instead, and where."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What is accepted of a host: `ports`, or `ids` of vulnerabilities.

    With the way "expect" the ports are to be open from now on, with "allow" they may be; "until" makes an exception
    that ends at `until`, spelled as conf.yml spells it.
    """

    host: str
    way: Way
    ports: PortSet = NO_PORTS
    ids: tuple[str, ...] = ()
    until: str = ""
    reason: str = ""
    owner: str = ""


def edited(path: str, data: bytes, acceptance: Acceptance, environment: Mapping[str, str]) -> bytes:
    """Return the bytes of a conf.yml with an acceptance; every line that it does not concern is the same.

    They are the same bytes if it says so already.

    Raises:
        ConfigError: the file is not valid.
        AcceptanceError: it cannot be written there.
    """
    config = load(path, environment, data=data)
    entry = None if acceptance.way == "until" else _entry(config, acceptance)
    goal = intended(config, acceptance)
    if goal == config:
        return data
    text = decode(Path(path), data)
    editor = Editor(text)
    try:
        if entry is None:
            editor.add_exception(_fields(acceptance))
        else:
            _edit_host(editor, entry, acceptance)
        new = (_BOM if data.startswith(_BOM) else b"") + editor.result().encode()
        found = load(path, environment, data=new)
    except EditError as error:
        raise _by_hand(config, acceptance, str(error)) from None
    except ConfigError as error:
        raise _by_hand(config, acceptance, f"the result would not be valid: {error.problems[0].message}") from None
    if found != goal:
        raise _by_hand(config, acceptance, "the result would say something else")
    return new


def intended(config: Config, acceptance: Acceptance) -> Config:
    """Return the configuration that an acceptance leads to."""
    if acceptance.way == "until":
        return _with_exception(config, acceptance)
    entry = _entry(config, acceptance)
    after = _accepting(entry.specification, acceptance)
    ports = entry.ports | after.expect | after.allow
    hosts = (replace(entry, specification=after, ports=ports) if one is entry else one for one in config.hosts)
    return replace(config, hosts=tuple(hosts))


def _accepting(before: Specification, acceptance: Acceptance) -> Specification:
    ports = acceptance.ports
    if acceptance.way == "expect":
        return Specification(before.expect | ports, before.allow)
    return Specification(before.expect - ports, before.allow | ports)


def _with_exception(config: Config, acceptance: Acceptance) -> Config:
    hosts, until = (acceptance.host,), read_until(acceptance.until)
    reason, owner = acceptance.reason, acceptance.owner
    if acceptance.ids:
        ids = tuple(map(read_identifier, acceptance.ids))
        item = VulnerabilityException(hosts, ids, until, reason, owner)
        return config if item in config.accepted else replace(config, accepted=(*config.accepted, item))
    excepted = PortException(hosts, acceptance.ports, until, reason, owner)
    return config if excepted in config.exceptions else replace(config, exceptions=(*config.exceptions, excepted))


def _edit_host(editor: Editor, entry: HostConfig, acceptance: Acceptance) -> None:
    place = editor.host(lambda key: key == entry.name)
    if place is None:
        raise EditError(f"{entry.name} does not stand below hosts as such")
    before, after = entry.specification, _accepting(entry.specification, acceptance)
    editor.set_ports(place, *({"expect": item.expect, "allow": item.allow} for item in (before, after)))


def _entry(config: Config, acceptance: Acceptance) -> HostConfig:
    """Return the entry of the host; AcceptanceError if it has none of its own."""
    name = canonical(acceptance.host)
    found = next((entry for entry in config.hosts if canonical(entry.name) == name), None)
    if found is not None:
        return found
    file = spell_source(config.path)
    way = f"--{acceptance.way}"
    address = address_of(name)
    network = next((entry for entry in config.hosts if address and "/" in entry.name and _holds(entry, name)), None)
    if network is not None:
        after = _accepting(network.specification, acceptance)
        line = f"{json.dumps(acceptance.host)}: {{expect: {_flow(after.expect)}, allow: {_flow(after.allow)}}}"
        raise AcceptanceError(
            f"{acceptance.host} is one of the addresses of {network.name} in {file}, and {way} would hold for all of "
            f"them. Write an entry of its own below hosts: `{line}`, with the other keys of {network.name}; "
            f"or accept it for a while with --until."
        )
    raise AcceptanceError(
        f"{acceptance.host} has no entry in {file}. A host that was discovered gets its ports from its source "
        "(the labels __portspec_expect and __portspec_allow); or accept it for a while with --until."
    )


def _holds(entry: HostConfig, address: str) -> bool:
    network = ipaddress.ip_network(entry.name)
    ip = ipaddress.ip_address(address)
    return ip.version == network.version and ip in network


def _fields(acceptance: Acceptance) -> dict[str, object]:
    """Return the keys of the exception."""
    words = [int(word) if word.isdigit() else word for word in acceptance.ports.spellings()]
    what = {"ids": list(acceptance.ids)} if acceptance.ids else {"ports": words}
    more = {key: text for key, text in (("reason", acceptance.reason), ("owner", acceptance.owner)) if text}
    fields: dict[str, object] = {"hosts": [acceptance.host], **what, "until": acceptance.until, **more}
    return {key: _literal(value) for key, value in fields.items()}


def _literal(value: object) -> object:
    """Spell a text so that nothing in it is taken for an environment variable."""
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _by_hand(config: Config, acceptance: Acceptance, why: str) -> AcceptanceError:
    """Say what is to be written by hand."""
    file = spell_source(config.path)
    if acceptance.way == "until":
        fields = ", ".join(
            f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in _fields(acceptance).items()
        )
        return AcceptanceError(f"{file} cannot be edited: {why}. Add to exceptions: `- {{{fields}}}`")
    after = _accepting(_entry(config, acceptance).specification, acceptance)
    line = f"{{expect: {_flow(after.expect)}, allow: {_flow(after.allow)}}}"
    return AcceptanceError(f"{file} cannot be edited: {why}. The ports of {acceptance.host} have to be: `{line}`")


def _flow(ports: PortSet) -> str:
    return f"[{', '.join(word if word.isdigit() else json.dumps(word) for word in ports.spellings())}]"
