"""The addresses that are being probed, as columns: makes their probes, and finds the address of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from portspec.scan.syn import cookie
from portspec.scan.syn.packets import Answers, Probes, pack, partial_checksum
from portspec.scan.syn.port_states import CLOSED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from portspec.scan.syn.address import SynAddressScan
    from portspec.scan.syn.arrays import U16, U64

_ROW = np.dtype([("own", "16u1"), ("peer", "16u1"), ("partial", "u4"), ("hash", "4u8")])
_INITIAL_ROWS = 64


class AddressTable:
    """A row for each address scan in progress; an address has one scan at a time.

    The sequence numbers of each scan have a key of their own, drawn from `entropy` (16 random bytes).
    """

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._rows = np.zeros(_INITIAL_ROWS, _ROW)
        self._scans: list[SynAddressScan | None] = [None] * _INITIAL_ROWS
        self._free = list(range(_INITIAL_ROWS))
        self._indices: dict[str, int] = {}
        self._key = cookie.start(np.frombuffer(entropy(16), "<u8").astype(np.uint64).reshape(2, 1))
        self._order: NDArray[np.intp] | None = None
        self._keys: U64 = np.zeros(0, np.uint64)

    def __len__(self) -> int:
        return len(self._indices)

    def __contains__(self, address: str) -> bool:
        return address in self._indices

    def index(self, scan: SynAddressScan) -> int:
        """Return the row of a scan."""
        return self._indices[scan.address]

    def scan(self, index: int) -> SynAddressScan:
        """Return the scan of a row; KeyError if there is none."""
        scan = self._scans[index]
        if scan is None:
            raise KeyError(index)
        return scan

    def add(self, scans: Sequence[tuple[SynAddressScan, str]]) -> None:
        """Add scans, each with the source address of its probes."""
        if not scans:
            return
        while len(self._free) < len(scans):
            self._grow()
        indices = [self._free.pop() for _ in scans]
        for index, (scan, source) in zip(indices, scans, strict=True):
            own = pack(source)
            self._scans[index] = scan
            self._indices[scan.address] = index
            row = self._rows[index]
            row["own"], row["peer"] = np.frombuffer(own, np.uint8), np.frombuffer(scan.packed, np.uint8)
            row["partial"] = partial_checksum(own, scan.packed)
        keys = np.frombuffer(self._entropy(16 * len(scans)), "<u8").reshape(len(scans), 2).T
        state = cookie.start(keys.astype(np.uint64))
        for side in ("own", "peer"):
            for word in _words(self._rows[side][indices]):
                cookie.absorb(state, word)
        self._rows["hash"][indices] = state.T
        self._order = None

    def remove(self, scan: SynAddressScan) -> None:
        """Remove a scan."""
        index = self._indices.pop(scan.address)
        self._scans[index] = None
        self._free.append(index)
        self._order = None

    def probes(self, indices: NDArray[np.intp], source_ports: U16, ports: U16) -> Probes:
        """Return probes to the addresses of some rows."""
        rows = self._rows[indices]
        sequence = cookie.sequence_numbers(np.ascontiguousarray(rows["hash"].T), source_ports, ports)
        return Probes(rows["own"], rows["peer"], rows["partial"], source_ports, ports, sequence, indices)

    def proven(self, answers: Answers) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Find the rows of answers, and which answers prove that their sender saw the probe.

        An RST may acknowledge the SYN or not count it (RFC 9293, 3.10.7.1; some stacks do the latter). Returns a row of
        the table for each answer, and a mask of the answers whose sequence number is right.
        """
        if self._order is None:
            self._build_index()
        if self._order is None or not len(self._order):
            return np.zeros(len(answers), np.intp), np.zeros(len(answers), np.bool_)
        keys = self._lookup_keys(answers.peer_high, answers.peer_low)
        found = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        indices = self._order[found]
        good = self._keys[found] == keys
        rows = self._rows[indices]
        peer_high, peer_low = _words(rows["peer"])
        own_high, own_low = _words(rows["own"])
        good &= (peer_high == answers.peer_high) & (peer_low == answers.peer_low)
        good &= (own_high == answers.own_high) & (own_low == answers.own_low)
        state = np.ascontiguousarray(rows["hash"].T)
        expected = cookie.sequence_numbers(state, answers.source_port, answers.port)
        behind = expected - answers.sequence  # modulo 2³²
        good &= (behind == 0) | ((behind == 1) & (answers.kind == CLOSED))
        return indices, good

    def _build_index(self) -> None:
        indices = np.fromiter(self._indices.values(), np.intp, len(self._indices))
        keys = self._lookup_keys(*_words(self._rows["peer"][indices]))
        order = np.argsort(keys)
        self._keys = keys[order]
        self._order = indices[order]

    def _lookup_keys(self, high: U64, low: U64) -> U64:
        """Return a key for each address: of IPv4 the address itself, of IPv6 a keyed hash, against collisions."""
        is_ip6 = high != 0
        if not is_ip6.any():
            return low
        state = np.repeat(self._key, len(high), axis=1)
        cookie.absorb(state, high)
        return np.where(is_ip6, cookie.finish(state, low), low)

    def _grow(self) -> None:
        size = len(self._rows)
        self._rows = np.concatenate([self._rows, np.zeros(size, _ROW)])
        self._scans += [None] * size
        self._free += range(size, 2 * size)


def _words(packed: NDArray[np.uint8]) -> tuple[U64, U64]:
    """Return packed addresses (n, 16) as two little-endian words each."""
    words = np.ascontiguousarray(packed).view("<u8").astype(np.uint64, copy=False)
    return words[:, 0], words[:, 1]
