"""A thread that does not begin keeps nobody waiting."""

from __future__ import annotations

import threading

import pytest

from portspec import daemonthread
from portspec.daemonthread import DaemonThread
from portspec.errors import NoThreadError


def test_work_is_done_in_a_daemon_thread() -> None:
    """The work runs once, in another thread with that name."""
    found: list[tuple[str, bool]] = []

    def work() -> None:
        thread = threading.current_thread()
        found.append((thread.name, thread.daemon))

    thread = DaemonThread(work, "portspec-test")
    thread.start()
    thread.join()
    assert found == [("portspec-test", True)]


def test_thread_that_ends_before_it_has_begun_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory a thread may end in the interpreter's own code: start() raises and does not wait on."""
    monkeypatch.setattr(daemonthread, "START_LIMIT", 0.01)
    monkeypatch.setattr(DaemonThread, "_bootstrap", lambda _: None)
    done: list[int] = []
    thread = DaemonThread(lambda: done.append(1), "portspec-test")
    with pytest.raises(NoThreadError):
        thread.start()
    thread.run()  # it begins after all
    assert done == []


def test_thread_that_the_system_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread start() says what to raise."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(NoThreadError, match="raise TasksMax="):
        DaemonThread(lambda: None, "portspec-test").start()
