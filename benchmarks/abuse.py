"""An exporter under attack: what each attack costs, and how long a scrape takes meanwhile.

    python -m benchmarks.abuse [--hosts N] [--seconds S] [--against TREE] [ATTACK …]

The exporter runs as users run it on a loopback network of many hosts, and scans nothing after its start. A client
scrapes it ten times a second as Prometheus does, and an attacker (benchmarks/attacks.py), at a lower priority because a
real one has a machine of its own, does what it can. With --against, the same runs against the code of another tree or
commit, and the tables stand side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.attacks import ATTACKS
from benchmarks.soak import percentile
from benchmarks.targets import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
P99: Final = 0.25  # seconds that 99 of 100 scrapes must stay below
GROWTH: Final = 300  # MB that the exporter may take more
HOSTS: Final = 16_384
SECONDS: Final = 20.0
START: Final = 180.0  # seconds for the exporter to start and to scan its hosts once
STOP: Final = 30.0  # seconds for SIGTERM
QUIET: Final = 0.1  # of a processor: what the exporter may use before an attack begins
_MB: Final = 1e6
_PAUSE: Final = 0.1  # seconds between scrapes, and between looks at the process

# Prints the seconds of each scrape, -1 for one that fails: gzip, in turn on a connection that stays and on a new one.
_SCRAPER: Final = """
import http.client, sys, time
def new(): return http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=10)
def scrape(connection):
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    response = connection.getresponse()
    response.read()
    return response.status == 200
kept = new()
due = time.monotonic()
number = 0
while True:
    number += 1
    started = time.perf_counter()
    fresh = new()
    try:
        try:
            is_good = scrape(kept if number % 2 else fresh)
        except (OSError, http.client.HTTPException):
            if not number % 2:
                raise
            kept = fresh  # the server has closed it
            is_good = scrape(kept)
        took = time.perf_counter() - started if is_good else -1
    except (OSError, http.client.HTTPException):
        took = -1
    if fresh is not kept:
        fresh.close()
    print(took, flush=True)
    due = max(due + float(sys.argv[2]), time.monotonic())
    time.sleep(max(0, due - time.monotonic()))
"""


@dataclass(slots=True)
class Usage:
    """What the exporter uses: resident bytes before and at most, descriptors and threads at most."""

    before: int
    memory: int = 0
    descriptors: int = 0
    threads: int = 0

    def look(self, pid: int) -> None:
        """Look at the process."""
        memory, threads = _status(pid)
        self.memory = max(self.memory, memory)
        self.threads = max(self.threads, threads)
        with contextlib.suppress(OSError):
            self.descriptors = max(self.descriptors, len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 - a Path each


@dataclass(frozen=True, slots=True)
class Result:
    """What one attack came to; times in seconds. A scrape that fails is one of infinite length."""

    name: str
    sent: str
    usage: Usage
    scrapes: Sequence[float]
    log: int
    stop: float

    @property
    def added(self) -> float:
        """The memory that the attack took, in MB."""
        return (self.usage.memory - self.usage.before) / _MB

    @property
    def failed(self) -> int:
        """The number of scrapes that were not answered."""
        return sum(math.isinf(seconds) for seconds in self.scrapes)

    @property
    def p99(self) -> float:
        """The length that 99 of 100 scrapes do not exceed."""
        return percentile(self.scrapes, 99)

    @property
    def outcome(self) -> str:
        """Whether the targets are met."""
        return OUTCOMES[self.p99 <= P99 and self.added <= GROWTH]

    def row(self) -> str:
        """Return the line of the table."""
        return (
            f"| {self.name} | {self.sent} | {self.usage.before / _MB:.0f} | {self.usage.memory / _MB:.0f} "
            f"| {self.usage.descriptors} | {self.usage.threads} | {_ms(statistics.median(self.scrapes))} "
            f"| {_ms(self.p99)} | {_ms(max(self.scrapes))} | {self.failed} of {len(self.scrapes)} "
            f"| {self.log / 1e3:.0f} | {self.stop:.1f} | {self.outcome} |"
        )


HEAD: Final = (
    "| attack | sent | MB before | MB at most | descriptors | threads | p50 ms | p99 ms | max ms | failed | log kB "
    "| stop s | target |\n|" + "---|" * 13
)


@dataclass(slots=True)
class Tree:
    """The code that is attacked: its name in the tables, and where it is. The state of its hosts is kept once found."""

    name: str
    path: Path
    state: bytes = b""
    results: dict[str, Result] = field(default_factory=dict)


def report(
    names: Sequence[str] = tuple(ATTACKS), *, hosts: int = HOSTS, seconds: float = SECONDS, against: str | None = None
) -> None:
    """Print a table for each tree, and what differs."""
    for name, attack in ATTACKS.items():
        if name in names:
            print(f"* {name}: {attack.__doc__}")
    with _trees(against) as trees:
        for tree in trees:
            print(f"\n## Under attack: {tree.name}, {hosts:,} hosts, {seconds:g} s each\n\n{HEAD}", flush=True)
            for name in names:
                tree.results[name] = _attack(tree, name, hosts, seconds)
                print(tree.results[name].row(), flush=True)
        if len(trees) > 1:
            print("\n" + "\n".join(_beside(*trees)))


def _beside(before: Tree, after: Tree) -> Iterator[str]:
    names = f"{before.name} | {after.name}"
    yield f"| attack | more MB: {names} | p99 ms: {names} | target: {names} |"
    yield "|" + "---|" * 7
    for name, old in before.results.items():
        new = after.results[name]
        yield (
            f"| {name} | {old.added:.0f} | {new.added:.0f} | {_ms(old.p99)} | {_ms(new.p99)} | {old.outcome} "
            f"| {new.outcome} |"
        )


@contextlib.contextmanager
def _trees(against: str | None) -> Iterator[list[Tree]]:
    """Give the trees to attack, the other one first; a commit is checked out for as long as that takes."""
    here = Tree("this tree", ROOT)
    if against is None:
        yield [here]
    elif Path(against).is_dir():
        yield [Tree(Path(against).name, Path(against).resolve()), here]
    else:
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory) / "tree"
            git = ["git", "-C", str(ROOT), "worktree"]
            subprocess.run([*git, "add", "--quiet", "--detach", str(place), against], check=True)
            try:
                yield [Tree(against, place), here]
            finally:
                subprocess.run([*git, "remove", "--force", str(place)], check=True)


def _attack(tree: Tree, name: str, hosts: int, seconds: float) -> Result:
    with tempfile.TemporaryDirectory() as directory, _exporter(tree, Path(directory), hosts) as (process, port):
        log = Path(directory) / "log"
        logged = log.stat().st_size
        usage = Usage(_status(process.pid)[0])
        times = Path(directory) / "times"
        with times.open("w") as output:
            scraper = subprocess.Popen([sys.executable, "-c", _SCRAPER, str(port), str(_PAUSE)], stdout=output)
            try:
                sent = _run_attack(name, port, seconds, usage, process.pid)
            finally:
                scraper.kill()
                scraper.wait()
        scrapes = [float(line) for line in times.read_text(encoding="ascii").split()]
        stop = _stop(process)
        every = [seconds if seconds >= 0 else math.inf for seconds in scrapes] or [math.inf]
        return Result(name, sent, usage, every, log.stat().st_size - logged, stop)


def _run_attack(name: str, port: int, seconds: float, usage: Usage, pid: int) -> str:
    attacker = subprocess.Popen(
        ["nice", "-n", "10", sys.executable, "-m", "benchmarks.attacks", name, str(port), str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    end = time.monotonic() + seconds + 15
    while attacker.poll() is None and time.monotonic() < end:
        usage.look(pid)
        time.sleep(_PAUSE)
    attacker.kill()
    sent, _ = attacker.communicate()
    return sent.strip() or "the attacker did not end in time"


@contextlib.contextmanager
def _exporter(tree: Tree, directory: Path, hosts: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run an exporter that has scanned its hosts and rests."""
    conf, state = directory / "conf.yml", directory / "portspec.db"
    conf.write_text(json.dumps(_configuration(hosts, str(state))), encoding="utf-8")
    if tree.state:
        state.write_bytes(tree.state)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "portspec", "serve", "-c", str(conf), "--web.listen-address", f"127.0.0.1:{port}"],
        stdout=(directory / "log").open("wb"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(tree.path / "exporter")},
        cwd=directory,
    )
    try:
        _wait_until_ready(process, port, directory / "log")
        _wait_until_quiet(process.pid)
        _fetch(port, "/metrics")  # the first page is compressed as a whole
        if not tree.state:
            tree.state = _copy(state)
        yield process, port
    finally:
        process.kill()
        process.wait()


