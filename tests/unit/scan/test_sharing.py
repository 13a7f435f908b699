from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.limit import Limit, LimitSlot
from portspec.ports import ALL_PORTS, PortSet
from portspec.scan import Failure, Observation, Reason, ScanJob
from portspec.scan.request import MAX_ADDRESSES_PER_JOB
from portspec.scan.sharing import UNFINISHED, SharedScans
from portspec.scan.table import CALLS_PER_TURN, SHARING_WINDOW, SharedScan, SlowScans, _LoopCalls
from tests.unit.factories import ScriptedEngine, seen, settle

if TYPE_CHECKING:
    from collections.abc import Sequence

A, B = "192.0.2.1", "192.0.2.2"
FEW = PortSet.of([22, 80])


class Scene:
    """Scans of addresses by an engine whose jobs the test ends, with a clock that the test moves."""

    def __init__(self, places: int = 10) -> None:
        self.engine = ScriptedEngine()
        self.limit = Limit(places)
        self.time = 0.0
        self.scans = SharedScans(self.engine, clock=lambda: self.time)
        self.begun = 0
        self._gave_way: set[LimitSlot] = set()

    def ask(
        self,
        *addresses: str,
        ports: PortSet = FEW,
        since: float | None = None,
        patience: float = 0.0,
        round_began: float | None = None,
        over: asyncio.Future[None] | None = None,
        is_urgent: bool = False,
    ) -> asyncio.Task[Observation]:
        """Ask for a scan."""

        async def ask() -> Observation:
            with contextlib.closing(LimitSlot(self.limit, is_urgent=is_urgent)) as place:
                place.give_way = lambda: self._gave_way.add(place)
                job = ScanJob(addresses, ports, patience=patience)
                return await self.scans.scan(
                    job,
                    place,
                    since=since,
                    round_began=round_began,
                    over=over,
                    on_begin=self._begin,
                )

        return asyncio.create_task(ask())

    def _begin(self) -> None:
        self.begun += 1

    @property
    def ways_given(self) -> int:
        """The number of jobs that gave way."""
        return len(self._gave_way)

    def finish(self, number: int, *is_open: int) -> None:
        """End a job of the engine: these ports are open, as far as they are asked, the others closed."""
        job = self.engine.jobs[number]
        found = [seen(address, scanned=job.ports, is_open=PortSet.of(is_open) & job.ports) for address in job.addresses]
        self.engine.finish(number, lambda _: Observation(tuple(found), 2.0, len(job.ports)))


def test_two_hundred_names_of_an_address_share_one_scan_and_one_place() -> None:
    """Jobs that ask for one address at once share one scan; each gets its own ports."""

    async def scenario() -> None:
        scene = Scene(places=2)
        tasks = [scene.ask(A, ports=PortSet.of([22, 80, 1000 + number])) for number in range(200)]
        await settle()
        assert (len(scene.engine.jobs), scene.limit.held) == (1, 1)
        assert (scene.begun, scene.ways_given) == (200, 199)
        scene.finish(0, 80, 1007)
        observations = await asyncio.gather(*tasks)
        for number, observation in enumerate(observations):
            (item,) = observation.addresses
            assert item.scanned == PortSet.of([22, 80, 1000 + number])
            assert set(item.open) == ({80, 1007} if number == 7 else {80})
            assert observation.duration == 2.0
        assert scene.limit.held == 0
        assert scene.scans._table._addresses == {}

    asyncio.run(scenario())


def test_ports_are_added_to_a_scan_that_runs() -> None:
    """A later job with more ports of an address has them added to the running scan."""

    async def scenario() -> None:
        scene = Scene()
        first = scene.ask(A)
        await settle()
        second = scene.ask(A, ports=PortSet.of([443]))
        await settle()
        assert [job.ports for job in scene.engine.jobs] == [PortSet.of([22, 80, 443])]
        scene.finish(0, 443)
        assert (await first).addresses[0] == seen(A, scanned=FEW)
        assert (await second).addresses[0] == seen(A, scanned=[443], is_open=[443])

    asyncio.run(scenario())


def test_ports_that_come_too_late_are_scanned_by_themselves() -> None:
    """If the scan ends before the ports are added, another scan covers them."""

    async def scenario() -> None:
        scene = Scene()
        first = scene.ask(A)
        await settle()
        before = scene.engine.jobs[0]
        second = scene.ask(A, ports=PortSet.of([443]))
        await settle()
        scene.engine.jobs[0] = before  # the engine was done with it already
        scene.finish(0)
        await settle()
        assert first.done()
        assert scene.engine.jobs[1].ports == PortSet.of([443])
        scene.finish(1, 443)
        assert (await second).addresses[0] == seen(A, scanned=[443], is_open=[443])

    asyncio.run(scenario())


