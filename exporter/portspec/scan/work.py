"""Jobs in progress, and the thread that an engine works on them with.

A job is *slow* once fewer than SLOW probes a second went out in SLOW_AFTER seconds: it waits for a rate, for an address
that limits its answers, or for answers that take long. It costs little from then on, and says so, so that whoever
counts the jobs that are under way can begin others. A job is not slow where the rate of all jobs is what holds it up.
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

from portspec.errors import NoThreadError
from portspec.scan.job import EngineStats, Failure, Observation, ScanJob
from portspec.scan.pacing import Pacer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from portspec.ports import PortSet
    from portspec.scan.job import AddressObservation


class AnyLane(Protocol):
    """One address of a job."""

    unsettled: int
    failure: Failure | None

    def add_ports(self, ports: PortSet) -> None:
        """Scan more ports, none of which the job has yet."""
        ...

    def observation(self, failure: Failure | None = None) -> AddressObservation:
        """Give what is known now, with a failure in place of none if it is not all."""
        ...


L = TypeVar("L", bound=AnyLane)

SLOW = 100.0  # probes per second
SLOW_AFTER = 1.0  # seconds
_BUSY = 0.8  # of the rate of all jobs


class Work(Generic[L]):
    """One job in progress; `make` makes the lane of an address, `shared` is the pacer of all jobs."""

    __slots__ = (
        "_looked_at", "_passed", "_probes", "_shared",
        "future", "is_slow", "job", "lanes", "pacer", "probes", "started",
    )  # fmt: skip

    def __init__(
        self,
        job: ScanJob,
        future: Future[Observation],
        now: float,
        make: Callable[[Work[L], str], L],
        shared: Pacer | None = None,
    ) -> None:
        self.job = job
        self.future = future
        self.started = self._looked_at = now
        self.probes = self._probes = 0
        self._shared = shared or Pacer(None)
        self._passed = self._shared.passed
        self.is_slow = False
        self.pacer = job.pacer or Pacer(job.host_rate)
        self.lanes = [make(self, address) for address in job.addresses]

    @property
    def is_over(self) -> bool:
        """True once it was cancelled, or every address is settled or has failed."""
        return self.future.cancelled() or not any(lane.unsettled and lane.failure is None for lane in self.lanes)

    def add_ports(self, ports: PortSet) -> int:
        """Scan more ports, unless an address is settled already; gives how many, once for each address."""
        asked = [lane for lane in self.lanes if lane.failure is None]
        if not all(lane.unsettled for lane in asked):
            return 0
        more = ports - self.job.ports
        self.job = replace(self.job, ports=self.job.ports | ports)
        for lane in asked:
            lane.add_ports(more)
        return len(more) * len(asked)

    def look(self, now: float) -> float:
        """Find out whether the job has become slow, and tell; gives when to look again."""
        if self.is_slow:
            return math.inf
        seconds = now - self._looked_at
        if seconds >= SLOW_AFTER:
            sent, passed = self.probes - self._probes, self._shared.passed - self._passed
            self._looked_at, self._probes, self._passed = now, self.probes, self._shared.passed
            rate = self._shared.rate
            is_held_up = rate is not None and passed >= _BUSY * rate * seconds
            if sent < SLOW * seconds and not is_held_up:
                self.is_slow = True
                self.job.on_slow()
                return math.inf
        return self._looked_at + SLOW_AFTER

    def so_far(self, now: float, failure: Failure) -> Observation:
        """Give what is known now; addresses that are not settled have that failure."""
        addresses = tuple(lane.observation(failure if lane.unsettled else None) for lane in self.lanes)
        return Observation(addresses, now - self.started, self.probes)

    def deliver(self, now: float) -> None:
        """Give the observation to who waits for it, or what went wrong with it."""
        try:
            addresses = tuple(lane.observation() for lane in self.lanes)
        except Exception as error:  # noqa: BLE001 - a fault in one job stops no other
            self.fail(error)
            return
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(Observation(addresses, now - self.started, self.probes))

    def release(self) -> None:
        """Let go of the lanes, which know their job in turn, so that what they hold is freed at once."""
        self.lanes.clear()

    def fail(self, error: Exception) -> None:
        """Give an error to who waits."""
        fail(self.future, error)


class EngineThread(ABC):
    """What engines have in common: an inbox for jobs, and a thread that takes turns until close()."""

    name: str

    def __init__(self) -> None:
        self.stats = EngineStats()
        self._inbox: deque[tuple[ScanJob, Future[Observation]]] = deque()
        self._more: deque[tuple[Future[Observation], PortSet]] = deque()  # ports for jobs that were submitted
        self._asked: deque[tuple[Future[Observation], Failure, Future[Observation | None]]] = deque()  # see so_far
        self._look_at = -math.inf
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._closed = threading.Lock()  # guards _wake against use after close
        # Started with the first job: threads keep the capabilities that they begin with.
        self._thread: threading.Thread | None = None

    def submit(self, job: ScanJob) -> Future[Observation]:
        """Start a job; see Engine. Raises NoThreadError when the system gives no thread to begin with."""
        future: Future[Observation] = Future()
        future.add_done_callback(lambda _: self._ring())
        with self._closed:
            if self._closing:
                raise RuntimeError("the engine is closed")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=f"portspec-{self.name}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    raise NoThreadError from None
                self._thread = thread
            self._inbox.append((job, future))
        self._ring()
        return future

    def add_ports(self, running: Future[Observation], ports: PortSet) -> None:
        """Scan more ports for a job; see Engine."""
        self._more.append((running, ports))
        self._ring()

    def so_far(self, running: Future[Observation], failure: Failure) -> Future[Observation | None]:
        """Give what is known now of a job; see Engine."""
        answer: Future[Observation | None] = Future()
        with self._closed:
            if self._closing:
                answer.set_result(None)
                return answer
            self._asked.append((running, failure, answer))
        self._ring()
        return answer

    def close(self) -> None:
        """End everything; see Engine. May be called twice."""
        with self._closed:
            is_first, self._closing = not self._closing, True
        self._ring()
        if self._thread:
            self._thread.join()
        elif is_first:
            self._run()

    def _ring(self) -> None:
        with self._closed:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # The rest runs in the engine's thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    self._turn()
                except Exception as error:  # noqa: BLE001 - a fault here must reach those who wait, and stop nobody else
                    self._abandon(error)
        finally:
            with self._closed:
                self._closing = True  # also if the thread ends as it never should: no job is taken that nobody does
            self._abandon(None)
            with self._closed:
                os.close(self._wake)
                self._wake = -1
            self._release()

    def _take_more_ports(self, works: Iterable[Work[L]]) -> None:
        """Add the ports that have come to their jobs; to be called when every job of the inbox has begun."""
        while self._more:
            future, ports = self._more.popleft()
            for work in works:
                if work.future is future:
                    self.stats.ports_submitted += work.add_ports(ports)

    def _answer_so_far(self, works: Iterable[Work[L]], now: float) -> None:
        """Tell what is known of jobs to those who asked; to be called when every job of the inbox has begun."""
        while self._asked:
            future, failure, answer = self._asked.popleft()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                seen = [work.so_far(now, failure) for work in works if work.future is future]
            except Exception as error:  # noqa: BLE001 - a fault in one job stops no other
                answer.set_exception(error)
            else:
                answer.set_result(seen[0] if seen else None)

    def _look(self, works: Sequence[Work[L]], now: float, wait: float | None) -> float | None:
        """Find the jobs that have become slow; gives how many seconds to wait at most, if `wait` is longer."""
        if not works:
            self._look_at = -math.inf
            return wait
        if now >= self._look_at:
            due = min(work.look(now) for work in works)
            self._look_at = min(due, now + SLOW_AFTER)
        ahead = self._look_at - now
        return ahead if wait is None else min(wait, ahead)

    def _abandon(self, error: Exception | None) -> None:
        """Drop everything; those who wait get the error, or a cancellation without one."""
        futures = self._forget()
        self._more.clear()
        self._answer_so_far((), 0.0)
        while self._inbox:
            futures.append(self._inbox.popleft()[1])
        for future in futures:
            if error is None:
                future.cancel()
            else:
                fail(future, error)

    @abstractmethod
    def _turn(self) -> None:
        """Do what is to be done now, then wait until there is more."""

    @abstractmethod
    def _forget(self) -> list[Future[Observation]]:
        """Drop all jobs in progress; gives their futures."""

    @abstractmethod
    def _release(self) -> None:
        """Close what the engine has open."""


def fail(future: Future[Observation], error: Exception) -> None:
    """Give an error to who waits for a future, unless it was cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
