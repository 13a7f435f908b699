"""A scrape of /metrics beside `prometheus_client.generate_latest` on the same families; see benchmarks/__main__.py.

    python -m benchmarks.exposition [--runs N] [--only SERIES]

The server, and the peer, are processes of their own; the client is a plain socket on loopback that reads as fast as it
can. Beside a scrape a task in the server's event loop sleeps for a millisecond again and again: how late it wakes at
worst is the longest block.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import gzip
import json
import resource
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.targets import OUTCOMES
from portspec.access.watched import CurrentWebConfig
from portspec.config import HostConfig, Specification
from portspec.inventory import Shard, Target
from portspec.metrics import Exposition, ServiceStatus
from portspec.ports import PortSet
from portspec.scan import AddressObservation
from portspec.state.snapshot import ScanResult, Snapshot
from portspec.state.table import HostTable
from portspec.state.verdict import judge
from portspec.store import StoreStatus
from portspec.web import Gate, ListenAddress, WebServer
from tests.unit.metrics.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from portspec.state.snapshot import HostState
    from portspec.web.backend import Backend

NOW = 1_700_000_000.0
FEW_RUNS = 3  # of what takes seconds
LARGE = 1_000_000  # series
CHANGES = ("nothing", "one host", "all hosts")
ENCODINGS = ("plain", "gzip")
MB = 1e6


@dataclass(frozen=True, slots=True)
class Size:
    """Hosts and their expected, open ports. No two ports are neighbours: each takes a range of its own in a PortSet."""

    hosts: int
    ports: int

    @property
    def series(self) -> int:
        """Two for each port, seven for each host, one for a port that is missing; without that one less for a host."""
        return self.hosts * (8 + 2 * self.ports)

    def targets(self) -> Iterator[Target]:
        """Make the targets, each with a configuration of its own."""
        for number in range(self.hosts):
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
            expected = PortSet.of(range(1001, 1001 + 2 * self.ports, 2))
            name = f"host-{number:05}.example.org"
            yield Target(name, HostConfig(name, Specification(expected), expected, 3600.0), address)


SIZES = (Size(100, 1), Size(1_000, 1), Size(1_000, 46), Size(10_000, 1), Size(10_000, 46))


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape: seconds to the first and to the last byte, the bytes of the body, the longest block in seconds."""

    first: float
    last: float
    size: int
    block: float


@dataclass(frozen=True, slots=True)
class Measured:
    """All scrapes of one size by what changed and the encoding, and the server's memory in bytes without and with."""

    scrapes: dict[tuple[str, str], Sequence[Scrape]]
    idle: float
    before: int
    peak: int

    def last(self, change: str, encoding: str) -> float:
        """Return the median time to the last byte."""
        return statistics.median(scrape.last for scrape in self.scrapes[change, encoding])

    def block(self, change: str, encoding: str) -> float:
        """Return the longest block of all runs."""
        return max(scrape.block for scrape in self.scrapes[change, encoding])


@dataclass(frozen=True, slots=True)
class PeerMeasured:
    """Seconds that generate_latest takes, and gzip.compress after it, as prometheus_client's server does; memory."""

    plain: float
    compress: float
    size: int
    peak: int


def report(runs: int, sizes: Sequence[Size] = SIZES) -> None:
    """Print the tables and what came of the targets."""
    head = (
        "| series | hosts | changed since the last scrape | encoding | first byte ms | last byte ms | bytes "
        "| longest block ms |\n|---|---|---|---|---|---|---|---|"
    )
    other_head = (
        "| series | hosts | portspec before the first scrape MB | peak MB | generate_latest s | with gzip.compress s "
        "| peak MB | longest block while idle ms |\n|---|---|---|---|---|---|---|---|"
    )
    lines: list[str] = []
    memory: list[str] = []
    ratios: list[str] = []
    for size in sizes:
        ours = _measure(size, min(runs, FEW_RUNS) if size.series >= LARGE else runs)
        theirs = _measure_peer(size, 1 if size.series >= LARGE else min(runs, FEW_RUNS))
        lines += _rows(size, ours)
        memory.append(
            f"| {size.series:,} | {size.hosts:,} | {ours.before / MB:.0f} | {ours.peak / MB:.0f} | {theirs.plain:.3f} "
            f"| {theirs.plain + theirs.compress:.3f} | {theirs.peak / MB:.0f} | {1e3 * ours.idle:.1f} |"
        )
        ratios += _ratios(size, ours, theirs)
    print("\n## The page /metrics\n")
    print("\n".join([head, *lines, "", other_head, *memory, "", *ratios]))
    print(
        f"* times are medians of {runs} runs ({min(runs, FEW_RUNS)} of a page of {LARGE:,} series; generate_latest "
        f"{min(runs, FEW_RUNS)}, and 1), blocks the longest of all runs"
    )


