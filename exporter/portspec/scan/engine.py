"""What every engine builds on: the jobs in progress, and a thread that works on them until close().

An engine is a subclass of EngineThread. Other threads submit jobs, which wait in an inbox; the engine's thread takes
turns (_turn): it begins the jobs of the inbox as ActiveJob, each with one AddressScan per address, sends, receives,
expires, and delivers the jobs that are over. Only that thread touches an ActiveJob.

A job is *slow* once it has sent fewer than SLOW_RATE probes a second for SLOW_INTERVAL seconds: it waits for a rate,
for an address that limits its answers, or for slow answers. It needs few resources from then on, and its `on_slow` is
called once, so that the caller can begin other jobs. A job is not slow if the rate of all jobs is what limits it.
"""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from portspec.errors import EngineStoppedError
from portspec.restartable import RestartableThread
from portspec.scan.job import EngineStats, Failure, Observation, ScanJob
from portspec.scan.pacing import Pacer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from portspec.ports import PortSet
    from portspec.scan.job import AddressObservation

SLOW_RATE = 100.0  # probes per second
SLOW_INTERVAL = 1.0  # seconds
MAX_FAILED_TURNS = 20  # in a row, before the thread ends: an error at each turn would keep a processor busy for nothing
_RATE_LIMITED_SHARE = 0.8  # of the rate of all jobs: above, the rate is what limits a job


class AddressScan(Protocol):
    """The scan of one address of a job; each engine has its own class for it."""

    failure: Failure | None

    @property
    def unsettled(self) -> int:
        """How many ports have no state yet."""
        ...

    def add_ports(self, ports: PortSet) -> None:
        """Scan more ports, none of which the job has yet."""
        ...

    def observation(self, failure: Failure | None = None) -> AddressObservation:
        """Return what is known now; `failure` is that of an address which is not complete and has none."""
        ...


S_co = TypeVar("S_co", bound=AddressScan, covariant=True)


class ActiveJob(Generic[S_co]):
    """A job in progress. `make_scan` makes the scan of an address, `shared` is the pacer of all jobs."""

    __slots__ = (
        "_checked_at", "_passed", "_probes", "_shared",
        "future", "is_slow", "job", "pacer", "probes", "scans", "started",
    )  # fmt: skip

    def __init__(
        self,
        job: ScanJob,
        future: Future[Observation],
        now: float,
        make_scan: Callable[[ActiveJob[S_co], str], S_co],
        shared: Pacer | None = None,
    ) -> None:
        self.job = job
        self.future = future
        self.started = self._checked_at = now
        self.probes = self._probes = 0
        self._shared = shared or Pacer(None)
        self._passed = self._shared.passed
        self.is_slow = False
        self.pacer = job.pacer or Pacer(job.host_rate)
        self.scans: Sequence[S_co] = [make_scan(self, address) for address in job.addresses]

    @property
    def is_over(self) -> bool:
        """True once it was cancelled, or every address is settled or has failed."""
        return self.future.cancelled() or not any(scan.unsettled and scan.failure is None for scan in self.scans)

    def add_ports(self, ports: PortSet) -> int:
        """Scan more ports, unless an address is settled already; return how many, once for each address."""
        pending = [scan for scan in self.scans if scan.failure is None]
        if not all(scan.unsettled for scan in pending):
            return 0
        added = ports - self.job.ports
        self.job = replace(self.job, ports=self.job.ports | ports)
        for scan in pending:
            scan.add_ports(added)
        return len(added) * len(pending)

    def check_slow(self, now: float) -> float:
        """Find out whether the job has become slow, and call its `on_slow`; return when to check again."""
        if self.is_slow:
            return math.inf
        seconds = now - self._checked_at
        if seconds >= SLOW_INTERVAL:
            sent, passed = self.probes - self._probes, self._shared.passed - self._passed
            self._checked_at, self._probes, self._passed = now, self.probes, self._shared.passed
            rate = self._shared.rate
            is_rate_limited = rate is not None and passed >= _RATE_LIMITED_SHARE * rate * seconds
            if sent < SLOW_RATE * seconds and not is_rate_limited:
                self.is_slow = True
                self.job.on_slow()
                return math.inf
        return self._checked_at + SLOW_INTERVAL

    def so_far(self, now: float, failure: Failure) -> Observation:
        """Return what is known now; addresses that are not settled have that failure."""
        addresses = tuple(scan.observation(failure if scan.unsettled else None) for scan in self.scans)
        return Observation(addresses, now - self.started, self.probes)

    def deliver(self, now: float) -> None:
        """Set the result of the future: the observation, or the error that kept it from being made."""
        try:
            addresses = tuple(scan.observation() for scan in self.scans)
        except Exception as error:  # noqa: BLE001 - a fault in one job stops no other
            self.fail(error)
            return
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(Observation(addresses, now - self.started, self.probes))

    def release(self) -> None:
        """Drop the scans, which refer back to this job, so that their memory is freed at once."""
        self.scans = ()

    def fail(self, error: Exception) -> None:
        """Set the future's exception."""
        fail(self.future, error)


