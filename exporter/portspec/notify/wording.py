"""Times, ports and reasons in the words of mails. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final

from portspec.errors import printable
from portspec.exceptions import last_day
from portspec.scan import Reason
from portspec.services import name_of

if TYPE_CHECKING:
    from datetime import date

    from portspec.notify.notice import Acceptance

MAX_PORTS: Final = 300  # characters
MAX_NAMED: Final = 20  # ports of a line whose services are named
_WEEK: Final = timedelta(days=7)
_UNSEEN: Final = {
    Reason.RESOLVE: "name does not resolve",
    Reason.NO_ROUTE: "no route to it",
    Reason.LOCAL_LIMIT: "the scanner ran into a limit of its own",
    Reason.PERMISSION: "the scanner's own firewall forbids it",
    Reason.TIMEOUT: "the scan takes too long",
    Reason.CUT_OFF: "it stopped answering during the scan",
    Reason.ANSWERS_EVERYTHING: "something answers on every port",
    Reason.CANARY: "no canary can be seen",
    Reason.INTERNAL: "a fault in portspec",
}


def spell_time(seconds: float) -> str:
    """Spell Unix seconds in UTC and, where that is another, in local time: "2026-11-22 05:21:45 UTC (06:21:45 CET)"."""
    utc = datetime.fromtimestamp(seconds, UTC)
    local = utc.astimezone()
    if not local.utcoffset():
        return f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    day = "" if local.date() == utc.date() else f"{local:%Y-%m-%d} "
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC ({day}{local:%H:%M:%S} {local.tzname()})"


def spell_span(seconds: float) -> str:
    """Spell a time span for people: "45 s", "35 min", "1 h 30 min", "26 h", "2 days 5 h", "12 days"."""
    whole = max(0, int(seconds))
    if whole < 60:  # noqa: PLR2004 - of a minute, as below of an hour and a day
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if hours < 1:
        return f"{minutes} min"
    if days < 2:  # noqa: PLR2004 - "26 h" says more than "1 day"
        return _and_more(f"{hours} h", minutes % 60, "min", is_small=hours < 3)  # noqa: PLR2004 - beyond it matters little
    return _and_more(f"{days} days", hours % 24, "h", is_small=days < 3)  # noqa: PLR2004 - the same


def _and_more(text: str, rest: int, unit: str, *, is_small: bool) -> str:
    return f"{text} {rest} {unit}" if is_small and rest else text


def spell_day(day: date, now: float) -> str:
    """Spell a day: by its name within the next days, else by its date. `now` is in Unix seconds."""
    today = datetime.fromtimestamp(now, UTC).astimezone().date()
    return f"{day:%A}" if timedelta() <= day - today < _WEEK else f"{day}"


def end_of(exception: Acceptance) -> date:
    """Give the last day on which an exception holds, in local time where it does not end with a day."""
    return last_day(exception.until) or datetime.fromtimestamp(exception.until, UTC).astimezone().date()


def spell_end(exception: Acceptance) -> str:
    """Spell until when an exception holds, why and for whom: "until 2026-12-04 (migration, owner: ops)"."""
    parts = [printable(exception.reason)] if exception.reason else []
    parts += [f"owner: {printable(exception.owner)}"] if exception.owner else []
    about = f" ({', '.join(parts)})" if parts else ""
    return f"until {last_day(exception.until) or spell_time(exception.until)}{about}"


def spell_unseen(reason: str) -> str:
    """Spell why a host could not be seen in a few words; a reason is "resolve", or "resolve: " and its detail."""
    code, _, detail = reason.partition(": ")
    if code == Reason.RESOLVE and "max_addresses" in detail:
        return "its name has too many addresses"
    if code == Reason.RESOLVE and "its address" in detail:
        return "its name has an address that cannot be scanned"
    if code == Reason.RESOLVE and "look-up" in detail:
        return "its name cannot be looked up"
    return _UNSEEN[Reason(code)] if code in _REASONS else printable(code)


_REASONS: Final = frozenset(reason.value for reason in Reason)


def counted(number: int, noun: str) -> str:
    """Give a number with its noun: "1 host", "1,200 hosts"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def named(ports: str) -> str:
    """Name the service of each port that is known: "22 (ssh), 8000-8100"; of many ports none."""
    words = ports.split(", ")
    return shortened(ports) if len(words) > MAX_NAMED else ", ".join(map(named_one, words))


@cache
def named_one(port: str) -> str:
    """Name the service of a port if it is known; a range is itself."""
    if port == "all":
        return "all ports"
    name = name_of(int(port)) if port.isascii() and port.isdigit() else None
    return f"{port} ({printable(name)})" if name else port


def shortened(ports: str) -> str:
    """Cut many ports between two of them."""
    if len(ports) <= MAX_PORTS:
        return ports
    return f"{ports[:MAX_PORTS].rpartition(',')[0]}, …"


def cut(text: str, limit: int) -> str:
    """Make a text printable, in at most so many characters; no escape is cut in its middle."""
    shown = printable(text)
    if len(shown) <= limit:
        return shown
    kept = ""
    for letter in text:
        escaped = printable(letter)
        if len(kept) + len(escaped) > limit - 3:
            break
        kept += escaped
    return f"{kept}..."  # three dots, and not the sign: a subject stays ASCII if the name is
