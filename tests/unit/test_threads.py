from __future__ import annotations

import asyncio
import threading
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

from portspec.errors import NoThreadError
from portspec.threads import LOG_AGAIN_AFTER, _Shortage, computed, in_daemon_thread
from tests.unit.scan.loopback import PATIENCE


async def over(ended: asyncio.Event) -> None:
    """Wait until a thread has said that it has ended."""
    await asyncio.wait_for(ended.wait(), PATIENCE)


def fail() -> NoReturn:
    """Raise what the one who waits shall see."""
    raise ZeroDivisionError("of the work")


def test_result_is_given() -> None:
    """The future has the result of the work, which ran in another thread, a daemon."""

    async def scenario() -> threading.Thread:
        ended = asyncio.Event()
        thread = await in_daemon_thread(threading.current_thread, ended.set)
        await over(ended)
        return thread

    thread = asyncio.run(scenario())
    assert thread is not threading.current_thread()
    assert thread.daemon


def test_exception_is_raised_where_it_is_waited_for() -> None:
    """The future raises what the work raised, and `ended` is called all the same."""

    async def scenario() -> None:
        ended = asyncio.Event()
        with pytest.raises(ZeroDivisionError, match="of the work"):
            await in_daemon_thread(fail, ended.set)
        await over(ended)

    asyncio.run(scenario())


def test_result_comes_after_the_end_was_told() -> None:
    """`ended` is called on the event loop, before who waits goes on."""
    called: list[threading.Thread] = []

    async def scenario() -> None:
        await in_daemon_thread(lambda: None, lambda: called.append(threading.current_thread()))
        assert called == [threading.current_thread()]

    asyncio.run(scenario())


@pytest.mark.parametrize("fails", [False, True])
def test_cancelled_future_leaves_the_thread_to_its_end(fails: bool) -> None:  # noqa: FBT001
    """Who gives up is free at once; `ended` is called when the thread has really ended, without a complaint."""
    complaints: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        gate, ended = threading.Event(), asyncio.Event()

        def work() -> None:
            assert gate.wait(PATIENCE)
            if fails:
                fail()

        future = in_daemon_thread(work, ended.set)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert not ended.is_set()
        gate.set()
        await over(ended)

    asyncio.run(scenario())
    assert complaints == []


def test_thread_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine gives no thread NoThreadError is raised at once, and `ended` is not called."""
    called: list[None] = []

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        with pytest.raises(NoThreadError, match="raise TasksMax="):
            in_daemon_thread(lambda: None, lambda: called.append(None))

    monkeypatch.setattr(threading.Thread, "start", start)
    asyncio.run(scenario())
    assert called == []


def test_failure_of_what_is_called_at_the_end_keeps_no_result_back() -> None:
    """Who waits for the work gets what it came to; the failure itself is the event loop's to tell."""
    told: list[object] = []

    async def scenario() -> int:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        return await asyncio.wait_for(in_daemon_thread(lambda: 7, fail), PATIENCE)

    assert asyncio.run(scenario()) == 7
    assert isinstance(told[0], ZeroDivisionError)


def test_work_that_only_computes_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in a thread where there is one, else on the event loop; what it raises reaches who waits for it."""

    async def ran_in() -> threading.Thread:
        return await computed(threading.current_thread)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def failed() -> None:
        with pytest.raises(ZeroDivisionError, match="of the work"):
            await computed(fail)

    assert asyncio.run(ran_in()) is not threading.current_thread()
    monkeypatch.setattr(threading.Thread, "start", start)
    assert asyncio.run(ran_in()) is threading.current_thread()
    asyncio.run(failed())


def test_want_of_threads_is_told_once_an_hour() -> None:
    """The first refusal is the caller's to tell, the second is logged with what to do, and then one in an hour."""
    times = iter((1.0, 2.0, LOG_AGAIN_AFTER, LOG_AGAIN_AFTER + 1.0, LOG_AGAIN_AFTER + 2.0))
    shortage = _Shortage(lambda: next(times))
    with capture_logs() as logs:
        shortage.tell(NoThreadError())
        assert logs == []
        for _ in range(5):
            shortage.tell(NoThreadError())
    assert [entry["why"] for entry in logs] == [str(NoThreadError())] * 2
