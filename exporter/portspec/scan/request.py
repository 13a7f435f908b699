"""What one job asks of the addresses it names: which scans it shares, and which of its own begin when.

A JobRequest lives as long as the call of SharedScans.scan(). For each address it has an AddressRequest, which waits for
a scan: one that was planned for another job, or one of its own. Its own scans begin a few at a time, beside slow ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from portspec.scan.job import AddressObservation, Observation

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.limit import LimitSlot
    from portspec.ports import PortSet
    from portspec.scan.job import ScanJob
    from portspec.scan.table import ScanTable, SharedScan

MAX_ADDRESSES_PER_JOB = 8  # that are scanned at a time, beside slow ones


@dataclass(slots=True)
class AddressRequest:
    """What a job asks of one of its addresses: what was `known` before, the rest of the job, and the scan of that.

    `waiter` gets None if the time of the job ends before the scan.
    """

    known: Observation | None
    job: ScanJob | None
    waiter: asyncio.Future[Observation | None]
    scan: SharedScan | None = None

    def leave(self) -> None:
        """Stop waiting for the scan."""
        if self.scan:
            self.scan.leave(self.waiter)
        if not self.waiter.cancel() and not self.waiter.cancelled():
            self.waiter.exception()  # retrieved here: a job with several addresses may not have awaited all of them


class JobRequest:
    """What a job asks of its addresses, from begin() to close()."""

    def __init__(self, scans: ScanTable, place: LimitSlot, since: float, on_begin: Callable[[], object]) -> None:
        self.requests: list[AddressRequest] = []
        self._scans = scans
        self._place = place
        self._since = since
        self._on_begin = on_begin
        self._has_begun = False
        self._left: deque[AddressRequest] = deque()  # to be scanned, and not planned yet
        self._own: list[AddressRequest] = []
        self._shared = 0

    def add(self, known: Observation | None, job: ScanJob | None) -> None:
        """Add a job of one address; None if all of it is known already."""
        request = AddressRequest(known, job, asyncio.get_running_loop().create_future())
        self.requests.append(request)
        if job:
            if scan := self._scans.find(job, self._since):
                self._share(request, scan)
            else:
                self._left.append(request)

    def begin(self, over: asyncio.Future[None] | None) -> None:
        """Begin scans, until `over` is done."""
        if not self._left:
            self._note_begin()
            self._place.give_way()
        # A scan that other jobs have planned may still wait for a place. A job that is urgent, holds a place, or gets
        # one for scans of its own begins it: an urgent job must not wait for one that is not, and no job for the place
        # that it holds itself.
        may_begin = self._place.is_urgent or self._place.is_held or bool(self._left)
        if over:
            over.add_done_callback(self._stop)
            if over.done():
                self._stop(over)
        for request in self.requests:
            if may_begin and request.scan and request.scan.began is None:
                self._begin(request.scan)
        self._continue()

    def close(self, over: asyncio.Future[None] | None) -> None:
        """Stop waiting for all scans."""
        if over:
            over.remove_done_callback(self._stop)
        self._left.clear()
        for request in self.requests:
            if request.scan and self._slowed in request.scan.on_slow:
                request.scan.on_slow.remove(self._slowed)
            request.leave()
        for _ in range(self._shared):
            self._place.wake()

    def _share(self, request: AddressRequest, scan: SharedScan) -> None:
        """Wait for a scan that was planned for others."""
        request.scan = scan
        scan.waiters.append(request.waiter)
        self._shared += 1
        self._place.rest()

    def _begin(self, scan: SharedScan) -> None:
        scan.on_slow.append(self._slowed)
        self._scans.begin(scan, self._place, self._note_begin)

    def _continue(self, _: object = None) -> None:
        """Begin scans of the job's own, up to MAX_ADDRESSES_PER_JOB at a time."""
        while self._left and sum(map(self._is_active, self._own)) < MAX_ADDRESSES_PER_JOB:
            request = self._left.popleft()
            if request.job is None:
                continue
            if scan := self._scans.find(request.job, self._since):
                self._share(request, scan)
                continue
            request.scan = self._scans.plan(request.job)
            request.scan.waiters.append(request.waiter)
            if len(self.requests) > 1:
                request.waiter.add_done_callback(self._continue)
            self._own.append(request)
            if self._scans.is_busy(request.job.addresses[0]):
                self._place.give_way()
            self._begin(request.scan)
        is_waiting = any(request.job and not request.waiter.done() for request in self.requests)
        if is_waiting and not any(map(self._is_active, self._own)):
            self._place.give_way()

    def _is_active(self, request: AddressRequest) -> bool:
        return request.scan is not None and not request.waiter.done() and self._scans.is_active(request.scan)

    def _slowed(self) -> None:
        self._place.give_way()
        self._continue()

    def _note_begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._on_begin()

    def _stop(self, _: object) -> None:
        """End the wait: what was seen until now is the answer."""
        self._left.clear()
        for request in self.requests:
            if not request.waiter.done():
                request.waiter.set_result(None)


def remaining_job(job: ScanJob, address: str, seen: Observation | None) -> ScanJob | None:
    """Return the job for the ports of an address that `seen` lacks; None if it lacks none, or the address failed."""
    if seen is None:
        return job if len(job.addresses) == 1 else replace(job, addresses=(address,))
    (item,) = seen.addresses
    ports = job.ports - item.scanned
    return replace(job, addresses=(address,), ports=ports) if ports and not item.failure else None


def merge(first: Observation | None, second: Observation | None) -> Observation:
    """Merge two observations of different ports of one address; one of them may be None."""
    if first is None or second is None:
        return cast("Observation", first or second)
    (one,), (other,) = first.addresses, second.addresses
    times = [rtt for rtt in (one.rtt, other.rtt) if rtt is not None]
    both = AddressObservation(
        one.address,
        scanned=one.scanned | other.scanned,
        open=one.open | other.open,
        filtered=one.filtered | other.filtered,
        answered=one.answered or other.answered,
        rtt=min(times, default=None),
        failure=one.failure or other.failure,
        unconfirmed=one.unconfirmed | other.unconfirmed,
        pace=one.pace or other.pace,
    )
    return Observation((both,), first.duration + second.duration, first.probes + second.probes)


def restrict(item: AddressObservation, ports: PortSet) -> AddressObservation:
    """Return what was seen of some ports."""
    if item.scanned <= ports:
        return item
    return replace(item, scanned=item.scanned & ports, open=item.open & ports, filtered=item.filtered & ports)
