from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from portspec.examine import Examiner
from portspec.monitor import JITTER, MAX_JITTER, Monitor, SystemClock
from portspec.snapshot import ScanResult, Snapshot
from tests.unit.factories import ManualClock, ScriptedEngine, ScriptedResolver, result, seen, settle, target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from portspec.inventory import Target

BEGIN = 1000.0


class ScriptedExaminer(Examiner):
    """Takes as many seconds for a host as its script says (default: one), and notes each scan's begin and end."""

    def __init__(self, clock: ManualClock, seconds: Mapping[str, float] | None = None) -> None:
        super().__init__(ScriptedEngine(), ScriptedResolver(), parallel=1)
        self.began: list[tuple[str, float]] = []
        self.cancelled: list[str] = []
        self.busy: Counter[str] = Counter()
        self.most_at_once = 0
        self._clock = clock
        self._seconds = seconds or {}

    @property
    def probes_sent(self) -> int:
        """Count a thousand probes for each scan."""
        return 1000 * len(self.began)

    @property
    def answers_dropped(self) -> int:
        """Count ten dropped answers for each scan."""
        return 10 * len(self.began)

    async def examine(self, target: Target) -> ScanResult:
        """Find all ports closed, after a while."""
        host = target.host
        self.began.append((host, self._clock.now() - BEGIN))
        self.busy[host] += 1
        assert self.busy[host] == 1, f"{host} is scanned twice at once"
        self.most_at_once = max(self.most_at_once, self.busy.total())
        try:
            await self._clock.sleep(self._seconds.get(host, 1.0))
        except asyncio.CancelledError:
            self.cancelled.append(host)
            raise
        finally:
            self.busy[host] -= 1
        return result(target, seen(), at=self._clock.now())

    def times(self, host: str) -> list[float]:
        """Give when the scans of a host began, in seconds since the monitor did."""
        return [when for name, when in self.began if name == host]


