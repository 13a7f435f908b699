"""The background loop: when to scan what."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from portspec import log
from portspec.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.examine import Examiner
    from portspec.inventory import Target

JITTER = 0.1  # of the interval: hosts of one round do not all start in one moment
MAX_JITTER = 60.0  # seconds

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


class Monitor:
    """Scans every target on its interval and keeps `snapshot` up to date.

    Targets of one interval form a group that is scanned in rounds: the first at once, each further one
    an interval after the one before, every host a random moment later (up to JITTER). A host that is still
    being scanned when its next round begins is left out of that round, and the round counts as an overrun.
    At most `places` hosts with a name are in progress, those being resolved included, and as many with an address.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        examiner: Examiner,
        *,
        places: int = 128,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.snapshot = Snapshot.of(targets)
        self._targets = tuple(targets)
        self._examiner = examiner
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._name_places = asyncio.Semaphore(places)
        self._address_places = asyncio.Semaphore(places)
        self._busy: set[str] = set()

    async def run(self) -> None:
        """Scan until cancelled."""
        groups: dict[float, list[Target]] = {}
        for target in self._targets:
            groups.setdefault(target.config.interval, []).append(target)
        async with asyncio.TaskGroup() as tasks:
            for interval, group in groups.items():
                tasks.create_task(self._keep(interval, group, tasks))

    async def _keep(self, interval: float, group: Sequence[Target], tasks: asyncio.TaskGroup) -> None:
        begin = self._clock.now()
        number = 0
        while True:
            due = [target for target in group if target.host not in self._busy]
            if len(due) < len(group):
                self._note_overrun(interval, len(group) - len(due))
            self._rng.shuffle(due)
            self._busy.update(target.host for target in due)
            widest = min(interval * JITTER, MAX_JITTER) if number else 0.0
            if due:
                tasks.create_task(self._round(interval, due, widest))
            # After a pause of the whole machine the missed rounds are not made up for.
            number = max(number, int((self._clock.now() - begin) / interval)) + 1
            await self._clock.sleep(begin + number * interval - self._clock.now())

    async def _round(self, interval: float, due: Sequence[Target], widest: float) -> None:
        started = self._clock.now()
        delays = sorted(self._rng.uniform(0.0, widest) for _ in due)
        timed = [(started + delay, target) for delay, target in zip(delays, due, strict=True)]
        async with asyncio.TaskGroup() as scans:
            # Apart, so that a name server which does not answer holds up no host that needs none.
            for places, needs_lookup in ((self._name_places, True), (self._address_places, False)):
                share = [(at, target) for at, target in timed if (target.address is None) is needs_lookup]
                scans.create_task(self._start(share, places, scans))
        self.snapshot = replace(self.snapshot, rounds=self.snapshot.rounds + 1)
        verdicts = Counter(self.snapshot.hosts[target.host].verdict.value for target in due)
        _log.info(
            "round finished",
            interval_seconds=interval,
            hosts=len(due),
            **{name: verdicts[name] for name in ("in_spec", "out_of_spec", "unknown")},
            duration_seconds=round(self._clock.now() - started, 3),
        )

    async def _start(
        self, timed: Sequence[tuple[float, Target]], places: asyncio.Semaphore, scans: asyncio.TaskGroup
    ) -> None:
        for at, target in timed:
            if (ahead := at - self._clock.now()) > 0:
                await self._clock.sleep(ahead)
            await places.acquire()
            scans.create_task(self._scan(target, places))

    async def _scan(self, target: Target, places: asyncio.Semaphore) -> None:
        try:
            result = await self._examiner.examine(target)
            self.snapshot = self.snapshot.after(
                target.host,
                result,
                probes_sent=self._examiner.probes_sent,
                answers_dropped=self._examiner.answers_dropped,
            )
        finally:
            self._busy.discard(target.host)
            places.release()

    def _note_overrun(self, interval: float, late: int) -> None:
        self.snapshot = replace(self.snapshot, overruns=self.snapshot.overruns + 1)
        _log.warning(
            "round overrun: hosts of the last round are still being scanned and are left out of this one; "
            "raise interval or parallelscans, or scan fewer ports",
            interval_seconds=interval,
            hosts_left_out=late,
        )
