"""The sending threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from portspec.scan.syn.socket import _start_pool

if TYPE_CHECKING:
    import pytest


def test_pool_starts_all_threads_at_once() -> None:
    """A pool starts its threads at once; later submissions need no new one."""
    before = threading.active_count()
    pool = _start_pool(3)
    assert pool
    assert threading.active_count() == before + 3
    pool.shutdown()


def test_no_pool_without_enough_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system allows too few threads there is no pool, and those that started end."""
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
