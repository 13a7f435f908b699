"""The SYN engine: a thread that receives, expires, judges and sends probes, in batches over all addresses.

One turn of the thread (step):

1. _begin_jobs: begin the jobs of the inbox, and the addresses that were queued because another job scanned them.
2. _receive: parse what has arrived, check the sequence numbers, pass the answers on to the scans of their addresses.
3. _expire, _conclude: expire probes; judge the silence of addresses that have nothing else left, if their route held.
4. _finish_scans: deliver the jobs that are over.
5. _send: take batches from all addresses, in equal shares, as far as windows and rates allow.

All work is on arrays: nothing here runs once for each packet.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import numpy as np

from portspec.scan.engine import ActiveJob, EngineThread, fail
from portspec.scan.failures import local_rejection, send_failure
from portspec.scan.job import Failure
from portspec.scan.loss import PathLoss
from portspec.scan.pacing import Pacer
from portspec.scan.route import RouteCache, RouteStatus
from portspec.scan.syn.address import SynAddressScan
from portspec.scan.syn.packets import Answers
from portspec.scan.syn.port_states import LOCAL_REJECTION
from portspec.scan.syn.reference_ports import AFTER, BEFORE
from portspec.scan.syn.table import AddressTable
from portspec.scan.syn.timing import MAX_IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from portspec.scan.job import Observation
    from portspec.scan.route import Network, TrackedRoute
    from portspec.scan.syn.batch import ProbeBatch
    from portspec.scan.syn.packets import Probes
    from portspec.scan.syn.socket import Sent

MAX_BATCH = 2048  # probes in one call
MIN_SHARE = 512  # probes to one address in a turn, if it has so many: an address costs as much as a hundred probes
MIN_IN_FLIGHT = 1024
_RANDOM_BYTES = 256
SEND_PAUSE = 0.005  # seconds to wait when the kernel has no buffer for probes


class Channel(Protocol):
    """The engine's access to the network; RawChannel is the real one."""

    first_source_port: int
    dropped: int

    @property
    def network(self) -> Network:
        """What the kernel knows of routes."""
        ...

    def wake_on(self, fd: int) -> None:
        """Make wait() return when a descriptor is readable."""
        ...

    def wait(self, seconds: float | None) -> None:
        """Wait until something has arrived, at most so many seconds."""
        ...

    def send(self, family: int, probes: Probes) -> Sent:
        """Send up to MAX_BATCH probes of one family."""
        ...

    def receive(self) -> list[Answers]:
        """Return what has arrived since the last call."""
        ...

    def close(self) -> None:
        """Close every socket."""
        ...


