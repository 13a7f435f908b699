from __future__ import annotations

import json
import os
import random
import sqlite3
import stat
import subprocess
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from portspec.store import (
    Archive,
    IncomingAudit,
    Outcome,
    Store,
    StoreError,
    archive,
    archive_audit,
    count_rejection,
    database,
    schema,
)
from portspec.store.faults import StoreFaultKind
from tests.faults.registry import fault
from tests.unit.factories import NOW
from tests.unit.store.child import TODAY
from tests.unit.store.scenes import DAY, opened
from tests.unit.store.test_faults import CHILD, ROOT, locked, with_mounts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RACES: Final = 25
KILLS: Final = 8


def arrival(host: str = "web1", payload: bytes = b"{}") -> IncomingAudit:
    """Return an incoming audit."""
    return IncomingAudit(host, TODAY, NOW, payload)


def reader(path: Path) -> Store:
    """Return a store that only reads."""
    return Store(str(path), history=DAY)


def totals(path: Path) -> dict[str, int]:
    """Return the counts in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return archive.read_counts(connection)


def line(path: Path, host: str) -> bytes:
    """Return the input line that makes a child add an audit."""
    return json.dumps([str(path), host]).encode() + b"\n"


class Child:
    """A process that adds an audit for each line; a context manager."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [*CHILD, *arguments], cwd=ROOT, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin
        assert self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        assert self._output.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0

    def begin(self, path: Path, host: str) -> None:
        """Make it add an audit of a host."""
        self._input.write(line(path, host))

    def outcome(self) -> tuple[str, bytes]:
        """Return the outcome and the payload."""
        outcome, payload = self._output.readline().decode().split()
        return outcome, bytes.fromhex(payload)


def race(children: list[Child], path: Path, host: str) -> bytes:
    """Make all add an audit of the same host and day at once; return the payload of the accepted one."""
    for child in children:
        child.begin(path, host)
    found = [child.outcome() for child in children]
    assert sorted(outcome for outcome, _ in found) == ["accepted"] + ["conflict"] * (len(children) - 1)
    return next(payload for outcome, payload in found if outcome == "accepted")


def test_audit_is_archived_when_archive_audit_returns(path: Path) -> None:
    """Without an exporter the file is created with mode 0600 and without -wal or -shm left over."""
    assert archive_audit(str(path), arrival(payload=b"1"), NOW) is Outcome.ACCEPTED
    assert archive_audit(str(path), arrival(payload=b"1"), NOW) is Outcome.IDENTICAL
    assert archive_audit(str(path), arrival(payload=b"2"), NOW) is Outcome.CONFLICT
    count_rejection(str(path), "signature")
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert totals(path) == {"accepted": 1, "signature": 1}
    archived = reader(path).find_audit("web1", TODAY)
    assert archived is not None
    assert (archived.payload, archived.at) == (b"1", NOW)


def test_commit_is_durable(path: Path) -> None:
    """SQLite calls fsync with each commit, so that acknowledged audits survive a power failure."""
    with closing(database.open_for_insert(str(path))) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_symbolic_link_to_the_file_is_followed(tmp_path: Path, path: Path) -> None:
    """The file may be elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "data.db")
    assert archive_audit(str(path), arrival(), NOW) is Outcome.ACCEPTED
    assert reader(tmp_path / "elsewhere" / "data.db").audit_days("web1") == [TODAY]


def test_one_of_several_processes_wins(path: Path) -> None:
    """With two processes and an exporter adding at once, one audit per host and day is accepted and archived."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child(*arguments)) for arguments in (["exporter", str(path)], *[["archiver"]] * 2)
        ]
        won = {f"host{number}": race(children, path, f"host{number}") for number in range(RACES)}
    store = reader(path)
    for host, payload in won.items():
        archived = store.find_audit(host)
        assert archived is not None
        assert archived.payload == payload
    assert totals(path) == {"accepted": RACES}


