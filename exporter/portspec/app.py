"""Builds every part and connects them: the only place that constructs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec import __version__, log
from portspec.errors import EngineError
from portspec.examine import Examiner
from portspec.inventory import MAX_LOOKUPS, SystemResolver, targets
from portspec.scan.connect import MAX_ADDRESS_WINDOW, ConnectEngine
from portspec.scan.pacing import Pacer
from portspec.scan.syn import privileges
from portspec.snapshot import HostState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from portspec.config import Config, ScanConfig
    from portspec.inventory import Target
    from portspec.scan import Engine
    from portspec.scan.syn.engine import SynEngine

MAX_DESCRIPTORS = 65536
MAX_CONFIRMING = 4096  # connections to one address at a time: its ports have answered once already

_log = log.get("app")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a survey is; ports count once for each address, names count as one address until they resolve."""

    hosts_done: int
    ports_done: int
    ports_total: int
    probes_sent: int


@dataclass(frozen=True, slots=True, repr=False)  # asyncio.run() spells its result out, twice
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
    with _engines(config.scan) as engines:
        engine = engines.scanner
        monitor = Monitor(known, _examiner(config, engines), places=config.parallelscans + MAX_LOOKUPS)
        exposition = Exposition(lambda: monitor.snapshot, engine=engine.name, config_loaded_at=time.time())
        server = WebServer(lambda: monitor.snapshot, exposition, listeners)
        urls = await server.start()
        _drop_privileges()
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
            engines.close()
            await server.stop()
    _log.info("portspec stopped")


async def survey(
    config: Config,
    chosen: Sequence[Target],
    on_progress: Callable[[Progress], None],
    *,
    confirm_allowed: bool = False,
) -> Survey:
    """Scan the chosen targets once; `on_progress` is called ten times a second and at the end."""
    with _engines(config.scan) as engines:
        _drop_privileges()
        engine = engines.scanner
        examiner = _examiner(config, engines, confirm_allowed=confirm_allowed)
        started = time.monotonic()
        order = random.sample(range(len(chosen)), len(chosen))
        by_place = {place: asyncio.create_task(_examine(examiner, chosen[place])) for place in order}
        scans = [by_place[place] for place in range(len(chosen))]
        ahead = sum(len(target.config.ports) for target in chosen)

        def report() -> None:
            total = engine.stats.ports_submitted + ahead - examiner.ports_started
            done = sum(scan.done() for scan in scans)
            on_progress(Progress(done, engine.stats.ports_settled, total, examiner.probes_sent))

        everything = asyncio.gather(*scans, return_exceptions=True)  # each is asked for its own below
        while not everything.done():
            await asyncio.wait([everything], timeout=0.1)
            report()
        return Survey(
            tuple(scan.result() for scan in scans),
            engine.name,
            examiner.probes_sent,
            time.monotonic() - started,
        )


async def _examine(examiner: Examiner, target: Target) -> HostState:
    return HostState(target).after(await examiner.examine(target))


def _examiner(config: Config, engines: _Engines, *, confirm_allowed: bool = False) -> Examiner:
    return Examiner(
        engines.scanner,
        SystemResolver(ipv6=config.ipv6),
        parallel=config.parallelscans,
        confirmer=engines.confirmer,
        confirm_allowed=confirm_allowed,
        host_rate=config.scan.host_rate,
    )


@dataclass(frozen=True, slots=True)
class _Engines:
    """The engine that scans, and the one that confirms what it found open (None: finding was connecting)."""

    scanner: Engine
    confirmer: Engine | None = None

    def close(self) -> None:
        """Close both; may be called twice."""
        self.scanner.close()
        if self.confirmer:
            self.confirmer.close()


@contextlib.contextmanager
def _engines(scan: ScanConfig) -> Iterator[_Engines]:
    """Open the engine that the configuration chooses; EngineError if it cannot run here."""
    _raise_descriptor_limit()
    pacer = Pacer(scan.rate)
    syn = _syn_engine(scan, pacer)
    window = MAX_ADDRESS_WINDOW if syn is None else MAX_CONFIRMING
    connect = ConnectEngine(timeout=scan.timeout, retries=scan.retries, pacer=pacer, address_window=window)
    engines = _Engines(connect) if syn is None else _Engines(syn, connect)
    with contextlib.closing(engines):
        yield engines


def _syn_engine(scan: ScanConfig, pacer: Pacer) -> SynEngine | None:
    """Make the SYN engine if it is asked for or may be had, and say once what was chosen and why."""
    if scan.engine == "connect":
        _log.info("engine chosen", engine="connect", why="conf.yml says so")
        return None
    try:
        privileges.claim(privileges.CAP_NET_RAW)
        if privileges.CAP_NET_RAW not in privileges.effective():
            raise PermissionError("this process has no CAP_NET_RAW")
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's own threads would keep the capabilities
        from portspec.scan.syn.engine import SynEngine
        from portspec.scan.syn.socket import RawChannel

        channel = RawChannel()
    except OSError as error:
        why = error.strerror.lower() if error.strerror else str(error)
        if scan.engine == "syn":
            raise EngineError(why, lacks_right=isinstance(error, PermissionError)) from None
        _log.info("engine chosen", engine="connect", why=f"the syn engine cannot run: {why}")
        return None
    try:
        engine = SynEngine(channel, timeout=scan.timeout, retries=scan.retries, pacer=pacer)
    except BaseException:
        channel.close()
        raise
    why = "conf.yml says so" if scan.engine == "syn" else "raw sockets may be used"
    _log.info("engine chosen", engine="syn", why=why)
    return engine


def _drop_privileges() -> None:
    """Give up every capability: the sockets are open, and nothing else needs one."""
    try:
        privileges.drop_all()
    except OSError as error:
        _log.warning("capabilities are kept: the kernel refuses to drop them", why=str(error.strerror).lower())


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
