"""SYN probes as bytes, and their answers as arrays: IPv4 and IPv6, in batches, no Python object per packet. Pure.

Addresses are 16 bytes here, those of IPv4 mapped into IPv6 (RFC 4291, 2.5.5.2); as numbers they are two little-endian
words of 8 bytes, `high` the first one. Ports are in the host's byte order.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from portspec.scan.syn.port_states import CLOSED, FILTERED, LOCAL_REJECTION, OPEN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from portspec.scan.syn.arrays import U8, U16, U32, U64, Bools, Floats

SNAPSHOT = 176  # bytes of a packet that are read: an ICMP error with the longest headers needs 136

_MAPPED = bytes(10) + b"\xff\xff"
_MAPPED_LOW = np.uint64(0xFFFF0000)
_TCP, _ICMP, _ICMP6 = 6, 1, 58
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION, _NOTHING = 0, 43, 44, 60, 59  # RFC 8200, section 4
_IS_EXTENSION = np.isin(np.arange(256), (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION))
MAX_EXTENSIONS = 5  # headers between that of IPv6 and the segment, as in RFC 8200, 4.1
_TCP_LENGTH = 24  # with the option of the maximum segment size, as every real client sends it
_FLAGS = 0x6002  # six words of header, SYN
_WINDOW = 64240
_HOPS = 64
_IP4_LENGTH, _IP6_LENGTH, _TCP_MIN_LENGTH, _ICMP_LENGTH = 20, 40, 20, 8
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_UNREACHABLE, _UNREACHABLE6 = 3, 1  # RFC 792, RFC 4443 section 3.1
_TOO_BIG = 4  # the code of IPv4's "fragmentation needed": not about the port

_TCP_FIELDS = {"source_port": (">u2", 0), "port": (">u2", 2), "sequence": (">u4", 4), "checksum": (">u2", 16)}
_PROBE4 = {"id": (">u2", 4), "own": ("4u1", 12), "peer": ("4u1", 16)}
_PROBE6 = {"own": ("16u1", 8), "peer": ("16u1", 24)}


def _record(header: int, layout: dict[str, tuple[str, int]]) -> np.dtype[np.void]:
    columns = layout | {name: (kind, header + offset) for name, (kind, offset) in _TCP_FIELDS.items()}
    return np.dtype(
        {
            "names": list(columns),
            "formats": [kind for kind, _ in columns.values()],
            "offsets": [offset for _, offset in columns.values()],
            "itemsize": header + _TCP_LENGTH,
        }
    )


def pack(address: str) -> bytes:
    """Return the 16 bytes of an IPv4 or IPv6 literal."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return _MAPPED + socket.inet_pton(socket.AF_INET, address)


def partial_checksum(own: bytes, peer: bytes) -> int:
    """Return the sum of what is the same in all probes between two packed addresses (RFC 9293)."""
    is_ip4 = peer.startswith(_MAPPED)
    addresses = own[12:] + peer[12:] if is_ip4 else own + peer
    words = np.frombuffer(addresses, ">u2")
    return int(words.sum()) + _TCP + _TCP_LENGTH + _FLAGS + _WINDOW + 0x0204 + _segment_size(is_ip4=is_ip4)


def _segment_size(*, is_ip4: bool) -> int:
    return 1460 if is_ip4 else 1440


@dataclass(frozen=True, slots=True)
class Probes:
    """Probes to send, column by column; rows of one target are adjacent.

    `own` and `peer` are packed addresses (n, 16), `partial` their partial checksums, `target` whose a row is.
    """

    own: U8
    peer: U8
    partial: U32
    source_port: U16
    port: U16
    sequence: U32
    target: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.port)


