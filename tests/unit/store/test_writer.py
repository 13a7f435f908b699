"""The writer's thread: after any error, no caller waits forever."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from portspec.state.snapshot import HostState
from portspec.store import StoreError, states, writer
from tests.faults.registry import fault
from tests.unit.factories import NOW
from tests.unit.store.scenes import DB, PATIENCE, WEB, commit, logged_changes, opened, scan, scanned

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from tests.unit.store.scenes import Logs


class FaultError(Exception):
    """An unexpected error."""


def fail(*_: object) -> NoReturn:
    """Raise an unexpected error."""
    raise FaultError


@pytest.mark.parametrize("method", ["_absorb", "_is_due", "_attempt"])
def test_unexpected_error_does_not_end_the_thread(
    path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It is logged, waiting callers get an error, and the next turn writes."""
    with opened(path) as (store, _):
        with monkeypatch.context() as faulty:
            faulty.setattr(store._writer, method, fail)
            scan(store, HostState(WEB), 22)
            assert not store.flush(PATIENCE)
            assert not store.status.is_up
            with pytest.raises(StoreError):
                store.transact(lambda _: None)
        scan(store, HostState(DB), 22)
        commit(store)
        assert ("db1", "22", "open") in logged_changes(store)
        assert store.transact(lambda _: "done") == "done"
    assert any(event["event"] == "unexpected error while writing the state file; continuing" for event in logs.events)


@pytest.mark.parametrize("spoilt", ["notification", "notification_state", "port"])
def test_unwritable_values_do_not_block_others(
    path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    """An entry with values that SQLite rejects is logged and dropped; all others are written once."""
    with opened(path) as (store, _):
        with monkeypatch.context() as waiting:  # so that all are in one transaction
            waiting.setattr(store._writer, "_attempt", lambda: False)
            web = scan(store, HostState(WEB), 22)
            bad = HostState(replace(WEB, host="bad"))
            if spoilt == "port":
                store.put(bad, replace(scanned(bad, 22), target=replace(WEB, host="bad\ud800")))
            else:
                store.put(bad, scanned(bad, 22), **{"notification_state": None, "notification": None, spoilt: "\ud800"})
            scan(store, HostState(DB), 22)
            scan(store, web, 22, 80, at=NOW + 60)
            assert not store.flush(PATIENCE)
        commit(store)
        assert store.status.is_up
        assert [host for host, _, _ in logged_changes(store) if host.startswith("bad")] == []
        assert ("db1", "22", "open") in logged_changes(store)
        assert len(logged_changes(store)) == len(set(logged_changes(store)))
        assert ("web1", "80", "open") in logged_changes(store)
        assert store.status.dropped > 0
    assert [event["host"].startswith("bad") for event in logs.events if event["level"] == "error"] == [True]


def test_broken_connection_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written on a closed connection is written on the next one."""
    write = states.write_states

    def close_first(connection: sqlite3.Connection, *given: Any) -> None:
        monkeypatch.undo()
        connection.close()
        write(connection, *given)

    with opened(path) as (store, _):
        monkeypatch.setattr("portspec.store.pending.write_states", close_first)
        scan(store, HostState(WEB), 22)
        store.flush(PATIENCE)
        commit(store)
        assert states.write_states is write
        assert ("web1", "22", "open") in logged_changes(store)
        assert store.status.dropped == 0


@pytest.mark.parametrize("error", [FaultError, SystemExit, KeyboardInterrupt])
def test_caller_gets_any_error_of_its_job(path: Path, error: type[BaseException]) -> None:
    """Nothing of the job is written, and the thread continues."""

    def job(file: sqlite3.Connection) -> NoReturn:
        file.execute("INSERT INTO meta (key, value) VALUES ('half', 'done')")
        raise error

    with opened(path) as (store, _):
        with pytest.raises(error):
            store.transact(job)
        count = store.transact(lambda file: file.execute("SELECT count(*) FROM meta WHERE key = 'half'").fetchone()[0])
        assert count == 0


@fault("part that ends", "audits", "Audits that wait for the thread get 503 and are sent again.")
def test_end_of_the_thread_fails_waiting_jobs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the thread ends unexpectedly, waiting and later callers get an error, until it is restarted."""
    with opened(path) as (store, _):
        with monkeypatch.context() as faulty:
            faulty.setattr(store._writer, "_run_job", lambda *_: sys_exit())
            with pytest.raises(StoreError, match="the thread that writes has ended unexpectedly"):
                store.transact(lambda _: None)
            with pytest.raises(StoreError, match="the thread that writes has ended unexpectedly"):
                store.transact(lambda _: None)
            assert not store.status.is_up
            assert type(store.death) is SystemExit
        store.restart()
        scan(store, HostState(WEB), 22)
        commit(store)
        assert store.transact(lambda _: "done") == "done"
        assert store.status.is_up


@fault("part that ends", "state file", "Results wait in memory until the thread is restarted, and then are written.")
@pytest.mark.parametrize("method", ["_absorb", "_attempt", "_wait"])
@pytest.mark.parametrize("is_restarted", [True, False])
def test_end_of_the_thread_loses_no_scan(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    is_restarted: bool,  # noqa: FBT001
) -> None:
    """What was put before and after the end is written after a restart; without one when the store is closed."""
    with opened(path) as (store, _):
        with monkeypatch.context() as faulty:
            faulty.setattr(store._writer, method, lambda *_: sys_exit())
            web = scan(store, HostState(WEB), 22)
            store.flush(PATIENCE)
            store._writer._thread.join(PATIENCE)
            assert store.death is not None
            scan(store, web, 22, 80, at=NOW + 60)
            scan(store, HostState(DB), 22)
            assert not store.flush(PATIENCE)
        if is_restarted:
            store.restart()
            commit(store)
    with opened(path) as (store, _):
        assert {("web1", "80", "open"), ("db1", "22", "open")} <= set(logged_changes(store))
        assert len(logged_changes(store)) == len(set(logged_changes(store)))


@fault(
    "disk that hangs",
    "state file",
    "Scans continue; after a minute `portspec_store_up` is 0 and the log says that the part hangs.",
)
def test_disk_that_does_not_answer_is_no_success(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that takes longer than STUCK_AFTER makes the file down; the heartbeat stands still meanwhile."""
    may_go_on = threading.Event()
    with opened(path) as (store, _):

        def is_up() -> bool:
            return store.status.is_up

        monkeypatch.setattr(store._writer, "_is_due", lambda **_: bool(may_go_on.wait(PATIENCE)))
        scan(store, HostState(WEB), 22)
        flushing = threading.Thread(target=store.flush, args=(PATIENCE,))
        flushing.start()
        while store.heartbeats()[0].beat is None:
            may_go_on.wait(0.001)
        assert len({store.heartbeats()[0].beat for _ in range(3)}) == 1
        assert is_up()
        store._writer._turn_began = time.monotonic() - writer.STUCK_AFTER
        assert not is_up()
        may_go_on.set()
        flushing.join()
        commit(store)
        assert is_up()


def sys_exit() -> NoReturn:
    """End the calling thread."""
    raise SystemExit
