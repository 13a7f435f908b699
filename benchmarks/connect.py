"""portspec's connect engine beside `nmap -sT -n -Pn`; see benchmarks/__main__.py."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison import HEAD, Comparison
from benchmarks.scanners import nmap, portspec
from benchmarks.targets import Target
from benchmarks.workload import many_hosts, one_host
from tests.lab.program import PROGRAM

if TYPE_CHECKING:
    from benchmarks.workload import Workload
    from tests.lab.network import Lab


def report(lab: Lab, runs: int, directory: Path) -> tuple[bool, list[Target]]:
    """Print the tables; returns whether portspec was exact in every run, and the targets."""
    scanners = {"portspec": portspec("connect", parallel=32), "nmap -sT": nmap("-sT")}
    workloads = (one_host(), many_hosts(256, 1000))
    done = [Comparison.make(lab, workload, scanners, runs, directory) for workload in workloads]
    print("\n## The connect engine\n")
    print(
        "\n".join(
            [HEAD, *(row for one in done for row in one.rows()), "", *(line for one in done for line in one.ratios())]
        )
    )
    start = statistics.median(run.usage.wall - run.scan for one in done for run in one.ours)
    print(f"* portspec's process takes {start:.2f} s more than its scan")
    workloads[1].apply(lab)
    idle = idle_share(lab, workloads[1], directory)
    print(f"* idle between rounds of {workloads[1].name}: {100 * idle:.2f} % of one core over 10 s")
    targets = [
        Target(f"{one.workload.name}, connect, the scan alone / nmap's own", one.scan_ratio("nmap -sT"), 0.70)
        for one in done
    ]
    return all(one.is_exact for one in done), targets


def idle_share(lab: Lab, workload: Workload, directory: Path, seconds: float = 10.0) -> float:
    """Return the share of one core that the exporter takes between two rounds of a workload."""
    conf = directory / "idle.yml"
    hosts: dict[str, list[int]] = {address: [] for address in workload.addresses}
    conf.write_text(
        json.dumps({"interval": 3600, "hosts": hosts, "scanports": [workload.spelled], "scan": {"engine": "connect"}}),
        encoding="utf-8",
    )
    server = lab.popen(
        [*PROGRAM, "-c", str(conf), "-j", "--web.listen-address", "127.0.0.1:10190"], stdout=subprocess.PIPE
    )
    if server.stdout is None:
        raise RuntimeError("no pipe")
    for line in server.stdout:
        if json.loads(line)["event"] == "round finished":
            break
    before = _cpu_seconds(server.pid)
    if before < 1:
        raise RuntimeError(f"a round took {before} s of CPU: this is not the exporter's process")
    time.sleep(seconds)
    share = (_cpu_seconds(server.pid) - before) / seconds
    server.terminate()
    server.wait()
    return share


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