class Template:
    """A block of `size` probes of one family whose constant bytes are in place; `packets` is (size, length) bytes."""

    def __init__(self, family: int, size: int) -> None:
        self._is_ip4 = family == socket.AF_INET
        record = _record(_IP4_LENGTH, _PROBE4) if self._is_ip4 else _record(_IP6_LENGTH, _PROBE6)
        self.length = record.itemsize
        tcp = b"".join(
            (
                bytes(12),
                _FLAGS.to_bytes(2, "big"),
                _WINDOW.to_bytes(2, "big"),
                bytes(4),
                b"\x02\x04",
                _segment_size(is_ip4=self._is_ip4).to_bytes(2, "big"),
            )
        )
        if self._is_ip4:  # the kernel fills in the header's checksum (raw(7))
            ip = bytes((0x45, 0, 0, self.length, 0, 0, 0x40, 0, _HOPS, _TCP)) + bytes(10)
        else:
            ip = bytes((0x60, 0, 0, 0, 0, _TCP_LENGTH, _TCP, _HOPS)) + bytes(32)
        self.packets: U8 = np.tile(np.frombuffer(ip + tcp, np.uint8), (size, 1))
        self._fields = self.packets.view(record)[:, 0]

    def fill(self, probes: Probes) -> None:
        """Write probes into the first rows."""
        rows = self._fields[: len(probes)]
        start = 12 if self._is_ip4 else 0
        rows["own"] = probes.own[:, start:]
        rows["peer"] = probes.peer[:, start:]
        rows["source_port"] = probes.source_port
        rows["port"] = probes.port
        rows["sequence"] = probes.sequence
        low = probes.sequence & np.uint32(0xFFFF)
        if self._is_ip4:
            rows["id"] = low | np.uint32(1)  # the kernel would choose one in place of 0
        total = probes.partial + probes.source_port + probes.port + (probes.sequence >> np.uint32(16)) + low
        rows["checksum"] = ~_fold(total)


