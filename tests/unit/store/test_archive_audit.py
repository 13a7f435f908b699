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
    """Make a report that comes in."""
    return IncomingAudit(host, TODAY, NOW, payload)


def reader(path: Path) -> Store:
    """Give a store that reads."""
    return Store(str(path), history=DAY)


def totals(path: Path) -> dict[str, int]:
    """Give what was counted."""
    with closing(sqlite3.connect(path)) as connection:
        return archive.read_counts(connection)


def line(path: Path, host: str) -> bytes:
    """Give what has a child add a report."""
    return json.dumps([str(path), host]).encode() + b"\n"


class Child:
    """A process that adds a report for each line, to be used as a context."""

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
        """Have it add a report of a host."""
        self._input.write(line(path, host))

    def outcome(self) -> tuple[str, bytes]:
        """Give what became of it, and its payload."""
        outcome, payload = self._output.readline().decode().split()
        return outcome, bytes.fromhex(payload)


def race(children: list[Child], path: Path, host: str) -> bytes:
    """Have all add a report of the same host and day at once; give the payload of the one that was accepted."""
    for child in children:
        child.begin(path, host)
    found = [child.outcome() for child in children]
    assert sorted(outcome for outcome, _ in found) == ["accepted"] + ["conflict"] * (len(children) - 1)
    return next(payload for outcome, payload in found if outcome == "accepted")


def test_report_is_there_once_deposit_has_returned(path: Path) -> None:
    """Without an exporter the file is made, for its owner alone, and is one file afterwards."""
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


def test_commit_is_on_the_disk(path: Path) -> None:
    """What is acknowledged outlives the machine: SQLite waits for the disk with each commit."""
    with closing(database.open_for_insert(str(path))) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_symbolic_link_to_the_file_is_followed(tmp_path: Path, path: Path) -> None:
    """The file may lie elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "data.db")
    assert archive_audit(str(path), arrival(), NOW) is Outcome.ACCEPTED
    assert reader(tmp_path / "elsewhere" / "data.db").audit_days("web1") == [TODAY]


def test_one_of_many_processes_wins(path: Path) -> None:
    """Two deposits and a running exporter at once: one report is accepted for each host and day, and it is archived."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child(*arguments)) for arguments in (["exporter", str(path)], *[["depositor"]] * 2)
        ]
        won = {f"host{number}": race(children, path, f"host{number}") for number in range(RACES)}
    store = reader(path)
    for host, payload in won.items():
        archived = store.find_audit(host)
        assert archived is not None
        assert archived.payload == payload
    assert totals(path) == {"accepted": RACES}


def test_one_of_many_processes_makes_the_file(tmp_path: Path) -> None:
    """Deposits that come at once before there is a file all find one, and none is in trouble."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child("depositor")) for _ in range(5)]
        for number in range(RACES):
            path = tmp_path / f"{number}.db"
            payload = race(children, path, "web1")
            archived = reader(path).find_audit("web1")
            assert archived is not None
            assert archived.payload == payload


def depositor() -> subprocess.Popen[bytes]:
    """Start a process that deposits reports."""
    return subprocess.Popen([*CHILD, "depositor"], cwd=ROOT, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def killed(process: subprocess.Popen[bytes], path: Path, name: str, delay: float) -> list[tuple[str, bytes]]:
    """Have a process deposit one report after the other, kill it after so many seconds; give what it acknowledged."""
    assert process.stdout
    assert os.read(process.stdout.fileno(), 6) == b"ready\n"
    hosts = [f"{name}-{number}" for number in range(300)]  # whose lines a pipe can hold
    try:
        process.communicate(b"".join(line(path, host) for host in hosts), timeout=delay)
    except subprocess.TimeoutExpired:
        process.kill()
    written, _ = process.communicate()
    assert process.returncode == -9, "it ended by itself"
    lines = [item.split() for item in written.decode().split("\n")[:-1]]
    assert {outcome for outcome, _ in lines} <= {"accepted"}
    return [(host, bytes.fromhex(payload)) for host, (_, payload) in zip(hosts, lines, strict=False)]


@pytest.mark.parametrize("with_exporter", [True, False])
def test_killed_deposits_lose_nothing_that_was_acknowledged(path: Path, with_exporter: bool) -> None:  # noqa: FBT001 - a case
    """A process that is killed at any moment leaves the file sound, and what it said is there, is."""
    rng = random.Random(with_exporter)  # noqa: S311 - repeatable
    acknowledged: list[tuple[str, bytes]] = []
    with ExitStack() as stack:
        processes = [depositor() for _ in range(KILLS)]
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


def test_running_exporter_keeps_its_file(path: Path) -> None:
    """The -wal that an exporter has open is left to it, and it is not told that its file was replaced."""
    with opened(path) as (store, _), Child("depositor") as child:
        before = database.file_identity(str(path))
        for number in range(5):
            child.begin(path, f"host{number}")
            assert child.outcome()[0] == "accepted"
            assert database.file_identity(str(path)) == before
            assert store.transact(lambda file: len(archive.latest_numbers(file))) == number + 1
        assert store.status.is_up
        assert not store.status.errors


def test_full_disk_is_an_error_and_nothing_is_half_written(tmp_path: Path) -> None:
    """On a full disk a deposit says so, what was there stays, and it is taken when there is space."""
    full = "free space on its file system, or raise the quota"
    assert with_mounts("full_deposit", tmp_path) == {
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


def test_file_that_cannot_be_made_for_want_of_space_is_made_later(tmp_path: Path) -> None:
    """A disk that is full before there is a file is a trouble like any other."""
    full, again = with_mounts("full_from_the_start_deposit", tmp_path)
    assert full.endswith("; free space on its file system, or raise the quota")
    assert again == "accepted"


def test_read_only_file_is_an_error(tmp_path: Path) -> None:
    """On a read-only file system a deposit says what to look at."""
    before, refused, absent, again, made = with_mounts("read_only_deposit", tmp_path)
    assert (before, again, made) == ("accepted", "accepted", "accepted")
    for error in (refused, absent):
        assert error.startswith("cannot write: ")
        assert error.endswith(f"; {StoreFaultKind.NOT_WRITABLE.value}")


@pytest.mark.parametrize("mode", ["immediate", "exclusive"])
def test_lock_is_waited_for_as_long_as_there_is_patience(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A file that somebody holds for longer is an error; who has patience is served when they let go."""
    with opened(path):
        pass
    with Child("depositor") as patient:
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
    """Make a file as a later version would."""
    archive_audit(str(path), arrival(), NOW)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")


def foreign(path: Path) -> None:
    """Make a file of somebody else's."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE report (theirs)")


def corrupt(path: Path) -> None:
    """Overwrite all but the header."""
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
def test_file_that_is_not_ours_or_corrupt_is_left_alone(
    path: Path, make: Callable[[Path], None], kind: StoreFaultKind, words: str
) -> None:
    """A deposit says what is wrong, and what there is stays as it is: setting it aside is the exporter's."""
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
def test_path_that_cannot_be_is_an_error(tmp_path: Path, name: str) -> None:
    """A directory that is not there is not made."""
    with pytest.raises(StoreError, match="cannot write"):
        archive_audit(str(tmp_path / name), arrival(), NOW)
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_set_aside_meanwhile_has_taken_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed to a file that has another name by then is not acknowledged, and goes into the next file."""
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
