"""The thread of an engine: whatever ends it, nobody waits for ever."""

from __future__ import annotations

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


def test_thread_that_ends_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job that waits is cancelled, and further ones are refused."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    engine = Ending()
    job = ScanJob(("127.0.0.1",), PortSet.of([1]))
    with pytest.raises(CancelledError):
        engine.submit(job).result(PATIENCE)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.submit(job)
    engine.close()


def test_engine_that_gets_no_thread_takes_the_next_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread to begin with a job is refused with what to do, and the engine is as it was."""

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
