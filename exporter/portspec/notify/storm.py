"""The mail about many hosts at once: how many and what, what most of them share, then the worst of them. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from portspec.notify.content import Content, Item, Links, Section, Tone
from portspec.notify.encoding import ports_of
from portspec.notify.notice import News
from portspec.notify.subject import MAX_SUBJECT, PREFIX, gist
from portspec.notify.wording import counted, cut, named_one, spell_time, spell_unseen
from portspec.ports import PortSet, spell
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from portspec.notify.notice import Notice

MAX_HOSTS: Final = 100  # that are named: a mail is to be read
_LEAST_OF_GROUP: Final = 10  # of them, of each group, so that none is hidden behind another
MAX_SHARED: Final = 5  # deviations, or reasons, that are told at the head
_LEAST_SHARED: Final = 3  # hosts
_MAX_NAME: Final = 80  # characters
_MAX_EACH: Final = 64  # ports of a host among which what is shared is sought


@dataclass(frozen=True, slots=True)
class _Group:
    """Hosts of which the same is to be said: how one counts them, and the title above them."""

    words: str
    title: str
    tone: Tone


_BAD: Final = _Group("out of specification", "Out of specification", Tone.BAD)
_UNSEEN: Final = _Group("cannot be scanned", "Cannot be scanned", Tone.UNKNOWN)
_ENDING: Final = _Group("with an exception that ends", "Exceptions that end", Tone.NEUTRAL)
_GOOD: Final = _Group("in specification again", "In specification again", Tone.GOOD)
_GROUPS: Final = (_BAD, _UNSEEN, _ENDING, _GOOD)


@dataclass(frozen=True, slots=True)
class _Host:
    """A host with the notice that says how it is now, and its deviating ports, by how they deviate."""

    notice: Notice
    group: _Group
    ports: Mapping[str, PortSet]

    @property
    def rank(self) -> tuple[bool, int, str]:
        """How bad it is among those of its group: the smaller, the worse."""
        return self.notice.news is News.REMINDER, -sum(map(len, self.ports.values())), self.notice.host


def storm(notices: Sequence[Notice], links: Links, now: float) -> Content:
    """Give what a mail says of many hosts; `now` is in Unix seconds."""
    hosts = _hosts(notices)
    groups = {group: found for group in _GROUPS if (found := [host for host in hosts if host.group is group])}
    counts = ", ".join(f"{len(found):,} {group.words}" for group, found in groups.items())
    count = len({notice.host for notice in notices})
    told = f"{counted(count, 'host')}: {counts}"
    trouble = [host for host in hosts if host.group in (_BAD, _UNSEEN)]
    named = sum(min(len(found), room) for found, room in _rooms(groups))
    return Content(
        subject=f"{PREFIX} {cut(told, MAX_SUBJECT - len(PREFIX) - 1)}",
        tone=next(iter(groups)).tone,
        headline=f"{told}.",
        paragraphs=(_where(named, count, links),) if named < len(hosts) else (),
        sections=tuple(_sections(groups, now)),
        advice=tuple(_advice(trouble)),
        links=(*links.hosts(), *links.runbooks(_runbooks(groups))),
        facts=(("Scanned until", spell_time(max(notice.at for notice in notices))),),
    )


def _where(named: int, count: int, links: Links) -> str:
    where = f"{links.external_url}/" if links.external_url else "the page of the exporter, /,"
    return f"{counted(named, 'host')} are named here, the worst first; {where} shows all {count:,}."


def _hosts(notices: Sequence[Notice]) -> list[_Host]:
    """Give each host once, as its last notice has it, and once more if its exceptions end: that is told only once."""
    last: dict[tuple[str, bool], Notice] = {}
    for notice in notices:
        last[notice.host, notice.news is News.EXPIRING] = notice
    return [_host(notice) for notice in last.values()]


def _host(notice: Notice) -> _Host:
    if notice.news is News.IN_SPEC:
        group = _GOOD
    elif notice.news is News.EXPIRING:
        group = _ENDING
    else:
        group = _UNSEEN if notice.is_unknown or notice.news is News.UNKNOWN else _BAD
    return _Host(notice, group, _deviating(notice))


def _rooms(groups: dict[_Group, list[_Host]]) -> Iterator[tuple[list[_Host], int]]:
    """Give how many hosts of each group are named."""
    left = MAX_HOSTS
    rest = list(groups.values())
    while rest:
        found, *rest = rest
        kept = sum(min(len(other), _LEAST_OF_GROUP) for other in rest)
        room = max(left - kept, _LEAST_OF_GROUP)
        yield found, room
        left -= min(len(found), room)


def _sections(groups: dict[_Group, list[_Host]], now: float) -> Iterator[Section]:
    shared = [*_shared_deviations(groups.get(_BAD, [])), *_shared_reasons(groups.get(_UNSEEN, []))]
    if shared:
        yield Section("The same on many hosts", tuple(shared))
    for group, (found, room) in zip(groups, _rooms(groups), strict=True):
        yield Section(f"{group.title} ({len(found):,})", tuple(_items(found, room, now)))


def _items(hosts: Sequence[_Host], room: int, now: float) -> Iterator[Item]:
    """Name some hosts, the worst first, and together those of which the same is to be said."""
    same: dict[str, list[str]] = {}
    for host in heapq.nsmallest(room, hosts, key=lambda host: host.rank):
        same.setdefault(gist(host.notice, now), []).append(cut(host.notice.host, _MAX_NAME))
    for told, names in same.items():
        if len(names) < _LEAST_SHARED:
            yield from (Item(f"{name}: {told}") for name in names)
        else:
            yield Item(told, (", ".join(names),))
    if len(hosts) > room:
        yield Item(f"and {counted(len(hosts) - room, 'more host')}")


def _shared_deviations(hosts: Sequence[_Host]) -> Iterator[Item]:
    """Say which deviations many hosts have, those of the most first."""
    silent = sum(host.notice.answers_nothing for host in hosts)
    if silent >= _LEAST_SHARED:
        yield Item(f"{counted(silent, 'host')} answer nothing")
    deviating = [host.ports for host in hosts if not host.notice.answers_nothing]
    often: Counter[tuple[str, int]] = Counter()
    for found in deviating:
        often.update((kind, port) for kind, ports in found.items() for port in islice(ports, _MAX_EACH))
    candidates = [key for key, count in often.most_common() if count >= _LEAST_SHARED][:MAX_SHARED]
    counts = {  # anew, since a host may have very many
        (kind, port): sum(port in found[kind] for found in deviating if kind in found) for kind, port in candidates
    }
    for (kind, port), count in sorted(counts.items(), key=lambda item: (-item[1], item[0][0] == Kind.MISSING, item[0])):
        word = "open" if kind == Kind.UNEXPECTED else "missing"
        yield Item(f"{named_one(spell(port))} {word} on {counted(count, 'host')}")


def _deviating(notice: Notice) -> dict[str, PortSet]:
    """Give the ports that deviate, by how they do; each is read once, since there may be very many."""
    kinds = dict.fromkeys(line.kind for line in notice.lines)
    return {
        kind: PortSet.of_ranges(
            chain.from_iterable(ports_of(line.ports).ranges for line in notice.lines if line.kind == kind)
        )
        for kind in kinds
    }


def _shared_reasons(hosts: Sequence[_Host]) -> Iterator[Item]:
    reasons = Counter(spell_unseen(host.notice.reason) for host in hosts)
    for reason, count in reasons.most_common(MAX_SHARED):
        if count >= _LEAST_SHARED:
            yield Item(f"{reason}: {counted(count, 'host')}")


def _advice(trouble: Sequence[_Host]) -> Iterator[str]:
    if trouble:
        yield (
            "So many at once often have one cause: look first at what they share, at the last roll-out or change of a "
            "firewall, and at the network of the machine of portspec."
        )


def _runbooks(groups: dict[_Group, list[_Host]]) -> Iterator[str]:
    kinds = {line.kind for host in groups.get(_BAD, []) for line in host.notice.lines}
    if any(host.notice.answers_nothing for host in groups.get(_BAD, [])):
        yield "PortspecHostDown"
    if Kind.UNEXPECTED in kinds:
        yield "PortspecUnexpectedPortOpen"
    if Kind.MISSING in kinds:
        yield "PortspecExpectedPortMissing"
    if _UNSEEN in groups:
        yield "PortspecHostUnknown"
    if _ENDING in groups:
        yield "PortspecExceptionExpiring"
