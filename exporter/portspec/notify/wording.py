"""The wording of mails: times, ports, reasons, and the subject line. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec.errors import printable
from portspec.exceptions import last_day
from portspec.notify.encoding import ports_of
from portspec.notify.notification import DeviationEnd, Event
from portspec.ports import PortSet
from portspec.scan import Reason
from portspec.services import name_of
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from portspec.notify.notification import AcceptedPorts, DeviationLine, Notification

SUBJECT_PREFIX: Final = "[portspec]"
MAX_SUBJECT: Final = 100  # characters
_MIN_HOST: Final = 24  # characters of the subject that the host name gets at least
_MAX_WORDS: Final = 64  # ports of a line that are searched for one with a service name
_FRESH: Final = 2 * 86_400.0  # seconds after the end of an exception in which the subject mentions it
MAX_PORTS: Final = 300  # characters
MAX_NAMED: Final = 20  # ports of a line, above which services are not named
_WEEK: Final = timedelta(days=7)
_FAILURES: Final = {
    Reason.RESOLVE: "name does not resolve",
    Reason.DENIED: "its address is denied",
    Reason.NO_ROUTE: "no route to it",
    Reason.LOCAL_LIMIT: "the scanner reached one of its own limits",
    Reason.PERMISSION: "the scanner's own firewall blocks it",
    Reason.TIMEOUT: "the scan takes too long",
    Reason.CUT_OFF: "it stopped answering during the scan",
    Reason.ANSWERS_EVERYTHING: "something answers on every port",
    Reason.CANARY: "no canary is reachable",
    Reason.INTERNAL: "a fault in portspec",
}
_ENDINGS: Final = {
    (Kind.UNEXPECTED, DeviationEnd.CHANGED): "no longer open",
    (Kind.MISSING, DeviationEnd.CHANGED): "open again",
    (Kind.UNEXPECTED, DeviationEnd.ACCEPTED): "accepted",
    (Kind.MISSING, DeviationEnd.ACCEPTED): "accepted",
    (Kind.UNEXPECTED, DeviationEnd.SPECIFIED): "allowed now",
    (Kind.MISSING, DeviationEnd.SPECIFIED): "no longer expected",
    (Kind.UNEXPECTED, DeviationEnd.UNSCANNED): "no longer scanned",
    (Kind.MISSING, DeviationEnd.UNSCANNED): "no longer scanned",
}


def format_time(seconds: float) -> str:
    """Return a time in UTC and, if that differs, in local time: "2026-11-22 05:21:45 UTC (06:21:45 CET)"."""
    utc = datetime.fromtimestamp(seconds, UTC)
    local = utc.astimezone()
    if not local.utcoffset():
        return f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    day = "" if local.date() == utc.date() else f"{local:%Y-%m-%d} "
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC ({day}{local:%H:%M:%S} {local.tzname()})"


def format_span(seconds: float) -> str:
    """Return a duration in readable units: "45 s", "35 min", "1 h 30 min", "26 h", "2 days 5 h", "12 days"."""
    whole = max(0, int(seconds))
    if whole < 60:  # noqa: PLR2004 - of a minute, as below of an hour and a day
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if hours < 1:
        return f"{minutes} min"
    if days < 2:  # noqa: PLR2004 - "26 h" is more precise than "1 day"
        return _and_more(f"{hours} h", minutes % 60, "min", is_small=hours < 3)  # noqa: PLR2004 - beyond that it matters little
    return _and_more(f"{days} days", hours % 24, "h", is_small=days < 3)  # noqa: PLR2004 - the same


def _and_more(text: str, rest: int, unit: str, *, is_small: bool) -> str:
    return f"{text} {rest} {unit}" if is_small and rest else text


def format_day(day: date, now: float) -> str:
    """Return the name of a day within the next week, otherwise its date. `now` is in Unix seconds."""
    today = datetime.fromtimestamp(now, UTC).astimezone().date()
    return f"{day:%A}" if timedelta() <= day - today < _WEEK else f"{day}"


def end_of(exception: AcceptedPorts) -> date:
    """Return the last day of an exception, in local time if it does not end at midnight UTC."""
    return last_day(exception.until) or datetime.fromtimestamp(exception.until, UTC).astimezone().date()


def format_end(exception: AcceptedPorts) -> str:
    """Return the end of an exception, its reason and its owner: "until 2026-12-04 (migration, owner: ops)"."""
    parts = [printable(exception.reason)] if exception.reason else []
    parts += [f"owner: {printable(exception.owner)}"] if exception.owner else []
    about = f" ({', '.join(parts)})" if parts else ""
    return f"until {last_day(exception.until) or format_time(exception.until)}{about}"


def format_failure(reason: str) -> str:
    """Return in a few words why a scan failed. A reason is "resolve", or "resolve: " and its detail."""
    code, _, detail = reason.partition(": ")
    if code == Reason.RESOLVE and "max_addresses" in detail:
        return "its name has too many addresses"
    if code == Reason.RESOLVE and "its address" in detail:
        return "its name has an address that cannot be scanned"
    if code == Reason.RESOLVE and "look-up" in detail:
        return "its name cannot be looked up"
    return _FAILURES[Reason(code)] if code in _REASONS else printable(code)


_REASONS: Final = frozenset(reason.value for reason in Reason)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 host", "1,200 hosts"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def named(ports: str) -> str:
    """Return ports with the names of their services: "22 (ssh), 8000-8100"; without names if there are many ports."""
    words = ports.split(", ")
    return shortened(ports) if len(words) > MAX_NAMED else ", ".join(map(named_one, words))


@cache
def named_one(port: str) -> str:
    """Return a port with the name of its service, if it has one; a range is returned unchanged."""
    if port == "all":
        return "all ports"
    name = name_of(int(port)) if port.isascii() and port.isdigit() else None
    return f"{port} ({printable(name)})" if name else port


def shortened(ports: str) -> str:
    """Truncate a long list of ports between two of them."""
    if len(ports) <= MAX_PORTS:
        return ports
    return f"{ports[:MAX_PORTS].rpartition(',')[0]}, …"


def cut(text: str, limit: int) -> str:
    """Return a text in printable form, truncated to `limit` characters, but not within an escape."""
    shown = printable(text)
    if len(shown) <= limit:
        return shown
    kept = ""
    for character in text:
        escaped = printable(character)
        if len(kept) + len(escaped) > limit - 3:
            break
        kept += escaped
    return f"{kept}..."  # not an ellipsis: the subject of an ASCII name stays ASCII


def subject(host: str, summary: str) -> str:
    """Return the subject of a mail about a host. A long host name is truncated, the summary is not."""
    text = cut(summary, MAX_SUBJECT - len(SUBJECT_PREFIX) - _MIN_HOST - 3)
    room = MAX_SUBJECT - len(SUBJECT_PREFIX) - len(text) - 3
    return f"{SUBJECT_PREFIX} {cut(host, room)}: {text}"


def summary(notification: Notification, now: float) -> str:
    """Return in a few words what a notification is about, without the host name. `now` is in Unix seconds."""
    if notification.event is Event.IN_SPEC:
        return _again(notification)
    if notification.event is Event.EXPIRING:
        return _ends(notification.expiring, now)
    span = format_span(notification.at - notification.since) if notification.since is not None else ""
    is_reminder = notification.event is Event.REMINDER
    lasting = f", for {span}" if is_reminder and span else ""
    if notification.is_unknown or notification.event is Event.UNKNOWN:
        return f"{'still ' if is_reminder else ''}cannot be scanned{lasting}: {format_failure(notification.reason)}"
    if notification.answers_nothing:
        count = len(_ports(notification.lines, Kind.MISSING))
        missing = f" ({counted(count, 'expected port')} missing)" if count else ""
        return f"{'still ' if is_reminder else ''}answers nothing{lasting}{missing}"
    return _deviations(notification, lasting)


def was_unknown(notification: Notification) -> bool:
    """Return whether a host that is in specification was unknown before, and not out of specification in between."""
    return notification.unknown_period is not None and not notification.resolved


class _Leading(NamedTuple):
    """The port or range that a subject names, and the number of other ports."""

    port: str
    more: int


def _again(notification: Notification) -> str:
    word = "seen again, in specification," if was_unknown(notification) else "in specification again"
    if notification.since is None or notification.until is None:
        return word.removesuffix(",")
    return f"{word} after {format_span(notification.until - notification.since)}"


def _ends(expiring: Sequence[AcceptedPorts], now: float) -> str:
    if not expiring:
        return "an exception ends soon"
    first = expiring[0]
    leading = _leading(first.ports, _union(item.ports for item in expiring))
    day = format_day(end_of(first), now)
    verb = "ends" if now < first.until else "ended"
    return f"exception for {named_one(leading.port)} {verb} on {day}{_with_more(leading.more)}"


def _deviations(notification: Notification, lasting: str) -> str:
    """Name the most important deviation: new ones precede older ones, open ports precede missing ones."""
    lines = sorted(notification.lines, key=lambda line: (line.since < notification.at, line.kind != Kind.UNEXPECTED))
    if not lines:
        return f"out of specification{lasting}"
    first = lines[0]
    is_old = notification.event is Event.REMINDER or (
        notification.event is Event.DIFFERENT and first.since < notification.at
    )
    leading = _leading(first.ports, _ports(lines, first.kind))
    others = [line for line in lines if line.kind != first.kind]
    more = leading.more + sum(len(_ports(others, kind)) for kind in {line.kind for line in others})
    still = "still " if is_old else ""
    if is_old and notification.resolved:
        state = "open" if first.kind == Kind.UNEXPECTED else "missing"
        return f"{_resolved(notification.resolved)}; {named_one(leading.port)} {still}{state}{_with_more(more)}"
    return f"{named_one(leading.port)} {still}{_state(notification, first, leading.port)}{lasting}{_with_more(more)}"


def _state(notification: Notification, line: DeviationLine, port: str) -> str:
    if line.kind == Kind.MISSING:
        return f"missing ({line.state})" if line.state in ("closed", "filtered") else "missing"
    fresh = _union(item.ports for item in notification.expired if notification.at - item.until < _FRESH)
    return "open, its exception has ended" if ports_of(port) <= fresh else "open, not expected"


def _resolved(lines: Sequence[DeviationLine]) -> str:
    first = lines[0]
    leading = _leading(first.ports, _ports(lines, first.kind))
    how = next((word for (kind, end), word in _ENDINGS.items() if (kind, end) == (first.kind, first.end)), "resolved")
    return f"{named_one(leading.port)} {how}{_with_more(leading.more)}"


def _leading(ports: str, every: PortSet) -> _Leading:
    """Choose the port that is named: the first one whose service has a name, otherwise the first one."""
    words = ports.split(", ", _MAX_WORDS)[:_MAX_WORDS]
    chosen = next((word for word in words if named_one(word) != word), words[0])
    return _Leading(chosen, len(every - ports_of(chosen)))


def _ports(lines: Iterable[DeviationLine], kind: str) -> PortSet:
    return _union(line.ports for line in lines if line.kind == kind)


def _union(texts: Iterable[str]) -> PortSet:
    return PortSet.of_ranges(chain.from_iterable(ports_of(text).ranges for text in texts))


def _with_more(count: int) -> str:
    return f", and {count:,} more" if count else ""
