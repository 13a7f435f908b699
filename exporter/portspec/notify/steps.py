"""Steps of a dialogue that may be cancelled: none hides a cancellation, and no answer that is on its way is lost.

asyncio.wait_for() of Python 3.11, which aiosmtplib calls for each answer, returns normally when it is cancelled while
its result is there already. Whoever cancelled the task then waits for something that goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

T = TypeVar("T")


async def step(work: Coroutine[Any, Any, T]) -> T:
    """Await a step in a task of its own, so that a cancellation ends the wait at once, whatever the step does with it.

    A step that is left is cancelled, and not waited for: close what it works on.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_retrieve)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
    return task.result()


async def last_step(work: Awaitable[T], patience: float) -> T:
    """Await a step that should not be broken off: when cancelled, wait for it for `patience` seconds more.

    If it ends in that time, its result is given or its error raised, and the cancellation comes at the next await.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_retrieve)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=patience)
        if not task.done():
            raise
        if this := asyncio.current_task():
            this.uncancel()  # or a timeout() around it would see one more than there was
            this.cancel()
    finally:
        task.cancel()
    return task.result()


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Take the outcome of a step that nobody waits for any more: asyncio would log an error as never retrieved."""
    if not task.cancelled():
        task.exception()
