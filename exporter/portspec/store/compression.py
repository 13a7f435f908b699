"""Compression of audits and their results with zstd, using dictionaries of earlier rows.

An audit of 50 kB has little redundancy and compresses to a third. But the audits of a fleet share findings, and the
audit of a host shares most of its text with the one of the day before. So earlier rows serve as dictionaries, as raw
content (RFC 8878, section 5).

1. A row is compressed with the newest shared dictionary (`compress`). If the ratio is below _GOOD_RATIO, the row
   becomes a sample.
2. If it is a sample and the host has an earlier row, it is compressed again with the dictionary of that row, or with
   that row itself as a dictionary of the host (`compress_like`). If that is good, it is no sample.
3. After a sample was written, the next shared dictionary is made of the newest samples and the end of the previous
   dictionary, if there are enough samples: 1, 2, 4, … up to `most_samples` (`update_dictionary`).

Invariants:

* A row names its dictionary by id, or None for no dictionary. A dictionary is never changed, and not deleted while a
  row names it (retention.py).
* Ids grow, and are not reused after a rollback (random steps), so that a cached dictionary is the one of the file.
* What cannot be decompressed raises CompressionError, and costs that row alone; a corrupt dictionary costs the rows
  that name it, and the next rows are compressed without it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

import zstandard

from portspec import log

if TYPE_CHECKING:
    import sqlite3

MAX_SIZE: Final = 256 << 20  # bytes of uncompressed content, a few times the maximum size of an audit
MAX_DICTIONARY_SIZE: Final = 2 << 20  # bytes
MAX_LOADED_DICTIONARIES: Final = 8  # each takes at most 10 MB with its tables

# Measured with audits that have 220 of 2,000 findings: with this hash table, a dictionary of 2 MB compresses them to
# 1/28 in 0.09 ms; with zstd's default at this level to 1/17 in 0.07 ms, with one twice as large to 1/29 in 0.16 ms.
_LEVEL: Final = 3
_LARGE_DICTIONARY = 512 << 10  # bytes from which on a dictionary gets a larger hash table
_LARGE_TABLE_LOG = 18  # log2 of its entries
_GOOD_RATIO: Final = 20  # from which on a row is no sample; with 16 and 24, measured fleets compress worse
_SMALL_BLOB: Final = 128  # bytes, up to which a row is never a sample
_MAX_SAMPLES: Final = 1024  # for the next dictionary
_MAX_RATIO: Final = 1 << 15  # of a frame: a block of 128 KiB takes at least 4 bytes (RFC 8878, 3.1.1.2)
_HOST_KIND: Final = "host"  # of a dictionary that is one earlier audit of a host

_log = log.get("store")


class CompressionError(ValueError):
    """A blob or dictionary is corrupt, or the content is too large."""


@dataclass(frozen=True, slots=True)
class CompressedTable:
    """A table with compressed rows that share dictionaries.

    Attributes:
        kind: The kind of its dictionaries.
        columns: Its columns for id, dictionary and blob.
        samples: The FROM clause of the samples with a greater id than a parameter.
    """

    kind: str
    columns: str
    samples: str


AUDITS: Final = CompressedTable("audit", "id, dictionary, payload", "audit WHERE is_sample = 1 AND id > ?")
AUDIT_RESULTS: Final = CompressedTable(
    "audit_result", "audit_id, dictionary, document", "audit_result WHERE is_sample = 1 AND audit_id > ?"
)


class Compressed(NamedTuple):
    """The columns of a compressed row: the dictionary's id or None, whether it is a sample, and the blob."""

    dictionary: int | None
    is_sample: bool
    blob: bytes


class _SharedDictionary(NamedTuple):
    """The id of the current dictionary for all hosts, its newest sample, and the number of samples for the next one."""

    number: int
    made_after: int
    due: int