def test_names_that_are_resolved_late_in_a_round_get_what_was_seen_in_it() -> None:
    """A late job of a round only scans the ports that no other job of the round has asked for."""

    async def scenario() -> None:
        scene = Scene()
        first = scene.ask(A, round_began=0.0)
        await settle()
        scene.finish(0, 80)
        await first
        scene.time = 1.0
        same = await scene.ask(A, round_began=0.0)
        assert same.addresses[0] == seen(A, scanned=FEW, is_open=[80])
        assert len(scene.engine.jobs) == 1
        more = scene.ask(A, B, ports=PortSet.of([22, 80, 443]), round_began=0.0)
        await settle()
        assert [(job.addresses, job.ports) for job in scene.engine.jobs[1:]] == [
            ((A,), PortSet.of([443])),
            ((B,), PortSet.of([22, 80, 443])),
        ]
        scene.finish(1, 443)
        scene.finish(2)
        assert (await more).addresses == (
            seen(A, scanned=[22, 80, 443], is_open=[80, 443]),
            seen(B, scanned=[22, 80, 443]),
        )
        assert (scene.begun, scene.ways_given) == (3, 1)
        assert scene.limit.held == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("began", "now", "round_began", "since"),
    [(0.0, 1.0, 0.5, None), (0.0, 1.0, None, None), (0.0, SHARING_WINDOW + 1, 0.0, None), (0.0, 1.0, 0.0, 0.5)],
    ids=["earlier round", "no round", "old", "to be seen later"],
)
def test_scan_that_has_ended_is_not_used_for_another_round(
    began: float, now: float, round_began: float | None, since: float | None
) -> None:
    """A port is scanned once in each round, however short the interval is."""

    async def scenario() -> None:
        scene = Scene()
        scene.time = began
        first = scene.ask(A, round_began=began)
        await settle()
        scene.finish(0, 80)
        await first
        scene.time = now
        second = scene.ask(A, round_began=round_began, since=since)
        await settle()
        assert len(scene.engine.jobs) == 2
        scene.finish(1)
        assert (await second).addresses[0] == seen(A, scanned=FEW)

    asyncio.run(scenario())


def test_scans_that_have_ended_are_forgotten() -> None:
    """Results are kept for some seconds only, whatever else is scanned."""

    async def scenario() -> None:
        scene = Scene()
        for number in range(100):
            scene.time = number / 2
            task = scene.ask(f"192.0.2.{number}")
            await settle()
            scene.finish(number)
            await task
            assert len(scene.scans._table._ended) <= 2 * SHARING_WINDOW + 1

    asyncio.run(scenario())


def test_all_jobs_get_the_failure() -> None:
    """All jobs of a failed scan get the failure, with the ports that were seen."""

    async def scenario() -> None:
        scene = Scene()
        tasks = [scene.ask(A), scene.ask(A, ports=PortSet.of([443]))]
        await settle()
        failed = replace(seen(A, scanned=[22]), failure=Failure(Reason.NO_ROUTE, "no link"))
        scene.engine.finish(0, lambda _: Observation((failed,), 1.0, 1))
        for observation in await asyncio.gather(*tasks):
            assert observation.addresses[0].failure == failed.failure
        assert len(scene.engine.jobs) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("age", "since", "is_shared"),
    [(SHARING_WINDOW, None, True), (SHARING_WINDOW + 1, None, False), (1.0, 1.0, False), (1.0, 0.0, True)],
)
def test_only_a_fresh_scan_is_shared(age: float, since: float | None, is_shared: bool) -> None:  # noqa: FBT001
    """No job gets a port state that is old, or from before its `since`."""

    async def scenario() -> None:
        scene = Scene()
        first = scene.ask(A)
        await settle()
        scene.time = age
        second = scene.ask(A, since=since)
        await settle()
        assert len(scene.engine.jobs) == 1  # an address is scanned once at a time
        assert (scene.begun, scene.ways_given) == (2 if is_shared else 1, 1)
        scene.finish(0)
        await settle()
        assert (first.done(), second.done()) == (True, is_shared)
        if not is_shared:
            scene.finish(1)
            await second

    asyncio.run(scenario())


