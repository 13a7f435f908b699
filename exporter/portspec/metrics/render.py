"""The host families of /metrics as bytes, cached: a scrape writes only the lines of hosts that changed.

The samples of a family must be consecutive, so the lines of one host lie in as many places of the page as there are
families. They are cached in columns: one column for each chunk of the host table and each part of a family.

    page = for each family, for each of its parts, for each chunk: the block of that column

What happens to a chunk at a scrape, compared with the scrape before:

1. Its tuple of states is the same object: its columns are used as they are.
2. Same hosts, some with new states: their lines are written, those of the others are copied. A host without news
   (`Families.has_news`) is written only in the parts that show the time of a scan (`Part.is_timed`).
3. Other hosts, after a reload or a change of discovery: the chunk is put together from runs of hosts whose states are
   unchanged, wherever they were, and of hosts that are written.

Then the series budget is applied part by part, in the order of their ranks, to whole hosts.

Invariants:

* A state is immutable: a host with the same state object has the same lines. A state that is changed in place would
  leave old lines on the page.
* In a column, `sizes`, `lines` and `left_out` have one entry for each state of the chunk, in the same order;
  sum(sizes) is the length of the block's text.
* A block with the same text stays the same object, because it also caches its compressed form (block.py).
* A part without `is_timed` must not show a value that changes while `has_news` is false.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from prometheus_client.utils import floatToGoString

from portspec.metrics.block import CachedBlock
from portspec.state.table import OfHost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from portspec.metrics.catalogue import Metric
    from portspec.metrics.host_families import Families, Part
    from portspec.state.table import HostTable

    _Run = tuple["_Chunk[S] | None", int, int]

S = TypeVar("S", bound=OfHost)

MAX_HOST_SERIES = 1000  # in one part of a family that the budget may cut: no host floods the others


@dataclass(frozen=True, slots=True)
class _Column:
    """One part of a chunk of hosts: the text, and of each host in it the bytes, the lines, and the lines left out."""

    block: CachedBlock
    sizes: array[int]
    lines: array[int]
    left_out: array[int]
    total: int  # lines
    total_left_out: int


class _Written(NamedTuple):
    """The lines of one host in one part: their text and number, and the number of those left out."""

    text: bytes
    lines: int
    left_out: int


@dataclass(frozen=True, slots=True)
class _Chunk(Generic[S]):
    """The lines of a chunk of hosts, a column for each part."""

    states: tuple[S, ...]
    columns: tuple[_Column, ...]


class Renderer(Generic[S]):
    """Writes families of one table of hosts after the other. Not for two threads at a time.

    `left` is what the last one left of the series budget, for others; nothing if it was cut itself.
    """

    def __init__(self, families: Families[S], series_budget: int) -> None:
        self._families = families
        self._kept_first = sorted(
            (place for place, part in enumerate(families.parts) if part.rank is not None),
            key=lambda place: -(families.parts[place].rank or 0),
        )
        self.series_budget = series_budget
        self.left = series_budget
        self._chunks: tuple[_Chunk[S], ...] = ()
        self._places: Mapping[str, tuple[int, int]] = {}

    def render(self, hosts: HostTable[S]) -> tuple[list[tuple[Metric, list[CachedBlock]]], int]:
        """Return the families that have samples, each with its blocks, and the number of series left out.

        The series budget holds for the parts that have a rank. What is beyond it is cut part by part, by their ranks:
        of ports first since when they deviate, then those that are open and not expected, and deviations last; of
        audits the listeners first. Within a part it is cut from the last host on.
        """
        parts = self._families.parts
        chunks = tuple(self._chunk(number, states) for number, states in enumerate(hosts.chunks))
        self._chunks, self._places = chunks, hosts.places
        columns = [[chunk.columns[place] for chunk in chunks] for place in range(len(parts))]
        blocks = [[column.block for column in every] for every in columns]
        dropped = sum(column.total_left_out for every in columns for column in every)
        left = self.series_budget
        for place in self._kept_first:
            kept, blocks[place] = _within(left, columns[place])
            missing = sum(column.total for column in columns[place]) - kept
            dropped += missing
            left = 0 if missing else left - kept
        self.left = left
        families: dict[Metric, list[CachedBlock]] = {}
        for part, found in zip(parts, blocks, strict=True):
            families.setdefault(part.metric, []).extend(block for block in found if block.text)
        return [(metric, found) for metric, found in families.items() if found], dropped

    def _chunk(self, number: int, states: tuple[S, ...]) -> _Chunk[S]:
        old = self._chunks[number] if number < len(self._chunks) else None
        if old is None or len(old.states) != len(states):
            return self._regrouped(states)
        if old.states is states:
            return old
        changed = [place for place, state in enumerate(states) if state is not old.states[place]]
        if any(states[place].host != old.states[place].host for place in changed):
            return self._regrouped(states)
        news = [place for place in changed if self._families.has_news(old.states[place], states[place])]
        parts, has_news = self._families.parts, frozenset(news)
        timed = [number for number, part in enumerate(parts) if part.is_timed]
        written = {
            place: self._write(states[place], range(len(parts)) if place in has_news else timed) for place in changed
        }
        columns = (
            _rewritten(column, number, changed if part.is_timed else news, written)
            for number, (part, column) in enumerate(zip(parts, old.columns, strict=True))
        )
        return _Chunk(states, tuple(columns))

    def _regrouped(self, states: tuple[S, ...]) -> _Chunk[S]:
        """Put a chunk together of hosts from anywhere: what is written already is copied."""
        runs, every = tuple(self._runs(states)), range(len(self._families.parts))
        written = {
            place: self._write(states[place], every)
            for source, first, last in runs
            if source is None
            for place in range(first, last)
        }
        return _Chunk(states, tuple(_column(number, runs, written) for number in every))

    def _write(self, state: S, numbers: Iterable[int]) -> dict[int, _Written]:
        """Write some parts of a host, one after the other: they share what is found out about the host."""
        found = {}
        for number in numbers:
            lines, left_out = render_host(self._families.parts[number], state)
            found[number] = _Written("".join(lines).encode(errors="replace"), len(lines), left_out)
        return found

    def _runs(self, states: Sequence[S]) -> Iterator[_Run[S]]:
        """Split a chunk into runs: hosts [first, last) of an earlier chunk that are the same, or are to be written."""
        run: _Run[S] | None = None
        for here, state in enumerate(states):
            source, place = self._earlier(state)
            place = here if source is None else place
            if run and run[0] is source and run[2] == place:
                run = (source, run[1], place + 1)
                continue
            if run:
                yield run
            run = (source, place, place + 1)
        if run:
            yield run

    def _earlier(self, state: S) -> tuple[_Chunk[S] | None, int]:
        """Find the lines of a host as they were written, if its state is still the same."""
        if found := self._places.get(state.host):
            chunk = self._chunks[found[0]]
            if chunk.states[found[1]] is state:
                return chunk, found[1]
        return None, 0


def _rewritten(
    old: _Column, number: int, places: Sequence[int], written: Mapping[int, Mapping[int, _Written]]
) -> _Column:
    """Return the column of a part, by its number, in which the hosts at some places are replaced."""
    if not places:
        return old
    sizes, lines, left_out = old.sizes[:], old.lines[:], old.left_out[:]
    total, total_left_out = old.total, old.total_left_out
    text = memoryview(old.block.text)
    pieces: list[bytes | memoryview] = []
    ends = list(accumulate(old.sizes))
    copied = 0
    for place in places:
        own = written[place][number]
        pieces += (text[copied : ends[place] - old.sizes[place]], own.text)
        copied = ends[place]
        total += own.lines - lines[place]
        total_left_out += own.left_out - left_out[place]
        sizes[place], lines[place], left_out[place] = len(own.text), own.lines, own.left_out
    pieces.append(text[copied:])
    whole = b"".join(pieces)
    block = old.block if whole == old.block.text else CachedBlock(whole)
    return _Column(block, sizes, lines, left_out, total, total_left_out)


def _column(number: int, runs: Iterable[_Run[S]], written: Mapping[int, Mapping[int, _Written]]) -> _Column:
    """Put the column of a part together, by its number, of what is written now and what was before."""
    sizes, lines, left_out = array("L"), array("L"), array("L")
    pieces: list[bytes | memoryview] = []
    for source, first, last in runs:
        if source is None:
            for place in range(first, last):
                own = written[place][number]
                pieces.append(own.text)
                sizes.append(len(own.text))
                lines.append(own.lines)
                left_out.append(own.left_out)
        else:
            old = source.columns[number]
            begin = sum(old.sizes[:first])
            pieces.append(memoryview(old.block.text)[begin : begin + sum(old.sizes[first:last])])
            sizes.extend(old.sizes[first:last])
            lines.extend(old.lines[first:last])
            left_out.extend(old.left_out[first:last])
    return _Column(CachedBlock(b"".join(pieces)), sizes, lines, left_out, sum(lines), sum(left_out))


def _within(left: int, columns: Iterable[_Column]) -> tuple[int, list[CachedBlock]]:
    """Return how many series of a part fit into what is left of the budget, whole hosts only, and their blocks."""
    kept = 0
    blocks: list[CachedBlock] = []
    for column in columns:
        if kept + column.total > left:
            size = 0
            for lines, own in zip(column.lines, column.sizes, strict=True):
                if kept + lines > left:
                    break
                kept += lines
                size += own
            return kept, [*blocks, CachedBlock(column.block.text[:size])]
        kept += column.total
        blocks.append(column.block)
    return kept, blocks


def render_host(part: Part[S], state: S) -> tuple[list[str], int]:
    """Return the lines of a host in one part of a family, and the number of those that are too many for one host.

    A text from a corrupt state file may have half a surrogate pair, which UTF-8 has not; who encodes the lines puts a
    question mark in its place, so that no host takes the page away from the others.
    """
    name = part.metric.name
    if part.value:
        found = part.value(state)
        if found is None:
            return [], 0
        left_out = int(found) if part.is_left_out else 0
        return [f'{name}{{host="{_escape(state.host)}"}} {_number(found)}\n'], left_out
    samples = iter(part.samples(state))
    limit = None if part.rank is None else MAX_HOST_SERIES
    lines: list[str] = []
    names: list[str] = []  # those of all samples of a host in one part
    for labels, value in islice(samples, limit):
        names = names or sorted(labels)
        written = ",".join([f'{label}="{_escape(labels[label])}"' for label in names])
        lines.append(f"{name}{{{written}}} {_number(value)}\n")
    return lines, 0 if len(lines) != limit else sum(1 for _ in samples)


def _number(value: float) -> str:
    """Format a value as prometheus_client does; most are 0 or 1."""
    if value == 1:
        return "1.0"
    # typed nowhere in prometheus_client 0.26
    spelled: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return spelled


@lru_cache(maxsize=1 << 14)  # hosts share most of their values
def _escape(value: str) -> str:
    """Escape a label value (both text formats: backslash, quote and line feed)."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
