"""The scans that jobs share, by address: those that are planned, run, or have just ended.

Whoever plans a scan begins it with begin(). It runs once its address is free and there is a place.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from portspec.limit import LimitSlot
    from portspec.scan.job import Engine, Observation, ScanJob

SHARING_WINDOW = 5.0  # seconds after its start in which a scan serves further jobs
# A job shares a scan of at most so many ports more than its own: a job of one port must not wait for all ports.
_MAX_EXTRA_PORTS = 1024
MAX_SLOW_SCANS = 1024
MAX_SLOW_PORTS = 128 * 65_536  # of all slow scans; the SYN engine keeps 14 bytes per port, the connect engine less
CALLS_PER_TURN = 8  # of the event loop, that engines ask for


@dataclass(slots=True, eq=False)
class SharedScan:
    """A scan of one address: planned until it `began`, then running; `waiters` are the jobs that wait for it.

    The callbacks `on_slow` are called when it has become slow and has given its place back.
    """

    job: ScanJob
    waiters: list[asyncio.Future[Observation | None]] = field(default_factory=list)
    began: float | None = None
    running: Future[Observation] | None = None
    over: asyncio.Future[None] | None = None  # set if a job waits for the address to become free
    seen: Observation | None = None  # the engine's answer
    on_slow: list[Callable[[], object]] = field(default_factory=list)

    def serves(self, job: ScanJob, since: float) -> bool:
        """Return whether a job may share this scan: it is no older than `since`, and about as large and patient."""
        is_abandoned = self.began is not None and not self.waiters
        is_old = self.began is not None and self.began < since
        is_too_hasty = job.patience > self.job.patience or bool(job.alive) > bool(self.job.alive)
        if is_abandoned or is_old or is_too_hasty or job.hold != self.job.hold:
            return False
        together = len(self.job.ports | job.ports)
        return all(together <= max(2 * len(one.ports), len(one.ports) + _MAX_EXTRA_PORTS) for one in (job, self.job))

    def leave(self, waiter: asyncio.Future[Observation | None]) -> None:
        """Stop waiting; the last job that leaves ends the scan."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            if not self.waiters and self.running:
                self.running.cancel()


@dataclass(slots=True)
class _AddressEntry:
    """The running scan of an address, and those that wait for its end or for a place."""

    running: SharedScan | None = None
    waiting: list[SharedScan] = field(default_factory=list)