def test_one_of_several_processes_creates_the_file(tmp_path: Path) -> None:
    """Processes that add audits before the file exists all succeed."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child("archiver")) for _ in range(5)]
        for number in range(RACES):
            path = tmp_path / f"{number}.db"
            payload = race(children, path, "web1")
            archived = reader(path).find_audit("web1")
            assert archived is not None
            assert archived.payload == payload


def archiver() -> subprocess.Popen[bytes]:
    """Start a process that archives audits."""
    return subprocess.Popen([*CHILD, "archiver"], cwd=ROOT, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def killed(process: subprocess.Popen[bytes], path: Path, name: str, delay: float) -> list[tuple[str, bytes]]:
    """Let a process archive audits, kill it after some seconds, and return what it acknowledged."""
    assert process.stdout
    assert process.stdin
    assert os.read(process.stdout.fileno(), 6) == b"ready\n"
    hosts = [f"{name}-{number}" for number in range(300)]  # whose lines a pipe can hold
    with process.stdin:  # communicate() would not close it if it ran out of time before it wrote
        process.stdin.write(b"".join(line(path, host) for host in hosts))
    process.stdin = None
    try:
        process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
    written, _ = process.communicate()
    assert process.returncode == -9, "it ended by itself"
    lines = [item.split() for item in written.decode().split("\n")[:-1]]
    assert {outcome for outcome, _ in lines} <= {"accepted"}
    return [(host, bytes.fromhex(payload)) for host, (_, payload) in zip(hosts, lines, strict=False)]


@pytest.mark.parametrize("with_exporter", [True, False])
def test_kill_loses_no_acknowledged_audit(path: Path, with_exporter: bool) -> None:  # noqa: FBT001 - a case
    """A process that is killed at any moment leaves a valid file with every audit that it acknowledged."""
    rng = random.Random(with_exporter)  # noqa: S311 - repeatable
    acknowledged: list[tuple[str, bytes]] = []
    with ExitStack() as stack:
        processes = [archiver() for _ in range(KILLS)]
        for process in processes:
            stack.callback(process.kill)
        store = stack.enter_context(opened(path))[0] if with_exporter else reader(path)
        for number, process in enumerate(processes):
            acknowledged += killed(process, path, f"host{number}", rng.uniform(0.02, 0.3))
            if with_exporter:
                own = arrival(f"own{number}")
                assert store.transact(partial(Archive().add, audits=[own], now=NOW)) == [Outcome.ACCEPTED]
        for host, payload in acknowledged:
            archived = store.find_audit(host)
            assert archived is not None
            assert archived.payload == payload
    assert len(acknowledged) >= KILLS
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (rows,) = connection.execute("SELECT count(*) FROM audit").fetchone()
        assert archive.read_counts(connection) == {"accepted": rows}


def test_exporter_keeps_its_wal(path: Path) -> None:
    """The -wal of a running exporter stays, and the exporter does not detect a replacement of the file."""
    with opened(path) as (store, _), Child("archiver") as child:
        before = database.file_identity(str(path))
        for number in range(5):
            child.begin(path, f"host{number}")
            assert child.outcome()[0] == "accepted"
            assert database.file_identity(str(path)) == before
            assert store.transact(lambda file: len(archive.latest_numbers(file))) == number + 1
        assert store.status.is_up
        assert not store.status.errors


@fault(
    "disk full",
    "audits",
    "A mail with an audit stays in the queue of the mail server (exit code 75 of `portspec receive`).",
)
def test_full_disk_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    """On a full disk archiving fails, earlier audits stay, and a retry succeeds once there is space."""
    full = "free space on its file system, or raise the quota"
    assert with_mounts("full_archive", tmp_path) == {
        "before": ["accepted"],
        "full": [
            f"cannot write: no space for the -shm file beside it; {full}",
            f"cannot write: database or disk is full; {full}",
            f"cannot write: database or disk is full; {full}",
        ],
        "there": [1, 0, 0],
        "again": ["conflict", "accepted", "accepted"],
        "is_whole": True,
        "check": "ok",
    }


def test_file_is_created_once_the_disk_has_space(tmp_path: Path) -> None:
    """A disk that is full before the file exists is an error."""
    full, again = with_mounts("full_from_the_start_archive", tmp_path)
    assert full.endswith("; free space on its file system, or raise the quota")
    assert again == "accepted"


def test_read_only_file_is_an_error(tmp_path: Path) -> None:
    """On a read-only file system the error says what to check."""
    before, refused, absent, again, made = with_mounts("read_only_archive", tmp_path)
    assert (before, again, made) == ("accepted", "accepted", "accepted")
    for error in (refused, absent):
        assert error.startswith("cannot write: ")
        assert error.endswith(f"; {StoreFaultKind.NOT_WRITABLE.value}")


@pytest.mark.parametrize("mode", ["immediate", "exclusive"])
def test_lock_is_awaited_until_the_timeout(path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """A lock that is held beyond the timeout is an error; one that is released before is not."""
    with opened(path):
        pass
    with Child("archiver") as patient:
        with locked(path, mode):
            patient.begin(path, "db1")
            monkeypatch.setattr(database, "INSERT_LOCK_TIMEOUT", 0.0)
            with pytest.raises(StoreError, match=r"cannot write .*: database is locked; stop the process") as caught:
                archive_audit(str(path), arrival(), NOW)
            assert caught.value.kind is StoreFaultKind.LOCKED
        assert patient.outcome()[0] == "accepted"
    monkeypatch.undo()
    assert archive_audit(str(path), arrival(), NOW) is Outcome.ACCEPTED


def newer(path: Path) -> None:
    """Create a file of a later version."""
    archive_audit(str(path), arrival(), NOW)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")


def foreign(path: Path) -> None:
    """Create the database of another program."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE report (theirs)")


