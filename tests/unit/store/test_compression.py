from __future__ import annotations

import random
import sqlite3
from contextlib import closing, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.store import compression, schema
from portspec.store.compression import AUDIT_RESULTS, AUDITS, Compressed, CompressionError, DictionaryCompressor
from portspec.store.schema import transaction
from tests.unit.factories import MODEST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.store.scenes import Logs


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Return a connection to a new file."""
    with closing(connected(path)) as found:
        yield found


def connected(path: Path | str) -> sqlite3.Connection:
    """Open or create a file."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    schema.migrate(connection)
    return connection


def put(connection: sqlite3.Connection, compressor: DictionaryCompressor, content: bytes) -> Compressed:
    """Insert a compressed payload as the archive does; return it."""
    packed = compressor.compress(connection, content)
    connection.execute(
        """INSERT INTO audit (host, day, at, received_at, dictionary, is_sample, payload)
        SELECT 'web1', count(*), 0, 0, ?, ?, ? FROM audit""",
        packed,
    )
    if packed.is_sample:
        compressor.update_dictionary(connection)
    return packed


def dictionaries(connection: sqlite3.Connection) -> int:
    """Return their number."""
    return int(connection.execute("SELECT count(*) FROM dictionary").fetchone()[0])


def noise(seed: int, size: int = 5_000) -> bytes:
    """Return bytes that resemble no others."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - repeatable


@MODEST
@given(st.lists(st.binary(max_size=2000) | st.text(max_size=500).map(lambda text: 20 * text.encode()), max_size=12))
def test_decompression_returns_the_content(contents: list[bytes]) -> None:
    """Another compressor returns any bytes unchanged, whatever dictionaries were created."""
    with closing(connected(":memory:")) as connection:
        compressor = DictionaryCompressor(AUDITS)
        packed = [put(connection, compressor, content) for content in (*contents, *contents)]
        other = DictionaryCompressor(AUDITS)
        assert [other.decompress(connection, item) for item in packed] == [*contents, *contents]


@pytest.mark.parametrize("content", [b"", bytes(20 << 20), noise(1, 20 << 20)], ids=["empty", "zeros", "noise"])
def test_empty_and_large_content_is_returned(connection: sqlite3.Connection, content: bytes) -> None:
    """Empty content and 20 MB with and without a pattern are returned, also with a dictionary."""
    compressor = DictionaryCompressor(AUDITS)
    put(connection, compressor, b"".join(noise(number, 300) for number in range(10)))
    for _ in range(2):
        assert compressor.decompress(connection, put(connection, compressor, content)) == content


def test_too_large_content_is_rejected(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content that could not be decompressed again is not compressed."""
    monkeypatch.setattr(compression, "MAX_SIZE", 1000)
    DictionaryCompressor(AUDITS).compress(connection, bytes(1000))
    with pytest.raises(CompressionError, match="1,001 bytes exceed the limit of 1,000"):
        DictionaryCompressor(AUDITS).compress(connection, bytes(1001))


def test_content_that_resembles_an_earlier_row_compresses_well(connection: sqlite3.Connection) -> None:
    """The first row takes its size; later ones that differ in a few bytes take almost none."""
    compressor = DictionaryCompressor(AUDITS)
    sizes = [len(put(connection, compressor, noise(1, 50_000) + noise(number, 20)).blob) for number in range(5)]
    assert sizes[0] > 50_000
    assert max(sizes[1:]) < 100
    assert dictionaries(connection) == 1


def test_useless_dictionaries_become_rare(connection: sqlite3.Connection) -> None:
    """Dissimilar rows create dictionaries after 1, 2, 4 and so on samples, up to a maximum interval."""
    compressor = DictionaryCompressor(AUDITS, most_samples=8)
    made = [0]
    for number in range(40):
        put(connection, compressor, noise(number))
        made.append(dictionaries(connection))
    assert [number for number, (before, after) in enumerate(pairwise(made), 1) if before != after] == [
        1,
        1 + 2,
        1 + 2 + 4,
        1 + 2 + 4 + 8,
        1 + 2 + 4 + 2 * 8,
        1 + 2 + 4 + 3 * 8,
        1 + 2 + 4 + 4 * 8,
    ]


