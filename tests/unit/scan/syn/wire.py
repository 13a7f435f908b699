"""Packets by the book, one at a time and as bytes: what a probe is, what a host answers, how that is to be understood.

Nothing of the engine's is used to make or to read them: its arrays are held against this. Addresses are bytes, 4 of
IPv4 and 16 of IPv6.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hypothesis import strategies as st

from portspec.scan.syn.packets import SNAPSHOT, Answers, Frames
from portspec.scan.syn.port_states import CLOSED, FILTERED, LOCAL_REJECTION, OPEN

if TYPE_CHECKING:
    from collections.abc import Sequence

SYN, RST, ACK = 0x02, 0x04, 0x10
TCP, ICMP, ICMP6 = 6, 1, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60  # RFC 8200, section 4
EXTENSIONS = 5  # as many as are walked through
DONT_FRAGMENT = 0x4000
MAPPED = bytes(10) + b"\xff\xff"
UNREACHABLE = {4: 3, 16: 1}  # the ICMP type, by the length of an address


class Answer(NamedTuple):
    """One row of Answers, the addresses as 16 bytes."""

    peer: bytes
    own: bytes
    port: int
    source_port: int
    sequence: int
    kind: int
    direct: bool
    at: float


def raw(address: str) -> bytes:
    """Return the 4 or 16 bytes of a literal."""
    return ipaddress.ip_address(address).packed


def packed(address: bytes) -> bytes:
    """Return the 16 bytes of an address of either family."""
    return address if len(address) == 16 else MAPPED + address


def checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071, of data that an odd byte may end; 0 if a right checksum is in it."""
    total = 0
    for index, byte in enumerate(data):
        total += byte if index % 2 else byte << 8
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def with_checksum(data: bytes, index: int, pseudo: bytes = b"") -> bytes:
    """Put the right checksum into its place."""
    before, after = data[:index], data[index + 2 :]
    return before + checksum(pseudo + before + bytes(2) + after).to_bytes(2, "big") + after


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """Return what a transport checksum covers besides its segment (RFC 9293, 3.1; RFC 8200, 8.1)."""
    if len(source) == 4:
        return source + destination + struct.pack("!BBH", 0, protocol, length)
    return source + destination + struct.pack("!I3xB", length, protocol)


def ip(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    fragment: int = DONT_FRAGMENT,
    hops: int = 57,
) -> bytes:
    """Wrap a payload into IPv4 (RFC 791) or IPv6 (RFC 8200); options and fragment are of IPv4 alone."""
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28 | 0xABCDE, len(payload), protocol, hops) + source + destination + payload
    length = 20 + len(options)
    first = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(payload), 0x1234, fragment, hops, protocol, 0)
    return with_checksum(first + source + destination + options, 10) + payload


def tcp(
    source: bytes,
    destination: bytes,
    ports: tuple[int, int],
    numbers: tuple[int, int],
    flags: int,
    *,
    window: int = 29200,
    options: bytes = b"",
    payload: bytes = b"",
    words: int | None = None,
) -> bytes:
    """Make a TCP segment (RFC 9293); `words` is the header's length if it is not to be the right one."""
    offset = 5 + len(options) // 4 if words is None else words
    segment = struct.pack("!HHIIBBHHH", *ports, *numbers, offset << 4, flags, window, 0, 0) + options + payload
    return with_checksum(segment, 16, pseudo_header(source, destination, TCP, len(segment)))


def icmp(source: bytes, destination: bytes, kind: int, code: int, quoted: bytes) -> bytes:
    """Make an ICMP (RFC 792) or ICMPv6 (RFC 4443) error."""
    message = struct.pack("!BBHI", kind, code, 0, 0) + quoted
    pseudo = b"" if len(source) == 4 else pseudo_header(source, destination, ICMP6, len(message))
    return with_checksum(message, 2, pseudo)


Headers = list[tuple[int, bytes]]


def extended(packet: bytes, headers: Headers) -> bytes:
    """Put extension headers into a packet of IPv6: of each its number and what is behind the first two bytes."""
    following, chain = packet[6], b""
    for number, content in reversed(headers):
        length = 0 if number == FRAGMENT else (len(content) + 2) // 8 - 1  # of a fragment it is reserved
        following, chain = number, bytes([following, length]) + content + chain
    size = len(packet) - 40 + len(chain)
    return packet[:4] + struct.pack("!HB", size, following) + packet[7:40] + chain + packet[40:]


