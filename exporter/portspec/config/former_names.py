"""Former names of hosts (`renamed_from`): what concerns several hosts.

A name leads to one host: what is known under it is taken over by one host, and by none while it is a host itself.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from portspec.names import address_of, canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.config.yaml_document import KeyPath, YamlDocument
    from portspec.names import Network

_KEY = "renamed_from"


def check_former_names(source: YamlDocument, hosts: dict[str, Any], audit: object) -> None:
    """Check the former names in `hosts` against its entries, those of the `audit` block, and each other."""
    renamed = {name: entry for name, entry in hosts.items() if isinstance(entry, dict) and entry.get(_KEY)}
    if not renamed:
        return
    present = _present(hosts, audit)
    networks = list(_networks(hosts))
    claims: dict[str, str] = {}
    for host, entry in renamed.items():
        if "/" in host:
            source.problem(("hosts", host, _KEY), "a CIDR has no former names; give them to one of its addresses")
            continue
        own = _canonical(host)
        for path, text in _names(("hosts", host, _KEY), entry[_KEY]):
            former = _canonical(text)
            if former is None or "/" in former:
                continue  # told by the key itself
            first = claims.setdefault(former, host)
            if former == own:
                source.problem(path, f'"{text}" is the host itself; name what it was called before')
            elif place := present.get(former) or _holder(former, networks):
                source.problem(path, f'"{text}" is a host itself (line {source.line(place)}); remove one of the two')
            elif first != host:
                other = f'"{first}" (line {source.line(("hosts", first, _KEY))})'
                source.problem(path, f'"{text}" is a former name of {other}, too; remove one of the two')


def _present(hosts: Iterable[str], audit: object) -> dict[str, KeyPath]:
    """Return the place of each host by its canonical name; that of a CIDR is its own."""
    audited = audit.get("hosts") if isinstance(audit, dict) else ()
    places: list[tuple[KeyPath, str]] = [
        *((("hosts", name), name) for name in hosts),
        *_names(("audit", "hosts"), audited),
    ]
    found: dict[str, KeyPath] = {}
    for place, name in places:
        if (form := _canonical(name)) is not None:
            found.setdefault(form, place)
    return found


def _networks(hosts: Iterable[str]) -> Iterator[tuple[Network, KeyPath]]:
    for name in hosts:
        if "/" in name and (form := _canonical(name)) is not None:
            yield ipaddress.ip_network(form), ("hosts", name)


def _holder(name: str, networks: Iterable[tuple[Network, KeyPath]]) -> KeyPath | None:
    """Return the place of the CIDR that an address belongs to; None if there is none, or if it is no address."""
    address = address_of(name)
    return next((place for network, place in networks if address and address in network), None)


def _names(path: KeyPath, value: object) -> Iterator[tuple[KeyPath, str]]:
    """Yield each name of a list of names or of a single one, unchecked as it is, with its place."""
    if isinstance(value, str):
        yield path, value
    for place, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, str):
            yield (*path, place), item


def _canonical(name: str) -> str | None:
    try:
        return canonical(name)
    except ValueError:
        return None