class Scene:
    """A monitor with a clock and an examiner that the test drives."""

    def __init__(
        self, *targets: Target, seconds: Mapping[str, float] | None = None, places: int = 128, seed: int = 1
    ) -> None:
        self.clock = ManualClock(BEGIN)
        self.examiner = ScriptedExaminer(self.clock, seconds)
        self.monitor = Monitor(
            targets,
            self.examiner,
            places=places,
            clock=self.clock,
            rng=random.Random(seed),  # noqa: S311
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run the monitor."""
        task = asyncio.create_task(self.monitor.run())
        await settle()
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def run(self, *seconds: float) -> None:
        """Run the monitor for so many seconds."""

        async def scenario() -> None:
            async with self.running():
                for part in seconds:
                    await self.clock.advance(part)

        asyncio.run(scenario())


def hosts(count: int, interval: float = 100.0) -> Sequence[Target]:
    """Make hosts of one interval."""
    return [target(f"host{number}", interval=interval) for number in range(count)]


def test_first_round_begins_at_once_for_all_hosts() -> None:
    """When the monitor starts, every host is scanned without waiting."""
    scene = Scene(*hosts(20), target("rare", interval=86400.0))
    scene.run(0.0)
    assert sorted(scene.examiner.began) == sorted((host, 0.0) for host in scene.monitor.snapshot.hosts)


@pytest.mark.parametrize("interval", [10.0, 100.0, 3600.0, 86400.0])
def test_each_host_is_scanned_again_after_its_interval_within_jitter(interval: float) -> None:
    """The n-th scan of a host begins n intervals after the start, up to a tenth of the interval or a minute later."""
    scene = Scene(*hosts(10, interval))
    scene.run(5 * interval - 0.5)
    jitter = min(interval * JITTER, MAX_JITTER)
    for host in scene.monitor.snapshot.hosts:
        times = scene.examiner.times(host)
        assert len(times) == 5
        for number, when in enumerate(times[1:], start=1):
            assert number * interval <= when <= number * interval + jitter


def test_hosts_of_a_round_do_not_begin_in_one_moment() -> None:
    """After the first round the hosts are spread over the jitter, in another order each round."""
    scene = Scene(*hosts(50))
    scene.run(299.0)
    rounds = [scene.examiner.began[start : start + 50] for start in (0, 50, 100)]
    for number in (1, 2):
        assert len({when for _, when in rounds[number]}) == 50
        assert max(when for _, when in rounds[number]) - number * 100 > 5.0
    orders = [[host for host, _ in one] for one in rounds]
    assert orders[0] != orders[1] != orders[2]


def test_each_interval_has_rounds_of_its_own() -> None:
    """Hosts of two intervals are two groups: each is scanned as often as its interval says, each round is counted."""
    scene = Scene(target("often", interval=10.0), target("rare", interval=35.0))
    scene.run(99.0)
    assert [int(when) // 10 for when in scene.examiner.times("often")] == list(range(10))
    assert [int(when) // 35 for when in scene.examiner.times("rare")] == [0, 1, 2]
    assert scene.monitor.snapshot.rounds == 13
    assert scene.monitor.snapshot.overruns == 0


def test_finished_scan_is_in_the_snapshot_at_once() -> None:
    """The snapshot has each result as soon as it is there, with the engines' totals, not at the end of the round."""
    scene = Scene(target("quick", interval=100.0), target("slow", interval=100.0), seconds={"slow": 50.0})
    scene.run(2.0)
    states = scene.monitor.snapshot.hosts
    assert states["quick"].latest is not None
    assert states["slow"].latest is None
    assert (scene.monitor.snapshot.probes_sent, scene.monitor.snapshot.answers_dropped) == (2000, 20)
    assert scene.monitor.snapshot.rounds == 0


def test_snapshot_names_every_host_before_anything_ran() -> None:
    """A monitor that has not begun shows every host, unscanned, in the order of the configuration."""
    known = hosts(5)
    scene = Scene(*known)
    assert scene.monitor.snapshot == Snapshot.of(known)
    assert list(scene.monitor.snapshot.hosts) == [of.host for of in known]


def test_host_that_is_still_scanned_is_left_out_of_the_round() -> None:
    """A host that takes longer than its interval is never scanned twice at once; the others keep their pace."""
    scene = Scene(target("slow", interval=100.0), target("quick", interval=100.0), seconds={"slow": 250.0})
    scene.run(590.0)
    assert len(scene.examiner.times("quick")) == 6
    slow = scene.examiner.times("slow")
    assert [int(when) // 100 for when in slow] == [0, 3]


def test_overrun_is_counted_and_logged_once_for_each_round() -> None:
    """A round that leaves out hosts counts one overrun and logs one warning with their number, whatever that is."""
    slow = {f"host{number}": 250.0 for number in range(3)}
    scene = Scene(*hosts(5), seconds=slow)
    with capture_logs() as logs:
        scene.run(290.0)
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [(entry["interval_seconds"], entry["hosts_left_out"]) for entry in warnings] == [(100.0, 3), (100.0, 3)]
    assert scene.monitor.snapshot.overruns == 2


def test_round_that_begins_after_all_hosts_are_done_is_no_overrun() -> None:
    """Hosts that take nearly the whole interval cause no overrun."""
    scene = Scene(*hosts(3), seconds={f"host{number}": 89.0 for number in range(3)})
    scene.run(1000.0)
    assert scene.monitor.snapshot.overruns == 0


def test_finished_round_is_counted_and_logged() -> None:
    """A round is finished when its last host is; it is logged with the verdicts of its hosts."""
    rounds = []
    for seconds in (6.9, 7.1):
        scene = Scene(*hosts(3), seconds={"host0": 7.0})
        with capture_logs() as logs:
            scene.run(seconds)
        rounds.append(scene.monitor.snapshot.rounds)
    assert rounds == [0, 1]
    (entry,) = [entry for entry in logs if entry["event"] == "round finished"]
    assert (entry["hosts"], entry["in_spec"], entry["out_of_spec"], entry["unknown"]) == (3, 3, 0, 0)
    assert (entry["interval_seconds"], entry["duration_seconds"]) == (100.0, 7.0)


def test_round_in_which_every_host_was_left_out_is_not_completed() -> None:
    """A round that scanned nothing does not count as a completed round."""
    scene = Scene(*hosts(2), seconds={"host0": 250.0, "host1": 250.0})
    scene.run(240.0)
    assert scene.monitor.snapshot.rounds == 0
    assert scene.monitor.snapshot.overruns == 2


def test_rounds_missed_in_a_pause_are_not_made_up() -> None:
    """After the machine slept through many intervals one round follows, and the next ones keep the old rhythm."""
    scene = Scene(*hosts(4))

    async def scenario() -> None:
        async with scene.running():
            await scene.clock.advance(50.0)
            await scene.clock.freeze(1000.0)  # to 1050
            await scene.clock.advance(49.0)
            assert all(len(scene.examiner.times(host)) == 2 for host in scene.monitor.snapshot.hosts)
            await scene.clock.advance(100.0)

    asyncio.run(scenario())
    for host in scene.monitor.snapshot.hosts:
        _, woken, following = scene.examiner.times(host)
        assert 1050.0 <= woken <= 1060.0
        assert 1100.0 <= following <= 1110.0
    assert scene.monitor.snapshot.overruns == 0


def test_no_more_hosts_are_in_progress_than_there_are_places() -> None:
    """With five places twenty hosts are scanned five at a time, and all of them are."""
    scene = Scene(*hosts(20), places=5)
    scene.run(4.5)
    assert scene.examiner.most_at_once == 5
    assert len(scene.examiner.began) == 20
    assert scene.monitor.snapshot.is_complete


def test_hosts_that_wait_for_a_place_are_not_queued_twice() -> None:
    """A round that did not get to all of its hosts goes on with them, and the next one takes the others."""
    scene = Scene(*hosts(6), places=1, seconds={f"host{number}": 30.0 for number in range(6)})
    scene.run(1000.0)
    each = Counter(host for host, _ in scene.examiner.began)
    assert each.total() == 34
    assert min(each[host] for host in scene.monitor.snapshot.hosts) >= 4
    assert scene.monitor.snapshot.overruns > 0
    assert scene.examiner.most_at_once == 1


def test_cancelling_the_monitor_cancels_its_scans() -> None:
    """When run() is cancelled all scans in progress are, before it returns, and nothing is left running."""
    scene = Scene(*hosts(5), seconds={f"host{number}": 500.0 for number in range(5)})

    async def scenario() -> int:
        async with scene.running() as task:
            await scene.clock.advance(10.0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return len(asyncio.all_tasks()) - 1

    assert asyncio.run(scenario()) == 0
    assert sorted(scene.examiner.cancelled) == sorted(scene.monitor.snapshot.hosts)


def test_same_randomness_gives_the_same_rounds() -> None:
    """Order and jitter come from the given source of randomness alone."""
    runs = []
    for seed in (1, 1, 2):
        scene = Scene(*hosts(10), seed=seed)
        scene.run(350.0)
        runs.append(scene.examiner.began)
    assert runs[0] == runs[1] != runs[2]


def test_system_clock_is_monotonic_and_sleeps() -> None:
    """The clock of the real monitor moves on while it sleeps."""

    async def scenario() -> float:
        clock = SystemClock()
        before = clock.now()
        await clock.sleep(0.01)
        return clock.now() - before

    assert asyncio.run(scenario()) >= 0.01


def test_names_that_hang_hold_up_no_address() -> None:
    """Hosts with an address are scanned while names, for which no name server answers, take all their places."""
    names = [target(f"name{number}", address=None, interval=100.0) for number in range(3)]
    scene = Scene(*names, *hosts(4), places=1, seconds={name.host: 1e6 for name in names})
    scene.run(10.0)
    began = Counter(host for host, _ in scene.examiner.began)
    assert {host: began[host] for host in began if host.startswith("host")} == {
        f"host{number}": 1 for number in range(4)
    }
    assert sum(host.startswith("name") for host in began) == 1
    assert all(scene.monitor.snapshot.hosts[f"host{number}"].latest for number in range(4))
