"""One exporter a state file: who may write, what the others say and keep, and who comes next."""

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
from tests.unit.factories import NOW
from tests.unit.store.scenes import DAY, DB, PATIENCE, WEB, Logs, commit, opened, scan, scanned, told
from tests.unit.store.test_faults import CHILD, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELD = "another exporter holds the state file"


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have another process write to the file, as an exporter does."""
    command = [*CHILD, "exporter", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


def taken_over(store: Store) -> None:
    """Have a store look again, now that the file is free."""
    assert store.flush(PATIENCE)
    assert store.status.is_up
    assert not store.status.is_held


def test_second_process_says_which_one_holds_the_file(path: Path, logs: Logs) -> None:
    """The log has its process, machine, conf.yml and start, once; nothing waits, and nothing is written."""
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


def test_file_is_taken_over_from_a_process_that_was_killed(path: Path, logs: Logs) -> None:
    """The lock dies with its process, and the lock file that stays locks nothing."""
    with other_process(path) as process, opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        assert not store.flush(PATIENCE)
        process.kill()
        process.wait()
        assert path.with_name(f"{path.name}{SUFFIX}").exists()
        taken_over(store)
        assert told(store) == [("web1", "22", "open")]
        assert logs.levels == ["error", "info"]
        holder = current_lock_holder(str(path))
        assert holder
        assert holder.pid == os.getpid()


@pytest.mark.parametrize("spelling", ["link.db", "here/../portspec.db", "linked/portspec.db"])
def test_file_is_the_same_by_whatever_path(path: Path, spelling: str) -> None:
    """A symbolic link to the file or to its directory, and a detour, lead to the same lock."""
    (path.parent / "here").mkdir()
    (path.parent / "linked").symlink_to(path.parent)
    (path.parent / "link.db").symlink_to(path)
    with opened(path), opened(path.parent / spelling) as (second, _):
        assert second.status.is_held


def test_nothing_is_written_twice_after_a_takeover(path: Path) -> None:
    """What the other one wrote stands; what it did not see any more is written, with what changed since."""
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
        assert told(second) == [("web1", "80", "open"), ("db1", "22", "open"), ("web1", "22", "open")]
        assert (second.notification_state("web1"), second.notification_state("db1")) == ("told of 80", None)
        notices = second.transact(outbox.read_notifications)
        assert [notice.document for notice in notices] == ["notice of 80"]
        assert [(state.host, state.latest and state.latest.finished_at) for state in moved] == [("db1", NOW + 9)]
        second.put(old, scanned(old, 22, at=NOW + 10))  # against what the other one saw, it is no change
        commit(second)
        assert len(told(second)) == 3
    finally:
        second.close(PATIENCE)


def test_lock_file_that_is_removed_is_made_again(path: Path) -> None:
    """Somebody who cleans up gives the file to nobody else."""
    with opened(path) as (store, _):
        path.with_name(f"{path.name}{SUFFIX}").unlink()
        scan(store, HostState(WEB), 22)
        commit(store)
        with opened(path) as (second, _):
            assert second.status.is_held


def test_lock_file_that_is_removed_is_not_taken_back_by_force(path: Path) -> None:
    """If another process was faster, the first one stops to write."""
    with opened(path) as (store, _):
        path.with_name(f"{path.name}{SUFFIX}").unlink()
        with opened(path) as (second, _):
            assert second.status.is_up
            scan(store, HostState(WEB), 22)
            assert not store.flush(PATIENCE)
            assert store.status.is_held
        taken_over(store)


def test_closed_store_frees_the_file(path: Path) -> None:
    """After close() the next one has it at once, and it is not said to be held."""
    for _ in range(2):
        with opened(path) as (store, _):
            assert store.status.is_up
    assert current_lock_holder(str(path)) is None
    assert last_lock_holder(str(path)) is not None


def test_directory_that_is_not_there_is_an_ordinary_trouble(tmp_path: Path, logs: Logs) -> None:
    """A lock that cannot be made is no reason to say that somebody has it."""
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
def test_whatever_is_in_a_lock_file_is_no_crash(tmp_path: Path, content: bytes) -> None:
    """What a lock file holds is read as a holder, or as nobody."""
    lock_file = tmp_path / "portspec.db.lock"
    lock_file.write_bytes(content)
    found: Any = last_lock_holder(str(tmp_path / "portspec.db"))
    assert found is None or str(found)


def test_lock_says_that_it_is_held_even_if_not_by_whom(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that could not write who it is, on a full disk, is refused to others all the same."""
    lock = StateFileLock(str(path), LockHolder(1, "scan1", "/etc/portspec/portspec.yml", NOW))
    lock.acquire()
    path.with_name(f"{path.name}{SUFFIX}").write_bytes(b"")
    with pytest.raises(StoreFault, match="another exporter holds it: unknown") as found:
        StateFileLock(str(path), LockHolder(2, "scan1", "", NOW)).acquire()
    assert found.value.kind is StoreFaultKind.HELD
    lock.release()
