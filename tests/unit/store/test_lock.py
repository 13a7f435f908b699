"""One exporter per state file: which one may write, what the others log and keep, and takeover."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portspec.state.snapshot import HostState
from portspec.store import Store, StoreError, current_lock_holder, outbox
from portspec.store.faults import StoreFault, StoreFaultKind
from portspec.store.lock import SUFFIX, LockHolder, StateFileLock, last_lock_holder
from tests.faults.registry import fault
from tests.unit.factories import NOW
from tests.unit.store.scenes import DAY, DB, PATIENCE, WEB, Logs, commit, logged_changes, opened, scan, scanned
from tests.unit.store.test_faults import CHILD, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELD = "another exporter holds the state file"


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let another process write to the file, as an exporter does."""
    command = [*CHILD, "exporter", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def taken_over(store: Store) -> None:
    """Make a store retry, now that the file is free."""
    assert store.flush(PATIENCE)
    assert store.status.is_up
    assert not store.status.is_held


def test_second_process_logs_the_lock_holder(path: Path, logs: Logs) -> None:
    """It logs process, machine, conf.yml and start once; nothing is pending or written."""
    with other_process(path) as process, opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        assert not store.flush(PATIENCE)
        assert not store.flush(PATIENCE)
        (event,) = logs.events
        assert event["event"].startswith(HELD)
        assert (event["pid"], event["on"], event["config"]) == (process.pid, os.uname().nodename, str(ROOT))
        assert event["since"].endswith("Z")
        status = store.status
        assert (status.is_up, status.is_held, status.pending, status.dropped) == (False, True, 0, 0)
        with pytest.raises(StoreError, match=f"another exporter holds it: process {process.pid} on "):
            store.transact(outbox.read_status)
        assert store.changes() == ()


@fault("kill", "start", "The next exporter gets the lock of the state file at once.")
def test_lock_of_a_killed_process_is_released(path: Path, logs: Logs) -> None:
    """The kernel releases the lock, and the stale lock file locks nothing."""
    with other_process(path) as process, opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        assert not store.flush(PATIENCE)
        process.kill()
        process.wait()
        assert path.with_name(f"{path.name}{SUFFIX}").exists()
        taken_over(store)
        assert logged_changes(store) == [("web1", "22", "open")]
        assert logs.levels == ["error", "info"]
        holder = current_lock_holder(str(path))
        assert holder
        assert holder.pid == os.getpid()


@pytest.mark.parametrize("spelling", ["link.db", "here/../portspec.db", "linked/portspec.db"])
def test_all_paths_to_a_file_share_its_lock(path: Path, spelling: str) -> None:
    """A symbolic link to the file or its directory, and a path with `..`, lead to the same lock."""
    (path.parent / "here").mkdir()
    (path.parent / "linked").symlink_to(path.parent)
    (path.parent / "link.db").symlink_to(path)
    with opened(path), opened(path.parent / spelling) as (second, _):
        assert second.status.is_held


def test_takeover_writes_nothing_twice(path: Path) -> None:
    """States of the other exporter stay, and later scans are written with the changes since then."""
    moved: list[HostState] = []
    with opened(path) as (first, _):
        web = scan(first, scan(first, HostState(WEB)), 80, at=NOW + 1)
        scan(first, HostState(DB), 22, at=NOW + 9)
        first.put(web, web, "told of 80", "notice of 80")
        commit(first)
        second = Store(
            str(path),
            history=365 * DAY,
            wall_clock=lambda: NOW,
            retry=3600.0,
            on_takeover=moved.extend,
        )
        second.open([WEB, DB])
        second.start()
        seen = scanned(scanned(HostState(WEB)), 80, at=NOW + 2)
        second.put(HostState(WEB), seen, "of its own", "a second notice of 80")
        later = scanned(seen, 22, 80, at=NOW + 3)
        second.put(seen, later, "of its own", "a notice of 22")
        old = scanned(HostState(DB), at=NOW)
        second.put(HostState(DB), old, "of its own", None)
        assert not second.flush(PATIENCE)
    try:
        taken_over(second)
        assert logged_changes(second) == [("web1", "80", "open"), ("db1", "22", "open"), ("web1", "22", "open")]
        assert (second.notification_state("web1"), second.notification_state("db1")) == ("told of 80", None)
        notices = second.transact(outbox.read_notifications)
        assert [notice.document for notice in notices] == ["notice of 80"]
        assert [(state.host, state.latest and state.latest.finished_at) for state in moved] == [("db1", NOW + 9)]
        second.put(old, scanned(old, 22, at=NOW + 10))  # against what the other one saw, it is no change
        commit(second)
        assert len(logged_changes(second)) == 3
    finally:
        second.close(PATIENCE)


def test_removed_lock_file_is_created_again(path: Path) -> None:
    """Its removal does not let another process take the lock."""
    with opened(path) as (store, _):
        path.with_name(f"{path.name}{SUFFIX}").unlink()
        scan(store, HostState(WEB), 22)
        commit(store)
        with opened(path) as (second, _):
            assert second.status.is_held


def test_lock_taken_after_a_removal_is_respected(path: Path) -> None:
    """If another process locked the new lock file first, this one stops writing."""
    with opened(path) as (store, _):
        path.with_name(f"{path.name}{SUFFIX}").unlink()
        with opened(path) as (second, _):
            assert second.status.is_up
            scan(store, HostState(WEB), 22)
            assert not store.flush(PATIENCE)
            assert store.status.is_held
        taken_over(store)


def test_close_releases_the_lock(path: Path) -> None:
    """After close() another store gets the lock at once."""
    for _ in range(2):
        with opened(path) as (store, _):
            assert store.status.is_up
    assert current_lock_holder(str(path)) is None
    assert last_lock_holder(str(path)) is not None


def test_missing_directory_is_not_a_held_lock(tmp_path: Path, logs: Logs) -> None:
    """If the lock file cannot be created, the file does not count as held."""
    with opened(tmp_path / "none" / "portspec.db") as (store, _):
        assert not store.status.is_held
    assert logs.events[0]["why"] == "no such file or directory"


@given(content=st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["pid", "host", "config", "since", "shard"]), inner, max_size=5),
    max_leaves=9,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lock_file_with_any_content_is_read(tmp_path: Path, content: bytes) -> None:
    """Its content is read as a holder or as None."""
    lock_file = tmp_path / "portspec.db.lock"
    lock_file.write_bytes(content)
    found: Any = last_lock_holder(str(tmp_path / "portspec.db"))
    assert found is None or str(found)


def test_lock_without_a_holder_is_respected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that could not write its identity, on a full disk, still has the lock."""
    lock = StateFileLock(str(path), LockHolder(1, "scan1", "/etc/portspec/portspec.yml", NOW))
    lock.acquire()
    path.with_name(f"{path.name}{SUFFIX}").write_bytes(b"")
    with pytest.raises(StoreFault, match="another exporter holds it: unknown") as found:
        StateFileLock(str(path), LockHolder(2, "scan1", "", NOW)).acquire()
    assert found.value.kind is StoreFaultKind.HELD
    lock.release()
