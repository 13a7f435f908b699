"""Forged answers to the SYN engine, sent from the hosts' side while it scans: each must count for nothing.

The program sees the probes that reach the hosts, so that what it sends comes from the addresses and ports that are
being probed and is wrong in one respect only: the acknowledgement number, a checksum, the length, … It sends whole
Ethernet frames (packet(7)), past the hosts' own rules.

``python -m tests.lab.forger COUNT PAUSE [KIND...]`` sends COUNT packets of each kind (of all :data:`KINDS` if none is
named), beginning with the first probes that it sees, with PAUSE seconds between the batches, and writes a JSON object:
``{"sent": {KIND: N}, "end": SECONDS}``, the time as of the monotonic clock.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .program import order, states
from .truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from .network import Lab
    from .program import Job, States

    U8 = NDArray[np.uint8]
    U16 = NDArray[np.uint16]
    U32 = NDArray[np.uint32]

_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_SYN_ACK, _RST_ACK = _SYN | _ACK, _RST | _ACK
_TCP, _UDP, _ICMP, _ICMP6, _FRAGMENT, _HOP_BY_HOP = 6, 17, 1, 58, 44, 0
_MORE_FRAGMENTS: Final = 0x2000
_UNREACHABLE4, _UNREACHABLE6 = (3, 3), (1, 4)  # port unreachable
#: ICMP errors, as (type, code), that say nothing of a port: too big, time exceeded, a wrong header.
_OTHERS4: Final = ((3, 4), (11, 0), (11, 1), (12, 0))
_OTHERS6: Final = ((2, 0), (3, 0), (3, 1), (4, 0))
# linux/if_packet.h, linux/if_ether.h
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_ETH_P_ALL: Final = 0x0003
_ETHERNET: Final = 14
_ETH_P_IP, _ETH_P_IPV6 = b"\x08\x00", b"\x86\xdd"

_BATCH: Final = range(16, 513)  # packets of a kind and a family that are sent together
_BATCHES: Final = 32  # of a kind, while that range allows
_REMEMBERED: Final = 2048  # probes of a family
_MOST_PEERS: Final = 64


@dataclass(frozen=True, slots=True)
class Probes:
    """Probes of one family that were seen; addresses are (n, 4) or (n, 16) bytes."""

    rng: np.random.Generator
    own: U8
    peer: U8
    source_port: U16
    port: U16
    sequence: U32
    #: for each another address that is being probed
    other_peer: U8

    def __len__(self) -> int:
        return len(self.port)

    @property
    def is_ip4(self) -> bool:
        """Whether they are IPv4."""
        return bool(self.own.shape[1] == 4)

    def some(self) -> U32:
        """Draw a number below 2³² for each."""
        return self.rng.integers(0, 1 << 32, len(self), np.uint32)

    def near(self) -> U32:
        """Draw numbers close to what would be right, less or more, but for those that are right for an RST."""
        sizes = self.rng.integers(2, 65, len(self)).astype(np.uint32)
        return self.sequence + np.uint32(1) + np.where(self.rng.random(len(self)) < 0.5, sizes, -sizes)

    def moved(self) -> Probes:
        """Return the same sequence numbers for another port of the same host."""
        shift = self.rng.integers(1, 1000, len(self)).astype(np.uint16)
        return replace(self, port=self.port + shift)

    def redirected(self) -> Probes:
        """Return the same sequence numbers for another source port out of those that are in use."""
        shift = self.rng.integers(1, 16, len(self)).astype(np.uint16)
        return replace(self, source_port=self.source_port ^ shift)

    def impersonated(self) -> Probes:
        """Return the same sequence numbers for another host."""
        return replace(self, peer=self.other_peer)


def _column(values: NDArray[Any], width: int) -> U8:
    """Return numbers as big-endian bytes, a row for each."""
    return np.ascontiguousarray(values.astype(f">u{width}")).view(np.uint8).reshape(len(values), width)


def _constant(count: int, data: bytes) -> U8:
    return np.tile(np.frombuffer(data, np.uint8), (count, 1))


def _checksum(*parts: U8) -> U8:
    """Return the checksum (RFC 1071) over parts of even length, as two bytes for each row."""
    total: NDArray[np.uint64] = np.zeros(len(parts[0]), np.uint64)
    for part in parts:
        total += np.ascontiguousarray(part).view(">u2").sum(axis=1, dtype=np.uint64)
    while (total >> np.uint64(16)).any():
        total = (total >> np.uint64(16)) + (total & np.uint64(0xFFFF))
    return _column(~total & np.uint64(0xFFFF), 2)


def _pseudo(probes: Probes, protocol: int, length: int) -> tuple[U8, U8, U8]:
    return probes.peer, probes.own, _constant(len(probes), length.to_bytes(4, "big") + protocol.to_bytes(4, "big"))


def _segment(probes: Probes, flags: int, acknowledged: U32, *, words: int = 5, damage: int = 0) -> U8:
    """Make the TCP header of an answer, `words` long by its own account; `damage` is added to the checksum."""
    count = len(probes)
    segment = np.concatenate(
        [
            _column(probes.port, 2),
            _column(probes.source_port, 2),
            _column(probes.some(), 4),
            _column(acknowledged, 4),
            _constant(count, bytes([words << 4, flags, 0xFA, 0xF0, 0, 0, 0, 0])),
        ],
        axis=1,
    )
    right = _checksum(*_pseudo(probes, _TCP, segment.shape[1]), segment)
    segment[:, 16:18] = _column(right.view(">u2")[:, 0] + np.uint16(damage), 2)
    return segment


def _packet(
    probes: Probes,
    payload: U8,
    protocol: int = _TCP,
    *,
    options: bytes = b"",
    fragment: int = 0,
    longer: int = 0,
    damage: int = 0,
) -> U8:
    """Put an IP header before a payload.

    `options` are IPv4's, or IPv6's extension headers, the next header of the last one first; `fragment` is IPv4's field
    of flags and offset; the packet claims to be `longer` than it is; `damage` is added to IPv4's checksum.
    """
    count, length = payload.shape
    length += len(options) + longer
    if not probes.is_ip4:
        start = (6 << 28).to_bytes(4, "big") + length.to_bytes(2, "big") + bytes([protocol, 64])
        return np.concatenate([_constant(count, start), probes.peer, probes.own, _constant(count, options), payload], 1)
    words = 5 + len(options) // 4
    start = bytes([0x40 | words, 0]) + (20 + length).to_bytes(2, "big") + bytes(2)
    start += fragment.to_bytes(2, "big") + bytes([64, protocol, 0, 0])
    header = np.concatenate([_constant(count, start), probes.peer, probes.own, _constant(count, options)], axis=1)
    header[:, 10:12] = _column(_checksum(header).view(">u2")[:, 0] + np.uint16(damage), 2)
    return np.concatenate([header, payload], axis=1)


def _fragment(probes: Probes, payload: U8, protocol: int = _TCP, *, more: bool = True, offset: int = 0) -> U8:
    """Make a fragment; `offset` in units of 8 bytes."""
    if probes.is_ip4:
        return _packet(probes, payload, protocol, fragment=more * _MORE_FRAGMENTS + offset)
    header = bytes([protocol, 0]) + (offset << 3 | more).to_bytes(2, "big") + b"look"
    return _packet(probes, payload, _FRAGMENT, options=header)


def _quoted(probes: Probes, *, protocol: int = _TCP, most: int = 24) -> U8:
    """Make the probe again, as far as an ICMP error quotes it; `most` bytes of TCP."""
    count = len(probes)
    tcp = np.concatenate(
        [
            _column(probes.source_port, 2),
            _column(probes.port, 2),
            _column(probes.sequence, 4),
            _constant(count, bytes([0, 0, 0, 0, 0x60, _SYN, 0xFA, 0xF0, 0, 0, 0, 0, 2, 4, 5, 0xB4])),
        ],
        axis=1,
    )
    back = replace(probes, own=probes.peer, peer=probes.own)
    return _packet(back, tcp, protocol)[:, : (20 if probes.is_ip4 else 40) + most]


def _icmp(probes: Probes, kind: tuple[int, int], quoted: U8, *, damage: int = 0) -> U8:
    """Make an ICMP error, as (type, code), without its IP header."""
    message = np.concatenate([_constant(len(probes), bytes([*kind, 0, 0, 0, 0, 0, 0])), quoted], axis=1)
    parts = () if probes.is_ip4 else _pseudo(probes, _ICMP6, message.shape[1])
    message[:, 2:4] = _column(_checksum(*parts, message).view(">u2")[:, 0] + np.uint16(damage), 2)
    return message


def _unreachable(probes: Probes, quoted: Probes, *, damage: int = 0) -> U8:
    """Make an ICMP error "port unreachable" about a probe."""
    kind = _UNREACHABLE4 if probes.is_ip4 else _UNREACHABLE6
    return _packet(probes, _icmp(probes, kind, _quoted(quoted), damage=damage), _icmp_of(probes))


def _icmp_of(probes: Probes) -> int:
    return _ICMP if probes.is_ip4 else _ICMP6


def _right(probes: Probes) -> U32:
    return probes.sequence + np.uint32(1)


def _shifted(probes: Probes, by: int) -> Probes:
    return replace(probes, sequence=probes.sequence + np.uint32(by & 0xFFFFFFFF))


def _other_error(probes: Probes) -> U8:
    kinds = _OTHERS4 if probes.is_ip4 else _OTHERS6
    kind = kinds[int(probes.rng.integers(len(kinds)))]
    return _packet(probes, _icmp(probes, kind, _quoted(probes)), _icmp_of(probes))


def _with_options(probes: Probes, flags: int) -> U8:
    """Make an answer with options of IP, and a random acknowledgement number."""
    segment = _segment(probes, flags, probes.some())
    if probes.is_ip4:
        return _packet(probes, segment, options=b"\x07\x07\x04\x00\x00\x00\x00\x00")  # record route, and the end
    return _packet(probes, segment, _HOP_BY_HOP, options=bytes([_TCP, 0, 1, 4, 0, 0, 0, 0]))


def _swapped(probes: Probes) -> U32:
    """Return right numbers in the other byte order; one in 65,536 is the same then, and has to be another one."""
    right = _right(probes)
    swapped = right.byteswap()
    return np.where(swapped == right, right + np.uint32(2), swapped)


def _header_error(probes: Probes) -> U8 | None:
    if not probes.is_ip4:
        return None  # there is no checksum of IPv6
    return _packet(probes, _segment(probes, _SYN_ACK, _right(probes)), damage=1)


def _fragment_of_error(probes: Probes) -> U8:
    kind = _UNREACHABLE4 if probes.is_ip4 else _UNREACHABLE6
    return _fragment(probes, _icmp(probes, kind, _quoted(probes)), _icmp_of(probes))


def _cut_quote(probes: Probes) -> U8:
    kind = _UNREACHABLE4 if probes.is_ip4 else _UNREACHABLE6
    return _packet(probes, _icmp(probes, kind, _quoted(probes, most=6)), _icmp_of(probes))


#: What is forged. None of these may count; those that are right in the acknowledgement number are wrong elsewhere.
KINDS: Final[Mapping[str, Callable[[Probes], U8 | None]]] = {
    "SYN-ACK, random": lambda p: _packet(p, _segment(p, _SYN_ACK, p.some())),
    "RST, random": lambda p: _packet(p, _segment(p, _RST_ACK, p.some())),
    "SYN-ACK, close": lambda p: _packet(p, _segment(p, _SYN_ACK, p.near())),
    "RST, close": lambda p: _packet(p, _segment(p, _RST_ACK, p.near())),
    "SYN-ACK of the SYN without counting it": lambda p: _packet(p, _segment(p, _SYN_ACK, p.sequence)),
    "SYN-ACK of one more": lambda p: _packet(p, _segment(p, _SYN_ACK, p.sequence + np.uint32(2))),
    "RST of one more": lambda p: _packet(p, _segment(p, _RST_ACK, p.sequence + np.uint32(2))),
    "SYN-ACK in the other byte order": lambda p: _packet(p, _segment(p, _SYN_ACK, _swapped(p))),
    "SYN-ACK from another port": lambda p: _packet(p, _segment(p.moved(), _SYN_ACK, _right(p))),
    "RST from another port": lambda p: _packet(p, _segment(p.moved(), _RST_ACK, _right(p))),
    "SYN-ACK to another port": lambda p: _packet(p, _segment(p.redirected(), _SYN_ACK, _right(p))),
    "RST to another port": lambda p: _packet(p, _segment(p.redirected(), _RST_ACK, _right(p))),
    "SYN-ACK from another host": lambda p: _packet(p.impersonated(), _segment(p.impersonated(), _SYN_ACK, _right(p))),
    "RST from another host": lambda p: _packet(p.impersonated(), _segment(p.impersonated(), _RST_ACK, _right(p))),
    "SYN alone": lambda p: _packet(p, _segment(p, _SYN, _right(p))),
    "RST alone": lambda p: _packet(p, _segment(p, _RST, _right(p))),
    "ACK alone": lambda p: _packet(p, _segment(p, _ACK, _right(p))),
    "FIN-ACK": lambda p: _packet(p, _segment(p, _FIN | _ACK, _right(p))),
    "SYN-RST-ACK": lambda p: _packet(p, _segment(p, _SYN | _RST | _ACK, _right(p))),
    "SYN-ACK with a header too short": lambda p: _packet(p, _segment(p, _SYN_ACK, _right(p), words=4)),
    "SYN-ACK with a header too long": lambda p: _packet(p, _segment(p, _SYN_ACK, _right(p), words=6)),
    "SYN-ACK, wrong checksum": lambda p: _packet(p, _segment(p, _SYN_ACK, _right(p), damage=1)),
    "RST, wrong checksum": lambda p: _packet(p, _segment(p, _RST_ACK, _right(p), damage=0x100)),
    "SYN-ACK, wrong checksum of the header": _header_error,
    "SYN-ACK in a first fragment": lambda p: _fragment(p, _segment(p, _SYN_ACK, _right(p))),
    "SYN-ACK in a later fragment": lambda p: _fragment(p, _segment(p, _SYN_ACK, _right(p)), more=False, offset=3),
    "RST in a first fragment": lambda p: _fragment(p, _segment(p, _RST_ACK, _right(p))),
    "SYN-ACK, cut": lambda p: _packet(p, _segment(p, _SYN_ACK, _right(p)))[:, :-4],
    "RST, cut in the ports": lambda p: _packet(p, _segment(p, _RST_ACK, _right(p)))[:, :-17],
    "SYN-ACK in a packet too short": lambda p: _packet(p, _segment(p, _SYN_ACK, _right(p)), longer=-6),
    "SYN-ACK in a packet too long": lambda p: _packet(p, _segment(p, _SYN_ACK, _right(p)), longer=12),
    "SYN-ACK with options, random": lambda p: _with_options(p, _SYN_ACK),
    "RST with options, random": lambda p: _with_options(p, _RST_ACK),
    "ICMP, random": lambda p: _unreachable(p, replace(p, sequence=p.some())),
    "ICMP of one more": lambda p: _unreachable(p, _shifted(p, 1)),
    "ICMP of one less": lambda p: _unreachable(p, _shifted(p, -1)),
    "ICMP about another port": lambda p: _unreachable(p, p.moved()),
    "ICMP about another source port": lambda p: _unreachable(p, p.redirected()),
    "ICMP about another host": lambda p: _unreachable(p, p.impersonated()),
    "ICMP about somebody else's probe": lambda p: _unreachable(p, replace(p, own=p.own ^ np.uint8(1))),
    "ICMP, wrong checksum": lambda p: _unreachable(p, p, damage=1),
    "ICMP in a fragment": _fragment_of_error,
    "ICMP that quotes too little": _cut_quote,
    "ICMP of another type": _other_error,
    "ICMP about UDP": lambda p: _packet(
        p,
        _icmp(p, _UNREACHABLE4 if p.is_ip4 else _UNREACHABLE6, _quoted(p, protocol=_UDP)),
        _icmp_of(p),
    ),
}

#: Those where nothing is wrong: they show that forgeries reach the scanner, and fail for what is wrong in them only.
CREDIBLE: Final[Mapping[str, Callable[[Probes], U8 | None]]] = {
    "SYN-ACK": lambda p: _packet(p, _segment(p, _SYN_ACK, _right(p))),
    "RST": lambda p: _packet(p, _segment(p, _RST_ACK, _right(p))),
    "RST of the SYN without counting it": lambda p: _packet(p, _segment(p, _RST_ACK, p.sequence)),
    "ICMP": lambda p: _unreachable(p, p),
}


class Forger:
    """Looks at probes on an interface and answers them with forgeries."""

    def __init__(self, interface: str, count: int, kinds: Mapping[str, Callable[[Probes], U8 | None]]) -> None:
        self._rng = np.random.default_rng(1)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.settimeout(0)
        #: the latest probes by EtherType, as frames, and the addresses that are probed
        self._seen: dict[bytes, deque[bytes]] = {kind: deque(maxlen=_REMEMBERED) for kind in (_ETH_P_IP, _ETH_P_IPV6)}
        self._peers: dict[bytes, list[bytes]] = {kind: [] for kind in self._seen}
        self._count = count
        self._batch = min(_BATCH[-1], max(_BATCH[0], count // _BATCHES))
        self._kinds = kinds
        self.sent = dict.fromkeys(kinds, 0)

    def run(self, pause: float, first: int) -> None:
        """Send everything once so many probes were seen."""
        while min(self.sent.values()) < self._count:
            is_ready = self._is_ready(first)
            if select.select([self._socket], [], [], pause if is_ready else None)[0]:
                self._look()
            for kind, peers in self._peers.items():
                if is_ready and len(peers) > 1:
                    self._forge(kind)

    def _is_ready(self, first: int) -> bool:
        seen = sum(len(probes) for probes in self._seen.values())
        return seen >= first and any(len(peers) > 1 for peers in self._peers.values())

    def _look(self) -> None:
        """Take what has arrived, but not for ever: forged SYN-ACKs are answered, too."""
        for _ in range(512):
            try:
                frame = self._socket.recv(2048)
            except BlockingIOError:
                return
            ethertype = frame[12:14]
            start = _ETHERNET + (20 if ethertype == _ETH_P_IP else 40)
            if ethertype in self._seen and len(frame) > start + 13 and frame[start + 13] == _SYN:
                self._seen[ethertype].append(frame)
                peer = frame[start - (4 if ethertype == _ETH_P_IP else 16) : start]
                peers = self._peers[ethertype]
                if peer not in peers and len(peers) < _MOST_PEERS:
                    peers.append(peer)

    def _forge(self, ethertype: bytes) -> None:
        for kind, make in self._kinds.items():
            left = min(self._batch, self._count - self.sent[kind])
            if left <= 0:
                continue
            ethernet, probes = self._sample(ethertype, left)
            packets = make(probes)
            if packets is None:
                continue
            length = packets.shape[1]
            data = packets.tobytes()
            for start in range(0, len(data), length):
                self._send(ethernet + data[start : start + length])
            self.sent[kind] += len(packets)

    def _send(self, frame: bytes) -> None:
        while True:
            try:
                self._socket.send(frame)
            except (BlockingIOError, OSError):  # no room now
                select.select([], [self._socket], [], 0.001)
            else:
                return

    def _sample(self, ethertype: bytes, count: int) -> tuple[bytes, Probes]:
        """Draw from the probes that were seen; returns the Ethernet header of answers, too."""
        seen = self._seen[ethertype]
        chosen = [seen[number] for number in self._rng.integers(len(seen), size=count)]
        size = 4 if ethertype == _ETH_P_IP else 16
        tcp = _ETHERNET + (20 if size == 4 else 40)
        rows = np.frombuffer(b"".join(frame[: tcp + 20] for frame in chosen), np.uint8).reshape(count, -1)
        peers = self._peers[ethertype]
        addresses = (frame[tcp - size : tcp] for frame in chosen)
        others = [peers[(peers.index(peer) + 1) % len(peers)] if peer in peers else peers[0] for peer in addresses]
        frame = chosen[0]
        return frame[6:12] + frame[:6] + ethertype, Probes(
            rng=self._rng,
            own=rows[:, tcp - 2 * size : tcp - size],
            peer=rows[:, tcp - size : tcp],
            source_port=_numbers(rows[:, tcp : tcp + 2]).astype(np.uint16),
            port=_numbers(rows[:, tcp + 2 : tcp + 4]).astype(np.uint16),
            sequence=_numbers(rows[:, tcp + 4 : tcp + 8]),
            other_peer=np.frombuffer(b"".join(others), np.uint8).reshape(count, size),
        )


def _numbers(columns: U8) -> U32:
    return np.ascontiguousarray(columns).view(f">u{columns.shape[1]}")[:, 0].astype(np.uint32)


#: The ports to scan on :func:`hosts`.
PORTS: Final = range(1, 201)


def hosts(*, silent: int = 0) -> list[HostTruth]:
    """Make eight hosts of both families with ports in each state that a scan can be led astray from.

    The last ``silent`` of them drop everything.
    """
    truths = []
    for number in range(1, 9):
        addresses = (f"198.18.5.{number}", f"2001:db8:18::5:{number}")
        if number > 8 - silent:
            truths.append(HostTruth(f"h{number}.lab", addresses, default=State.DROPPED))
            continue
        ports = {(address, port): State.OPEN for address in addresses for port in (22, 80)}
        ports |= {(address, port): State.DROPPED for address in addresses for port in range(101, 161)}
        truths.append(HostTruth(f"h{number}.lab", addresses, ports))
    return truths


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scan under forgeries: every state that was found, how many of each kind were sent, and times in seconds.

    `margin` is how long the scan went on after the last forgery.
    """

    found: States
    sent: dict[str, int]
    duration: float
    margin: float