def behind_extensions(packet: bytes, end: int) -> tuple[int, int] | None:
    """Walk through the extension headers of IPv6 that lie before `end`; return where they end, and what follows.

    None if there are too many, one is cut off, in the wrong place, or a fragment that is not the whole packet.
    """
    start, following = 40, packet[6]
    for number in range(EXTENSIONS + 1):
        if following not in {HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION}:
            return start, following
        if number == EXTENSIONS or (following == HOP_BY_HOP and number) or start + 8 > end:
            return None
        if following == FRAGMENT and packet[start + 1 : start + 4] != bytes([0, 0, packet[start + 3] & 6]):
            return None
        length = 8 * (packet[start + 1] + 1)
        if start + length > end:
            return None
        start, following = start + length, packet[start]
    raise AssertionError


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe, and what may answer it."""

    own: bytes
    peer: bytes
    source_port: int
    port: int
    sequence: int

    @property
    def family(self) -> int:
        """The address family."""
        return socket.AF_INET if len(self.peer) == 4 else socket.AF_INET6

    def packet(self) -> bytes:
        """Return the probe as it goes out: what a client without extras sends."""
        size = 1460 if len(self.own) == 4 else 1440
        ports, numbers, options = (self.source_port, self.port), (self.sequence, 0), struct.pack("!BBH", 2, 4, size)
        return self.wrapped(tcp(self.own, self.peer, ports, numbers, SYN, window=64240, options=options))

    def wrapped(self, segment: bytes) -> bytes:
        """Return a segment as IP packet to the peer, marked as the engine marks it."""
        packet = ip(self.own, self.peer, TCP, segment, hops=64)
        if len(self.own) == 16:
            return struct.pack("!I", 6 << 28) + packet[4:]
        identity = (self.sequence & 0xFFFF | 1).to_bytes(2, "big")
        return with_checksum(packet[:4] + identity + packet[6:20], 10) + packet[20:]

    def reply(
        self,
        flags: int,
        *,
        ahead: int = 1,
        options: bytes = b"",
        payload: bytes = b"",
        ip_options: bytes = b"",
        fragment: int = DONT_FRAGMENT,
        words: int | None = None,
    ) -> bytes:
        """Return a TCP answer, which acknowledges `ahead` of the sequence number."""
        numbers = (0x89ABCDEF if flags & SYN else 0, (self.sequence + ahead) % 2**32)
        ports = (self.port, self.source_port)
        segment = tcp(self.peer, self.own, ports, numbers, flags, options=options, payload=payload, words=words)
        return ip(self.peer, self.own, TCP, segment, options=ip_options, fragment=fragment)

    def syn_ack(self, *, options: bytes = b"", payload: bytes = b"", ip_options: bytes = b"") -> bytes:
        """Return the answer of an open port."""
        return self.reply(SYN | ACK, options=options, payload=payload, ip_options=ip_options)

    def rst_ack(self, *, payload: bytes = b"", ip_options: bytes = b"") -> bytes:
        """Return the answer of a closed port."""
        return self.reply(RST | ACK, payload=payload, ip_options=ip_options)

    def unreachable(
        self,
        code: int = 1,
        *,
        kind: int | None = None,
        sender: bytes | None = None,
        receiver: bytes | None = None,
        quoted: bytes | None = None,
        ip_options: bytes = b"",
    ) -> bytes:
        """Return an ICMP error about the probe, from the peer and with all of the probe unless told."""
        source, destination = sender or self.peer, receiver or self.own
        kind = UNREACHABLE[len(source)] if kind is None else kind
        message = icmp(source, destination, kind, code, self.packet() if quoted is None else quoted)
        return ip(source, destination, ICMP if len(source) == 4 else ICMP6, message, options=ip_options)

    def answer(self, kind: int, *, ahead: int = 1, direct: bool = True, at: float = 0.0) -> Answer:
        """Return how an answer is to be understood."""
        sequence = (self.sequence + ahead - 1) % 2**32
        return Answer(
            packed(self.peer), packed(self.own), self.port, self.source_port, sequence, kind, direct=direct, at=at
        )


@dataclass(frozen=True, slots=True)
class Exchange:
    """A probe, a packet that answers it, and how that is to be understood (but for the time)."""

    probe: Probe
    packet: bytes
    answer: Answer


def frames(
    packets: Sequence[bytes], *, lengths: Sequence[int] | None = None, is_sound: bool | Sequence[bool] = False
) -> Frames:
    """Return packets as they are received, one each second, followed by the remains of older ones."""
    count = len(packets)
    data = np.random.default_rng(count).integers(0, 256, (count, SNAPSHOT), np.uint8)
    for row, packet in zip(data, packets, strict=True):
        some = packet[:SNAPSHOT]
        row[: len(some)] = np.frombuffer(some, np.uint8)
    whole = [len(packet) for packet in packets] if lengths is None else lengths
    sound = np.full(count, is_sound) if isinstance(is_sound, bool) else np.array(is_sound, np.bool_)
    return Frames(data, np.array(whole, np.uint32), sound, np.arange(count, dtype=np.float64))


def rows(answers: Sequence[Answers]) -> list[Answer]:
    """Return what was read out of packets, one by one, as they came."""
    found = []
    for part in answers:
        for number in range(len(part)):
            peer = struct.pack("<QQ", int(part.peer_high[number]), int(part.peer_low[number]))
            own = struct.pack("<QQ", int(part.own_high[number]), int(part.own_low[number]))
            ports = int(part.port[number]), int(part.source_port[number])
            rest = int(part.sequence[number]), int(part.kind[number])
            found.append(Answer(peer, own, *ports, *rest, bool(part.direct[number]), float(part.at[number])))
    return sorted(found, key=lambda answer: answer.at)


def understood(family: int, data: bytes, length: int, *, is_sound: bool, at: float) -> Answer | None:
    """Read one packet, of which `data` are the first bytes and more: the specification of parse(), step by step."""
    if family == socket.AF_INET:
        header, total = (data[0] & 15) * 4, int.from_bytes(data[2:4], "big")
        if data[0] >> 4 != 4 or not 20 <= header <= total <= length:
            return None
        if int.from_bytes(data[6:8], "big") & 0x3FFF or checksum(data[:header]):
            return None
        protocol, source, destination = data[9], data[12:16], data[16:20]
    else:
        total = 40 + int.from_bytes(data[4:6], "big")
        if data[0] >> 4 != 6 or total > length:
            return None
        walked = behind_extensions(data, min(total, SNAPSHOT))
        if walked is None:
            return None
        header, protocol = walked
        if header + {TCP: 20, ICMP6: 56}.get(protocol, 0) > SNAPSHOT:
            return None
        source, destination = data[8:24], data[24:40]
    segment, size = data[header:total], total - header
    if protocol == TCP:
        answer = _segment(source, destination, segment, size, at)
    elif protocol == (ICMP if family == socket.AF_INET else ICMP6):
        answer = _error(source, destination, segment, size, at)
    else:
        return None
    pseudo = b"" if protocol == ICMP else pseudo_header(source, destination, protocol, size)
    is_checked = not is_sound and total <= SNAPSHOT
    return None if is_checked and checksum(pseudo + segment) else answer


def _segment(source: bytes, destination: bytes, segment: bytes, size: int, at: float) -> Answer | None:
    if size < 20 or not 20 <= (segment[12] >> 4) * 4 <= size:
        return None
    kind = {SYN | ACK: OPEN, RST | ACK: CLOSED}.get(segment[13] & (SYN | RST | ACK))
    if kind is None:
        return None
    port, source_port, _, acknowledged = struct.unpack("!HHII", segment[:12])
    sequence = (acknowledged - 1) % 2**32
    return Answer(packed(source), packed(destination), port, source_port, sequence, kind, direct=True, at=at)


def _error(source: bytes, destination: bytes, message: bytes, size: int, at: float) -> Answer | None:
    if size < 8 or message[0] != UNREACHABLE[len(source)]:
        return None
    quoted, left = message[8:], size - 8
    if len(source) == 4:
        if message[1] == 4 or left < 20:
            return None
        header, protocol = (quoted[0] & 15) * 4, quoted[9]
        if quoted[0] >> 4 != 4 or header < 20 or int.from_bytes(quoted[6:8], "big") & 0x1FFF:
            return None
        own, peer = quoted[12:16], quoted[16:20]
    else:
        if left < 40 or quoted[0] >> 4 != 6:
            return None
        header, protocol, own, peer = 40, quoted[6], quoted[8:24], quoted[24:40]
    if protocol != TCP or left < header + 8 or own != destination:
        return None
    source_port, port, sequence = struct.unpack("!HHI", quoted[header : header + 8])
    is_direct = source == peer
    kind = LOCAL_REJECTION if source == own and not is_direct else FILTERED
    return Answer(packed(peer), packed(own), port, source_port, sequence, kind, direct=is_direct, at=at)


# What hypothesis makes.

PORTS = st.integers(0, 65535)
NUMBERS = st.integers(0, 2**32 - 1)
ADDRESSES4 = st.binary(min_size=4, max_size=4)
ADDRESSES6 = st.binary(min_size=16, max_size=16).filter(lambda address: not address.startswith(MAPPED))


def _probes(addresses: st.SearchStrategy[bytes]) -> st.SearchStrategy[Probe]:
    return st.builds(Probe, addresses, addresses, PORTS, PORTS, NUMBERS)


PROBES4 = _probes(ADDRESSES4)
PROBES6 = _probes(ADDRESSES6)
PROBES = PROBES4 | PROBES6


def options(most: int = 10) -> st.SearchStrategy[bytes]:
    """Return options of whole words: whatever is in them is nobody's business here."""
    return st.integers(0, most).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))


