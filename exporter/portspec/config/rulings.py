"""What conf.yml rules about deviations, and what somebody has changed about it since. Pure."""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from portspec.config.model import PortException
from portspec.ports import PortSet, parse_ports
from portspec.times import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from portspec.config.model import Config, VulnerabilityException

Words = tuple[str, ...]
ExemptionKey = tuple[str, Words, Words]


class Ruling(enum.StrEnum):
    """What becomes of ports, or of vulnerabilities, by a change of conf.yml."""

    EXPECTED = "expected"  # ports have to be open
    ALLOWED = "allowed"  # ports may be open
    ACCEPTED = "accepted"  # a deviation or a vulnerability is accepted for a while
    WITHDRAWN = "withdrawn"  # what was one of these is so no longer


@dataclass(frozen=True, slots=True)
class Exemption:
    """An exception for one of its hosts, as conf.yml spells it: of ports, spelled as PortSet does, or of ids.

    `since` is the Unix time since which conf.yml has it, whatever else was changed of it; None if that is not known.
    """

    host: str
    until: float
    reason: str = ""
    owner: str = ""
    ports: Words = ()
    ids: Words = ()
    since: float | None = field(default=None, compare=False)

    @property
    def key(self) -> ExemptionKey:
        """What it is about: an exception that ends later, or has another owner, is the same."""
        return self.host, self.ports, self.ids


@dataclass(frozen=True, slots=True)
class Rules:
    """What a configuration rules: expected and allowed ports of each entry of `hosts`, and exceptions from them."""

    hosts: dict[str, tuple[Words, Words]] = field(default_factory=dict)
    exemptions: tuple[Exemption, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """One change: the entry or the host that it is about, the ports or ids, what became of them, and why."""

    host: str
    what: str
    ruling: Ruling
    note: str = ""


def rules_of(config: Config) -> Rules:
    """Return the rules of a configuration."""
    return Rules(
        {host.name: (_spell(host.specification.expect), _spell(host.specification.allow)) for host in config.hosts},
        (
            *(
                Exemption(host, item.until, item.reason, item.owner, ports=_spell(item.ports))
                for item in config.exceptions
                for host in item.hosts
            ),
            *(
                Exemption(host, item.until, item.reason, item.owner, ids=tuple(item.ids))
                for item in config.accepted
                for host in item.hosts
            ),
        ),
    )


def dated(before: Rules | None, after: Rules, now: float) -> Rules:
    """Return rules with since when each exception is there, by the rules before.

    Without rules before it is not known, as conf.yml may have been older.
    """
    known = {item.key: item.since for item in before.exemptions} if before else {}
    new = now if before else None
    return replace(after, exemptions=tuple(replace(item, since=known.get(item.key, new)) for item in after.exemptions))


def since_of(
    item: PortException | VulnerabilityException, globs: Iterable[str], times: Mapping[ExemptionKey, float | None]
) -> float | None:
    """Return since when conf.yml has an exception for one of `globs`, a Unix time, by `times`; None if not known."""
    ports = _spell(item.ports) if isinstance(item, PortException) else ()
    ids = () if isinstance(item, PortException) else tuple(item.ids)
    found = (times.get((host, ports, ids)) for host in globs)
    return min((at for at in found if at is not None), default=None)


def changed_rules(before: Rules, after: Rules, now: float) -> Iterator[Changed]:
    """Return what has changed at a Unix time.

    A host that is new, or gone, changes nothing for others, and no rule of its own; nor does an exception that is
    removed after its end.
    """
    for host, own in after.hosts.items():
        if (earlier := before.hosts.get(host)) is not None and earlier != own:
            yield from _of_host(host, earlier, own)
    alike, present = defaultdict(list), defaultdict(list)
    for item in before.exemptions:
        alike[_terms(item)].append(item)
    for item in after.exemptions:
        present[item.host].append(item)
    for item in after.exemptions:
        yield from _of_exemption(item, alike[_terms(item)], Ruling.ACCEPTED, _note(item))
    for item in before.exemptions:
        if item.until > now:
            yield from _of_exemption(item, present[item.host], Ruling.WITHDRAWN, "")


def _of_host(host: str, before: tuple[Words, Words], after: tuple[Words, Words]) -> Iterator[Changed]:
    expected, allowed = map(_read, before)
    expects, allows = map(_read, after)
    for ports, ruling in (
        (expects - expected, Ruling.EXPECTED),
        ((allows - expects) - (allowed - expected), Ruling.ALLOWED),  # what is expected is more than allowed
        ((expected | allowed) - (expects | allows), Ruling.WITHDRAWN),
    ):
        if ports:
            yield Changed(host, str(ports), ruling)


def _of_exemption(item: Exemption, others: Iterable[Exemption], ruling: Ruling, note: str) -> Iterator[Changed]:
    """Return an exception as far as others do not say the same."""
    ports, ids = _read(item.ports), list(item.ids)
    for other in others:
        ports -= _read(other.ports)
        ids = [name for name in ids if name not in other.ids]
    if ports:
        yield Changed(item.host, str(ports), ruling, note)
    if ids:
        yield Changed(item.host, ", ".join(ids), ruling, note)


def _terms(item: Exemption) -> tuple[str, float, str, str]:
    return item.host, item.until, item.reason, item.owner


def _note(item: Exemption) -> str:
    end = moment(item.until).strftime("%Y-%m-%d %H:%M UTC")
    return ", ".join(part for part in (f"until {end}", item.reason, item.owner and f"owner: {item.owner}") if part)


def _spell(ports: PortSet) -> Words:
    return tuple(ports.spellings())


def _read(words: Words) -> PortSet:
    return PortSet.of_ranges(chain.from_iterable(parse_ports(word).ranges for word in words))
