"""Open the engines that this machine allows, then drop the privileges that opening them required."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import replace
from typing import TYPE_CHECKING

from portspec import errors, log
from portspec.errors import EngineError
from portspec.heartbeat import Heartbeat
from portspec.inventory import Lookups, SystemResolver, targets
from portspec.limit import Limit
from portspec.scan.connect import MAX_ADDRESS_WINDOW, ConnectEngine
from portspec.scan.pacing import Pacer
from portspec.scan.sharing import SharedScans
from portspec.scan.syn import privileges
from portspec.schedule.canary import Canaries
from portspec.schedule.examiner import Examiner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.config import Config, ScanConfig
    from portspec.inventory import Target
    from portspec.scan import Engine
    from portspec.scan.syn.engine import SynEngine

MAX_DESCRIPTORS = 65536
FEW_DESCRIPTORS = 128  # an exporter with fewer works, but slowly, and clients may have to wait
MAX_CONFIRMING_CONNECTIONS = 4096  # connections to one address at a time: its ports have answered once already

_log = log.get("app")


class Engines:
    """The engine that scans, and the one that confirms what it found open (None: finding was connecting).

    What is limited here is limited for the process: for every scan, whichever configuration it began under, and for
    /probe. `lookups` is the number of names that are looked up at a time, `parallel` that of hosts that are scanned.
    """

    def __init__(self, scanner: Engine, confirmer: Engine | None, pacer: Pacer, config: Config) -> None:
        self.scanner = scanner
        self.confirmer = confirmer
        self._pacer = pacer  # which both keep to
        self._parallel = Limit(config.parallelscans)
        self._lookups = Lookups(families=_families(config))
        self._scans = SharedScans(scanner)
        self._connections = SharedScans(confirmer) if confirmer else self._scans
        self.canaries = Canaries(SharedScans(confirmer or scanner))
        self.canaries.watch(_canaries(config))

    def tune(self, config: Config) -> None:
        """Apply the limits, timeout and number of retries of another configuration."""
        self._pacer.keep_to(config.scan.rate)
        self._parallel.most = config.parallelscans
        self._lookups.tune(families=_families(config))
        self.canaries.watch(_canaries(config))
        for scans in (self._scans, self._connections):
            scans.engine.timeout = config.scan.timeout
            scans.engine.retries = config.scan.retries

    def examiner(self, config: Config, *, engine: str = "auto") -> Examiner:
        """Return an examiner; `engine` "connect" selects the confirming engine, any other value the scanning one."""
        is_connect = engine == "connect" or self.confirmer is None
        return Examiner(
            self._connections if is_connect else self._scans,
            SystemResolver(ipv6=config.ipv6, lookups=self._lookups, max_addresses=config.scan.max_addresses),
            self._parallel,
            confirmer=None if is_connect else self._connections,
            connections=self._connections,
            canaries=self.canaries,
            confirm=config.scan.confirm,
            host_rate=config.scan.host_rate,
            max_duration=config.scan.max_duration,
        )

    def heartbeats(self) -> Iterator[Heartbeat]:
        """Yield the heartbeat of each engine's thread."""
        for part, engine in self.threads():
            yield Heartbeat(part, engine.beat())

    def threads(self) -> Iterator[tuple[str, Engine]]:
        """Yield the engines by the name of the part, for the supervisor."""
        for engine in (self.scanner, self.confirmer):
            if engine:
                yield f"{engine.name} engine", engine

    def close(self) -> None:
        """Close both; may be called twice."""
        self.scanner.close()
        if self.confirmer:
            self.confirmer.close()


@contextlib.contextmanager
def open_engines(config: Config, *, probes: int | None = None, has_ip6: bool = True) -> Iterator[Engines]:
    """Open the engine that the configuration chooses; EngineError if it cannot run here.

    `probes` and `has_ip6` are those of RawChannel.
    """
    _raise_descriptor_limit()
    scan = config.scan
    pacer = Pacer(scan.rate)
    syn = _syn_engine(scan, pacer, probes, has_ip6=has_ip6)
    window = MAX_ADDRESS_WINDOW if syn is None else MAX_CONFIRMING_CONNECTIONS
    connect = ConnectEngine(timeout=scan.timeout, retries=scan.retries, pacer=pacer, address_window=window)
    engines = Engines(connect, None, pacer, config) if syn is None else Engines(syn, connect, pacer, config)
    with contextlib.closing(engines):
        yield engines


def _families(config: Config) -> int:
    """Return the number of address families that names are looked up in."""
    return 2 if config.ipv6 else 1


def _canaries(config: Config) -> tuple[Target, ...]:
    """Return the canaries, also those of other shards: what is between them and this machine is all that matters."""
    return targets(replace(config, hosts=tuple(host for host in config.hosts if host.is_canary)))


def _syn_engine(scan: ScanConfig, pacer: Pacer, probes: int | None, *, has_ip6: bool) -> SynEngine | None:
    """Return the SYN engine if it is configured or available, and log which engine was chosen and why."""
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

        channel = RawChannel(probes=probes, has_ip6=has_ip6)
    except OSError as error:
        why = errors.why(error)
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


def drop_privileges() -> None:
    """Return up every capability: the sockets are open, and nothing else needs one."""
    try:
        privileges.drop_all()
    except OSError as error:
        _log.warning("dropping the capabilities failed", why=errors.why(error))


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of open files towards the hard limit: each outstanding probe is a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # seccomp, or a hard limit above the system's
            _log.warning("raising the limit of open files failed; scans take longer", limit=soft, why=str(error))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FEW_DESCRIPTORS:
        _log.warning(
            "few files may be open: scans take longer, and clients may have to wait; raise LimitNOFILE= of the unit, "
            "or ulimit -n",
            limit=soft,
        )
