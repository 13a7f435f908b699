"""Jobs in progress, and the thread that an engine works on them with."""

from __future__ import annotations

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
    from collections.abc import Callable, Iterable

    from portspec.ports import PortSet
    from portspec.scan.job import AddressObservation


class AnyLane(Protocol):
    """One address of a job."""

    unsettled: int
    failure: Failure | None

    def add_ports(self, ports: PortSet) -> None:
        """Scan more ports, none of which the job has yet."""
        ...

    def observation(self) -> AddressObservation:
        """Give what is known now."""
        ...


L = TypeVar("L", bound=AnyLane)


class Work(Generic[L]):
    """One job in progress; `make` makes the lane of an address."""

    __slots__ = ("future", "job", "lanes", "pacer", "probes", "started")

    def __init__(
        self, job: ScanJob, future: Future[Observation], now: float, make: Callable[[Work[L], str], L]
    ) -> None:
        self.job = job
        self.future = future
        self.started = now
        self.probes = 0
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

    def _abandon(self, error: Exception | None) -> None:
        """Drop everything; those who wait get the error, or a cancellation without one."""
        futures = self._forget()
        self._more.clear()
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
