"""Durations as conf.yml has them: 3600, "90m", "1h30m"."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhdw])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(value: object) -> float:
    """Read a duration in seconds; ValueError if it is none (a number counts seconds, units as Prometheus has them)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = value.strip() if isinstance(value, str) else ""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError('expected seconds, such as 3600, or a duration, such as "90m" or "1h30m"')
    return sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))


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
