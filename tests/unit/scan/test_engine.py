"""The thread of an engine: whatever ends it, no future stays unresolved."""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from portspec.errors import EngineStoppedError, NoThreadError
from portspec.ports import PortSet
from portspec.scan import ScanJob
from portspec.scan.engine import MAX_FAILED_TURNS, EngineThread
from tests.faults.registry import fault
from tests.unit.scan.loopback import PATIENCE

if TYPE_CHECKING:
    from concurrent.futures import Future

    from portspec.scan import Observation


class Ending(EngineThread):
    """An engine whose thread ends in its first turn."""

    name = "ending"
    is_released = False

    def _turn(self) -> NoReturn:
        raise SystemExit

    def _drop_all(self) -> list[Future[Observation]]:
        return []

    def _release(self) -> None:
        self.is_released = True


class Failing(Ending):
    """An engine of which each turn fails; `turns` counts them."""

    name = "failing"
    turns = 0

    def _turn(self) -> NoReturn:
        self.turns += 1
        raise ZeroDivisionError


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


def test_beat_of_a_thread_that_has_ended_stays() -> None:
    """A thread that ended unexpectedly makes no progress, and asking it is no error."""
    engine = Ending()
    with pytest.raises(EngineStoppedError):
        engine.submit(ScanJob(("127.0.0.1",), PortSet.of([1]))).result(PATIENCE)
    assert {engine.beat() for _ in range(3)} == {1}
    engine.close()


@fault("part that ends", "scans", "Hosts whose engine has ended are unknown, never closed, and no scan waits for ever.")
def test_thread_that_ends_fails_its_jobs() -> None:
    """A waiting job fails, further ones are rejected with the reason, and so they are by no thread that hangs."""
    engine = Ending()
    job = ScanJob(("127.0.0.1",), PortSet.of([1]))
    with pytest.raises(EngineStoppedError, match="the ending engine has ended unexpectedly: SystemExit"):
        engine.submit(job).result(PATIENCE)
    with pytest.raises(EngineStoppedError):
        engine.submit(job)
    assert isinstance(engine.death, SystemExit)
    engine.close()
    assert engine.is_released


def test_thread_that_has_ended_is_restarted_with_what_it_had_open() -> None:
    """After restart() jobs are accepted again, by another thread; nothing was closed meanwhile."""
    engine = Ending()
    job = ScanJob(("127.0.0.1",), PortSet.of([1]))
    for _ in range(3):
        with pytest.raises(EngineStoppedError):
            engine.submit(job).result(PATIENCE)
        engine.restart()
        assert not engine.is_released
    engine.close()
    assert engine.is_released


def test_restart_of_a_thread_that_lives_changes_nothing() -> None:
    """It is the supervisor's to call restart(), whenever it likes."""
    engine = Hanging()
    engine.restart()
    assert engine.beat() is None
    engine.submit(ScanJob(("127.0.0.1",), PortSet.of([1])))
    before = threading.active_count()
    engine.restart()
    assert threading.active_count() == before
    engine.close()
    engine.restart()
    assert engine.death is None


def test_thread_that_only_fails_ends() -> None:
    """An error in a turn fails the jobs, and the thread goes on; one in each turn ends it, instead of a busy loop."""
    engine = Failing()
    with pytest.raises((ZeroDivisionError, EngineStoppedError)):  # the thread may be faster than the job
        engine.submit(ScanJob(("127.0.0.1",), PortSet.of([1]))).result(PATIENCE)
    engine._thread.join(PATIENCE)
    assert isinstance(engine.death, ZeroDivisionError)
    assert engine.turns == MAX_FAILED_TURNS
    engine.close()


def test_engine_without_a_thread_accepts_the_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the job is rejected with advice, and the engine still works."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    engine = Ending()
    job = ScanJob(("127.0.0.1",), PortSet.of([1]))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(NoThreadError, match="raise TasksMax="):
            engine.submit(job)
    with pytest.raises(EngineStoppedError):
        engine.submit(job).result(PATIENCE)
    engine.close()
