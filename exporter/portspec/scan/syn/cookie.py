"""Sequence numbers that only a receiver of the probe can know: SipHash-2-4 (Aumasson and Bernstein, 2012), on arrays.

A state is an array of uint64 of shape (4, n): v0 to v3 of n hashes that advance together. A message is hashed word by
word, so that what is constant (two addresses) is absorbed once, and only the last word is hashed for each probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from portspec.scan.syn.arrays import U16, U32, U64

MESSAGE_LENGTH = 36  # two addresses of 16 bytes (IPv4 mapped into IPv6), two ports of 2

_INITIAL = np.array([[0x736F6D6570736575], [0x646F72616E646F6D], [0x6C7967656E657261], [0x7465646279746573]], np.uint64)
_FINAL = np.uint64(0xFF)
_LENGTH = np.uint64(MESSAGE_LENGTH << 56)


def start(keys: U64) -> U64:
    """Return the states for n keys, each two little-endian words: shape (2, n)."""
    state: U64 = _INITIAL ^ np.concatenate([keys, keys])
    return state


def absorb(state: U64, word: Any) -> None:
    """Hash the next 8 bytes of each message, as little-endian words of shape (n,), into the states in place."""
    state[3] ^= word
    _rounds(state, 2)
    state[0] ^= word


def finish(state: U64, last: Any) -> U64:
    """Hash the last word of each message (its length modulo 256 in the top byte); return the n hashes."""
    absorb(state, last)
    state[2] ^= _FINAL
    _rounds(state, 4)
    hashes: U64 = state[0] ^ state[1] ^ state[2] ^ state[3]
    return hashes


def sequence_numbers(state: U64, source_ports: U16, ports: U16) -> U32:
    """Return the sequence numbers of n probes; `state` has absorbed their addresses, and is overwritten."""
    last = source_ports.byteswap().astype(np.uint64)
    last |= ports.byteswap().astype(np.uint64) << np.uint64(16)
    last |= _LENGTH
    return finish(state, last).astype(np.uint32)


def _rounds(state: U64, count: int) -> None:
    v0, v1, v2, v3 = state
    spare = np.empty_like(v0)
    for _ in range(count):
        v0 += v1
        _rotate(v1, 13, spare)
        v1 ^= v0
        _rotate(v0, 32, spare)
        v2 += v3
        _rotate(v3, 16, spare)
        v3 ^= v2
        v0 += v3
        _rotate(v3, 21, spare)
        v3 ^= v0
        v2 += v1
        _rotate(v1, 17, spare)
        v1 ^= v2
        _rotate(v2, 32, spare)


def _rotate(words: U64, bits: int, spare: U64) -> None:
    np.right_shift(words, np.uint64(64 - bits), out=spare)
    np.left_shift(words, np.uint64(bits), out=words)
    np.bitwise_or(words, spare, out=words)
