from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from portspec.state.snapshot import HostState
from portspec.store import states, writer
from tests.faults.registry import fault
from tests.requirements import forbidden
from tests.unit.factories import NOW
from tests.unit.store.scenes import DB, PATIENCE, WEB, Logs, commit, logged_changes, opened, scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[3]
CHILD = [sys.executable, "-m", "tests.unit.store.child"]


def run(*command: str) -> Any:
    """Run a command that prints JSON; return the value."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def with_mounts(name: str, directory: Path, child: Sequence[str] = CHILD) -> Any:
    """Run a scene of a child that mounts something, in a mount namespace of its own."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        forbidden("no mount namespaces here: they need root, or user namespaces")
    return run(*unshare, *child, name, str(directory))


def answers(flushed: str, *, is_up: bool, pending: int, levels: list[str], why: list[str]) -> dict[str, Any]:
    """Return what the child is expected to print about its store."""
    return {
        "flushed": flushed,
        "is_up": is_up,
        "has_errors": True,
        "pending": pending,
        "levels": levels,
        "why": why,
    }


@contextlib.contextmanager
def locked(path: Path, mode: str) -> Iterator[None]:
    """Let another process lock the file."""
    with subprocess.Popen(
        [*CHILD, "hold", str(path.parent), mode], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        yield


def recovers(store: Any, logs: Logs, why: str) -> None:
    """Check that a store logged its fault once, and writes everything now that the fault is over."""
    (event,) = logs.events
    assert (event["level"], event["why"]) == ("error", why)
    assert not store.status.is_up
    assert store.status.pending
    commit(store)
    assert logs.levels == ["error", "info"]
    assert store.status.is_up
    assert (store.status.pending, store.status.dropped) == (0, 0)


@fault(
    "disk full",
    "state file",
    "Results wait in memory and are written once there is space; one log line; `portspec_store_up` is 0 "
    "(PortspecStoreFailing).",
)
def test_full_disk_is_logged_once_and_loses_nothing(tmp_path: Path) -> None:
    """On a full disk results stay in memory, can be read, and are written once there is space."""
    why = ["database or disk is full"]
    found = with_mounts("full_disk", tmp_path)
    full = answers("ynnn", is_up=False, pending=found["full"]["pending"], levels=["error"], why=why)
    assert found == {
        "full": full,
        "readable": True,
        "again": answers("y", is_up=True, pending=0, levels=["error", "info"], why=why),
        "log_is_whole": True,
        "restored": True,
    }
    assert full["pending"] >= 2


@fault(
    "disk full",
    "start",
    "An exporter that starts on a full disk scans and serves, and creates the file once there is space.",
)
def test_file_is_created_once_the_disk_has_space(tmp_path: Path) -> None:
    """A disk that is full at the start is a fault like any other."""
    found = with_mounts("full_from_the_start", tmp_path)
    why = found["full"]["why"]
    assert why[0] in ("no space left on device", "database or disk is full")
    assert found == {
        "full": answers("n", is_up=False, pending=1, levels=["error"], why=why),
        "again": answers("y", is_up=True, pending=0, levels=["error", "info"], why=why),
    }


@fault("disk read-only", "state file", "The last states and the change log can be read; new results wait in memory.")
def test_read_only_file_is_read(tmp_path: Path) -> None:
    """On a read-only file system the last states and the log are readable, and new results stay pending."""
    found = with_mounts("read_only", tmp_path)
    refused = found["refused"]
    assert refused["why"][0] == "read-only file system"
    assert found == {
        "restored": True,
        "log": [["web1", "22", "open"]],
        "refused": answers("nn", is_up=False, pending=1, levels=["error"], why=refused["why"]),
        "again": answers("y", is_up=True, pending=0, levels=["error", "info"], why=refused["why"]),
        "log_again": [["web1", "22", "open"], ["web1", "80", "open"]],
    }


def test_directory_without_write_permission_is_logged(tmp_path: Path) -> None:
    """Without permission there is no file, and scanning continues."""
    tmp_path.chmod(0o500)
    found = run(*CHILD, "nobody", str(tmp_path))
    assert found["refused"] == answers("n", is_up=False, pending=1, levels=["error"], why=["permission denied"])


@pytest.mark.usefixtures("no_lock_timeout")
@pytest.mark.parametrize("mode", ["immediate", "exclusive"])
def test_results_are_pending_while_another_process_locks_the_file(path: Path, logs: Logs, mode: str) -> None:
    """They are written when the lock is released."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
    with contextlib.ExitStack() as stack:
        with locked(path, mode):
            store, restored = stack.enter_context(opened(path))
            assert set(restored) == ({"web1"} if mode == "immediate" else set())
            scan(store, HostState(DB), 22)
            assert not store.flush(PATIENCE)
            assert not store.flush(PATIENCE)
        recovers(store, logs, "database is locked")
        assert logged_changes(store) == [("web1", "22", "open"), ("db1", "22", "open")]


@pytest.mark.usefixtures("no_lock_timeout")
def test_lock_on_an_open_file_is_handled_the_same(path: Path, logs: Logs) -> None:
    """The store has the file open before another process locks it."""
    with opened(path) as (store, _):
        web = scan(store, HostState(WEB), 22)
        commit(store)
        with locked(path, "immediate"):
            scan(store, web, 80, at=NOW + 1)
            assert not store.flush(PATIENCE)
            assert logged_changes(store) == [("web1", "22", "open")]
        recovers(store, logs, "database is locked")
        assert len(store.changes()) == 3


@pytest.mark.usefixtures("no_lock_timeout")
def test_writing_is_retried(path: Path, logs: Logs) -> None:
    """The store retries every `retry` seconds without a request."""
    with opened(path, retry=0.01) as (store, _):
        with locked(path, "immediate"):
            scan(store, HostState(WEB), 22)
            logs.wait("error")
        logs.wait("info")
        assert logs.levels == ["error", "info"]
        assert store.status.is_up
        assert logged_changes(store) == [("web1", "22", "open")]


def test_missing_directory_is_used_once_it_exists(tmp_path: Path, logs: Logs) -> None:
    """The store does not create it."""
    path = tmp_path / "later" / "portspec.db"
    with opened(path) as (store, restored):
        assert restored == {}
        scan(store, HostState(WEB), 22)
        assert not store.flush(PATIENCE)
        path.parent.mkdir()
        recovers(store, logs, "no such file or directory")
        assert logged_changes(store) == [("web1", "22", "open")]


def test_directory_in_place_of_the_file_is_not_touched(path: Path, logs: Logs) -> None:
    """A path that is not a file is a fault."""
    path.mkdir()
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        assert not store.flush(PATIENCE)
        path.rmdir()
        recovers(store, logs, "it is a directory")


@pytest.mark.parametrize("name", ["x" * 300 + ".db", "a\0b"])
def test_impossible_path_is_logged(tmp_path: Path, logs: Logs, name: str) -> None:
    """A name that no file can have is a fault, and scanning continues."""
    with opened(tmp_path / name) as (store, _):
        scan(store, HostState(WEB), 22)
        assert not store.flush(PATIENCE)
        assert not store.status.is_up
        assert logs.levels == ["error"]


@pytest.mark.parametrize("removed", [["portspec.db"], ["portspec.db", "portspec.db-wal", "portspec.db-shm"]])
def test_removed_file_is_created_anew_with_every_state(path: Path, logs: Logs, removed: list[str]) -> None:
    """The store detects the removal at the next write, and logs the fault and its end."""
    with opened(path) as (store, _):
        web = scan(store, HostState(WEB), 22)
        commit(store)
        for name in removed:
            path.with_name(name).unlink()
        db = scan(store, HostState(DB), 22)
        commit(store)
        assert logs.levels == ["error", "info"]
        assert logs.events[0]["why"] == "it was removed or replaced"
        assert store.status.is_up
    with opened(path) as (store, restored):
        assert (restored["web1"].latest, restored["db1"].latest) == (web.latest, db.latest)
        assert logged_changes(store) == [("db1", "22", "open")]


def test_results_committed_to_a_removed_file_are_written_again(
    path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit to a file without a name does not count."""
    write = states.write_states
    written: list[Any] = []

    def write_and_remove(*arguments: Any) -> None:
        write(*arguments)
        if not written:
            path.unlink()
        written.append(arguments)

    monkeypatch.setattr("portspec.store.pending.write_states", write_and_remove)
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        commit(store)
        assert logged_changes(store) == [("web1", "22", "open")]
        assert logs.levels == ["error", "info"]


def test_replaced_file_is_used(path: Path, logs: Logs) -> None:
    """Another file in its place, such as a backup, is kept, and every state is written to it."""
    backup = path.with_name("backup.db")
    with opened(backup) as (store, _):
        scan(store, HostState(WEB), 443)
    with opened(path) as (store, _):
        web = scan(store, HostState(WEB), 22)
        commit(store)
        backup.rename(path)
        scan(store, HostState(DB), 22)
        commit(store)
        assert logged_changes(store) == [("web1", "443", "open"), ("db1", "22", "open")]
        assert logs.levels == ["error", "info"]
    with opened(path) as (_, restored):
        assert restored["web1"].latest == web.latest


def test_moved_file_is_complete(path: Path) -> None:
    """A file that was moved at runtime has all commits, including those that were in the -wal."""
    moved = path.with_name("moved.db")
    with opened(path) as (store, _):
        web = scan(store, HostState(WEB), 22)
        commit(store)
        path.rename(moved)
        scan(store, HostState(DB), 22)
        commit(store)
        assert logged_changes(store) == [("db1", "22", "open")]
    assert not list(path.parent.glob("*.replaced-*"))
    with opened(moved) as (store, restored):
        assert restored["web1"].latest == web.latest
        assert logged_changes(store) == [("web1", "22", "open")]


@pytest.mark.usefixtures("no_lock_timeout")
def test_wal_of_a_replaced_file_is_renamed(path: Path) -> None:
    """A -wal that cannot be checkpointed is kept under another name instead of being applied to the new file."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        commit(store)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM change").fetchall()
            scan(store, HostState(DB), 22)
            commit(store)
            path.unlink()
            scan(store, HostState(DB), 22, at=NOW + 1)
            commit(store)
        assert logged_changes(store) == [("db1", "22", "open")]
    assert [file.name for file in path.parent.glob("*-wal")] == ["portspec.db.replaced-20231114T221320Z-wal"]


def test_removed_wal_loses_nothing(path: Path, logs: Logs) -> None:
    """Commits to a removed -wal are written again from memory, once."""
    with opened(path) as (store, _):
        web = scan(store, HostState(WEB), 22)
        commit(store)
        path.with_name("portspec.db-wal").unlink()
        scan(store, web, 22, 80, at=NOW + 1)
        commit(store)
        assert logged_changes(store) == [("web1", "22", "open"), ("web1", "80", "open")]
        assert logs.levels == ["error", "info"]


def test_oldest_pending_changes_are_dropped_beyond_the_limit(
    tmp_path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped changes are counted, and the last states stay."""
    monkeypatch.setattr(writer, "MAX_PENDING_CHANGES", 10)
    path = tmp_path / "later" / "portspec.db"
    with opened(path) as (store, _):
        state = HostState(WEB)
        for at in range(30):
            state = scan(store, state, *([22] if at % 2 == 0 else []), at=NOW + at)
        assert not store.flush(PATIENCE)
        assert store.status.dropped == 20
        assert store.status.pending == 10
        path.parent.mkdir()
        commit(store)
        assert len(store.changes()) == 10
        assert logs.events[-1]["changes_dropped"] == 20
    with opened(path) as (_, restored):
        assert restored["web1"].latest == state.latest


def test_oldest_queued_scans_are_dropped_beyond_the_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans that the thread has not processed are limited and counted, too."""
    monkeypatch.setattr(writer, "MAX_QUEUED", 5)
    with opened(path) as (store, _):
        with store._writer._condition:  # as if the thread were held up
            state = HostState(WEB)
            for at in range(8):
                state = scan(store, state, 22, at=NOW + at)
            assert (store.status.pending, store.status.dropped) == (5, 3)
        commit(store)
    with opened(path) as (_, restored):
        assert restored["web1"].latest == state.latest


def test_lost_results_are_logged_at_shutdown(tmp_path: Path, logs: Logs) -> None:
    """A store that is closed during a fault logs how much is lost."""
    with opened(tmp_path / "never" / "portspec.db") as (store, _):
        scan(store, HostState(WEB), 22)
    assert logs.levels == ["error", "error"]
    assert (logs.events[1]["hosts"], logs.events[1]["changes"]) == (1, 1)


def test_host_that_cannot_be_written_does_not_affect_others(path: Path, logs: Logs) -> None:
    """An error in one host's state is logged, and the others are written."""
    with opened(path) as (store, _):
        odd = HostState(DB, last_change=float("nan"))
        store.put(odd, odd)
        scan(store, HostState(WEB), 22)
        commit(store)
        assert [(event["level"], event["host"]) for event in logs.events] == [("error", "db1")]
    with opened(path) as (_, restored):
        assert list(restored) == ["web1"]


def test_state_and_changes_are_written_atomically(path: Path) -> None:
    """If the state cannot be written, its changes are not in the log either."""
    with opened(path) as (store, _), contextlib.closing(sqlite3.connect(path)) as other:
        web = scan(store, HostState(WEB), 22)
        commit(store)
        other.execute("CREATE TRIGGER refuse BEFORE INSERT ON state BEGIN SELECT RAISE(ABORT, 'refused'); END")
        scan(store, web, 22, 80, at=NOW + 1)
        assert not store.flush(PATIENCE)
        assert logged_changes(store) == [("web1", "22", "open")]
        other.execute("DROP TRIGGER refuse")
        commit(store)
        assert logged_changes(store) == [("web1", "22", "open"), ("web1", "80", "open")]
