"""EPSS: how likely a vulnerability is exploited within 30 days, a number from 0 to 1 for each CVE, as CSV.

https://www.first.org/epss/data_stats; a new list each day. In 2026 it had some 320,000 rows, 10 MB:

    #model_version:v2025.03.14,score_date:2026-11-28T12:00:00Z
    cve,epss,percentile
    CVE-1999-0001,0.01297,0.79116
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from typing import Final

from portspec.feeds.cve import number_of
from portspec.feeds.errors import FeedError

MAX_ROWS: Final = 2_000_000
_MAX_LINE: Final = 200  # bytes; of a usual one there are 30
_SORTED_AT_ONCE: Final = 16_384  # rows: no other thread runs meanwhile
_HEAD: Final = re.compile(rb"#model_version:[^,\n]{1,40},score_date:([0-9TZ:+-]{10,30})\r?\n")
_COLUMNS: Final = ("cve", "epss", "percentile")


@dataclass(frozen=True, slots=True)
class Epss:
    """The list of a day: when it was made, a Unix time, and the score of each CVE.

    `numbers` are those of the CVEs in ascending order, `scores` theirs: 16 bytes a CVE. Of 32 bits a score would be
    less than its own decimal number, and so than a threshold.
    """

    at: float
    numbers: array[int]
    scores: array[float]

    def __len__(self) -> int:
        return len(self.numbers)

    def score(self, cve: str) -> float | None:
        """Return the score of a CVE, from 0 to 1; None if the list has none."""
        number = number_of(cve)
        if number is None:
            return None
        place = bisect_left(self.numbers, number)
        if place == len(self.numbers) or self.numbers[place] != number:
            return None
        return self.scores[place]


def read_epss(text: bytes) -> Epss:
    """Read a list. Raises FeedError if it is none, if it is cut off, or if a row makes no sense."""
    head = _HEAD.match(text)
    if head is None:
        raise FeedError("is not one of EPSS: it does not begin with #model_version:…,score_date:…")
    at = _time(head[1].decode("ascii"))
    if not text.endswith(b"\n"):
        raise FeedError("is cut off: its last line does not end")
    end = text.find(b"\n", head.end())
    columns = text[head.end() : min(end, head.end() + _MAX_LINE)].decode("ascii", "replace").strip()
    if tuple(columns.split(",", len(_COLUMNS))[: len(_COLUMNS)]) != _COLUMNS:
        raise FeedError(f"has other columns than {','.join(_COLUMNS)}")
    numbers, scores = array("Q"), array("d")
    begin, line = end + 1, 2
    while begin < len(text):
        stop = text.index(b"\n", begin)
        line += 1
        _add(text[begin:stop], line, numbers, scores)
        begin = stop + 1
    if not numbers:
        raise FeedError("has no rows")
    del text, head  # 10 MB, before more is needed to sort the rows
    return _sorted(at, numbers, scores)


def _time(word: str) -> float:
    try:
        at = datetime.fromisoformat(word.replace("+0000", "+00:00"))
    except ValueError:
        raise FeedError(f"has no time in score_date ({word})") from None
    if at.tzinfo is None:
        raise FeedError("has a score_date without a time zone")
    return at.timestamp()


def _add(row: bytes, line: int, numbers: array[int], scores: array[float]) -> None:
    words = row[:_MAX_LINE].decode("ascii", "replace").split(",", 2)
    number = number_of(words[0])
    try:
        score = float(words[1])
    except (ValueError, IndexError):
        score = -1.0
    if number is None or not 0.0 <= score <= 1.0 or len(row) > _MAX_LINE:
        raise FeedError(f"has no CVE with a score from 0 to 1 in line {line:,}")
    if len(numbers) >= MAX_ROWS:
        raise FeedError(f"has more than {MAX_ROWS:,} rows")
    numbers.append(number)
    scores.append(score)


def _sorted(at: float, numbers: array[int], scores: array[float]) -> Epss:
    starts = range(0, len(numbers), _SORTED_AT_ONCE)
    parts = [
        sorted(range(start, min(start + _SORTED_AT_ONCE, len(numbers))), key=numbers.__getitem__) for start in starts
    ]
    order = array("I", merge(*parts, key=numbers.__getitem__))
    found = array("Q", map(numbers.__getitem__, order))
    for place in range(1, len(found)):
        if found[place] == found[place - 1]:
            raise FeedError(f"has a CVE twice, in lines {order[place - 1] + 3:,} and {order[place] + 3:,}")
    return Epss(at, found, array("d", map(scores.__getitem__, order)))
