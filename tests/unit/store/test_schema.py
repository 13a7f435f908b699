from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.state.snapshot import HostState
from portspec.store import (
    Archive,
    ArchivePosition,
    IncomingAudit,
    Outcome,
    Store,
    StoreError,
    archive,
    database,
    outbox,
    schema,
    states,
)
from portspec.store.schema import MIGRATIONS
from tests.unit.factories import NOW
from tests.unit.store.scenes import DAY, DB, WEB, commit, logged_changes, opened, scan, scanned

if TYPE_CHECKING:
    from tests.unit.store.scenes import Logs

NEXT = (*MIGRATIONS, ("CREATE TABLE outbox (id INTEGER PRIMARY KEY)", "INSERT INTO outbox VALUES (7)"))
VERSION_5: Final = Path(__file__).parents[2] / "data" / "store" / "version-5.db"


def pragma(path: Path, name: str) -> int:
    """Return the number in a pragma of a file."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def test_new_file_has_the_current_version_and_the_application_id(path: Path) -> None:
    """Version and application id are in the file's header, where file(1) reads them."""
    with opened(path):
        pass
    assert pragma(path, "user_version") == len(MIGRATIONS)
    assert pragma(path, "application_id") == schema.APPLICATION_ID


def test_older_file_is_migrated(path: Path) -> None:
    """A migration adds to the file and keeps its contents."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for _ in range(2):  # the second time there is nothing to do
            schema.migrate(connection, NEXT)
        assert connection.execute("SELECT id FROM outbox").fetchall() == [(7,)]
        assert connection.execute("SELECT host FROM state").fetchall() == [("web1",)]
    assert pragma(path, "user_version") == len(NEXT)


def test_migration_replaces_host_names_by_keys(path: Path) -> None:
    """Of two spellings of one host the later state stays, and their changes are merged."""
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


@pytest.fixture
def version_5(path: Path) -> dict[str, Any]:
    """Copy a state file that commit 84d001d wrote; return what that commit read from it."""
    shutil.copy(VERSION_5, path)
    found: dict[str, Any] = json.loads(VERSION_5.with_suffix(".json").read_text())
    return found


def verify_readable(path: Path, expected: dict[str, Any]) -> None:
    """Check what a command reads: changes, states, audits and their results."""
    store = Store(str(path), history=DAY)
    changes = [
        [number, i.at, i.host, i.address, i.ports, i.before and i.before.value, i.after.value, i.first_seen]
        for number, i in store.changes()
    ]
    assert changes == expected["changes"]
    assert store.latest_audits() == expected["last"]
    assert {host: list(result) for host, result in store.audit_results().items()} == expected["results"]
    for host, days in expected["days"].items():
        assert store.audit_days(host) == days
    audits = [item for host, days in expected["days"].items() for day in days if (item := store.find_audit(host, day))]
    found = [[i.number, i.host, i.day, i.at, hashlib.sha256(i.payload).hexdigest()] for i in audits]
    assert sorted(found) == expected["audits"]
    last = {host: item.day for host in expected["days"] if (item := store.find_audit(host))}
    assert last == expected["last_day"]
    with closing(database.open_for_reading(str(path))) as connection:
        assert [list(row) for row in states.read_states(connection)] == expected["states"]


def test_file_of_version_5_keeps_everything(path: Path, version_5: dict[str, Any]) -> None:
    """After the migration every row of a file that an earlier portspec wrote reads the same."""
    with opened(path) as (store, restored):
        assert set(restored) == {WEB.host, DB.host}
        assert [restored[host].last_change for host in ("web1", "db1")] == [NOW + 600, NOW + 1200]
        assert [store.notification_state(host) for host, _, _ in version_5["states"]] == [
            story for *_, story in version_5["states"]
        ]
    assert pragma(path, "user_version") == len(MIGRATIONS)
    verify_readable(path, version_5)
    with closing(sqlite3.connect(path)) as connection:
        assert [[i.number, i.at, i.host, i.document] for i in outbox.read_notifications(connection)] == version_5[
            "notices"
        ]
        mails = [
            [i.number, i.at, i.recipient, i.message.decode(), i.attempts, i.refusals]
            for i in outbox.read_due(connection, NOW + DAY, 10)
        ]
        assert mails == version_5["mails"]
        assert archive.read_counts(connection) == version_5["counts"]
        found, mark, left = Archive().read_after(connection, None, 100)
        assert [item.number for item in found] == [number for number, *_ in version_5["audits"]]
        assert (mark, left) == (ArchivePosition(version_5["archive"], version_5["newest"]), 0)
        assert Archive().read_position(connection) == ArchivePosition(version_5["archive"], version_5["mark"])
        replaced = connection.execute(
            """SELECT id, host, day, at, received_at, dictionary IS NULL, is_sample, hex(payload)
            FROM replaced_audit ORDER BY id"""
        )
        assert [list(row) for row in replaced] == version_5["replaced"]
        is_good = connection.execute("SELECT id, is_good FROM audit WHERE is_good IS NOT NULL")
        assert {str(number): value for number, value in is_good} == version_5["is_good"]


def test_archive_of_version_5_goes_on(path: Path, version_5: dict[str, Any]) -> None:
    """Audits and results are added after those in the file, with its dictionaries."""
    new = IncomingAudit("web1", "2023-11-15", NOW + DAY, b"good web1, the next day")
    with opened(path) as (store, _):
        held = Archive()
        assert store.transact(lambda file: held.add(file, [new], NOW + DAY)) == [Outcome.ACCEPTED]
        number = store.latest_audits()["web1"]
        assert number == version_5["newest"] + 1
        mark = ArchivePosition(version_5["archive"], number)
        store.transact(lambda file: held.save_results(file, [("web1", number, "{}")], mark))
        assert store.audit_results()["web1"] == (number, "{}")
        count = "SELECT count(*) FROM audit WHERE dictionary IN (SELECT id FROM dictionary WHERE kind = 'audit')"
        assert store.transact(lambda file: file.execute(count).fetchone()[0]) > 1


def test_migrated_file_has_the_schema_of_a_new_one(path: Path, version_5: dict[str, Any], tmp_path: Path) -> None:
    """Tables, columns and indexes have the same names, whichever version a file began with."""
    assert version_5
    names = []
    for file in (path, tmp_path / "new.db"):
        with opened(file):
            pass
        with closing(sqlite3.connect(file)) as connection:
            names.append(set(connection.execute("SELECT type, name, tbl_name FROM sqlite_master")))
    assert names[0] == names[1]
    assert not [name for _, name, _ in names[0] if "report" in name or "notice" in name]


def test_file_of_version_5_is_read_without_migration(path: Path, version_5: dict[str, Any]) -> None:
    """A command reads an older file as it is, also where it may not write."""
    before = path.read_bytes()
    verify_readable(path, version_5)
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [1, 2])
def test_states_of_older_files_are_read_without_migration(path: Path, version: int) -> None:
    """Files from before mails or audits have no notification states, or the column under its old name."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection, MIGRATIONS[:version])
        connection.execute("INSERT INTO state (host, saved_at, document) VALUES ('web1', 1, '{}')")
        if version > 1:
            connection.execute("UPDATE state SET story = 'told'")
    with closing(database.open_for_reading(str(path))) as connection:
        assert list(states.read_states(connection)) == [("web1", "{}", "told" if version > 1 else None)]
    assert pragma(path, "user_version") == version