@dataclass(frozen=True, slots=True)
class Answers:
    """Packets that may answer probes, column by column.

    `sequence` is that of the probe they claim to answer; a `kind` is OPEN for a SYN-ACK, CLOSED for an RST, FILTERED
    for an ICMP error, LOCAL_REJECTION for one with which this machine says that it did not send the probe. `direct` is
    false if a router sent the ICMP error. `at` is the time of arrival, in seconds.
    """

    peer_high: U64
    peer_low: U64
    own_high: U64
    own_low: U64
    port: U16
    source_port: U16
    sequence: U32
    kind: U8
    direct: Bools
    at: Floats

    def __len__(self) -> int:
        return len(self.port)

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Return several batches as one, in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def only(self, rows: NDArray[np.intp] | Bools) -> Answers:
        """Return some of the packets."""
        return Answers(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Frames:
    """Packets as they were received: the first SNAPSHOT bytes of each (n, SNAPSHOT), from the IP header on.

    `length` is how long the whole packet was, `is_sound` whether its transport checksum needs no check: verified by the
    hardware, or not yet computed since it never left this machine. `at` is when it came, in seconds.
    """

    data: U8
    length: NDArray[np.uint32]
    is_sound: Bools
    at: Floats

    def __len__(self) -> int:
        return len(self.data)

    def only(self, rows: NDArray[np.intp] | Bools) -> Frames:
        """Return some of the packets, in their order."""
        if rows.dtype == np.intp and len(rows) == len(self):
            return self  # the usual case, and a row is long
        return Frames(self.data[rows], self.length[rows], self.is_sound[rows], self.at[rows])


def parse(family: int, frames: Frames) -> list[Answers]:
    """Return the answers in packets of one family; other packets, and damaged ones, are ignored."""
    parts = _parse4(frames) if family == socket.AF_INET else _parse6(frames)
    return [part for part in parts if len(part)]


def _parse4(frames: Frames) -> list[Answers]:
    data = frames.data
    version, header = data[:, 0] >> 4, (data[:, 0] & 15).astype(np.uint32) * 4
    total = _u16(data, 2).astype(np.uint32)
    whole = (version == 4) & (header >= _IP4_LENGTH) & (total <= frames.length) & (total >= header)  # noqa: PLR2004 - IPv4
    whole &= _u16(data, 6) & 0x3FFF == 0  # no fragment (RFC 791)
    parts: list[Answers] = []
    for length in _distinct(header[whole]):
        rows = np.flatnonzero(whole & (header == length))
        rows = rows[_fold(_sum_words(data[rows, :length])) == 0xFFFF]  # noqa: PLR2004 - a right checksum (RFC 1071)
        some, size = frames.only(rows), total[rows] - length
        protocol = some.data[:, 9]
        high = np.zeros(len(rows), np.uint64)
        peer, own = _mapped(some.data, 12), _mapped(some.data, 16)
        pseudo = _sum_words(some.data[:, 12:20])
        addresses = (high, peer, high, own)
        parts.append(_parse_tcp(some, length, size, protocol == _TCP, addresses, pseudo))
        if (protocol == _ICMP).any():
            parts += _parse_icmp4(some, length, size, protocol == _ICMP, peer, own)
    return parts


def _parse6(frames: Frames) -> list[Answers]:
    data = frames.data
    size = _u16(data, 4).astype(np.uint32)
    whole = (data[:, 0] >> 4 == 6) & (size + _IP6_LENGTH <= frames.length)  # noqa: PLR2004 - IPv6
    following = data[:, 6]
    parts = _parse6_from(_IP6_LENGTH, frames, size, np.where(whole, following, _NOTHING))
    rows = np.flatnonzero(whole & _IS_EXTENSION[following])
    if len(rows):  # rare
        some, size = frames.only(rows), size[rows]
        start, following = _skip_extensions(some.data, size)
        for one in _distinct(start):
            chosen = np.flatnonzero(start == one)
            left = size[chosen] - np.uint32(one - _IP6_LENGTH)
            parts += _parse6_from(one, some.only(chosen), left, following[chosen])
    return parts


def _skip_extensions(data: U8, size: U32) -> tuple[U32, U8]:
    """Return the offset of the segment of each IPv6 packet, and its protocol: _NOTHING if there is none.

    Extension headers are skipped as in RFC 8200, section 4: at most MAX_EXTENSIONS, a hop-by-hop header only as the
    first one, a fragment only if it is the whole packet (RFC 6946). Their contents are not checked.
    """
    rows = np.arange(len(data))
    following = data[:, 6]
    start = np.full(len(data), _IP6_LENGTH, np.uint32)
    last = np.minimum(size + np.uint32(_IP6_LENGTH), np.uint32(SNAPSHOT))  # the end of what was captured
    for number in range(MAX_EXTENSIONS):
        is_fragment = following == _FRAGMENT
        is_extension = is_fragment | (following == _ROUTING) | (following == _DESTINATION)
        if number == 0:
            is_extension |= following == _HOP_BY_HOP
        at = np.minimum(start, SNAPSHOT - 8)
        length = (data[rows, at + 1].astype(np.uint32) + 1) * 8
        is_part = is_fragment & (
            (length != 8) | (data[rows, at + 2] != 0) | (data[rows, at + 3] & 0xF9 != 0)  # noqa: PLR2004 - its length
        )
        is_right = is_extension & ~is_part & (start + length <= last)
        following = np.where(is_right, data[rows, at], np.where(is_extension, _NOTHING, following)).astype(np.uint8)
        start = np.where(is_right, start + length, start)
    return start, following


def _parse6_from(start: int, frames: Frames, size: U32, protocol: U8) -> list[Answers]:
    """Read the segments of packets of IPv6, each `size` bytes from the byte `start` on."""
    data = frames.data
    addresses = (_u64(data, 8), _u64(data, 16), _u64(data, 24), _u64(data, 32))
    pseudo = _sum_words(data[:, 8:40])
    parts: list[Answers] = []
    if start + _TCP_MIN_LENGTH <= SNAPSHOT:
        parts.append(_parse_tcp(frames, start, size, protocol == _TCP, addresses, pseudo))
    icmp = protocol == _ICMP6
    if start + _ICMP_LENGTH + _IP6_LENGTH + 8 <= SNAPSHOT and icmp.any():
        rows = np.flatnonzero(icmp)
        sums = pseudo[rows] + _ICMP6 + size[rows]
        rows = rows[_has_valid_checksum(frames.only(rows), start, size[rows], sums)]
        parts.append(_parse_icmp6(frames.only(rows), start, size[rows], [column[rows] for column in addresses]))
    return parts


def _parse_tcp(
    frames: Frames, start: int, size: U32, chosen: Bools, addresses: tuple[U64, U64, U64, U64], pseudo: U32
) -> Answers:
    data = frames.data
    flags = data[:, start + 13]
    is_open = flags & (_SYN | _RST | _ACK) == _SYN | _ACK
    is_closed = flags & (_SYN | _RST | _ACK) == _RST | _ACK
    header = (data[:, start + 12] >> 4).astype(np.uint32) * 4
    chosen = chosen & (is_open | is_closed) & (header >= _TCP_MIN_LENGTH) & (header <= size)
    rows = np.flatnonzero(chosen)
    some, length = frames.only(rows), size[rows]
    right = _has_valid_checksum(some, start, length, pseudo[rows] + _TCP + length)
    rows = rows[right]
    data = some.data[right]
    peer_high, peer_low, own_high, own_low = (column[rows] for column in addresses)
    return Answers(
        peer_high=peer_high,
        peer_low=peer_low,
        own_high=own_high,
        own_low=own_low,
        port=_u16(data, start),
        source_port=_u16(data, start + 2),
        sequence=_u32(data, start + 8) - np.uint32(1),
        kind=np.where(is_open[rows], OPEN, CLOSED).astype(np.uint8),
        direct=np.ones(len(rows), np.bool_),
        at=frames.at[rows],
    )


def _parse_icmp4(frames: Frames, start: int, size: U32, chosen: Bools, sender: U64, own: U64) -> list[Answers]:
    """Read ICMP "destination unreachable" (RFC 792), which quotes the probe's IP header and 8 bytes or more."""
    data, inner = frames.data, start + _ICMP_LENGTH
    least = _ICMP_LENGTH + _IP4_LENGTH + 8
    chosen = chosen & (size >= least) & (data[:, start] == _UNREACHABLE) & (data[:, start + 1] != _TOO_BIG)
    chosen &= (data[:, inner] >> 4 == 4) & (data[:, inner + 9] == _TCP)  # noqa: PLR2004 - IPv4
    chosen &= _u16(data, inner + 6) & 0x1FFF == 0
    header = (data[:, inner] & 15).astype(np.uint32) * 4
    chosen &= (header >= _IP4_LENGTH) & (size >= header + _ICMP_LENGTH + 8)
    rows = np.flatnonzero(chosen)
    rows = rows[_has_valid_checksum(frames.only(rows), start, size[rows], np.zeros(len(rows), np.uint32))]
    parts = []
    for length in _distinct(header[rows]):
        some = rows[header[rows] == length]
        quoted = data[some, inner:]
        high, peer = np.zeros(len(some), np.uint64), _mapped(quoted, 16)
        addresses = (high, peer, high, _mapped(quoted, 12))
        direct = sender[some] == peer
        is_own = sender[some] == own[some]
        for_us = own[some] == addresses[3]
        parts.append(_from_quoted(quoted[:, length:], addresses, for_us, direct, is_own, frames.at[some]))
    return parts


def _parse_icmp6(frames: Frames, start: int, size: U32, addresses: list[U64]) -> Answers:
    """Read ICMPv6 "destination unreachable" (RFC 4443, 3.1), which quotes the probe whole: it had no extensions."""
    inner = start + _ICMP_LENGTH
    data = frames.data
    chosen = (size >= _ICMP_LENGTH + _IP6_LENGTH + 8) & (data[:, start] == _UNREACHABLE6)
    chosen &= (data[:, inner] >> 4 == 6) & (data[:, inner + 6] == _TCP)  # noqa: PLR2004 - IPv6
    rows = np.flatnonzero(chosen)
    quoted = data[rows, inner:]
    peer_high, peer_low, own_high, own_low = (_u64(quoted, 24), _u64(quoted, 32), _u64(quoted, 8), _u64(quoted, 16))
    for_us = (addresses[2][rows] == own_high) & (addresses[3][rows] == own_low)
    direct = (addresses[0][rows] == peer_high) & (addresses[1][rows] == peer_low)
    is_own = (addresses[0][rows] == own_high) & (addresses[1][rows] == own_low)
    quotes = (peer_high, peer_low, own_high, own_low)
    return _from_quoted(quoted[:, _IP6_LENGTH:], quotes, for_us, direct, is_own, frames.at[rows])


def _from_quoted(
    tcp: U8, addresses: tuple[U64, U64, U64, U64], for_us: Bools, direct: Bools, is_own: Bools, at: Floats
) -> Answers:
    kind = np.where(is_own & ~direct, LOCAL_REJECTION, FILTERED).astype(np.uint8)
    return Answers(*addresses, _u16(tcp, 2), _u16(tcp, 0), _u32(tcp, 4), kind, direct, at).only(for_us)


def _has_valid_checksum(frames: Frames, start: int, size: U32, pseudo: U32) -> Bools:
    """Return which transport checksums are right. Those of packets longer than the snapshot count as right.

    They cannot be checked, but the sequence number of such a packet is checked like any other.
    """
    unchecked = frames.is_sound | (size > SNAPSHOT - start)
    good: Bools = unchecked.copy()
    for length in _distinct(size[~unchecked]):
        rows = np.flatnonzero(~unchecked & (size == length))
        segment = frames.data[rows, start : start + length]
        good[rows] = _fold(_sum_words(segment) + pseudo[rows]) == 0xFFFF  # noqa: PLR2004 - RFC 1071
    return good


def _distinct(values: U32) -> list[int]:
    """Return the distinct values; usually there is one."""
    if not len(values):
        return []
    first = int(values[0])
    return [first] if (values == first).all() else np.unique(values).tolist()


def _sum_words(data: U8) -> U32:
    """Sum the 16-bit words of each row, an odd byte at the end padded with zero."""
    if data.shape[1] % 2:
        data = np.concatenate([data, np.zeros((len(data), 1), np.uint8)], axis=1)
    total: U32 = np.ascontiguousarray(data).view(">u2").sum(axis=1, dtype=np.uint32)
    return total


def _fold(total: U32) -> U16:
    """Fold sums below 2³² into 16 bits, in one's complement."""
    total = (total >> np.uint32(16)) + (total & np.uint32(0xFFFF))
    total += total >> np.uint32(16)
    return total.astype(np.uint16)


def _u16(data: U8, offset: int) -> U16:
    return np.ascontiguousarray(data[:, offset : offset + 2]).view(">u2")[:, 0].astype(np.uint16)


def _u32(data: U8, offset: int) -> U32:
    return np.ascontiguousarray(data[:, offset : offset + 4]).view(">u4")[:, 0].astype(np.uint32)


def _u64(data: U8, offset: int) -> U64:
    return np.ascontiguousarray(data[:, offset : offset + 8]).view("<u8")[:, 0].astype(np.uint64)


def _mapped(data: U8, offset: int) -> U64:
    words = np.ascontiguousarray(data[:, offset : offset + 4]).view("<u4")[:, 0].astype(np.uint64)
    return words << np.uint64(32) | _MAPPED_LOW
