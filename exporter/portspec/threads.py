"""Blocking work beside the event loop, in daemon threads: none of it may hold up the end of the program."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from portspec import log
from portspec.daemonthread import DaemonThread
from portspec.errors import NoThreadError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LOG_AGAIN_AFTER = 3600.0  # seconds after which a lack of threads is logged again

_log = log.get("threads")


class _Shortage:
    """Logs a lack of threads once: it may occur a hundred times a second, or occasionally, for days.

    It does not log the first one: during the start, that one is reported as the error that ends it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at = -math.inf
        self._is_first = True

    def tell(self, error: NoThreadError) -> None:
        """Log it, unless that was done a short while ago."""
        if not self._is_first and (now := self._clock()) >= self._told_at + LOG_AGAIN_AFTER:
            self._told_at = now
            _log.error("cannot start threads; portspec is degraded", why=str(error))
        self._is_first = False


_shortage = _Shortage()  # of the process, as the limit is


def start(thread: DaemonThread) -> None:
    """Start a thread. Raises NoThreadError when the system gives none, of which the log tells."""
    try:
        thread.start()
    except NoThreadError as error:
        _shortage.tell(error)
        raise


def in_daemon_thread(work: Callable[[], T], ended: Callable[[], None] = lambda: None) -> asyncio.Future[T]:
    """Run `work` in a thread of its own and give its result, or what it raised.

    The future may be cancelled; the thread then goes on, and nobody waits for it. `ended` is called on the
    event loop when the thread has really ended. Raises NoThreadError when no thread can be started.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(set_outcome: Callable[[], None]) -> None:
        try:
            ended()
        finally:
            if not future.done():
                set_outcome()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - carried to the one who waits
            outcome = partial(future.set_exception, error)
        else:
            outcome = partial(future.set_result, result)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, outcome)

    start(DaemonThread(run, "portspec-work"))
    return future


def computed(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run what only computes in a thread; where none is to be had, here and now: the event loop waits meanwhile.

    Not for anything that may block, such as a file or a look-up.
    """
    try:
        return in_daemon_thread(work)
    except NoThreadError:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - carried to the one who waits
            future.set_exception(error)
        return future
