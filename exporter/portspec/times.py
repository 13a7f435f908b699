"""Durations as conf.yml has them: 3600, "90m", "1h30m"."""

from __future__ import annotations

import re

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