class SynEngine(EngineThread):
    """Probes with single SYNs.

    Args:
        channel: the access to the network; the engine closes it.
        timeout: seconds to wait for an answer until an address has answered; then its round-trip times decide. May be
            changed at any time, for the jobs that begin later.
        retries: further probes to a port that does not answer; may be changed likewise.
        rate: probes per second over all jobs; None for no limit.
        pacer: used instead of `rate` by engines that share one rate.
        clock: a monotonic clock, in seconds.
        entropy: returns so many random bytes.
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
        self._routes = RouteCache(channel.network)
        self._pacer = pacer or Pacer(rate)
        self._clock = clock
        self._entropy = entropy
        self._random_bytes = bytearray()
        self._table = AddressTable(entropy)
        self._loss = PathLoss()
        self._active_jobs: list[ActiveJob[SynAddressScan]] = []
        self._scans: deque[SynAddressScan] = deque()
        self._queued: deque[SynAddressScan] = deque()  # their address is being scanned for another job
        self._window = MAX_IN_FLIGHT
        self._pause_until = 0.0
        channel.wake_on(self._wake)

    # The rest runs in the engine's thread.

    def _turn(self) -> None:
        self._channel.wait(self.step())
        self._clear_wake_up()

    def step(self) -> float | None:
        """Do everything that is due; return how many seconds to wait for answers or jobs (None: without a limit)."""
        self._begin_jobs()
        self._receive()
        now = self._clock()
        self._expire(now)
        self._finish_scans(now)
        is_at_work = self._send(now) or self._inbox or self._has_startable()
        return self._check_slow_jobs(self._active_jobs, now, 0.0 if is_at_work else self._wait_time(now))

    def _begin_jobs(self) -> None:
        """Begin the jobs of the inbox, and queued scans whose address has become free."""
        while self._inbox:
            job, future = self._inbox.popleft()
            if future.cancelled():
                continue
            try:
                active_job = ActiveJob(job, future, self._clock(), self._new_scan, self._pacer)
            except Exception as error:  # noqa: BLE001 - as in _run
                fail(future, error)
                continue
            self._active_jobs.append(active_job)
            self._queued.extend(active_job.scans)
            self.stats.ports_submitted += len(active_job.scans) * len(job.ports)
        self._add_ports_to_jobs(self._active_jobs)
        now = self._clock()
        self._answer_partial_requests(self._active_jobs, now)
        starting: dict[str, tuple[SynAddressScan, str]] = {}
        for _ in range(len(self._queued)):
            scan = self._queued.popleft()
            if scan.address in self._table or scan.address in starting:
                self._queued.append(scan)
            elif (route := self._track_route(scan, now)) is not None:
                scan.route = route
                starting[scan.address] = (scan, route.current.source)
                self._scans.append(scan)
        self._table.add(list(starting.values()))

    def _has_startable(self) -> bool:
        return any(scan.address not in self._table for scan in self._queued)

    def _new_scan(self, active_job: ActiveJob[SynAddressScan], address: str) -> SynAddressScan:
        return SynAddressScan(
            active_job,
            address,
            timeout=self.timeout,
            retries=self.retries,
            path_loss=self._loss,
            shift=self._random_byte(),
        )

    def _random_byte(self) -> int:
        """Return a random number from 0 to 255; the system is asked for many at once."""
        if not self._random_bytes:
            self._random_bytes = bytearray(self._entropy(_RANDOM_BYTES))
        return self._random_bytes.pop()

    def _track_route(self, scan: SynAddressScan, now: float) -> TrackedRoute | None:
        try:
            return self._routes.track(scan.address, now)
        except OSError as error:
            scan.failure = send_failure(scan.address, error.errno or 0)
            return None

    def _receive(self) -> None:
        """Pass answers with the right sequence number on to the scans of their addresses."""
        dropped = self._channel.dropped
        batches = self._channel.receive()
        if self._channel.dropped > dropped:
            self._handle_overflow(self._channel.dropped - dropped)
        if not batches:
            return
        answers = Answers.joined(batches)
        indices, good = self._table.proven(answers)
        if not good.all():
            answers, indices = answers.only(good), indices[good]
        if (own := answers.kind == LOCAL_REJECTION).any():
            for index, _ in _grouped(indices[own]):
                scan = self._table.scan(index)
                scan.failure = scan.failure or local_rejection(scan.address)
            answers, indices = answers.only(~own), indices[~own]
        if not len(answers):
            return
        slots = (answers.source_port - np.uint16(self._channel.first_source_port)).astype(np.uint8)
        for index, rows in _grouped(indices):
            self.stats.ports_settled += self._table.scan(index).record_answers(
                answers.port[rows], slots[rows], answers.kind[rows], answers.at[rows], answers.direct[rows]
            )

    def _handle_overflow(self, dropped: int) -> None:
        """Answers arrived faster than they were read: reduce the window, and try silent ports once more."""
        self.stats.answers_dropped += dropped
        in_flight = self._window - self._free()
        self._window = max(MIN_IN_FLIGHT, in_flight // 2)
        for scan in self._scans:
            scan.record_drops()

    def _expire(self, now: float) -> None:
        for scan in self._scans:
            scan.expire(now)
            if scan.has_only_suspects:
                self._conclude(scan, now)

    def _conclude(self, scan: SynAddressScan, now: float) -> None:
        """Judge silent ports, if the route has held."""
        status = scan.route.check(now, has_answered=scan.answered) if scan.route else RouteStatus.STABLE
        if isinstance(status, Failure):
            scan.failure = status
        elif status is RouteStatus.STABLE:
            self.stats.ports_settled += scan.conclude()
        elif status is RouteStatus.CHANGED:
            scan.restart_silent_ports(now)

    def _finish_scans(self, now: float) -> None:
        """Deliver the jobs that are over, drop those that were cancelled, remove addresses that are settled."""
        for scan in [scan for scan in self._scans if scan.is_over]:
            self._remove(scan)
        for job in [job for job in self._active_jobs if job.is_over]:
            self._drop_job(job)
            job.deliver(now)
            job.release()

    def _drop_job(self, job: ActiveJob[SynAddressScan]) -> None:
        self._active_jobs.remove(job)
        for scan in job.scans:
            self.stats.ports_settled += scan.unsettled
            if scan in self._queued:
                self._queued.remove(scan)
            elif scan in self._scans:
                self._remove(scan)

    def _remove(self, scan: SynAddressScan) -> None:
        self._scans.remove(scan)
        self._table.remove(scan)

    def _send(self, now: float) -> bool:
        """Send what windows and rates allow; return whether anything was sent."""
        if now < self._pause_until:
            return False
        ready = [(scan, room) for scan in self._scans if (room := scan.room) and scan.rest_until <= now]
        if not ready:
            return False
        allowed = self._pacer.take(min(MAX_BATCH, self._free()), now)
        batches: dict[int, list[tuple[SynAddressScan, ProbeBatch]]] = {socket.AF_INET: [], socket.AF_INET6: []}
        left = allowed
        for number, (scan, room) in enumerate(ready):
            if not left:
                break
            share = min(left, max(MIN_SHARE, -(-left // (len(ready) - number))))
            most = scan.active_job.pacer.take(min(share, room), now)
            batch = scan.take(most, now) if most else None
            scan.active_job.pacer.put_back(most - (len(batch) if batch else 0))
            if batch:
                left -= len(batch)
                batches[scan.family].append((scan, batch))
            self._scans.rotate(-1)  # so that this address is the last in the next turn
        sent = sum(self._send_batches(family, some) for family, some in batches.items() if some)
        self._pacer.put_back(allowed - sent)
        self.stats.probes_sent += sent
        if self._window < MAX_IN_FLIGHT:
            self._window += sent // 8
        return sent > 0

    def _free(self) -> int:
        return max(0, self._window - sum(scan.ports.in_flight for scan in self._scans))

    def _send_batches(self, family: int, batches: list[tuple[SynAddressScan, ProbeBatch]]) -> int:
        """Send batches of one family; return how many probes were sent."""
        first_port = self._channel.first_source_port
        counts = [len(some) for _, batch in batches for some in batch.parts]
        indices = np.repeat(np.repeat([self._table.index(scan) for scan, _ in batches], 3), counts)
        slots = [slot for scan, batch in batches for slot in (BEFORE, scan.slot(batch.attempt), AFTER)]
        source_ports = np.repeat(np.array(slots, np.uint16) + np.uint16(first_port), counts)
        ports = np.concatenate([some for _, batch in batches for some in batch.parts])
        report = self._channel.send(family, self._table.probes(indices, source_ports, ports))
        gone = np.ones(len(ports), np.bool_)
        for unsent in report.unsent:
            gone[unsent.first : unsent.last] = False
        start = total = 0
        for scan, batch in batches:
            end = start + len(batch)
            count = scan.record_sent(batch, gone[start:end], report.at[start:end])
            scan.active_job.probes += count
            scan.active_job.pacer.put_back(len(batch) - count)
            total += count
            start = end
        for unsent in report.unsent:
            scan = self._table.scan(int(indices[unsent.first]))
            if unsent.error:
                scan.failure = scan.failure or send_failure(scan.address, unsent.error)
            else:
                self._pause_until = self._clock() + SEND_PAUSE
        return total

    def _wait_time(self, now: float) -> float | None:
        """Return the seconds until something is due: a probe expires, or a rate allows the next probe."""
        times = [time for scan in self._scans if (time := scan.next_expiry()) is not None]
        if self._free():
            held_back = [max(scan.active_job.pacer.next_at(now), scan.rest_until) for scan in self._scans if scan.room]
            if held_back:
                times.append(max(self._pacer.next_at(now), min(held_back), self._pause_until))
        times.extend(scan.recheck_at for scan in self._scans if scan.has_only_suspects)
        if any(scan.is_over for scan in self._scans) or any(job.is_over for job in self._active_jobs):
            return 0.0
        return max(0.0, min(times) - self._clock()) if times else None

    def _clear_wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _drop_all(self) -> list[Future[Observation]]:
        futures = [job.future for job in self._active_jobs]
        self.stats.ports_settled += sum(scan.unsettled for job in self._active_jobs for scan in job.scans)
        self._active_jobs.clear()
        self._scans.clear()
        self._queued.clear()
        self._table = AddressTable(self._entropy)
        return futures

    def _release(self) -> None:
        self._channel.close()


def _grouped(indices: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.intp] | slice]]:
    """Yield each value that occurs, and its positions."""
    if (indices == indices[0]).all():
        yield int(indices[0]), slice(None)
        return
    order = np.argsort(indices, kind="stable")
    edges = np.flatnonzero(np.diff(indices[order])) + 1
    for rows in np.split(order, edges):
        yield int(indices[rows[0]]), rows