def corrupt(path: Path) -> None:
    """Overwrite everything except the header."""
    archive_audit(str(path), arrival(), NOW)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(bytes(size - 100))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (newer, StoreFaultKind.NEWER, "a newer portspec wrote it"),
        (foreign, StoreFaultKind.FOREIGN, "it is the database of another program"),
        (corrupt, StoreFaultKind.CORRUPT, "database disk image is malformed"),
        (lambda path: path.write_bytes(b"no database\n" * 100), StoreFaultKind.CORRUPT, "it is not a database"),
        (lambda path: path.mkdir(), StoreFaultKind.FOREIGN, "it is a directory"),
    ],
    ids=["newer", "foreign", "corrupt", "garbage", "directory"],
)
def test_foreign_newer_and_corrupt_files_are_not_touched(
    path: Path, make: Callable[[Path], None], kind: StoreFaultKind, words: str
) -> None:
    """The error names the fault; only the exporter renames corrupt files."""
    make(path)
    before = [path.is_file() and path.read_bytes(), sorted(path.parent.iterdir())]
    for attempt in (
        lambda: archive_audit(str(path), arrival("db1"), NOW),
        lambda: count_rejection(str(path), "roster"),
    ):
        with pytest.raises(StoreError, match=f"cannot write {path}: {words}") as caught:
            attempt()
        assert caught.value.kind is kind
    assert [path.is_file() and path.read_bytes(), sorted(path.parent.iterdir())] == before


@pytest.mark.parametrize("name", ["none/portspec.db", "x" * 300, "a\0b"])
def test_impossible_path_is_an_error(tmp_path: Path, name: str) -> None:
    """A missing directory is not created."""
    with pytest.raises(StoreError, match="cannot write"):
        archive_audit(str(tmp_path / name), arrival(), NOW)
    assert list(tmp_path.iterdir()) == []


def test_commit_to_a_renamed_file_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit that was committed to a file renamed meanwhile is not acknowledged; a retry adds it to the next file."""
    archive_audit(str(path), arrival("db1"), NOW)
    add = Archive.add

    def add_and_move(*arguments: Any) -> Any:
        database.rename_corrupt(str(path), NOW)
        return add(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Archive, "add", add_and_move)
        with pytest.raises(StoreError, match="it was removed or replaced") as caught:
            archive_audit(str(path), arrival(), NOW)
    assert caught.value.kind is StoreFaultKind.GONE
    assert archive_audit(str(path), arrival(), NOW) is Outcome.ACCEPTED
    assert reader(path).audit_days("web1") == [TODAY]
    assert reader(path).audit_days("db1") == []