def _rows(size: Size, ours: Measured) -> Iterator[str]:
    for (change, encoding), scrapes in ours.scrapes.items():
        first, last = (
            1e3 * statistics.median(getattr(scrape, name) for scrape in scrapes) for name in ("first", "last")
        )
        yield (
            f"| {size.series:,} | {size.hosts:,} | {change} | {encoding} | {first:.1f} | {last:.1f} "
            f"| {scrapes[-1].size:,} | {1e3 * ours.block(change, encoding):.1f} |"
        )


def _ratios(size: Size, ours: Measured, theirs: PeerMeasured) -> Iterator[str]:
    name = f"{size.series:,} series of {size.hosts:,} hosts"
    for change in CHANGES:
        plain = theirs.plain / ours.last(change, "plain")
        gzipped = (theirs.plain + theirs.compress) / ours.last(change, "gzip")
        block = max(ours.block(change, encoding) for encoding in ENCODINGS)
        yield (
            f"* {name}, {change} changed: generate_latest/portspec {plain:.0f} times (plain), {gzipped:.0f} times "
            f"(gzip), longest block of the event loop {1e3 * block:.1f} ms"
        )
    one, block = (
        ours.last("one host", "plain"),
        max(map(max, ([s.block for s in every] for every in ours.scrapes.values()))),
    )
    if size.series == LARGE // 10:
        fast, smooth = OUTCOMES[theirs.plain / one >= 50], OUTCOMES[block <= 0.02]
        yield f"* {name}: target 50 times {fast}, no block over 20 ms {smooth}"
    elif size.series == LARGE:
        yield f"* {name}: target 1 s {OUTCOMES[one < 1]}, 500 MB {OUTCOMES[ours.peak < 500 * MB]}"


class Child:
    """A process of a module that answers a line of JSON with a line of JSON."""

    def __init__(self, role: str, size: Size, module: str = "benchmarks.exposition") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, role, str(size.hosts), str(size.ports)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _pipe(self._process.stdin).close()
        self._process.wait()
        _pipe(self._process.stdout).close()

    def ask(self, *command: str) -> Any:
        """Say one thing, and wait for the answer."""
        _pipe(self._process.stdin).write(json.dumps(command) + "\n")
        _pipe(self._process.stdin).flush()
        return json.loads(_pipe(self._process.stdout).readline())


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("no pipe")
    return stream


def _measure(size: Size, runs: int) -> Measured:
    print(f"/metrics: {size.series:,} series of {size.hosts:,} hosts", file=sys.stderr, flush=True)
    scrapes: dict[tuple[str, str], Sequence[Scrape]] = {}
    with Child("serve", size) as server:
        port = server.ask("port")
        before = server.ask("memory")
        server.ask("watch")
        time.sleep(1)
        idle = server.ask("block")
        for encoding in ENCODINGS:
            fetch(port, encoding)  # the first one writes everything
            for change in CHANGES:
                scrapes[change, encoding] = [_changed(server, port, change, encoding) for _ in range(runs)]
        return Measured(scrapes, idle, before, server.ask("peak"))


def _changed(server: Child, port: int, change: str, encoding: str) -> Scrape:
    server.ask("change", change)
    server.ask("watch")
    first, last, size = fetch(port, encoding)
    return Scrape(first, last, size, server.ask("block"))


def fetch(port: int, encoding: str, path: str = "/metrics") -> tuple[float, float, int]:
    """Ask once over a new connection; return the seconds to the first and last byte, and the size of the body."""
    buffer = bytearray(1 << 20)
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {encoding}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        started = time.perf_counter()
        connection.sendall(request.replace("plain", "identity").encode())
        got = connection.recv_into(buffer)
        first = time.perf_counter() - started
        head, _, body = bytes(buffer[:got]).partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split()[0])
        left = size - len(body)
        while left > 0:
            if not (got := connection.recv_into(buffer)):
                raise RuntimeError("the page ends too soon")
            left -= got
        return first, time.perf_counter() - started, size


def _measure_peer(size: Size, runs: int) -> PeerMeasured:
    print(f"generate_latest: {size.series:,} series of {size.hosts:,} hosts", file=sys.stderr, flush=True)
    with Child("peer", size) as peer:
        plain = statistics.median(peer.ask("write") for _ in range(runs))
        return PeerMeasured(plain, peer.ask("compress"), peer.ask("size"), peer.ask("peak"))


