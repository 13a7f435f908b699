from __future__ import annotations

import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.syn.filter import FIRST_SOURCE_PORT, SOURCE_PORTS, filter4, filter6
from portspec.scan.syn.packets import MAX_EXTENSIONS, SNAPSHOT, parse
from portspec.scan.syn.socket import BLOCKS, _attach
from tests.unit.factories import MODEST
from tests.unit.scan.syn.wire import (
    ACK,
    DESTINATION,
    DONT_FRAGMENT,
    ICMP,
    ICMP6,
    PROBES4,
    PROBES6,
    RST,
    SYN,
    TCP,
    Exchange,
    Headers,
    Probe,
    behind_extensions,
    chains,
    exchanges,
    extended,
    frames,
    ip,
    raw,
    rows,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST = FIRST_SOURCE_PORT + 3 * SOURCE_PORTS
PROBE4 = Probe(raw("192.0.2.9"), raw("198.51.100.77"), FIRST + 5, 443, 0x12345678)
PROBE6 = Probe(raw("2001:db8::9"), raw("2001:db8:1:2::4d"), FIRST + 5, 8443, 0xFEDCBA98)
BOTH = pytest.mark.parametrize("probe", [PROBE4, PROBE6], ids=["ip4", "ip6"])
FILTERS = pytest.mark.parametrize("program", [filter4(FIRST), filter6(FIRST)], ids=["ip4", "ip6"])


def run(program: bytes, packet: bytes) -> int:
    """Run a program of the classic packet filter on a packet; return how many bytes it lets through.

    Knows the instructions that the filters use (McCanne and Jacobson, 1993, section 3.3; linux/filter.h), and raises
    on any other. A load from beyond the packet ends the program with 0.
    """
    a = x = index = 0
    memory: dict[int, int] = {}
    while True:
        code, if_true, if_false, k = struct.unpack_from("=HBBI", program, 8 * index)
        index += 1
        match code:
            case 0x28 | 0x48 | 0x30 | 0x50 | 0x40:  # ldh [k], ldh [x + k], ldb [k], ldb [x + k], ld [x + k]
                start, size = k + (x if code & 0x40 else 0), {0x00: 4, 0x08: 2, 0x10: 1}[code & 0x18]
                if start + size > len(packet):
                    return 0
                a = int.from_bytes(packet[start : start + size], "big")
            case 0xB1:  # ldxb 4*([k]&0xf)
                if k >= len(packet):
                    return 0
                x = 4 * (packet[k] & 15)
            case 0x54:  # and #k
                a &= k
            case 0x64:  # lsh #k
                a = a << k & 0xFFFFFFFF
            case 0x0C:  # add x
                a = a + x & 0xFFFFFFFF
            case 0x04:  # add #k
                a = a + k & 0xFFFFFFFF
            case 0x01:  # ldx #k
                x = k
            case 0x02:  # st M[k]
                memory[k] = a
            case 0x60:  # ld M[k]
                a = memory[k]
            case 0x07:  # tax
                x = a
            case 0x15:  # jeq #k
                index += if_true if a == k else if_false
            case 0x45:  # jset #k
                index += if_true if a & k else if_false
            case 0x06:  # ret #k
                return int(k)
            case _:
                raise AssertionError(f"instruction {code:#x} is not known")


def is_wanted(family: int, packet: bytes, first: int) -> bool:
    """Return whether a packet is to be accepted: the specification of both filters, for any bytes."""
    try:
        if family == socket.AF_INET:
            start, protocol, types = 4 * (packet[0] & 15), packet[9], (ICMP, 3)
            if int.from_bytes(packet[6:8], "big") & 0x3FFF:
                return False
        else:
            walked = behind_extensions(packet, 1 << 16)  # what is looked for behind the end is not there
            if walked is None:
                return False
            start, protocol, types = *walked, (ICMP6, 1)
        if protocol == TCP:
            port, flags = struct.unpack_from("!H", packet, start + 2)[0], packet[start + 13]
            return first <= port < first + SOURCE_PORTS and flags & (SYN | RST | ACK) in {SYN | ACK, RST | ACK}
        inner = start + 8
        if (protocol, packet[start]) != types or packet[inner + (9 if family == socket.AF_INET else 6)] != TCP:
            return False
        quoted = inner + (4 * (packet[inner] & 15) if family == socket.AF_INET else 40)
        return bool(first <= struct.unpack_from("!H", packet, quoted)[0] < first + SOURCE_PORTS)
    except (IndexError, struct.error):
        return False


def passes(probe: Probe, packet: bytes, first: int = FIRST) -> bool:
    """Run the filter of a probe's family; what it lets through it lets through as far as it is looked at."""
    program = filter4(first) if probe.family == socket.AF_INET else filter6(first)
    taken = run(program, packet)
    assert taken in {0, SNAPSHOT}
    assert (taken == SNAPSHOT) == is_wanted(probe.family, packet, first)
    return taken == SNAPSHOT


def near(first: int) -> st.SearchStrategy[int]:
    """Return source ports in a block and around it."""
    return st.integers(first - 20, first + SOURCE_PORTS + 19) | st.integers(0, 65535)


BLOCK_STARTS = st.integers(0, BLOCKS - 1).map(lambda number: FIRST_SOURCE_PORT + number * SOURCE_PORTS)


@FILTERS
def test_program_is_one_the_kernel_takes(program: bytes) -> None:
    """A program is whole instructions, its jumps stay within it, and it ends with taking SNAPSHOT bytes or none."""
    assert len(program) % 8 == 0
    count = len(program) // 8
    steps = [struct.unpack_from("=HBBI", program, 8 * index) for index in range(count)]
    for index, (code, if_true, if_false, _) in enumerate(steps):
        assert code in {0x15, 0x45} or (if_true, if_false) == (0, 0)
        assert index + 1 + max(if_true, if_false) < count or code == 0x06
    assert steps[-2:] == [(0x06, 0, 0, SNAPSHOT), (0x06, 0, 0, 0)]
    assert [code for code, *_ in steps].count(0x06) == 2


@pytest.mark.parametrize("number", range(BLOCKS))
def test_blocks_can_be_told_by_a_mask(number: int) -> None:
    """Each block that may be reserved starts at a multiple of its size, and ends below the last port."""
    first = FIRST_SOURCE_PORT + number * SOURCE_PORTS
    assert first % SOURCE_PORTS == 0
    assert first + SOURCE_PORTS <= 65536


@MODEST
@given(
    exchange=exchanges(PROBES4) | exchanges(PROBES6),
    first=BLOCK_STARTS,
    data=st.data(),
)
def test_answers_to_the_block_pass(exchange: Exchange, first: int, data: st.DataObject) -> None:
    """An answer passes if its source port is one of the block's, and not otherwise."""
    source_port = data.draw(near(first).filter(lambda port: 0 <= port <= 65535))
    probe = replace(exchange.probe, source_port=source_port)
    for packet in (probe.syn_ack(), probe.rst_ack(), probe.reply(RST | ACK, ahead=0), probe.unreachable()):
        assert passes(probe, packet, first) == (first <= source_port < first + SOURCE_PORTS)


@BOTH
def test_ports_of_the_block(probe: Probe) -> None:
    """Exactly the block's ports pass, in the place where a segment has them and in that where a quote has them."""
    program = filter4(FIRST) if probe.family == socket.AF_INET else filter6(FIRST)
    start = 20 if probe.family == socket.AF_INET else 40
    for packet, index in ((probe.syn_ack(), start + 2), (probe.unreachable(), 2 * start + 8)):
        before, after = packet[:index], packet[index + 2 :]
        ports = [*range(0, 65536, 7), *range(FIRST - 300, FIRST + 300), *(FIRST + 5 ^ 1 << bit for bit in range(16))]
        taken = {port for port in ports if run(program, before + port.to_bytes(2, "big") + after)}
        assert taken == set(range(FIRST, FIRST + SOURCE_PORTS))


@BOTH
def test_every_combination_of_flags(probe: Probe) -> None:
    """SYN-ACK and RST-ACK pass, with whatever other flags; all else does not, a SYN to the block included."""
    taken = {flags for flags in range(256) if passes(probe, probe.reply(flags))}
    assert taken == {flags for flags in range(256) if flags & (SYN | RST | ACK) in {SYN | ACK, RST | ACK}}


@BOTH
def test_what_is_no_answer_does_not_pass(probe: Probe) -> None:
    """Neither the probe itself, nor other protocols, other ICMP, or errors about other protocols pass."""
    unreachable = 3 if probe.family == socket.AF_INET else 1
    for kind in range(256):
        assert passes(probe, probe.unreachable(kind=kind)) == (kind == unreachable)
    segment = probe.syn_ack()[-20:]
    message = probe.unreachable()[20 if probe.family == socket.AF_INET else 40 :]
    for protocol in range(256):
        if protocol != TCP:
            assert not passes(probe, ip(probe.peer, probe.own, protocol, segment))
            quoted = ip(probe.own, probe.peer, protocol, probe.packet()[-24:])
            assert not passes(probe, probe.unreachable(quoted=quoted))
        if protocol != (ICMP if probe.family == socket.AF_INET else ICMP6):
            assert not passes(probe, ip(probe.peer, probe.own, protocol, message))
    assert not passes(probe, probe.packet())
    assert not passes(probe, probe.unreachable(quoted=probe.syn_ack()))


@pytest.mark.parametrize("fragment", [0x0001, 0x1FFF, 0x2000, 0x6000, 0x2001])
def test_fragments_do_not_pass(fragment: int) -> None:
    """No fragment passes, whatever it seems to hold."""
    assert not passes(PROBE4, PROBE4.reply(SYN | ACK, fragment=fragment))
    packet = PROBE4.unreachable()
    assert not passes(PROBE4, packet[:6] + fragment.to_bytes(2, "big") + packet[8:])


@pytest.mark.parametrize("fragment", [0, DONT_FRAGMENT])
def test_whole_packets_pass(fragment: int) -> None:
    """A packet that is not to be fragmented passes like one that may be."""
    assert passes(PROBE4, PROBE4.reply(RST | ACK, fragment=fragment))


@pytest.mark.parametrize("size", range(0, 44, 4))
@pytest.mark.parametrize("quoted_size", [0, 4, 40])
def test_ip4_options_pass(size: int, quoted_size: int) -> None:
    """Ports and flags are found behind options, of the packet and of the quoted one."""
    assert passes(PROBE4, PROBE4.syn_ack(ip_options=bytes(size)))
    assert not passes(replace(PROBE4, source_port=80), replace(PROBE4, source_port=80).syn_ack(ip_options=bytes(size)))
    quoted = ip(PROBE4.own, PROBE4.peer, TCP, PROBE4.packet()[20:28], options=bytes(quoted_size))
    assert passes(PROBE4, PROBE4.unreachable(quoted=quoted, ip_options=bytes(size)))


@BOTH
@pytest.mark.parametrize("make", [Probe.syn_ack, Probe.rst_ack, Probe.unreachable], ids=["open", "closed", "icmp"])
def test_cut_packet_passes_only_with_what_is_looked_at(probe: Probe, make: Callable[[Probe], bytes]) -> None:
    """A packet that ends before the port and the flags does not pass, and a load from beyond is no error."""
    packet = make(probe)
    header = 20 if probe.family == socket.AF_INET else 40
    needed = header + 8 + header + 2 if make is Probe.unreachable else header + 14
    for length in range(len(packet) + 1):
        assert passes(probe, packet[:length]) == (length >= needed)


@MODEST
@given(exchange=exchanges(PROBES6), headers=chains(), first=BLOCK_STARTS, data=st.data())
def test_answers_behind_extension_headers_pass(
    exchange: Exchange, headers: Headers, first: int, data: st.DataObject
) -> None:
    """Behind any right extension headers the block's answers pass, and others do not."""
    source_port = data.draw(near(first).filter(lambda port: 0 <= port <= 65535))
    probe = replace(exchange.probe, source_port=source_port)
    for packet in (probe.syn_ack(), probe.rst_ack(), probe.unreachable()):
        is_ours = first <= source_port < first + SOURCE_PORTS
        assert passes(probe, extended(packet, headers), first) == is_ours
    for packet in (
        probe.packet(),
        probe.reply(ACK),
        probe.unreachable(kind=3),
        ip(probe.peer, probe.own, 17, bytes(60)),
    ):
        assert not passes(probe, extended(packet, headers), first)


@MODEST
@given(
    headers=chains(longest=2),
    changes=st.lists(st.tuples(st.integers(0, 130), st.sampled_from([0, 1, 6, 43, 44, 58, 60, 255])), max_size=4),
    cut=st.integers(0, 140),
    kind=st.integers(0, 2),
)
def test_chain_is_walked_by_the_book(headers: Headers, changes: list[tuple[int, int]], cut: int, kind: int) -> None:
    """However chains are changed or cut, the filter is its specification, and lets through all that parse() reads."""
    whole = [PROBE6.syn_ack(), PROBE6.rst_ack(), PROBE6.unreachable()][kind]
    packet = bytearray(extended(whole, headers))
    for index, value in changes:
        packet[index % len(packet)] = value
    passes(PROBE6, bytes(packet[: len(packet) - cut]))
    is_let_through = passes(PROBE6, bytes(packet))
    for answer in rows(parse(socket.AF_INET6, frames([bytes(packet)], is_sound=True))):
        assert is_let_through == (FIRST <= answer.source_port < FIRST + SOURCE_PORTS)


@pytest.mark.parametrize("make", [Probe.syn_ack, Probe.rst_ack, Probe.unreachable], ids=["open", "closed", "icmp"])
def test_only_so_many_extension_headers_pass(make: Callable[[Probe], bytes]) -> None:
    """The filter walks as far as parse() does, and no further."""
    passing = [passes(PROBE6, extended(make(PROBE6), [(DESTINATION, bytes(6))] * number)) for number in range(9)]
    assert passing == [number <= MAX_EXTENSIONS for number in range(9)]


SPOTS = st.sampled_from([0, 6, 7, 9, 20, 22, 23, 28, 33, 37, 40, 42, 43, 46, 48, 49, 53, 54, 88, 89]) | st.integers(
    0, 130
)


@MODEST
@given(
    case=st.sampled_from([PROBES4, PROBES6]).flatmap(exchanges),
    first=BLOCK_STARTS,
    changes=st.lists(st.tuples(SPOTS, st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 60),
    is_cut=st.booleans(),
    data=st.data(),
)
def test_filter_does_what_it_says(
    case: Exchange, first: int, changes: list[tuple[int, int]], cut: int, *, is_cut: bool, data: st.DataObject
) -> None:
    """However answers are changed or cut, the filter is its specification."""
    probe = replace(case.probe, source_port=first + data.draw(st.integers(0, SOURCE_PORTS - 1)))
    packet = bytearray(data.draw(st.sampled_from([probe.syn_ack(), probe.rst_ack(), probe.unreachable()])))
    for index, value in changes:
        packet[index % len(packet)] = value
    passes(probe, bytes(packet[: len(packet) - cut] if is_cut else packet), first)


@MODEST
@given(packet=st.binary(max_size=140), protocol=st.sampled_from([TCP, ICMP, ICMP6]))
def test_random_bytes(packet: bytes, protocol: int) -> None:
    """Bytes that are no packet are judged like any others, and hardly ever pass."""
    for probe, index in ((PROBE4, 9), (PROBE6, 6)):
        passes(probe, packet)
        passes(probe, packet[:index] + bytes([protocol]) + packet[index + 1 :])


@MODEST
@given(
    several=st.lists(exchanges(PROBES4), min_size=1, max_size=8) | st.lists(exchanges(PROBES6), min_size=1, max_size=8),
    first=BLOCK_STARTS,
    offsets=st.lists(st.integers(-2, SOURCE_PORTS + 1), min_size=8, max_size=8),
    changes=st.lists(st.tuples(st.integers(0, 7), SPOTS, st.integers(0, 255)), max_size=8),
)
def test_nothing_that_would_be_read_is_lost(
    several: list[Exchange], first: int, offsets: list[int], changes: list[tuple[int, int, int]]
) -> None:
    """Whatever parse() makes an answer of, damaged or not, with a source port of the block, the filter lets through."""
    family = several[0].probe.family
    packets = []
    for number, exchange in enumerate(several):
        probe = replace(exchange.probe, source_port=min(65535, first + offsets[number]))
        packet = bytearray([probe.syn_ack(), probe.rst_ack(), probe.unreachable()][number % 3])
        for row, index, value in changes:
            if row == number:
                packet[index % len(packet)] = value
        packets.append(bytes(packet))
    for is_sound in (False, True):
        for answer in rows(parse(family, frames(packets, is_sound=is_sound))):
            is_ours = first <= answer.source_port < first + SOURCE_PORTS
            assert passes(several[0].probe, packets[int(answer.at)], first) == is_ours


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_nothing_random_that_would_be_read_is_lost(family: int) -> None:
    """Of 4,000 random packets that nearly are answers, each that parse() reads passes if its port is the block's."""
    chooser = np.random.default_rng(family)
    probe = PROBE4 if family == socket.AF_INET else PROBE6
    kinds = [probe.syn_ack(options=bytes(4)), probe.rst_ack(payload=bytes(3)), probe.unreachable()]
    packets = []
    for number in range(4000):
        packet = bytearray(kinds[number % 3])
        for index in chooser.integers(0, len(packet), number % 4).tolist():
            packet[index] = int(chooser.integers(0, 256))
        packets.append(bytes(packet))
    read = rows(parse(family, frames(packets, is_sound=True)))
    assert len(read) > 1000
    for answer in read:
        assert passes(probe, packets[int(answer.at)]) == (FIRST <= answer.source_port < FIRST + SOURCE_PORTS)


@FILTERS
def test_kernel_takes_the_program_and_agrees(program: bytes) -> None:
    """Attached to a socket, the program passes what it passes here, and of that SNAPSHOT bytes."""
    chooser = np.random.default_rng(1)
    probe = PROBE4 if program == filter4(FIRST) else PROBE6
    kinds = [probe.syn_ack(), probe.rst_ack(), probe.unreachable(), probe.reply(SYN | ACK, payload=bytes(400))]
    if probe is PROBE6:
        kinds += [
            extended(packet, [(0, bytes(6)), (43, bytes(14)), (44, bytes(6)), (60, bytes(6))]) for packet in kinds
        ]
    kinds += [replace(probe, source_port=80).syn_ack(), probe.reply(ACK), probe.packet(), b"\0", bytes(60)]
    ours, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)  # filtered like any other socket
    with ours, others:
        _attach(ours, program)
        ours.setblocking(False)  # noqa: FBT003 - the standard library's
        for number in range(600):
            packet = bytearray(kinds[number % len(kinds)])
            for index in chooser.integers(0, len(packet), number % 5).tolist():
                packet[index] = int(chooser.integers(0, 256))
            cut = packet[: int(chooser.integers(1, len(packet) + 1))] if number % 7 == 0 else packet
            others.send(cut)
            try:
                taken = len(ours.recv(2048))
            except BlockingIOError:
                taken = 0
            assert taken == min(run(program, bytes(cut)), len(cut))
