"""The background loop: when to scan what."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from portspec import log
from portspec.clock import SystemClock
from portspec.exceptions import are_others, is_outdated
from portspec.heartbeat import Heartbeat
from portspec.limit import HeldPlace, Limit
from portspec.ports import PortSet
from portspec.scan import Reason
from portspec.schedule.agenda import JITTER, MAX_JITTER, ExtraScan, jitter
from portspec.schedule.expiry import CLOCK_CHECK_INTERVAL, watch
from portspec.schedule.extra_scans import ExtraScans
from portspec.schedule.rounds import ascending_times, in_slices, shuffle
from portspec.schedule.transition import Transition, caught_up, is_news, prepare
from portspec.state.document import timestamp
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    from portspec.clock import Clock
    from portspec.inventory import Target
    from portspec.schedule.examiner import Examiner

__all__ = ["CLOCK_CHECK_INTERVAL", "JITTER", "MAX_JITTER", "Monitor", "SystemClock"]

RESCAN_DELAY = 1.0  # seconds until hosts are looked at whose silence was not believed
# Seconds for which, of all scans, none may send a probe or end. What a scan waits for takes less: 30 s for an address
# that has stopped answering, the timeout of a look-up, a minute of jitter, a second for a place in the slowest `rate`.
SCAN_PATIENCE = 600.0
_LONGEST_PORTS = 200  # characters

P = ParamSpec("P")

_log = log.get("monitor")


@dataclass(slots=True)
class _Group:
    """The hosts of one interval: those of a round begin together, the next one at `next_at` by the clock."""

    interval: float
    next_at: float
    hosts: dict[str, Target] = field(default_factory=dict)
    keeper: asyncio.Task[None] | None = None


def _for_one_host(
    work: Callable[Concatenate[Monitor, Target, P], Coroutine[Any, Any, None]],
) -> Callable[Concatenate[Monitor, Target, P], Coroutine[Any, Any, None]]:
    """Log what fails in the work for one host, which must not end that for the others."""

    async def guarded(self: Monitor, target: Target, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await work(self, target, *args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever it is
            _log.exception("processing a scan failed", host=target.host)

    return guarded


class Monitor:
    """Scans every target on its interval and keeps `snapshot` up to date.

    Targets of one interval form a group that is scanned in rounds: the first at once, each further one
    an interval after the one before, every host a random moment later (up to JITTER). A host that is still
    being scanned when its next round begins is left out of that round, and the round counts as an overrun.
    At most `places` hosts with a name are in progress, those being resolved included, and as many with an address;
    hosts that are slow, or wait for the scan of another host with the same address, are not counted.

    Between the rounds a host that could not be seen is scanned again after a pause that grows, and ports that deviate
    are looked at again every `recheck` seconds (0: never), in places of their own; see schedule.pauses().

    `restored` are states from before the start. `on_state` is called with each host's state before and after a scan.
    """

    def __init__(  # noqa: PLR0913 - half of them are what tests replace
        self,
        targets: Sequence[Target],
        examiner: Examiner,
        *,
        places: int = 128,
        recheck: float = 0.0,
        restored: Mapping[str, HostState] | None = None,
        on_state: Callable[[HostState, HostState], object] = lambda *_: None,
        clock: Clock | None = None,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        restored = restored or {}
        self.snapshot = Snapshot()
        self._examiner = examiner
        self._on_state = on_state
        self._clock = clock or SystemClock()
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._looks = ExtraScans(
            self._begin_look,
            lambda: self._ended.update([None]),
            places=places,
            recheck=recheck,
            clock=self._clock,
            rng=self._rng,
        )
        self._name_places, self._address_places = Limit(places), Limit(places)
        self._groups: dict[float, _Group] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._busy: dict[str, float | None] = {}  # the interval whose round scans it; None beside the rounds
        self._counted = 0  # scans and rechecks that ended, and retries that began
        self._ended: Counter[float | None] = Counter()  # rounds, by interval
        self._running: dict[str, asyncio.Task[None]] = {}
        self._rechecking: dict[str, asyncio.Task[None]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self.apply(targets, restored=restored)

    async def run(self) -> None:
        """Scan until cancelled. May be called again after it has failed: all rounds begin at once then."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for group in self._groups.values():
                    self._keep_group(group, self._tasks)
                self._tasks.create_task(self._looks.run())
                self._watch_edges(self._tasks)
        finally:
            self._tasks = self._watcher = None
            for group in self._groups.values():
                group.keeper = None
            for hosts in (self._busy, self._running, self._rechecking):
                hosts.clear()
            most = self._name_places.most
            self._name_places, self._address_places = Limit(most), Limit(most)  # also if a fault kept a place

    def apply(
        self,
        targets: Sequence[Target],
        examiner: Examiner | None = None,
        *,
        places: int | None = None,
        recheck: float | None = None,
        restored: Mapping[str, HostState] | None = None,
    ) -> None:
        """Go on with other targets at once, see switch(); `restored` are earlier states of new targets."""
        self.switch(self.prepare(targets, restored), examiner, places=places, recheck=recheck)

    def prepare(self, targets: Iterable[Target], restored: Mapping[str, HostState] | None = None) -> Transition:
        """Return the transition to other targets; in any thread, as long as no other transition is made meanwhile."""
        return prepare(self.snapshot.hosts, targets, self._wall_clock(), restored or {})

    def switch(
        self,
        transition: Transition,
        examiner: Examiner | None = None,
        *,
        places: int | None = None,
        recheck: float | None = None,
    ) -> None:
        """Go on with other targets, and with another examiner, other places and another `recheck` if given.

        Hosts that are gone, or are to be scanned otherwise, stop being scanned; those to be scanned otherwise and those
        that are new are scanned at once; all others keep their state, their schedule and a scan that is on its way.
        """
        before = self.snapshot.hosts
        transition = caught_up(transition, before)
        self.snapshot = replace(self.snapshot, hosts=transition.hosts)
        self._targets, self._watched = transition.targets, transition.watched
        if examiner:
            self._examiner = examiner
        for host in transition.stopped:
            self._give_up(host)
        if places:
            self._name_places.most = self._address_places.most = places
            self._looks.set_places(places)
        begun = self._regroup(transition.groups)
        is_recheck_new = recheck not in (None, self._looks.recheck)
        if recheck is not None:
            self._looks.recheck = recheck
        planned_again = transition.deviating if is_recheck_new else ()
        # of those that were stopped, the scan that is about to begin tells
        for host in dict.fromkeys((*transition.changed, *planned_again)):
            self._go_on(before[host], self.snapshot.hosts[host], is_recheck_new=is_recheck_new)
        if self._tasks:
            self._watch_edges(self._tasks)
            self._begin([target for target in transition.started if target.config.interval not in begun])

    def adopt(self, states: Iterable[HostState]) -> None:
        """Go on from states that another exporter found later, as far as their hosts are scanned here."""
        for state in states:
            if before := self.snapshot.hosts.get(state.host):
                after = state.under(before.target, self._wall_clock())
                self.snapshot = self.snapshot.with_state(after)

    def _give_up(self, host: str) -> None:
        """Scan a host no longer, or not as it was begun."""
        self._busy.pop(host, None)
        self._looks.forget(host)
        for running in (self._running, self._rechecking):
            if task := running.pop(host, None):
                task.cancel()

    def _go_on(self, before: HostState, after: HostState, *, is_recheck_new: bool) -> None:
        """Publish a host that is judged differently now, and plan its extra scans again if their times change."""
        done = ExtraScan.RECHECK if is_recheck_new and after.verdict is Verdict.OUT_OF_SPEC else None
        if is_news(before, after):
            self._take(before, after, done)
        elif done or after.target.config.interval != before.target.config.interval:
            self._store(self._planned(after, done))

    @property
    def under_way(self) -> Mapping[float | None, int]:
        """The intervals of which a round is under way, None for looks beside the rounds; how many have ended before."""
        beside = {None} if self._looks.is_under_way else set()
        return {interval: self._ended[interval] for interval in beside | set(self._busy.values())}

    def heartbeats(self) -> tuple[Heartbeat, Heartbeat]:
        """Return the heartbeats of what begins scans when they are due, and of the scans in progress."""
        due_at = min(self._looks.due_at, *(group.next_at for group in self._groups.values()), math.inf)
        scans = self._examiner.probes_sent + self._counted if self._busy or self._rechecking else None
        return (
            Heartbeat("scheduler", due_at if due_at <= self._clock.now() else None),
            Heartbeat("scans", scans, SCAN_PATIENCE),
        )

    def scan_now(self, host: str) -> bool:
        """Start a scan of a host, KeyError if there is none of that name; False if one is on its way already."""
        target = self._targets[host]
        if host in self._busy or self._tasks is None:
            return False
        self._begin([target])
        return True

    def look_at_unbelieved(self) -> None:
        """Have the hosts scanned soon whose silence was not believed, now that a canary is reachable again."""
        for state in chain.from_iterable(self.snapshot.hosts.chunks):
            failure = state.latest.judgement.failure if state.latest else None
            if failure and failure.reason is Reason.CANARY:
                self._looks.put(state.target, ExtraScan.RETRY, RESCAN_DELAY)

    def _regroup(self, groups: Mapping[float, dict[str, Target]]) -> set[float]:
        """Go on with other groups of targets; returns the intervals of the groups that begin."""
        for interval in self._groups.keys() - groups.keys():
            group = self._groups.pop(interval)
            if group.keeper:
                group.keeper.cancel()
        begun = set()
        for interval, hosts in groups.items():
            group = self._groups.setdefault(interval, _Group(interval, self._clock.now()))
            group.hosts = hosts
            if group.keeper is None and self._tasks:
                self._keep_group(group, self._tasks)
                begun.add(interval)
        return begun

    def _keep_group(self, group: _Group, tasks: asyncio.TaskGroup) -> None:
        group.next_at = self._clock.now()
        group.keeper = tasks.create_task(self._keep(group))

    async def _keep(self, group: _Group) -> None:
        interval = group.interval
        begin = self._clock.now()
        number = 0
        while True:
            order = list(group.hosts.values())
            await in_slices(shuffle(order, self._rng))
            names = [target.host for target in order]
            hosts = group.hosts  # which may be others than before
            due = [hosts[host] for host in names if host not in self._busy and host in hosts]
            if late := list(self._busy.values()).count(interval):
                self._note_overrun(interval, late)
            widest = jitter(interval) if number else 0.0
            self._begin(due, widest, interval)
            # After a pause of the whole machine the missed rounds are not made up for.
            number = max(number, int((self._clock.now() - begin) / interval)) + 1
            group.next_at = begin + number * interval
            await self._clock.sleep(group.next_at - self._clock.now())

    def _begin(self, due: Sequence[Target], widest: float = 0.0, interval: float | None = None) -> None:
        """Begin to scan targets over the next `widest` seconds: a round of an interval, or some of them beside it."""
        if due and self._tasks:
            self._busy.update(dict.fromkeys([target.host for target in due], interval))
            self._tasks.create_task(self._round(due, widest, interval))

    async def _round(self, due: Sequence[Target], widest: float, interval: float | None) -> None:
        started = self._clock.now()
        began = None if interval is None else self._examiner.now()
        async with asyncio.TaskGroup() as scans:
            # Apart, so that a name server which does not answer holds up no host that needs none.
            for places, needs_lookup in ((self._name_places, True), (self._address_places, False)):
                share = [target for target in due if (target.address is None) is needs_lookup]
                times = ascending_times(len(share), started, widest, self._rng)
                scans.create_task(self._start(zip(times, share, strict=True), places, scans, began))
        self._ended[interval] += 1
        if interval is None:
            return
        self.snapshot = replace(self.snapshot, rounds=self.snapshot.rounds + 1)
        verdicts = Counter[str]()
        hosts = self.snapshot.hosts
        states = (state for target in due if (state := hosts.get(target.host)))
        await in_slices(verdicts.update((state.verdict.value,)) for state in states)
        soon = self._looks.next_at
        after = None if soon is None else self._wall_clock() + max(soon - self._clock.now(), 0.0)
        _log.info(
            "round finished",
            interval_seconds=interval,
            hosts=verdicts.total(),
            **{name: verdicts[name] for name in ("in_spec", "out_of_spec", "unknown")},
            **({"looked_at_again": self._looks.planned, "next_look": timestamp(after)} if after else {}),
            duration_seconds=round(self._clock.now() - started, 3),
        )

    async def _start(
        self,
        timed: Iterable[tuple[float, Target]],
        places: Limit,
        scans: asyncio.TaskGroup,
        began: float | None,
    ) -> None:
        """Scan targets at their times; `began` tells when their round did by the examiner's clock, None beside one."""
        for at, target in timed:
            if (ahead := at - self._clock.now()) > 0:
                await self._clock.sleep(ahead)
            await places.acquire()
            place = HeldPlace(places)
            if self._is_due(target):
                if recheck := self._rechecking.pop(target.host, None):
                    recheck.cancel()  # the scan looks at these ports, too
                scan = scans.create_task(self._scan(target, place.release, is_fresh=began is None, round_began=began))
                self._running[target.host] = scan
                scan.add_done_callback(partial(self._end_scan, target.host, place))
            else:
                place.release()

    def _is_due(self, target: Target) -> bool:
        """Return whether a target is still to be scanned when its turn comes: it may have left or changed meanwhile."""
        host = target.host
        is_waiting = host in self._busy and host not in self._running
        return is_waiting and not target.is_scanned_otherwise(self._targets.get(host))

    @_for_one_host
    async def _scan(
        self,
        target: Target,
        give_way: Callable[[], object] = lambda: None,
        *,
        is_fresh: bool = False,
        round_began: float | None = None,
    ) -> None:
        host = target.host
        known = self.snapshot.hosts[host]
        result = await self._examiner.examine(
            target,
            known.conclusive,
            is_fresh=is_fresh,
            round_began=round_began,
            silenced=known.silenced,
            pace=known.pace,
            give_way=give_way,
        )
        before = self.snapshot.hosts[host]
        judged_at = result.finished_at
        if before.target != target or are_others(before.edges, judged_at, self._wall_clock()):
            judged_at = self._wall_clock()
            result = result.judged(before.target, judged_at)
        self._looks.note(host, result)
        self._count()
        self._take(before, before.after(result, judged_at), ExtraScan.RETRY)

    @_for_one_host
    async def _recheck(self, target: Target, give_way: Callable[[], object]) -> None:
        """Scan again the ports of a host that deviate; where that does not suffice, have it scanned."""
        host = target.host
        known = self.snapshot.hosts[host].conclusive
        if known is None:
            return
        addresses = await self._examiner.recheck(target, known, give_way)
        self._count(rechecks=1)
        if addresses is None:
            self._looks.put(target, ExtraScan.RETRY, 0.0)
            return
        before = self.snapshot.hosts[host]
        after = before.after_recheck(addresses, self._wall_clock())
        if after is before:
            self._store(self._planned(after, ExtraScan.RECHECK))
        else:
            self._take(before, after, ExtraScan.RECHECK)
            mended = PortSet.of(item.port for item in set(before.deviations) - set(after.deviations))
            _log.info(
                "deviating ports rechecked",
                host=host,
                verdict=after.verdict.value,
                no_longer_so=str(mended)[:_LONGEST_PORTS],
                deviations=len(after.deviations),
            )

    def _begin_look(
        self, host: str, look: ExtraScan, tasks: asyncio.TaskGroup, give_way: Callable[[], object]
    ) -> asyncio.Task[None] | None:
        """Begin a look beside the rounds; None if the host is being scanned, or is about to be."""
        target = self._targets[host]
        if look is ExtraScan.RECHECK:
            if host in self._running:
                return None
            task = self._rechecking[host] = tasks.create_task(self._recheck(target, give_way))
            task.add_done_callback(partial(self._forget, self._rechecking, host))
            return task
        if host in self._busy:
            return None
        if recheck := self._rechecking.pop(host, None):
            recheck.cancel()
        self._busy[host] = None
        self._count(retries=1)
        task = self._running[host] = tasks.create_task(self._scan(target, give_way))
        task.add_done_callback(partial(self._forget, self._running, host))
        return task

    def _end_scan(self, host: str, place: HeldPlace, scan: asyncio.Task[None]) -> None:
        """Make room for the next; called for a scan that was cancelled before it began, too."""
        place.release()
        self._forget(self._running, host, scan)

    def _forget(self, running: dict[str, asyncio.Task[None]], host: str, task: asyncio.Task[None]) -> None:
        if running.get(host) is task:
            del running[host]
            if running is self._running:
                self._busy.pop(host, None)

    def _take(self, before: HostState, after: HostState, done: ExtraScan | None) -> None:
        """Go on with another state of a host, after a look of that kind, or none; tell of it."""
        after = self._planned(after, done)
        self._store(after)
        if before.latest and before.verdict is not after.verdict:  # a host in spec as before it was unknown is news
            _log.info("verdict changed", host=after.host, before=before.verdict.value, after=after.verdict.value)
        if after.latest:
            self._on_state(before, after)

    def _store(self, state: HostState) -> None:
        if state is not self.snapshot.hosts[state.host]:
            self.snapshot = self.snapshot.with_state(state)

    def _count(self, *, retries: int = 0, rechecks: int = 0) -> None:
        self._counted += 1
        self.snapshot = replace(
            self.snapshot,
            retries=self.snapshot.retries + retries,
            rechecks=self.snapshot.rechecks + rechecks,
            probes_sent=self._examiner.probes_sent,
            answers_dropped=self._examiner.answers_dropped,
        )

    def _planned(self, state: HostState, done: ExtraScan | None) -> HostState:
        """Plan the looks at a host before its next round, after one of a kind or none; returns the state that tells."""
        if state.latest is None:
            return state
        again_at = self._looks.plan(state, done)
        at = min(self._groups[state.target.config.interval].next_at, again_at)
        next_scan = self._wall_clock() + at - self._clock.now()
        if at == again_at:
            _log.debug("extra scan of a host planned", host=state.host, next_scan=timestamp(next_scan))
        return replace(state, next_scan=next_scan)

    def _watch_edges(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to watch the exceptions and the maintenance that there are now."""
        if self._watcher:
            self._watcher.cancel()
        watching = watch(self._watched_states, self._judge, self._clock, self._wall_clock)
        self._watcher = tasks.create_task(watching)

    def _watched_states(self) -> Iterator[HostState]:
        states = map(self.snapshot.hosts.__getitem__, self._watched)
        return (state for state in states if state.latest or state.target.maintenance)

    def _judge(self, host: str, now: float) -> None:
        before = self.snapshot.hosts.get(host)
        if before and is_outdated(before, now):
            self._take(before, before.judged(before.target, now), None)

    def _note_overrun(self, interval: float, late: int) -> None:
        self.snapshot = replace(self.snapshot, overruns=self.snapshot.overruns + 1)
        _log.warning(
            "round overrun: hosts of the last round are still being scanned and are left out of this one; "
            "raise interval or parallelscans, or scan fewer ports",
            interval_seconds=interval,
            hosts_left_out=late,
        )
