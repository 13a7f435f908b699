from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from portspec.state.snapshot import HostState
from portspec.store import StoreError, schema
from portspec.store.schema import MIGRATIONS
from tests.unit.store.scenes import WEB, commit, opened, scan, scanned, told

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.store.scenes import Logs

NEXT = (*MIGRATIONS, ("CREATE TABLE outbox (id INTEGER PRIMARY KEY)", "INSERT INTO outbox VALUES (7)"))


def pragma(path: Path, name: str) -> int:
    """Read a number of a file."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def test_new_file_has_the_present_version_and_the_mark_of_portspec(path: Path) -> None:
    """Version and application are in the file, as file(1) and other programs read them."""
    with opened(path):
        pass
    assert pragma(path, "user_version") == len(MIGRATIONS)
    assert pragma(path, "application_id") == schema.APPLICATION_ID


def test_older_file_is_brought_to_the_present_version(path: Path) -> None:
    """A migration adds to the file and leaves what is in it."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for _ in range(2):  # the second time there is nothing to do
            schema.migrate(connection, NEXT)
        assert connection.execute("SELECT id FROM outbox").fetchall() == [(7,)]
        assert connection.execute("SELECT host FROM state").fetchall() == [("web1",)]
    assert pragma(path, "user_version") == len(NEXT)


def test_hosts_of_an_older_file_get_their_keys(path: Path) -> None:
    """Hosts were written as conf.yml spelled them; of two spellings the later state holds, and the log is one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection, MIGRATIONS[:3])
        for host, saved_at in (("WWW.Example.org", 2.0), ("www.example.org.", 1.0), ("2001:DB8::1", 3.0), ("a b", 4.0)):
            connection.execute("INSERT INTO state VALUES (?, ?, ?, NULL)", (host, saved_at, f"of {saved_at:g}"))
            row = (saved_at, host, "192.0.2.1", "22", "open", saved_at)
            connection.execute(
                "INSERT INTO change (at, host, address, ports, became, first_seen) VALUES (?, ?, ?, ?, ?, ?)", row
            )
        schema.migrate(connection)
        states = connection.execute("SELECT host, document FROM state ORDER BY saved_at").fetchall()
        assert states == [("www.example.org", "of 2"), ("2001:db8::1", "of 3"), ("a b", "of 4")]
        hosts = connection.execute("SELECT host FROM change ORDER BY id").fetchall()
        assert [host for (host,) in hosts] == ["www.example.org", "www.example.org", "2001:db8::1", "a b"]


def test_migration_that_fails_changes_nothing(path: Path) -> None:
    """All steps are one transaction."""
    with opened(path):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            schema.migrate(connection, (*NEXT, ("CREATE TABLE state (x)",)))
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'outbox'").fetchall() == []
    assert pragma(path, "user_version") == len(MIGRATIONS)


def refused(path: Path, logs: Logs, words: str) -> None:
    """See that a store leaves a file as it is, says so once, and takes it once it has gone."""
    before = path.read_bytes()
    with opened(path) as (store, restored):
        assert restored == {}
        assert not store.status.is_up
        web = scan(store, HostState(WEB), 22)
        assert not store.flush(5)
        assert not store.flush(5)
        with pytest.raises(StoreError, match=words):
            store.changes()
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]
        (event,) = logs.events
        assert (event["level"], event["file"]) == ("error", str(path))
        assert words in event["why"]
        path.rename(path.with_name("moved"))
        commit(store)
        assert told(store) == [("web1", "22", "open")]
        assert logs.levels == ["error", "info"]
    with opened(path) as (_, restored):
        assert restored["web1"].latest == web.latest


def test_file_of_a_newer_portspec_is_not_touched(path: Path, logs: Logs) -> None:
    """What a newer version wrote is left alone until it is moved away."""
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    path.with_name("portspec.db.lock").unlink()
    refused(path, logs, "a newer portspec wrote it")


@pytest.mark.parametrize("application_id", [0, 0x0F055112])
def test_database_of_another_program_is_not_touched(path: Path, logs: Logs, application_id: int) -> None:
    """Somebody else's SQLite file is left alone, marked (here as Fossil's) or not, in WAL mode or not."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE state (theirs)")
    refused(path, logs, "the database of another program")


def test_database_of_another_program_is_known_by_what_is_in_its_wal(path: Path) -> None:
    """A file whose tables are only in its -wal yet is left alone, too."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE theirs (x)")
        with opened(path) as (store, _):
            assert not store.status.is_up
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_file_whose_making_was_interrupted_is_made(path: Path, journal_mode: str) -> None:
    """A file without anything in it, of no size or with a header, is taken."""
    path.touch()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}")
    with opened(path) as (store, _):
        after = scan(store, HostState(WEB), 22)
        commit(store)
        assert after == scanned(HostState(WEB), 22)
        assert store.status.is_up
