"""Durations and times as conf.yml has them: 3600, "90m", "1h30m"; "2027-03-31", "2027-03-31T18:00:00Z"."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

from portspec.errors import shorten

_UNITS = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
    **dict.fromkeys(("y", "year", "years"), 365 * 86_400.0),  # as Prometheus has it
}
_NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_PART = re.compile(rf"\s*({_NUMBER})\s*([A-Za-z]+)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SECONDS_A_DAY = 86_400.0
_FIRST_SECOND = -62_135_596_800.0  # Unix seconds: the beginning of the year 1
_LAST = 253_402_300_800.0  # Unix seconds: the end of the year 9999
_EXPECTED = 'expected seconds, such as 3600, or a duration, such as "90m" or "1h30m"'


def is_number(text: str) -> bool:
    """Return whether a text is a number without a unit, such as "3600", "0.5" or ".5"."""
    return re.fullmatch(_NUMBER, text.strip()) is not None


def parse_duration(value: object) -> float:
    """Read a duration in seconds; ValueError if it is none.

    A number counts seconds. Units are those of Prometheus and their names in English: "90m", "1h 30min", "2 weeks".
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = value.strip() if isinstance(value, str) else ""
    if is_number(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError(_EXPECTED)
    return sum(float(amount) * _factor(unit) for amount, unit in _PART.findall(text))


def _factor(unit: str) -> float:
    """Return the seconds of a unit, in any case but for M, which might be months."""
    seconds = _UNITS.get(unit.lower()) if unit != "M" else None
    if seconds is None:
        raise ValueError(_EXPECTED)
    return seconds


def moment(seconds: float) -> datetime:
    """Return the time in UTC of Unix seconds; the first or last there is for one of a year without four digits."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST_SECOND), _LAST - 1), UTC)


def read_begin(value: object) -> float:
    """Read a beginning as Unix seconds: a day, which begins with its first second in UTC, or a time of RFC 3339.

    Raises ValueError.
    """
    return _read_time(value, 'a day, such as "2027-03-31"', is_end=False)


def read_until(value: object, *, begins: float | None = None, now: float | None = None) -> float:
    """Read an end as Unix seconds: a day, which is over when it is over in UTC, or a time of RFC 3339.

    With what `begins` at a Unix time, it may be a duration from then. Without, a duration would begin anew each time
    that it is read: ValueError says which day or time it comes to from `now` (Unix seconds).
    """
    seconds = _with_unit(value)
    if seconds is not None and begins is None:
        raise ValueError(f"{shorten(str(value))}: a duration has no beginning in a file{_instead(seconds, now)}")
    if seconds is not None and begins is not None:
        if begins + seconds > _LAST:
            raise ValueError(f"{shorten(str(value))} is too long")
        return begins + seconds
    return _read_time(value, 'the last day on which it applies, such as "2027-03-31"', is_end=True)


def _with_unit(value: object) -> float | None:
    """Return the seconds of a duration; None for what is none, or has no unit."""
    if not isinstance(value, str) or is_number(value):
        return None
    try:
        return parse_duration(value)
    except ValueError:
        return None


def _instead(seconds: float, now: float | None) -> str:
    """Return what to write for a duration from a Unix time; "" if that has no year of four digits, or is not known."""
    try:
        end = datetime.fromtimestamp(now, UTC) + timedelta(seconds=seconds) if now is not None else None
    except OverflowError:
        end = None
    if end is None:
        return ""
    form = "%Y-%m-%d" if seconds % _SECONDS_A_DAY == 0 else "%Y-%m-%dT%H:%M:%SZ"
    return f'; write until: "{end.strftime(form)}"'


def _read_time(value: object, day: str, *, is_end: bool) -> float:
    expected = f'expected {day}, or a time, "2027-03-31T18:00:00Z"'
    if not isinstance(value, str):
        raise ValueError(expected)  # noqa: TRY004 - pydantic takes ValueError
    # No other form of ISO 8601: few could read them.
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9.:]+(Z|[+-][0-9:]+)?)?", value.strip()):
        raise ValueError(expected)
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value.strip()):
            first = datetime.combine(date.fromisoformat(value.strip()), time(), UTC).timestamp()
            return first + _SECONDS_A_DAY if is_end else first  # of 9999-12-31 there is no next day
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        raise ValueError(f'"{shorten(value.strip())}" is not a valid date; {expected}') from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def spell_duration(seconds: float) -> str:
    """Spell a duration for people: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"."""
    if seconds < 0.05:  # noqa: PLR2004 - what would be spelled 0.0
        return "less than 0.1 s"
    if seconds < 10:  # noqa: PLR2004 - below ten seconds the tenths tell
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part_size, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part_size
            return f"{whole // size} {unit} {rest} {part}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
