from __future__ import annotations

import socket
import struct
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.syn.packets import SNAPSHOT, Answers, Frames, Probes, Template, pack, parse, partial_checksum
from portspec.scan.syn.port_states import CLOSED, FILTERED, LOCAL_REJECTION, OPEN
from tests.unit.factories import MODEST
from tests.unit.scan.syn.wire import (
    ACK,
    ADDRESSES4,
    ADDRESSES6,
    DESTINATION,
    DONT_FRAGMENT,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    PROBES,
    PROBES4,
    PROBES6,
    ROUTING,
    RST,
    SYN,
    TCP,
    Answer,
    Exchange,
    Headers,
    Probe,
    chains,
    checksum,
    exchanges,
    extended,
    frames,
    icmp,
    ip,
    options,
    packed,
    pseudo_header,
    raw,
    rows,
    tcp,
    understood,
    with_checksum,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROBE4 = Probe(raw("192.0.2.9"), raw("198.51.100.77"), 61009, 443, 0x12345678)
PROBE6 = Probe(raw("2001:db8::9"), raw("2001:db8:1:2::4d"), 61010, 8443, 0xFEDCBA98)
BOTH = pytest.mark.parametrize("probe", [PROBE4, PROBE6], ids=["ip4", "ip6"])
SIDES = pytest.mark.parametrize(
    "make", [Probe.syn_ack, Probe.rst_ack, Probe.unreachable], ids=["open", "closed", "icmp"]
)
ROUTER4, ROUTER6 = raw("203.0.113.1"), raw("2001:db8:ffff::1")


def columns(probes: Sequence[Probe]) -> Probes:
    """Return probes as the engine has them."""
    own, peer = ([packed(address) for address in side] for side in zip(*((p.own, p.peer) for p in probes), strict=True))
    return Probes(
        own=np.frombuffer(b"".join(own), np.uint8).reshape(-1, 16),
        peer=np.frombuffer(b"".join(peer), np.uint8).reshape(-1, 16),
        partial=np.array([partial_checksum(*pair) for pair in zip(own, peer, strict=True)], np.uint32),
        source_port=np.array([probe.source_port for probe in probes], np.uint16),
        port=np.array([probe.port for probe in probes], np.uint16),
        sequence=np.array([probe.sequence for probe in probes], np.uint32),
        target=np.arange(len(probes), dtype=np.intp),
    )


def filled(probes: Sequence[Probe]) -> list[bytes]:
    """Return probes of one family as the bytes that the engine makes of them."""
    template = Template(probes[0].family, len(probes))
    template.fill(columns(probes))
    return [row.tobytes() for row in template.packets]


def parsed(packet: bytes, *, length: int | None = None, is_sound: bool = False) -> list[Answer]:
    """Read one packet, by its first byte's family."""
    family = socket.AF_INET if packet[0] >> 4 == 4 else socket.AF_INET6
    return rows(parse(family, frames([packet], lengths=None if length is None else [length], is_sound=is_sound)))


def repaired(packet: bytes) -> bytes:
    """Make the checksums of a damaged packet right, as far as it is still one."""
    if packet[0] >> 4 == 4:
        start = (packet[0] & 15) * 4
        end = int.from_bytes(packet[2:4], "big")
        if not 12 <= start <= end:
            return packet
        packet = with_checksum(packet[:start], 10) + packet[start:]
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
    else:
        start, end = 40, 40 + int.from_bytes(packet[4:6], "big")
        protocol, source, destination = packet[6], packet[8:24], packet[24:40]
    segment, rest = packet[start:end], packet[end:]
    pseudo = b"" if protocol == ICMP else pseudo_header(source, destination, protocol, len(segment))
    index = {TCP: 16, ICMP: 2, ICMP6: 2}.get(protocol)
    if index is None or len(segment) < index + 2:
        return packet
    return packet[:start] + with_checksum(segment, index, pseudo) + rest


# Probes.


@MODEST
@given(probes=st.lists(PROBES4, min_size=1, max_size=5))
def test_ip4_probe_byte_by_byte(probes: list[Probe]) -> None:
    """An IPv4 probe is a SYN as a client sends it, its IP header's checksum left to the kernel."""
    for probe, packet in zip(probes, filled(probes), strict=True):
        first, service, total, identity, fragment, hops, protocol, summed = struct.unpack("!BBHHHBBH", packet[:12])
        assert (first, service, total, len(packet)) == (0x45, 0, 44, 44)
        assert identity != 0  # with 0 the kernel would choose one
        assert identity | 1 == probe.sequence & 0xFFFF | 1
        assert (fragment, hops, protocol, summed) == (DONT_FRAGMENT, 64, 6, 0)
        assert (packet[12:16], packet[16:20]) == (probe.own, probe.peer)
        assert_segment(probe, packet[20:], 1460)


@MODEST
@given(probes=st.lists(PROBES6, min_size=1, max_size=5))
def test_ip6_probe_byte_by_byte(probes: list[Probe]) -> None:
    """An IPv6 probe is a SYN as a client sends it."""
    for probe, packet in zip(probes, filled(probes), strict=True):
        first, length, following, hops = struct.unpack("!IHBB", packet[:8])
        assert (first, length, following, hops, len(packet)) == (6 << 28, 24, 6, 64, 64)
        assert (packet[8:24], packet[24:40]) == (probe.own, probe.peer)
        assert_segment(probe, packet[40:], 1440)


def assert_segment(probe: Probe, segment: bytes, size: int) -> None:
    """Assert that a TCP segment is the probe's: ports, number, SYN alone, one option, a right checksum."""
    source_port, port, sequence, acknowledged, offset, flags = struct.unpack("!HHIIBB", segment[:14])
    window, _, urgent, kind, length, maximum = struct.unpack("!HHHBBH", segment[14:])
    assert (source_port, port, sequence, acknowledged) == (probe.source_port, probe.port, probe.sequence, 0)
    assert (offset >> 4, offset & 15, flags, window, urgent) == (6, 0, SYN, 64240, 0)
    assert (kind, length, maximum) == (2, 4, size)
    assert checksum(pseudo_header(probe.own, probe.peer, 6, 24) + segment) == 0


@MODEST
@given(probes=st.lists(PROBES4, min_size=1, max_size=5) | st.lists(PROBES6, min_size=1, max_size=5))
def test_probe_is_what_the_book_says(probes: list[Probe]) -> None:
    """A probe equals the one that is put together field by field, but for what the kernel fills in."""
    for probe, packet in zip(probes, filled(probes), strict=True):
        expected = probe.packet()
        if probe.family == socket.AF_INET:
            expected = expected[:10] + bytes(2) + expected[12:]
        assert packet == expected


@pytest.mark.parametrize("number", [0, 1, 0xFFFF, 0x10000, 0xFFFE0001, 0xFFFFFFFF])
@pytest.mark.parametrize("fill", [0, 0xFF])
@pytest.mark.parametrize("length", [4, 16])
def test_checksum_where_it_folds(length: int, fill: int, number: int) -> None:
    """The checksum is right where sums are least and greatest: addresses and ports of zeros and of ones."""
    address = bytes([fill]) * length
    probe = Probe(address, address, fill << 8 | fill, fill << 8 | fill, number)
    start = 20 if length == 4 else 40
    (packet,) = filled([probe])
    assert checksum(pseudo_header(probe.own, probe.peer, 6, 24) + packet[start:]) == 0


@BOTH
def test_checksum_for_every_port(probe: Probe) -> None:
    """Over all ports the checksum goes through all its values, and is right for each."""
    one = columns([probe])
    every = Probes(*(np.repeat(getattr(one, field.name), 65536, axis=0) for field in fields(one)))
    template = Template(probe.family, 65536)
    template.fill(replace(every, port=np.arange(65536, dtype=np.uint16)))
    segment = replace(probe, port=0).packet()[-24:]
    others = pseudo_header(probe.own, probe.peer, TCP, 24) + segment[:16] + segment[18:]
    found = template.packets[:, -8].astype(int) << 8 | template.packets[:, -7]
    assert len(set(found.tolist())) >= 0xFFFF
    assert not ((sum(struct.unpack(f"!{len(others) // 2}H", others)) + np.arange(65536) + found) % 0xFFFF).any()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_full_batch(family: int) -> None:
    """Each of 2,000 probes in one batch gets its own bytes, and a right checksum."""
    random = np.random.default_rng(family)
    length = 4 if family == socket.AF_INET else 16
    probes = [
        Probe(random.bytes(length), random.bytes(length), int(source_port), int(port), int(sequence))
        for source_port, port, sequence in random.integers(0, [1 << 16, 1 << 16, 1 << 32], (2000, 3))
    ]
    start = 10 if family == socket.AF_INET else 0
    for probe, packet in zip(probes, filled(probes), strict=True):
        assert packet[start + 2 :] == probe.packet()[start + 2 :]


@BOTH
def test_template_is_used_again(probe: Probe) -> None:
    """A batch smaller than the one before changes the first rows and no others."""
    template = Template(probe.family, 4)
    others = [replace(probe, port=port) for port in range(4)]
    template.fill(columns(others))
    template.fill(columns([probe]))
    again = Template(probe.family, 4)
    again.fill(columns([probe, *others[1:]]))
    assert np.array_equal(template.packets, again.packets)
    assert template.length == template.packets.shape[1] == len(probe.packet())


@MODEST
@given(address=ADDRESSES4 | ADDRESSES6)
def test_pack_reads_literals(address: bytes) -> None:
    """A literal becomes 16 bytes, those of IPv4 mapped into IPv6."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    assert pack(socket.inet_ntop(family, address)) == packed(address)


@pytest.mark.parametrize("text", ["", "192.0.2", "192.0.2.256", "example.org", "fe80::1%eth0", "2001:db8:::"])
def test_pack_refuses_what_is_no_literal(text: str) -> None:
    """What is no address is an error, and not another address."""
    with pytest.raises(OSError, match="illegal IP address string"):
        pack(text)


# There and back.


@MODEST
@given(exchange=exchanges())
def test_answer_is_read(exchange: Exchange) -> None:
    """Whatever options, data, codes and senders an answer has, its columns are the probe's."""
    assert parsed(exchange.packet) == [exchange.answer]


@MODEST
@given(
    several=st.lists(exchanges(PROBES4), min_size=2, max_size=12)
    | st.lists(exchanges(PROBES6), min_size=2, max_size=12),
    damaged=st.sets(st.integers(0, 11)),
)
def test_batch_is_read_row_by_row(several: list[Exchange], damaged: set[int]) -> None:
    """In a batch of all kinds and lengths each is read by itself, with its own time, and the damaged are left out."""
    packets = [exchange.packet for exchange in several]
    for number in damaged & set(range(len(packets))):
        packets[number] = packets[number][:-1] + bytes([packets[number][-1] ^ 1])
    expected = [
        exchange.answer._replace(at=float(number)) for number, exchange in enumerate(several) if number not in damaged
    ]
    assert rows(parse(several[0].probe.family, frames(packets))) == expected


@BOTH
def test_answers_to_what_the_template_made(probe: Probe) -> None:
    """The engine's own bytes, quoted whole in an ICMP error, give the probe back."""
    (packet,) = filled([probe])
    assert parsed(probe.unreachable(quoted=packet)) == [probe.answer(FILTERED)]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_nothing_in_nothing_out(family: int) -> None:
    """A batch without packets has no answers, and one without answers neither."""
    assert parse(family, frames([])) == []
    assert parse(family, frames([bytes(60), bytes(176), b"\xff" * 176])) == []


@BOTH
def test_other_family_is_left_out(probe: Probe) -> None:
    """A packet of the one family is not read as the other."""
    packets = [probe.syn_ack(), probe.rst_ack(), probe.unreachable()]
    other = socket.AF_INET6 if probe.family == socket.AF_INET else socket.AF_INET
    assert parse(other, frames(packets, is_sound=True)) == []


@BOTH
def test_probe_itself_is_no_answer(probe: Probe) -> None:
    """What a scan of this machine sees of its own probes is left out."""
    assert parsed(probe.packet()) == []


@BOTH
def test_flags_decide(probe: Probe) -> None:
    """SYN and ACK without RST is open, RST and ACK without SYN closed, all else nothing; other flags do not matter."""
    kinds = {SYN | ACK: OPEN, RST | ACK: CLOSED}
    expected = [
        probe.answer(kinds[flags & (SYN | RST | ACK)], at=float(flags))
        for flags in range(256)
        if flags & (SYN | RST | ACK) in kinds
    ]
    assert rows(parse(probe.family, frames([probe.reply(flags) for flags in range(256)]))) == expected


@BOTH
def test_rst_that_does_not_count_the_syn(probe: Probe) -> None:
    """The sequence number is always one below what is acknowledged; whom that proves is decided elsewhere."""
    assert parsed(probe.reply(RST | ACK, ahead=0)) == [probe.answer(CLOSED, ahead=0)]
    probe = replace(probe, sequence=0)
    assert parsed(probe.reply(RST | ACK, ahead=0)) == [probe.answer(CLOSED, ahead=0)]
    assert probe.answer(CLOSED, ahead=0).sequence == 0xFFFFFFFF


# Lengths.


@BOTH
@SIDES
@pytest.mark.parametrize("is_sound", [False, True])
def test_cut_packet_is_left_out(probe: Probe, make: Callable[[Probe], bytes], *, is_sound: bool) -> None:
    """A packet of which a part is missing is no answer, wherever it was cut and whatever stands behind the cut."""
    packet = make(probe)
    lengths = range(len(packet))
    cut = frames([packet[:length] for length in lengths], is_sound=is_sound)
    assert parse(probe.family, cut) == []
    whole = frames([packet] * len(packet), lengths=lengths, is_sound=is_sound)
    assert parse(probe.family, whole) == []


@BOTH
@SIDES
@pytest.mark.parametrize("padding", [1, 2, 6, 46, 500])
def test_padding_is_accepted(probe: Probe, make: Callable[[Probe], bytes], padding: int) -> None:
    """What a link adds behind a short packet is neither read nor summed."""
    packet = make(probe)
    expected = parsed(packet)
    assert len(expected) == 1
    assert parsed(packet + b"\xa5" * padding) == expected


@BOTH
def test_odd_lengths(probe: Probe) -> None:
    """The checksum is right for data of every length, whatever follows it in memory, and covers its last byte."""
    data = bytes(range(0xF0, 0xC8, -1))
    for size in range(40):
        payload = data[:size]
        assert parsed(probe.syn_ack(payload=payload)) == [probe.answer(OPEN)]
        assert parsed(probe.rst_ack(payload=payload)) == [probe.answer(CLOSED)]
        assert parsed(probe.unreachable(quoted=probe.packet() + payload)) == [probe.answer(FILTERED)]
        changed = probe.syn_ack(payload=payload)
        assert parsed(changed[:-1] + bytes([changed[-1] ^ 1])) == []


@BOTH
def test_longest_packet_that_is_checked(probe: Probe) -> None:
    """A packet of SNAPSHOT bytes is checked to its last byte; of a longer one the sequence number has to tell."""
    room = SNAPSHOT - len(probe.syn_ack())
    exact = probe.syn_ack(payload=bytes(room))
    longer = probe.syn_ack(payload=bytes(room + 1))
    assert (len(exact), parsed(exact)) == (SNAPSHOT, [probe.answer(OPEN)])
    assert parsed(exact[:-1] + b"\x01") == []
    assert (len(longer), parsed(longer)) == (SNAPSHOT + 1, [probe.answer(OPEN)])
    assert parsed(longer[:-1] + b"\x01") == [probe.answer(OPEN)]


@BOTH
@SIDES
def test_packet_longer_than_the_snapshot_counts(probe: Probe, make: Callable[[Probe], bytes]) -> None:
    """Answers of up to a full frame are read, though their end is not seen."""
    if make is Probe.unreachable:
        packet = probe.unreachable(quoted=probe.packet() + bytes(1200))
    else:
        packet = probe.reply(SYN | ACK if make is Probe.syn_ack else RST | ACK, payload=bytes(1400))
    assert parsed(packet) == [answer._replace(at=0.0) for answer in parsed(make(probe))]
    assert parsed(packet, length=len(packet) - 1) == []


def test_longest_headers_fit() -> None:
    """An ICMP error with all options in both IP headers is read, and checked."""
    quoted = with_options(PROBE4.packet()[:28], b"\x01" * 40)
    packet = PROBE4.unreachable(quoted=quoted, ip_options=b"\x01" * 40)
    assert (len(packet), parsed(packet)) == (136, [PROBE4.answer(FILTERED)])
    assert parsed(packet[:-1] + bytes([packet[-1] ^ 1])) == []


@pytest.mark.parametrize("total", [0, 19, 20, 39, 43, 45, 46, 65535])
def test_ip4_total_length_has_to_fit(total: int) -> None:
    """An IPv4 length below the headers, beyond the packet, or of another segment is not believed."""
    packet = PROBE4.syn_ack(options=b"\x01" * 4)
    assert len(packet) == 44
    changed = with_checksum(packet[:2] + total.to_bytes(2, "big") + packet[4:20], 10) + packet[20:]
    assert parsed(changed) == []
    if total > 44:
        assert parsed(changed, is_sound=True) == []


@pytest.mark.parametrize("size", [0, 1, 7, 8, 19, 20, 23, 25, 26, 65535])
@pytest.mark.parametrize("following", [TCP, ICMP6])
def test_ip6_payload_length_has_to_fit(size: int, following: int) -> None:
    """An IPv6 length below the headers, beyond the packet, or of another segment is not believed."""
    packet = PROBE6.syn_ack(options=b"\x01" * 4)
    changed = packet[:4] + struct.pack("!HB", size, following) + packet[7:]
    assert parsed(changed) == []
    if size > 24 or size < 20 or following == ICMP6:
        assert parsed(changed, is_sound=True) == []


# IP headers.


def with_options(packet: bytes, some: bytes) -> bytes:
    """Return an IPv4 packet with options."""
    first = bytes([0x40 | 5 + len(some) // 4, packet[1]]) + struct.pack("!H", len(packet) + len(some)) + packet[4:20]
    return with_checksum(first + some, 10) + packet[20:]


@SIDES
@pytest.mark.parametrize("size", range(0, 44, 4))
def test_ip4_options_are_skipped(make: Callable[[Probe], bytes], size: int) -> None:
    """An answer with IPv4 options of any length is read as without."""
    packet = with_options(make(PROBE4), bytes(range(size)))
    assert parsed(packet) == parsed(make(PROBE4)) != []


def test_ip4_options_that_differ_within_a_batch() -> None:
    """Packets with and without options in one batch are all read, in order of their coming."""
    packets = [with_options(PROBE4.syn_ack(), bytes(4 * (number % 11))) for number in range(40)]
    found = rows(parse(socket.AF_INET, frames(packets)))
    assert found == [PROBE4.answer(OPEN, at=float(number)) for number in range(40)]


@SIDES
@pytest.mark.parametrize("is_sound", [False, True])
def test_ip4_header_is_always_checked(make: Callable[[Probe], bytes], *, is_sound: bool) -> None:
    """A bit changed anywhere in the IPv4 header undoes the answer, even where hardware vouches for the segment."""
    packet = make(PROBE4)
    changed = [
        packet[:index] + bytes([packet[index] ^ 1 << bit]) + packet[index + 1 :]
        for index in range(20)
        for bit in range(8)
    ]
    assert parse(socket.AF_INET, frames(changed, is_sound=is_sound)) == []


@pytest.mark.parametrize("words", [0, 1, 2, 3, 4, 12, 15])
def test_ip4_header_length_has_to_fit(words: int) -> None:
    """An IPv4 header that is shorter than its fields or longer than the packet is none, with a right checksum too."""
    packet = bytes([0x40 | words]) + PROBE4.rst_ack()[1:]
    changed = with_checksum(packet[: 4 * words], 10) + packet[4 * words :] if words > 2 else packet
    assert parsed(changed) == []
    assert parsed(changed, is_sound=True) == []


@SIDES
@pytest.mark.parametrize("fragment", [0x0001, 0x0002, 0x1FFF, 0x2000, 0x2001, 0x6000, 0x4001])
def test_fragment_is_no_answer(make: Callable[[Probe], bytes], fragment: int) -> None:
    """A fragment, the first one with more to come or a later one, is left out."""
    packet = make(PROBE4)
    changed = with_checksum(packet[:6] + fragment.to_bytes(2, "big") + packet[8:20], 10) + packet[20:]
    assert parsed(changed) == []
    assert parsed(changed, is_sound=True) == []


@pytest.mark.parametrize("fragment", [0, DONT_FRAGMENT])
def test_leave_to_fragment_does_not_matter(fragment: int) -> None:
    """A whole packet is read whether it might have been fragmented or not."""
    assert parsed(PROBE4.reply(SYN | ACK, fragment=fragment)) == [PROBE4.answer(OPEN)]


@BOTH
@pytest.mark.parametrize("protocol", [0, 2, 17, 41, 43, 44, 47, 50, 51, 60, 132, 255])
def test_other_protocols_are_left_out(probe: Probe, protocol: int) -> None:
    """Neither other transports nor IPv6 extension headers are looked into."""
    start = 20 if probe.family == socket.AF_INET else 40
    for packet in (probe.syn_ack(), probe.unreachable()):
        assert parsed(ip(probe.peer, probe.own, protocol, packet[start:]), is_sound=True) == []


@BOTH
def test_icmp_of_the_other_family_is_left_out(probe: Probe) -> None:
    """ICMP is not carried by IPv6, nor ICMPv6 by IPv4."""
    kind, protocol = (1, ICMP6) if probe.family == socket.AF_INET else (3, ICMP)
    message = icmp(probe.peer, probe.own, kind, 1, probe.packet())
    assert parsed(ip(probe.peer, probe.own, protocol, message), is_sound=True) == []


# Extension headers of IPv6.

NOTHING = (DESTINATION, bytes(6))
PARTS = [b"\0\x01", b"\0\x08", b"\xff\xf8", b"\x80\0"]  # flags and offset of a fragment header


@MODEST
@given(exchange=exchanges(PROBES6, most=8), headers=chains(longest=2))
def test_answer_behind_extension_headers_is_the_same(exchange: Exchange, headers: Headers) -> None:
    """Whatever right extension headers an answer has, it is understood as without them."""
    assert parsed(extended(exchange.packet, headers)) == parsed(exchange.packet) == [exchange.answer]


@MODEST
@given(several=st.lists(st.tuples(exchanges(PROBES6, most=8), chains(longest=2)), min_size=1, max_size=12))
def test_extension_headers_that_differ_within_a_batch(several: list[tuple[Exchange, Headers]]) -> None:
    """Each packet of a batch is read behind its own headers."""
    found = parse(socket.AF_INET6, frames([extended(exchange.packet, headers) for exchange, headers in several]))
    assert rows(found) == [exchange.answer._replace(at=float(number)) for number, (exchange, _) in enumerate(several)]


@SIDES
@pytest.mark.parametrize("following", [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION])
def test_segment_behind_an_extension_header_is_checked(make: Callable[[Probe], bytes], following: int) -> None:
    """A byte changed behind the header, or in an address, undoes the answer; one in the header is nobody's business."""
    packet = extended(make(PROBE6), [(following, bytes(6))])
    assert len(parsed(packet)) == 1
    for index in (*range(8, 40), *range(48, len(packet))):
        assert parsed(packet[:index] + bytes([packet[index] ^ 1]) + packet[index + 1 :]) == []
    assert len(parsed(packet[:44] + b"look" + packet[48:])) == 1


@SIDES
def test_longest_extension_headers(make: Callable[[Probe], bytes]) -> None:
    """An answer is read as long as what is needed of it lies within the snapshot, and left out behind that."""
    needed = 56 if make is Probe.unreachable else 20
    for units in range(1, 40):
        packet = extended(make(PROBE6), [(DESTINATION, bytes(8 * units - 2))])
        assert len(parsed(packet, is_sound=True)) == (40 + 8 * units + needed <= SNAPSHOT)


@SIDES
def test_number_of_extension_headers(make: Callable[[Probe], bytes]) -> None:
    """Five headers are walked through, as many as RFC 8200 puts there, and no more."""
    for number in range(9):
        assert len(parsed(extended(make(PROBE6), [NOTHING] * number))) == (number <= 5)


@SIDES
@pytest.mark.parametrize(
    "headers",
    [
        *([(FRAGMENT, part + bytes(4))] for part in PARTS),
        *([NOTHING, (FRAGMENT, part + bytes(4))] for part in PARTS),
        [NOTHING, (HOP_BY_HOP, bytes(6))],
        [(HOP_BY_HOP, bytes(6)), (HOP_BY_HOP, bytes(6))],
        [(51, bytes(10))],
        [(59, bytes(6))],
        [(135, bytes(6))],
    ],
)
def test_nonsense_of_extension_headers_is_left_out(make: Callable[[Probe], bytes], headers: Headers) -> None:
    """A part of a packet is no answer, nor what is behind late hop-by-hop options, or behind any other header."""
    assert parsed(extended(make(PROBE6), headers), is_sound=True) == []


@SIDES
@pytest.mark.parametrize("following", [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION])
def test_chain_that_is_cut_off_is_left_out(make: Callable[[Probe], bytes], following: int) -> None:
    """A header that says to be longer than the packet, and a packet that ends within its chain, are no answers."""
    packet = extended(make(PROBE6), [(following, bytes(6)), NOTHING])
    for length in range(1, 256):
        assert parsed(packet[:41] + bytes([length]) + packet[42:]) == []
    for size in range(40, len(packet)):
        cut = packet[:4] + struct.pack("!H", size - 40) + packet[6:size]
        assert parsed(cut) == []
        assert parsed(packet[:size]) == []


@MODEST
@given(heads=st.lists(st.binary(min_size=SNAPSHOT, max_size=SNAPSHOT), min_size=1, max_size=8), data=st.data())
def test_random_chains_are_read_by_the_book(heads: list[bytes], data: st.DataObject) -> None:
    """Bytes that claim to be extension headers raise nothing, whatever is in them."""
    kinds = st.sampled_from([HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, TCP, ICMP6])
    packets = []
    for head in heads:
        chain = b"".join(bytes([data.draw(kinds), data.draw(st.integers(0, 2))]) + head[n : n + 6] for n in range(5))
        size = data.draw(st.integers(0, SNAPSHOT))
        packets.append(
            b"\x60" + head[1:4] + struct.pack("!HB", size, data.draw(kinds)) + head[7:40] + chain + head[80:]
        )
    for is_sound in (False, True):
        assert_understood(socket.AF_INET6, frames(packets, is_sound=is_sound))


@pytest.mark.parametrize("following", [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION])
def test_quote_with_extension_headers_is_left_out(following: int) -> None:
    """An error that quotes a packet with extension headers is about none of ours, which have none."""
    quoted = extended(PROBE6.packet(), [(following, bytes(6))])
    assert parsed(PROBE6.unreachable(quoted=quoted)) == []


# Segments.


@BOTH
@SIDES
def test_segment_is_checked_unless_it_is_sound(probe: Probe, make: Callable[[Probe], bytes]) -> None:
    """A bit changed in a segment undoes the answer; where the checksum needs no check it may be anything."""
    packet = make(probe)
    start = 20 if probe.family == socket.AF_INET else 40
    changed = [
        packet[:index] + bytes([packet[index] ^ 1 << bit]) + packet[index + 1 :]
        for index in range(start, len(packet))
        for bit in range(8)
    ]
    assert parse(probe.family, frames(changed)) == []
    index = start + (2 if make is Probe.unreachable else 16)
    unsummed = packet[:index] + b"\xbe\xef" + packet[index + 2 :]
    assert parsed(unsummed) == []
    assert parsed(unsummed, is_sound=True) == parsed(packet) != []


@BOTH
def test_soundness_is_each_packets_own(probe: Probe) -> None:
    """In one batch the wrong checksum counts where it needs no check, and nowhere else."""
    packet = probe.syn_ack()
    damaged = packet[:-4] + bytes([packet[-4] ^ 0xFF]) + packet[-3:]
    answers = parse(probe.family, frames([packet, damaged] * 4, is_sound=[False, False, True, True] * 2))
    assert [answer.at for answer in rows(answers)] == [0, 2, 3, 4, 6, 7]


@BOTH
def test_tcp_header_length_has_to_fit(probe: Probe) -> None:
    """A TCP header that is shorter than its fields or longer than the segment is none, with a right checksum too."""
    packets = [probe.reply(SYN | ACK, options=b"\x01" * 12, payload=bytes(5), words=words) for words in range(16)]
    expected = [probe.answer(OPEN, at=float(words)) for words in range(5, 10)]  # 37 bytes: nine words and a byte
    assert rows(parse(probe.family, frames(packets))) == expected
    assert rows(parse(probe.family, frames(packets, is_sound=True))) == expected


@BOTH
def test_segment_shorter_than_a_header(probe: Probe) -> None:
    """A segment that ends within the TCP header is none, though what lies behind it in memory would complete it."""
    packet = probe.rst_ack()
    for size in range(20):
        short = ip(probe.peer, probe.own, TCP, packet[-20:][:size])
        assert parsed(short + packet[len(short) :], is_sound=True) == []


# ICMP errors.


@BOTH
def test_codes_of_unreachable(probe: Probe) -> None:
    """Each code tells of a filter, but for IPv4's "fragmentation needed", which is not about the port."""
    found = rows(parse(probe.family, frames([probe.unreachable(code) for code in range(256)])))
    about = [code for code in range(256) if code != 4 or probe.family == socket.AF_INET6]
    assert found == [probe.answer(FILTERED, at=float(code)) for code in about]


@BOTH
def test_other_kinds_of_icmp(probe: Probe) -> None:
    """No other ICMP message tells of a port: not "time exceeded", nor "packet too big", nor a redirect."""
    found = rows(parse(probe.family, frames([probe.unreachable(kind=kind) for kind in range(256)])))
    unreachable = 3 if probe.family == socket.AF_INET else 1
    assert found == [probe.answer(FILTERED, at=float(unreachable))]


@BOTH
def test_error_from_somebody_on_the_way(probe: Probe) -> None:
    """An error that comes from another address than the probed one is that address's, but not its own word."""
    router = ROUTER4 if probe.family == socket.AF_INET else ROUTER6
    assert parsed(probe.unreachable(sender=router)) == [probe.answer(FILTERED, direct=False)]
    assert parsed(probe.unreachable(sender=probe.peer)) == [probe.answer(FILTERED, direct=True)]


@BOTH
def test_error_from_this_machine_itself(probe: Probe) -> None:
    """An error from the address that the probe was sent from says that it was not sent, unless that is the target."""
    assert parsed(probe.unreachable(sender=probe.own)) == [probe.answer(LOCAL_REJECTION, direct=False)]
    itself = replace(probe, peer=probe.own)
    assert parsed(itself.unreachable(sender=probe.own)) == [itself.answer(FILTERED, direct=True)]


@MODEST
@given(probe=PROBES, index=st.integers(0, 15), bit=st.integers(0, 7))
def test_sender_that_is_nearly_the_peer(probe: Probe, index: int, bit: int) -> None:
    """An error is direct only if all bits of its sender's address are those of the probed one."""
    sender = bytearray(probe.peer)
    sender[index % len(sender)] ^= 1 << bit
    assert parsed(probe.unreachable(sender=bytes(sender))) == [probe.answer(FILTERED, direct=False)]


@MODEST
@given(probe=PROBES, index=st.integers(0, 15), bit=st.integers(0, 7))
def test_error_that_was_sent_to_another(probe: Probe, index: int, bit: int) -> None:
    """An error about a packet that its receiver cannot have sent is left out."""
    receiver = bytearray(probe.own)
    receiver[index % len(receiver)] ^= 1 << bit
    assert parsed(probe.unreachable(receiver=bytes(receiver))) == []


@BOTH
def test_quote_of_every_length(probe: Probe) -> None:
    """Eight bytes of the quoted segment are enough (RFC 792), whatever is quoted beyond them, and fewer are not."""
    packet = probe.packet() + bytes(40)
    least = (20 if probe.family == socket.AF_INET else 40) + 8
    for length in range(len(packet)):
        expected = [probe.answer(FILTERED)] if length >= least else []
        assert parsed(probe.unreachable(quoted=packet[:length])) == expected
        assert parsed(probe.unreachable(quoted=packet[:length]) + packet[length:], is_sound=True) == expected


@BOTH
def test_error_with_extensions(probe: Probe) -> None:
    """An error whose quote is padded to 128 bytes and followed by an extension (RFC 4884) is read."""
    quoted = probe.packet().ljust(128, b"\0") + bytes.fromhex("2000dfff 00080101 0003e901")
    assert parsed(probe.unreachable(quoted=quoted)) == [probe.answer(FILTERED)]


@pytest.mark.parametrize("size", range(0, 44, 4))
def test_quoted_ip4_options_are_skipped(size: int) -> None:
    """The quoted ports are found behind IPv4 options that somebody on the way added; they have to be there."""
    quoted = with_options(PROBE4.packet(), b"\x07" * size)
    assert parsed(PROBE4.unreachable(quoted=quoted[: 28 + size])) == [PROBE4.answer(FILTERED)]
    assert parsed(PROBE4.unreachable(quoted=quoted[: 27 + size])) == []


def test_quotes_of_different_headers_in_a_batch() -> None:
    """Errors that quote headers of different lengths are all read, in order of their coming."""
    probes = [replace(PROBE4, port=number) for number in range(40)]
    packets = [
        probe.unreachable(
            quoted=with_options(probe.packet(), bytes(4 * (number % 11))), ip_options=bytes(number % 3 * 4)
        )
        for number, probe in enumerate(probes)
    ]
    found = rows(parse(socket.AF_INET, frames(packets)))
    assert found == [probe.answer(FILTERED, at=float(number)) for number, probe in enumerate(probes)]


@pytest.mark.parametrize("words", [0, 1, 4])
def test_quoted_ip4_header_too_short(words: int) -> None:
    """A quoted header that is shorter than its fields is none."""
    assert parsed(PROBE4.unreachable(quoted=bytes([0x40 | words]) + PROBE4.packet()[1:])) == []


@pytest.mark.parametrize(("fragment", "is_read"), [(0x2000, True), (0x4000, True), (0x0001, False), (0x1FFF, False)])
def test_quoted_fragment(fragment: int, *, is_read: bool) -> None:
    """A quoted first fragment has the ports; a later one has other bytes in their place."""
    packet = PROBE4.packet()
    quoted = packet[:6] + fragment.to_bytes(2, "big") + packet[8:]
    assert parsed(PROBE4.unreachable(quoted=quoted)) == ([PROBE4.answer(FILTERED)] if is_read else [])


@BOTH
def test_quote_of_something_else(probe: Probe) -> None:
    """An error about another protocol, or about a packet of the other family, is left out."""
    other = PROBE6 if probe is PROBE4 else PROBE4
    assert parsed(probe.unreachable(quoted=other.packet())) == []
    for protocol in (ICMP, 17, ICMP6):
        assert parsed(probe.unreachable(quoted=ip(probe.own, probe.peer, protocol, probe.packet()[-24:]))) == []


@BOTH
def test_error_about_an_answer_is_not_about_a_probe(probe: Probe) -> None:
    """An error that quotes what the other side sent, not this one, is left out."""
    assert parsed(probe.unreachable(quoted=probe.syn_ack())) == []


# Batches.


@BOTH
def test_answers_outlive_their_frames(probe: Probe) -> None:
    """Answers hold no part of the memory that packets came in: the kernel writes the next ones there."""
    came = frames([probe.syn_ack(), probe.rst_ack(), probe.unreachable()])
    for some in (came, came.only(np.array([0])), came.only(np.array([2])), frames([probe.syn_ack()])):
        answers = parse(probe.family, some)
        before = rows(answers)
        for column in (some.data, some.length, some.is_sound, some.at):
            column[...] = 0
        assert rows(answers) == before


@BOTH
def test_frames_are_read_where_they_are(probe: Probe) -> None:
    """Frames in the midst of a ring are read, and nothing is written to them."""
    packets = [probe.syn_ack(payload=b"odd"), probe.rst_ack(), probe.unreachable()]
    came = frames(packets)
    ring = np.full((8, 256), 0x45, np.uint8)
    ring[2:5, 80 : 80 + SNAPSHOT] = came.data
    ring.flags.writeable = False
    view = Frames(ring[2:5, 80 : 80 + SNAPSHOT], came.length, came.is_sound, came.at)
    assert rows(parse(probe.family, view)) == rows(parse(probe.family, came))
    assert len(rows(parse(probe.family, view))) == 3


@MODEST
@given(several=st.lists(exchanges(PROBES4), min_size=1, max_size=6), data=st.data())
def test_joined_and_chosen(several: list[Exchange], data: st.DataObject) -> None:
    """Batches that are joined keep their rows in order, and rows are chosen by number or by mask."""
    parts = [parse(socket.AF_INET, frames([exchange.packet])) for exchange in several]
    answers = Answers.joined([part for some in parts for part in some])
    expected = [exchange.answer for exchange in several]
    assert len(answers) == len(expected)
    assert rows([answers]) == expected
    mask = data.draw(st.lists(st.booleans(), min_size=len(expected), max_size=len(expected)))
    chosen = [answer for answer, is_chosen in zip(expected, mask, strict=True) if is_chosen]
    assert rows([answers.only(np.array(mask))]) == chosen
    assert rows([answers.only(np.flatnonzero(mask))]) == chosen


@MODEST
@given(
    several=st.lists(exchanges(PROBES4), min_size=1, max_size=6),
    mask=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_chosen_frames(several: list[Exchange], mask: list[bool]) -> None:
    """Some of the frames, by number or by mask, are those frames, in their order."""
    came = frames([exchange.packet for exchange in several])
    chosen = np.array(mask[: len(several)])
    expected = [exchange.answer._replace(at=float(number)) for number, exchange in enumerate(several) if chosen[number]]
    for some in (came.only(chosen), came.only(np.flatnonzero(chosen))):
        assert len(some) == len(expected)
        assert rows(parse(socket.AF_INET, some)) == expected


# Anything.


@MODEST
@given(exchange=exchanges(), change=st.integers(1, 255), junk=st.binary(max_size=30))
def test_changed_byte_never_makes_another_answer(exchange: Exchange, change: int, junk: bytes) -> None:
    """With any one byte changed an answer is lost; only where nothing is checked and nothing read does it stay."""
    packet = exchange.packet + junk
    changed = [
        packet[:index] + bytes([packet[index] ^ change]) + packet[index + 1 :]
        for index in range(min(len(packet), SNAPSHOT))
    ]
    found = {int(answer.at): answer for answer in rows(parse(exchange.probe.family, frames(changed)))}
    assert {answer._replace(at=0.0) for answer in found.values()} <= {exchange.answer}
    free = set(range(len(exchange.packet), len(packet)))
    if exchange.probe.family == socket.AF_INET6:  # class, flow label and hop limit; the length may tell as before
        free |= {1, 2, 3, 7} | ({0} if change < 16 else set())
        found.pop(4, None)
        found.pop(5, None)
    assert set(found) == free & set(range(len(changed)))


SPOTS = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 9, 20, 28, 32, 33, 37, 40, 48, 52, 53, 54]) | st.integers(
    0, SNAPSHOT - 1
)
VALUES = st.sampled_from([0, 1, 3, 4, 5, 6, 15, 0x12, 0x14, 0x45, 0x46, 0x50, 0x60, 0xF0, 0xFF]) | st.integers(0, 255)


@st.composite
def damaged(draw: st.DrawFn, probes: st.SearchStrategy[Probe]) -> tuple[bytes, int, bool]:
    """Make an answer, change some of its bytes, perhaps mend its checksums; with a length, and whether it is sound."""
    packet = bytearray(draw(exchanges(probes, most=90)).packet)
    for index in draw(st.lists(SPOTS, max_size=4)):
        packet[index % len(packet)] = draw(VALUES)
    whole = bytes(packet)
    if draw(st.booleans()):
        whole = repaired(whole)
    length = max(0, len(whole) + draw(st.sampled_from([0, 0, 0, 0, -1, -7, -20, 1, 30, 1000])))
    return whole, length, draw(st.booleans())


def assert_understood(family: int, came: Frames) -> None:
    """Assert that a batch is read as the specification reads it, packet by packet."""
    expected = [
        understood(family, row.tobytes(), int(length), is_sound=bool(sound), at=float(at))
        for row, length, sound, at in zip(came.data, came.length, came.is_sound, came.at, strict=True)
    ]
    assert rows(parse(family, came)) == [answer for answer in expected if answer is not None]


@MODEST
@given(exchange=exchanges())
def test_specification_reads_answers(exchange: Exchange) -> None:
    """What the other tests compare with reads every answer that a host gives."""
    data = frames([exchange.packet]).data[0].tobytes()
    found = understood(exchange.probe.family, data, len(exchange.packet), is_sound=False, at=0.0)
    assert found == exchange.answer


@MODEST
@given(
    case=st.sampled_from([(socket.AF_INET, PROBES4), (socket.AF_INET6, PROBES6)]).flatmap(
        lambda case: st.tuples(st.just(case[0]), st.lists(damaged(case[1]), min_size=1, max_size=12))
    )
)
def test_damaged_packets_are_read_by_the_book(case: tuple[int, list[tuple[bytes, int, bool]]]) -> None:
    """However answers are damaged, the batch gives what reading them one at a time gives."""
    family, several = case
    packets, lengths, sound = zip(*several, strict=True)
    assert_understood(family, frames(packets, lengths=lengths, is_sound=sound))


@MODEST
@given(
    heads=st.lists(st.binary(max_size=100), max_size=10),
    family=st.sampled_from([socket.AF_INET, socket.AF_INET6]),
    length=st.integers(0, 2**32 - 1) | st.integers(0, 200),
    is_sound=st.booleans(),
)
def test_random_bytes_are_read_by_the_book(heads: list[bytes], family: int, length: int, *, is_sound: bool) -> None:
    """Bytes that are no packet never raise, and give what the specification gives: mostly nothing."""
    assert_understood(family, frames(heads, lengths=[length] * len(heads), is_sound=is_sound))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_many_random_packets(family: int) -> None:
    """Of 3,000 packets of random bytes with a plausible header, batch and specification agree on each."""
    random = np.random.default_rng(family)
    data = random.integers(0, 256, (3000, SNAPSHOT), np.uint8)
    data[:, 0] = random.choice([0x45, 0x46, 0x4F, 0x44] if family == socket.AF_INET else [0x60, 0x61, 0x40], 3000)
    data[:, 2] = data[:, 4] = 0
    data[:, 6] = 0x40 if family == socket.AF_INET else random.choice([TCP, ICMP6], 3000)
    data[:, 7] = 0
    if family == socket.AF_INET:
        data[:, 9] = random.choice([TCP, ICMP], 3000)
    start = 20 if family == socket.AF_INET else 40
    data[:, start + 13] = random.choice([0x12, 0x14], 3000)
    data[:, start] = random.choice([1, 3], 3000)
    packets = [repaired(row.tobytes()) for row in data]
    lengths = random.integers(0, 400, 3000).tolist()
    came = frames(packets, lengths=lengths, is_sound=random.choice([True, False], 3000).tolist())
    assert_understood(family, came)
    assert parse(family, came)  # some of them do answer


@MODEST
@given(some=options(), payload=st.binary(max_size=9))
def test_connection_of_two_of_this_machines_addresses(some: bytes, payload: bytes) -> None:
    """An answer from and to one and the same address, as in a scan of loopback, is read like any other."""
    probe = Probe(raw("127.0.0.1"), raw("127.0.0.1"), 61008, 22, 7)
    segment = tcp(probe.peer, probe.own, (22, 61008), (1, 8), SYN | ACK, options=some, payload=payload)
    assert parsed(ip(probe.peer, probe.own, TCP, segment)) == [probe.answer(OPEN)]
