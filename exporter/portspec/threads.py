"""Blocking work beside the event loop, in daemon threads: none of it may hold up the end of the program."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def in_daemon_thread(work: Callable[[], T], ended: Callable[[], None] = lambda: None) -> asyncio.Future[T]:
    """Run `work` in a thread of its own and give its result, or what it raised.

    The future may be cancelled; the thread then goes on, and nobody waits for it. `ended` is called on the
    event loop when the thread has really ended. Raises RuntimeError when no thread can be started.
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

    threading.Thread(target=run, name="portspec-work", daemon=True).start()
    return future
