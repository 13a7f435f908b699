"""The content of a mail about many hosts: counts, what many hosts have in common, then the worst hosts. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from portspec.notify.content import Content, Item, Links, Section, Tone
from portspec.notify.encoding import ports_of
from portspec.notify.notification import Event
from portspec.notify.wording import (
    MAX_SUBJECT,
    SUBJECT_PREFIX,
    counted,
    cut,
    format_failure,
    format_time,
    named_one,
    summary,
)
from portspec.ports import PortSet, spell
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from portspec.notify.notification import Notification

MAX_HOSTS: Final = 100  # that are named, so that the mail stays readable
_MIN_OF_GROUP: Final = 10  # hosts of each group that are named at least, so that no group is hidden
MAX_SHARED: Final = 5  # deviations, or reasons, that are listed first
_MIN_SHARED: Final = 3  # hosts that have a deviation or reason in common
_MAX_NAME: Final = 80  # characters
_MAX_EACH: Final = 64  # ports of a host that are compared with those of other hosts


@dataclass(frozen=True, slots=True)
class _HostGroup:
    """A group of hosts: the words that follow their number, and the title of their section."""

    words: str
    title: str
    tone: Tone


_BAD: Final = _HostGroup("out of specification", "Out of specification", Tone.BAD)
_UNSEEN: Final = _HostGroup("cannot be scanned", "Cannot be scanned", Tone.UNKNOWN)
_ENDING: Final = _HostGroup("with an exception that ends", "Exceptions that end", Tone.NEUTRAL)
_GOOD: Final = _HostGroup("in specification again", "In specification again", Tone.GOOD)
_GROUPS: Final = (_BAD, _UNSEEN, _ENDING, _GOOD)


@dataclass(frozen=True, slots=True)
class _DigestHost:
    """A host with its latest notification, and its deviating ports by kind."""

    notification: Notification
    group: _HostGroup
    ports: Mapping[str, PortSet]

    @property
    def rank(self) -> tuple[bool, int, str]:
        """The order within the group: the smaller, the worse."""
        return self.notification.event is Event.REMINDER, -sum(map(len, self.ports.values())), self.notification.host


def digest_content(notifications: Sequence[Notification], links: Links, now: float) -> Content:
    """Return the content of a mail about many hosts. `now` is in Unix seconds."""
    hosts = _hosts(notifications)
    groups = {group: found for group in _GROUPS if (found := [host for host in hosts if host.group is group])}
    counts = ", ".join(f"{len(found):,} {group.words}" for group, found in groups.items())
    count = len({notification.host for notification in notifications})
    headline = f"{counted(count, 'host')}: {counts}"
    trouble = [host for host in hosts if host.group in (_BAD, _UNSEEN)]
    named = sum(min(len(found), room) for found, room in _rooms(groups))
    return Content(
        subject=f"{SUBJECT_PREFIX} {cut(headline, MAX_SUBJECT - len(SUBJECT_PREFIX) - 1)}",
        tone=next(iter(groups)).tone,
        headline=f"{headline}.",
        paragraphs=(_where(named, count, links),) if named < len(hosts) else (),
        sections=tuple(_sections(groups, now)),
        advice=tuple(_advice(trouble)),
        links=(*links.hosts(), *links.runbooks(_runbooks(groups))),
        facts=(("Scanned until", format_time(max(notification.at for notification in notifications))),),
    )


def _where(named: int, count: int, links: Links) -> str:
    where = f"{links.external_url}/" if links.external_url else "the page of the exporter, /,"
    return f"{counted(named, 'host')} are named here, the worst first; {where} shows all {count:,}."


def _hosts(notifications: Sequence[Notification]) -> list[_DigestHost]:
    """Return each host once, by its last notification, and once more if its exceptions end."""
    last: dict[tuple[str, bool], Notification] = {}
    for notification in notifications:
        last[notification.host, notification.event is Event.EXPIRING] = notification
    return [_host(notification) for notification in last.values()]


def _host(notification: Notification) -> _DigestHost:
    if notification.event is Event.IN_SPEC:
        group = _GOOD
    elif notification.event is Event.EXPIRING:
        group = _ENDING
    else:
        group = _UNSEEN if notification.is_unknown or notification.event is Event.UNKNOWN else _BAD
    return _DigestHost(notification, group, _deviating(notification))


def _rooms(groups: dict[_HostGroup, list[_DigestHost]]) -> Iterator[tuple[list[_DigestHost], int]]:
    """Yield how many hosts of each group are named."""
    left = MAX_HOSTS
    rest = list(groups.values())
    while rest:
        found, *rest = rest
        kept = sum(min(len(other), _MIN_OF_GROUP) for other in rest)
        room = max(left - kept, _MIN_OF_GROUP)
        yield found, room
        left -= min(len(found), room)


def _sections(groups: dict[_HostGroup, list[_DigestHost]], now: float) -> Iterator[Section]:
    shared = [*_shared_deviations(groups.get(_BAD, [])), *_shared_reasons(groups.get(_UNSEEN, []))]
    if shared:
        yield Section("The same on many hosts", tuple(shared))
    for group, (found, room) in zip(groups, _rooms(groups), strict=True):
        yield Section(f"{group.title} ({len(found):,})", tuple(_items(found, room, now)))


def _items(hosts: Sequence[_DigestHost], room: int, now: float) -> Iterator[Item]:
    """Yield some hosts, the worst first. Hosts with the same summary are one item."""
    same: dict[str, list[str]] = {}
    for host in heapq.nsmallest(room, hosts, key=lambda host: host.rank):
        same.setdefault(summary(host.notification, now), []).append(cut(host.notification.host, _MAX_NAME))
    for text, names in same.items():
        if len(names) < _MIN_SHARED:
            yield from (Item(f"{name}: {text}") for name in names)
        else:
            yield Item(text, (", ".join(names),))
    if len(hosts) > room:
        yield Item(f"and {counted(len(hosts) - room, 'more host')}")


def _shared_deviations(hosts: Sequence[_DigestHost]) -> Iterator[Item]:
    """Yield the deviations that many hosts have, the most frequent first."""
    silent = sum(host.notification.answers_nothing for host in hosts)
    if silent >= _MIN_SHARED:
        yield Item(f"{counted(silent, 'host')} answer nothing")
    deviating = [host.ports for host in hosts if not host.notification.answers_nothing]
    often: Counter[tuple[str, int]] = Counter()
    for found in deviating:
        often.update((kind, port) for kind, ports in found.items() for port in islice(ports, _MAX_EACH))
    candidates = [key for key, count in often.most_common() if count >= _MIN_SHARED][:MAX_SHARED]
    counts = {  # counted again, since only some ports of each host were compared
        (kind, port): sum(port in found[kind] for found in deviating if kind in found) for kind, port in candidates
    }
    for (kind, port), count in sorted(counts.items(), key=lambda item: (-item[1], item[0][0] == Kind.MISSING, item[0])):
        word = "open" if kind == Kind.UNEXPECTED else "missing"
        yield Item(f"{named_one(spell(port))} {word} on {counted(count, 'host')}")


def _deviating(notification: Notification) -> dict[str, PortSet]:
    """Return the deviating ports by kind. Each line is parsed once, since there may be very many ports."""
    kinds = dict.fromkeys(line.kind for line in notification.lines)
    return {
        kind: PortSet.of_ranges(
            chain.from_iterable(ports_of(line.ports).ranges for line in notification.lines if line.kind == kind)
        )
        for kind in kinds
    }


def _shared_reasons(hosts: Sequence[_DigestHost]) -> Iterator[Item]:
    reasons = Counter(format_failure(host.notification.reason) for host in hosts)
    for reason, count in reasons.most_common(MAX_SHARED):
        if count >= _MIN_SHARED:
            yield Item(f"{reason}: {counted(count, 'host')}")


def _advice(trouble: Sequence[_DigestHost]) -> Iterator[str]:
    if trouble:
        yield (
            "So many hosts at once often have a common cause: first check what they share, the last roll-out or "
            "firewall change, and the network of the machine that runs portspec."
        )


def _runbooks(groups: dict[_HostGroup, list[_DigestHost]]) -> Iterator[str]:
    kinds = {line.kind for host in groups.get(_BAD, []) for line in host.notification.lines}
    if any(host.notification.answers_nothing for host in groups.get(_BAD, [])):
        yield "PortspecHostDown"
    if Kind.UNEXPECTED in kinds:
        yield "PortspecUnexpectedPortOpen"
    if Kind.MISSING in kinds:
        yield "PortspecExpectedPortMissing"
    if _UNSEEN in groups:
        yield "PortspecHostUnknown"
    if _ENDING in groups:
        yield "PortspecExceptionExpiring"
