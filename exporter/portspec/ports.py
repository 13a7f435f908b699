"""Ports and sets of ports, and the one way they are spelled (in conf.yml, metrics, mails and pages)."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, overload

from portspec import services

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIN_PORT = 1
MAX_PORT = 65535
MAX_PLAIN_RANGES = 256  # of a set, more than services have; further ones are packed
_RANGE = re.compile(r"([0-9]{1,9})\s*-\s*([0-9]{1,9})")
_SHORTEST_RANGE = 3  # "80-81" is longer than it is clear; three ports and more are a range


class PortError(ValueError):
    """A port that is none; the message quotes it and says what was expected."""


class PackedRanges(Sequence[tuple[int, int]]):
    """Many ranges of ports, in four bytes each; as tuples they take a hundred."""

    __slots__ = ("firsts", "lasts")

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.firsts = array("H", [first for first, _ in ranges])
        self.lasts = array("H", [last for _, last in ranges])

    def __len__(self) -> int:
        return len(self.firsts)

    @overload
    def __getitem__(self, place: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[tuple[int, int], ...]: ...
    def __getitem__(self, place: int | slice) -> tuple[int, int] | tuple[tuple[int, int], ...]:
        if isinstance(place, slice):
            return tuple(zip(self.firsts[place], self.lasts[place], strict=True))
        return self.firsts[place], self.lasts[place]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.firsts, self.lasts, strict=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedRanges):
            return NotImplemented
        return self.firsts == other.firsts and self.lasts == other.lasts

    def __hash__(self) -> int:
        return hash((self.firsts.tobytes(), self.lasts.tobytes()))


@dataclass(frozen=True, slots=True)
class PortSet:
    """An immutable set of TCP ports, kept as sorted, disjoint, non-adjacent, inclusive ranges.

    All 65,535 ports take one range, so that a set can stand in every host's configuration and in
    every observation. Many ranges are packed: a hostile host can show every other port open or silent, and a name can
    have many addresses. Membership is O(log ranges), iteration ascends.
    """

    ranges: tuple[tuple[int, int], ...] | PackedRanges = ()
    _count: int = field(default=-1, init=False, repr=False, compare=False)  # of its ports, once it was asked for

    def __post_init__(self) -> None:
        if len(self.ranges) > MAX_PLAIN_RANGES and isinstance(self.ranges, tuple):
            object.__setattr__(self, "ranges", PackedRanges(self.ranges))

    @classmethod
    def of(cls, ports: Iterable[int]) -> PortSet:
        """Make a set of single ports, each in 1..65535 (PortError otherwise), in any order."""
        return cls.of_ranges((port, port) for port in ports)

    @classmethod
    def of_ranges(cls, ranges: Iterable[tuple[int, int]]) -> PortSet:
        """Make a set of inclusive (first, last) ranges, in any order, overlapping or not."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            if not MIN_PORT <= first <= last <= MAX_PORT:
                raise PortError(f"{first}-{last} is not a range of ports between 1 and 65535")
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return cls(tuple(merged))

    def __contains__(self, port: int) -> bool:
        index = self._place(port)
        return index >= 0 and port <= self.ranges[index][1]

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(range(first, last + 1) for first, last in self.ranges)

    def __len__(self) -> int:
        if self._count < 0:
            count = sum([last - first for first, last in self.ranges]) + len(self.ranges)  # a list is quicker to sum
            object.__setattr__(self, "_count", count)
        return self._count

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __le__(self, other: PortSet) -> bool:
        """Return whether every port of this set is in the other; O(ranges of this)."""
        return all(
            (index := other._place(first)) >= 0 and other.ranges[index][1] >= last for first, last in self.ranges
        )

    def _place(self, port: int) -> int:
        """Return the place of the range that begins at a port, or next before it; -1 if none does."""
        ranges = self.ranges
        if isinstance(ranges, tuple):
            return bisect_right(ranges, (port, MAX_PORT)) - 1
        return bisect_right(ranges.firsts, port) - 1

    def __or__(self, other: PortSet) -> PortSet:
        if other <= self:
            return self
        return PortSet.of_ranges(chain(self.ranges, other.ranges))

    def __and__(self, other: PortSet) -> PortSet:
        common: list[tuple[int, int]] = []
        here, there = tuple(self.ranges), tuple(other.ranges)
        place = at = 0
        while place < len(here) and at < len(there):
            first, last = max(here[place][0], there[at][0]), min(here[place][1], there[at][1])
            if first <= last:
                common.append((first, last))
            if here[place][1] == last:
                place += 1
            else:
                at += 1
        return PortSet(tuple(common)) if common else NO_PORTS

    def __sub__(self, other: PortSet) -> PortSet:
        if not self.ranges or not other.ranges:
            return self
        left: list[tuple[int, int]] = []
        removed = tuple(other.ranges)
        at = max(0, other._place(self.ranges[0][0]))
        for begin, last in self.ranges:
            first = begin  # of what is not removed yet
            while at < len(removed) and removed[at][0] <= last:
                if first < removed[at][0]:
                    left.append((first, removed[at][0] - 1))
                first = max(first, removed[at][1] + 1)
                if first > last:
                    break  # this one may remove some of the next range as well
                at += 1
            if first <= last:
                left.append((first, last))
        return PortSet(tuple(left)) if left else NO_PORTS

    def spellings(self) -> list[str]:
        """Spell the set in the fewest words that parse_ports reads back, such as ["22", "8000-8100"]."""
        if self == ALL_PORTS:
            return ["all"]
        words: list[str] = []
        for first, last in self.ranges:
            if last - first + 1 >= _SHORTEST_RANGE:
                words.append(f"{first}-{last}")
            else:
                words.extend(str(port) for port in range(first, last + 1))
        return words

    def __str__(self) -> str:
        return ", ".join(self.spellings()) or "none"


