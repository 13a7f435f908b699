"""SipHash-2-4 as its paper has it (Aumasson and Bernstein, 2012), one message at a time."""

from __future__ import annotations

_MASK = 2**64 - 1


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK


def _round(v: list[int]) -> None:
    v[0] = (v[0] + v[1]) & _MASK
    v[2] = (v[2] + v[3]) & _MASK
    v[1] = _rotated(v[1], 13) ^ v[0]
    v[3] = _rotated(v[3], 16) ^ v[2]
    v[0] = _rotated(v[0], 32)
    v[2] = (v[2] + v[1]) & _MASK
    v[0] = (v[0] + v[3]) & _MASK
    v[1] = _rotated(v[1], 17) ^ v[2]
    v[3] = _rotated(v[3], 21) ^ v[0]
    v[2] = _rotated(v[2], 32)


def words(message: bytes) -> list[int]:
    """Return a message as the words that are hashed: padded with zeros, the length in the last byte."""
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    return [int.from_bytes(padded[index : index + 8], "little") for index in range(0, len(padded), 8)]


def siphash(key: bytes, message: bytes) -> int:
    """Return the hash of a message under a key of 16 bytes."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    constants = b"somepseudorandomlygeneratedbytes"
    v = [
        int.from_bytes(constants[8 * index : 8 * index + 8], "big") ^ key_word
        for index, key_word in enumerate((k0, k1, k0, k1))
    ]
    for word in words(message):
        v[3] ^= word
        _round(v)
        _round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(4):
        _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
