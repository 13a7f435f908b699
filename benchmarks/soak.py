"""A fleet that is scanned on its interval while it is scraped every second: what runs late, and what grows.

    python -m benchmarks.soak [--rounds N] [--hosts N] [--ports N] [--interval SECONDS]

The exporter runs as users run it (`portspec serve`, its log into a file) on the scanner's side of the lab, and a client
beside it scrapes as Prometheus does: gzip, one connection that stays. One port of each host, or two, is open and
expected, one host in a hundred drops everything, and some times a second a port that nobody expects opens or closes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.targets import OUTCOMES
from benchmarks.workload import Workload
from tests.lab.network import Lab
from tests.lab.program import PROGRAM
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

TARGET = 0.1  # seconds that 99 of 100 scrapes must stay below
GROWTH = 1.1  # times the memory after the second round: flat
SILENT = 100  # one host in so many drops everything
SECOND = 3  # one host in so many has a second port open; a process may hold 20,000 sockets
CHANGES = 5  # ports that open or close each second
STRAY = 99  # the port that they are about
PARALLEL = 256
ADDRESS = "127.0.0.1:10190"  # the namespace is the benchmark's own, so that its ports are free
PATIENCE = 120.0  # seconds for the exporter's start

# Prints [seconds until the last byte, status, bytes] of a scrape each second; the body is left as it came.
_SCRAPER = """
import http.client, json, sys, time
connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
headers = {"Accept-Encoding": "gzip", "Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
due = time.monotonic()
while True:
    started = time.perf_counter()
    connection.request("GET", "/metrics", headers=headers)
    response = connection.getresponse()
    size = len(response.read())
    print(json.dumps([time.perf_counter() - started, response.status, size]), flush=True)
    due = max(due + 1, time.monotonic() - 1)
    time.sleep(max(0, due - time.monotonic()))
"""
_FETCH = "import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=60).read())"


@dataclass(frozen=True, slots=True)
class Round:
    """What was seen in one interval: seconds of each scrape, seconds of CPU, memory in bytes at its end, totals."""

    scrapes: Sequence[float]
    size: int
    user: float
    system: float
    memory: int
    changes: int
    totals: dict[str, float]
    load: str

    def row(self, number: int) -> str:
        """Return the line of the table."""
        return (
            f"| {number} | {len(self.scrapes)} | {1e3 * statistics.median(self.scrapes):.1f} "
            f"| {1e3 * percentile(self.scrapes, 99):.1f} | {1e3 * max(self.scrapes):.1f} | {self.size:,} "
            f"| {self.user:.1f} | {self.system:.1f} | {self.memory / 1e6:.0f} | {self.changes} "
            f"| {self.totals['rounds']:.0f} | {self.totals['overruns']:.0f} | {self.totals['out_of_spec']:.0f} "
            f"| {self.load} |"
        )


HEAD = (
    "| interval | scrapes | p50 ms | p99 ms | max ms | bytes, gzip | user s | system s | memory MB | ports changed "
    "| rounds | overruns | hosts out of spec | load |\n|" + "---|" * 14
)


def report(
    rounds: int = 10, *, hosts: int = 10_000, ports: int = 100, interval: float = 60.0, program: Sequence[str] = PROGRAM
) -> None:
    """Print a line for each interval as it ends, and what came of the targets. `interval` is in seconds."""
    print(f"\n## A soak: {hosts:,} hosts, {ports} ports, every {interval:g} s, {rounds} rounds\n\n{HEAD}")
    with Lab() as lab, tempfile.TemporaryDirectory() as name:
        workload = fleet(hosts, ports)
        workload.apply(lab)
        every: list[Round] = []
        for number, one in enumerate(_rounds(lab, workload, Path(name), interval, program), 1):
            print(one.row(number), flush=True)
            every.append(one)
            if number == rounds:
                break
    scrapes = [seconds for one in every for seconds in one.scrapes]
    worst, overruns = percentile(scrapes, 99), every[-1].totals["overruns"]
    settled, last = every[min(1, len(every) - 1)].memory, every[-1].memory
    cpu = sum(one.user + one.system for one in every) / (len(every) * interval)
    print(
        f"\n* {len(scrapes)} scrapes: p50 {1e3 * statistics.median(scrapes):.1f} ms, p99 {1e3 * worst:.1f} ms "
        f"(target {1e3 * TARGET:.0f} ms: {OUTCOMES[worst < TARGET]}), max {1e3 * max(scrapes):.1f} ms\n"
        f"* {overruns:.0f} overruns (target none: {OUTCOMES[not overruns]})\n"
        f"* memory {settled / 1e6:.0f} MB after the second round, {last / 1e6:.0f} MB after the last "
        f"(target flat: {OUTCOMES[last < settled * GROWTH]})\n"
        f"* CPU {100 * cpu:.0f} % of one core; {os.cpu_count()} processors"
    )


def fleet(hosts: int, ports: int) -> Workload:
    """Return hosts that answer but for the silent ones, each with an open port or two."""
    truths = []
    for number in range(hosts):
        address = f"198.18.{16 + number // 256}.{number % 256}"
        if number % SILENT == 0:
            truths.append(HostTruth(f"h{number}.lab", (address,), default=State.DROPPED))
        else:
            opened = (22, 80) if number % SECOND == 0 else (22,)
            truths.append(HostTruth(f"h{number}.lab", (address,), {(address, port): State.OPEN for port in opened}))
    return Workload(f"{hosts:,} hosts, {ports} ports", tuple(truths), range(1, ports + 1))


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest of the values that so many percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _rounds(lab: Lab, workload: Workload, directory: Path, interval: float, program: Sequence[str]) -> Iterator[Round]:
    """Run the exporter and the client, and give what was seen in each interval from the exporter's start."""
    document = {
        "interval": interval,
        "parallelscans": PARALLEL,
        "scanports": [workload.spelled],
        "hosts": {
            host.addresses[0]: [port for _, port in host.ports] or [22]  # a silent one misses its port
            for host in workload.hosts
        },
    }
    conf = directory / "conf.yml"
    conf.write_text(json.dumps(document), encoding="utf-8")
    timings = directory / "timings"
    with (directory / "log").open("w") as log, timings.open("w") as output:
        exporter = lab.popen(
            [*program, "serve", "-c", str(conf), "--web.listen-address", ADDRESS], stdout=log, stderr=log
        )
        _wait_for(directory / "log", exporter)
        begun = time.monotonic()
        scraper = lab.popen([sys.executable, "-c", _SCRAPER, ADDRESS], stdout=output)
        churn = _Churn(lab, workload)
        seen, user, system = 0, 0.0, 0.0
        try:
            for number in itertools.count(1):
                churn.go_on_until(begun + number * interval)
                lines = timings.read_text(encoding="utf-8").splitlines()
                scrapes = [json.loads(line) for line in lines[seen:]]
                if bad := [status for _, status, _ in scrapes if status != 200]:
                    raise RuntimeError(f"scrapes were answered with {bad}")
                seen, before = len(lines), (user, system)
                user, system = _cpu(exporter.pid)
                yield Round(
                    [seconds for seconds, _, _ in scrapes],
                    scrapes[-1][2],
                    user - before[0],
                    system - before[1],
                    _memory(exporter.pid),
                    churn.taken(),
                    _totals(lab),
                    Path("/proc/loadavg").read_text(encoding="ascii").split()[0],
                )
        finally:
            for process in (scraper, exporter):
                process.terminate()
                process.wait()


def _wait_for(log: Path, exporter: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE
    while "listening" not in log.read_text(encoding="utf-8"):
        if exporter.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the exporter does not start: {log.read_text(encoding='utf-8')[-2000:]}")
        time.sleep(0.05)


class _Churn:
    """Opens and closes a port of hosts that answer, the same ones for the same seed."""

    def __init__(self, lab: Lab, workload: Workload) -> None:
        self._lab = lab
        self._hosts = sorted({address for address, _ in workload.opened})
        self._rng = random.Random(1)  # noqa: S311 - repeatable
        self._open: set[str] = set()
        self._changes = 0

    def go_on_until(self, end: float) -> None:
        """Change some ports each second until time.monotonic() says `end`."""
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            for host in self._rng.sample(self._hosts, CHANGES):
                (self._lab.close_port if host in self._open else self._lab.open_port)(host, STRAY)
                self._open ^= {host}
                self._changes += 1

    def taken(self) -> int:
        """Return the number of changes since it was last asked for."""
        changes, self._changes = self._changes, 0
        return changes


def _totals(lab: Lab) -> dict[str, float]:
    names = {"rounds": "portspec_scan_rounds_total", "overruns": "portspec_scan_overruns_total"}
    wanted = "&".join(f"name[]={name}" for name in (*names.values(), "port_out_of_spec"))
    page = lab.run([sys.executable, "-c", _FETCH, f"http://{ADDRESS}/metrics?{wanted}"], check=True, timeout=60).stdout
    found = {
        key: float(match[1])
        for key, name in names.items()
        if (match := re.search(rf"^{name} (\S+)$", page, re.MULTILINE))
    }
    out = sum(float(value) > 0 for value in re.findall(r"^port_out_of_spec{.*} (\S+)$", page, re.MULTILINE))
    return {**found, "out_of_spec": out}


def _cpu(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks, int(fields[12]) / ticks


def _memory(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    """Run it by itself."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--ports", type=int, default=100)
    parser.add_argument("--interval", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    report(options.rounds, hosts=options.hosts, ports=options.ports, interval=options.interval)


if __name__ == "__main__":
    main()