def test_scans_of_very_different_sizes_are_not_shared() -> None:
    """A job shares no scan that is much larger than itself, and makes none much larger."""

    async def scenario() -> None:
        scene = Scene()
        every = scene.ask(A, ports=ALL_PORTS)
        await settle()
        few = [scene.ask(A) for _ in range(3)]
        await settle()
        scene.finish(0)
        await settle()
        assert every.done()
        again = scene.ask(A, ports=ALL_PORTS)
        await settle()
        assert [job.ports for job in scene.engine.jobs] == [ALL_PORTS, FEW]
        scene.finish(1)
        await asyncio.gather(*few)
        await settle()
        scene.finish(2)
        await again

    asyncio.run(scenario())


def test_less_patient_scan_is_not_shared() -> None:
    """A job with a longer timeout does not share a scan with a shorter one."""

    async def scenario() -> None:
        scene = Scene()
        tasks = [scene.ask(A, patience=patience) for patience in (1.0, 3.5, 0.5)]
        await settle()
        scene.finish(0)
        await settle()
        assert [task.done() for task in tasks] == [True, False, True]
        scene.finish(1)
        await tasks[1]

    asyncio.run(scenario())


def test_jobs_that_wait_for_a_busy_address_take_no_place() -> None:
    """With two places, one stays free while any number of jobs wait for one address."""

    async def scenario() -> None:
        scene = Scene(places=2)
        waiting = [scene.ask(A, since=float(number)) for number in range(10)]  # none serves the next
        await settle()
        other = scene.ask(B)
        await settle()
        assert [job.addresses for job in scene.engine.jobs] == [(A,), (B,)]
        scene.finish(1)
        await other
        await end(scene, waiting)

    asyncio.run(scenario())


def test_scan_ends_with_its_last_job() -> None:
    """A cancelled job ends a scan only if no other waits for it; a later job gets a new scan."""

    async def scenario() -> None:
        scene = Scene()
        first, second = scene.ask(A), scene.ask(A)
        await settle()
        first.cancel()
        await settle()
        assert not scene.engine.futures[0].cancelled()
        second.cancel()
        third = scene.ask(A)
        await settle()
        assert scene.engine.futures[0].cancelled()
        assert len(scene.engine.jobs) == 2
        scene.finish(1, 22)
        assert set((await third).addresses[0].open) == {22}
        assert scene.limit.held == 0

    asyncio.run(scenario())


def test_cancelled_job_is_not_scanned() -> None:
    """A job that is cancelled while it waits for a place never reaches the engine."""

    async def scenario() -> None:
        scene = Scene(places=1)
        first, second = scene.ask(A), scene.ask(B)
        await settle()
        second.cancel()
        scene.finish(0)
        await first
        await settle()
        assert (len(scene.engine.jobs), scene.limit.held, scene.scans._table._addresses) == (1, 0, {})

    asyncio.run(scenario())


def test_exception_of_the_engine_reaches_all_jobs() -> None:
    """All waiting jobs get the exception, and nothing is left behind."""

    async def scenario() -> None:
        scene = Scene()
        tasks = [scene.ask(A), scene.ask(A)]
        await settle()
        scene.engine.futures[0].set_exception(ZeroDivisionError())
        assert all(isinstance(one, ZeroDivisionError) for one in await asyncio.gather(*tasks, return_exceptions=True))
        scene.engine.close()
        with pytest.raises(RuntimeError, match="closed"):
            await scene.ask(A)
        assert (scene.limit.held, scene.scans._table._addresses) == (0, {})

    asyncio.run(scenario())


def test_place_is_kept_between_the_scans_of_a_job_without_a_dead_lock() -> None:
    """A host that repeats a scan of an address for which others wait can do so with the only place."""

    async def scenario() -> None:
        scene = Scene(places=1)

        async def twice() -> None:
            with contextlib.closing(LimitSlot(scene.limit)) as place:
                for since in (0.0, 1.0):
                    await scene.scans.scan(ScanJob((A, B), FEW), place, since=since)

        looking = asyncio.create_task(twice())
        await settle()
        scene.time = 1.0
        others = [scene.ask(A, since=0.5), scene.ask(B, A, since=0.6), scene.ask(B, since=0.7)]
        await end(scene, [looking, *others])
        assert scene.limit.held == 0

    asyncio.run(scenario())