def chains(most: int = EXTENSIONS, longest: int = 3) -> st.SearchStrategy[Headers]:
    """Return extension headers of IPv6 that are right: up to `most`, each of up to `longest` units of 8 bytes."""
    content = st.integers(1, longest).flatmap(lambda units: st.binary(min_size=8 * units - 2, max_size=8 * units - 2))
    whole = st.binary(min_size=4, max_size=4).map(lambda identity: bytes(2) + identity)
    others = st.tuples(st.sampled_from([ROUTING, DESTINATION]), content) | st.tuples(st.just(FRAGMENT), whole)
    first = st.lists(st.tuples(st.just(HOP_BY_HOP), content), max_size=min(1, most))
    return first.flatmap(lambda begun: st.lists(others, max_size=most - len(begun)).map(lambda more: begun + more))


@st.composite
def exchanges(draw: st.DrawFn, probes: st.SearchStrategy[Probe] = PROBES, *, most: int = 40) -> Exchange:
    """Make a probe and what answers it: any of the three kinds, with all that a host may add; `most` bytes of data."""
    probe = draw(probes)
    ip_options = draw(options()) if len(probe.own) == 4 else b""
    kind = draw(st.sampled_from([OPEN, CLOSED, FILTERED]))
    if kind == OPEN:
        payload = draw(st.binary(max_size=most))
        packet = probe.syn_ack(options=draw(options()), payload=payload, ip_options=ip_options)
        return Exchange(probe, packet, probe.answer(OPEN))
    if kind == CLOSED:
        packet = probe.rst_ack(payload=draw(st.binary(max_size=most)), ip_options=ip_options)
        return Exchange(probe, packet, probe.answer(CLOSED))
    whole = probe.packet()
    quoted = whole[: draw(st.integers(len(whole) - 16, len(whole)))] + draw(st.binary(max_size=most))
    code = draw(st.sampled_from([0, 1, 2, 3, 9, 10, 13] if len(probe.own) == 4 else [0, 1, 2, 3, 4, 5, 6]))
    others = ADDRESSES4 if len(probe.own) == 4 else ADDRESSES6
    sender = draw(st.just(probe.peer) | st.just(probe.own) | others)
    packet = probe.unreachable(code, sender=sender, quoted=quoted, ip_options=ip_options)
    is_direct = sender == probe.peer
    answer = probe.answer(LOCAL_REJECTION if sender == probe.own and not is_direct else FILTERED, direct=is_direct)
    return Exchange(probe, packet, answer)
