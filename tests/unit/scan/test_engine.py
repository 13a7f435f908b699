"""The thread of an engine: whatever ends it, no future stays unresolved."""

from __future__ import annotations

import os
import select
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, NoReturn

import pytest

from portspec.errors import NoThreadError
from portspec.ports import PortSet
from portspec.scan import ScanJob
from portspec.scan.engine import EngineThread
from tests.unit.scan.loopback import PATIENCE

if TYPE_CHECKING:
    from concurrent.futures import Future

    from portspec.scan import Observation


class Ending(EngineThread):
    """An engine whose thread ends in its first turn."""

    name = "ending"

    def _turn(self) -> NoReturn:
        raise SystemExit

    def _drop_all(self) -> list[Future[Observation]]:
        return []

    def _release(self) -> None:
        pass


class Hanging(EngineThread):
    """An engine whose thread hangs in its turn while `go_on` is clear; `begun` counts its turns."""

    name = "hanging"

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()
        self.begun = threading.Semaphore(0)

    def _turn(self) -> None:
        self.begun.release()
        select.select([self._wake], [], [])
        os.eventfd_read(self._wake)
        self.go_on.wait()

    def _drop_all(self) -> list[Future[Observation]]:
        return []

    def _release(self) -> None:
        pass


def test_beat_changes_while_the_thread_takes_turns() -> None:
    """Without a job there is no beat; each call wakes an idle thread and sees its turns, until the thread hangs."""
    engine = Hanging()
    assert engine.beat() is None
    engine.submit(ScanJob(("127.0.0.1",), PortSet.of([1])))
    assert engine.begun.acquire(timeout=PATIENCE)  # the turn that the job ends
    beats = []
    for _ in range(3):
        assert engine.begun.acquire(timeout=PATIENCE)
        beats.append(engine.beat())
    assert beats == [2, 3, 4]
    assert engine.begun.acquire(timeout=PATIENCE)
    engine.go_on.clear()
    assert [engine.beat() for _ in range(3)] == [5, 5, 5]
    engine.go_on.set()
    engine.close()


def test_beat_of_a_thread_that_has_ended_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that ended unexpectedly makes no progress, and asking it is no error."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    engine = Ending()
    with pytest.raises(CancelledError):
        engine.submit(ScanJob(("127.0.0.1",), PortSet.of([1]))).result(PATIENCE)
    assert {engine.beat() for _ in range(3)} == {1}
    engine.close()


def test_thread_that_ends_cancels_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting job is cancelled, and further ones are rejected."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    engine = Ending()
    job = ScanJob(("127.0.0.1",), PortSet.of([1]))
    with pytest.raises(CancelledError):
        engine.submit(job).result(PATIENCE)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.submit(job)
    engine.close()


def test_engine_without_a_thread_accepts_the_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the job is rejected with advice, and the engine still works."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    engine = Ending()
    job = ScanJob(("127.0.0.1",), PortSet.of([1]))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(NoThreadError, match="raise TasksMax="):
            engine.submit(job)
    with pytest.raises(CancelledError):
        engine.submit(job).result(PATIENCE)
    engine.close()
