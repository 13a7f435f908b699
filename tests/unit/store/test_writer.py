"""The thread that writes: whatever goes wrong in it, nobody waits for ever."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from portspec.state.snapshot import HostState
from portspec.store import StoreError, states
from tests.unit.factories import NOW
from tests.unit.store.scenes import DB, PATIENCE, WEB, commit, opened, scan, scanned, told

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from tests.unit.store.scenes import Logs


class FaultError(Exception):
    """Something that nobody has thought of."""


def fail(*_: object) -> NoReturn:
    """Fail in a way that nobody has thought of."""
    raise FaultError


@pytest.mark.parametrize("method", ["_absorb", "_is_due", "_attempt"])
def test_fault_in_the_thread_does_not_end_it(
    path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It is logged, those who wait get an answer, and the next turn writes what is put."""
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
        assert ("db1", "22", "open") in told(store)
        assert store.transact(lambda _: "done") == "done"
    assert any(event["event"] == "unexpected error while writing the state file; continuing" for event in logs.events)


@pytest.mark.parametrize("spoilt", ["notification", "notification_state", "port"])
def test_what_can_never_be_written_keeps_nothing_else_from_being_written(
    path: Path, logs: Logs, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    """An entry whose values SQLite cannot take is told in the log and lost; all others are written, each once."""
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
        assert [host for host, _, _ in told(store) if host.startswith("bad")] == []
        assert ("db1", "22", "open") in told(store)
        assert len(told(store)) == len(set(told(store)))
        assert ("web1", "80", "open") in told(store)
        assert store.status.dropped > 0
    assert [event["host"].startswith("bad") for event in logs.events if event["level"] == "error"] == [True]


def test_connection_that_is_at_fault_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written because the connection is closed is written over the next one."""
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
        assert ("web1", "22", "open") in told(store)
        assert store.status.dropped == 0


@pytest.mark.parametrize("error", [FaultError, SystemExit, KeyboardInterrupt])
def test_job_that_fails_in_any_way_is_told_to_who_asked(path: Path, error: type[BaseException]) -> None:
    """Nothing of it is written, and the thread goes on."""

    def job(file: sqlite3.Connection) -> NoReturn:
        file.execute("INSERT INTO meta (key, value) VALUES ('half', 'done')")
        raise error

    with opened(path) as (store, _):
        with pytest.raises(error):
            store.transact(job)
        count = store.transact(lambda file: file.execute("SELECT count(*) FROM meta WHERE key = 'half'").fetchone()[0])
        assert count == 0


def test_thread_that_ends_lets_go_of_those_who_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it ends as it never should: what was asked is refused, and so is what is asked later."""
    with opened(path) as (store, _):
        writer = store._writer
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        monkeypatch.setattr(writer, "_run_job", lambda *_: sys_exit())
        with pytest.raises(StoreError, match="it is closed"):
            store.transact(lambda _: None)
        with pytest.raises(StoreError, match="it is closed"):
            store.transact(lambda _: None)
        assert not store.status.is_up


def sys_exit() -> NoReturn:
    """End the thread that calls this."""
    raise SystemExit