class _World:
    """The Snapshot that is served, and what may happen to it: every scan finds the first port closed, or open again."""

    def __init__(self, size: Size) -> None:
        self.snapshot = Snapshot.of(size.targets())
        self._hosts = tuple(self.snapshot.hosts)
        self._scans = 0
        for _ in range(2):
            self.change("all hosts")

    def change(self, what: str) -> None:
        """Let nothing, or a scan of one host or of all, happen."""
        if what == "one host":
            self._scans += 1
            host = self._hosts[self._scans * 7919 % len(self._hosts)]
            self.snapshot = self.snapshot.after(host, self._result(self.snapshot.hosts[host]), probes_sent=self._scans)
        elif what == "all hosts":
            self._scans += 1
            states = (state.after(self._result(state)) for state in self.snapshot.hosts.values())
            self.snapshot = Snapshot(HostTable(states))

    def _result(self, state: HostState) -> ScanResult:
        target = state.target
        ports = target.config.ports
        is_whole = state.conclusive is not None and not state.deviations
        found = PortSet(ports.ranges[1:]) if is_whole else ports
        addresses = (AddressObservation(target.address or "", ports, open=found, answered=True, rtt=0.001),)
        return ScanResult(addresses, judge(addresses, target.config.specification), NOW + self._scans / 8, 1.5)


class Served:
    """A server of /metrics that does what it is told, a line of JSON at a time."""

    def __init__(self, size: Size) -> None:
        self._world = _World(size)
        store = StoreStatus(is_up=True, errors=0, pending=0, dropped=0)
        status = ServiceStatus("benchmark", NOW, config_is_good=True, is_ready=True, shard=Shard(), store=store)
        self.status = status
        self.exposition = Exposition(lambda: self.snapshot, lambda: status, series_budget=2 * size.series)
        # Of a service the server asks for nothing else to answer /metrics and the page of all hosts.
        self._server = WebServer(
            cast("Backend", self), [ListenAddress("127.0.0.1", 0)], gate=Gate(CurrentWebConfig(None))
        )
        self._url = ""
        self._worst = 0.0
        self._watcher: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    @property
    def snapshot(self) -> Snapshot:
        """The state of all hosts now."""
        return self._world.snapshot

    async def run(self) -> None:
        """Serve until standard input ends."""
        (self._url,) = await self._server.start()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._obey)
        await self._ended.wait()
        if self._watcher:
            self._watcher.cancel()
        await self._server.stop()

    def _obey(self) -> None:
        line = sys.stdin.readline()
        if not line:
            self._ended.set()
            return
        command, *arguments = json.loads(line)
        answers: dict[str, Callable[..., object]] = {
            "port": self._port,
            "change": self._change,
            "watch": self._watch,
            "block": self._block,
            "memory": _resident,
            "peak": _peak,
        }
        print(json.dumps(answers[command](*arguments)), flush=True)

    def _port(self) -> int:
        return int(self._url.rstrip("/").rpartition(":")[2])

    def _change(self, what: str) -> None:
        self._world.change(what)
        gc.collect()  # what the change itself leaves behind is not the scrape's

    def _watch(self) -> None:
        if self._watcher:
            self._watcher.cancel()
        self._worst = 0.0
        self._watcher = asyncio.get_running_loop().create_task(self._sleep_again_and_again())

    async def _sleep_again_and_again(self) -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            self._worst = max(self._worst, time.perf_counter() - started - 0.001)

    def _block(self) -> float:
        return self._worst


async def _serve(size: Size) -> None:
    await Served(size).run()


def _write(size: Size) -> None:
    """Write the same families with prometheus_client as often as standard input says."""
    world = _World(size)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Peer(lambda: tuple(world.snapshot.hosts.values())))
    page = b""
    for line in sys.stdin:
        (command,) = json.loads(line)
        started = time.perf_counter()
        if command == "write":
            page = generate_latest(registry)
        elif command == "compress":
            gzip.compress(page)
        took = time.perf_counter() - started
        print(json.dumps({"size": len(page), "peak": _peak()}.get(command, took)), flush=True)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def main() -> None:
    """Be one of the processes, or measure with both."""
    if len(sys.argv) > 1 and sys.argv[1] in ("serve", "peer"):
        size = Size(*map(int, sys.argv[2:]))
        if sys.argv[1] == "serve":
            asyncio.run(_serve(size))
        else:
            _write(size)
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exposition",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=5, help="scrapes of each kind (default 5)")
    parser.add_argument("--only", type=int, metavar="SERIES", help="only the pages of so many series")
    options = parser.parse_args()
    report(options.runs, [size for size in SIZES if options.only in (None, size.series)])


if __name__ == "__main__":
    main()
