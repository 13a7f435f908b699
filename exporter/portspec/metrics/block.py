"""Blocks of text that are served again and again, cached together with their compressed form.

A gzip file is a header, a deflate stream and a trailer with the checksum and the length of the text (RFC 1952). The
stream of a page is the concatenation of the pieces of its blocks, so a block that did not change is not compressed
again. This works because each piece ends at a byte boundary and refers to nothing before it (Z_FULL_FLUSH); with
another flush mode the pieces of one page could not follow those of another. The checksum is
computed over the whole text, or from those of two streams that follow each other.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

COMPRESSION_LEVEL = 1  # the text is so regular that the higher levels save little and take longer
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952, 2.3: deflate, no name, no time, unknown system
_MIN_PIECE = 256 * 1024
# The interpreter's lock is given up for each checksum, and is got back after up to 5 ms beside a busy thread.
_MIN_SUMMED = 4 * 1024 * 1024
_FINAL_DEFLATE_BLOCK = b"\x03\x00"  # RFC 1951, 3.2.3: an empty final block
_POLYNOMIAL = 0xEDB88320  # of the CRC-32 (RFC 1952, 8); the highest bit is the coefficient of x⁰


@dataclass(slots=True)
class CachedBlock:
    """Some bytes and, once asked for, what they are as a piece of a deflate stream."""

    text: bytes
    deflated: bytes | None = None


@dataclass(frozen=True, slots=True)
class Deflated:
    """The pieces of a deflate stream, and the checksum (CRC-32) and length of what they are of."""

    pieces: tuple[bytes, ...] = ()
    checksum: int = 0
    size: int = 0

    def __add__(self, other: Deflated) -> Deflated:
        """Return the stream of what one is of and of what the other is of."""
        checksum = _product(_power_of_x(8 * other.size), self.checksum) ^ other.checksum
        return Deflated((*self.pieces, *other.pieces), checksum, self.size + other.size)

    @property
    def file(self) -> tuple[bytes, ...]:
        """The pieces of a whole gzip file."""
        trailer = struct.pack("<II", self.checksum, self.size & 0xFFFFFFFF)
        return (_GZIP_HEADER, *self.pieces, _FINAL_DEFLATE_BLOCK, trailer)


class Deflater:
    """Makes deflate streams out of blocks, each of which is compressed once.

    Every piece ends at a byte and refers to nothing before it (zlib's Z_FULL_FLUSH), so pieces may follow each other
    in any order. Not for two threads at a time.
    """

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)

    def deflate(self, blocks: Iterable[CachedBlock]) -> Deflated:
        """Return the stream of the text of all blocks."""
        pieces: list[bytes] = []
        texts: list[bytes] = []
        checksum = size = 0
        for block in blocks:
            if block.deflated is None:
                block.deflated = self._compressor.compress(block.text) + self._compressor.flush(zlib.Z_FULL_FLUSH)
            pieces.append(block.deflated)
            texts.append(block.text)
            size += len(block.text)
        for text in joined(texts, _MIN_SUMMED):
            checksum = zlib.crc32(text, checksum)
        return Deflated(tuple(pieces), checksum, size)


def _product(left: int, right: int) -> int:
    """Multiply two polynomials over GF(2) modulo that of the CRC-32."""
    product = 0
    for place in range(31, -1, -1):
        if left >> place & 1:
            product ^= right
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
    return product


def _power_of_x(exponent: int) -> int:
    """Return xⁿ modulo the polynomial of the CRC-32, by repeated squaring."""
    power, square = 1 << 31, 1 << 30
    while exponent:
        if exponent & 1:
            power = _product(square, power)
        square = _product(square, square)
        exponent >>= 1
    return power


def joined(pieces: Iterable[bytes], least: int = _MIN_PIECE) -> Iterator[bytes]:
    """Join many small pieces to few of so many bytes or more: each one that is handed on costs, whatever its size."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= least:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    yield b"".join(waiting)
