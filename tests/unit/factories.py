"""What unit tests are made of: targets, observations, results; an engine, a resolver, a clock that tests drive."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import signal
from concurrent.futures import Future
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import structlog
from hypothesis import settings

from portspec import log
from portspec.config import HostConfig, MaintenanceWindow, PortException, Specification
from portspec.deadlines import NO_DEADLINES, Deadlines
from portspec.deny import NOTHING, Deny
from portspec.exceptions import excepted_ports
from portspec.inventory import Resolution, Target
from portspec.ports import PortSet
from portspec.scan import AddressObservation, EngineStats, Failure, Observation, Reason, ScanJob
from portspec.schedule.transition import prepare
from portspec.state.snapshot import ScanResult, Snapshot
from portspec.state.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

#: How thoroughly hypothesis looks: enough to find a fault, quick enough to run each time.
MODEST: Final = settings(deadline=None, max_examples=40)

ADDRESS: Final = "192.0.2.1"  # RFC 5737: nobody's; it stands in observations made by hand and is never probed
NOW: Final = 1_700_000_000.0  # 2023-11-14T22:13:20Z


@contextlib.contextmanager
def process_restored() -> Iterator[None]:
    """Undo on leaving what a command changes of the whole process: log.set_up(), and what signals do.

    Begin as a process does that has logged nothing.
    """
    structlog.reset_defaults()
    root = logging.getLogger()
    command = logging.getLogger("portspec.command")
    before = root.handlers[:], root.level
    before_of_command = command.handlers[:], command.propagate
    raises = logging.raiseExceptions
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        root.handlers[:], level = before
        root.setLevel(level)
        command.handlers[:], command.propagate = before_of_command
        logging.raiseExceptions = raises
        structlog.reset_defaults()
        log.configure()  # as tests/conftest.py does


def target(
    host: str = "web1",
    *,
    expect: Iterable[int] = (),
    allow: Iterable[int] = (),
    scan: Iterable[int] = (22, 80, 443),
    interval: float = 60.0,
    labels: Mapping[str, str] | None = None,
    address: str | None = ADDRESS,
    exceptions: Iterable[PortException] = (),
    maintenance: Iterable[MaintenanceWindow] = (),
    is_canary: bool = False,
    owner: str = "",
    deadlines: Deadlines = NO_DEADLINES,
    renamed_from: Iterable[str] = (),
) -> Target:
    """Make a target; `scan` are its scanports, to which its specification is added."""
    specification = Specification(PortSet.of(expect), PortSet.of(allow))
    ports = PortSet.of(scan) | specification.expect | specification.allow
    labels = MappingProxyType(dict(labels or {}))
    former = tuple(renamed_from)
    config = HostConfig(host, specification, ports, interval, labels, is_canary=is_canary, renamed_from=former)
    return Target(
        host,
        config,
        address,
        tuple(exceptions),
        maintenance=tuple(maintenance),
        owner=owner,
        deadlines=deadlines,
        renamed_from=former,
    )


def exception(*ports: int, until: float, hosts: Iterable[str] = ("*",)) -> PortException:
    """Make an exception for these ports, in force before `until`, in Unix seconds."""
    return PortException(tuple(hosts), PortSet.of(ports), until)


def window(
    begins: float, until: float, reason: str = "", owner: str = "", hosts: Iterable[str] = ("*",)
) -> MaintenanceWindow:
    """Make a time of maintenance; both times are in Unix seconds."""
    return MaintenanceWindow(tuple(hosts), begins, until, reason, owner)


def seen(
    address: str = ADDRESS,
    *,
    scanned: Iterable[int] = (22, 80, 443),
    is_open: Iterable[int] = (),
    filtered: Iterable[int] = (),
    unconfirmed: Iterable[int] = (),
    answered: bool | None = None,
    rtt: float | None = None,
    reason: Reason | None = None,
) -> AddressObservation:
    """Make the observation of one address, `scanned` and all that is open or filtered; with a reason, an unseen one.

    The `unconfirmed` are some of those that are open.
    """
    found, silent = PortSet.of(is_open), PortSet.of(filtered)
    probed = PortSet.of(scanned) | found | silent
    return AddressObservation(
        address=address,
        scanned=PortSet() if reason else probed,
        open=PortSet() if reason else found,
        filtered=PortSet() if reason else silent,
        answered=len(silent) < len(probed) and reason is None if answered is None else answered,
        rtt=rtt,
        failure=Failure(reason, f"no connection to {address}: {reason.value}") if reason else None,
        unconfirmed=PortSet() if reason else PortSet.of(unconfirmed),
    )


def result(
    of: Target,
    *addresses: AddressObservation,
    at: float = NOW,
    duration: float = 1.5,
    failure: Failure | None = None,
) -> ScanResult:
    """Make the result of one scan, judged by the target's specification and its exceptions at that time."""
    excepted = excepted_ports(of.exceptions, at)
    return ScanResult(addresses, judge(addresses, of.config.specification, failure, excepted), at, duration)


