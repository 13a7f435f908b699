"""Builds every part and connects them: the only place that constructs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec import __version__, log
from portspec.examine import Examiner
from portspec.inventory import MAX_LOOKUPS, SystemResolver, targets
from portspec.scan.connect import ConnectEngine
from portspec.snapshot import HostState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from portspec.config import Config, ScanConfig
    from portspec.inventory import Target
    from portspec.scan import Engine

MAX_DESCRIPTORS = 65536

_log = log.get("app")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a survey is; ports count once for each address, names count as one address until they resolve."""

    hosts_done: int
    ports_done: int
    ports_total: int
    probes_sent: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The states of some hosts after one scan each; `duration` in seconds, from first look-up to last answer."""

    states: tuple[HostState, ...]
    engine: str
    probes_sent: int
    duration: float


async def serve(config: Config, listen_addresses: Sequence[str]) -> None:
    """Run the exporter until SIGTERM or SIGINT. Raises ListenError when it cannot listen."""
    from portspec.metrics import Exposition
    from portspec.monitor import Monitor
    from portspec.web import WebServer, parse_listen_address

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, number, stop)
    loop.add_signal_handler(
        signal.SIGHUP, _log.warning, "SIGHUP is ignored: restart portspec to read a changed conf.yml"
    )
    listeners = [parse_listen_address(address) for address in listen_addresses]
    known = targets(config)
    with _engine(config.scan) as engine:
        monitor = Monitor(known, _examiner(config, engine), places=config.parallelscans + MAX_LOOKUPS)
        exposition = Exposition(lambda: monitor.snapshot, engine=engine.name, config_loaded_at=time.time())
        server = WebServer(lambda: monitor.snapshot, exposition, listeners)
        urls = await server.start()
        try:
            _log.info(
                "portspec started",
                version=__version__,
                config=config.path,
                hosts=len(known),
                engine=engine.name,
                parallelscans=config.parallelscans,
            )
            for url in urls:
                _log.info("listening", url=url)
            await _run_until(stop, monitor.run())
        finally:
            engine.close()
            await server.stop()
    _log.info("portspec stopped")


async def survey(config: Config, chosen: Sequence[Target], on_progress: Callable[[Progress], None]) -> Survey:
    """Scan the chosen targets once; `on_progress` is called ten times a second and at the end."""
    with _engine(config.scan) as engine:
        examiner = _examiner(config, engine)
        started = time.monotonic()
        order = random.sample(range(len(chosen)), len(chosen))
        by_place = {place: asyncio.create_task(_examine(examiner, chosen[place])) for place in order}
        scans = [by_place[place] for place in range(len(chosen))]
        ahead = sum(len(target.config.ports) for target in chosen)

        def report() -> None:
            total = engine.stats.ports_submitted + ahead - examiner.ports_started
            done = sum(scan.done() for scan in scans)
            on_progress(Progress(done, engine.stats.ports_settled, total, engine.stats.probes_sent))

        pending: set[asyncio.Task[HostState]] = set(scans)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=0.1)
            report()
        return Survey(
            tuple(scan.result() for scan in scans),
            engine.name,
            engine.stats.probes_sent,
            time.monotonic() - started,
        )


async def _examine(examiner: Examiner, target: Target) -> HostState:
    return HostState(target).after(await examiner.examine(target))


def _examiner(config: Config, engine: Engine) -> Examiner:
    resolver = SystemResolver(ipv6=config.ipv6)
    return Examiner(engine, resolver, parallel=config.parallelscans, host_rate=config.scan.host_rate)


@contextlib.contextmanager
def _engine(scan: ScanConfig) -> Iterator[Engine]:
    _raise_descriptor_limit()
    engine = ConnectEngine(timeout=scan.timeout, retries=scan.retries, rate=scan.rate)
    try:
        yield engine
    finally:
        engine.close()


def _raise_descriptor_limit() -> None:
    """Lift the soft limit of open files towards the hard one: each probe in flight is a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _on_signal(number: signal.Signals, stop: asyncio.Event) -> None:
    _log.info("stopping", signal=number.name)
    stop.set()


async def _run_until(stop: asyncio.Event, forever: Coroutine[None, None, None]) -> None:
    """Run a coroutine that should not end until `stop` is set; if it fails, so does this."""
    running = asyncio.create_task(forever)
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        waiting.cancel()
        running.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
