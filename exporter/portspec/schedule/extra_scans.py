"""Extra scans between the rounds: started when due, a few at a time, so that they delay no round."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from portspec.schedule.agenda import Agenda, ExtraScan, PlannedScan, jitter, pauses

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from portspec.clock import Clock
    from portspec.inventory import Target
    from portspec.state.snapshot import HostState, ScanResult

ROUNDS_PER_EXTRA_PLACE: Final = 4  # one place for so many of the rounds'
MAX_SWEEP_GAP: Final = 5.0  # seconds between two looks that belong to one sweep, at most


class _Queue:
    """The looks at hosts of one kind, and how many more may be begun."""

    def __init__(self, places: int) -> None:
        self.agenda = Agenda()
        self.places = places
        self.running = 0
        self.held = 0  # places

    @property
    def first(self) -> PlannedScan | None:
        return self.agenda.first() if self.held < self.places else None


class _Turn:
    """A place of a queue, given back once."""

    def __init__(self, queue: _Queue) -> None:
        queue.held += 1
        self._queue: _Queue | None = queue

    def end(self) -> None:
        """Return the place back, unless that was done before."""
        if self._queue:
            self._queue.held -= 1
            self._queue = None


class ExtraScans:
    """Begins looks at hosts when they are due: those at hosts with a name and those with an address apart.

    `begin` starts a scan in a group of tasks, or returns None if it is not needed any more; it is given what to call
    when the scan is slow, or only waits for others. Of each kind one runs for each ROUNDS_PER_EXTRA_PLACE of the
    `places` that the rounds have, slow ones not counted; the others wait in the agenda. Scans that follow each other
    closely are one sweep; `on_sweep` is called when one begins. `recheck` are the seconds between two scans of the
    ports that deviate, 0 for never; it may be changed.
    """

    def __init__(
        self,
        begin: Callable[[str, ExtraScan, asyncio.TaskGroup, Callable[[], object]], asyncio.Task[None] | None],
        on_sweep: Callable[[], object],
        *,
        places: int,
        recheck: float,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.recheck = recheck
        self._begin = begin
        self._on_sweep = on_sweep
        self._clock = clock
        self._rng = rng
        self._failures: Counter[str] = Counter()  # by host: scans in a row that could not see everything
        self._queues = {needs_lookup: _Queue(_share(places)) for needs_lookup in (True, False)}
        self._tasks: asyncio.TaskGroup | None = None
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = math.inf
        self._sweep_until = -math.inf

    async def run(self) -> None:
        """Begin what is due until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                self._begin_due()
                await asyncio.Event().wait()
            finally:
                self._tasks = self._alarm = None

    def set_places(self, places: int) -> None:
        """Go on with another number of places of the rounds."""
        for queue in self._queues.values():
            queue.places = _share(places)
        self._begin_due()

    def note(self, host: str, result: ScanResult) -> None:
        """Take note of a scan: each further one that could not see everything is repeated after a longer pause."""
        if result.judgement.failure:
            self._failures[host] += 1
        else:
            self._failures.pop(host, None)

    def forget(self, host: str) -> None:
        """Plan no look at a host, and forget how often it could not be seen."""
        self._withdraw(host, *ExtraScan)
        self._failures.pop(host, None)

    def plan(self, state: HostState, done: ExtraScan | None) -> float:
        """Plan the looks at a host after one of a kind, or none was done; returns when the first is, by the clock.

        What was planned before stays so, unless it was done now: a scan does what a recheck does, too. Infinity if
        nothing is planned.
        """
        wanted = pauses(state, self._failures.get(state.host, 0), self.recheck)
        for look in ExtraScan:
            if look not in wanted:
                self._withdraw(state.host, look)
            elif done in (ExtraScan.RETRY, look) or not self._is_planned(state.host, look):
                self.put(state.target, look, wanted[look])
        return min(queue.agenda.at(state.host) for queue in self._queues.values())

    def put(self, target: Target, look: ExtraScan, pause: float) -> None:
        """Plan a look after a pause in seconds, a little earlier at random, in place of one that was planned."""
        spread = jitter(pause)
        at = self._clock.now() + pause - self._rng.uniform(0.0, spread)
        self._withdraw(target.host, look)
        self._queues[target.address is None].agenda.put(PlannedScan(target.host, look, at, spread))
        if at < self._alarm_at:
            self._set_alarm()

    def _withdraw(self, host: str, *looks: ExtraScan) -> None:
        for queue in self._queues.values():
            for look in looks:
                queue.agenda.withdraw(host, look)

    def _is_planned(self, host: str, look: ExtraScan) -> bool:
        return any(queue.agenda.planned(host, look) for queue in self._queues.values())

    @property
    def planned(self) -> int:
        """The number of looks that wait for their time, or for a place."""
        return sum(len(queue.agenda) for queue in self._queues.values())

    @property
    def next_at(self) -> float | None:
        """The time of the first look that is planned, by the clock; None without any."""
        return min((due.at for queue in self._queues.values() if (due := queue.agenda.first())), default=None)

    @property
    def due_at(self) -> float:
        """The time of the first look that is planned and has a place, by the clock; infinity without any."""
        return min((due.at for queue in self._queues.values() if (due := queue.first)), default=math.inf)

    @property
    def is_under_way(self) -> bool:
        """True while a sweep is."""
        if any(queue.running for queue in self._queues.values()):
            return True
        now = self._clock.now()
        firsts = [due for queue in self._queues.values() if (due := queue.first)]
        return now < self._sweep_until and any(due.at - now <= _gap(due) for due in firsts)

    def _begin_due(self) -> None:
        """Begin all that is due and has a place."""
        if self._tasks is None:
            return
        now = self._clock.now()
        for queue in self._queues.values():
            while queue.held < queue.places and (due := queue.agenda.take(now)):
                turn = _Turn(queue)
                if look := self._begin(due.host, due.look, self._tasks, partial(self._give_way, turn)):
                    if now > self._sweep_until and not any(other.running for other in self._queues.values()):
                        self._on_sweep()
                    self._sweep_until = now + _gap(due)
                    queue.running += 1
                    look.add_done_callback(partial(self._end, queue, due, turn))
                else:
                    turn.end()
        self._set_alarm()

    def _give_way(self, turn: _Turn) -> None:
        turn.end()
        self._begin_due()

    def _end(self, queue: _Queue, due: PlannedScan, turn: _Turn, _: asyncio.Task[None]) -> None:
        turn.end()
        queue.running -= 1
        self._sweep_until = max(self._sweep_until, self._clock.now() + _gap(due))
        self._begin_due()

    def _set_alarm(self) -> None:
        """Wake up when the next look is due that has a place."""
        if self._tasks is None:
            return
        at = self.due_at
        if self._alarm and at == self._alarm_at:
            return
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_at = at
        if at < math.inf:
            self._alarm = self._tasks.create_task(self._wake(at))

    async def _wake(self, at: float) -> None:
        await self._clock.sleep(at - self._clock.now())
        self._alarm, self._alarm_at = None, math.inf
        self._begin_due()


def _share(places: int) -> int:
    return max(1, places // ROUNDS_PER_EXTRA_PLACE)


def _gap(due: PlannedScan) -> float:
    """Return how many seconds may lie between a look and the next one of the same sweep."""
    return min(due.spread, MAX_SWEEP_GAP)
