"""The addresses that are being probed, as columns: what their probes need, and whose an answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from portspec.scan.syn import cookie
from portspec.scan.syn.packets import Answers, Probes, pack, partial_checksum
from portspec.scan.syn.state import CLOSED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from portspec.scan.syn.lane import Lane
    from portspec.scan.syn.packets import U16, U64

_ROW = np.dtype([("own", "16u1"), ("peer", "16u1"), ("partial", "u4"), ("hash", "4u8")])
_FEWEST = 64


class LaneTable:
    """A row for each lane in progress, found by the lane's address; an address has one lane at a time.

    A lane's sequence numbers are keyed with `entropy` (16 random bytes) of its own.
    """

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._rows = np.zeros(_FEWEST, _ROW)
        self._lanes: list[Lane | None] = [None] * _FEWEST
        self._free = list(range(_FEWEST))
        self._places: dict[str, int] = {}
        self._key = cookie.start(np.frombuffer(entropy(16), "<u8").astype(np.uint64).reshape(2, 1))
        self._order: NDArray[np.intp] | None = None
        self._keys: U64 = np.zeros(0, np.uint64)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, address: str) -> bool:
        return address in self._places

    def place(self, lane: Lane) -> int:
        """Give the row of a lane."""
        return self._places[lane.address]

    def lane(self, place: int) -> Lane:
        """Give the lane of a row; KeyError if there is none."""
        lane = self._lanes[place]
        if lane is None:
            raise KeyError(place)
        return lane

    def add(self, lanes: Sequence[tuple[Lane, str]]) -> None:
        """Add lanes, each with the source address of its probes."""
        if not lanes:
            return
        while len(self._free) < len(lanes):
            self._grow()
        places = [self._free.pop() for _ in lanes]
        for place, (lane, source) in zip(places, lanes, strict=True):
            own = pack(source)
            self._lanes[place] = lane
            self._places[lane.address] = place
            row = self._rows[place]
            row["own"], row["peer"] = np.frombuffer(own, np.uint8), np.frombuffer(lane.packed, np.uint8)
            row["partial"] = partial_checksum(own, lane.packed)
        keys = np.frombuffer(self._entropy(16 * len(lanes)), "<u8").reshape(len(lanes), 2).T
        state = cookie.start(keys.astype(np.uint64))
        for side in ("own", "peer"):
            for word in _words(self._rows[side][places]):
                cookie.absorb(state, word)
        self._rows["hash"][places] = state.T
        self._order = None

    def remove(self, lane: Lane) -> None:
        """Remove a lane."""
        place = self._places.pop(lane.address)
        self._lanes[place] = None
        self._free.append(place)
        self._order = None

    def probes(self, places: NDArray[np.intp], source_ports: U16, ports: U16) -> Probes:
        """Make probes to the lanes of some rows."""
        rows = self._rows[places]
        sequence = cookie.sequence_numbers(np.ascontiguousarray(rows["hash"].T), source_ports, ports)
        return Probes(rows["own"], rows["peer"], rows["partial"], source_ports, ports, sequence, places)

    def proven(self, answers: Answers) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Find whose the answers are, and which of them answer a probe that was made for their addresses and ports.

        An RST may acknowledge the SYN or not count it (RFC 9293, 3.10.7.1; some stacks do the latter). Gives the rows
        of the table, and a mask of the answers that are proven.
        """
        if self._order is None:
            self._index()
        if self._order is None or not len(self._order):
            return np.zeros(len(answers), np.intp), np.zeros(len(answers), np.bool_)
        keys = self._mixed(answers.peer_high, answers.peer_low)
        found = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        places = self._order[found]
        good = self._keys[found] == keys
        rows = self._rows[places]
        peer_high, peer_low = _words(rows["peer"])
        own_high, own_low = _words(rows["own"])
        good &= (peer_high == answers.peer_high) & (peer_low == answers.peer_low)
        good &= (own_high == answers.own_high) & (own_low == answers.own_low)
        state = np.ascontiguousarray(rows["hash"].T)
        expected = cookie.sequence_numbers(state, answers.source_port, answers.port)
        behind = expected - answers.sequence  # modulo 2³²
        good &= (behind == 0) | ((behind == 1) & (answers.kind == CLOSED))
        return places, good

    def _index(self) -> None:
        places = np.fromiter(self._places.values(), np.intp, len(self._places))
        keys = self._mixed(*_words(self._rows["peer"][places]))
        order = np.argsort(keys)
        self._keys = keys[order]
        self._order = places[order]

    def _mixed(self, high: U64, low: U64) -> U64:
        """Give one word for each address: of IPv4 the address itself, of IPv6 a keyed hash, so that no two meet."""
        is_ip6 = high != 0
        if not is_ip6.any():
            return low
        state = np.repeat(self._key, len(high), axis=1)
        cookie.absorb(state, high)
        return np.where(is_ip6, cookie.finish(state, low), low)

    def _grow(self) -> None:
        size = len(self._rows)
        self._rows = np.concatenate([self._rows, np.zeros(size, _ROW)])
        self._lanes += [None] * size
        self._free += range(size, 2 * size)


def _words(packed: NDArray[np.uint8]) -> tuple[U64, U64]:
    """Give packed addresses (n, 16) as two little-endian words each."""
    words = np.ascontiguousarray(packed).view("<u8").astype(np.uint64, copy=False)
    return words[:, 0], words[:, 1]