def test_slow_scan_gives_its_place_back_for_good() -> None:
    """While a scan is slow another host has the only place; the slow one still gets its result."""

    async def scenario() -> None:
        scene = Scene(places=1)
        slow, other = scene.ask(A), scene.ask(B)
        await settle()
        assert [job.addresses for job in scene.engine.jobs] == [(A,)]
        scene.engine.jobs[0].on_slow()
        await settle()
        assert [job.addresses for job in scene.engine.jobs] == [(A,), (B,)]
        assert (scene.limit.held, scene.ways_given) == (1, 1)
        scene.finish(0, 80)
        assert (await slow).addresses[0] == seen(A, scanned=FEW, is_open=[80])
        assert scene.limit.held == 1
        scene.finish(1)
        await other
        assert (scene.limit.held, len(scene.scans._table._slow)) == (0, 0)

    asyncio.run(scenario())


def test_job_with_a_slow_address_keeps_its_place_only_while_another_one_is_scanned() -> None:
    """A job gives its place up once all of its unfinished addresses are slow."""

    async def scenario() -> None:
        scene = Scene(places=1)
        both = scene.ask(A, B)
        other = scene.ask("192.0.2.3")
        await settle()
        scene.engine.jobs[0].on_slow()
        await settle()
        assert (scene.limit.held, len(scene.engine.jobs)) == (1, 2)
        scene.finish(1)
        await settle()
        assert [job.addresses for job in scene.engine.jobs] == [(A,), (B,), ("192.0.2.3",)]
        await end(scene, [both, other])
        assert scene.limit.held == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("since", [None, 1.0], ids=["sharing it", "after it"])
def test_job_that_waits_for_a_slow_scan_holds_no_place(since: float | None) -> None:
    """A job whose other addresses are done gives its place back while it waits for a slow one."""

    async def scenario() -> None:
        scene = Scene(places=1)
        slow = scene.ask(A)
        await settle()
        scene.engine.jobs[0].on_slow()
        await settle()
        scene.time = 1.0
        both = scene.ask(A, B, since=since)
        await settle()
        assert [job.addresses for job in scene.engine.jobs] == [(A,), (B,)]
        assert scene.limit.held == 1
        scene.finish(1)
        await settle()
        assert (scene.limit.held, scene.ways_given) == (0, 2)
        await end(scene, [slow, both])
        assert scene.limit.held == 0

    asyncio.run(scenario())


def test_late_on_slow_is_ignored() -> None:
    """Nothing is given back for a scan that has ended meanwhile."""

    async def scenario() -> None:
        scene = Scene(places=2)
        task = scene.ask(A)
        await settle()
        scene.finish(0)
        scene.engine.jobs[0].on_slow()
        await task
        await settle()
        assert (scene.limit.held, len(scene.scans._table._slow)) == (0, 0)

    asyncio.run(scenario())


def test_many_addresses_of_a_job_are_scanned_a_few_at_a_time() -> None:
    """Of a hundred addresses some are in the engine at once; slow ones do not block the others."""

    async def scenario() -> None:
        scene = Scene()
        addresses = [f"192.0.2.{number}" for number in range(100)]
        task = scene.ask(*addresses)
        await settle()
        assert len(scene.engine.jobs) == MAX_ADDRESSES_PER_JOB
        scene.finish(0)
        await settle()
        assert len(scene.engine.jobs) == MAX_ADDRESSES_PER_JOB + 1
        scene.engine.jobs[1].on_slow()
        await settle()
        assert len(scene.engine.jobs) == MAX_ADDRESSES_PER_JOB + 2
        assert len(scene.scans._table._addresses) == MAX_ADDRESSES_PER_JOB + 1
        await end(scene, [task])
        assert [item.address for item in task.result().addresses] == addresses
        assert (scene.limit.held, scene.begun) == (0, 1)

    asyncio.run(scenario())


def test_partial_result_at_the_time_limit() -> None:
    """Addresses that are not settled have a failure and the ports that were seen; their scans end."""

    async def scenario() -> None:
        scene = Scene(places=1)
        over = asyncio.get_running_loop().create_future()
        task = scene.ask(A, B, "192.0.2.3", over=over)
        await settle()
        scene.finish(0, 80)
        await settle()
        partly = replace(seen(B, scanned=[22], is_open=[22]), failure=UNFINISHED)
        scene.engine.seen_so_far[1] = Observation((partly,), 1.0, 5)
        over.set_result(None)
        first, second, third = (await task).addresses
        assert first == seen(A, scanned=FEW, is_open=[80])
        assert second == partly
        assert (third.scanned, third.failure) == (PortSet(), UNFINISHED)
        await settle()
        assert [future.cancelled() for future in scene.engine.futures] == [False, True, True]
        assert (scene.limit.held, scene.scans._table._addresses) == (0, {})

    asyncio.run(scenario())


