"""The background loop: when to scan what."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from portspec import log
from portspec.limit import Limit
from portspec.snapshot import HostState, HostTable, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from portspec.examine import Examiner
    from portspec.inventory import Target

JITTER = 0.1  # of the interval: hosts of one round do not all start in one moment
MAX_JITTER = 60.0  # seconds
_AT_ONCE = 100  # hosts judged before the event loop may go on
LONGEST_LOOK_AWAY = 30.0  # seconds between two looks at the wall clock, which may be set at any time

_log = log.get("monitor")


class Clock(Protocol):
    """A monotonic clock that one can wait on; tests drive their own."""

    def now(self) -> float:
        """Give the time in seconds, from no particular beginning."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so long."""
        ...


class SystemClock:
    """The monotonic clock of the system: it does not jump when somebody sets the time."""

    def now(self) -> float:
        """Give time.monotonic()."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class _Group:
    """The hosts of one interval: those of a round begin together."""

    interval: float
    hosts: dict[str, Target] = field(default_factory=dict)
    keeper: asyncio.Task[None] | None = None


class _Place:
    """A place of a limit, given back once."""

    __slots__ = ("_limit",)

    def __init__(self, limit: Limit) -> None:
        self._limit: Limit | None = limit

    def release(self) -> None:
        """Give the place back, unless that was done before."""
        if self._limit:
            self._limit.release()
            self._limit = None


class Monitor:
    """Scans every target on its interval and keeps `snapshot` up to date.

    Targets of one interval form a group that is scanned in rounds: the first at once, each further one
    an interval after the one before, every host a random moment later (up to JITTER). A host that is still
    being scanned when its next round begins is left out of that round, and the round counts as an overrun.
    At most `places` hosts with a name are in progress, those being resolved included, and as many with an address;
    hosts that wait for the scan of another host with the same address are not counted.

    `restored` are states from before the start. `on_state` is told of each host's state before and after a scan.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        examiner: Examiner,
        *,
        places: int = 128,
        restored: Mapping[str, HostState] | None = None,
        on_state: Callable[[HostState, HostState], object] = lambda *_: None,
        clock: Clock | None = None,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        restored = restored or {}
        self.snapshot = Snapshot(HostTable(restored.get(target.host) or HostState(target) for target in targets))
        self._targets = {target.host: target for target in targets}
        self._examiner = examiner
        self._on_state = on_state
        self._clock = clock or SystemClock()
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._name_places, self._address_places = Limit(places), Limit(places)
        self._groups: dict[float, _Group] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._busy: dict[str, float | None] = {}  # the interval whose round scans it; None beside the rounds
        self._ended: Counter[float | None] = Counter()  # rounds, by interval
        self._running: dict[str, asyncio.Task[None]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._judged_at = wall_clock()

    async def run(self) -> None:
        """Scan until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._regroup()
                self._watcher = self._tasks.create_task(self._watch_exceptions())
        finally:
            self._tasks = None

    def apply(
        self,
        targets: Sequence[Target],
        examiner: Examiner | None = None,
        *,
        places: int | None = None,
        restored: Mapping[str, HostState] | None = None,
    ) -> None:
        """Go on with other targets, and with another examiner and other places if given.

        `restored` are states of new targets, from before. Hosts that are gone, or are to be scanned otherwise, stop
        being scanned; those to be scanned otherwise and those that are new are scanned at once; all others keep their
        state, their schedule and a scan that is on its way.
        """
        old = self._targets
        self._targets = {target.host: target for target in targets}
        before = self.snapshot.hosts
        self.snapshot = self.snapshot.with_targets(targets, self._wall_clock(), restored or {})
        for host, state in before.items():
            after = self.snapshot.hosts.get(host)
            is_scanned_anew = after is not None and _is_scanned_otherwise(after.target, old.get(host))
            if after is not None and after.conclusive is not state.conclusive and not is_scanned_anew:
                self._on_state(state, after)  # of the others the scan that is about to begin tells
        if examiner:
            self._examiner = examiner
        if places:
            self._name_places.most = self._address_places.most = places
        new = [target for target in targets if _is_scanned_otherwise(target, old.get(target.host))]
        fresh = {target.host for target in new}
        gone = old.keys() - self._targets.keys()
        for host in gone | fresh:
            self._busy.pop(host, None)
            if scan := self._running.pop(host, None):
                scan.cancel()
        if self._tasks and self._watcher:
            self._watcher.cancel()
            self._watcher = self._tasks.create_task(self._watch_exceptions())
            begun = self._regroup()
            self._begin([target for target in new if target.config.interval not in begun])

    def adopt(self, states: Iterable[HostState]) -> None:
        """Go on from states that another exporter found later, as far as their hosts are scanned here."""
        for state in states:
            if before := self.snapshot.hosts.get(state.host):
                after = state.under(before.target, self._wall_clock())
                self.snapshot = self.snapshot.with_state(after)

    @property
    def under_way(self) -> Mapping[float | None, int]:
        """The intervals of which a round is under way, None for scans beside the rounds; how many have ended before."""
        return {interval: self._ended[interval] for interval in set(self._busy.values())}

    def scan_now(self, host: str) -> bool:
        """Start a scan of a host, KeyError if there is none of that name; False if one is on its way already."""
        target = self._targets[host]
        if host in self._busy or self._tasks is None:
            return False
        self._begin([target])
        return True

    def _regroup(self) -> set[float]:
        """Sort the targets into groups; gives the intervals of the groups that begin."""
        for group in self._groups.values():
            group.hosts = {}
        for target in self._targets.values():
            interval = target.config.interval
            self._groups.setdefault(interval, _Group(interval)).hosts[target.host] = target
        begun = set()
        for interval, group in list(self._groups.items()):
            if not group.hosts:
                del self._groups[interval]
                if group.keeper:
                    group.keeper.cancel()
            elif group.keeper is None and self._tasks:
                group.keeper = self._tasks.create_task(self._keep(group))
                begun.add(interval)
        return begun

    async def _keep(self, group: _Group) -> None:
        interval = group.interval
        begin = self._clock.now()
        number = 0
        while True:
            due = [target for target in group.hosts.values() if target.host not in self._busy]
            if late := sum(self._busy.get(host) == interval for host in group.hosts):
                self._note_overrun(interval, late)
            self._rng.shuffle(due)
            widest = min(interval * JITTER, MAX_JITTER) if number else 0.0
            self._begin(due, widest, interval)
            # After a pause of the whole machine the missed rounds are not made up for.
            number = max(number, int((self._clock.now() - begin) / interval)) + 1
            await self._clock.sleep(begin + number * interval - self._clock.now())

    def _begin(self, due: Sequence[Target], widest: float = 0.0, interval: float | None = None) -> None:
        """Begin to scan targets over the next `widest` seconds: a round of an interval, or some of them beside it."""
        if due and self._tasks:
            self._busy.update((target.host, interval) for target in due)
            self._tasks.create_task(self._round(due, widest, interval))

    async def _round(self, due: Sequence[Target], widest: float, interval: float | None) -> None:
        started = self._clock.now()
        delays = sorted(self._rng.uniform(0.0, widest) for _ in due)
        timed = [(started + delay, target) for delay, target in zip(delays, due, strict=True)]
        async with asyncio.TaskGroup() as scans:
            # Apart, so that a name server which does not answer holds up no host that needs none.
            for places, needs_lookup in ((self._name_places, True), (self._address_places, False)):
                share = [(at, target) for at, target in timed if (target.address is None) is needs_lookup]
                scans.create_task(self._start(share, places, scans, interval))
        self._ended[interval] += 1
        if interval is None:
            return
        self.snapshot = replace(self.snapshot, rounds=self.snapshot.rounds + 1)
        states = [state for target in due if (state := self.snapshot.hosts.get(target.host))]
        verdicts = Counter(state.verdict.value for state in states)
        _log.info(
            "round finished",
            interval_seconds=interval,
            hosts=len(states),
            **{name: verdicts[name] for name in ("in_spec", "out_of_spec", "unknown")},
            duration_seconds=round(self._clock.now() - started, 3),
        )

    async def _start(
        self,
        timed: Sequence[tuple[float, Target]],
        places: Limit,
        scans: asyncio.TaskGroup,
        interval: float | None,
    ) -> None:
        for at, target in timed:
            if (ahead := at - self._clock.now()) > 0:
                await self._clock.sleep(ahead)
            await places.acquire()
            place = _Place(places)
            if self._is_due(target):
                scan = scans.create_task(self._scan(target, place, is_fresh=interval is None))
                self._running[target.host] = scan
                scan.add_done_callback(partial(self._end_scan, target.host, place))
            else:
                place.release()

    def _is_due(self, target: Target) -> bool:
        """Tell whether a target is still to be scanned when its turn comes: it may have left or changed meanwhile."""
        host = target.host
        is_waiting = host in self._busy and host not in self._running
        return is_waiting and not _is_scanned_otherwise(target, self._targets.get(host))

    async def _scan(self, target: Target, place: _Place, *, is_fresh: bool) -> None:
        host = target.host
        result = await self._examiner.examine(
            target, self.snapshot.hosts[host].conclusive, is_fresh=is_fresh, on_shared=place.release
        )
        before = self.snapshot.hosts[host]
        if before.target != target or self._has_lapsed(target, result.finished_at):
            result = result.judged(before.target, self._wall_clock())
        self.snapshot = self.snapshot.after(
            host,
            result,
            probes_sent=self._examiner.probes_sent,
            answers_dropped=self._examiner.answers_dropped,
        )
        after = self.snapshot.hosts[host]
        if before.latest and before.verdict is not after.verdict:  # a host in spec as before it was unknown is news
            _log.info("verdict changed", host=host, before=before.verdict.value, after=after.verdict.value)
        self._on_state(before, after)

    def _has_lapsed(self, target: Target, judged_at: float) -> bool:
        """Tell whether an exception has ended since a result was judged."""
        return bool(target.exceptions) and any(
            judged_at < item.until <= self._wall_clock() for item in target.exceptions
        )

    def _end_scan(self, host: str, place: _Place, scan: asyncio.Task[None]) -> None:
        """Make room for the next; called for a scan that was cancelled before it began, too."""
        place.release()
        if self._running.get(host) is scan:
            del self._running[host]
            self._busy.pop(host, None)

    async def _watch_exceptions(self) -> None:
        """Judge hosts anew when an exception lapses: its deviations count from then on, not from the next scan."""
        while True:
            since, now = self._judged_at, self._wall_clock()
            self._judged_at = now
            await self._judge_lapsed(since, now)
            ends = [item.until for target in self._targets.values() for item in target.exceptions if now < item.until]
            await self._clock.sleep(min(max(min(ends, default=math.inf) - now, 0.0), LONGEST_LOOK_AWAY))

    async def _judge_lapsed(self, since: float, now: float) -> None:
        """Judge the hosts anew one of whose exceptions has ended, or is in force again since the clock was set back."""
        earlier, later = sorted((since, now))
        lapsed = [
            target.host
            for target in self._targets.values()
            if any(earlier < item.until <= later for item in target.exceptions)
        ]
        for number, host in enumerate(lapsed, 1):
            if before := self.snapshot.hosts.get(host):
                after = before.judged(before.target, now)
                if after is not before:
                    self.snapshot = self.snapshot.with_state(after)
                    self._on_state(before, after)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        if lapsed:
            _log.info("exceptions ended: hosts judged anew", hosts=len(lapsed), first=lapsed[0])

    def _note_overrun(self, interval: float, late: int) -> None:
        self.snapshot = replace(self.snapshot, overruns=self.snapshot.overruns + 1)
        _log.warning(
            "round overrun: hosts of the last round are still being scanned and are left out of this one; "
            "raise interval or parallelscans, or scan fewer ports",
            interval_seconds=interval,
            hosts_left_out=late,
        )


def _is_scanned_otherwise(target: Target, old: Target | None) -> bool:
    """Tell whether a target needs another scan than the one it is compared with."""
    return old is None or (target.address, target.config.ports, target.config.specification) != (
        old.address,
        old.config.ports,
        old.config.specification,
    )