class _LoopCalls:
    """Calls that threads ask an event loop to make: one wake-up of the loop serves all that come until it makes them.

    An engine delivers hundreds of scans at once, and each wake-up is a system call for which both threads stop. Of the
    calls, the loop makes CALLS_PER_TURN in each of its turns: what follows a scan takes half a millisecond, and
    requests must not wait for hundreds of them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._lock = threading.Lock()

    def make(self, call: Callable[[], object]) -> None:
        """Have the loop make a call; from any thread."""
        with self._lock:  # of two threads that append, one sees that its call is the first
            self._calls.append(call)
            is_first = len(self._calls) == 1
        if is_first:  # else the loop was woken up for another one, and takes this one with it
            with contextlib.suppress(RuntimeError):  # the loop is closed: no job waits any more
                self.loop.call_soon_threadsafe(self._make_some)

    def _make_some(self) -> None:
        for _ in range(min(CALLS_PER_TURN, len(self._calls))):
            self.loop.call_soon(self._calls.popleft())  # each by itself: an error in one ends no other
        if self._calls:
            self.loop.call_soon(self._make_some)


class SlowScans:
    """Limits the scans that go on without a place: at most `most`, with `most_ports` ports in all.

    They cost only memory. A scan for which there is no room keeps its place and waits. Scans are identified by any
    object of their own. For one event loop.
    """

    def __init__(self, *, most: int = MAX_SLOW_SCANS, most_ports: int = MAX_SLOW_PORTS) -> None:
        self._most = most
        self._most_ports = most_ports
        self._admitted: dict[object, int] = {}
        self._ports = 0
        self._waiting: dict[object, tuple[int, Callable[[], object]]] = {}

    def __len__(self) -> int:
        return len(self._admitted)

    def __contains__(self, scan: object) -> bool:
        return scan in self._admitted

    def add(self, scan: object, ports: int, on_admitted: Callable[[], object]) -> None:
        """Admit a scan of so many ports as soon as there is room, and call `on_admitted`."""
        self._waiting[scan] = ports, on_admitted
        self._admit()

    def end(self, scan: object) -> bool:
        """Forget a scan; return whether it was admitted."""
        self._waiting.pop(scan, None)
        ports = self._admitted.pop(scan, None)
        self._ports -= ports or 0
        self._admit()
        return ports is not None

    def _admit(self) -> None:
        while self._waiting:
            scan, (ports, on_admitted) = next(iter(self._waiting.items()))
            if len(self._admitted) >= self._most or self._ports + ports > max(self._most_ports, ports):
                return
            del self._waiting[scan]
            self._admitted[scan] = ports
            self._ports += ports
            on_admitted()


class ScanTable:
    """The scans of one engine, at most one of each address at a time. For one event loop."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._addresses: dict[str, _AddressEntry] = {}
        self._ended: dict[str, SharedScan] = {}  # those that began in the last SHARING_WINDOW seconds, oldest end first
        self._tasks: set[asyncio.Task[None]] = set()
        self._slow = SlowScans()
        self._calls: _LoopCalls | None = None

    def known(self, address: str, job: ScanJob, since: float, round_began: float | None) -> Observation | None:
        """Return what an ended scan of an address saw, if it may serve a job."""
        while self._ended:
            oldest = next(iter(self._ended))
            if self._is_fresh(self._ended[oldest]):
                break
            del self._ended[oldest]
        scan = self._ended.get(address)
        if round_began is None or scan is None or scan.began is None or job.patience > scan.job.patience:
            return None
        return scan.seen if scan.began >= max(since, round_began) and scan.job.hold == job.hold else None

    def _is_fresh(self, scan: SharedScan) -> bool:
        return scan.began is not None and scan.began >= self._clock() - SHARING_WINDOW

    def is_busy(self, address: str) -> bool:
        """Return whether an address is being scanned."""
        entry = self._addresses.get(address)
        return entry is not None and entry.running is not None

    def is_active(self, scan: SharedScan) -> bool:
        """Return whether a scan that has not ended runs, or is about to begin, and is not slow."""
        if scan in self._slow:
            return False
        return scan.began is not None or not self.is_busy(scan.job.addresses[0])

    def find(self, job: ScanJob, since: float) -> SharedScan | None:
        """Return a scan of the job's address that may serve it, with the job's ports added; None if there is none."""
        entry = self._addresses.get(job.addresses[0]) or _AddressEntry()
        for scan in (*filter(None, [entry.running]), *entry.waiting):
            if scan.serves(job, since):
                if not job.ports <= scan.job.ports:
                    scan.job = replace(scan.job, ports=scan.job.ports | job.ports)
                    if scan.running:
                        self._engine.add_ports(scan.running, job.ports)
                return scan
        return None

    def plan(self, job: ScanJob) -> SharedScan:
        """Plan a scan of an address."""
        scan = SharedScan(job)
        self._addresses.setdefault(job.addresses[0], _AddressEntry()).waiting.append(scan)
        return scan

    def begin(self, scan: SharedScan, place: LimitSlot, on_begin: Callable[[], None]) -> None:
        """Run a scan when its address is free and there is a place."""
        entry = self._addresses[scan.job.addresses[0]]
        if entry.running is None and place.take_now():
            self._run(scan, entry, place, on_begin)
            return
        task = asyncio.create_task(self._run_in_turn(scan, entry, place, on_begin))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_in_turn(
        self, scan: SharedScan, entry: _AddressEntry, place: LimitSlot, on_begin: Callable[[], None]
    ) -> None:
        """Run a scan once its address is free and there is a place, unless another job begins it before.

        No place is held while this waits for a scan, which may be slow and hold none itself.
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
                self._run(scan, entry, place, on_begin)
                return
            place.put_back()  # another job was faster

    def _run(self, scan: SharedScan, entry: _AddressEntry, place: LimitSlot, on_begin: Callable[[], None]) -> None:
        """Have the engine scan, with a place that was taken, unless no job waits for the scan any more."""
        entry.waiting.remove(scan)
        if not scan.waiters:
            self._end(scan, entry, place)
            return
        place.keep()
        on_begin()
        entry.running = scan
        scan.began = self._clock()
        loop = asyncio.get_running_loop()
        if self._calls is None or self._calls.loop is not loop:
            self._calls = _LoopCalls(loop)
        calls = self._calls

        def on_slow() -> None:
            calls.make(partial(self._slowed, scan, entry, place))

        def on_end(answer: Future[Observation]) -> None:
            calls.make(partial(self._answered, scan, entry, place, answer))

        try:
            scan.running = self._engine.submit(replace(scan.job, on_slow=on_slow))
        except Exception as error:  # noqa: BLE001 - the jobs that wait get it
            self._end(scan, entry, place, methodcaller("set_exception", error))
            return
        scan.running.add_done_callback(on_end)

    def _slowed(self, scan: SharedScan, entry: _AddressEntry, place: LimitSlot) -> None:
        """Return the place of a slow scan back once SlowScans admits it, unless the scan is over."""

        def on_admitted() -> None:
            place.rest()
            place.put_back()
            for callback in scan.on_slow:
                callback()

        if entry.running is scan:
            self._slow.add(scan, len(scan.job.ports), on_admitted)

    def _answered(self, scan: SharedScan, entry: _AddressEntry, place: LimitSlot, answer: Future[Observation]) -> None:
        if answer.cancelled():
            self._end(scan, entry, place, methodcaller("cancel"))
        elif error := answer.exception():
            self._end(scan, entry, place, methodcaller("set_exception", error))
        else:
            scan.seen = answer.result()
            self._remember(scan)
            self._end(scan, entry, place, methodcaller("set_result", scan.seen))

    def _remember(self, scan: SharedScan) -> None:
        """Keep an ended scan for further jobs, unless a fresh one of more ports is kept already."""
        address = scan.job.addresses[0]
        other = self._ended.get(address)
        if self._is_fresh(scan) and not (
            other and self._is_fresh(other) and len(other.job.ports) > len(scan.job.ports)
        ):
            self._ended.pop(address, None)  # so that it is the last one
            self._ended[address] = scan

    def _end(
        self,
        scan: SharedScan,
        entry: _AddressEntry,
        place: LimitSlot,
        resolve: Callable[[asyncio.Future[Observation | None]], object] = lambda _: None,
    ) -> None:
        """Resolve the futures of the jobs that wait, give the place back, and forget an address without scans."""
        if entry.running is scan:
            entry.running = None
        waiters, scan.waiters = scan.waiters, []
        for waiter in waiters:
            if not waiter.done():
                resolve(waiter)
        scan.on_slow.clear()
        if scan.over:
            scan.over.set_result(None)
        scan.running = None  # which refers back to the scan
        if self._slow.end(scan):
            place.wake()
        else:
            place.put_back()
        if entry.running is None and not entry.waiting:
            self._addresses.pop(scan.job.addresses[0], None)
