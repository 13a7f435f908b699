"""What becomes of a part that ends although it should run for ever."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from portspec.app.supervisor import GOOD_AFTER, MAX_FAILURES, MAX_PAUSE, MIN_PAUSE, THREAD_CHECK_INTERVAL, Supervisor
from portspec.errors import NoThreadError, PartFailedError
from tests.faults.registry import fault
from tests.unit.factories import ManualClock, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Part:
    """A part that does, in each run, what `ends` says: raise, return or cancel itself; afterwards it runs on."""

    def __init__(self, *ends: Callable[[], object]) -> None:
        self.ends = list(ends)
        self.runs = 0

    async def run(self) -> None:
        """Run once."""
        self.runs += 1
        if self.ends:
            self.ends.pop(0)()
            return
        await asyncio.Event().wait()


class ScriptedThread:
    """A thread that lives until `death` is set; as many restarts fail as `refused` says."""

    def __init__(self, refused: int = 0) -> None:
        self.death: BaseException | None = None
        self.refused = refused
        self.restarts = 0

    def restart(self) -> None:
        """Start it again."""
        if self.death is None:
            return
        if self.refused:
            self.refused -= 1
            raise NoThreadError
        self.restarts += 1
        self.death = None


def fail() -> None:
    """Raise an error."""
    raise ValueError("a fault")


def cancel() -> None:
    """Cancel as a cancellation that goes astray does."""
    raise asyncio.CancelledError


def play(scenario: Callable[[Supervisor, ManualClock], Coroutine[Any, Any, None]]) -> list[Any]:
    """Run a scenario; returns the log."""

    async def run() -> None:
        clock = ManualClock()
        await scenario(Supervisor(clock), clock)

    with capture_logs() as logs:
        asyncio.run(run())
    return list(logs)


@fault(
    "part that ends",
    "whole exporter",
    "A task that ends is restarted after a second, then after pauses that double up to five minutes; "
    "`portspec_part_restarts_total` rises, the log has the error.",
)
@pytest.mark.parametrize(
    ("end", "why"),
    [
        (fail, "ValueError: a fault"),
        (lambda: None, "EndedError: it has ended without an error"),
        (cancel, "EndedError: it has cancelled itself"),
    ],
)
def test_part_that_ends_is_started_again(end: Callable[[], object], why: str) -> None:
    """However it has ended: one line says which part and why, the restart is counted, and it is down until then."""
    part = Part(end)

    async def scenario(supervisor: Supervisor, clock: ManualClock) -> None:
        keeping = asyncio.create_task(supervisor.keep("mailer", part.run))
        await settle()
        assert (supervisor.restarts, supervisor.down) == ({"mailer": 0}, frozenset({"mailer"}))
        await clock.advance(MIN_PAUSE)
        assert (supervisor.restarts, supervisor.down) == ({"mailer": 1}, frozenset())
        assert part.runs == 2
        keeping.cancel()
        await settle()
        assert keeping.cancelled()

    (line,) = play(scenario)
    assert (line["log_level"], line["part"], line["why"]) == ("error", "mailer", why)


def test_pauses_grow_while_a_part_fails_again_and_again() -> None:
    """They double up to MAX_PAUSE; after GOOD_AFTER seconds without a failure the next one is the first again."""
    part = Part(*[fail] * 12)

    async def scenario(supervisor: Supervisor, clock: ManualClock) -> None:
        keeping = asyncio.create_task(supervisor.keep("mailer", part.run))
        await clock.advance(12 * MAX_PAUSE)
        assert part.runs == 13
        part.ends = []
        keeping.cancel()

    logs = play(scenario)
    pauses = [line["pause_seconds"] for line in logs]
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-3:] == [MAX_PAUSE] * 3
    assert [line["failures_in_a_row"] for line in logs] == list(range(1, 13))


def test_failures_long_apart_are_not_in_a_row() -> None:
    """A vital part that fails once an hour is restarted each time."""
    ends = [asyncio.Event() for _ in range(2 * MAX_FAILURES)]
    left = list(ends)

    async def run() -> None:
        await left.pop(0).wait()
        fail()

    async def scenario(supervisor: Supervisor, clock: ManualClock) -> None:
        keeping = asyncio.create_task(supervisor.keep("scheduler", run, is_vital=True))
        for end in ends[:-1]:
            await clock.advance(GOOD_AFTER)
            end.set()
            await clock.advance(MIN_PAUSE)
        assert supervisor.restarts == {"scheduler": len(ends) - 1}
        keeping.cancel()

    assert {line["failures_in_a_row"] for line in play(scenario)} == {1}


@fault(
    "part that ends",
    "whole exporter",
    "If an engine, the scheduler or the thread of the state file fails six times in a row, the exporter ends with "
    "exit code 70.",
)
def test_vital_part_that_keeps_failing_ends_the_exporter() -> None:
    """After MAX_FAILURES in a row the group of all parts ends with one error, which names the part and the cause."""
    part, other = Part(*[fail] * 20), Part()

    async def scenario(supervisor: Supervisor, clock: ManualClock) -> None:
        async def run() -> None:
            async with supervisor.group() as tasks:
                tasks.create_task(supervisor.keep("scheduler", part.run, is_vital=True))
                tasks.create_task(supervisor.keep("mailer", other.run))

        running = asyncio.create_task(run())
        await clock.advance(60.0)
        with pytest.raises(PartFailedError) as caught:
            await running
        assert str(caught.value).startswith(
            f"the part scheduler failed {MAX_FAILURES} times in a row, the last time with: ValueError: a fault; "
        )
        assert caught.value.exit_code == 70

    assert len(play(scenario)) == MAX_FAILURES - 1


def test_thread_that_has_ended_is_restarted() -> None:
    """It is noticed within a second, and the log says what ended it."""
    thread = ScriptedThread()

    async def scenario(supervisor: Supervisor, clock: ManualClock) -> None:
        keeping = asyncio.create_task(supervisor.keep_thread("syn engine", thread))
        await clock.advance(100.0)
        thread.death = MemoryError()
        await clock.advance(THREAD_CHECK_INTERVAL)
        assert supervisor.down == {"syn engine"}
        await clock.advance(MIN_PAUSE)
        assert (thread.restarts, supervisor.restarts, supervisor.down) == (1, {"syn engine": 1}, frozenset())
        keeping.cancel()

    (line,) = play(scenario)
    assert line["why"] == "EndedError: its thread has ended: MemoryError"


def test_thread_that_the_system_does_not_start_is_tried_again() -> None:
    """A lack of threads is a failure like any other: pauses grow, and the exporter ends only if it lasts."""
    thread = ScriptedThread(refused=2)

    async def scenario(supervisor: Supervisor, clock: ManualClock) -> None:
        keeping = asyncio.create_task(supervisor.keep_thread("syn engine", thread))
        await settle()
        thread.death = SystemExit()
        await clock.advance(20.0)
        assert (thread.restarts, supervisor.restarts) == (1, {"syn engine": 3})
        keeping.cancel()

    assert [line["why"].partition(":")[0] for line in play(scenario)] == [
        "EndedError",
        "NoThreadError",
        "NoThreadError",
    ]


def test_task_that_fails_once_ends_nothing() -> None:
    """What is done once is logged if it fails."""

    async def scenario(supervisor: Supervisor, _: ManualClock) -> None:
        async def work() -> None:
            fail()

        await supervisor.attempt("mailer", work())

    (line,) = play(scenario)
    assert (line["part"], line["why"]) == ("mailer", "ValueError: a fault")