def _configuration(hosts: int, state: str) -> Mapping[str, object]:
    prefix = 32 - (hosts - 1).bit_length()
    return {
        "interval": "30d",
        "scanports": [1],
        "hosts": {f"127.1.0.0/{prefix}": {"expect": [9], "allow": [1]}},
        "scan": {"engine": "connect", "confirm": 1},
        "parallelscans": 512,
        "state": state,
        "audit": {"passphrase": secrets.token_hex(), "hosts": ["127.1.0.1"]},
    }


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError):
            _fetch(port, "/-/ready")
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the exporter does not start: {log.read_text(encoding='utf-8')[-2000:]}")
        time.sleep(0.2)


def _fetch(port: int, path: str) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - it is HTTP
        answer.read()


def _wait_until_quiet(pid: int) -> None:
    """Wait until the exporter uses little of a processor for two seconds."""
    end = time.monotonic() + START
    quiet = 0
    while quiet < 2 and time.monotonic() < end:
        before = _cpu(pid)
        time.sleep(1.0)
        quiet = quiet + 1 if _cpu(pid) - before < QUIET else 0


def _stop(process: subprocess.Popen[bytes]) -> float:
    """Return the seconds that the exporter takes to end; infinity if it does not."""
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        return math.inf
    return time.monotonic() - started


def _copy(state: Path) -> bytes:
    """Return a state file as another exporter would find it."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(f"file:{state}?mode=ro", uri=True)) as source:
        return source.serialize()


def _status(pid: int) -> tuple[int, int]:
    """Return the resident bytes and the threads of a process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0, 0
    memory, threads = (re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE) for name in ("VmRSS", "Threads"))
    return int(memory[1]) * 1024 if memory else 0, int(threads[1]) if threads else 0


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ms(seconds: float) -> str:
    return "none" if math.isinf(seconds) else f"{1e3 * seconds:.0f}"


def main() -> None:
    """Run it by itself."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.abuse")
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"{', '.join(ATTACKS)} (default: all)")
    parser.add_argument("--hosts", type=int, default=HOSTS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of each attack")
    parser.add_argument("--against", metavar="TREE", help="another tree, or a commit, that is attacked first")
    options = parser.parse_args()
    if unknown := set(options.attacks) - set(ATTACKS):
        parser.error(f"{', '.join(sorted(unknown))}: no such attack")
    report(options.attacks or tuple(ATTACKS), hosts=options.hosts, seconds=options.seconds, against=options.against)


if __name__ == "__main__":
    main()
