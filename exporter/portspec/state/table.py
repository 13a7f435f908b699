"""The states of all hosts: an immutable mapping of which a changed copy is cheap."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from operator import is_
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_CHUNK = 512


class OfHost(Protocol):
    """A state of a host."""

    @property
    def host(self) -> str:
        """The name in conf.yml: the label `host`."""
        ...


S = TypeVar("S", bound=OfHost)


class HostTable(Mapping[str, S], Generic[S]):
    """An immutable mapping of host to state whose copy with one host replaced is cheap.

    States lie in chunks; a new table shares all of them but one, so that 10,000 hosts cost two tuples,
    of 20 and 512, for each finished scan, not a dictionary of 10,000.
    """

    __slots__ = ("_chunks", "_places")

    def __init__(self, states: Iterable[S] = ()) -> None:
        every = tuple(states)
        self._places = {state.host: divmod(place, _CHUNK) for place, state in enumerate(every)}
        self._chunks: tuple[tuple[S, ...], ...] = tuple(
            every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK)
        )

    def __getitem__(self, host: str) -> S:
        chunk, place = self._places[host]
        return self._chunks[chunk][place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def chunks(self) -> tuple[tuple[S, ...], ...]:
        """The states, some at a time; a chunk without a changed state is the same object in the next table."""
        return self._chunks

    @property
    def places(self) -> Mapping[str, tuple[int, int]]:
        """The number of the chunk of each host, and the host's place in it."""
        return self._places

    def replacing(self, state: S) -> HostTable[S]:
        """Return the table with the state of one host replaced; KeyError if it does not hold that host."""
        number, place = self._places[state.host]
        chunk = self._chunks[number]
        chunk = (*chunk[:place], state, *chunk[place + 1 :])
        return self._with((*self._chunks[:number], chunk, *self._chunks[number + 1 :]))

    def replacing_all(self, states: Iterable[S]) -> HostTable[S]:
        """Return the table with the states of some hosts replaced; KeyError if it does not hold one of them."""
        edited: dict[int, list[S]] = {}
        for state in states:
            number, place = self._places[state.host]
            if number not in edited:
                edited[number] = list(self._chunks[number])
            edited[number][place] = state
        every = enumerate(self._chunks)
        return self._with(tuple(tuple(edited[number]) if number in edited else chunk for number, chunk in every))

    def holding(self, states: Sequence[S]) -> HostTable[S]:
        """Return the table of other states that shares with this one what is the same; this one if all are."""
        table = HostTable(states)
        pairs = zip_longest(table._chunks, self._chunks, fillvalue=())
        chunks = tuple(old if _are_same(new, old) else new for new, old in pairs)[: len(table._chunks)]
        if len(table) == len(self) and all(map(is_, chunks, self._chunks)):
            return self
        table._chunks = chunks
        return table

    def _with(self, chunks: tuple[tuple[S, ...], ...]) -> HostTable[S]:
        table: HostTable[S] = HostTable()
        table._places = self._places
        table._chunks = chunks
        return table


def _are_same(one: tuple[S, ...], other: tuple[S, ...]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))
