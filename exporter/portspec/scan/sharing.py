"""Scans of addresses, each address once at a time, however many names lead to it.

Hundreds of names on one load balancer are ordinary. Each name is a host with a specification of its own, but a port of
their address has one state. So jobs that ask the same address at about the same time share one scan:

* A scan that began a short time ago serves later jobs, too. Ports that it lacks are added to it while it runs.
* What it saw serves jobs of the same round also after its end; only ports that it lacks are scanned then.
* Where that does not do, the job waits for the next scan of the address, which serves all jobs that come meanwhile.
* A job that starts no scan of its own takes no place, and no job takes a place while its address is busy.
* A scan that has become slow gives its place back, and goes on without one; see slow.py.
* Of a job with many addresses a few are scanned at a time, beside those that are slow: each takes memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, cast

from portspec.ports import NO_PORTS
from portspec.scan.job import AddressObservation, Failure, Observation, Reason
from portspec.scan.slow import SlowScans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from portspec.limit import Place
    from portspec.scan.job import Engine, ScanJob

SHARING_WINDOW = 5.0  # seconds after its start in which a scan serves jobs that come
# A job shares a scan of at most so many ports more than its own: who asks for one port does not wait for all of them.
_MORE_PORTS = 1024
MOST_AT_ONCE = 8  # addresses of one job
UNFINISHED = Failure(Reason.TIMEOUT, "its time was over before all of its ports were settled")


@dataclass(slots=True, eq=False)
class _Scan:
    """One scan of one address, which waits to begin until `began`, then runs; `waiters` are the jobs that it is for.

    What is in `on_slow` is called when it has become slow, and has given its place back.
    """

    job: ScanJob
    waiters: list[asyncio.Future[Observation | None]] = field(default_factory=list)
    began: float | None = None
    running: Future[Observation] | None = None
    over: asyncio.Future[None] | None = None  # if anybody waits for the address
    seen: Observation | None = None  # what the engine answered
    on_slow: list[Callable[[], object]] = field(default_factory=list)

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


class SharedScans:
    """Scans addresses with one engine. For one event loop, and for the whole life of the process.

    So scans are shared between the background loop and /probe, and between an old configuration and a new one.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._clock = clock
        self._addresses: dict[str, _Address] = {}
        self._ended: dict[
            str, _Scan
        ] = {}  # those that began in the last SHARING_WINDOW seconds, the first to end first
        self._tasks: set[asyncio.Task[None]] = set()
        self._slow = SlowScans()

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
        over: asyncio.Future[None] | None = None,
        on_begin: Callable[[], object] = lambda: None,
    ) -> Observation:
        """Scan the addresses of a job, together with others that ask the same; `place` is for scans of its own.

        What is seen of a port is not older than `since`, a time of now(), by default SHARING_WINDOW seconds ago. It may come
        from a scan that has ended if that one began in the same round, `round_began` ago or later; without one it
        may not. Once `over` is done, by default that of the place, what was seen until then is given: addresses that
        are not settled have a failure `timeout`. `on_begin` is called once, when a scan begins or all addresses are
        scanned for other jobs anyway. The place is told to give way when the job waits for the scans of others only, or
        for an address that is busy, or has become slow.
        """
        since = self._clock() - SHARING_WINDOW if since is None else since
        over = over or place.over
        request = _Request(self, place, since, on_begin)
        for address in job.addresses:
            known = self._known(address, job, since, round_began)
            request.ask(known, _rest(job, address, known))
        try:
            request.begin(over)
            asked = zip(request.asks, job.addresses, strict=True)
            observations = [await self._outcome(ask, address) for ask, address in asked]
        finally:
            request.close(over)
        for number, (address, seen) in enumerate(zip(job.addresses, observations, strict=True)):
            if more := _rest(job, address, seen):  # it ended before its ports were added
                observations[number] = _together(seen, await self.scan(more, place, since=since, over=over))
        return Observation(
            tuple(_only(item, job) for observation in observations for item in observation.addresses),
            max((observation.duration for observation in observations), default=0.0),
            sum(observation.probes for observation in observations),
        )

    async def _outcome(self, ask: _Ask, address: str) -> Observation:
        """Wait for what was asked of an address; when the time is over, give what was seen until then."""
        if ask.job is None:
            return cast("Observation", ask.known)
        seen = await ask.waiter
        if seen is None and ask.scan:
            seen = ask.scan.seen
            if seen is None and ask.scan.running:
                seen = await asyncio.wrap_future(self.engine.so_far(ask.scan.running, UNFINISHED)) or ask.scan.seen
        nothing = Observation((AddressObservation(address, NO_PORTS, failure=UNFINISHED),), 0.0, 0)
        return _together(ask.known, seen or nothing)

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
        return scan.began is not None and scan.began >= self._clock() - SHARING_WINDOW

    def is_busy(self, address: str) -> bool:
        """Tell whether an address is being scanned."""
        entry = self._addresses.get(address)
        return entry is not None and entry.running is not None

    def is_at_work(self, ask: _Ask) -> bool:
        """Tell whether what was asked is being scanned, or is about to be, at a good pace."""
        scan = ask.scan
        if scan is None or ask.waiter.done() or scan in self._slow:
            return False
        return scan.began is not None or not self.is_busy(scan.job.addresses[0])

    def find(self, job: ScanJob, since: float) -> _Scan | None:
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

    def plan(self, job: ScanJob) -> _Scan:
        """Plan a scan of an address."""
        scan = _Scan(job)
        self._addresses.setdefault(job.addresses[0], _Address()).waiting.append(scan)
        return scan

    def leave(self, ask: _Ask) -> None:
        """Note that a job no longer waits for a scan; one that nobody waits for ends."""
        scan, waiter = ask.scan, ask.waiter
        if scan and waiter in scan.waiters:
            scan.waiters.remove(waiter)
            if not scan.waiters and scan.running:
                scan.running.cancel()
        if not waiter.cancel() and not waiter.cancelled():
            waiter.exception()  # it is no loss that a job with several addresses does not look at all of them

    def begin(self, scan: _Scan, place: Place, begin: Callable[[], None]) -> None:
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

        No place is in hand while one waits for a scan: it may be slow, and so have none itself.
        """
        while scan in entry.waiting:
            if entry.running:
                entry.running.over = entry.running.over or asyncio.get_running_loop().create_future()
                place.rest()
                await asyncio.wait([entry.running.over])
                place.wake()
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
        loop = asyncio.get_running_loop()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._slowed, scan, entry, place)

        try:
            scan.running = self.engine.submit(replace(scan.job, on_slow=tell))
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            self._end(scan, entry, place, methodcaller("set_exception", error))
            return
        asyncio.wrap_future(scan.running).add_done_callback(partial(self._answered, scan, entry, place))

    def _slowed(self, scan: _Scan, entry: _Address, place: Place) -> None:
        """Give the place of a scan back as soon as one more may go on without, unless it is over."""

        def rest() -> None:
            place.rest()
            place.put_back()
            for tell in scan.on_slow:
                tell()

        if entry.running is scan:
            self._slow.add(scan, len(scan.job.ports), rest)

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
        tell: Callable[[asyncio.Future[Observation | None]], object] = lambda _: None,
    ) -> None:
        """Tell those who wait what came of a scan, give its place back, and forget an address that nobody asks."""
        if entry.running is scan:
            entry.running = None
        waiters, scan.waiters = scan.waiters, []
        for waiter in waiters:
            if not waiter.done():
                tell(waiter)
        scan.on_slow.clear()
        if scan.over:
            scan.over.set_result(None)
        if self._slow.end(scan):
            place.wake()
        else:
            place.put_back()
        if entry.running is None and not entry.waiting:
            self._addresses.pop(scan.job.addresses[0], None)


async def scan_all(
    scans: SharedScans, place: Place, jobs: Iterable[ScanJob]
) -> tuple[dict[str, AddressObservation], float]:
    """Run jobs that look again at what was seen just now, of an address each: with what begins from now on.

    Gives what is seen, by address, and the seconds that the longest took.
    """
    since = scans.now()
    tasks = [asyncio.create_task(scans.scan(job, place, since=since)) for job in jobs]
    try:
        answers = [await task for task in tasks]
    finally:  # one that fails, or a cancellation, ends the others
        for task in tasks:
            task.cancel()
    found = {item.address: item for answer in answers for item in answer.addresses}
    return found, max((answer.duration for answer in answers), default=0.0)


@dataclass(slots=True)
class _Ask:
    """What a job asks of one of its addresses: what was `known` before, the rest of the job, and the scan of that.

    `waiter` has None if the time was over before.
    """

    known: Observation | None
    job: ScanJob | None
    waiter: asyncio.Future[Observation | None]
    scan: _Scan | None = None


class _Request:
    """What a job asks of its addresses, from begin() to close(): who shares a scan, and what is begun when."""

    def __init__(self, scans: SharedScans, place: Place, since: float, on_begin: Callable[[], object]) -> None:
        self.asks: list[_Ask] = []
        self._scans = scans
        self._place = place
        self._since = since
        self._on_begin = on_begin
        self._has_begun = False
        self._left: deque[_Ask] = deque()  # to be scanned, and not planned yet
        self._own: list[_Ask] = []
        self._shared = 0

    def ask(self, known: Observation | None, job: ScanJob | None) -> None:
        """Ask for a job of one address, None if all of it is known already."""
        ask = _Ask(known, job, asyncio.get_running_loop().create_future())
        self.asks.append(ask)
        if job:
            if scan := self._scans.find(job, self._since):
                self._share(ask, scan)
            else:
                self._left.append(ask)

    def begin(self, over: asyncio.Future[None] | None) -> None:
        """Begin scans, until `over` is done."""
        if not self._left:
            self._note_begin()
            self._place.give_way()
        # Who is urgent, or has a place now or before all of the scans have begun, begins what others wait for a place
        # with: nobody urgent waits for those who are not, and nobody for the very place that is held here.
        may_begin = self._place.is_urgent or self._place.is_held or bool(self._left)
        if over:
            over.add_done_callback(self._stop)
            if over.done():
                self._stop(over)
        for ask in self.asks:
            if may_begin and ask.scan and ask.scan.began is None:
                self._begin(ask.scan)
        self._go_on()

    def close(self, over: asyncio.Future[None] | None) -> None:
        """Wait for nothing any more."""
        if over:
            over.remove_done_callback(self._stop)
        self._left.clear()
        for ask in self.asks:
            if ask.scan and self._slowed in ask.scan.on_slow:
                ask.scan.on_slow.remove(self._slowed)
            self._scans.leave(ask)
        for _ in range(self._shared):
            self._place.wake()

    def _share(self, ask: _Ask, scan: _Scan) -> None:
        """Wait for a scan that was planned for others."""
        ask.scan = scan
        scan.waiters.append(ask.waiter)
        self._shared += 1
        self._place.rest()

    def _begin(self, scan: _Scan) -> None:
        scan.on_slow.append(self._slowed)
        self._scans.begin(scan, self._place, self._note_begin)

    def _go_on(self, _: object = None) -> None:
        """Begin scans of the job's own, as long as not too many are under way."""
        while self._left and sum(map(self._scans.is_at_work, self._own)) < MOST_AT_ONCE:
            ask = self._left.popleft()
            if ask.job is None:
                continue
            if scan := self._scans.find(ask.job, self._since):
                self._share(ask, scan)
                continue
            ask.scan = self._scans.plan(ask.job)
            ask.scan.waiters.append(ask.waiter)
            if len(self.asks) > 1:
                ask.waiter.add_done_callback(self._go_on)
            self._own.append(ask)
            if self._scans.is_busy(ask.job.addresses[0]):
                self._place.give_way()
            self._begin(ask.scan)
        is_waiting = any(ask.job and not ask.waiter.done() for ask in self.asks)
        if is_waiting and not any(map(self._scans.is_at_work, self._own)):
            self._place.give_way()

    def _slowed(self) -> None:
        self._place.give_way()
        self._go_on()

    def _note_begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._on_begin()

    def _stop(self, _: object) -> None:
        """Wait no longer: what was seen until now is the answer."""
        self._left.clear()
        for ask in self.asks:
            if not ask.waiter.done():
                ask.waiter.set_result(None)


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
        pace=one.pace or other.pace,
    )
    return Observation((both,), first.duration + second.duration, first.probes + second.probes)


def _only(item: AddressObservation, job: ScanJob) -> AddressObservation:
    """Give what was seen of a job's own ports."""
    if item.scanned <= job.ports:
        return item
    return replace(
        item, scanned=item.scanned & job.ports, open=item.open & job.ports, filtered=item.filtered & job.ports
    )
