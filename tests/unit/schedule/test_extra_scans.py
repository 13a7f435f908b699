from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from portspec.deny import NOTHING, Deny
from portspec.inventory import Resolution
from portspec.limit import Limit
from portspec.scan import Failure, Observation, Reason
from portspec.scan.sharing import SharedScans
from portspec.schedule.agenda import JITTER, ExtraScan, retry_pause
from portspec.schedule.examiner import Examiner
from portspec.schedule.extra_scans import ROUNDS_PER_EXTRA_PLACE, ExtraScans
from portspec.schedule.monitor import CLOCK_CHECK_INTERVAL, Monitor
from portspec.state.document import host_document, timestamp
from portspec.state.snapshot import HostState
from portspec.state.verdict import Verdict
from tests.faults.registry import fault
from tests.unit.factories import (
    MODEST,
    NOW,
    ManualClock,
    ManualWallClock,
    ScriptedEngine,
    exception,
    result,
    seen,
    settle,
    target,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.inventory import Target
    from portspec.scan import ScanJob

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
RECHECK = 15 * MINUTE
V4, OTHER = "192.0.2.1", "192.0.2.2"
PORTS = (22, 80, 443, *range(1000, 1100))  # more than a look at some of them has


@dataclass
class World:
    """What there is: open ports by address, addresses that are silent or that no route leads to, names."""

    open: dict[str, set[int]] = field(default_factory=dict)
    dropped: dict[str, set[int]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    unreachable: set[str] = field(default_factory=set)
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    half: set[str] = field(default_factory=set)  # names of which one family does not resolve

    def answer(self, job: ScanJob) -> Observation:
        """Answer as the addresses do."""
        return Observation(tuple(self._see(address, job) for address in job.addresses), 0.25, 1)

    def _see(self, address: str, job: ScanJob) -> Any:
        if address in self.unreachable:
            return seen(address, reason=Reason.NO_ROUTE)
        if address in self.silent:
            return seen(address, scanned=job.ports, filtered=job.ports, answered=False)
        dropped = self.dropped.get(address, set()) & set(job.ports)
        found = self.open.get(address, set()) & set(job.ports) - dropped
        return seen(address, scanned=job.ports, is_open=found, filtered=dropped)

    async def resolve(self, name: str, _deny: Deny = NOTHING, /) -> Resolution:
        """Look a name up."""
        await asyncio.sleep(0)
        failure = Failure(Reason.RESOLVE, f"{name} does not resolve")
        if name not in self.names:
            return Resolution((), failure)
        return Resolution(self.names[name], failure if name in self.half else None)


class Scene:
    """A monitor of real parts in a world that the test changes; `jobs` has what was asked, and when."""

    def __init__(
        self,
        *targets: Target,
        world: World | None = None,
        recheck: float = RECHECK,
        places: int = 128,
        restored: Mapping[str, HostState] | None = None,
        parallel: int = 10,
        is_held: bool = False,
    ) -> None:
        self.world = world or World()
        self.clock = ManualClock(1000.0)
        self.wall = ManualWallClock(self.clock)
        self.engine = ScriptedEngine(None if is_held else self._answer)
        self.jobs: list[tuple[float, ScanJob]] = []
        self.told: list[tuple[HostState, HostState]] = []
        self.monitor = Monitor(
            targets,
            Examiner(SharedScans(self.engine), self.world, Limit(parallel), wall_clock=self.wall),
            places=places,
            recheck=recheck,
            restored=restored,
            on_state=lambda before, after: self.told.append((before, after)),
            clock=self.clock,
            wall_clock=self.wall,
            rng=random.Random(1),  # noqa: S311
        )

    def _answer(self, job: ScanJob) -> Observation:
        self.jobs.append((self.clock.now() - 1000.0, job))
        return self.world.answer(job)

    def run(self, *steps: Any) -> None:
        """Run the monitor for so many seconds, and call what is called in between."""

        async def scenario() -> None:
            task = asyncio.create_task(self.monitor.run())
            await settle()
            for step in steps:
                if callable(step):
                    step()
                    await settle()
                else:
                    await self.clock.advance(step)
            assert not task.done(), task.exception()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(scenario())

    def state(self, host: str = "web1") -> HostState:
        """Return what is known of a host now."""
        return self.monitor.snapshot.hosts[host]

    def scans(self, address: str = V4) -> list[float]:
        """Return when all ports of an address were scanned."""
        return [at for at, job in self.jobs if job.addresses == (address,) and len(job.ports) >= len(PORTS)]

    def apply(self, *targets: Target, **others: Any) -> Callable[[], None]:
        """Return what makes the monitor go on with these targets."""
        return lambda: self.monitor.apply(targets, **others)


def web(**settings: Any) -> Target:
    """Make a host that is scanned once a day, and of which port 22 should be open."""
    return target("web1", **{"expect": [22], "scan": PORTS, "interval": DAY, **settings})


def named(**settings: Any) -> Target:
    """Make such a host that is known by its name."""
    return web(address=None, **settings)


def opened(**others: Any) -> World:
    """Make a world in which port 22 of the host is open, and port 80, too."""
    return World(open={V4: {22, 80}}, **others)


def is_close(at: float, pause: float) -> bool:
    """Return whether something came at the end of a pause, or a little earlier."""
    return pause * (1 - JITTER) <= at <= pause


# --- what deviates ----------------------------------------------------------------------------------------------------


def test_port_that_is_closed_ends_its_deviation_within_recheck() -> None:
    """Of a host that is scanned once a day the deviation is over within `recheck` of the moment it is mended."""
    scene = Scene(web(), world=opened())
    verdicts: list[Verdict] = []
    scene.run(
        HOUR,
        lambda: verdicts.append(scene.state().verdict),
        lambda: scene.world.open[V4].discard(80),
        RECHECK,
        lambda: verdicts.append(scene.state().verdict),
        DAY / 2,
    )
    assert verdicts == [Verdict.OUT_OF_SPEC, Verdict.IN_SPEC]
    assert scene.scans() == [0.0]
    assert scene.told[-1][1] is scene.state()


@pytest.mark.parametrize("dropped", [set(), {22}], ids=["closed", "silent"])
def test_port_that_is_open_again_ends_its_deviation_within_recheck(dropped: set[int]) -> None:
    """The same holds for an expected port that was closed or silent."""
    scene = Scene(web(), world=World(dropped={V4: dropped}))
    scene.run(HOUR, lambda: scene.world.open.update({V4: {22}}), scene.world.dropped.clear, RECHECK)
    assert scene.state().verdict is Verdict.IN_SPEC
    assert scene.scans() == [0.0]


def test_only_what_deviates_is_looked_at_and_some_that_answered() -> None:
    """A look has the ports that deviate, and others that answered as its controls; no port that was silent."""
    of = web(scan=[22, 80, 443, *range(1000, 3000)])
    world = World(open={V4: {80}}, dropped={V4: {22, *range(1000, 2000)}})
    scene = Scene(of, world=world)
    scene.run(RECHECK)
    (_, first), (_, last), (at, second) = scene.jobs
    assert list(last.ports) == [80]  # whether it is still open, at the end of the scan
    assert len(first.ports) == 2003
    assert list(second.ports) == [22, 80, 443, *range(2000, 2063)]
    assert is_close(at, RECHECK)


def test_recheck_is_repeated_as_long_as_something_deviates() -> None:
    """What deviates is looked at every `recheck`, a little earlier at random, until it does not deviate any more."""
    scene = Scene(web(), world=opened())
    scene.run(10 * RECHECK, lambda: scene.world.open[V4].discard(80), DAY / 4)
    times = [at for at, job in scene.jobs if 22 in job.ports or 80 in job.ports]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) >= 11
    assert all(RECHECK - MINUTE <= gap <= RECHECK for gap in gaps)
    assert max(times) <= 11 * RECHECK
    assert scene.monitor.snapshot.rechecks == len(times) - 1


def test_recheck_is_no_scan() -> None:
    """It changes neither time nor duration of the last scan, and is no round; the change it saw is of its time."""
    scene = Scene(web(), world=opened())
    scene.run(5 * MINUTE, lambda: scene.world.open[V4].discard(80), RECHECK)
    state = scene.state()
    assert state.conclusive is not None
    assert (state.conclusive.finished_at, state.conclusive.duration) == (NOW, 0.25)
    assert (scene.monitor.snapshot.rounds, scene.monitor.snapshot.overruns) == (1, 0)
    assert state.last_change is not None
    assert is_close(state.last_change - NOW, RECHECK)


def test_zero_is_never() -> None:
    """With `recheck: 0` what deviates waits for the next round."""
    scene = Scene(web(), world=opened(), recheck=0.0)
    scene.run(DAY - 1)
    assert len(scene.jobs) == 1
    assert scene.state().next_scan == NOW + DAY


@pytest.mark.parametrize("interval", [60.0, RECHECK])
def test_rounds_are_soon_enough_where_the_interval_is_shorter(interval: float) -> None:
    """Hosts that are scanned as often as `recheck` says are looked at in their rounds alone."""
    scene = Scene(web(interval=interval), world=opened())
    scene.run(3.5 * interval)
    assert len(scene.scans()) == len(scene.jobs) == 4


@pytest.mark.parametrize("trouble", ["silent", "no route", "does not resolve"])
def test_recheck_that_sees_nothing_changes_nothing(trouble: str) -> None:
    """A host that is silent, or cannot be reached or looked up, stays out of specification with what was seen last."""
    scene = Scene(named(), world=opened(names={"web1": (V4,)}))
    troubles: dict[str, Callable[[], object]] = {
        "silent": lambda: scene.world.silent.add(V4),
        "no route": lambda: scene.world.unreachable.add(V4),
        "does not resolve": scene.world.names.clear,
    }
    states: list[HostState] = []
    scene.run(
        MINUTE,
        lambda: states.append(scene.state()),
        troubles[trouble],
        2.5 * RECHECK,
        lambda: states.append(scene.state()),
    )
    assert states[0].latest is states[1].latest is states[1].conclusive
    assert states[1].verdict is Verdict.OUT_OF_SPEC
    assert len(scene.told) == 1
    assert scene.monitor.snapshot.rechecks == 2


def test_look_up_that_fails_in_part_leaves_the_addresses_it_does_not_give() -> None:
    """Where one family does not resolve, what deviates on its addresses stays, and on the others it is looked at."""
    world = World(open={V4: {22, 80}, OTHER: {22, 80}}, names={"web1": (V4, OTHER)})
    scene = Scene(named(), world=world)

    def fail() -> None:
        world.names["web1"] = (V4,)
        world.half.add("web1")
        world.open = {V4: {22}, OTHER: {22}}

    scene.run(MINUTE, fail, RECHECK)
    assert [(item.address, item.port) for item in scene.state().deviations] == [(OTHER, 80)]
    assert scene.jobs[-1][1].addresses == (V4,)


def test_silence_of_an_open_port_counts_where_the_address_answers() -> None:
    """A port that a packet filter drops from now on is no longer open, since others of its address answer."""
    scene = Scene(web(), world=opened())
    scene.run(MINUTE, lambda: scene.world.dropped.update({V4: {80}}), RECHECK)
    assert scene.state().verdict is Verdict.IN_SPEC


def test_host_that_was_silent_and_answers_is_scanned_whole() -> None:
    """A host that was down and is up is scanned, since nothing is known of its other ports: no look clears it."""
    scene = Scene(web(), world=opened(silent={V4}))
    scene.run(HOUR, scene.world.silent.clear, RECHECK + 1)
    # One of the six is at ports drawn at random, as all that was scanned is open.
    assert [len(times) for times in (scene.scans(), scene.jobs)] == [2, 2 + 6]
    assert [(item.port, item.kind.value) for item in scene.state().deviations] == [(80, "unexpected")]


@pytest.mark.parametrize("addresses", [(OTHER,), (V4, OTHER)], ids=["another", "one more"])
def test_name_that_leads_elsewhere_is_scanned_whole(addresses: tuple[str, ...]) -> None:
    """Where a name has other addresses than when it was scanned all of them are: they were never seen."""
    world = World(open={V4: {22, 80}, OTHER: {22, 443}}, names={"web1": (V4,)})
    scene = Scene(named(), world=world)
    scene.run(MINUTE, lambda: world.names.update(web1=addresses), RECHECK)
    assert all(scene.scans(address)[-1:] == [scene.jobs[-1][0]] for address in addresses)
    assert scene.state().conclusive is not None
    assert [item.address for item in scene.state().conclusive.addresses] == list(addresses)  # type: ignore[union-attr]
    assert (OTHER, 443) in [(item.address, item.port) for item in scene.state().deviations]


def test_host_seen_in_part_is_unknown_without_its_deviation() -> None:
    """Where another address could not be seen a look cannot clear the host: it is unknown, and soon tried again."""
    world = World(open={V4: {22, 80}, OTHER: {22}}, names={"web1": (V4, OTHER)}, unreachable={OTHER})
    scene = Scene(named(), world=world, recheck=30.0)
    scene.run(1.0, lambda: world.open[V4].discard(80), 30.0)
    assert scene.state().verdict is Verdict.UNKNOWN
    world.unreachable.clear()
    again = Scene(named(), world=world, restored={"web1": scene.state()})
    again.run(1.0)
    assert again.state().verdict is Verdict.IN_SPEC


def test_fault_of_a_recheck_changes_nothing_and_is_logged() -> None:
    """A crash on the way leaves the host as it was, and the monitor running."""
    scene = Scene(web(), world=opened())

    def crash(_: ScanJob) -> Observation:
        raise ZeroDivisionError("of the recheck")

    with capture_logs() as logs:
        scene.run(MINUTE, lambda: setattr(scene.world, "answer", crash), RECHECK)
    assert scene.state().verdict is Verdict.OUT_OF_SPEC
    assert "recheck crashed" in [line["event"] for line in logs]


# --- what could not be seen -------------------------------------------------------------------------------------------


def test_host_that_is_unknown_is_tried_again_after_a_growing_pause() -> None:
    """A name that does not resolve is tried again after 1, 2, 5, 15, 30, 60… minutes, up to its interval."""
    scene = Scene(named())
    with capture_logs() as logs:
        scene.run(DAY / 2)
    tries = [line for line in logs if line["event"] == "host scanned"]
    assert len(tries) == 9  # after 0, 1, 3, 8, 23, 53, 113, 233, 473 minutes, each a little earlier
    assert scene.monitor.snapshot.retries == 8
    assert scene.monitor.snapshot.rounds == 1
    assert scene.state().verdict is Verdict.UNKNOWN


@fault(
    "name server",
    "scans",
    "A host whose name did not resolve is scanned again after a pause that grows, not only in the next round.",
)
def test_name_that_does_not_resolve_for_ten_seconds_is_known_after_a_minute() -> None:
    """A name server that was not there when portspec began costs a minute, not the interval."""
    scene = Scene(named(), world=World(open={V4: {22}}))
    scene.run(10.0, lambda: scene.world.names.update(web1=(V4,)), 50.0)
    assert scene.state().verdict is Verdict.IN_SPEC
    assert is_close(scene.scans()[0], MINUTE)
    assert scene.state().next_scan == NOW + DAY


def test_host_that_was_seen_begins_with_a_short_pause_again() -> None:
    """The pauses grow with the tries in a row; a scan that saw the host ends the row."""
    scene = Scene(web(), world=World(open={V4: {22}}, unreachable={V4}))
    times: list[int] = []

    def unreachable() -> None:
        times.append(len(scene.jobs))
        scene.world.unreachable.add(V4)
        scene.monitor.scan_now("web1")

    scene.run(10 * MINUTE, scene.world.unreachable.clear, HOUR, unreachable, MINUTE)
    assert len(scene.jobs) == times[0] + 2


def test_retry_is_a_scan_of_all_ports_and_no_round() -> None:
    """Its time is that of the last scan, and neither rounds nor overruns count it."""
    scene = Scene(web(), world=World(open={V4: {22}}, unreachable={V4}))
    scene.run(1.0, scene.world.unreachable.clear, MINUTE)
    assert [list(job.ports) for _, job in scene.jobs] == [list(PORTS)] * 2
    assert scene.state().conclusive is not None
    assert is_close(scene.state().conclusive.finished_at - NOW, MINUTE)  # type: ignore[union-attr]
    assert (scene.monitor.snapshot.rounds, scene.monitor.snapshot.overruns) == (1, 0)


def test_many_unknown_hosts_hold_up_no_round() -> None:
    """Hundreds of names that no name server answers for are tried again in a few places; others keep their pace."""
    lost = [target(f"lost{number}", address=None, interval=DAY) for number in range(400)]
    often = [target(f"often{number}", address=None, interval=MINUTE) for number in range(10)]
    scene = Scene(*lost, *often, places=8)
    scene.world.names = {of.host: (f"203.0.113.{number}",) for number, of in enumerate(often)}
    resolve = scene.world.resolve
    waiting: Counter[str] = Counter()
    most: list[int] = []

    async def slowly(name: str, _deny: Deny = NOTHING, /) -> Resolution:
        kind = name.rstrip("0123456789")
        waiting[kind] += 1
        try:
            if kind == "lost":
                await scene.clock.sleep(5.0)
            return await resolve(name)
        finally:
            waiting[kind] -= 1

    scene.world.resolve = slowly  # type: ignore[method-assign]
    scene.run(
        10 * MINUTE,
        scene.jobs.clear,
        *[1.0, lambda: most.append(waiting["lost"])] * 180,
    )
    assert scene.monitor.snapshot.is_complete
    assert scene.monitor.snapshot.retries >= 60
    assert max(most) == 8 // ROUNDS_PER_EXTRA_PLACE
    assert scene.monitor.snapshot.overruns == 0
    for of in often:
        times = [at for at, job in scene.jobs if job.addresses == scene.world.names[of.host]]
        assert len(times) == 3
        assert all(at % MINUTE <= MINUTE * JITTER for at in times)


# --- beside rounds, reloads, restarts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["asked for", "round"])
def test_scan_takes_the_place_of_a_recheck(begin: str) -> None:
    """A scan that begins while a host's ports are looked at again ends that; it is neither left out nor refused."""
    scene = Scene(web(interval=HOUR), world=opened(), is_held=True)
    answers: list[bool] = []

    def finish() -> None:
        scene.engine.finish(len(scene.engine.jobs) - 1, scene.world.answer)

    def ask() -> None:
        answers.append(scene.monitor.scan_now("web1"))

    scene.run(1.0, finish, RECHECK, ask if begin == "asked for" else HOUR, MINUTE, finish)
    assert [future.cancelled() for future in scene.engine.futures] == [False, True, False]
    assert [len(job.ports) == len(PORTS) for job in scene.engine.jobs] == [True, False, True]
    assert answers == ([True] if begin == "asked for" else [])
    assert scene.monitor.snapshot.overruns == 0


def test_other_recheck_holds_at_once() -> None:
    """A reload with a shorter `recheck` does not wait for the end of the longer pause; one with 0 ends them."""
    scene = Scene(web(), world=opened())
    scene.run(MINUTE, scene.apply(web(), recheck=60.0), MINUTE, scene.apply(web(), recheck=0.0), DAY / 2)
    assert len(scene.jobs) == 2
    assert scene.state().next_scan is not None
    assert abs(scene.state().next_scan - NOW - DAY) < 1  # type: ignore[operator]


def test_same_recheck_again_leaves_what_is_planned() -> None:
    """However often a configuration is applied, the look that is planned comes at its time."""
    scene = Scene(web(), world=opened())
    steps: list[Any] = []
    for _ in range(30):
        steps += [RECHECK / 30, scene.apply(web(), recheck=RECHECK)]
    scene.run(*steps)
    assert len(scene.jobs) == 2


def test_host_that_left_is_not_looked_at() -> None:
    """Nothing of a host that is gone is tried or looked at again."""
    other = target("other", address=OTHER, interval=DAY)
    scene = Scene(web(), other, world=opened(unreachable={OTHER}))
    scene.run(30.0, scene.apply(), DAY / 2)
    assert len(scene.jobs) == 2


def test_deviation_that_an_exception_leaves_behind_is_looked_at() -> None:
    """A deviation that begins to count without a scan is looked at again, from that moment on."""
    scene = Scene(web(exceptions=[exception(80, until=NOW + HOUR)]), world=opened())
    scene.run(HOUR - 1, lambda: scene.world.open[V4].discard(80), 1.0)
    assert (scene.state().verdict, len(scene.jobs)) == (Verdict.OUT_OF_SPEC, 1)
    scene = Scene(web(exceptions=[exception(80, until=NOW + HOUR)]), world=opened())
    scene.run(HOUR - 1, lambda: scene.world.open[V4].discard(80), 1.0 + RECHECK)
    assert (scene.state().verdict, len(scene.jobs)) == (Verdict.IN_SPEC, 2)


def test_hosts_are_looked_at_soon_after_a_restart() -> None:
    """What is restored as unknown or out of specification is scanned at once, and looked at again as before."""
    of = web()
    known = HostState(of).after(result(of, seen(is_open=[22, 80]), at=NOW - HOUR))
    scene = Scene(of, world=opened(), restored={"web1": known})
    scene.run(RECHECK, lambda: scene.world.open[V4].discard(80), RECHECK)
    assert scene.scans() == [0.0]
    assert scene.state().verdict is Verdict.IN_SPEC


def test_next_scan_is_told() -> None:
    """The document of a host says when it is looked at next, whichever kind of look that is; null before its scan."""
    unknown, deviates, fine = (
        target(name, address=address, interval=DAY) for name, address in (("u", "192.0.2.7"), ("d", V4), ("f", OTHER))
    )
    scene = Scene(unknown, deviates, fine, world=World(open={V4: {80}}, unreachable={"192.0.2.7"}))
    assert host_document(scene.state("u"))["next_scan"] is None
    scene.run(1.0)
    ahead = {host: (scene.state(host).next_scan or 0.0) - NOW for host in "udf"}
    assert is_close(ahead["u"], MINUTE)
    assert RECHECK - MINUTE <= ahead["d"] <= RECHECK
    assert ahead["f"] == DAY
    assert host_document(scene.state("f"))["next_scan"] == timestamp(NOW + DAY)


def test_looks_that_follow_each_other_are_one_round_for_the_mailer() -> None:
    """Many hosts that are mended together are told together: looks are under way until none follows soon."""
    every = [target(f"host{number}", address=f"203.0.113.{number}", interval=DAY) for number in range(100)]
    scene = Scene(*every, world=World(open={of.address: {80} for of in every if of.address}))
    seen_ones: list[tuple[float, Mapping[float | None, int]]] = []
    steps: list[Any] = [RECHECK - 120.0, scene.world.open.clear]
    for _ in range(140):
        steps += [1.0, lambda: seen_ones.append((scene.clock.now(), dict(scene.monitor.under_way)))]
    scene.run(*steps)
    beside = [under_way[None] for _, under_way in seen_ones if None in under_way]
    assert 40 <= len(beside) <= 75
    assert len(set(beside[1:])) == 1
    assert scene.monitor.under_way == {}


# --- exceptions that end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_least", [0, 1, 101, 201])
def test_exceptions_that_end_together_all_end_though_targets_change_meanwhile(at_least: int) -> None:
    """A reload in the middle of judging many hosts anew leaves none of them with an exception that is over."""
    every = [
        target(
            f"host{number}",
            interval=DAY,
            address=f"198.51.{number // 250}.{number % 250}",
            exceptions=[exception(80, until=NOW + HOUR)],
        )
        for number in range(350)
    ]
    scene = Scene(*every, world=World(open={of.address: {80} for of in every if of.address}), recheck=0.0)

    def judged() -> int:
        return sum(state.verdict is Verdict.OUT_OF_SPEC for state in scene.monitor.snapshot.hosts.values())

    async def scenario() -> None:
        task = asyncio.create_task(scene.monitor.run())
        for _ in range(40):
            await settle()
        assert scene.monitor.snapshot.is_complete
        await scene.clock.advance(HOUR - 1)
        scene.wall.jump(1.0)
        judge = asyncio.create_task(scene.clock.advance(CLOCK_CHECK_INTERVAL))
        while judged() < at_least:  # noqa: ASYNC110 - a count, not an event
            await asyncio.sleep(0)
        assert judged() < 350
        scene.monitor.apply(every)
        await judge
        await scene.clock.advance(CLOCK_CHECK_INTERVAL)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert judged() == 350


INTERRUPTIONS = st.lists(
    st.one_of(
        st.sampled_from([0.0, 1.0, 20.0, 40.0]),
        st.sampled_from(["reload", "forward", "back", "scan", "unknown", "known"]),
    ),
    max_size=20,
)


@MODEST
@given(steps=INTERRUPTIONS)
def test_state_knows_the_exceptions_in_force_whatever_interrupts(steps: list[float | str]) -> None:
    """Once the clock was looked at a host's verdict is by the exceptions in force then, after whatever happened."""
    ends = {80: NOW + 50, 443: NOW + 4000}
    of = web(exceptions=[exception(port, until=end) for port, end in ends.items()])
    world = World(open={V4: {22, *ends}})
    scene = Scene(of, world=world, recheck=0.0)

    def check() -> None:
        counted = {item.port for item in scene.state().deviations}
        assert counted == {port for port, end in ends.items() if end <= scene.wall()}

    actions: dict[str, Callable[[], object]] = {
        "reload": scene.apply(of),
        "forward": lambda: scene.wall.jump(HOUR),
        "back": lambda: scene.wall.jump(-HOUR),
        "scan": lambda: scene.monitor.scan_now("web1"),
        "unknown": lambda: world.unreachable.add(V4),
        "known": world.unreachable.clear,
    }
    run: list[Any] = [1.0]
    for step in steps:
        run += [actions[step] if isinstance(step, str) else step]
        if step != "reload":  # which comes in the middle of what follows, too
            run += [CLOCK_CHECK_INTERVAL, check]
    scene.run(*run, CLOCK_CHECK_INTERVAL, check)


def test_retry_pauses_are_what_the_tests_take_them_for() -> None:
    """The first try comes a minute after the first failure."""
    assert retry_pause(1) == MINUTE


def test_look_that_is_slow_gives_its_place_to_the_next_one_once() -> None:
    """Extra scans that only wait keep no other from being made; each of them makes room for one."""

    async def scenario() -> None:
        clock, ways, ended = ManualClock(), list[Callable[[], object]](), asyncio.Event()

        def begin(
            _: str, __: ExtraScan, tasks: asyncio.TaskGroup, give_way: Callable[[], object]
        ) -> asyncio.Task[Any] | None:
            ways.append(give_way)
            return tasks.create_task(ended.wait())

        looks = ExtraScans(begin, lambda: None, places=1, recheck=0.0, clock=clock, rng=random.Random(1))  # noqa: S311
        running = asyncio.create_task(looks.run())
        for number in range(4):
            looks.put(target(f"db{number}"), ExtraScan.RETRY, 10.0)
        await clock.advance(10.0)
        assert len(ways) == 1
        ways[0]()
        ways[0]()
        await settle()
        assert (len(ways), looks.is_under_way) == (2, True)
        ended.set()
        await settle()
        assert (len(ways), looks.planned) == (4, 0)
        running.cancel()
        await settle()

    asyncio.run(scenario())
