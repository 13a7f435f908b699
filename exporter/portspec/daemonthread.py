"""A daemon thread whose start has a time limit."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from portspec.errors import NoThreadError

if TYPE_CHECKING:
    from collections.abc import Callable

START_LIMIT: Final = 5.0  # seconds; a thread begins within milliseconds, on a machine that is busy within a second


class _LimitedEvent(threading.Event):
    """An event that nobody waits for longer than START_LIMIT."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, see threading.Event."""
        return super().wait(START_LIMIT if timeout is None else min(timeout, START_LIMIT))


class DaemonThread(threading.Thread):
    """A daemon thread that runs `work`.

    threading.Thread.start() waits until the new thread has begun, and so for ever for one that ended before it had, for
    want of memory (MemoryError in Thread._bootstrap(), seen with CPython 3.11).
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work: Callable[[], object] | None = work
        self._begun = self._started = _LimitedEvent()

    def start(self) -> None:
        """Start the thread. Raises NoThreadError if the system does not allow another one, or it does not begin."""
        try:
            super().start()
        except RuntimeError:
            raise NoThreadError from None
        if not self._begun.is_set():
            self._work = None  # should it begin after all
            raise NoThreadError

    def run(self) -> None:
        """Do the work."""
        work, self._work = self._work, None
        if work:
            work()
