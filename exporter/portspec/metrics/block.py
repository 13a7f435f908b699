"""Blocks of text that are served again and again, cached together with their compressed form.

A gzip file is a header, a deflate stream and a trailer with the checksum and the length of the text (RFC 1952). The
stream of a page is the concatenation of the pieces of its blocks, so a block that did not change is not compressed
again. This works because each piece ends at a byte boundary and refers to nothing before it (Z_FULL_FLUSH); with
another flush mode the pieces of one page could not follow those of another. Only the checksum is computed over the
whole text at each scrape.
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
_FINAL_DEFLATE_BLOCK = b"\x03\x00"  # RFC 1951, 3.2.3: an empty final block


@dataclass(slots=True)
class CachedBlock:
    """Some bytes and, once asked for, what they are as a piece of a deflate stream."""

    text: bytes
    deflated: bytes | None = None


class Gzip:
    """Makes gzip files (RFC 1952) out of blocks, each of which is compressed once.

    Every piece ends at a byte and refers to nothing before it (zlib's Z_FULL_FLUSH), so pieces may follow each other
    in any order. Not for two threads at a time.
    """

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)

    def file(self, blocks: Iterable[CachedBlock]) -> list[bytes]:
        """Return the pieces of one gzip file with the text of all blocks."""
        pieces = [_GZIP_HEADER]
        texts: list[bytes] = []
        checksum = size = 0
        for block in blocks:
            if block.deflated is None:
                block.deflated = self._compressor.compress(block.text) + self._compressor.flush(zlib.Z_FULL_FLUSH)
            pieces.append(block.deflated)
            texts.append(block.text)
            size += len(block.text)
        for text in joined(texts):
            checksum = zlib.crc32(text, checksum)
        return [*pieces, _FINAL_DEFLATE_BLOCK, struct.pack("<II", checksum, size & 0xFFFFFFFF)]


def joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join many small pieces to few of at least 256 KiB: each one that is handed on costs, whatever its size."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _MIN_PIECE:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    yield b"".join(waiting)
