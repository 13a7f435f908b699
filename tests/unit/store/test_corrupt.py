from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from portspec.state.snapshot import HostState
from portspec.store import StoreError, database, schema
from tests.unit.factories import NOW, target
from tests.unit.store.scenes import WEB, commit, logged_changes, opened, scan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portspec.store import Store
    from tests.unit.store.scenes import Logs

PAGE = 4096
MANY = [target(f"host{number}", address=f"192.0.2.{number}") for number in range(1, 201)]
ASIDE = "portspec.db.corrupt-20231114T221320Z"


def filled(store: Store) -> dict[str, HostState]:
    """Store many hosts; return them."""
    found = {of.host: scan(store, HostState(of), 22, 80, at=NOW - 1) for of in MANY}
    commit(store)
    return found


def garbage(path: Path) -> None:
    """Overwrite the whole file."""
    path.write_bytes(b"no database at all\n" * 500)


def truncated(path: Path) -> None:
    """Truncate the file in the middle."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def short(path: Path) -> None:
    """Leave a few bytes of the header."""
    with path.open("r+b") as file:
        file.truncate(50)


def flipped_page(path: Path) -> None:
    """Flip every bit of a page in the middle."""
    with path.open("r+b") as file:
        file.seek(5 * PAGE)
        page = file.read(PAGE)
        file.seek(5 * PAGE)
        file.write(bytes(byte ^ 0xFF for byte in page))


def zeroed_pages(path: Path) -> None:
    """Zero everything except the first page."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(PAGE)
        file.write(bytes(size - PAGE))


def zeroed_tables(path: Path) -> None:
    """Zero the first page of each table and index, but not the schema."""
    with closing(sqlite3.connect(path)) as connection:
        pages = [page for (page,) in connection.execute("SELECT rootpage FROM sqlite_schema WHERE rootpage > 0")]
    with path.open("r+b") as file:
        for page in pages:
            file.seek(PAGE * (page - 1))
            file.write(bytes(PAGE))


def noise(path: Path) -> None:
    """Overwrite everything except the header with random bytes."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(random.Random(1).randbytes(size - 100))  # noqa: S311 - the same each time


@pytest.mark.parametrize("harm", [garbage, truncated, short, flipped_page, zeroed_pages, noise])
def test_corrupt_file_is_renamed_at_the_start(path: Path, logs: Logs, harm: Callable[[Path], None]) -> None:
    """A corrupt file is renamed, both names are logged, and a new file is created."""
    with opened(path, MANY) as (store, _):
        filled(store)
    harm(path)
    content = path.read_bytes()
    with opened(path, MANY) as (store, restored):
        assert restored == {}
        assert store.status.is_up
        filled(store)
        assert len(store.changes(limit=1000)) == 400
    (event,) = logs.events
    assert (event["level"], event["file"], event["renamed_to"]) == ("error", str(path), str(path.with_name(ASIDE)))
    assert path.with_name(ASIDE).read_bytes() == content
    with opened(path, MANY) as (_, restored):
        assert len(restored) == len(MANY)


def test_earlier_corrupt_files_are_kept(path: Path) -> None:
    """A name is not used twice, even within the same second."""
    for number in range(3):
        path.write_text(f"{number}: no database", encoding="utf-8")
        with opened(path):
            pass
    kept = [path.with_name(f"{ASIDE}{suffix}").read_text(encoding="utf-8")[0] for suffix in ("", "-2", "-3")]
    assert kept == ["0", "1", "2"]


def test_companions_are_renamed_with_a_corrupt_file(path: Path) -> None:
    """The -wal and the -shm are kept under the new name, where SQLite finds them."""
    path.touch()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).write_text(suffix, encoding="utf-8")
    with opened(path) as (store, _):
        assert store.status.is_up
    found = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.match("*.db*.lock")}
    assert found.pop(path.name)
    assert found == {ASIDE: b"", f"{ASIDE}-wal": b"-wal", f"{ASIDE}-shm": b"-shm"}


def corrupted_while_open(path: Path) -> None:
    """Checkpoint the file, then overwrite it with noise."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    noise(path)


def test_writer_detects_corruption(path: Path, logs: Logs) -> None:
    """Corruption at runtime loses the log, not the states: all are written to the new file."""
    with opened(path, MANY) as (store, _):
        known = filled(store)
        connection = store._file._connection
        assert connection
        connection.execute("PRAGMA cache_size = 1")  # or it would not look at the file for long
        corrupted_while_open(path)
        known["host7"] = scan(store, known["host7"], 443)
        commit(store)
        assert store.status.is_up
        assert sorted(logged_changes(store)) == [
            ("host7", "22", "closed"),
            ("host7", "443", "open"),
            ("host7", "80", "closed"),
        ]
    assert [(event["level"], event.get("renamed_to")) for event in logs.events] == [
        ("error", str(path.with_name(ASIDE)))
    ]
    with opened(path, MANY) as (_, restored):
        assert {host: state.latest for host, state in restored.items()} == {
            host: state.latest for host, state in known.items()
        }


def test_reader_detects_corruption(path: Path) -> None:
    """A reader's error makes the writer check the file, although its own pages are cached."""
    with opened(path, MANY) as (store, _):
        known = filled(store)
        corrupted_while_open(path)
        with pytest.raises(StoreError):
            store.changes()
        scan(store, known["host7"], 443)
        commit(store)
        assert store.status.is_up
        assert len(store.changes()) == 3
        assert path.with_name(ASIDE).exists()
    with opened(path, MANY) as (_, restored):
        assert len(restored) == len(MANY)


def test_corruption_beyond_the_check_timeout_is_found_by_reading(
    path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file too large for the check is renamed after reading its states failed."""
    with opened(path, MANY) as (store, _):
        filled(store)
    zeroed_tables(path)
    monkeypatch.setattr(database, "_CHECK_TIMEOUT", -1.0)
    monkeypatch.setattr(database, "_CHECK_STEPS", 1)
    with opened(path, MANY) as (store, restored):
        assert restored == {}
        scan(store, HostState(MANY[0]), 22)
        commit(store)
        assert store.status.is_up
    assert [event.get("renamed_to") for event in logs.events] == [None, str(path.with_name(ASIDE))]


def test_failing_disk_is_not_filled(path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten corrupt files the store stops creating new ones, and logs that once."""

    def garbles(_connection: sqlite3.Connection) -> None:
        garbage(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT * FROM sqlite_master")

    monkeypatch.setattr(schema, "migrate", garbles)
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        for _ in range(10):
            assert not store.flush(5)
        assert not store.status.is_up
        assert len(list(path.parent.glob("*.corrupt-*"))) == 10
    assert logs.levels == ["error"] * 12  # the last is about what is lost at the end


def test_failure_to_rename_a_corrupt_file_is_logged(path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays, and the store reports the fault like any other."""

    def refuse(_path: str, _now: float) -> str:
        raise PermissionError(1, "Operation not permitted")

    garbage(path)
    monkeypatch.setattr(database, "rename_corrupt", refuse)
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        assert not store.flush(5)
        assert [(event["level"], event["why"]) for event in logs.events] == [("error", "it is not a database")]
        assert path.exists()
        path.unlink()
        commit(store)
        assert logs.levels == ["error", "info"]


def test_dropped_table_is_logged(path: Path, logs: Logs) -> None:
    """A valid database with a missing table is a fault that is logged once."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        commit(store)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE state")
        scan(store, HostState(WEB), 80)
        assert not store.flush(5)
        assert not store.flush(5)
        assert [(event["level"], event["why"]) for event in logs.events] == [("error", "no such table: state")]
