from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from portspec.limit import Limit
from portspec.scan import Failure, Reason
from portspec.scan.sharing import SharedScans
from portspec.schedule.examiner import Examiner
from portspec.schedule.monitor import CLOCK_CHECK_INTERVAL, JITTER, MAX_JITTER, Monitor, SystemClock
from portspec.state.snapshot import HostState, ScanResult, Snapshot
from portspec.state.verdict import Verdict
from tests.faults.registry import fault
from tests.unit.factories import (
    MODEST,
    NOW,
    ManualClock,
    ManualWallClock,
    ScriptedEngine,
    ScriptedResolver,
    exception,
    result,
    seen,
    settle,
    target,
    window,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from portspec.inventory import Target

BEGIN = 1000.0


class ScriptedExaminer(Examiner):
    """Takes as many seconds for a host as its script says (default: one), and notes each scan's begin and end.

    A scan finds the ports of `found` open.
    """

    def __init__(
        self, clock: ManualClock, wall: ManualWallClock | None = None, seconds: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(SharedScans(ScriptedEngine()), ScriptedResolver(), Limit(1))
        self.began: list[tuple[str, float]] = []
        self.scanned: list[Target] = []
        self.earlier: list[ScanResult | None] = []
        self.fresh: list[bool] = []
        self.shared: set[str] = set()  # hosts that wait for the scans of others only
        self.cancelled: list[str] = []
        self.busy: Counter[str] = Counter()
        self.most_at_once = 0
        self.found: dict[str, tuple[int, ...]] = {}
        self.seconds = dict(seconds or {})
        self._clock = clock
        self._wall = wall or ManualWallClock(clock)

    @property
    def probes_sent(self) -> int:
        """Count a thousand probes for each scan."""
        return 1000 * len(self.began)

    @property
    def answers_dropped(self) -> int:
        """Count ten dropped answers for each scan."""
        return 10 * len(self.began)

    async def examine(
        self,
        target: Target,
        earlier: ScanResult | None = None,
        *,
        is_fresh: bool = False,
        is_urgent: bool = False,  # noqa: ARG002 - it concerns the places of the real one
        round_began: float | None = None,  # noqa: ARG002 - and this what it shares
        silenced: Collection[str] = (),  # noqa: ARG002 - and this what it believes
        pace: float | None = None,  # noqa: ARG002 - and this how fast it asks
        time_limit: float | None = None,  # noqa: ARG002 - and this is /probe's
        give_way: Callable[[], object] = lambda: None,
    ) -> ScanResult:
        """Find all ports closed but those that the script has, after a while."""
        host = target.host
        self.began.append((host, self._clock.now() - BEGIN))
        self.scanned.append(target)
        self.earlier.append(earlier)
        self.fresh.append(is_fresh)
        if host in self.shared:
            give_way()
        self.busy[host] += 1
        assert self.busy[host] == 1, f"{host} is scanned twice at once"
        self.most_at_once = max(self.most_at_once, self.busy.total())
        try:
            await self._clock.sleep(self.seconds.get(host, 1.0))
        except asyncio.CancelledError:
            self.cancelled.append(host)
            raise
        finally:
            self.busy[host] -= 1
        return result(target, seen(is_open=self.found.get(host, ())), at=self._wall())

    def times(self, host: str) -> list[float]:
        """Return when the scans of a host began, in seconds since the monitor did."""
        return [when for name, when in self.began if name == host]


class Scene:
    """A monitor with clocks and an examiner that the test drives; `told` is what on_state was told."""

    def __init__(
        self,
        *targets: Target,
        seconds: Mapping[str, float] | None = None,
        places: int = 128,
        restored: Mapping[str, HostState] | None = None,
        seed: int = 1,
    ) -> None:
        self.clock = ManualClock(BEGIN)
        self.wall = ManualWallClock(self.clock)
        self.examiner = ScriptedExaminer(self.clock, self.wall, seconds)
        self.told: list[tuple[HostState, HostState]] = []
        self.monitor = Monitor(
            targets,
            self.examiner,
            places=places,
            restored=restored,
            on_state=lambda before, after: self.told.append((before, after)),
            clock=self.clock,
            wall_clock=self.wall,
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

    def run(self, *steps: float | Callable[[], object]) -> None:
        """Run the monitor for so many seconds, and call what is called in between."""

        async def scenario() -> None:
            async with self.running():
                for step in steps:
                    if callable(step):
                        step()
                        await settle()
                    else:
                        await self.clock.advance(step)

        asyncio.run(scenario())

    def apply(self, *targets: Target, **others: Any) -> Callable[[], None]:
        """Return what makes the monitor go on with these targets."""
        return lambda: self.monitor.apply(targets, **others)

    def state(self, host: str = "web1") -> HostState:
        """Return what is known of a host now."""
        return self.monitor.snapshot.hosts[host]

    def times(self, host: str = "web1") -> list[float]:
        """Return when the scans of a host began, in seconds since the monitor did."""
        return self.examiner.times(host)


def hosts(count: int, interval: float = 100.0) -> Sequence[Target]:
    """Make hosts of one interval."""
    return [target(f"host{number}", interval=interval) for number in range(count)]


def test_first_round_begins_at_once_for_all_hosts() -> None:
    """When the monitor starts, every host is scanned without waiting."""
    scene = Scene(*hosts(20), target("rare", interval=86400.0))
    scene.run(0.0)
    assert sorted(scene.examiner.began) == sorted((host, 0.0) for host in scene.monitor.snapshot.hosts)


@pytest.mark.parametrize("interval", [10.0, 100.0, 3600.0])
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


def test_rounds_under_way_are_told_with_how_many_of_that_interval_have_ended() -> None:
    """A round is under way while any host of it is scanned; scans beside the rounds have no interval."""
    scene = Scene(target("a", interval=60), target("b", interval=1000), seconds={"a": 10, "b": 100})
    told: list[dict[float | None, int]] = []

    def note() -> None:
        told.append(dict(scene.monitor.under_way))

    scene.run(5, note, 63, note, 60, note, lambda: scene.monitor.scan_now("b"), 1, note)
    assert told == [{60.0: 0, 1000.0: 0}, {60.0: 1, 1000.0: 0}, {60.0: 2}, {60.0: 2, None: 0}]


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


def test_a_verdict_that_changes_is_logged() -> None:
    """Whatever level the line of the scan itself has, and not at the first scan."""
    scene = Scene(*hosts(2))
    with capture_logs() as logs:
        scene.run(50.0, lambda: scene.examiner.found.update(host0=(80,)), 400.0)
    changes = [entry for entry in logs if entry["event"] == "verdict changed"]
    assert [(entry["host"], entry["before"], entry["after"]) for entry in changes] == [
        ("host0", "in_spec", "out_of_spec")
    ]


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


@fault("name server", "scans", "Hosts that conf.yml has by address are scanned as always.")
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


# --- states -----------------------------------------------------------------------------------------------------------


def test_state_is_told_before_and_after_each_scan() -> None:
    """Whoever listens gets each finished scan once: the state before it and the one after it, as in the snapshot."""
    of = target("web1", interval=100.0)
    scene = Scene(of)
    scene.run(50.0, lambda: scene.examiner.found.update(web1=(80,)), 100.0)
    (first, second), (third, fourth) = scene.told
    assert first == HostState(of)
    assert second is third
    assert fourth is scene.state()
    assert [state.verdict for state in (second, fourth)] == [Verdict.IN_SPEC, Verdict.OUT_OF_SPEC]


def test_scan_that_was_cancelled_is_not_told() -> None:
    """A scan that did not finish has no state after it."""
    scene = Scene(target("web1"), target("web2"), seconds={"web1": 30.0})
    scene.run(5.0, scene.apply(target("web2")), 30.0)
    assert {before.host for before, _ in scene.told} == {"web2"}


def test_state_from_before_the_start_is_served_until_the_first_scan() -> None:
    """What is restored is in the snapshot before anything ran; hosts of which nothing is restored are unscanned."""
    of = target("web1")
    restored = HostState(of).after(result(of, seen(is_open=[80]), at=NOW - 3600))
    scene = Scene(of, target("web2"), restored={"web1": restored, "gone": HostState(target("gone"))})
    assert scene.state() is restored
    assert scene.state("web2") == HostState(target("web2"))
    assert list(scene.monitor.snapshot.hosts) == ["web1", "web2"]
    scene.run(2.0)
    assert scene.told[0][0] is restored or scene.told[1][0] is restored
    assert scene.state().last_change == NOW + 1


def test_examiner_gets_the_last_conclusive_result() -> None:
    """A scan is told what the one before it found, the one from before the start for the first; none is None."""
    of = target("web1", interval=100.0)
    conclusive = result(of, seen(is_open=[80]), at=NOW - 3600)
    unknown = result(of, at=NOW - 60, failure=Failure(Reason.RESOLVE, "does not resolve"))
    scene = Scene(of, restored={"web1": HostState(of).after(conclusive).after(unknown)})
    scene.run(150.0)
    assert scene.examiner.earlier == [conclusive, scene.told[0][1].latest]
    fresh = Scene(of)
    fresh.run(2.0)
    assert fresh.examiner.earlier == [None]


# --- exceptions -------------------------------------------------------------------------------------------------------


def excepted_web(until: float, *, interval: float = 1000.0) -> Target:
    """Make a host of which port 80 is accepted until so many seconds after the start."""
    return target("web1", interval=interval, exceptions=[exception(80, until=NOW + until)])


def found_open(scene: Scene) -> Scene:
    """Let port 80 of the host be open."""
    scene.examiner.found["web1"] = (80,)
    return scene


def verdicts(scene: Scene, *steps: float | Callable[[], object]) -> list[Verdict]:
    """Run the monitor, and give the verdict on the host after each step of seconds."""
    seen_ones: list[Verdict] = []
    parts: list[float | Callable[[], object]] = []
    for step in steps:
        parts.append(step)
        if not callable(step):
            parts.append(lambda: seen_ones.append(scene.state().verdict))
    scene.run(*parts)
    return seen_ones


def test_deviation_counts_from_the_moment_at_which_its_exception_lapses() -> None:
    """The host is in spec until then, out of spec from that moment on, and no scan is needed for it."""
    scene = found_open(Scene(excepted_web(400.0)))
    assert verdicts(scene, 399.0, 0.875, 0.125) == [Verdict.IN_SPEC, Verdict.IN_SPEC, Verdict.OUT_OF_SPEC]
    assert scene.times() == [0.0]
    assert scene.state().excepted == ()
    assert [item.port for item in scene.state().deviations] == [80]


def test_each_of_several_exceptions_lapses_at_its_moment() -> None:
    """Exceptions that end one after the other are each looked at when they do."""
    of = target("web1", interval=1000.0, exceptions=[exception(22, until=NOW + 50), exception(80, until=NOW + 100)])
    scene = Scene(of)
    scene.examiner.found["web1"] = (22, 80)
    ports: list[list[int]] = []

    def look() -> None:
        ports.append([item.port for item in scene.state().deviations])

    scene.run(49.5, look, 0.5, look, 49.5, look, 0.5, look)
    assert ports == [[], [22], [22], [22, 80]]


def test_only_hosts_whose_exception_lapses_are_judged_anew() -> None:
    """The state of every other host stays the same object."""
    other = target("web2", interval=1000.0, exceptions=[exception(80, until=NOW + 500)])
    scene = found_open(Scene(excepted_web(100.0), other, target("web3", interval=1000.0)))
    states: list[HostState] = []
    scene.run(50.0, lambda: states.extend(scene.monitor.snapshot.hosts.values()), 100.0)
    now = list(scene.monitor.snapshot.hosts.values())
    assert [before is after for before, after in zip(states, now, strict=True)] == [False, True, True]


@fault("clock", "scans", "Scans begin when they would have begun, since intervals are measured by the monotonic clock.")
@pytest.mark.parametrize("days", [1, -1], ids=["forward", "back"])
def test_wall_clock_that_jumps_moves_no_scan(days: int) -> None:
    """When somebody sets the time a day forward or back, scans begin when they would have begun."""
    runs = []
    for jump in (0.0, days * 86400.0):
        scene = found_open(Scene(excepted_web(3600.0, interval=100.0), *hosts(3)))
        scene.run(150.0, partial(scene.wall.jump, jump), 500.0)
        runs.append(scene.examiner.began)
    assert runs[0] == runs[1]
    assert len(runs[0]) == 4 * 7


def test_wall_clock_that_jumps_past_the_end_of_an_exception_ends_it() -> None:
    """After the time was set a day forward, an exception that is over by then ends at the next look at the clock."""
    scene = found_open(Scene(excepted_web(3600.0)))
    assert verdicts(scene, 100.0, lambda: scene.wall.jump(86400.0), CLOCK_CHECK_INTERVAL) == [
        Verdict.IN_SPEC,
        Verdict.OUT_OF_SPEC,
    ]
    assert scene.times() == [0.0]


@fault("clock", "scans", "Exceptions are in force by the time of the wall clock, also after it was set back.")
def test_wall_clock_that_jumps_back_puts_an_exception_into_force_again() -> None:
    """An exception that had lapsed is in force again when the time is before its end, and ends once more."""
    scene = found_open(Scene(excepted_web(50.0, interval=1e6)))
    assert verdicts(
        scene,
        100.0,
        lambda: scene.wall.jump(-86400.0),
        CLOCK_CHECK_INTERVAL,
        86400.0 - 100.0,
        CLOCK_CHECK_INTERVAL + 50.0,
    ) == [Verdict.OUT_OF_SPEC, Verdict.IN_SPEC, Verdict.IN_SPEC, Verdict.OUT_OF_SPEC]
    assert scene.times() == [0.0]


def noting(scene: Scene, noted: list[bool]) -> Callable[[], None]:
    """Return what notes whether the host is under maintenance."""
    return lambda: noted.append(scene.state().maintenance is not None)


def test_maintenance_begins_and_ends_at_its_moments_without_a_scan() -> None:
    """The state tells it from the very moment on, the verdict stays, and whoever mails is told each time."""
    of = target("web1", interval=1000.0, maintenance=[window(NOW + 50, NOW + 100)])
    scene = found_open(Scene(of))
    noted: list[bool] = []
    look = noting(scene, noted)
    scene.run(49.5, look, 0.5, look, 49.5, look, 0.5, look)
    assert noted == [False, True, True, False]
    assert scene.times() == [0.0]
    assert [after.maintenance is not None for _, after in scene.told] == [False, True, False]
    assert {after.verdict for _, after in scene.told} == {Verdict.OUT_OF_SPEC}


def test_maintenance_ends_when_the_wall_clock_jumps_past_its_end() -> None:
    """After the time was set a day forward, it is over at the next look at the clock."""
    scene = found_open(Scene(target("web1", interval=1e6, maintenance=[window(-math.inf, NOW + 3600)])))
    noted: list[bool] = []
    look = noting(scene, noted)
    scene.run(100.0, look, lambda: scene.wall.jump(86400.0), CLOCK_CHECK_INTERVAL, look)
    assert noted == [True, False]


def test_maintenance_that_is_added_and_taken_away_counts_at_once() -> None:
    """A reload tells it to whoever mails, and begins no scan."""
    of = target("web1", interval=1000.0)
    scene = found_open(Scene(of))
    begun = scene.apply(target("web1", interval=1000.0, maintenance=[window(NOW, NOW + 500)]))
    scene.run(50.0, begun, 50.0, scene.apply(of), 50.0)
    assert [after.maintenance is not None for _, after in scene.told] == [False, True, False]
    assert scene.times() == [0.0]


def test_host_under_maintenance_is_so_before_its_first_scan() -> None:
    """Nobody is told of a state without a scan."""
    scene = Scene(target("web1", maintenance=[window(NOW, NOW + 500)]))
    assert scene.state().maintenance is not None
    assert scene.told == []


def test_exception_that_is_added_counts_at_once() -> None:
    """A reload with a new exception makes a host in spec, without a scan, and its end is kept to."""
    bare = target("web1", interval=1000.0)
    scene = found_open(Scene(bare))
    assert verdicts(scene, 10.0, scene.apply(excepted_web(400.0)), 0.0, 389.5, 0.5) == [
        Verdict.OUT_OF_SPEC,
        Verdict.IN_SPEC,
        Verdict.IN_SPEC,
        Verdict.OUT_OF_SPEC,
    ]
    assert scene.times() == [0.0]


def test_exception_that_is_taken_away_counts_no_longer() -> None:
    """A reload without the exception makes the deviation count at once."""
    scene = found_open(Scene(excepted_web(400.0)))
    assert verdicts(scene, 10.0, scene.apply(target("web1", interval=1000.0)), 0.0) == [
        Verdict.IN_SPEC,
        Verdict.OUT_OF_SPEC,
    ]
    assert scene.times() == [0.0]


def test_scan_is_judged_by_the_exceptions_that_there_are_when_it_ends() -> None:
    """A host whose exceptions change while it is scanned is scanned on, and judged by the new ones."""
    scene = found_open(Scene(target("web1", interval=1000.0), seconds={"web1": 60.0}))
    assert verdicts(scene, 30.0, scene.apply(excepted_web(400.0)), 31.0) == [Verdict.UNKNOWN, Verdict.IN_SPEC]
    assert (scene.times(), scene.examiner.cancelled) == ([0.0], [])
    assert [item.port for item in scene.state().excepted] == [80]
    assert scene.state().target == excepted_web(400.0)


# --- apply ------------------------------------------------------------------------------------------------------------


def test_host_that_is_added_is_scanned_at_once() -> None:
    """A new host does not wait for the next round of its interval, and takes part in it from then on."""
    web1, web2 = (target(host, interval=100.0) for host in ("web1", "web2"))
    scene = Scene(web1)
    scene.run(30.0, scene.apply(web1, web2), 300.0)
    assert list(scene.monitor.snapshot.hosts) == ["web1", "web2"]
    assert [int(when) // 10 for when in scene.times("web1")] == [0, 10, 20, 30]
    assert scene.times("web2")[0] == 30.0
    assert [int(when) // 10 for when in scene.times("web2")[1:]] == [10, 20, 30]


def test_host_of_a_new_interval_begins_a_group() -> None:
    """The rounds of an interval that no host had before are counted from the moment it is there."""
    web1, web2 = target("web1", interval=100.0), target("web2", interval=70.0)
    scene = Scene(web1)
    scene.run(30.0, scene.apply(web1, web2), 160.0)
    first, *others = scene.times("web2")
    assert first == 30.0
    assert [30 + 70 * number <= when <= 37 + 70 * number for number, when in enumerate(others, 1)] == [True, True]


def test_host_that_is_added_has_what_is_restored_of_it() -> None:
    """A host that comes back is shown as it was last seen until its first scan, judged by what now holds for it."""
    before = target("web2", expect=[80])
    restored = HostState(before).after(result(before, seen(is_open=[80]), at=NOW - 60))
    scene = Scene(target("web1"))
    scene.run(5.0, scene.apply(target("web1"), target("web2"), restored={"web2": restored, "web3": restored}), 0.5)
    state = scene.state("web2")
    assert state.conclusive is not None
    assert state.conclusive.finished_at == NOW - 60
    assert state.verdict is Verdict.OUT_OF_SPEC
    assert state.target == target("web2")
    assert scene.examiner.earlier[-1] == state.conclusive


def test_restored_state_is_for_hosts_that_are_new() -> None:
    """A host that is known already keeps what is known of it."""
    of = target("web1", interval=1000.0)
    old = HostState(of).after(result(of, seen(is_open=[80]), at=NOW - 60))
    scene = Scene(of)
    scene.run(5.0, scene.apply(of, restored={"web1": old}))
    assert scene.state() is scene.told[0][1]


def test_host_that_is_gone_is_scanned_no_longer() -> None:
    """A host that left is not in the snapshot any more; its running scan is cancelled, and no other begins."""
    scene = Scene(*hosts(3), seconds={"host1": 80.0})
    scene.run(30.0, scene.apply(*hosts(1)), 300.0)
    assert scene.examiner.cancelled == ["host1"]
    assert list(scene.monitor.snapshot.hosts) == ["host0"]
    assert (scene.times("host1"), scene.times("host2"), len(scene.times("host0"))) == ([0.0], [0.0], 4)


def test_group_without_hosts_keeps_no_rounds() -> None:
    """When the last host of an interval is gone its rounds end, and begin anew with the next host of that interval."""
    web, other = target("web1", interval=100.0), target("other", interval=10_000.0)
    scene = Scene(web, other)
    scene.run(30.0, scene.apply(other), 300.0, scene.apply(other, web), 150.0)
    assert scene.times()[:2] == [0.0, 330.0]
    assert 430.0 <= scene.times()[2] <= 440.0
    assert len(scene.times()) == 3


def test_all_hosts_may_go_and_come_back() -> None:
    """Without any host the monitor goes on, and scans those that come."""
    scene = Scene(*hosts(2))
    scene.run(30.0, scene.apply(), 300.0, scene.apply(*hosts(2)), 5.0)
    assert sorted(scene.examiner.began[-2:]) == [("host0", 330.0), ("host1", 330.0)]


@pytest.mark.parametrize("address", [None, "192.0.2.1"], ids=["names", "addresses"])
def test_places_of_cancelled_scans_are_free_again(address: str | None) -> None:
    """Scans that are cancelled leave their places to the next, however often; all places can be taken afterwards."""

    def generation(number: int) -> list[Target]:
        return [target(f"host{number}-{index}", address=address, interval=1000.0) for index in range(6)]

    scene = Scene(*generation(0), places=2)
    scene.examiner.seconds = {of.host: 500.0 for number in range(10) for of in generation(number)}
    steps: list[float | Callable[[], object]] = []
    for number in range(1, 10):
        steps += [1.0, scene.apply(*generation(number))]
    last = generation(10)
    scene.run(*steps, scene.apply(*last), 3.5)
    assert scene.examiner.most_at_once == 2
    assert len(scene.examiner.cancelled) == 20
    assert all(scene.state(of.host).latest for of in last)


@pytest.mark.parametrize(
    "changed",
    [
        target("web1", expect=[22], scan=[22, 80], interval=100.0),
        target("web1", allow=[22], scan=[22, 80], interval=100.0),
        target("web1", scan=[22], interval=100.0),
        target("web1", scan=[22, 80], interval=100.0, address="192.0.2.9"),
        target("web1", scan=[22, 80], interval=100.0, address=None),
        target("web1", expect=[22], scan=[22, 80], interval=50.0),
    ],
    ids=["expect", "allow", "scanports", "address", "a name", "expect and interval"],
)
def test_host_that_is_to_be_scanned_otherwise_is_scanned_anew(changed: Target) -> None:
    """A scan of what does not hold any more is cancelled, and one of what now holds begins at once."""
    scene = Scene(target("web1", scan=[22, 80], interval=100.0), seconds={"web1": 20.0})
    scene.run(10.0, scene.apply(changed), 25.0)
    assert scene.times() == [0.0, 10.0]
    assert scene.examiner.cancelled == ["web1"]
    assert scene.examiner.scanned[-1] == changed


def test_host_that_is_to_be_scanned_otherwise_keeps_what_is_known() -> None:
    """Until the new scan has ended the host is shown as it was, judged by the new specification."""
    old, new = target("web1", interval=100.0), target("web1", expect=[22], interval=100.0)
    scene = Scene(old)
    scene.run(10.0, scene.apply(new), 0.5)
    before, now = scene.told[0][1], scene.state()
    assert (before.verdict, now.verdict) == (Verdict.IN_SPEC, Verdict.OUT_OF_SPEC)
    assert before.latest is not None
    assert now.latest is not None
    assert (now.latest.addresses, now.latest.finished_at) == (before.latest.addresses, NOW + 1)
    assert scene.times() == [0.0, 10.0]


def test_host_that_is_to_be_scanned_otherwise_stays_in_its_rounds() -> None:
    """The scan that a change asks for is one more; the rounds of the interval go on as they did."""
    scene = Scene(target("web1", interval=100.0))
    scene.run(10.0, scene.apply(target("web1", expect=[22], interval=100.0)), 240.0)
    assert scene.times()[:2] == [0.0, 10.0]
    assert [int(when) // 10 for when in scene.times()[2:]] == [10, 20]


@pytest.mark.parametrize("change", [{"labels": {"team": "dba"}}, {"exceptions": [exception(80, until=NOW + 1e6)]}])
def test_what_changes_no_scan_leaves_it_running(change: Any) -> None:
    """Labels and exceptions take effect at once; the scan goes on, and its result stands under the new target."""
    new = target("web1", interval=100.0, **change)
    scene = Scene(target("web1", interval=100.0), seconds={"web1": 20.0})
    targets: list[Target] = []
    scene.run(10.0, scene.apply(new), lambda: targets.append(scene.state().target), 20.0)
    assert targets == [new]
    assert (scene.times(), scene.examiner.cancelled) == ([0.0], [])
    assert scene.state().target == new
    assert scene.state().latest is not None


def test_labels_take_effect_for_a_host_that_waits_for_its_place() -> None:
    """A host whose labels change before its scan began is scanned once, and shown with the new ones."""
    old, new = hosts(2), [target("host0", interval=100.0), target("host1", interval=100.0, labels={"a": "b"})]
    scene = Scene(*old, places=1, seconds={"host0": 20.0, "host1": 20.0})
    scene.run(5.0, scene.apply(target("host0", interval=100.0, labels={"a": "b"}), new[1]), 50.0)
    assert sorted(when for _, when in scene.examiner.began) == [0.0, 20.0]
    assert scene.state("host1").target.config.labels == {"a": "b"}


def test_host_moves_to_the_group_of_its_new_interval() -> None:
    """A host whose interval changes to that of others is scanned in their rounds from then on, and not at once."""
    other = target("other", interval=100.0)
    scene = Scene(target("web1", interval=1000.0), other)
    scene.run(30.0, scene.apply(target("web1", interval=100.0), other), 260.0)
    assert scene.times()[0] == 0.0
    assert [int(when) // 10 for when in scene.times()[1:]] == [10, 20]
    assert [int(when) // 10 for when in scene.times("other")] == [0, 10, 20]


def test_host_of_a_longer_interval_is_scanned_less_often() -> None:
    """A host that leaves its group is not scanned in that group's rounds any more, nor twice at once."""
    web, other = target("web1", interval=10.0), target("other", interval=10.0)
    scene = Scene(web, other, seconds={"web1": 3.0})
    scene.run(31.0, scene.apply(target("web1", interval=1000.0), other), 500.0)
    assert len([when for when in scene.times() if when > 40.0]) <= 1
    assert len(scene.times("other")) == 54


def test_others_keep_schedule_and_running_scans() -> None:
    """Whatever comes, goes and changes, a host that stays as it is is scanned exactly when it would have been."""
    stay = [target(f"stay{number}", interval=100.0) for number in range(3)]
    once = Scene(*stay, seconds={"stay0": 40.0}, seed=3)
    once.run(500.0)
    scene = Scene(*stay, seconds={"stay0": 40.0}, seed=3)
    others = [
        [*stay, target("new", interval=50.0)],
        [*reversed(stay), target("new", interval=50.0, labels={"a": "b"})],
        [target("new", interval=20.0), *stay],
        stay,
    ]
    steps: list[float | Callable[[], object]] = []
    for targets in others:
        steps += [5.0, scene.apply(*targets)]
    scene.run(*steps, 480.0)
    for of in stay:
        plain, busy = once.times(of.host), scene.times(of.host)
        assert [int(when) // 100 for when in plain] == [int(when) // 100 for when in busy] == [0, 1, 2, 3, 4]
        assert all(number * 100 <= when <= number * 100 + 10 for number, when in enumerate(busy))
    assert "stay0" not in scene.examiner.cancelled


def test_same_targets_again_change_nothing() -> None:
    """A reload of the same file, even in the middle of a scan, leaves every time and every state as it was."""
    plain = Scene(*hosts(5), seconds={"host0": 40.0}, seed=5)
    plain.run(450.0)
    scene = Scene(*hosts(5), seconds={"host0": 40.0}, seed=5)
    scene.run(5.0, scene.apply(*hosts(5)), 25.0, scene.apply(*hosts(5)), 170.0, scene.apply(*hosts(5)), 250.0)
    assert scene.examiner.began == plain.examiner.began
    assert scene.monitor.snapshot == plain.monitor.snapshot


def test_targets_may_change_before_the_monitor_runs() -> None:
    """What is applied before run() is what is scanned from the start."""
    scene = Scene(*hosts(3))
    scene.monitor.apply([target("web1", expect=[22]), hosts(1)[0]])
    assert list(scene.monitor.snapshot.hosts) == ["web1", "host0"]
    scene.run(2.0)
    assert sorted(scene.examiner.began) == [("host0", 0.0), ("web1", 0.0)]


def test_other_examiner_makes_the_scans_that_begin_from_then_on() -> None:
    """Scans on their way end with the examiner that began them."""
    scene = Scene(*hosts(1), seconds={"host0": 20.0})
    other = ScriptedExaminer(scene.clock, scene.wall)
    scene.run(5.0, scene.apply(*hosts(1), examiner=other), 110.0)
    assert (scene.times("host0"), scene.examiner.cancelled) == ([0.0], [])
    assert [int(when) // 100 for when in other.times("host0")] == [1]
    assert len(scene.told) == 2


def test_other_number_of_places_holds_from_then_on() -> None:
    """More places let more hosts be in progress at once, beginning with the next round."""
    scene = Scene(*hosts(6), places=1, seconds={f"host{number}": 5.0 for number in range(6)})
    scene.run(50.0, lambda: setattr(scene.examiner, "most_at_once", 0), scene.apply(*hosts(6), places=6), 90.0)
    assert scene.examiner.most_at_once > 1


def test_places_hold_over_a_change_of_targets() -> None:
    """When the number of places is applied again, what is in progress already keeps its place."""
    scene = Scene(*hosts(1), places=1, seconds={f"host{number}": 50.0 for number in range(6)})
    steps: list[float | Callable[[], object]] = []
    for number in range(2, 6):
        steps += [1.0, scene.apply(*hosts(number), places=1)]
    scene.run(*steps, 1.0)
    assert scene.examiner.most_at_once == 1


@pytest.mark.parametrize("kind", ["same", "changed"])
def test_host_that_leaves_and_comes_back_while_it_waits_is_scanned_once(kind: str) -> None:
    """A host that is removed and added again before its turn came is scanned once when it comes."""
    slow, waiting = target("slow", interval=1000.0), target("web1", interval=1000.0)
    back = waiting if kind == "same" else target("web1", expect=[22], interval=1000.0)
    scene = Scene(slow, places=1, seconds={"slow": 100.0})
    scene.run(1.0, scene.apply(slow, waiting), 1.0, scene.apply(slow), 1.0, scene.apply(slow, back), 500.0)
    assert scene.times() == [100.0]
    assert scene.examiner.scanned[-1] == back
    assert scene.state().latest is not None


def test_host_that_came_back_is_not_scanned_twice_where_two_places_become_free() -> None:
    """A host that waits in its old round and in its new one takes one place; the other is for the next host."""
    slow, waiting, last = hosts(2, 1000.0), target("web1", interval=1000.0), target("last", interval=1000.0)
    scene = Scene(*slow, places=2, seconds={"host0": 100.0, "host1": 100.0, "web1": 50.0})
    scene.run(1.0, scene.apply(*slow, waiting), 1.0, scene.apply(*slow), 1.0, scene.apply(*slow, waiting, last), 120.0)
    assert (scene.times(), scene.times("last")) == ([100.0], [100.0])


def test_host_that_leaves_while_it_waits_is_not_scanned() -> None:
    """A host that is removed before its turn came leaves its place to the next."""
    slow, gone, last = (target(host, interval=1000.0) for host in ("slow", "gone", "last"))
    scene = Scene(slow, places=1, seconds={"slow": 100.0})
    scene.run(1.0, scene.apply(slow, gone), 1.0, scene.apply(slow, gone, last), 1.0, scene.apply(slow, last), 100.0)
    assert (scene.times("gone"), scene.times("last")) == ([], [100.0])


# --- scan_now ---------------------------------------------------------------------------------------------------------


def test_scan_may_be_asked_for() -> None:
    """A scan that is asked for begins at once, is told like any other, and moves no other scan."""
    plain, scene = (Scene(*hosts(4), seed=9) for _ in range(2))
    answers: list[bool] = []
    plain.run(450.0)
    scene.run(50.0, lambda: answers.append(scene.monitor.scan_now("host2")), 400.0)
    assert answers == [True]
    asked = [when for when in scene.times("host2") if when == 50.0]
    assert asked == [50.0]
    for host in scene.monitor.snapshot.hosts:
        regular = [when for when in scene.times(host) if when != 50.0]
        assert [int(when) // 10 for when in regular] == [0, 10, 20, 30, 40]
    assert len(scene.told) == len(plain.told) + 1


def test_scan_is_refused_while_one_is_on_its_way() -> None:
    """A host that is being scanned, or waits for its place, is not scanned once more."""
    scene = Scene(*hosts(2), places=1, seconds={"host0": 20.0, "host1": 20.0})
    answers: list[bool] = []
    scene.run(
        5.0,
        lambda: answers.extend(scene.monitor.scan_now(host) for host in ("host0", "host1")),
        50.0,
        lambda: answers.extend(scene.monitor.scan_now("host0") for _ in range(2)),
        20.0,
    )
    assert answers == [False, False, True, False]
    assert len(scene.times("host0")) == 2


def test_scan_of_an_unknown_host_is_an_error() -> None:
    """KeyError says that there is no such host, also once it is gone."""
    scene = Scene(*hosts(2))

    def ask(host: str) -> None:
        with pytest.raises(KeyError):
            scene.monitor.scan_now(host)

    scene.run(5.0, lambda: ask("elsewhere"), scene.apply(*hosts(1)), lambda: ask("host1"))


def test_scan_is_refused_before_the_monitor_runs() -> None:
    """Nothing can be started before run(), which scans every host at once anyway."""
    scene = Scene(*hosts(1))
    assert scene.monitor.scan_now("host0") is False
    scene.run(2.0)
    assert scene.times("host0") == [0.0]


# --- anything at all --------------------------------------------------------------------------------------------------

SOME_TARGETS = st.lists(
    st.builds(
        target,
        st.sampled_from([f"host{number}" for number in range(6)]),
        expect=st.sampled_from([(), (22,)]),
        interval=st.sampled_from([10.0, 25.0]),
        labels=st.sampled_from([{}, {"a": "b"}]),
        address=st.sampled_from([None, "192.0.2.1"]),
        exceptions=st.sampled_from([(), (exception(22, until=NOW + 20),)]),
    ),
    unique_by=lambda of: of.host,
    max_size=6,
)
STEPS = st.lists(
    st.one_of(SOME_TARGETS, st.sampled_from([0.0, 0.5, 3.0, 11.0]), st.sampled_from(["host0", "host1"])), max_size=20
)


@MODEST
@given(first=SOME_TARGETS, steps=STEPS, seed=st.integers(0, 9), seconds=st.sampled_from([0.5, 4.0, 30.0]))
def test_monitor_bears_any_changes(
    first: list[Target], steps: list[list[Target] | float | str], seed: int, seconds: float
) -> None:
    """Whatever is applied and asked for, no host is scanned twice at once, and no place is lost."""
    every = [f"host{number}" for number in range(6)]
    scene = Scene(*first, places=2, seconds=dict.fromkeys(every, seconds), seed=seed)
    known = first

    async def scenario() -> None:
        nonlocal known
        async with scene.running() as task:
            for step in steps:
                if isinstance(step, float):
                    await scene.clock.advance(step)
                elif isinstance(step, list):
                    known = step
                    scene.monitor.apply(step)
                elif any(of.host == step for of in known):
                    scene.monitor.scan_now(step)
                assert [state.target for state in scene.monitor.snapshot.hosts.values()] == known
                assert not task.done()
            known = [target(host, address=address) for address in (None, "192.0.2.1") for host in every[:3]]
            known = [dataclasses.replace(of, host=f"{of.host}-{of.address}") for of in known]
            scene.monitor.apply(known)
            scene.examiner.most_at_once = 0
            await scene.clock.advance(3.5)
            assert all(state.latest for state in scene.monitor.snapshot.hosts.values())
            assert scene.examiner.most_at_once == 4
            assert not task.done()

    asyncio.run(scenario())
    assert scene.examiner.busy.total() == 0


def test_exception_that_lapses_while_a_result_is_on_its_way_does_not_count() -> None:
    """A result that was judged before an exception lapsed, and is there after that, is judged anew."""
    scene = found_open(Scene(excepted_web(5.0)))
    examine = scene.examiner.examine

    async def take_long_to_tell(target: Target, earlier: ScanResult | None = None, **how: Any) -> ScanResult:
        judged = await examine(target, earlier, **how)
        await scene.clock.sleep(10.0)  # as when the line of the log is made in a thread
        return judged

    scene.examiner.examine = take_long_to_tell  # type: ignore[method-assign]
    assert verdicts(scene, 100.0) == [Verdict.OUT_OF_SPEC]


@pytest.mark.parametrize("cause", ["added", "other interval", "asked for"])
def test_scan_between_rounds_is_no_overrun(cause: str) -> None:
    """That a host is being scanned outside of its rounds when one begins is no sign of too short an interval."""
    web = target("web1", interval=100.0)
    scene = Scene(web, seconds={"web1": 5.0, "web2": 5.0})
    steps: dict[str, Callable[[], object]] = {
        "added": scene.apply(web, target("web2", interval=100.0)),
        "other interval": scene.apply(target("web1", interval=50.0)),
        "asked for": lambda: scene.monitor.scan_now("web1"),
    }
    scene.run(2.0 if cause == "other interval" else 98.0, steps[cause], 5.0)
    assert scene.monitor.snapshot.overruns == 0


def test_exception_that_has_lapsed_is_seen_however_often_targets_change() -> None:
    """An exception that a jump of the clock ended is over, also when every look at the clock is cut short."""
    of = excepted_web(3600.0, interval=1e6)
    scene = found_open(Scene(of))
    steps: list[float | Callable[[], object]] = [5.0, lambda: scene.wall.jump(86400.0)]
    for _ in range(10):
        steps += [scene.apply(of), CLOCK_CHECK_INTERVAL - 1]
    assert verdicts(scene, *steps)[-1] is Verdict.OUT_OF_SPEC


def test_lapse_that_makes_a_verdict_is_a_change() -> None:
    """A host that was unknown and turns out of spec when its exception ends is told as after a scan, and logged."""
    of = target("web1", exceptions=[exception(80, until=NOW + 100)])
    partly = result(of, seen(is_open=[80]), seen("192.0.2.2", reason=Reason.NO_ROUTE), at=NOW)
    scene = Scene(of, restored={"web1": HostState(of).after(partly)}, seconds={"web1": 1e9})
    with capture_logs() as logs:
        scene.run(200.0)
    ((before, after),) = scene.told
    assert (before.conclusive, before.verdict, after.verdict) == (None, Verdict.UNKNOWN, Verdict.OUT_OF_SPEC)
    assert [item.port for item in after.deviations] == [80]
    assert "an exception or maintenance has begun or ended, or a deadline has passed; hosts judged again" in [
        line["event"] for line in logs
    ]


def test_host_that_waits_for_the_scan_of_another_takes_no_place() -> None:
    """A hundred names on one address do not keep a host of another address from being scanned at once."""
    names = [target(f"name{number}", address=None) for number in range(100)]
    other = target("other", address=None)
    scene = Scene(*names, other, seconds={of.host: 50.0 for of in names}, places=2)
    scene.examiner.shared = {of.host for of in names[1:]}
    scene.run(10.0)
    assert scene.examiner.times("other") == [0.0]
    assert scene.examiner.most_at_once > 50


def test_reload_does_not_add_places() -> None:
    """The number of hosts in progress holds over reloads: scans that began before count, too."""
    hosts = [target(f"host{number}") for number in range(20)]
    scene = Scene(*hosts, seconds={of.host: 5.0 for of in hosts}, places=2)
    reloads = [lambda: scene.monitor.apply(hosts, scene.examiner, places=2)] * 4
    scene.run(*[step for reload in reloads for step in (1.0, reload)], 5.0)
    assert scene.examiner.most_at_once == 2


def test_fewer_places_hold_as_soon_as_enough_scans_have_ended() -> None:
    """Fewer places end no scan; none begins until fewer are in progress than there may be now."""
    hosts = [target(f"host{number}") for number in range(8)]
    scene = Scene(*hosts, seconds={of.host: 5.0 for of in hosts}, places=4)
    scene.run(1.0, lambda: scene.monitor.apply(hosts, places=1), 30.0)
    assert sorted(when for _, when in scene.examiner.began) == [0.0, 0.0, 0.0, 0.0, 5.0, 10.0, 15.0, 20.0]


def test_only_a_scan_that_somebody_asked_for_must_be_fresh() -> None:
    """A scan beside the rounds shares nothing that was seen before it was asked for; one of a round may."""
    scene = Scene(target("web1", interval=100.0))
    scene.run(50.0, lambda: scene.monitor.scan_now("web1"), 60.0)
    assert scene.examiner.fresh == [False, True, False]


def test_hosts_that_were_not_believed_are_scanned_when_a_canary_returns() -> None:
    """Once a canary is reachable again the hosts are scanned that are unknown for it, and no others."""
    scene = Scene(*hosts(3, 3600.0))

    def lose() -> None:
        snapshot = scene.monitor.snapshot
        for host, reason in (("host0", Reason.CANARY), ("host1", Reason.NO_ROUTE)):
            state = snapshot.hosts[host]
            snapshot = snapshot.with_state(state.after(result(state.target, seen(reason=reason), at=scene.wall())))
        scene.monitor.snapshot = snapshot

    scene.run(10.0, lose, scene.monitor.look_at_unbelieved, 10.0)
    assert [len(scene.times(f"host{number}")) for number in range(3)] == [2, 1, 1]
