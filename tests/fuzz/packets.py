"""What arrives on raw sockets: TCP, ICMP and IPv6 extension headers, read in batches and by the packet filter."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from portspec.scan.syn.filter import SOURCE_PORTS, filter4, filter6
from portspec.scan.syn.packets import SNAPSHOT, parse
from tests.fuzz.harness import Harness, Limit
from tests.unit.scan.syn.test_filter import FIRST, PROBE4, PROBE6, is_wanted, run
from tests.unit.scan.syn.wire import (
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    ROUTING,
    TCP,
    Probe,
    behind_extensions,
    extended,
    frames,
    pseudo_header,
    rows,
    understood,
    with_checksum,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_FILTERS: Final = {socket.AF_INET: filter4(FIRST), socket.AF_INET6: filter6(FIRST)}
_MOST_PACKETS: Final = 16
_IS_IP6, _IS_SOUND, _IS_MENDED, _IS_CUT = 1, 2, 4, 8


def _pieces(data: bytes) -> list[bytes]:
    """Split an input into packets: before each stands its length, in two bytes."""
    found: list[bytes] = []
    while len(data) > 2 and len(found) < _MOST_PACKETS:
        size = int.from_bytes(data[:2], "big") % 512
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found


def _mended(family: int, packet: bytes) -> bytes:
    """Put right lengths and checksums into a packet, as far as it is one: else hardly any would get further."""
    if len(packet) < 40:
        return packet
    if family == socket.AF_INET:
        header = (packet[0] & 15) * 4
        if not 20 <= header <= len(packet) - 20:
            return packet
        packet = with_checksum(packet[:2] + len(packet).to_bytes(2, "big") + packet[4:header], 10) + packet[header:]
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
    else:
        packet = packet[:4] + (len(packet) - 40).to_bytes(2, "big") + packet[6:]
        walked = behind_extensions(packet + bytes(SNAPSHOT), min(len(packet), SNAPSHOT))
        if walked is None:
            return packet
        header, protocol = walked
        source, destination = packet[8:24], packet[24:40]
    segment = packet[header:]
    pseudo = b"" if protocol == ICMP else pseudo_header(source, destination, protocol, len(segment))
    if protocol == TCP and len(segment) >= 20:
        segment = with_checksum(segment, 16, pseudo)
    elif protocol in {ICMP, ICMP6} and len(segment) >= 8:
        segment = with_checksum(segment, 2, pseudo)
    return packet[:header] + segment


def read_batch(data: bytes) -> None:
    """Read packets as one batch; they are understood as one at a time, and the filter admits what is read.

    The first byte chooses the family, whether checksums are sound, mended, and whether packets are longer than
    what was captured.
    """
    flags = data[0] if data else 0
    family = _FAMILIES[bool(flags & _IS_IP6)]
    packets = _pieces(data[1:])
    if flags & _IS_MENDED:
        packets = [_mended(family, packet) for packet in packets]
    if not packets:
        return
    lengths = [len(packet) + 1000 * bool(flags & _IS_CUT) for packet in packets]
    came = frames(packets, lengths=lengths, is_sound=bool(flags & _IS_SOUND))
    expected = [
        understood(family, row.tobytes(), int(length), is_sound=bool(sound), at=float(at))
        for row, length, sound, at in zip(came.data, came.length, came.is_sound, came.at, strict=True)
    ]
    found = rows(parse(family, came))
    assert found == [answer for answer in expected if answer is not None]
    for answer in found:
        packet = came.data[int(answer.at)].tobytes()
        is_ours = FIRST <= answer.source_port < FIRST + SOURCE_PORTS
        assert (run(_FILTERS[family], packet) == SNAPSHOT) == is_ours


def filter_packet(data: bytes) -> None:
    """Run the packet filters on a packet of any length; they admit what their specification does."""
    for family in _FAMILIES:
        assert run(_FILTERS[family], data) == SNAPSHOT * is_wanted(family, data, FIRST)


_HEADERS: Final = (
    [(HOP_BY_HOP, bytes(6))],
    [(ROUTING, bytes(14)), (DESTINATION, bytes(6))],
    [(FRAGMENT, bytes(6))],
    [(HOP_BY_HOP, bytes(6)), *[(DESTINATION, bytes(6))] * 5],
)


def _answers(probe: Probe) -> Iterator[bytes]:
    for packet in (probe.syn_ack(), probe.rst_ack(), probe.unreachable(), probe.unreachable(sender=probe.own)):
        yield packet
        if probe.family == socket.AF_INET6:
            yield from (extended(packet, headers) for headers in _HEADERS)
    if probe.family == socket.AF_INET:
        yield probe.syn_ack(options=bytes(8), ip_options=bytes(4), payload=b"x")
        yield probe.unreachable(ip_options=bytes(40))


def _packets() -> Iterator[bytes]:
    yield from (*_answers(PROBE4), *_answers(PROBE6))


def _batches() -> Iterator[bytes]:
    for probe in (PROBE4, PROBE6):
        packets = list(_answers(probe))
        whole = b"".join(struct.pack("!H", len(packet)) + packet for packet in packets[:8])
        for flags in (0, _IS_SOUND, _IS_MENDED, _IS_CUT):
            yield bytes([flags | _IS_IP6 * (probe.family == socket.AF_INET6)]) + whole
        for packet in packets:
            yield (
                bytes([_IS_MENDED | _IS_IP6 * (probe.family == socket.AF_INET6)])
                + struct.pack("!H", len(packet))
                + packet
            )


_WORDS: Final = (
    *(bytes([number]) for number in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, TCP, ICMP, ICMP6, 0x12, 0x14, 0xFF)),
    *(number.to_bytes(2, "big") for number in (0x4500, 0x4600, 0x4F00, 0x6000, 0, 0x2000, 0xFFFF, 0x0301, 0x0104)),
    *(PROBE4.packet(), PROBE6.packet(), FIRST.to_bytes(2, "big")),
)

_PACKETS: Final = Harness("packets", read_batch, _batches, _WORDS, longest=2048, calls=Limit(60_000, 200), examples=40)
_FILTER: Final = Harness("filter", filter_packet, _packets, _WORDS, longest=256)

HARNESSES: Final = (_PACKETS, _FILTER)