NO_PORTS = PortSet()
ALL_PORTS = PortSet(((MIN_PORT, MAX_PORT),))


def spell(port: int) -> str:
    """Spell one TCP port as users type and query it."""
    return str(port)


def parse_ports(text: object) -> PortSet:
    """Read one entry of a list of ports: 22, "22", "22/tcp", "8000-8100", "ssh" or "all".

    Service names are those of services(5), and of a table for where there is none. Raises PortError with a
    message that quotes the entry and names the accepted forms.
    """
    if isinstance(text, bool) or not isinstance(text, int | str):
        raise PortError(f"{_quote(text)} is not a port ({_EXPECTED})")
    word = str(text).strip().lower()
    if word.endswith("/udp"):
        raise PortError(f"{_quote(text)} is a UDP port, and this version scans TCP only")
    word = word.removesuffix("/tcp")
    if word == "all":
        return ALL_PORTS
    if found := _RANGE.fullmatch(word):
        return _parse_range(text, int(found[1]), int(found[2]))
    if re.fullmatch(r"[+-]?(0|[1-9][0-9]*)", word):
        port = int(word[:9])
        if not MIN_PORT <= port <= MAX_PORT:
            raise PortError(f"{_quote(text)} is not a port (ports are 1 to 65535)")
        return PortSet(((port, port),))
    if re.fullmatch(r"0[0-9]{1,8}", word):
        raise PortError(f"{_quote(text)} is not a port (write it without leading zeros: {int(word)})")
    several = re.split(r"[\s,]+", word)
    if len(several) > 1 and all(several):
        raise PortError(f"{_quote(text)} is not a port (several ports are a list: {_quote_list(several)})")
    return _parse_service(text, word)


def _parse_range(text: object, first: int, last: int) -> PortSet:
    if first > last:
        raise PortError(f'{_quote(text)} is not a range of ports (the lower port comes first: "{last}-{first}")')
    if first < MIN_PORT or last > MAX_PORT:
        raise PortError(f"{_quote(text)} is not a range of ports (ports are 1 to 65535)")
    return PortSet(((first, last),))


def _parse_service(text: object, word: str) -> PortSet:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.+*-]*", word):
        raise PortError(f"{_quote(text)} is not a port ({_EXPECTED})")
    port = services.port_of(word)
    if port is None:
        raise PortError(f"{_quote(text)} is not a port ({_EXPECTED}); no TCP service of that name is known")
    return PortSet(((port, port),))


def _quote(value: object) -> str:
    """Quote a value as it would stand in YAML, cut to a length that fits a line."""
    if value is None:
        return "null"
    text = value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)
    text = text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"
    return f'"{text}"' if isinstance(value, str) else text


def _quote_list(words: list[str]) -> str:
    text = f"[{', '.join(words)}]"
    return text if len(text) <= _LONGEST_QUOTE else "[22, 80]"


_LONGEST_QUOTE = 60
_EXPECTED = 'expected a number, "8000-8100", a service name such as "ssh", or "all"'