def test_failed_migration_changes_nothing(path: Path) -> None:
    """All steps are one transaction."""
    with opened(path):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            schema.migrate(connection, (*NEXT, ("CREATE TABLE state (x)",)))
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'outbox'").fetchall() == []
    assert pragma(path, "user_version") == len(MIGRATIONS)


def rejected(path: Path, logs: Logs, words: str) -> None:
    """Check that a store does not touch a file, logs that once, and creates its own once the file is moved."""
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
        assert logged_changes(store) == [("web1", "22", "open")]
        assert logs.levels == ["error", "info"]
    with opened(path) as (_, restored):
        assert restored["web1"].latest == web.latest


def test_file_of_a_newer_portspec_is_not_touched(path: Path, logs: Logs) -> None:
    """It stays unchanged until it is moved away."""
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    path.with_name("portspec.db.lock").unlink()
    rejected(path, logs, "a newer portspec wrote it")


@pytest.mark.parametrize("application_id", [0, 0x0F055112])
def test_database_of_another_program_is_not_touched(path: Path, logs: Logs, application_id: int) -> None:
    """Another program's SQLite file stays unchanged, with or without an application id or WAL mode."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE state (theirs)")
    rejected(path, logs, "the database of another program")


def test_database_of_another_program_is_recognised_by_its_wal(path: Path) -> None:
    """A file whose tables are only in its -wal is not touched either."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE theirs (x)")
        with opened(path) as (store, _):
            assert not store.status.is_up
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


@pytest.mark.parametrize("journal_mode", ["DELETE", "WAL"])
def test_interrupted_creation_is_completed(path: Path, journal_mode: str) -> None:
    """An empty file, or one with a header only, is used."""
    path.touch()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}")
    with opened(path) as (store, _):
        after = scan(store, HostState(WEB), 22)
        commit(store)
        assert after == scanned(HostState(WEB), 22)
        assert store.status.is_up
