"""The packet filters of the receiving sockets: only answers to our source ports reach this process.

They are programs of the classic Berkeley packet filter (McCanne and Jacobson, 1993; linux/bpf_common.h), which the
kernel runs for each packet. An instruction is a code, how far to jump if true and if false, and a number; a jump to
"yes" or "no" ends the program.
"""

from __future__ import annotations

import struct

from portspec.scan.syn.packets import MAX_EXTENSIONS, SNAPSHOT

SOURCE_PORTS = 64  # one for each try, so that an answer tells which try it answers
FIRST_SOURCE_PORT = 61056  # above those that Linux gives to connections (ip_local_port_range)

Instruction = tuple[int, int | str, int | str, int]
_LOAD_BYTE, _LOAD_HALF = 0x30, 0x28  # A = packet[k]
_LOAD_BYTE_X, _LOAD_HALF_X, _LOAD_WORD_X = 0x50, 0x48, 0x40  # A = packet[X + k]
_SET_X = 0x01  # X = k
_KEEP, _TAKE = 0x02, 0x60  # M[k] = A, A = M[k]
_HEADER_X = 0xB1  # X = 4 * (packet[k] & 15): the length of an IPv4 header
_AND, _SHIFT, _ADD, _ADD_X, _A_TO_X = 0x54, 0x64, 0x04, 0x0C, 0x07
_IF_EQUAL, _IF_ANY = 0x15, 0x45
_RETURN = 0x06
_BLOCK_MASK = 0xFFFF ^ (SOURCE_PORTS - 1)


def filter4(first_source_port: int) -> bytes:
    """Return the program for IPv4: whole SYN-ACKs and RST-ACKs to our ports, unreachables that quote TCP from them."""
    return _assemble(
        [
            (_LOAD_HALF, 0, 0, 6),
            (_IF_ANY, "no", 0, 0x3FFF),  # a fragment
            (_HEADER_X, 0, 0, 0),
            (_LOAD_BYTE, 0, 0, 9),
            (_IF_EQUAL, 0, 7, 6),  # TCP
            (_LOAD_HALF_X, 0, 0, 2),
            (_AND, 0, 0, _BLOCK_MASK),
            (_IF_EQUAL, 0, "no", first_source_port),
            (_LOAD_BYTE_X, 0, 0, 13),
            (_AND, 0, 0, 0x16),
            (_IF_EQUAL, "yes", 0, 0x12),
            (_IF_EQUAL, "yes", "no", 0x14),
            (_IF_EQUAL, 0, "no", 1),  # ICMP
            (_LOAD_BYTE_X, 0, 0, 0),
            (_IF_EQUAL, 0, "no", 3),
            (_LOAD_BYTE_X, 0, 0, 17),
            (_IF_EQUAL, 0, "no", 6),
            (_LOAD_BYTE_X, 0, 0, 8),
            (_AND, 0, 0, 15),
            (_SHIFT, 0, 0, 2),
            (_ADD_X, 0, 0, 0),
            (_A_TO_X, 0, 0, 0),
            (_LOAD_HALF_X, 0, 0, 8),
            (_AND, 0, 0, _BLOCK_MASK),
            (_IF_EQUAL, "yes", "no", first_source_port),
        ]
    )


def filter6(first_source_port: int) -> bytes:
    """Return the program for IPv6: the same, behind as many extension headers as packets.parse() skips."""
    program: list[Instruction] = [
        (_SET_X, 0, 0, 40),
        (_LOAD_BYTE, 0, 0, 6),
        (_IF_EQUAL, 5, 0, 0),  # hop-by-hop options, only as the first header
    ]
    for left in reversed(range(MAX_EXTENSIONS)):  # A is the type of the next header, X its offset
        program += [
            (_IF_EQUAL, 4, 0, 43),  # routing
            (_IF_EQUAL, 3, 0, 60),  # destination options
            (_IF_EQUAL, 0, 10 + 13 * left, 44),  # fragment, else the end of the chain
            (_LOAD_WORD_X, 0, 0, 0),
            (_IF_ANY, "no", 0, 0x00FFFFF9),  # not the whole packet
            (_LOAD_BYTE_X, 0, 0, 0),
            (_KEEP, 0, 0, 0),
            (_LOAD_BYTE_X, 0, 0, 1),
            (_SHIFT, 0, 0, 3),
            (_ADD, 0, 0, 8),
            (_ADD_X, 0, 0, 0),
            (_A_TO_X, 0, 0, 0),
            (_TAKE, 0, 0, 0),
        ]
    program += [
        (_IF_EQUAL, 0, 7, 6),  # TCP
        (_LOAD_HALF_X, 0, 0, 2),
        (_AND, 0, 0, _BLOCK_MASK),
        (_IF_EQUAL, 0, "no", first_source_port),
        (_LOAD_BYTE_X, 0, 0, 13),
        (_AND, 0, 0, 0x16),
        (_IF_EQUAL, "yes", 0, 0x12),
        (_IF_EQUAL, "yes", "no", 0x14),
        (_IF_EQUAL, 0, "no", 58),  # ICMPv6
        (_LOAD_BYTE_X, 0, 0, 0),
        (_IF_EQUAL, 0, "no", 1),
        (_LOAD_BYTE_X, 0, 0, 14),
        (_IF_EQUAL, 0, "no", 6),
        (_LOAD_HALF_X, 0, 0, 48),
        (_AND, 0, 0, _BLOCK_MASK),
        (_IF_EQUAL, "yes", "no", first_source_port),
    ]
    return _assemble(program)


def _assemble(program: list[Instruction]) -> bytes:
    """Return the kernel's form (struct sock_filter), with the two ends: accept SNAPSHOT bytes, or nothing."""
    ends = {"yes": len(program), "no": len(program) + 1}
    code = b"".join(
        struct.pack("=HBBI", code, *(ends[jump] - index - 1 if isinstance(jump, str) else jump for jump in jumps), k)
        for index, (code, *jumps, k) in enumerate(program)
    )
    return code + struct.pack("=HBBI", _RETURN, 0, 0, SNAPSHOT) + struct.pack("=HBBI", _RETURN, 0, 0, 0)
