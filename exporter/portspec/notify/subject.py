"""The subject of a mail: what it is about, in the few words that a locked telephone shows. Pure."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec.notify.encoding import ports_of
from portspec.notify.notice import End, News
from portspec.notify.wording import counted, cut, end_of, named_one, spell_day, spell_span, spell_unseen
from portspec.ports import PortSet
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.notify.notice import Acceptance, Line, Notice

PREFIX: Final = "[portspec]"
MAX_SUBJECT: Final = 100  # characters
_LEAST_HOST: Final = 24  # of them
_MAX_WORDS: Final = 64  # ports of a line among which the one to name is sought
_FRESH: Final = 2 * 86_400.0  # seconds since the end of an exception that a subject tells of it

_OVER: Final = {
    (Kind.UNEXPECTED, End.CHANGED): "no longer open",
    (Kind.MISSING, End.CHANGED): "open again",
    (Kind.UNEXPECTED, End.ACCEPTED): "accepted",
    (Kind.MISSING, End.ACCEPTED): "accepted",
    (Kind.UNEXPECTED, End.SPECIFIED): "allowed now",
    (Kind.MISSING, End.SPECIFIED): "no longer expected",
    (Kind.UNEXPECTED, End.UNSCANNED): "no longer scanned",
    (Kind.MISSING, End.UNSCANNED): "no longer scanned",
}


def subject(host: str, what: str) -> str:
    """Give the subject of a mail about a host; the host is cut where it is long, and what is told is not."""
    told = cut(what, MAX_SUBJECT - len(PREFIX) - _LEAST_HOST - 3)
    room = MAX_SUBJECT - len(PREFIX) - len(told) - 3
    return f"{PREFIX} {cut(host, room)}: {told}"


def gist(notice: Notice, now: float) -> str:
    """Say in a few words what a notice is about, without the name of its host; `now` is in Unix seconds."""
    if notice.news is News.IN_SPEC:
        return _again(notice)
    if notice.news is News.EXPIRING:
        return _ends(notice.expiring, now)
    span = spell_span(notice.at - notice.since) if notice.since is not None else ""
    is_reminder = notice.news is News.REMINDER
    lasting = f", for {span}" if is_reminder and span else ""
    if notice.is_unknown or notice.news is News.UNKNOWN:
        return f"{'still ' if is_reminder else ''}cannot be scanned{lasting}: {spell_unseen(notice.reason)}"
    if notice.answers_nothing:
        count = len(_ports(notice.lines, Kind.MISSING))
        missing = f" ({counted(count, 'expected port')} missing)" if count else ""
        return f"{'still ' if is_reminder else ''}answers nothing{lasting}{missing}"
    return _deviations(notice, lasting)


def was_unseen(notice: Notice) -> bool:
    """Tell whether a host that is in specification could not be seen before, and was never seen out of it meanwhile."""
    return notice.gap is not None and not notice.over


class _Leading(NamedTuple):
    """The ports that a subject names: one or a range, and how many more there are."""

    port: str
    more: int


def _again(notice: Notice) -> str:
    word = "seen again, in specification," if was_unseen(notice) else "in specification again"
    if notice.since is None or notice.until is None:
        return word.removesuffix(",")
    return f"{word} after {spell_span(notice.until - notice.since)}"


def _ends(expiring: Sequence[Acceptance], now: float) -> str:
    if not expiring:
        return "an exception ends soon"
    first = expiring[0]
    leading = _leading(first.ports, _union(item.ports for item in expiring))
    day = spell_day(end_of(first), now)
    verb = "ends" if now < first.until else "ended"
    return f"exception for {named_one(leading.port)} {verb} on {day}{_and_more(leading.more)}"


def _deviations(notice: Notice, lasting: str) -> str:
    """Name the deviation that matters most: a new one before an older one, an open port before a missing one."""
    lines = sorted(notice.lines, key=lambda line: (line.since < notice.at, line.kind != Kind.UNEXPECTED))
    if not lines:
        return f"out of specification{lasting}"
    first = lines[0]
    is_old = notice.news is News.REMINDER or (notice.news is News.DIFFERENT and first.since < notice.at)
    leading = _leading(first.ports, _ports(lines, first.kind))
    others = [line for line in lines if line.kind != first.kind]
    more = leading.more + sum(len(_ports(others, kind)) for kind in {line.kind for line in others})
    still = "still " if is_old else ""
    if is_old and notice.over:
        state = "open" if first.kind == Kind.UNEXPECTED else "missing"
        return f"{_over(notice.over)}; {named_one(leading.port)} {still}{state}{_and_more(more)}"
    return f"{named_one(leading.port)} {still}{_state(notice, first, leading.port)}{lasting}{_and_more(more)}"


def _state(notice: Notice, line: Line, port: str) -> str:
    if line.kind == Kind.MISSING:
        return f"missing ({line.state})" if line.state in ("closed", "filtered") else "missing"
    fresh = _union(item.ports for item in notice.lapsed if notice.at - item.until < _FRESH)
    return "open, its exception has ended" if ports_of(port) <= fresh else "open, not expected"


def _over(lines: Sequence[Line]) -> str:
    first = lines[0]
    leading = _leading(first.ports, _ports(lines, first.kind))
    how = next((word for (kind, end), word in _OVER.items() if (kind, end) == (first.kind, first.end)), "no longer so")
    return f"{named_one(leading.port)} {how}{_and_more(leading.more)}"


def _leading(ports: str, every: PortSet) -> _Leading:
    """Choose what to name of some ports: one with a name that people know, else the first."""
    words = ports.split(", ", _MAX_WORDS)[:_MAX_WORDS]
    chosen = next((word for word in words if named_one(word) != word), words[0])
    return _Leading(chosen, len(every - ports_of(chosen)))


def _ports(lines: Iterable[Line], kind: str) -> PortSet:
    return _union(line.ports for line in lines if line.kind == kind)


def _union(texts: Iterable[str]) -> PortSet:
    return PortSet.of_ranges(chain.from_iterable(ports_of(text).ranges for text in texts))


def _and_more(count: int) -> str:
    return f", and {count:,} more" if count else ""
