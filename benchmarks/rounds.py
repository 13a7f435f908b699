"""The first round of 98,304 hosts in one exporter, and what it does to scrapes, to a reload and to a restart.

The hosts are addresses of loopback, whose ports are closed: the kernel answers at once, so that what is measured is
portspec. A client scrapes each second, another asks /-/healthy fifty times a second.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.soak import percentile
from benchmarks.targets import Target
from tests.lab.program import PROGRAM

if TYPE_CHECKING:
    import subprocess

    from tests.lab.network import Lab

NETWORKS: Final = ("127.64.0.0/16", "127.65.0.0/17")
HOSTS: Final = 98_304
PORTS: Final = "1-20"
ADDRESS: Final = "127.0.0.1:10190"  # the namespace is the benchmark's own, so that its ports are free
PATIENCE: Final = 600.0  # seconds for a round
_POLL: Final = 0.05  # seconds between two questions whether something has happened

# Asks for a path every so many seconds; prints the seconds until the last byte, or until it failed, each time.
_CLIENT: Final = """
import http.client, json, sys, time
connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
pause, due = float(sys.argv[3]), time.monotonic()
while True:
    began = time.perf_counter()
    try:
        connection.request("GET", sys.argv[2], headers={"Accept-Encoding": "gzip"})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        connection.close()
    print(json.dumps(time.perf_counter() - began), flush=True)
    due = max(due + pause, time.monotonic() - 1)
    time.sleep(max(0, due - time.monotonic()))
"""
# Waits until a metric of the page has at least a value, or many values are there; prints nothing.
_WAIT: Final = """
import re, sys, time, urllib.request
address, name, least = sys.argv[1], sys.argv[2], float(sys.argv[3])
until = time.monotonic() + float(sys.argv[4])
while time.monotonic() < until:
    try:
        page = urllib.request.urlopen(f"http://{address}/metrics?name[]={name}", timeout=60).read().decode()
        found = [float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\\S+)$", page, re.MULTILINE)]
        if found and (max(found) if len(found) == 1 else len(found)) >= least:
            sys.exit(0)
    except OSError:
        pass
    time.sleep(float(sys.argv[5]))
sys.exit(1)
"""
_POST: Final = """
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="POST"), timeout=300).read()
"""


class _Exporter:
    """A running exporter, and the clients beside it."""

    def __init__(self, lab: Lab, directory: Path, log: str) -> None:
        self._lab = lab
        self._directory = directory
        self._clients: list[subprocess.Popen[str]] = []
        with (directory / log).open("w") as output:
            self._process = lab.popen(
                [*PROGRAM, "serve", "-c", str(directory / "conf.yml"), "--web.listen-address", ADDRESS],
                stdout=output,
                stderr=output,
            )

    def wait_for(self, name: str, least: float, poll: float = _POLL) -> None:
        """Wait until a metric has a value, or so many series."""
        self._lab.run(
            [sys.executable, "-c", _WAIT, ADDRESS, name, str(least), str(PATIENCE), str(poll)],
            timeout=PATIENCE + 60,
            check=True,
        )

    def ask(self, path: str, pause: float) -> Path:
        """Start a client; returns the file of its times."""
        times = self._directory / f"times{len(self._clients)}"
        with times.open("w") as output:
            self._clients.append(
                self._lab.popen([sys.executable, "-c", _CLIENT, ADDRESS, path, str(pause)], stdout=output)
            )
        return times

    def cpu(self) -> tuple[float, float]:
        """Return the seconds of CPU that it took as the user and as the system."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        return int(fields[11]) / ticks, int(fields[12]) / ticks

    def peak(self) -> float:
        """Return the most memory that it took, in MB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(found[1]) * 1024 / 1e6 if found else 0.0

    def stop(self) -> None:
        """End it and the clients."""
        for process in (*self._clients, self._process):
            process.terminate()
            process.wait()


def report(lab: Lab, directory: Path) -> list[Target]:
    """Print what the first round takes, and what goes on beside it; returns the targets."""
    conf = {
        "interval": "1d",
        "parallelscans": 256,
        "hosts": {network: [] for network in NETWORKS},
        "scanports": [PORTS],
        "state": str(directory / "state.db"),
        "autoreload": False,
    }
    (directory / "conf.yml").write_text(json.dumps(conf), encoding="utf-8")
    print(f"\n## {HOSTS:,} hosts, {PORTS.partition('-')[2]} ports, the first round\n", flush=True)
    exporter = _Exporter(lab, directory, "log")
    try:
        exporter.wait_for("portspec_hosts", HOSTS)
        scrapes = exporter.ask("/metrics", 1.0)
        began, before = time.perf_counter(), exporter.cpu()
        exporter.wait_for("portspec_scan_rounds_total", 1, poll=0.25)
        seconds = time.perf_counter() - began
        user = exporter.cpu()[0] - before[0]
        during = _times(scrapes)
        asked = exporter.ask("/-/healthy", 0.02)
        time.sleep(1)
        conf["recheck"] = "20m"
        (directory / "conf.yml").write_text(json.dumps(conf), encoding="utf-8")
        began = time.perf_counter()
        lab.run([sys.executable, "-c", _POST, f"http://{ADDRESS}/-/reload"], check=True, timeout=300)
        reload_seconds = time.perf_counter() - began
        time.sleep(1)
        held = max(_times(asked), default=math.inf)
        memory = exporter.peak()
    finally:
        exporter.stop()
    began = time.perf_counter()
    again = _Exporter(lab, directory, "log2")
    try:
        again.wait_for("port_out_of_spec", HOSTS)
        restart = time.perf_counter() - began
    finally:
        again.stop()
    print(f"* the reload took {reload_seconds:.1f} s; {len(during)} scrapes during the round")
    work = f"{HOSTS:,} hosts, 20 ports, one exporter"
    return [
        Target(f"{work}, the first round", seconds, 35.0, " s"),
        Target(f"{work}, the first round, user CPU", user, 30.0, " s"),
        Target(f"{work}, memory", memory, 500.0, " MB"),
        Target(
            f"{work}, 99th percentile of scrapes with gzip during the round", 1e3 * percentile(during, 99), 100, " ms"
        ),
        Target(f"{work}, longest answer of /-/healthy during a reload", 1e3 * held, 20, " ms"),
        Target(f"{work}, from a restart to all its states on /metrics", restart, 3.0, " s"),
    ]


def _times(file: Path) -> list[float]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
