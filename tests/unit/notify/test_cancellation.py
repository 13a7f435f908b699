from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from portspec.notify.cancellation import abandon_on_cancel, finish_on_cancel
from tests.unit.factories import settle
from tests.unit.store.scenes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable


async def hiding(answer: asyncio.Future[str], told: list[str]) -> str:
    """Wait for a reply, suppress the cancellation, and continue."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait({answer})
    told.append("went on")
    await asyncio.sleep(0)
    told.append("went further")
    return "answer"


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and let the event loop settle."""
    await settle()
    task.cancel()
    await settle()


def test_abandoned_step_cannot_hide_a_cancellation() -> None:
    """The wait ends at once, even if the step suppresses the cancellation."""

    async def scenario() -> None:
        told: list[str] = []
        task = asyncio.create_task(abandon_on_cancel(hiding(asyncio.get_running_loop().create_future(), told)))
        await cancel(task)
        assert task.cancelled()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "way", [abandon_on_cancel, lambda work: finish_on_cancel(work, PATIENCE)], ids=["step", "last"]
)
def test_step_returns_its_result_or_raises_its_error(way: Callable[[Any], Any]) -> None:
    """Without a cancellation both functions are like `await`."""

    async def work(error: Exception | None) -> str:
        await asyncio.sleep(0)
        if error:
            raise error
        return "answer"

    async def scenario() -> None:
        assert await way(work(None)) == "answer"
        with pytest.raises(ValueError, match="why"):
            await way(work(ValueError("why")))

    asyncio.run(scenario())


def test_finished_step_returns_before_the_cancellation() -> None:
    """The next await is cancelled, and the task counts one cancellation."""

    async def scenario() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        told: list[object] = []

        async def work() -> None:
            told.append(await finish_on_cancel(answer, PATIENCE))
            this = asyncio.current_task()
            told.append(this and this.cancelling())
            await asyncio.sleep(0)
            told.append("too far")

        task = asyncio.create_task(work())
        await cancel(task)
        assert not task.done()
        answer.set_result("answer")
        await settle()
        assert task.cancelled()
        assert told == ["answer", 1]

    asyncio.run(scenario())


@pytest.mark.parametrize("is_impatient", [True, False])
def test_step_is_cancelled_after_the_time_limit(*, is_impatient: bool) -> None:
    """After the limit, or a second cancellation, the task is cancelled without a result."""

    async def scenario() -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(finish_on_cancel(answer, 0.0 if is_impatient else PATIENCE))
        await cancel(task)
        if not is_impatient:
            await cancel(task)
        await asyncio.wait({task}, timeout=PATIENCE)
        assert task.cancelled()
        assert answer.cancelled()

    asyncio.run(scenario())
