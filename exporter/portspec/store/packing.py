"""Reports and documents made small: compressed with a dictionary of what came before, which they resemble.

A report of 50 kB says few things twice, and compresses to a third; but the reports of a fleet have findings in common,
and a host's has most of that of the day before. So what compresses poorly is a sample, and of samples the dictionary is
made for what comes later: their bytes as they are (RFC 8878, section 5, "raw content").
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

MAX_SIZE: Final = 256 << 20  # bytes of what is packed: a few times what a report may have
MAX_DICTIONARY: Final = 2 << 20  # bytes
MAX_LOADED: Final = 8  # dictionaries at a time, each of at most 10 MB with its tables

# Measured with reports that have 220 of 2,000 findings: by this table, a dictionary of 2 MB compresses them to 1/28 in
# 0.09 ms; by the one that zstd takes itself at this level to 1/17 in 0.07, by one twice as large to 1/29 in 0.16.
_LEVEL: Final = 3
_LARGE, _TABLE = 512 << 10, 18  # bytes of a dictionary with a table of its own; log2 of its entries
_GOOD: Final = 20  # times smaller than it was; at 16 and at 24 fleets that have more or less in common come out worse
_SMALL: Final = 128  # bytes, for which there is no more to be done
_MAX_DUE: Final = 1024  # samples
_MAX_RATIO: Final = 1 << 15  # of a frame: a block of 128 KiB takes 4 bytes at least (RFC 8878, 3.1.1.2)
_OF_HOST: Final = "host"

_log = log.get("store")


class PackingError(ValueError):
    """Bytes in which nothing was packed, or too many bytes to be packed."""


@dataclass(frozen=True, slots=True)
class Series:
    """Rows that resemble each other: the `kind` of their dictionaries, and where their samples are.

    `samples` is the condition of those with a greater number than a parameter; `columns` are number, dictionary, blob.
    """

    kind: str
    columns: str
    samples: str


PAYLOADS: Final = Series("audit", "id, dictionary, payload", "audit WHERE is_sample = 1 AND id > ?")
DOCUMENTS: Final = Series(
    "audit_result", "audit_id, dictionary, document", "audit_result WHERE is_sample = 1 AND audit_id > ?"
)


class Packed(NamedTuple):
    """The columns of a row: the id of the dictionary, if there is one, whether it compressed poorly, and the blob."""

    dictionary: int | None
    is_sample: bool
    blob: bytes


class _Newest(NamedTuple):
    """The dictionary for all hosts, the newest sample that it knows, and the number of samples that make a next one."""

    number: int
    made_after: int
    due: int


class Packer:
    """Packs what goes into a series of rows, and unpacks it; for one thread at a time, in any transaction.

    It keeps some dictionaries by their ids. These rise by random steps: so none is taken for another of a transaction
    that was rolled back, or of a file that had the name before.
    """

    def __init__(self, series: Series) -> None:
        self._series = series
        self._plain = _Codec(b"")
        self._codecs: OrderedDict[int, _Codec] = OrderedDict()
        self._is_told = False

    def pack(self, connection: sqlite3.Connection, content: bytes) -> Packed:
        """Pack with the newest dictionary, whichever process made it. Raises PackingError for more than MAX_SIZE."""
        if len(content) > MAX_SIZE:
            raise PackingError(f"{len(content):,} bytes are more than {MAX_SIZE:,}")
        newest = self._newest(connection)
        codec = newest and self._usable(connection, newest.number)
        blob = (codec or self._plain).compress(content)
        return Packed(newest.number if newest and codec else None, not _is_good(blob, content), blob)

    def pack_like(self, connection: sqlite3.Connection, content: bytes, before: Packed) -> Packed | None:
        """Pack what resembles an earlier row more than it does others, as a host's report does that of the day before.

        It is done with the dictionary of that row, or else that row becomes a dictionary. None if it does not help.
        """
        newest = self._newest(connection)
        if before.dictionary is not None and not (newest and newest.number == before.dictionary):
            codec = self._usable(connection, before.dictionary)
            if codec and _is_good(blob := codec.compress(content), content):
                return Packed(before.dictionary, is_sample=False, blob=blob)
        try:
            known = self.unpack(connection, before)[:MAX_DICTIONARY]
        except PackingError:
            return None
        blob = _Codec(known).compress(content)
        if not _is_good(blob, content):
            return None
        return Packed(self._insert(connection, _OF_HOST, known), is_sample=False, blob=blob)

    def unpack(self, connection: sqlite3.Connection, packed: Packed) -> bytes:
        """Give what was packed. Raises PackingError if the blob or the dictionary is garbled."""
        codec = self._plain if packed.dictionary is None else self._codec(connection, packed.dictionary)
        return codec.decompress(packed.blob)

    def learn(self, connection: sqlite3.Connection) -> None:
        """Make the next dictionary if it is due; to be called when a sample was written.

        It is made of the newest samples and the end of the last dictionary. The number of samples for which it is due
        doubles each time, from 1 to 1024.
        """
        newest = self._newest(connection)
        last = newest and self._usable(connection, newest.number)
        after, due = (newest.made_after, newest.due) if newest else (0, 1)
        (count,) = connection.execute(f"SELECT count(*) FROM {self._series.samples}", (after,)).fetchone()  # noqa: S608 - of constants
        if not count or (last and count < due):
            return
        pieces: list[bytes] = []
        room, made_after = MAX_DICTIONARY, after
        samples = f"SELECT {self._series.columns} FROM {self._series.samples} ORDER BY 1 DESC"  # noqa: S608 - of constants
        for number, dictionary, blob in connection.execute(samples, (after,)):
            made_after = max(made_after, number)
            try:
                pieces.append(self.unpack(connection, Packed(dictionary, is_sample=True, blob=blob))[:room])
            except PackingError:
                continue
            room -= len(pieces[-1])
            if not room:
                break
        if last and room:
            pieces.append(last.content[-room:])
        content = b"".join(reversed(pieces))  # the newest last: what is near takes fewer bytes to point at
        self._insert(connection, self._series.kind, content, made_after, min(2 * due, _MAX_DUE))

    def _newest(self, connection: sqlite3.Connection) -> _Newest | None:
        row = connection.execute(
            "SELECT id, made_after, due FROM dictionary WHERE kind = ? ORDER BY id DESC LIMIT 1", (self._series.kind,)
        ).fetchone()
        return _Newest(*row) if row else None

    def _insert(
        self, connection: sqlite3.Connection, kind: str, content: bytes, made_after: int = 0, due: int = 0
    ) -> int:
        number = connection.execute(
            """INSERT INTO dictionary (id, kind, made_after, due, content)
            SELECT coalesce(max(id), 0) + 1 + (random() & 0x7fffffff), ?, ?, ?, ? FROM dictionary""",
            (kind, made_after, due, self._plain.compress(content)),
        ).lastrowid
        if number is None:
            raise RuntimeError("a row has no number")
        return number

    def _usable(self, connection: sqlite3.Connection, number: int) -> _Codec | None:
        """Give what compresses with a dictionary; None if that is garbled, which is told once."""
        try:
            return self._codec(connection, number)
        except PackingError as error:
            if not self._is_told:
                self._is_told = True
                _log.error("reports cannot be compressed as those before: the next ones do without", why=str(error))
            return None

    def _codec(self, connection: sqlite3.Connection, number: int) -> _Codec:
        codec = self._codecs.get(number)
        if codec is None:
            row = connection.execute("SELECT content FROM dictionary WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise PackingError(f"dictionary {number} is not there")
            try:
                codec = self._codecs[number] = _Codec(self._plain.decompress(row[0]))
            except PackingError as error:
                raise PackingError(f"dictionary {number} is garbled: {error}") from error
            if len(self._codecs) > MAX_LOADED:
                self._codecs.popitem(last=False)
        self._codecs.move_to_end(number)
        return codec


class _Codec:
    """Compresses and decompresses with a dictionary, or without if it is empty; its tables are made once."""

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
        """Give what was compressed; of a blob that is garbled no more is held than its size could come from."""
        if not isinstance(blob, bytes):
            raise PackingError("it is no blob")
        try:
            size = zstandard.frame_content_size(blob)
            if not 0 <= size <= min(MAX_SIZE, len(blob) * _MAX_RATIO):
                raise PackingError("it is of no size that was packed")
            return self._decompressor.decompress(blob, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise PackingError(str(error)) from error

    @cached_property
    def _compressor(self) -> zstandard.ZstdCompressor:
        if self._dictionary and len(self._dictionary) >= _LARGE:
            self._dictionary.precompute_compress(
                compression_params=zstandard.ZstdCompressionParameters.from_level(
                    _LEVEL, dict_size=len(self._dictionary), hash_log=_TABLE, chain_log=_TABLE
                )
            )
        elif self._dictionary:
            self._dictionary.precompute_compress(level=_LEVEL)
        return zstandard.ZstdCompressor(level=_LEVEL, dict_data=self._dictionary, write_checksum=True)

    @cached_property
    def _decompressor(self) -> zstandard.ZstdDecompressor:
        return zstandard.ZstdDecompressor(dict_data=self._dictionary, max_window_size=MAX_SIZE)


def _is_good(blob: bytes, content: bytes) -> bool:
    return len(blob) <= _SMALL or len(blob) * _GOOD <= len(content)
