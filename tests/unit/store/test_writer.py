"""The thread that writes: whatever goes wrong in it, nobody waits for ever."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from portspec.snapshot import HostState
from portspec.store import StoreError
from tests.unit.store.scenes import DB, PATIENCE, WEB, commit, opened, scan, told

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from tests.unit.store.scenes import Logs


class FaultError(Exception):
    """Something that nobody has thought of."""


def fail(*_: object) -> NoReturn:
    """Fail in a way that nobody has thought of."""
    raise FaultError


@pytest.mark.parametrize("method", ["_absorb", "_is_time", "_try"])
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
                store.perform(lambda _: None)
        scan(store, HostState(DB), 22)
        commit(store)
        assert ("db1", "22", "open") in told(store)
        assert store.perform(lambda _: "done") == "done"
    assert any(event["event"] == "the thread that writes the state failed, and goes on" for event in logs.events)


@pytest.mark.parametrize("error", [FaultError, SystemExit, KeyboardInterrupt])
def test_job_that_fails_in_any_way_is_told_to_who_asked(path: Path, error: type[BaseException]) -> None:
    """Nothing of it is written, and the thread goes on."""

    def job(file: sqlite3.Connection) -> NoReturn:
        file.execute("INSERT INTO meta (key, value) VALUES ('half', 'done')")
        raise error

    with opened(path) as (store, _):
        with pytest.raises(error):
            store.perform(job)
        count = store.perform(lambda file: file.execute("SELECT count(*) FROM meta WHERE key = 'half'").fetchone()[0])
        assert count == 0


def test_thread_that_ends_lets_go_of_those_who_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it ends as it never should: what was asked is refused, and so is what is asked later."""
    with opened(path) as (store, _):
        writer = store._writer
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        monkeypatch.setattr(writer, "_perform", lambda *_: sys_exit())
        with pytest.raises(StoreError, match="it is closed"):
            store.perform(lambda _: None)
        with pytest.raises(StoreError, match="it is closed"):
            store.perform(lambda _: None)
        assert not store.status.is_up


def sys_exit() -> NoReturn:
    """End the thread that calls this."""
    raise SystemExit
