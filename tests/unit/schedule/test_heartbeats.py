"""What the monitor reports to the watchdog."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from portspec.schedule.monitor import SCAN_PATIENCE
from tests.unit.factories import settle, target
from tests.unit.schedule.test_monitor import Scene, ScriptedExaminer, hosts

if TYPE_CHECKING:
    import pytest


def beats(scene: Scene) -> tuple[float | None, float | None]:
    """Return the beats of the scheduler and of the scans."""
    scheduler, scans = scene.monitor.heartbeats()
    assert (scheduler.part, scheduler.patience) == ("scheduler", 0.0)
    assert (scans.part, scans.patience) == ("scans", SCAN_PATIENCE)
    return scheduler.beat, scans.beat


async def end_task(name: str) -> None:
    """End the task of a coroutine silently, as a cancellation that goes astray does."""
    (task,) = (task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == name)  # type: ignore[union-attr]
    task.cancel()
    await settle()


def test_nothing_is_due_between_the_rounds() -> None:
    """An idle monitor has no beat, for as long as it is idle, and also just before a round begins."""
    scene = Scene(*hosts(3, 1000.0))

    async def scenario() -> None:
        async with scene.running():
            await scene.clock.advance(2.0)
            for _ in range(9):
                assert beats(scene) == (None, None)
                await scene.clock.advance(100.0)

    asyncio.run(scenario())


def test_scans_that_end_are_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scan that ends changes the beat of the scans, also without a probe, as of names that do not resolve."""
    monkeypatch.setattr(ScriptedExaminer, "probes_sent", 0)
    scene = Scene(*hosts(5, 1000.0), places=1)

    async def scenario() -> None:
        async with scene.running():
            seen = []
            for _ in range(4):
                await scene.clock.advance(1.0)
                scheduler, scans = beats(scene)
                assert scheduler is None
                seen.append(scans)
            assert None not in seen
            assert len(set(seen)) == 4

    asyncio.run(scenario())


def test_scan_that_neither_probes_nor_ends_is_no_progress() -> None:
    """A scan that stands still keeps the beat of the scans; rounds that are left out meanwhile do not change it."""
    scene = Scene(*hosts(1, 100.0), seconds={"host0": 10_000.0})

    async def scenario() -> None:
        async with scene.running():
            await scene.clock.advance(1.0)
            _, begun = beats(scene)
            assert begun is not None
            for _ in range(30):
                await scene.clock.advance(33.0)
                assert beats(scene) == (None, begun)
            assert scene.monitor.snapshot.overruns > 5

    asyncio.run(scenario())


def test_long_scan_that_probes_is_progress() -> None:
    """A scan that takes longer than any patience changes the beat with each probe."""
    scene = Scene(*hosts(1, 100.0), seconds={"host0": 10_000.0})

    async def scenario() -> None:
        async with scene.running():
            await scene.clock.advance(1.0)
            _, before = beats(scene)
            scene.examiner.began.append(("host0", 1.0))  # each entry counts as a thousand probes
            assert beats(scene)[1] not in (None, before)

    asyncio.run(scenario())


def check_scheduler_stops(name: str, scene: Scene) -> None:
    """Check that the scheduler has one constant beat from when it should have done something, once a task is gone."""

    async def scenario() -> None:
        async with scene.running():
            await scene.clock.advance(5.0)
            await end_task(name)
            assert beats(scene)[0] is None
            await scene.clock.advance(200.0)
            due, _ = beats(scene)
            assert due is not None
            await scene.clock.advance(1000.0)
            assert beats(scene)[0] == due

    asyncio.run(scenario())


def test_rounds_that_do_not_begin_are_no_progress() -> None:
    """If the task that begins rounds is gone, the scheduler is behind once the next round is due."""
    check_scheduler_stops("Monitor._keep", Scene(*hosts(2, 100.0)))


def test_rounds_of_one_interval_that_do_not_begin_are_no_progress() -> None:
    """Other intervals, whose rounds begin, do not hide that."""
    scene = Scene(target("often", interval=10.0), target("rare", interval=100.0))

    async def scenario() -> None:
        async with scene.running():
            await scene.clock.advance(5.0)
            rare = scene.monitor._groups[100.0].keeper
            assert rare
            rare.cancel()
            await scene.clock.advance(300.0)
            assert beats(scene)[0] == 1100.0
            assert len(scene.times("often")) > 20

    asyncio.run(scenario())


def test_extra_scans_that_do_not_begin_are_no_progress() -> None:
    """If the task that waits for the next extra scan is gone, the scheduler is behind once that scan is due."""
    scene = Scene(*hosts(1, 10_000.0))
    scene.monitor.apply(hosts(1, 10_000.0), recheck=100.0)
    scene.examiner.found["host0"] = (8080,)
    check_scheduler_stops("ExtraScans._wake", scene)
