"""What the page of a host draws: the ports of each address, and what became of the host over time. Pure.

The timeline is an SVG that is WIDTH wide, from the left, where it begins, to now. A verdict is a bar from the time at
which it was reached to the next one, and no longer than it counts: later the host is unknown. Before the first verdict
there is none. A change of open ports is a mark below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portspec.ports import NO_PORTS, PortSet, spell
from portspec.scan import PortState
from portspec.services import name_of
from portspec.state.changes import NOT_SCANNED, DatedVerdict
from portspec.state.verdict import Verdict
from portspec.times import moment, spell_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.config import Specification
    from portspec.scan import AddressObservation
    from portspec.state.changes import Change

MAX_PORTS: Final = 120  # of one address that are drawn
WIDTH: Final = 1000  # units of the timeline
DAY: Final = 86_400.0
SPANS: Final = (DAY, 7 * DAY, 30 * DAY, 90 * DAY, 365 * DAY)  # seconds; the shortest that holds all is drawn
_LEAST_WIDTH: Final = 2.0  # units, so that a short verdict is seen
_MARK: Final = 8.0  # units: changes within one mark share it
_WORDS: Final = {
    Verdict.IN_SPEC: "in spec",
    Verdict.OUT_OF_SPEC: "out of spec",
    Verdict.UNKNOWN: "unknown",
}


@dataclass(frozen=True, slots=True)
class PortCell:
    """Neighbouring ports that are alike: `ports` as they are spelled, the class of CSS, and a sentence about them."""

    ports: str
    css: str
    title: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A verdict: its place and width in units, the class of CSS, and a sentence about it."""

    x: float
    width: float
    css: str
    title: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Changes at about one time: their place in units, whether ports opened or only closed, and a line for each."""

    x: float
    is_opening: bool
    title: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """A timeline over `span` seconds, and in `summary` what it shows, for those who do not see it."""

    span: float
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    summary: str

    @property
    def begins(self) -> str:
        """The text at its left end."""
        return f"{spell_duration(self.span)} ago"


def strip(
    seen: AddressObservation, specification: Specification, excepted: PortSet
) -> tuple[tuple[PortCell, ...], int]:
    """Return the ports of one address of which there is something to tell, and the number of those left out.

    These are the open ports, and those of the specification. What was not seen is unknown, whatever it was before.
    """
    cells = sorted(_cells(seen, specification, excepted), key=lambda cell: cell[0])
    shown = tuple(PortCell(text, css, title) for _, text, css, title in cells[:MAX_PORTS])
    return shown, len(cells) - len(shown)


def _cells(
    seen: AddressObservation, specification: Specification, excepted: PortSet
) -> Iterator[tuple[int, str, str, str]]:
    expect, allow = specification.expect, specification.allow
    scanned, is_open = (seen.scanned, seen.accepting) if seen.is_usable else (NO_PORTS, NO_PORTS)
    silent, doubtful = seen.filtered & scanned, seen.unconfirmed & scanned
    closed = scanned - seen.open - silent
    wrong = is_open - expect - allow
    groups = (
        (is_open & expect, "open expected", "open, as expected"),
        (is_open & (allow - expect), "open allowed", "open, which is allowed"),
        (wrong & excepted, "open excepted", "open, not in the specification, accepted for a while"),
        (wrong - excepted, "open unexpected", "open, not in the specification"),
        (doubtful - expect, "unseen", "answers, but accepts no connection"),
        (doubtful & expect, "unseen expected", "expected; answers, but accepts no connection"),
        ((closed & expect) - excepted, "closed expected", "closed, expected to be open"),
        ((silent & expect) - excepted, "filtered expected", "filtered, expected to be open"),
        ((closed | silent) & expect & excepted, "closed excepted", "not open, accepted for a while"),
        ((closed | silent) & (allow - expect), "closed allowed", "not open, allowed"),
        (expect - scanned, "unseen expected", "expected, not seen"),
        (allow - expect - scanned, "unseen allowed", "allowed, not seen"),
    )
    for ports, css, title in groups:
        for first, last in ports.ranges:
            text = spell(first) if first == last else f"{first}-{last}"
            service = name_of(first) if first == last else None
            yield first, text, css, f"{text} ({service}): {title}" if service else f"{text}: {title}"


def timeline(
    verdicts: Sequence[DatedVerdict], changes: Sequence[Change], *, valid_until: float | None, now: float
) -> Timeline | None:
    """Return the timeline of a host; None if nothing is known of it.

    Args:
        verdicts: The verdicts, the newest first.
        changes: The changes, the newest first.
        valid_until: When the last verdict is too old to count, in Unix seconds.
        now: The right end, in Unix seconds.
    """
    past = [item for item in reversed(verdicts) if item.at <= now]
    if not past:
        return None
    oldest = min(past[0].at, *(item.at for item in changes[-1:]), now)
    span = next((span for span in SPANS if oldest >= now - span), SPANS[-1])
    ends = [item.at for item in past[1:]]
    pieces = [(item, item.at, max(item.at, end)) for item, end in zip(past, [*ends, now], strict=True)]
    last, began, _ = pieces[-1]
    if valid_until is not None and valid_until < now and last.verdict is not Verdict.UNKNOWN:
        unseen = DatedVerdict(valid_until, last.host, Verdict.UNKNOWN, NOT_SCANNED)
        pieces[-1:] = [(last, began, max(began, valid_until)), (unseen, max(began, valid_until), now)]
    bars = tuple(_bar(item, start, end, span, now) for item, start, end in pieces if end >= now - span)
    current, since, _ = pieces[-1]
    summary = f"{_spelled(current)} for {spell_duration(now - since)}; recorded since {_day(past[0].at)}"
    return Timeline(span, bars, tuple(_marks(changes, span, now)), summary)


def _bar(item: DatedVerdict, start: float, end: float, span: float, now: float) -> Bar:
    left, right = (_place(at, span, now) for at in (start, end))
    width = max(_LEAST_WIDTH, right - left)
    title = f"{_spelled(item)} from {_minute(start)} to {'now' if end >= now else _minute(end)}"
    return Bar(round(min(left, WIDTH - width), 1), round(width, 1), item.verdict.value, title)


def _marks(changes: Iterable[Change], span: float, now: float) -> Iterator[Mark]:
    groups: dict[int, list[Change]] = {}
    for item in changes:
        if now - span <= item.at <= now:
            groups.setdefault(int(_place(item.at, span, now) // _MARK), []).append(item)
    for place, items in groups.items():
        lines = [f"{_minute(item.at)}: {item.ports} {item.after.value}" for item in items[:5]]
        lines += [f"and {len(items) - 5} more"] if len(items) > 5 else []  # noqa: PLR2004 - those above
        is_opening = any(item.after is PortState.OPEN for item in items)
        yield Mark(round((place + 0.5) * _MARK, 1), is_opening, "\n".join(lines))


def _place(at: float, span: float, now: float) -> float:
    return max(0.0, min(1.0, 1 - (now - at) / span)) * WIDTH


def _spelled(item: DatedVerdict) -> str:
    return f"{_WORDS[item.verdict]} ({item.reason.replace('_', ' ')})" if item.reason else _WORDS[item.verdict]


def _minute(at: float) -> str:
    return moment(at).strftime("%Y-%m-%d %H:%M UTC")


def _day(at: float) -> str:
    return moment(at).strftime("%Y-%m-%d")
