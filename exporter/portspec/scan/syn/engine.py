"""The SYN engine's thread: receive, judge, expire, send; in batches over all addresses."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from portspec.scan.job import Failure
from portspec.scan.loss import PathLoss
from portspec.scan.pacing import Pacer
from portspec.scan.syn.lane import Lane
from portspec.scan.syn.packets import Answers
from portspec.scan.syn.reference_ports import AFTER, BEFORE
from portspec.scan.syn.state import UNSENT
from portspec.scan.syn.table import LaneTable
from portspec.scan.syn.timing import MAX_IN_FLIGHT
from portspec.scan.way import Silence, Ways, failure, rejected_here
from portspec.scan.work import EngineThread, Work, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from portspec.scan.job import Observation
    from portspec.scan.syn.lane import Load
    from portspec.scan.syn.packets import Probes
    from portspec.scan.syn.socket import Sent
    from portspec.scan.way import Network, Way

MAX_BATCH = 2048  # probes in one call
LEAST_SHARE = 128  # probes to one address in a batch, if it has so many: each address costs as much as tens of probes
LEAST_IN_FLIGHT = 1024
PAUSE = 0.005  # seconds to wait when the kernel has no room for probes


class Channel(Protocol):
    """What the engine does to the network; RawChannel is the real one."""

    first_source_port: int
    dropped: int

    @property
    def network(self) -> Network:
        """What is asked about routes."""
        ...

    def wake_on(self, fd: int) -> None:
        """Have wait() return when a descriptor is readable."""
        ...

    def wait(self, seconds: float | None) -> None:
        """Wait until something has arrived, at most so long."""
        ...

    def send(self, family: int, probes: Probes) -> Sent:
        """Send up to MAX_BATCH probes of one family."""
        ...

    def receive(self) -> list[Answers]:
        """Give what has arrived since the last call."""
        ...

    def close(self) -> None:
        """Close every socket."""
        ...


class SynEngine(EngineThread):
    """Probes with single SYNs through a channel, which it closes.

    `timeout` in seconds is how long the first answer of an address is waited for, in each of 1 + `retries` attempts;
    for the next ones it is as long as its answers take. Both may be set anew, for the addresses to come. `rate` in
    probes per second, or a `pacer` that engines share.
    """

    name = "syn"

    def __init__(
        self,
        channel: Channel,
        *,
        timeout: float = 0.9,
        retries: int = 2,
        rate: float | None = None,
        pacer: Pacer | None = None,
        clock: Callable[[], float] = time.monotonic,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__()
        self._channel = channel
        self.timeout = timeout
        self.retries = retries
        self._ways = Ways(channel.network)
        self._pacer = pacer or Pacer(rate)
        self._clock = clock
        self._entropy = entropy
        self._table = LaneTable(entropy)
        self._loss = PathLoss()
        self._works: list[Work[Lane]] = []
        self._lanes: deque[Lane] = deque()
        self._queued: deque[Lane] = deque()  # whose address another lane is busy with
        self._window = MAX_IN_FLIGHT
        self._pause_until = 0.0
        channel.wake_on(self._wake)

    # The rest runs in the engine's thread.

    def _turn(self) -> None:
        self._channel.wait(self.step())
        self._quieten()

    def step(self) -> float | None:
        """Do all that is to be done now; gives how many seconds to wait for answers or jobs (None: for ever)."""
        self._admit()
        self._harvest()
        now = self._clock()
        self._expire(now)
        self._finish(now)
        is_at_work = self._launch(now) or self._inbox or self._startable()
        return self._look(self._works, now, 0.0 if is_at_work else self._patience(now))

    def _admit(self) -> None:
        """Begin the jobs that have come, and what waited for an address to become free."""
        while self._inbox:
            job, future = self._inbox.popleft()
            if future.cancelled():
                continue
            try:
                work = Work(job, future, self._clock(), self._lane, self._pacer)
            except Exception as error:  # noqa: BLE001 - as in _run
                fail(future, error)
                continue
            self._works.append(work)
            self._queued.extend(work.lanes)
            self.stats.ports_submitted += len(work.lanes) * len(job.ports)
        self._take_more_ports(self._works)
        now = self._clock()
        self._answer_so_far(self._works, now)
        starting: dict[str, tuple[Lane, str]] = {}
        for _ in range(len(self._queued)):
            lane = self._queued.popleft()
            if lane.address in self._table or lane.address in starting:
                self._queued.append(lane)
            elif (way := self._way(lane, now)) is not None:
                lane.way = way
                starting[lane.address] = (lane, way.route.source)
                self._lanes.append(lane)
        self._table.add(list(starting.values()))

    def _startable(self) -> bool:
        return any(lane.address not in self._table for lane in self._queued)

    def _lane(self, work: Work[Lane], address: str) -> Lane:
        return Lane(
            work,
            address,
            timeout=self.timeout,
            retries=self.retries,
            path_loss=self._loss,
            shift=self._entropy(1)[0],
        )

    def _way(self, lane: Lane, now: float) -> Way | None:
        try:
            return self._ways.to(lane.address, now)
        except OSError as error:
            lane.failure = failure(lane.address, error.errno or 0)
            return None

    def _harvest(self) -> None:
        """Hand the proven answers to their lanes."""
        dropped = self._channel.dropped
        batches = self._channel.receive()
        if self._channel.dropped > dropped:
            self._overflowed(self._channel.dropped - dropped)
        if not batches:
            return
        answers = Answers.joined(batches)
        places, good = self._table.proven(answers)
        if not good.all():
            answers, places = answers.only(good), places[good]
        if (own := answers.kind == UNSENT).any():
            for place, _ in _grouped(places[own]):
                lane = self._table.lane(place)
                lane.failure = lane.failure or rejected_here(lane.address)
            answers, places = answers.only(~own), places[~own]
        if not len(answers):
            return
        slots = (answers.source_port - np.uint16(self._channel.first_source_port)).astype(np.uint8)
        for place, rows in _grouped(places):
            self.stats.ports_settled += self._table.lane(place).harvest(
                answers.port[rows], slots[rows], answers.kind[rows], answers.at[rows], answers.direct[rows]
            )

    def _overflowed(self, dropped: int) -> None:
        """Answers came faster than they were read: ask for fewer at once, and count on silence that was none."""
        self.stats.answers_dropped += dropped
        in_flight = self._window - self._free()
        self._window = max(LEAST_IN_FLIGHT, in_flight // 2)
        for lane in self._lanes:
            lane.missed()

    def _expire(self, now: float) -> None:
        for lane in self._lanes:
            lane.expire(now)
            if lane.is_doubtful:
                self._conclude(lane, now)

    def _conclude(self, lane: Lane, now: float) -> None:
        """Let silence count, if something could have been heard."""
        silence = lane.way.silence(now, has_answered=lane.answered) if lane.way else Silence.COUNTS
        if isinstance(silence, Failure):
            lane.failure = silence
        elif silence is Silence.COUNTS:
            self.stats.ports_settled += lane.conclude()
        elif silence is Silence.ASK_AGAIN:
            lane.ask_again(now)

    def _finish(self, now: float) -> None:
        """Deliver the jobs that are complete, drop the cancelled ones, let go of lanes that are over."""
        for lane in [lane for lane in self._lanes if lane.is_over]:
            self._let_go(lane)
        for work in [work for work in self._works if work.is_over]:
            self._drop(work)
            work.deliver(now)
            work.release()

    def _drop(self, work: Work[Lane]) -> None:
        self._works.remove(work)
        for lane in work.lanes:
            self.stats.ports_settled += lane.unsettled
            if lane in self._queued:
                self._queued.remove(lane)
            elif lane in self._lanes:
                self._let_go(lane)

    def _let_go(self, lane: Lane) -> None:
        self._lanes.remove(lane)
        self._table.remove(lane)

    def _launch(self, now: float) -> bool:
        """Send what windows and pace allow; gives whether anything was."""
        if now < self._pause_until:
            return False
        ready = [(lane, room) for lane in self._lanes if (room := lane.room) and lane.rest_until <= now]
        if not ready:
            return False
        leave = self._pacer.take(min(MAX_BATCH, self._free()), now)
        loads: dict[int, list[Load]] = {socket.AF_INET: [], socket.AF_INET6: []}
        left = leave
        for number, (lane, room) in enumerate(ready):
            if not left:
                break
            share = min(left, max(LEAST_SHARE, -(-left // (len(ready) - number))))
            most = lane.work.pacer.take(min(share, room), now)
            load = lane.take(most, now) if most else None
            lane.work.pacer.put_back(most - (len(load) if load else 0))
            if load:
                left -= len(load)
                loads[lane.family].append(load)
            self._lanes.rotate(-1)  # who came now stands last the next time
        sent = sum(self._transmit(family, some) for family, some in loads.items() if some)
        self._pacer.put_back(leave - sent)
        self.stats.probes_sent += sent
        if self._window < MAX_IN_FLIGHT:
            self._window += sent // 8
        return sent > 0

    def _free(self) -> int:
        return max(0, self._window - sum(lane.in_flight for lane in self._lanes))

    def _transmit(self, family: int, loads: list[Load]) -> int:
        """Send loads of one family; gives how many probes went out."""
        first_port = self._channel.first_source_port
        counts = [len(some) for load in loads for some in load.parts]
        places = np.repeat(np.repeat([self._table.place(load.lane) for load in loads], 3), counts)
        slots = [slot for load in loads for slot in (BEFORE, load.lane.slot(load.attempt), AFTER)]
        source_ports = np.repeat(np.array(slots, np.uint16) + np.uint16(first_port), counts)
        ports = np.concatenate([some for load in loads for some in load.parts])
        report = self._channel.send(family, self._table.probes(places, source_ports, ports))
        gone = np.ones(len(ports), np.bool_)
        for unsent in report.unsent:
            gone[unsent.first : unsent.last] = False
        start = total = 0
        for load in loads:
            end = start + len(load)
            lane = load.lane
            count = lane.sent(load, gone[start:end], report.at[start:end])
            lane.work.probes += count
            lane.work.pacer.put_back(len(load) - count)
            total += count
            start = end
        for unsent in report.unsent:
            lane = self._table.lane(int(places[unsent.first]))
            if unsent.error:
                lane.failure = lane.failure or failure(lane.address, unsent.error)
            else:
                self._pause_until = self._clock() + PAUSE
        return total

    def _patience(self, now: float) -> float | None:
        """Give how long nothing can happen but an answer: until a probe expires or the pace allows the next."""
        times = [time for lane in self._lanes if (time := lane.next_expiry()) is not None]
        if self._free():
            held_back = [max(lane.work.pacer.next_at(now), lane.rest_until) for lane in self._lanes if lane.room]
            if held_back:
                times.append(max(self._pacer.next_at(now), min(held_back), self._pause_until))
        times.extend(lane.ask_at for lane in self._lanes if lane.is_doubtful)
        if any(lane.is_over for lane in self._lanes) or any(work.is_over for work in self._works):
            return 0.0
        return max(0.0, min(times) - self._clock()) if times else None

    def _quieten(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _forget(self) -> list[Future[Observation]]:
        futures = [work.future for work in self._works]
        self.stats.ports_settled += sum(lane.unsettled for work in self._works for lane in work.lanes)
        self._works.clear()
        self._lanes.clear()
        self._queued.clear()
        self._table = LaneTable(self._entropy)
        return futures

    def _release(self) -> None:
        self._channel.close()


def _grouped(places: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.intp] | slice]]:
    """Give each value that occurs, and where."""
    if (places == places[0]).all():
        yield int(places[0]), slice(None)
        return
    order = np.argsort(places, kind="stable")
    edges = np.flatnonzero(np.diff(places[order])) + 1
    for rows in np.split(order, edges):
        yield int(places[rows[0]]), rows