def snapshot(*scans: tuple[Target, Sequence[ScanResult]], probes_sent: int = 0, answers_dropped: int = 0) -> Snapshot:
    """Make the snapshot after the given scans of each target."""
    made = Snapshot.of(of for of, _ in scans)
    for of, results in scans:
        for finished in results:
            made = made.after(of.host, finished, probes_sent=probes_sent, answers_dropped=answers_dropped)
    return made


def all_closed(job: ScanJob) -> Observation:
    """Answer a job: every port of every address is closed."""
    seen_ones = tuple(seen(address, scanned=job.ports) for address in job.addresses)
    return Observation(seen_ones, 0.25, len(seen_ones) * len(job.ports))


class ScriptedEngine:
    """An engine that answers each job as its script says (an exception is the job's fault); without one, jobs wait."""

    name = "scripted"
    timeout = 0.9
    retries = 2
    death: BaseException | None = None

    def __init__(self, answer: Callable[[ScanJob], Observation] | None = None) -> None:
        self.stats = EngineStats()
        self._beats = itertools.count()
        self.jobs: list[ScanJob] = []
        self.futures: list[Future[Observation]] = []
        self.seen_so_far: dict[int, Observation] = {}
        self._answer = answer
        self._closed = False

    @property
    def running(self) -> int:
        """The number of jobs that wait for an answer."""
        return sum(not future.done() for future in self.futures)

    def submit(self, job: ScanJob) -> Future[Observation]:
        """Take a job; RuntimeError after close()."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        future: Future[Observation] = Future()
        self.jobs.append(job)
        self.futures.append(future)
        if self._answer:
            self.finish(len(self.jobs) - 1, self._answer)
        return future

    def add_ports(self, running: Future[Observation], ports: PortSet) -> None:
        """Add ports to a job that waits for an answer."""
        number = self.futures.index(running)
        if not running.done():
            self.jobs[number] = replace(self.jobs[number], ports=self.jobs[number].ports | ports)

    def so_far(self, running: Future[Observation], failure: Failure) -> Future[Observation | None]:
        """Return what `seen_so_far` says of the job of a number; of another one nothing was seen."""
        answer: Future[Observation | None] = Future()
        number = self.futures.index(running)
        nothing = [AddressObservation(address, PortSet(), failure=failure) for address in self.jobs[number].addresses]
        seen_until_now = self.seen_so_far.get(number, Observation(tuple(nothing), 0.0, 0))
        answer.set_result(None if running.done() else seen_until_now)
        return answer

    def restart(self) -> None:
        """Do nothing: there is no thread that could have ended."""

    def beat(self) -> int | None:
        """Return how often it was asked: there is no thread that could hang."""
        return next(self._beats)

    def finish(self, number: int, answer: Callable[[ScanJob], Observation] = all_closed) -> None:
        """Answer the job of a number, in the order of submission from 0."""
        try:
            observation = answer(self.jobs[number])
        except Exception as error:  # noqa: BLE001 - the script's
            self.futures[number].set_exception(error)
        else:
            self.stats.probes_sent += observation.probes
            self.futures[number].set_result(observation)

    def close(self) -> None:
        """Cancel what waits, and take no more."""
        self._closed = True
        for future in self.futures:
            future.cancel()


class ScriptedResolver:
    """A resolver that knows the names it is given; `held` names answer only after release()."""

    def __init__(self, names: Mapping[str, Resolution] | None = None, *, held: Iterable[str] = ()) -> None:
        self.asked: list[str] = []
        self._names = dict(names or {})
        self._held = {name: asyncio.Event() for name in held}

    async def resolve(self, name: str, _deny: Deny = NOTHING, /) -> Resolution:
        """Look a name up."""
        self.asked.append(name)
        if name in self._held:
            await self._held[name].wait()
        return self._names.get(name, Resolution((), Failure(Reason.RESOLVE, f"{name} is not in the script")))

    def release(self, name: str) -> None:
        """Let a held name answer."""
        self._held[name].set()


async def settle() -> None:
    """Let every task run until all of them wait for something."""
    for _ in range(50):
        await asyncio.sleep(0)


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._numbers = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Return the time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has moved the clock so far."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + max(0.0, seconds), next(self._numbers), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Move on, and wake every sleeper at its moment."""
        end = self._now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not woken.done():
                woken.set_result(None)
            await settle()
        self._now = end

    async def freeze(self, seconds: float) -> None:
        """Let time pass in which nothing runs, as when the whole machine sleeps; then wake who is due."""
        await settle()
        self._now += seconds
        await self.advance(0.0)


class ManualWallClock:
    """A wall clock that goes with a ManualClock, and that a test may set."""

    def __init__(self, clock: ManualClock, now: float = NOW) -> None:
        self._clock = clock
        self._ahead = now - clock.now()

    def __call__(self) -> float:
        """Return the time in Unix seconds."""
        return self._clock.now() + self._ahead

    def jump(self, seconds: float) -> None:
        """Set it forward, or back."""
        self._ahead += seconds


def with_targets(of: Snapshot, targets: Iterable[Target], now: float = NOW) -> Snapshot:
    """Return a snapshot after a reload with other targets."""
    return replace(of, hosts=prepare(of.hosts, targets, now, {}).hosts)
