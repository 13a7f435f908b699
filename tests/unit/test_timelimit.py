"""A host whose scan takes longer than it may: what is told of it, and what counts."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from portspec.clock import TimeLimit
from portspec.inventory import Resolution
from portspec.limit import Limit
from portspec.ports import PortSet
from portspec.scan import Failure, Observation, Reason
from portspec.scan.sharing import UNFINISHED, SharedScans
from portspec.schedule.examiner import LEAST_DURATION, Examiner
from portspec.state.verdict import Kind, Verdict
from tests.unit.factories import NOW, ScriptedEngine, ScriptedResolver, all_closed, seen, settle, target

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.state.snapshot import ScanResult

V4, V6 = "192.0.2.7", "2001:db8::7"
WEB = target("web1", expect=[22], scan=[80, 443], address=None)


class Timer:
    """What a timer of the event loop is to who cancels it."""

    def __init__(self, timers: Timers, at: float, call: Callable[[], object]) -> None:
        self.at = at
        self.call = call
        self._timers = timers

    def cancel(self) -> None:
        """Never call it."""
        if self in self._timers.set:
            self._timers.set.remove(self)


class Timers:
    """Timers that the test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.set: list[Timer] = []

    def later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Set a timer."""
        timer = Timer(self, self.now + seconds, call)
        self.set.append(timer)
        return timer

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        for timer in sorted([timer for timer in self.set if timer.at <= self.now], key=lambda timer: timer.at):
            timer.cancel()
            timer.call()
            await settle()


class Scene:
    """An examiner of a name with two addresses, with timers that the test lets pass."""

    def __init__(
        self, *, confirm: int = 1, max_duration: float | None = 100.0, confirmer: ScriptedEngine | None = None
    ) -> None:
        self.engine = ScriptedEngine()
        self.timers = Timers()
        self.limit = Limit(1)
        self.examiner = Examiner(
            SharedScans(self.engine),
            ScriptedResolver({"web1": Resolution((V4, V6))}),
            self.limit,
            confirm=confirm,
            confirmer=SharedScans(confirmer) if confirmer else None,
            max_duration=max_duration,
            later=self.timers.later,  # type: ignore[arg-type]
            rng=random.Random(1),  # noqa: S311
            wall_clock=lambda: NOW,
        )

    def partly(self, number: int, *ports: int, is_open: tuple[int, ...] = ()) -> None:
        """Have the engine tell that these ports of a job were seen."""
        (address,) = self.engine.jobs[number].addresses
        self.engine.seen_so_far[number] = Observation(
            (replace(seen(address, scanned=ports, is_open=is_open), failure=UNFINISHED),), 90.0, 10
        )

    async def settle(self) -> list[int]:
        """Answer for ports that were drawn at random, which are closed; returns the numbers of the other jobs."""
        await settle()
        known = PortSet.of([22, 80, 443])
        drawn = [number for number, job in enumerate(self.engine.jobs) if not job.ports <= known]
        for number in drawn:
            if not self.engine.futures[number].done():
                self.engine.finish(number)
        await settle()
        return [number for number in range(len(self.engine.jobs)) if number not in drawn]

    async def is_over(self, task: asyncio.Task[ScanResult]) -> ScanResult:
        """Return the result of an examination that has ended, and left nothing behind."""
        await settle()
        assert task.done()
        assert self.limit.held == 0
        assert self.engine.running == 0
        assert self.timers.set == []
        return task.result()


def test_host_whose_time_is_over_is_unknown_and_tells_how_far_it_came() -> None:
    """The scan of both addresses ends, and the failure has the ports that were scanned, of all."""

    async def scenario() -> None:
        scene = Scene()
        task = asyncio.create_task(scene.examiner.examine(WEB))
        await settle()
        scene.engine.finish(0, lambda _: Observation((seen(V4, scanned=[22, 80, 443], is_open=[22]),), 1.0, 3))
        scene.partly(1, 80)
        await scene.timers.advance(89.0)
        assert not task.done()
        await scene.timers.advance(1.0)
        result = await scene.is_over(task)
        assert result.judgement.verdict is Verdict.UNKNOWN
        assert result.judgement.failure == Failure(
            Reason.TIMEOUT, "the scan was stopped after 1 min 40 s: 4 of 6 ports of 2 addresses were scanned"
        )
        assert [item.failure is None for item in result.addresses] == [True, False]

    asyncio.run(scenario())


def test_time_runs_from_the_first_probe_on() -> None:
    """A host that waits for its turn loses none of its time."""

    async def scenario() -> None:
        scene = Scene()
        await scene.limit.acquire()
        task = asyncio.create_task(scene.examiner.examine(WEB))
        await scene.timers.advance(1000.0)
        assert scene.engine.jobs == []
        scene.limit.release()
        await settle()
        await scene.timers.advance(89.0)
        assert not task.done()
        await scene.timers.advance(1.0)
        await scene.is_over(task)

    asyncio.run(scenario())


@pytest.mark.parametrize(("interval", "seconds"), [(10.0, LEAST_DURATION), (3600.0, 3600.0)])
def test_limit_is_the_interval_unless_it_is_configured(interval: float, seconds: float) -> None:
    """A host is scanned for its interval at most, and for a minute however short that is."""

    async def scenario() -> None:
        scene = Scene(max_duration=None)
        of = target("db1", interval=interval, address=V4)
        task = asyncio.create_task(scene.examiner.examine(of))
        await settle()
        assert max(timer.at for timer in scene.timers.set) == seconds
        task.cancel()
        await settle()
        assert scene.timers.set == []

    asyncio.run(scenario())


def test_deviation_that_was_seen_before_the_end_is_repeated_and_counts() -> None:
    """In the last tenth of its time a host is asked again for what deviates; what is seen again counts."""

    async def scenario() -> None:
        scene = Scene(confirm=2)
        task = asyncio.create_task(scene.examiner.examine(WEB))
        await settle()
        scene.partly(0, 22, 80, is_open=(22, 80))
        scene.partly(1)
        await scene.timers.advance(90.0)
        number = (await scene.settle())[2]
        again = scene.engine.jobs[number]
        assert (again.addresses, set(again.ports)) == ((V4,), {80, 22})
        scene.engine.finish(number, lambda job: Observation((seen(V4, scanned=job.ports, is_open=job.ports),), 1.0, 2))
        result = await scene.is_over(task)
        assert result.judgement.verdict is Verdict.OUT_OF_SPEC
        assert [(item.port, item.kind) for item in result.judgement.deviations] == [(80, Kind.UNEXPECTED)]
        assert result.judgement.failure
        assert result.judgement.failure.reason is Reason.TIMEOUT

    asyncio.run(scenario())


def test_deviation_that_could_not_be_repeated_in_time_does_not_count() -> None:
    """What was seen once, and ought to be seen twice, is not known when the time is over."""

    async def scenario() -> None:
        scene = Scene(confirm=2)
        task = asyncio.create_task(scene.examiner.examine(WEB))
        await settle()
        for number, address in enumerate((V4, V6)):
            whole = seen(address, scanned=[22, 80, 443], is_open=[22, 80, 443])
            scene.engine.finish(number, lambda _, whole=whole: Observation((whole,), 1.0, 3))  # type: ignore[misc]
        *_, third, fourth = await scene.settle()
        scene.engine.finish(third, lambda job: Observation((seen(V4, scanned=job.ports, is_open=[22, 80]),), 1.0, 2))
        scene.partly(fourth, 80, is_open=(80,))
        await scene.timers.advance(100.0)
        result = await scene.is_over(task)
        assert [(item.address, item.port) for item in result.judgement.deviations] == [(V4, 80), (V6, 80)]
        assert set(result.addresses[1].scanned) == {22, 80}
        assert result.judgement.failure
        assert "5 of 6 ports" in result.judgement.failure.detail

    asyncio.run(scenario())


def test_open_port_to_which_no_connection_was_tried_in_time_does_not_count() -> None:
    """With a confirmer, a port that answered a SYN is not known before a connection was tried."""

    async def scenario() -> None:
        confirmer = ScriptedEngine()
        scene = Scene(confirmer=confirmer)
        of = target("db1", allow=[22], scan=[80, 443], address=V4)
        task = asyncio.create_task(scene.examiner.examine(of))
        await settle()
        scene.engine.finish(0, lambda job: Observation((seen(V4, scanned=job.ports, is_open=[22, 80, 443]),), 1.0, 3))
        await scene.settle()
        partly = replace(seen(V4, scanned=[80], is_open=[80]), failure=UNFINISHED)
        confirmer.seen_so_far[0] = Observation((partly,), 1.0, 1)
        await scene.timers.advance(100.0)
        result = await scene.is_over(task)
        await settle()
        assert confirmer.running == 0
        (item,) = result.addresses
        assert (set(item.scanned), set(item.open), set(item.unconfirmed)) == ({22, 80}, {22, 80}, set())
        assert [deviation.port for deviation in result.judgement.deviations] == [80]

    asyncio.run(scenario())


def test_host_that_is_done_in_time_has_no_failure() -> None:
    """A scan that ends before its limit is a scan as any other, and its timers are gone."""

    async def scenario() -> None:
        scene = Scene()
        task = asyncio.create_task(scene.examiner.examine(target("db1", address=V4)))
        await settle()
        scene.engine.finish(0, all_closed)
        result = await scene.is_over(task)
        assert result.judgement.verdict is Verdict.IN_SPEC

    asyncio.run(scenario())


def test_recheck_that_takes_too_long_changes_nothing() -> None:
    """What could not be looked at again in time stays as it was."""

    async def scenario() -> None:
        scene = Scene()
        of = target("db1", scan=[80], address=V4)
        task = asyncio.create_task(scene.examiner.examine(of))
        await settle()
        scene.engine.finish(0, lambda job: Observation((seen(V4, scanned=job.ports, is_open=[80]),), 1.0, 1))
        await scene.settle()
        result = await scene.is_over(task)
        recheck = asyncio.create_task(scene.examiner.recheck(of, result))
        await settle()
        await scene.timers.advance(100.0)
        assert recheck.result() == result.addresses
        assert (scene.limit.held, scene.timers.set) == (0, [])

    asyncio.run(scenario())


def test_limit_of_time_begins_once() -> None:
    """A second begin() gives no more time; after close() it has no end."""

    async def scenario() -> None:
        timers = Timers()
        limit = TimeLimit(10.0, later=timers.later)  # type: ignore[arg-type]
        limit.begin()
        await timers.advance(9.0)
        limit.begin()
        assert (limit.nearly_over.done(), limit.over.done()) == (True, False)
        limit.close()
        await timers.advance(9.0)
        assert not limit.over.done()
        assert timers.set == []

    asyncio.run(scenario())