def scan_among_forgeries(
    lab: Lab,
    jobs: Iterable[Job],
    count: int,
    *,
    pause: float = 0.0,
    first: int = 0,
    kinds: Iterable[str] = (),
    **options: Any,
) -> Outcome:
    """Scan with the SYN engine and its options, while `count` packets of each kind (by default of KINDS) are forged.

    The forger waits for the `first` probes, and pauses for so many seconds after each batch.
    The jobs need two addresses of a family or more, and must last long enough: 1,000,000 packets take some 20 s.
    """
    forger = lab.popen(
        [sys.executable, "-m", "tests.lab.forger", str(count), str(pause), str(first), *kinds],
        side="hosts",
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    )
    assert forger.stdout is not None
    try:
        assert forger.stdout.readline() == "ready\n"
        start = time.monotonic()
        done = lab.fork("observe", stdin=order(jobs, **options), timeout=600).result(check=True)
        end = time.monotonic()
        told = json.loads(forger.communicate(timeout=180)[0])
    finally:
        forger.kill()
        forger.communicate()
    return Outcome(states(done.stdout), told["sent"], end - start, end - told["end"])


def main(count: int, pause: float, first: int, names: list[str]) -> None:
    """Forge, and tell what was sent."""
    known = {**KINDS, **CREDIBLE}
    forger = Forger("lab0", count, {name: known[name] for name in names or KINDS})
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    forger.run(pause, first)
    json.dump({"sent": forger.sent, "end": time.monotonic()}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
