"""Two ways to await a step of a dialogue in a task that may be cancelled. Neither hides a cancellation.

A plain `await` is not enough: asyncio.wait_for() of Python 3.11, which aiosmtplib calls for each reply, returns
normally if it is cancelled once its result is available. The canceller would then wait for a task that continues.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

T = TypeVar("T")


async def abandon_on_cancel(work: Coroutine[Any, Any, T]) -> T:
    """Await a step in its own task, so that a cancellation ends the wait at once, even if the step suppresses it.

    An abandoned step is cancelled but not awaited: close the connection that it uses.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_retrieve)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
    return task.result()


async def finish_on_cancel(work: Awaitable[T], time_limit: float) -> T:
    """Await a step that should not be interrupted: on cancellation, wait for it for up to `time_limit` more seconds.

    If it ends in that time, its result is returned or its error raised, and the next await raises CancelledError.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(_retrieve)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=time_limit)
        if not task.done():
            raise
        if this := asyncio.current_task():
            this.uncancel()  # or a surrounding timeout() would count one cancellation too many
            this.cancel()
    finally:
        task.cancel()
    return task.result()


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Retrieve the outcome of an abandoned step; otherwise asyncio logs that it was never retrieved."""
    if not task.cancelled():
        task.exception()
