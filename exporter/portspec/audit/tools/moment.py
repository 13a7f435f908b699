"""Times as the tools print them → Unix times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_LONGEST: Final = 64  # characters of a time
_YEARS: Final = range(1990, 9999)  # others stand for "not known" or for ever: Go's zero time is of the year 1
_MONTHS: Final = {
    name: number
    for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)  # noqa: SIM905 - reads
}
_WORDS_OF_DATE: Final = 6  # Fri Jun 23 12:19:35 UTC 2023


def read_moment(text: str) -> float | None:
    """Read an RFC 3339 time, or what date(1) prints in the C locale; None if it is neither.

    The name of a time zone is not looked at, since it does not tell which one is meant: that is 14 hours off at most,
    and the time is only asked for the age of a database, in days.
    """
    if len(text) > _LONGEST or not text.isascii():
        return None
    words = text.split()
    if len(words) == _WORDS_OF_DATE:
        _, month, day, clock, _, year = words
        text = f"{year}-{_MONTHS.get(month, 0):02}-{day:>02}T{clock}"
    try:
        moment = datetime.fromisoformat(text.strip())
        if moment.year not in _YEARS:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
