"""Ends the process when its event loop hangs and no service manager watches it.

A thread asks the event loop for a sign of life, and counts how often in a row none has come. It counts and does not
measure, since the whole process may have been stopped for any time between two. An event loop that hangs answers
nobody, so only the end of the process helps: a container or a service manager starts it again.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.app.watchdog import CHECKS_PER_LIMIT, DEFAULT_LIMIT
from portspec.daemonthread import DaemonThread
from portspec.errors import NoThreadError

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_CODE: Final = 70  # sysexits(3), EX_SOFTWARE
MAX_FRAMES: Final = 20  # of the stack that is logged: the innermost ones

_log = log.get("watchdog")


class LoopGuard:
    """Guards the event loop that constructs it; `end` is called in the guard's thread when that hangs."""

    def __init__(self, limit: float = DEFAULT_LIMIT, end: Callable[[int], object] = os._exit) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._limit = limit
        self._end = end
        self._has_answered = True
        self._silent = 0  # checks in a row
        self._stop = threading.Event()

    def start(self) -> None:
        """Start the thread. Without one, as where the system allows no more, the event loop is not guarded."""
        try:
            DaemonThread(self._run, "portspec-guard").start()
        except NoThreadError:
            _log.warning("no thread can be started to watch the event loop; a hang of it will not be noticed")

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()

    def check(self) -> bool:
        """Ask the event loop for a sign of life; return whether it has given none for the whole limit."""
        self._silent = 0 if self._has_answered else self._silent + 1
        if self._silent >= CHECKS_PER_LIMIT:
            return True
        self._has_answered = False
        self._loop.call_soon_threadsafe(self._answer)
        return False

    def _answer(self) -> None:
        self._has_answered = True

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._limit / CHECKS_PER_LIMIT):
                if self.check():
                    self._tell()
                    self._end(EXIT_CODE)
                    return
        except RuntimeError:  # the loop is closed
            return

    def _tell(self) -> None:
        """Log where the event loop is."""
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the documented way to another thread's stack
        stack = "".join(traceback.format_stack(frame)[-MAX_FRAMES:]) if frame else ""
        _log.error(
            "the event loop hangs; portspec ends, so that it is started again",
            seconds=self._limit,
            stack=stack,
        )