class DictionaryCompressor:
    """Compresses and decompresses the rows of a table, in any transaction; not thread-safe.

    It caches dictionaries by id. Ids increase by random steps, so that no cached dictionary is mistaken for one of a
    transaction that was rolled back, or of an earlier file with the same name. A dictionary takes at most
    `most_samples`.
    """

    def __init__(self, table: CompressedTable, *, most_samples: int = _MAX_SAMPLES) -> None:
        self._table = table
        self._most_samples = most_samples
        self._plain = _Codec(b"")
        self._codecs: OrderedDict[int, _Codec] = OrderedDict()
        self._is_corruption_logged = False

    def compress(self, connection: sqlite3.Connection, content: bytes) -> Compressed:
        """Compress with the newest shared dictionary. Raises CompressionError for more than MAX_SIZE bytes."""
        if len(content) > MAX_SIZE:
            raise CompressionError(f"{len(content):,} bytes exceed the limit of {MAX_SIZE:,}")
        newest = self._shared(connection)
        codec = newest and self._usable(connection, newest.number)
        blob = (codec or self._plain).compress(content)
        return Compressed(newest.number if newest and codec else None, not _is_well_compressed(blob, content), blob)

    def compress_like(self, connection: sqlite3.Connection, content: bytes, before: Compressed) -> Compressed | None:
        """Compress content that resembles one earlier row, such as the host's audit of the day before.

        Uses the dictionary of that row, or makes the row itself a dictionary. Returns None if that does not help.
        """
        newest = self._shared(connection)
        if before.dictionary is not None and not (newest and newest.number == before.dictionary):
            codec = self._usable(connection, before.dictionary)
            if codec and _is_well_compressed(blob := codec.compress(content), content):
                return Compressed(before.dictionary, is_sample=False, blob=blob)
        try:
            known = self.decompress(connection, before)[:MAX_DICTIONARY_SIZE]
        except CompressionError:
            return None
        blob = _Codec(known).compress(content)
        if not _is_well_compressed(blob, content):
            return None
        return Compressed(self._insert(connection, _HOST_KIND, known), is_sample=False, blob=blob)

    def decompress(self, connection: sqlite3.Connection, compressed: Compressed) -> bytes:
        """Return the content. Raises CompressionError if the blob or the dictionary is corrupt."""
        codec = self._plain if compressed.dictionary is None else self._codec(connection, compressed.dictionary)
        return codec.decompress(compressed.blob)

    def update_dictionary(self, connection: sqlite3.Connection) -> None:
        """Create the next shared dictionary if there are enough samples; call it after writing a sample.

        It consists of the newest samples and the end of the previous dictionary. The number of samples that it takes
        doubles with each dictionary, from 1 to 1024.
        """
        newest = self._shared(connection)
        last = newest and self._usable(connection, newest.number)
        after, due = (newest.made_after, newest.due) if newest else (0, 1)
        (count,) = connection.execute(f"SELECT count(*) FROM {self._table.samples}", (after,)).fetchone()  # noqa: S608 - of constants
        if not count or (last and count < due):
            return
        pieces: list[bytes] = []
        room, made_after = MAX_DICTIONARY_SIZE, after
        samples = f"SELECT {self._table.columns} FROM {self._table.samples} ORDER BY 1 DESC"  # noqa: S608 - of constants
        for number, dictionary, blob in connection.execute(samples, (after,)):
            made_after = max(made_after, number)
            try:
                pieces.append(self.decompress(connection, Compressed(dictionary, is_sample=True, blob=blob))[:room])
            except CompressionError:
                continue
            room -= len(pieces[-1])
            if not room:
                break
        if last and room:
            pieces.append(last.content[-room:])
        content = b"".join(reversed(pieces))  # the newest last: near matches have shorter offsets
        self._insert(connection, self._table.kind, content, made_after, min(2 * due, self._most_samples))

    def _shared(self, connection: sqlite3.Connection) -> _SharedDictionary | None:
        row = connection.execute(
            "SELECT id, made_after, due FROM dictionary WHERE kind = ? ORDER BY id DESC LIMIT 1", (self._table.kind,)
        ).fetchone()
        return _SharedDictionary(*row) if row else None

    def _insert(
        self, connection: sqlite3.Connection, kind: str, content: bytes, made_after: int = 0, due: int = 0
    ) -> int:
        number = connection.execute(
            """INSERT INTO dictionary (id, kind, made_after, due, content)
            SELECT coalesce(max(id), 0) + 1 + (random() & 0x7fffffff), ?, ?, ?, ? FROM dictionary""",
            (kind, made_after, due, self._plain.compress(content)),
        ).lastrowid
        if number is None:
            raise RuntimeError("INSERT returned no row id")
        return number

    def _usable(self, connection: sqlite3.Connection, number: int) -> _Codec | None:
        """Return the codec of a dictionary; None if it is corrupt, which is logged once."""
        try:
            return self._codec(connection, number)
        except CompressionError as error:
            if not self._is_corruption_logged:
                self._is_corruption_logged = True
                _log.error("a compression dictionary is corrupt; continuing without it", why=str(error))
            return None

    def _codec(self, connection: sqlite3.Connection, number: int) -> _Codec:
        codec = self._codecs.get(number)
        if codec is None:
            row = connection.execute("SELECT content FROM dictionary WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise CompressionError(f"dictionary {number} is missing")
            try:
                codec = self._codecs[number] = _Codec(self._plain.decompress(row[0]))
            except CompressionError as error:
                raise CompressionError(f"dictionary {number} is corrupt: {error}") from error
            if len(self._codecs) > MAX_LOADED_DICTIONARIES:
                self._codecs.popitem(last=False)
        self._codecs.move_to_end(number)
        return codec


class _Codec:
    """Compresses and decompresses with a dictionary, or without if it is empty; caches its tables."""

    def __init__(self, content: bytes) -> None:
        self._dictionary = (
            zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if content else None
        )

    @property
    def content(self) -> bytes:
        return self._dictionary.as_bytes() if self._dictionary else b""

    def compress(self, content: bytes) -> bytes:
        return self._compressor.compress(content)

    def decompress(self, blob: object) -> bytes:
        """Return the content. Limits the memory for a corrupt blob by the maximum ratio of a frame."""
        if not isinstance(blob, bytes):
            raise CompressionError("not a blob")
        try:
            size = zstandard.frame_content_size(blob)
            if not 0 <= size <= min(MAX_SIZE, len(blob) * _MAX_RATIO):
                raise CompressionError("invalid content size")
            return self._decompressor.decompress(blob, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CompressionError(str(error)) from error

    @cached_property
    def _compressor(self) -> zstandard.ZstdCompressor:
        if self._dictionary and len(self._dictionary) >= _LARGE_DICTIONARY:
            self._dictionary.precompute_compress(
                compression_params=zstandard.ZstdCompressionParameters.from_level(
                    _LEVEL, dict_size=len(self._dictionary), hash_log=_LARGE_TABLE_LOG, chain_log=_LARGE_TABLE_LOG
                )
            )
        elif self._dictionary:
            self._dictionary.precompute_compress(level=_LEVEL)
        return zstandard.ZstdCompressor(level=_LEVEL, dict_data=self._dictionary, write_checksum=True)

    @cached_property
    def _decompressor(self) -> zstandard.ZstdDecompressor:
        return zstandard.ZstdDecompressor(dict_data=self._dictionary, max_window_size=MAX_SIZE)


def _is_well_compressed(blob: bytes, content: bytes) -> bool:
    return len(blob) <= _SMALL_BLOB or len(blob) * _GOOD_RATIO <= len(content)