class EngineThread(ABC):
    """The base of an engine: an inbox for jobs, and a thread that takes turns until close()."""

    name: str

    def __init__(self) -> None:
        self.stats = EngineStats()
        self._turns = 0
        self._inbox: deque[tuple[ScanJob, Future[Observation]]] = deque()
        self._added_ports: deque[tuple[Future[Observation], PortSet]] = deque()  # for jobs that were submitted
        self._partial_requests: deque[tuple[Future[Observation], Failure, Future[Observation | None]]] = deque()
        self._check_slow_at = -math.inf
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._closed = threading.Lock()  # guards _wake against use after close
        # Started with the first job: threads keep the capabilities that they begin with.
        self._thread = RestartableThread(f"portspec-{self.name}", self._run, self._die)

    def submit(self, job: ScanJob) -> Future[Observation]:
        """Start a job; see Engine.

        Raises:
            EngineStoppedError: the thread has ended unexpectedly and was not restarted yet.
            NoThreadError: the system does not let the engine start its thread.
            RuntimeError: the engine is closed.
        """
        future: Future[Observation] = Future()
        future.add_done_callback(self._wake_up_if_cancelled)
        with self._closed:
            if self._closing:
                raise RuntimeError("the engine is closed")
            if (death := self._thread.death) is not None:
                raise EngineStoppedError(self.name, death)
            if not self._thread.was_started:
                self._thread.start()
            self._inbox.append((job, future))
            is_first = len(self._inbox) == 1
        if is_first:  # else the thread was woken up for another job, which it takes together with this one
            self._wake_up()
        return future

    def add_ports(self, running: Future[Observation], ports: PortSet) -> None:
        """Scan more ports for a job; see Engine."""
        self._added_ports.append((running, ports))
        self._wake_up()

    def so_far(self, running: Future[Observation], failure: Failure) -> Future[Observation | None]:
        """Return what is known now of a job; see Engine."""
        answer: Future[Observation | None] = Future()
        with self._closed:
            if self._closing or self._thread.death is not None:
                answer.set_result(None)
                return answer
            self._partial_requests.append((running, failure, answer))
        self._wake_up()
        return answer

    def beat(self) -> int | None:
        """Return the number of turns, and have the thread take another one; see Engine."""
        if not self._thread.was_started:
            return None
        turns = self._turns
        self._wake_up()
        return turns

    @property
    def death(self) -> BaseException | None:
        """What ended the thread unexpectedly; see Engine."""
        return self._thread.death

    def restart(self) -> None:
        """Start another thread; see Engine."""
        if not self._closing:
            self._thread.restart()

    def close(self) -> None:
        """End everything; see Engine. May be called twice."""
        with self._closed:
            is_first, self._closing = not self._closing, True
        self._wake_up()
        self._thread.join()
        if is_first and self._wake >= 0:  # there was no thread, or it has ended before
            self._end()

    def _wake_up_if_cancelled(self, future: Future[Observation]) -> None:
        if future.cancelled():
            self._wake_up()

    def _wake_up(self) -> None:
        with self._closed:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # The rest runs in the engine's thread.

    def _run(self) -> None:
        failed = 0
        while not self._closing:
            self._turns += 1
            try:
                self._turn()
                failed = 0
            except Exception as error:
                failed += 1
                if failed == MAX_FAILED_TURNS:
                    raise
                self._abort_all(error)  # a fault here fails all jobs, and the engine goes on
        self._end()

    def _die(self, error: BaseException) -> None:
        """Fail all jobs, and keep the sockets: only the start of the process had the right to open them."""
        with self._closed:
            pass  # a job that was being submitted is in the inbox now; further ones are rejected
        self._abort_all(EngineStoppedError(self.name, error))

    def _end(self) -> None:
        """Cancel all jobs, and close what is open."""
        self._abort_all(None)
        with self._closed:
            os.close(self._wake)
            self._wake = -1
        self._release()

    def _add_ports_to_jobs(self, jobs: Iterable[ActiveJob[S_co]]) -> None:
        """Pass added ports on to their jobs; call it when every job of the inbox has begun."""
        while self._added_ports:
            future, ports = self._added_ports.popleft()
            for job in jobs:
                if job.future is future:
                    self.stats.ports_submitted += job.add_ports(ports)

    def _answer_partial_requests(self, jobs: Iterable[ActiveJob[S_co]], now: float) -> None:
        """Answer the calls of so_far(); call it when every job of the inbox has begun."""
        while self._partial_requests:
            future, failure, answer = self._partial_requests.popleft()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                seen = [job.so_far(now, failure) for job in jobs if job.future is future]
            except Exception as error:  # noqa: BLE001 - a fault in one job stops no other
                answer.set_exception(error)
            else:
                answer.set_result(seen[0] if seen else None)

    def _check_slow_jobs(self, jobs: Sequence[ActiveJob[S_co]], now: float, wait: float | None) -> float | None:
        """Find the jobs that have become slow; return `wait`, or the seconds until the next check if they are fewer."""
        if not jobs:
            self._check_slow_at = -math.inf
            return wait
        if now >= self._check_slow_at:
            due = min(job.check_slow(now) for job in jobs)
            self._check_slow_at = min(due, now + SLOW_INTERVAL)
        ahead = self._check_slow_at - now
        return ahead if wait is None else min(wait, ahead)

    def _abort_all(self, error: Exception | None) -> None:
        """Drop everything; the futures get the error, or are cancelled without one."""
        futures = self._drop_all()
        self._added_ports.clear()
        self._answer_partial_requests((), 0.0)
        while self._inbox:
            futures.append(self._inbox.popleft()[1])
        for future in futures:
            if error is None:
                future.cancel()
            else:
                fail(future, error)

    @abstractmethod
    def _turn(self) -> None:
        """Do everything that is due, then wait until there is more to do."""

    @abstractmethod
    def _drop_all(self) -> list[Future[Observation]]:
        """Drop all jobs in progress; return their futures."""

    @abstractmethod
    def _release(self) -> None:
        """Close what the engine has open."""


def fail(future: Future[Observation], error: Exception) -> None:
    """Set a future's exception, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
