"""How long vulnerabilities took to be fixed, in the state file: counted with the results that show it."""

from __future__ import annotations

import math
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from portspec.audit.fixes import FixCount
from portspec.store import Archive, database, read_fixes, schema
from portspec.store.archive import ArchivePosition
from portspec.store.compression import CompressionError
from portspec.store.fixes import add_fixes
from portspec.store.schema import MIGRATIONS, transaction
from tests.unit.store.scenes import opened
from tests.unit.store.test_archive import DAYS, add, arrival, connected
from tests.unit.store.test_schema import VERSION_5

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE = FixCount("plan", math.inf, 1, 4e7)


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Return a connection to a new file."""
    with closing(connected(path)) as found:
        yield found


def test_counts_add_up_by_class_and_bucket(connection: sqlite3.Connection) -> None:
    """An infinite bound is a bucket like any other."""
    add_fixes(connection, [ONE, FixCount("plan", 86_400.0, 2, 9.0)])
    add_fixes(connection, [ONE, FixCount("rest", 86_400.0, 1, 1.5), FixCount("plan", 86_400.0, 1, 0.5)])
    assert sorted(read_fixes(connection)) == [
        ("plan", 86_400.0, 3, 9.5),
        ("plan", math.inf, 2, 8e7),
        ("rest", 86_400.0, 1, 1.5),
    ]


def test_fixes_are_added_with_the_result_that_shows_them(connection: sqlite3.Connection) -> None:
    """A result that does not take the place of a later one adds none, nor does one for another archive."""
    add(connection, *(arrival(day=day) for day in (DAYS[1], DAYS[0], DAYS[2])))
    held = Archive()
    _, mark, _ = held.read_after(connection, None, 9)
    held.save_results(connection, [("web1", 1, "of day 1"), ("web1", 2, "of day 0")], mark, fixes={2: [ONE]})
    held.save_results(connection, [("web1", 3, "x")], ArchivePosition("another", 3), fixes={3: [ONE]})
    assert read_fixes(connection) == []
    held.save_results(connection, [("web1", 3, "of day 2")], mark, fixes={3: [ONE]})
    assert read_fixes(connection) == [ONE]


def test_result_that_cannot_be_saved_adds_no_fixes(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next audit shows them again."""
    add(connection, arrival())
    held = Archive()
    _, mark, _ = held.read_after(connection, None, 9)

    def too_large(*_: object) -> None:
        raise CompressionError("it is too large")

    monkeypatch.setattr(held._results, "compress", too_large)
    held.save_results(connection, [("web1", 1, "x")], mark, fixes={1: [ONE]})
    assert read_fixes(connection) == []


def test_fixes_go_with_the_transaction(connection: sqlite3.Connection) -> None:
    """A process that is killed before the end of it has added nothing, nor moved the position."""
    add(connection, arrival())
    held = Archive()
    _, mark, _ = held.read_after(connection, None, 9)

    def save() -> None:
        with transaction(connection):
            held.save_results(connection, [("web1", 1, "x")], mark, fixes={1: [ONE]})
            assert read_fixes(connection) == [ONE]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save()
    assert (read_fixes(connection), held.read_position(connection)) == ([], None)
    assert held.first_result(connection, ("web1",)) is None


@pytest.mark.parametrize("version", [1, 5, 8])
def test_file_of_an_earlier_version_gets_the_table(path: Path, version: int) -> None:
    """It is empty at first."""
    if version == 5:
        shutil.copy(VERSION_5, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection, MIGRATIONS[:version])
    with opened(path) as (store, _):
        assert store.transact(read_fixes) == []
        store.transact(lambda file: add_fixes(file, [ONE]))
    with opened(path) as (store, _):
        assert store.read(read_fixes) == [ONE]


def test_file_of_the_version_before_is_read_without_migration(path: Path) -> None:
    """A command that only reads does not need the table."""
    with closing(connected(path)) as connection:
        add(connection, arrival())
        held = Archive()
        _, mark, _ = held.read_after(connection, None, 9)
        held.save_results(connection, [("web1", 1, "{}")], mark)
        connection.execute("DROP TABLE time_to_fix")
        connection.execute("PRAGMA user_version = 8")
    before = path.read_bytes()
    with closing(database.open_for_reading(str(path))) as file:
        assert list(Archive().results(file)) == [("web1", 1, "{}")]
    assert path.read_bytes() == before
