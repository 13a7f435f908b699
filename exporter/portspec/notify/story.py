"""When a host is written about: what its recipients were told, what is so now, and hence what to tell. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from portspec.exceptions import in_force
from portspec.notify.notice import Acceptance, End, Gap, Line, News, Notice
from portspec.ports import NO_PORTS, PortSet
from portspec.scan import Reason
from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.config import PortException
    from portspec.state.snapshot import HostState, ScanResult

UNKNOWN_SCANS: Final = 2  # in a row, before somebody is bothered: names fail to resolve for a moment,
UNKNOWN_FOR: Final = 300.0  # seconds, and where the interval is longer so long, too: the first tries come soon
EXPIRES_SOON: Final = 3 * 86_400.0  # seconds before the end of an exception that covers a deviation


@dataclass(frozen=True, slots=True)
class Finding:
    """Ports of an address that deviate in one way since a time, in Unix seconds, and were last `seen` so at another.

    Of a host that is looked up by name it may be several addresses, "192.0.2.1, 192.0.2.2". `seen` is 0 if that is not
    known.
    """

    address: str
    kind: Kind
    ports: PortSet
    since: float
    seen: float = 0.0


@dataclass(frozen=True, slots=True)
class Story:
    """What the recipients know of a host; without anything told it is as good as in specification.

    `told_at` is when they were last written to. `unknown_scans` counts those in a row until now, the last one of
    `unknown_at`, the first one of `unknown_since`. `expiring` are the ends of exceptions that they know of. The host
    has not been in specification `since` then, and was told as unknown for a `reason`. Times are Unix seconds.
    """

    told: Verdict = Verdict.IN_SPEC
    told_at: float = 0.0
    findings: tuple[Finding, ...] = ()
    unknown_scans: int = 0
    unknown_at: float = 0.0
    unknown_since: float = 0.0
    expiring: tuple[float, ...] = ()
    since: float = 0.0
    reason: str = ""


NOTHING_NOTIFIED: Final = Story()
#: Of a host that is unknown now, once is enough: somebody else has watched it until now.
WATCHED_BY_OTHERS: Final = Story(unknown_scans=UNKNOWN_SCANS - 1)


def tell(story: Story, state: HostState, now: float, remind: float) -> tuple[Story, Notice | None]:
    """Give what is to be told of a host, if anything is, and the story once that is done.

    `remind` is in seconds; no reminders if 0. A host in specification of which nothing was told is no news.
    """
    latest = state.latest
    if latest is None:
        return story, None
    if not latest.judgement.conclusive:
        failure = latest.judgement.failure
        if failure and failure.reason is Reason.CANARY and not state.target.config.is_canary:
            return story, None  # a mail about the canary says so, in place of one about each host
        return _tell_unknown(story, state, now, remind)
    findings = _findings(story.findings, state, latest, now)
    if news := _news(story, findings, state, now, remind):
        return _tell_verdict(story, state, news, findings, now)
    return _tell_expiring(replace(_seen(story), findings=findings), state, now)


def _news(story: Story, findings: tuple[Finding, ...], state: HostState, now: float, remind: float) -> News | None:
    """Give what a scan that reached a verdict is for."""
    if not findings:
        return None if story.told is Verdict.IN_SPEC else News.IN_SPEC
    if story.told is not Verdict.OUT_OF_SPEC:
        return News.OUT_OF_SPEC
    if _extent(story.findings, state) != _extent(findings, state):
        return News.DIFFERENT
    return News.REMINDER if _is_due(story, now, remind) else None


def _tell_verdict(
    story: Story, state: HostState, news: News, findings: tuple[Finding, ...], now: float
) -> tuple[Story, Notice]:
    over = tuple(_over(story.findings, findings, state))
    notice = _notice(state, news, findings)
    lapsed = tuple(_lapsed(state, findings, notice.at, now))
    notice = replace(notice, over=over, gap=_gap(story), lapsed=lapsed, accepted=tuple(_accepted(state, over, now)))
    began = _began(story, findings)
    told = replace(_seen(story), told_at=now, findings=findings, reason="")
    if findings:
        return replace(told, told=Verdict.OUT_OF_SPEC, since=began), notice
    # what conf.yml ended has ended now, and not when the host was last scanned
    ended = now if over and all(line.end != End.CHANGED for line in over) else notice.at
    return replace(told, told=Verdict.IN_SPEC, since=0.0), replace(notice, since=began or None, until=ended)


def _seen(story: Story) -> Story:
    """Give a story without the scans that reached no verdict."""
    return replace(story, unknown_scans=0, unknown_at=0.0, unknown_since=0.0)


def _tell_unknown(story: Story, state: HostState, now: float, remind: float) -> tuple[Story, Notice | None]:
    latest = state.latest
    if latest is None or latest.finished_at == story.unknown_at:
        return story, None
    at = latest.finished_at
    since = story.unknown_since or at
    is_brief = 0 < at - since < UNKNOWN_FOR < state.target.config.interval
    story = replace(story, unknown_scans=story.unknown_scans + 1, unknown_at=at, unknown_since=since)
    is_new = story.told is not Verdict.UNKNOWN
    if story.unknown_scans < UNKNOWN_SCANS or is_brief or not (is_new or _is_due(story, now, remind)):
        return story, None
    notice = _notice(state, News.UNKNOWN if is_new else News.REMINDER, story.findings)
    failure = latest.judgement.failure
    story = replace(story, told=Verdict.UNKNOWN, told_at=now, since=_began(story, story.findings))
    story = replace(story, reason=failure.reason.value if failure else "")
    return story, replace(notice, since=since, is_unknown=True)


def _tell_expiring(story: Story, state: HostState, now: float) -> tuple[Story, Notice | None]:
    """Tell of exceptions that end soon and cover a deviation which will count from then on."""
    covered = PortSet.of(item.port for item in state.excepted)
    soon = [
        item
        for item in in_force(state.target.exceptions, now)
        if item.until - now < EXPIRES_SOON and item.ports & covered
    ]
    ends = tuple(sorted({item.until for item in soon}))
    is_known = set(ends) <= set(story.expiring)
    story = replace(story, expiring=ends)
    if is_known:
        return story, None
    notice = _notice(state, News.EXPIRING, story.findings)
    return story, replace(notice, expiring=tuple(_acceptances(soon, covered)), since=None)


def _acceptances(exceptions: Iterable[PortException], ports: PortSet) -> Iterator[Acceptance]:
    """Say which of some ports are accepted by which exceptions, by their ends."""
    for item in sorted(exceptions, key=lambda item: item.until):
        if covered := item.ports & ports:
            yield Acceptance(str(covered), item.until, item.reason, item.owner)


def _accepted(state: HostState, over: Iterable[Line], now: float) -> Iterator[Acceptance]:
    """Give the exceptions that cover what was told until now."""
    if any(line.end == End.ACCEPTED for line in over):
        yield from _acceptances(
            in_force(state.target.exceptions, now), PortSet.of(item.port for item in state.excepted)
        )


def _lapsed(state: HostState, findings: Iterable[Finding], at: float, now: float) -> Iterator[Acceptance]:
    """Give the exceptions that ended and covered what is told for the first time, for each port the last one."""
    new = _union(item.ports for item in findings if item.since >= at)
    ended = [item for item in state.target.exceptions if item.until <= now]
    for item in sorted(ended, key=lambda item: item.until, reverse=True):
        yield from _acceptances([item], new)
        new = new - item.ports


def _began(story: Story, findings: Iterable[Finding]) -> float:
    """Give since when a host has not been in specification; 0 if nobody knows."""
    known = [*(item.since for item in findings), *(item.since for item in story.findings), story.unknown_since]
    return story.since or min(filter(None, known), default=0.0)


def _gap(story: Story) -> Gap | None:
    """Give the scans that could not see a host which was told as unknown."""
    if story.told is not Verdict.UNKNOWN or not story.unknown_since:
        return None
    return Gap(story.unknown_since, story.unknown_at, story.reason)


def _is_due(story: Story, now: float, remind: float) -> bool:
    return remind > 0 and not 0 <= now - story.told_at < remind


def _findings(told: Iterable[Finding], state: HostState, latest: ScanResult, now: float) -> tuple[Finding, ...]:
    """Give the deviations of a host: each since when it was told; if it was not, since the latest scan.

    What an exception accepted at that time deviates since its end.
    """
    found: dict[tuple[str, Kind], list[int]] = {}
    addresses: dict[tuple[str, Kind], set[str]] = {}
    for item in state.deviations:
        key = _place(state, item.address), item.kind
        found.setdefault(key, []).append(item.port)
        addresses.setdefault(key, set()).add(item.address)
    scanned = {item.address: item.scanned for item in latest.addresses if item.is_usable}
    at = latest.seen_at
    findings: list[Finding] = []
    for (place, kind), numbers in found.items():
        ports = PortSet.of(numbers)
        spelled = ", ".join(sorted(addresses[place, kind]))
        seen = _union(scanned.get(address, NO_PORTS) for address in addresses[place, kind])
        for old in told:
            if (_place(state, old.address), old.kind) == (place, kind) and (same := old.ports & ports):
                findings.append(replace(old, address=spelled, ports=same, seen=at if same <= seen else old.seen))
                ports = ports - same
        for ended in sorted(state.target.exceptions, key=lambda item: item.until, reverse=True):
            if at < ended.until <= now and (lapsed := ports & ended.ports):
                findings.append(Finding(spelled, kind, lapsed, ended.until, at))
                ports = ports - lapsed
        if ports:
            findings.append(Finding(spelled, kind, ports, at, at))
    return tuple(findings)


def _place(state: HostState, address: str) -> str:
    """Give what addresses are compared by: those of a name are as good as one, for names are moved between them."""
    return "" if state.target.address is None else address


def _extent(findings: Iterable[Finding], state: HostState) -> dict[tuple[str, Kind], PortSet]:
    """Give the deviations without their times and states: a port that no longer refuses, but drops, is no news."""
    extent: dict[tuple[str, Kind], PortSet] = {}
    for item in findings:
        key = _place(state, item.address), item.kind
        extent[key] = extent.get(key, NO_PORTS) | item.ports
    return extent


def _over(told: Iterable[Finding], findings: Iterable[Finding], state: HostState) -> Iterator[Line]:
    """Give what was told and is no more, and how it ended."""
    left = _extent(findings, state)
    for item in told:
        if gone := item.ports - left.get((_place(state, item.address), item.kind), NO_PORTS):
            for end, ports in _ends(item, gone, state):
                if ports:
                    seen = item.seen or None
                    yield Line(item.address, item.kind.value, "", str(ports), item.since, seen=seen, end=end.value)


def _ends(finding: Finding, gone: PortSet, state: HostState) -> Iterator[tuple[End, PortSet]]:
    """Tell how some ports of a finding, that are not as they were told, ended."""
    place, kind = _place(state, finding.address), finding.kind
    addresses = state.conclusive.addresses if state.conclusive else ()
    seen = [item for item in addresses if item.is_usable and _place(state, item.address) == place]
    accepted = gone & PortSet.of(
        item.port for item in state.excepted if (_place(state, item.address), item.kind) == (place, kind)
    )
    yield End.ACCEPTED, accepted
    rest = gone - accepted
    if kind is Kind.UNEXPECTED:
        specified = rest & _union(item.accepting for item in seen)
    else:
        specified = rest - state.target.config.specification.expect
    yield End.SPECIFIED, specified
    rest = rest - specified
    scanned = _union(item.scanned for item in seen)
    yield End.CHANGED, rest & scanned
    yield End.UNSCANNED, rest - scanned


def _notice(state: HostState, news: News, findings: Iterable[Finding]) -> Notice:
    latest = state.latest
    failure = latest.judgement.failure if latest else None
    seen = state.conclusive or (latest if latest and any(item.is_usable for item in latest.addresses) else None)
    lines = tuple(_lines(state, findings))
    return Notice(
        host=state.host,
        news=news,
        at=latest.seen_at if latest else 0.0,
        expected=str(state.target.config.specification.expect),
        open=str(seen.open_ports) if seen else "",
        lines=lines,
        since=min((line.since for line in lines), default=None),
        reason=f"{failure.reason.value}: {failure.detail}" if failure else "",
        last_seen=state.conclusive.seen_at if state.conclusive else None,
        answers_nothing=bool(state.conclusive) and not failure and not (latest and latest.is_up),
    )


def _lines(state: HostState, findings: Iterable[Finding]) -> Iterator[Line]:
    found: dict[tuple[str, Kind, str], list[int]] = {}
    for item in state.deviations:
        found.setdefault((item.address, item.kind, item.state.value), []).append(item.port)
    ports = {key: PortSet.of(numbers) for key, numbers in found.items()}
    for finding in findings:
        for (address, kind, word), those in ports.items():
            is_of_it = (_place(state, address), kind) == (_place(state, finding.address), finding.kind)
            if is_of_it and (same := those & finding.ports):
                for opened, part in _by_opening(state, finding, same):
                    yield Line(address, kind.value, word, str(part), finding.since, opened)


def _by_opening(state: HostState, finding: Finding, ports: PortSet) -> Iterator[tuple[float | None, PortSet]]:
    """Tell apart the ports that were open before they deviated, as those of an exception, by when they were opened."""
    if finding.kind is Kind.UNEXPECTED:
        for began, opened in state.opened:
            if began < finding.since and (same := ports & opened):
                yield began, same
                ports = ports - same
    if ports:
        yield None, ports


def _union(sets: Iterable[PortSet]) -> PortSet:
    return PortSet.of_ranges(chain.from_iterable(ports.ranges for ports in sets))
