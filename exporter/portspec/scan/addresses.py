"""Scans of addresses, each address once at a time, however many names lead to it.

Hundreds of names on one load balancer are ordinary. Each name is a host with a specification of its own, but a port of
their address has one state. So jobs that ask the same address at about the same time share one scan:

* A scan that began a short time ago serves later jobs, too. Ports that it lacks are added to it while it runs.
* What it saw serves jobs of the same round also after its end; only ports that it lacks are scanned then.
* Where that does not do, the job waits for the next scan of the address, which serves all jobs that come meanwhile.
* A job that starts no scan of its own takes no place, and no job takes a place while its address is busy.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, cast

from portspec.scan.job import AddressObservation, Observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from portspec.limit import Place
    from portspec.scan.job import Engine, ScanJob

FRESH = 5.0  # seconds after its start in which a scan serves jobs that come
# A job shares a scan of at most so many ports more than its own: who asks for one port does not wait for all of them.
_MORE_PORTS = 1024


@dataclass(slots=True, eq=False)
class _Scan:
    """One scan of one address, which waits to begin until `began`, then runs; `waiters` are the jobs that it is for."""

    job: ScanJob
    waiters: list[asyncio.Future[Observation]] = field(default_factory=list)
    began: float | None = None
    running: Future[Observation] | None = None
    over: asyncio.Future[None] | None = None  # if anybody waits for the address
    seen: Observation | None = None  # what the engine answered

    def serves(self, job: ScanJob, since: float) -> bool:
        """Tell whether this scan is what a job asks for: no older than `since`, and about as large."""
        is_given_up = self.began is not None and not self.waiters
        is_old = self.began is not None and self.began < since
        is_too_hasty = job.patience > self.job.patience or bool(job.alive) > bool(self.job.alive)
        if is_given_up or is_old or is_too_hasty or job.hold != self.job.hold:
            return False
        together = len(self.job.ports | job.ports)
        return all(together <= max(2 * len(one.ports), len(one.ports) + _MORE_PORTS) for one in (job, self.job))


@dataclass(slots=True)
class _Address:
    """The scan of an address that runs, and those that wait for its end or for a place."""

    running: _Scan | None = None
    waiting: list[_Scan] = field(default_factory=list)


class AddressScans:
    """Scans addresses with one engine. For one event loop, and for the whole life of the process.

    So scans are shared between the background loop and /probe, and between an old configuration and a new one.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._clock = clock
        self._addresses: dict[str, _Address] = {}
        self._ended: dict[str, _Scan] = {}  # those that began in the last FRESH seconds, the first to end first
        self._tasks: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Give the time in seconds by which `since` of scan() is meant."""
        return self._clock()

    async def scan(
        self,
        job: ScanJob,
        place: Place,
        *,
        since: float | None = None,
        round_began: float | None = None,
        on_begin: Callable[[bool], object] = lambda _: None,
    ) -> Observation:
        """Scan the addresses of a job, together with others that ask the same; `place` is for scans of its own.

        What is seen of a port is not older than `since`, a time of now(), by default FRESH seconds ago. It may come
        from a scan that has ended if that one began in the same round, `round_began` ago or later; without one it
        may not. `on_begin` is called once: with True as soon as all addresses are scanned for other jobs anyway, else
        with False when a scan begins.
        """
        since = self._clock() - FRESH if since is None else since
        known = [self._known(address, job, since, round_began) for address in job.addresses]
        jobs = [_rest(job, address, seen) for address, seen in zip(job.addresses, known, strict=True)]
        found = [self._find(one, since) if one else None for one in jobs]
        scans = [scan or (self._plan(one) if one else None) for one, scan in zip(jobs, found, strict=True)]
        loop = asyncio.get_running_loop()
        waiters = {scan: loop.create_future() for scan in scans if scan}
        for scan, waiter in waiters.items():
            scan.waiters.append(waiter)
        planned = [scan for scan, shared in zip(scans, found, strict=True) if scan and not shared]
        has_begun = False

        def begin() -> None:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                on_begin(not planned)

        if not planned:
            begin()
        # Who is urgent, or has a place now or before all of the scans have begun, begins what others wait for a place
        # with: nobody urgent waits for those who are not, and nobody for the very place that is held here.
        may_begin = place.is_urgent or place.is_held or bool(planned)
        for scan in waiters:
            if scan in planned or (may_begin and scan.began is None):
                self._begin(scan, place, begin)
        try:
            answers = {scan: await waiter for scan, waiter in waiters.items()}
        finally:
            for scan, waiter in waiters.items():
                self._leave(scan, waiter)
        observations = []
        for address, seen, asked in zip(job.addresses, known, scans, strict=True):
            together = _together(seen, answers[asked] if asked else None)
            if left := _rest(job, address, together):  # it ended before its ports were added
                together = _together(together, await self.scan(left, place, since=since))
            observations.append(together)
        return Observation(
            tuple(_only(item, job) for observation in observations for item in observation.addresses),
            max((observation.duration for observation in observations), default=0.0),
            sum(observation.probes for observation in observations),
        )

    def _known(self, address: str, job: ScanJob, since: float, round_began: float | None) -> Observation | None:
        """Give what a scan of an address saw that has ended, if it may serve a job."""
        while self._ended:
            oldest = next(iter(self._ended))
            if self._is_fresh(self._ended[oldest]):
                break
            del self._ended[oldest]
        scan = self._ended.get(address)
        if round_began is None or scan is None or scan.began is None or job.patience > scan.job.patience:
            return None
        return scan.seen if scan.began >= max(since, round_began) and scan.job.hold == job.hold else None

    def _is_fresh(self, scan: _Scan) -> bool:
        return scan.began is not None and scan.began >= self._clock() - FRESH

    def _find(self, job: ScanJob, since: float) -> _Scan | None:
        """Find the scan of an address that serves a job of it, too, and let it do so."""
        entry = self._addresses.get(job.addresses[0]) or _Address()
        for scan in (*filter(None, [entry.running]), *entry.waiting):
            if scan.serves(job, since):
                if not job.ports <= scan.job.ports:
                    scan.job = replace(scan.job, ports=scan.job.ports | job.ports)
                    if scan.running:
                        self.engine.add_ports(scan.running, job.ports)
                return scan
        return None

    def _plan(self, job: ScanJob) -> _Scan:
        scan = _Scan(job)
        self._addresses.setdefault(job.addresses[0], _Address()).waiting.append(scan)
        return scan

    def _leave(self, scan: _Scan, waiter: asyncio.Future[Observation]) -> None:
        """Note that a job no longer waits for a scan; one that nobody waits for ends."""
        if waiter in scan.waiters:
            scan.waiters.remove(waiter)
            if not scan.waiters and scan.running:
                scan.running.cancel()
        elif not waiter.cancelled():
            waiter.exception()  # it is no loss that a job with several addresses does not look at all of them

    def _begin(self, scan: _Scan, place: Place, begin: Callable[[], None]) -> None:
        """Run a scan when its address is free and there is a place."""
        entry = self._addresses[scan.job.addresses[0]]
        if entry.running is None and place.take_now():
            self._run(scan, entry, place, begin)
            return
        task = asyncio.create_task(self._run_in_turn(scan, entry, place, begin))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_in_turn(self, scan: _Scan, entry: _Address, place: Place, begin: Callable[[], None]) -> None:
        """Run a scan at a moment when its address is free and there is a place, unless somebody else began it.

        Only for a scan that runs, and so has its place, is ever waited with a place in hand.
        """
        while scan in entry.waiting:
            if entry.running:
                entry.running.over = entry.running.over or asyncio.get_running_loop().create_future()
                await asyncio.wait([entry.running.over])
                continue
            await place.take()
            if entry.running is None and scan in entry.waiting:
                self._run(scan, entry, place, begin)
                return
            place.put_back()  # another one was quicker

    def _run(self, scan: _Scan, entry: _Address, place: Place, begin: Callable[[], None]) -> None:
        """Have the engine scan, with a place that was taken, unless nobody waits for it any more."""
        entry.waiting.remove(scan)
        if not scan.waiters:
            self._end(scan, entry, place)
            return
        place.keep()
        begin()
        entry.running = scan
        scan.began = self._clock()
        try:
            scan.running = self.engine.submit(scan.job)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            self._end(scan, entry, place, methodcaller("set_exception", error))
            return
        asyncio.wrap_future(scan.running).add_done_callback(partial(self._answered, scan, entry, place))

    def _answered(self, scan: _Scan, entry: _Address, place: Place, answer: asyncio.Future[Observation]) -> None:
        if answer.cancelled():
            self._end(scan, entry, place, methodcaller("cancel"))
        elif error := answer.exception():
            self._end(scan, entry, place, methodcaller("set_exception", error))
        else:
            scan.seen = answer.result()
            self._remember(scan)
            self._end(scan, entry, place, methodcaller("set_result", scan.seen))

    def _remember(self, scan: _Scan) -> None:
        """Keep what a scan saw for the jobs that come, unless that is known of more ports already."""
        address = scan.job.addresses[0]
        other = self._ended.get(address)
        if self._is_fresh(scan) and not (
            other and self._is_fresh(other) and len(other.job.ports) > len(scan.job.ports)
        ):
            self._ended.pop(address, None)  # so that it is the last one
            self._ended[address] = scan

    def _end(
        self,
        scan: _Scan,
        entry: _Address,
        place: Place,
        tell: Callable[[asyncio.Future[Observation]], object] = lambda _: None,
    ) -> None:
        """Tell those who wait what came of a scan, give its place back, and forget an address that nobody asks."""
        if entry.running is scan:
            entry.running = None
        waiters, scan.waiters = scan.waiters, []
        for waiter in waiters:
            if not waiter.done():
                tell(waiter)
        if scan.over:
            scan.over.set_result(None)
        place.put_back()
        if entry.running is None and not entry.waiting:
            self._addresses.pop(scan.job.addresses[0], None)


async def all_of(scans: AddressScans, place: Place, jobs: Iterable[ScanJob]) -> list[Observation]:
    """Run jobs that look again at what was seen just now: with what begins from now on."""
    since = scans.now()
    tasks = [asyncio.create_task(scans.scan(job, place, since=since)) for job in jobs]
    try:
        return [await task for task in tasks]
    finally:  # one that fails, or a cancellation, ends the others
        for task in tasks:
            task.cancel()


def _rest(job: ScanJob, address: str, seen: Observation | None) -> ScanJob | None:
    """Give the job for what is left to scan of an address; None if nothing is, or if it cannot be seen."""
    if seen is None:
        return replace(job, addresses=(address,))
    (item,) = seen.addresses
    ports = job.ports - item.scanned
    return replace(job, addresses=(address,), ports=ports) if ports and not item.failure else None


def _together(first: Observation | None, second: Observation | None) -> Observation:
    """Put together what scans of different ports of an address saw; one of them may not have been made."""
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
    )
    return Observation((both,), first.duration + second.duration, first.probes + second.probes)


def _only(item: AddressObservation, job: ScanJob) -> AddressObservation:
    """Give what was seen of a job's own ports."""
    if item.scanned <= job.ports:
        return item
    return replace(
        item, scanned=item.scanned & job.ports, open=item.open & job.ports, filtered=item.filtered & job.ports
    )