def test_dictionary_has_the_newest_samples_up_to_its_size(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It consists of the newest samples, then the end of the previous dictionary."""
    monkeypatch.setattr(compression, "MAX_DICTIONARY_SIZE", 12_000)
    compressor = DictionaryCompressor(AUDITS)
    for number in range(3):
        put(connection, compressor, noise(number))
    (newest,) = connection.execute("SELECT content FROM dictionary ORDER BY id DESC LIMIT 1").fetchone()
    content = compressor.decompress(connection, Compressed(None, is_sample=False, blob=newest))
    assert content == (noise(0) + noise(1) + noise(2))[-12_000:]


def test_tables_have_separate_dictionaries(connection: sqlite3.Connection) -> None:
    """Dictionaries of audits are not used for results."""
    put(connection, DictionaryCompressor(AUDITS), noise(1))
    assert DictionaryCompressor(AUDITS).compress(connection, noise(1)).dictionary is not None
    assert DictionaryCompressor(AUDIT_RESULTS).compress(connection, noise(1)).dictionary is None


def test_dictionary_of_another_process_is_used(path: Path) -> None:
    """Each compressor uses the newest dictionary in the file, and decompresses rows of the other."""
    with closing(connected(path)) as one, closing(connected(path)) as other:
        mine, theirs = DictionaryCompressor(AUDITS), DictionaryCompressor(AUDITS)
        put(one, mine, noise(1))
        assert len(put(other, theirs, noise(1)).blob) < 100
        put(other, theirs, noise(2))
        put(other, theirs, noise(3))
        packed = put(one, mine, noise(3))
        assert len(packed.blob) < 100
        assert theirs.decompress(other, packed) == noise(3)


def test_rolled_back_dictionary_is_not_reused(connection: sqlite3.Connection) -> None:
    """A cached dictionary of a rolled back transaction is not mistaken for the next one."""
    compressor = DictionaryCompressor(AUDITS)

    def fail() -> None:
        with transaction(connection):
            for number in (1, 1, 2, 2):
                put(connection, compressor, noise(number))
            raise InterruptedError

    for _ in range(3):
        with pytest.raises(InterruptedError):
            fail()
    with transaction(connection):
        packed = [put(connection, compressor, noise(number)) for number in (3, 3, 4, 4)]
    assert [DictionaryCompressor(AUDITS).decompress(connection, item) for item in packed] == [
        noise(number) for number in (3, 3, 4, 4)
    ]


def test_few_dictionaries_are_cached(connection: sqlite3.Connection) -> None:
    """Dictionaries are loaded on demand, and the least recently used ones are dropped."""
    compressor = DictionaryCompressor(AUDITS, most_samples=1)
    packed = [put(connection, compressor, noise(number // 2)) for number in range(40)]
    assert len({item.dictionary for item in packed}) > compression.MAX_LOADED_DICTIONARIES + 2
    for item, number in zip(packed, range(40), strict=True):
        assert compressor.decompress(connection, item) == noise(number // 2)
        assert len(compressor._codecs) <= compression.MAX_LOADED_DICTIONARIES


@MODEST
@given(st.data())
def test_corrupt_blob_is_an_error(data: st.DataObject) -> None:
    """A blob with a byte changed, cut off or added decompresses to the content or raises CompressionError."""
    with closing(connected(":memory:")) as connection:
        compressor = DictionaryCompressor(AUDITS)
        content = noise(1, 2000) + bytes(3000)
        put(connection, compressor, content)
        packed = compressor.compress(connection, noise(1, 1000) + noise(2, 1000) + bytes(3000))
        place = data.draw(st.integers(0, len(packed.blob) - 1))
        new = data.draw(st.binary(max_size=2))
        garbled = packed.blob[:place] + new + packed.blob[place + 1 :]
        try:
            found = compressor.decompress(connection, packed._replace(blob=garbled))
        except CompressionError:
            return
        assert found == noise(1, 1000) + noise(2, 1000) + bytes(3000)


@MODEST
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\x28\xb5\x2f\xfd" + tail))
def test_arbitrary_bytes_are_rejected(blob: bytes) -> None:
    """Bytes that are no valid frame raise CompressionError, also those that start like one."""
    with closing(connected(":memory:")) as connection, suppress(CompressionError):
        DictionaryCompressor(AUDITS).decompress(connection, Compressed(None, is_sample=False, blob=blob))


@pytest.mark.parametrize(
    "blob",
    [
        b"\x28\xb5\x2f\xfd\xe0" + (1 << 60).to_bytes(8, "little") + bytes(20),
        b"\x28\xb5\x2f\xfd\xa0" + (200 << 20).to_bytes(4, "little") + bytes(20),
        b"\x28\xb5\x2f\xfd\x00\xff" + bytes(20),
        b"",
        "text",
        None,
    ],
    ids=["exabyte", "more than it can hold", "no size, large window", "empty", "text", "null"],
)
def test_impossible_content_size_is_rejected(connection: sqlite3.Connection, blob: object) -> None:
    """No memory is allocated for a size that the blob cannot contain."""
    with pytest.raises(CompressionError):
        DictionaryCompressor(AUDITS).decompress(connection, Compressed(None, is_sample=False, blob=blob))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM dictionary", "UPDATE dictionary SET content = x'00'", "UPDATE dictionary SET content = 'text'"],
)
def test_corrupt_dictionary_is_logged_and_replaced(connection: sqlite3.Connection, logs: Logs, statement: str) -> None:
    """Rows compressed with it are lost, which is logged; later rows use another dictionary."""
    for number in range(7):
        put(connection, DictionaryCompressor(AUDITS), noise(number))
    packed = put(connection, DictionaryCompressor(AUDITS), noise(6))
    connection.execute(statement)
    compressor = DictionaryCompressor(AUDITS)
    with pytest.raises(CompressionError, match=f"dictionary {packed.dictionary} is"):
        compressor.decompress(connection, packed)
    for _ in range(2):
        found = put(connection, compressor, noise(8))
        assert compressor.decompress(connection, found) == noise(8)
    assert len(found.blob) < 100
    assert logs.levels == ([] if statement.startswith("DELETE") else ["error"])