def test_time_limit_of_one_job_does_not_end_a_shared_scan() -> None:
    """A job that ends at its limit takes nothing from those that share its scan."""

    async def scenario() -> None:
        scene = Scene()
        over = asyncio.get_running_loop().create_future()
        first, second = scene.ask(A, over=over), scene.ask(A)
        await settle()
        over.set_result(None)
        assert (await first).addresses[0].failure == UNFINISHED
        assert not scene.engine.futures[0].cancelled()
        scene.finish(0, 80)
        assert (await second).addresses[0] == seen(A, scanned=FEW, is_open=[80])
        assert scene.limit.held == 0

    asyncio.run(scenario())


def test_time_limit_while_waiting_for_a_place() -> None:
    """The job gets a failure without ports, and leaves nothing behind when its turn comes."""

    async def scenario() -> None:
        scene = Scene(places=1)
        over = asyncio.get_running_loop().create_future()
        first, second = scene.ask(A), scene.ask(B, over=over)
        await settle()
        over.set_result(None)
        assert (await second).addresses[0].failure == UNFINISHED
        scene.finish(0)
        await first
        await settle()
        assert (len(scene.engine.jobs), scene.limit.held, scene.scans._table._addresses) == (1, 0, {})

    asyncio.run(scenario())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "urgent", "finish", "slow", "cancel", "over", "fewer", "more"]),
            st.lists(st.sampled_from([f"192.0.2.{number}" for number in range(4)]), min_size=1, unique=True),
            st.integers(0, 20),
        ),
        max_size=30,
    ),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_no_place_is_lost(steps: Sequence[tuple[str, list[str], int]], places: int, most_slow: int) -> None:
    """In any order of slow, ended and cancelled scans, no place is lost or given back twice."""

    async def scenario() -> None:
        scene = Scene(places=places)
        scene.scans._table._slow = SlowScans(most=most_slow)
        asked: list[tuple[asyncio.Task[Observation], asyncio.Future[None]]] = []
        most = places
        for number, (step, addresses, which) in enumerate(steps):
            scene.time = number / 4
            running = [place for place, future in enumerate(scene.engine.futures) if not future.done()]
            if step in {"ask", "urgent"}:
                over = asyncio.get_running_loop().create_future()
                since = scene.time if which % 2 else None
                asked.append((scene.ask(*addresses, since=since, over=over, is_urgent=step == "urgent"), over))
            elif step == "finish" and running:
                scene.finish(running[which % len(running)], 80)
            elif step == "slow" and running:
                scene.engine.jobs[running[which % len(running)]].on_slow()
            elif step == "cancel" and asked:
                asked[which % len(asked)][0].cancel()
            elif step == "over" and asked and not asked[which % len(asked)][1].done():
                asked[which % len(asked)][1].set_result(None)
            elif step in {"fewer", "more"}:
                scene.limit.most = max(1, scene.limit.most + (1 if step == "more" else -1))
                most = max(most, scene.limit.most)
            if which % 3:
                await settle()
                assert 0 <= scene.limit.held <= most
                assert len(scene.scans._table._slow) <= most_slow
        await end(scene, [task for task, _ in asked])
        await settle()
        assert all(future.done() for future in scene.engine.futures)
        assert (scene.limit.held, len(scene.scans._table._slow), scene.scans._table._addresses) == (0, 0, {})
        for task, _ in asked:
            assert task.cancelled() or len(task.result().addresses)

    asyncio.run(scenario())


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"]), min_size=1, max_size=3, unique=True),
            st.sets(st.sampled_from([1, 2, 3, 2000, 4000]), min_size=1),
            st.sampled_from([None, 0.0, 1.0, 2.0]),
            st.sampled_from([None, 0.0, 1.0]),
            st.sampled_from(["", "finish", "cancel"]),
        ),
        max_size=15,
    ),
    st.integers(1, 3),
)
def test_every_job_gets_its_ports(
    asked: Sequence[tuple[list[str], set[int], float | None, float | None, str]], places: int
) -> None:
    """Jobs on common addresses that come, end and are cancelled in any order get their ports, and no place is lost."""

    async def scenario() -> None:
        scene = Scene(places=places)
        jobs: list[tuple[asyncio.Task[Observation], tuple[str, ...], PortSet]] = []
        for number, (addresses, ports, since, round_began, then) in enumerate(asked):
            scene.time = number / 4
            task = scene.ask(*addresses, ports=PortSet.of(ports), since=since, round_began=round_began)
            jobs.append((task, tuple(addresses), PortSet.of(ports)))
            await settle()
            running = [place for place, future in enumerate(scene.engine.futures) if not future.done()]
            assert len(running) <= 3 * places
            assert scene.limit.held <= places
            addresses_asked = [address for place in running for address in scene.engine.jobs[place].addresses]
            assert len(addresses_asked) == len(set(addresses_asked))
            if then == "finish" and running:
                scene.finish(running[0], 1)
            elif then == "cancel":
                jobs[len(jobs) // 2][0].cancel()
        await end(scene, [task for task, _, _ in jobs])
        for task, hosts, some in jobs:
            if not task.cancelled():
                assert [item.address for item in task.result().addresses] == list(hosts)
                assert all(
                    item == seen(item.address, scanned=some, is_open=some & PortSet.of([1]))
                    for item in task.result().addresses
                )
        assert (scene.limit.held, scene.scans._table._addresses) == (0, {})

    asyncio.run(scenario())


async def end(scene: Scene, tasks: Sequence[asyncio.Task[object]] | Sequence[asyncio.Task[Observation]]) -> None:
    """End the engine's jobs one after the other until every task has its answer."""
    for _ in range(1000):
        await settle()
        if all(task.done() for task in tasks):
            return
        for number, future in enumerate(scene.engine.futures):
            if not future.done():
                scene.finish(number, 1)
                break
        else:
            pytest.fail("jobs wait, and the engine has nothing to do")
    pytest.fail("the jobs do not end")


def test_scan_that_has_ended_is_freed_without_the_garbage_collector() -> None:
    """The state of a scan that has ended is freed at once: full collections are rare."""

    async def scenario() -> int:
        scene = Scene()
        for number in range(20):
            scene.time += SHARING_WINDOW + 1
            task = scene.ask(f"192.0.2.{number}")
            await settle()
            scene.finish(number, 80)
            await task
        scene.engine.jobs.clear()
        scene.engine.futures.clear()
        return sum(isinstance(found, SharedScan) for found in gc.get_objects()) - len(earlier)

    gc.collect()
    earlier = [found for found in gc.get_objects() if isinstance(found, SharedScan)]  # of other tests
    gc.disable()
    try:
        assert asyncio.run(scenario()) == 1  # the last one, which may serve another job yet
    finally:
        gc.enable()


def test_every_call_that_threads_ask_for_is_made() -> None:
    """However threads and the event loop interrupt each other, the loop makes each call, once."""
    made: list[int] = []
    each, threads = 3000, 3

    async def scenario() -> None:
        calls = _LoopCalls(asyncio.get_running_loop())

        def ask(first: int) -> None:
            for number in range(first, first + each):
                calls.make(lambda number=number: made.append(number))  # type: ignore[misc]

        asking = [threading.Thread(target=ask, args=(number * each,)) for number in range(1, threads)]
        for thread in asking:
            thread.start()
        for number in range(each):
            calls.make(lambda number=number: made.append(number))  # type: ignore[misc]
            if number % 10 == 0:
                await asyncio.sleep(0)
        for thread in asking:
            await asyncio.to_thread(thread.join)
        for _ in range(each * threads):
            await asyncio.sleep(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asyncio.run(scenario())
    finally:
        sys.setswitchinterval(interval)
    assert sorted(made) == list(range(each * threads))


def test_few_of_many_calls_are_made_in_each_turn_of_the_event_loop() -> None:
    """However many scans end at once, the event loop does something else after a few of them."""

    async def scenario() -> list[int]:
        made: list[int] = []
        calls = _LoopCalls(asyncio.get_running_loop())
        for number in range(100):
            calls.make(lambda number=number: made.append(number))  # type: ignore[misc]
        steps, before = [], 0
        while before < 100:
            await asyncio.sleep(0)
            steps.append(len(made) - before)
            before = len(made)
        assert made == list(range(100))
        return steps

    assert max(asyncio.run(scenario())) <= CALLS_PER_TURN
