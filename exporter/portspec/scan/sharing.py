"""Scans that several jobs share: an address is scanned once at a time, however many names lead to it.

Hundreds of names on one load balancer are common. Each name is a host with a specification of its own, but a port of
their address has one state. So jobs that ask for the same address at about the same time share one scan:

* A scan that began a short time ago serves later jobs, too. Ports that it lacks are added to it while it runs.
* What it saw serves jobs of the same round also after its end; only ports that it lacks are scanned then.
* Otherwise the job waits for the next scan of the address, which serves all jobs that come meanwhile.
* A job that starts no scan of its own takes no place, and no job takes a place while its address is busy.
* A scan that has become slow gives its place back and goes on without one, within the limits of SlowScans.
* Of a job with many addresses a few are scanned at a time, beside those that are slow: each takes memory.

table.py has the scans that jobs share, request.py the part of one job.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from portspec.ports import NO_PORTS
from portspec.scan.job import AddressObservation, Failure, Observation, Reason
from portspec.scan.request import JobRequest, merge, remaining_job, restrict
from portspec.scan.table import SHARING_WINDOW, ScanTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portspec.limit import LimitSlot
    from portspec.scan.job import Engine, ScanJob
    from portspec.scan.request import AddressRequest

UNFINISHED = Failure(Reason.TIMEOUT, "the time limit expired before all of its ports were scanned")


class SharedScans:
    """Scans addresses with one engine. For one event loop, and for the whole life of the process.

    So scans are shared between the background loop and /probe, and between an old configuration and a new one.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._clock = clock
        self._table = ScanTable(engine, clock)

    def now(self) -> float:
        """Return the time in seconds, for `since` of scan()."""
        return self._clock()

    async def scan(
        self,
        job: ScanJob,
        place: LimitSlot,
        *,
        since: float | None = None,
        round_began: float | None = None,
        over: asyncio.Future[None] | None = None,
        on_begin: Callable[[], object] = lambda: None,
    ) -> Observation:
        """Scan the addresses of a job, together with other jobs that ask for the same.

        Args:
            job: what to scan.
            place: for scans of the job's own. Its `give_way` is called if the job only waits for scans of others or for
                an address that is busy, or has become slow.
            since: the earliest time, of now(), from which the state of a port may be; by default SHARING_WINDOW ago.
            round_began: the time at which the round of the job began: a scan that has ended may serve it if it began
                since then. Without it no ended scan does.
            over: ends the wait, by default `place.over`. What was seen until then is returned; addresses that are not
                settled have the failure UNFINISHED.
            on_begin: called once, when a scan begins or all addresses are being scanned for other jobs anyway.
        """
        since = self._clock() - SHARING_WINDOW if since is None else since
        over = over or place.over
        request = JobRequest(self._table, place, since, on_begin)
        for address in job.addresses:
            known = self._table.known(address, job, since, round_began)
            request.add(known, remaining_job(job, address, known))
        try:
            request.begin(over)
            pairs = zip(request.requests, job.addresses, strict=True)
            observations = [await self._outcome(one, address) for one, address in pairs]
        finally:
            request.close(over)
        for number, (address, seen) in enumerate(zip(job.addresses, observations, strict=True)):
            if rest := remaining_job(job, address, seen):  # the scan ended before its ports were added
                observations[number] = merge(seen, await self.scan(rest, place, since=since, over=over))
        return Observation(
            tuple(restrict(item, job.ports) for observation in observations for item in observation.addresses),
            max((observation.duration for observation in observations), default=0.0),
            sum(observation.probes for observation in observations),
        )

    async def _outcome(self, request: AddressRequest, address: str) -> Observation:
        """Wait for an address; if the time is over before, return what was seen until then."""
        if request.job is None:
            return cast("Observation", request.known)
        seen = await request.waiter
        if seen is None and request.scan:
            seen = request.scan.seen
            if seen is None and request.scan.running:
                partial_result = self.engine.so_far(request.scan.running, UNFINISHED)
                seen = await asyncio.wrap_future(partial_result) or request.scan.seen
        nothing = Observation((AddressObservation(address, NO_PORTS, failure=UNFINISHED),), 0.0, 0)
        return merge(request.known, seen or nothing)


async def scan_all(
    scans: SharedScans, place: LimitSlot, jobs: Iterable[ScanJob]
) -> tuple[dict[str, AddressObservation], float]:
    """Run jobs of one address each that repeat what was just seen: only scans that begin from now on serve them.

    Returns what was seen, by address, and the seconds that the longest took.
    """
    since = scans.now()
    tasks = [asyncio.create_task(scans.scan(job, place, since=since)) for job in jobs]
    if not tasks:
        return {}, 0.0
    try:
        answers = [await task for task in tasks]
    finally:  # one that fails, or a cancellation, ends the others
        for task in tasks:
            task.cancel()
    found = {item.address: item for answer in answers for item in answer.addresses}
    return found, max((answer.duration for answer in answers), default=0.0)
