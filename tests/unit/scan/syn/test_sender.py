"""The threads that send."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from portspec.scan.syn.socket import _start_pool

if TYPE_CHECKING:
    import pytest


def test_threads_that_send_all_begin_at_once() -> None:
    """A pool has its threads from the start: what is handed to it later needs no new one."""
    before = threading.active_count()
    pool = _start_pool(3)
    assert pool
    assert threading.active_count() == before + 3
    pool.shutdown()


def test_pool_that_lacks_a_thread_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fewer threads are to be had than were asked for there is no pool, and those that began end."""
    start = threading.Thread.start
    begun: list[threading.Thread] = []

    def scarce(thread: threading.Thread) -> None:
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    assert _start_pool(3) is None
    assert not any(thread.is_alive() for thread in begun)
