"""When a host is written about: what its recipients were told, what is so now, and hence what to tell. Pure."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from portspec.ports import NO_PORTS, PortSet
from portspec.scan import Reason
from portspec.verdict import Kind, Verdict, in_force

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.config import PortException
    from portspec.snapshot import HostState

UNKNOWN_SCANS: Final = 2  # in a row, before somebody is bothered: names fail to resolve for a moment,
UNKNOWN_FOR: Final = 300.0  # seconds, and where the interval is longer so long, too: the first tries come soon
_END_OF_TIME = 253_402_300_800.0 - 86_400  # Unix seconds; a day less, for local time may be ahead
EXPIRES_SOON: Final = 3 * 86_400.0  # seconds before the end of an exception that covers a deviation


class News(enum.StrEnum):
    """What a mail about a host may be for."""

    OUT_OF_SPEC = "out_of_spec"
    DIFFERENT = "different"
    IN_SPEC = "in_spec"
    UNKNOWN = "unknown"
    REMINDER = "reminder"
    EXPIRING = "expiring"


@dataclass(frozen=True, slots=True)
class Finding:
    """Ports of an address that deviate in one way since a time, in Unix seconds.

    Of a host that is looked up by name it may be several addresses, "192.0.2.1, 192.0.2.2".
    """

    address: str
    kind: Kind
    ports: PortSet
    since: float


@dataclass(frozen=True, slots=True)
class Story:
    """What the recipients know of a host; without anything told it is as good as in specification.

    `told_at` is when they were last written to. `unknown_scans` counts those in a row until now, the last one of
    `unknown_at`, the first one of `unknown_since`. `expiring` are the ends of exceptions that they know of. Times are
    Unix seconds.
    """

    told: Verdict = Verdict.IN_SPEC
    told_at: float = 0.0
    findings: tuple[Finding, ...] = ()
    unknown_scans: int = 0
    unknown_at: float = 0.0
    unknown_since: float = 0.0
    expiring: tuple[float, ...] = ()


NOTHING_TOLD: Final = Story()
#: Of a host that is unknown now, once is enough: somebody else has watched it until now.
WATCHED_BY_OTHERS: Final = Story(unknown_scans=UNKNOWN_SCANS - 1)


@dataclass(frozen=True, slots=True)
class Line:
    """Ports of an address with the state they were found in: a line of a mail. `since` is a Unix time."""

    address: str
    kind: str
    state: str
    ports: str
    since: float


@dataclass(frozen=True, slots=True)
class Notice:
    """What to tell of a host, as of a Unix time: all that a mail says.

    `over` is what was told and is no more. `since` is when the present trouble began. While the host `is_unknown` the
    rest is as of when it was last seen. `expiring` are ports, end, reason and owner of exceptions.
    """

    host: str
    news: News
    at: float
    expected: str
    open: str
    lines: tuple[Line, ...] = ()
    over: tuple[Line, ...] = ()
    since: float | None = None
    reason: str = ""
    is_unknown: bool = False
    expiring: tuple[tuple[str, float, str, str], ...] = ()


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
    story = replace(story, unknown_scans=0, unknown_at=0.0, unknown_since=0.0)
    findings = _findings(story.findings, state, latest.seen_at)
    known, found = _extent(story.findings, state), _extent(findings, state)
    news = None
    if findings:
        if story.told is not Verdict.OUT_OF_SPEC:
            news = News.OUT_OF_SPEC
        elif known != found:
            news = News.DIFFERENT
        elif _is_due(story, now, remind):
            news = News.REMINDER
    elif story.told is not Verdict.IN_SPEC:
        news = News.IN_SPEC
    if news:
        told = Verdict.OUT_OF_SPEC if findings else Verdict.IN_SPEC
        over = _over(story.findings, findings, state)
        return (
            replace(story, told=told, told_at=now, findings=findings),
            _notice(state, news, findings, over),
        )
    return _tell_expiring(story, state, now)


def encode_story(story: Story) -> str | None:
    """Write a story; None for one that says nothing."""
    if story == NOTHING_TOLD:
        return None
    findings = [(item.address, item.kind.value, str(item.ports), item.since) for item in story.findings]
    return json.dumps({**asdict(replace(story, findings=())), "findings": findings}, separators=(",", ":"))


def decode_story(document: str | None) -> Story:
    """Read a story; what cannot be read is as good as none, so that more is told rather than less."""
    try:
        plain = json.loads(document or "null")
        if plain is None:
            return NOTHING_TOLD
        findings = tuple(
            Finding(_text(address), Kind(kind), _ports(_text(ports)), _time(since))
            for address, kind, ports, since in plain["findings"]
        )
        return Story(
            Verdict(plain["told"]),
            _time(plain["told_at"]),
            findings,
            int(_time(plain["unknown_scans"])),
            _time(plain["unknown_at"]),
            _time(plain["unknown_since"]),
            tuple(map(_time, plain["expiring"])),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return NOTHING_TOLD


def encode_notice(notice: Notice) -> str:
    """Write a notice."""
    return json.dumps(asdict(notice), separators=(",", ":"))


def decode_notice(document: str) -> Notice:
    """Read a notice. Raises ValueError, whatever the document is."""
    try:
        plain = json.loads(document)
        return Notice(
            host=_text(plain["host"]),
            news=News(plain["news"]),
            at=_time(plain["at"]),
            expected=_text(plain["expected"]),
            open=_text(plain["open"]),
            lines=tuple(map(_line, plain["lines"])),
            over=tuple(map(_line, plain["over"])),
            since=None if plain["since"] is None else _time(plain["since"]),
            reason=_text(plain["reason"]),
            is_unknown=plain["is_unknown"] is True,
            expiring=tuple(
                (_text(ports), _time(until), _text(reason), _text(owner))
                for ports, until, reason, owner in plain["expiring"]
            ),
        )
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


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
    return replace(story, told=Verdict.UNKNOWN, told_at=now), replace(notice, since=since, is_unknown=True)


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
    return story, replace(notice, expiring=tuple(_expiring(soon, covered)), since=None)


def _expiring(exceptions: Iterable[PortException], covered: PortSet) -> Iterator[tuple[str, float, str, str]]:
    for item in sorted(exceptions, key=lambda item: item.until):
        yield str(item.ports & covered), item.until, item.reason, item.owner


def _is_due(story: Story, now: float, remind: float) -> bool:
    return remind > 0 and not 0 <= now - story.told_at < remind


def _findings(told: Iterable[Finding], state: HostState, at: float) -> tuple[Finding, ...]:
    """Give the deviations of a host: each since when it was told, or since `at` if it was not."""
    found: dict[tuple[str, Kind], list[int]] = {}
    addresses: dict[tuple[str, Kind], set[str]] = {}
    for item in state.deviations:
        key = _place(state, item.address), item.kind
        found.setdefault(key, []).append(item.port)
        addresses.setdefault(key, set()).add(item.address)
    findings: list[Finding] = []
    for (place, kind), numbers in found.items():
        ports = PortSet.of(numbers)
        spelled = ", ".join(sorted(addresses[place, kind]))
        for old in told:
            if (_place(state, old.address), old.kind) == (place, kind) and (same := old.ports & ports):
                findings.append(replace(old, address=spelled, ports=same))
                ports = ports - same
        if ports:
            findings.append(Finding(spelled, kind, ports, at))
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
    """Give what was told and is no more."""
    left = _extent(findings, state)
    for item in told:
        if gone := item.ports - left.get((_place(state, item.address), item.kind), NO_PORTS):
            yield Line(item.address, item.kind.value, "", str(gone), item.since)


def _notice(state: HostState, news: News, findings: Iterable[Finding], over: Iterable[Line] = ()) -> Notice:
    latest, shown = state.latest, state.conclusive or state.latest
    failure = latest.judgement.failure if latest else None
    lines = tuple(_lines(state, findings))
    return Notice(
        host=state.host,
        news=news,
        at=latest.seen_at if latest else 0.0,
        expected=str(state.target.config.specification.expect),
        open=str(shown.open_ports) if shown else "none",
        lines=lines,
        over=tuple(over),
        since=min((line.since for line in lines), default=None),
        reason=f"{failure.reason.value}: {failure.detail}" if failure else "",
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
                yield Line(address, kind.value, word, str(same), finding.since)


def _line(plain: Any) -> Line:
    address, kind, state, ports = (_text(plain[name]) for name in ("address", "kind", "state", "ports"))
    return Line(address, kind, state, ports, _time(plain["since"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")  # noqa: TRY004 - of a document
    return value


def _time(value: Any) -> float:
    """Take a number that a time may be: before the year 10000, or no date can be made of it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _END_OF_TIME:
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _ports(text: str) -> PortSet:
    """Read what str() of a PortSet writes."""
    if text == "all":
        return PortSet(((1, 65_535),))
    ranges = (word.strip().partition("-") for word in text.split(",") if word.strip() != "none")
    return PortSet.of_ranges((int(first), int(last or first)) for first, _, last in ranges)
