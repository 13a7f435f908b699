"""portspec's connect engine beside `nmap -sT -n -Pn`, alternately, in the lab: time, and what each found.

    python -m benchmarks.connect [--runs N]

Prints a table in Markdown. Times are seconds, medians; "scan" is the scanner's own figure (duration_seconds of
`portspec scan --json`, "scanned in … seconds" of nmap), "process" is the whole process's. Ratios are portspec/nmap,
taken pair by pair. Exit code 1 if a port was missed or made up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.network import Lab
from tests.lab.program import PROGRAM
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Sequence

FEW = (22, 80, 443, 999)
MANY = (22, 80, 443, 999, 5432, 8080, 31337, 65535)


@dataclass(frozen=True, slots=True)
class Workload:
    """Hosts, and the ports scanned on each of them."""

    name: str
    hosts: tuple[HostTruth, ...]
    ports: range

    @property
    def opened(self) -> set[tuple[str, int]]:
        """The true open ports."""
        return {key for host in self.hosts for key in host.ports}

    @property
    def total(self) -> int:
        """The number of (address, port)."""
        return len(self.hosts) * len(self.ports)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one scanner; times in seconds, memory in MiB."""

    scan: float
    process: float
    cpu: float
    memory: float
    opened: frozenset[tuple[str, int]]
    closed: int


def workloads() -> tuple[Workload, ...]:
    """Give (a) one host with all ports, (b) 256 hosts with 1,000 ports each."""
    one = HostTruth("a.lab", ("198.18.1.0",), {("198.18.1.0", port): State.OPEN for port in MANY})
    many = tuple(
        HostTruth(f"b{i}.lab", (f"198.18.1.{i}",), {(f"198.18.1.{i}", port): State.OPEN for port in FEW})
        for i in range(256)
    )
    return (
        Workload("(a) 1 host, 65,535 ports", (one,), range(1, 65536)),
        Workload("(b) 256 hosts, 1,000 ports", many, range(1, 1001)),
    )


def run_portspec(lab: Lab, workload: Workload, directory: Path) -> Run:
    """Scan once with `portspec scan --json`."""
    conf = directory / "conf.yml"
    scanports = [f"{workload.ports[0]}-{workload.ports[-1]}"]
    hosts: dict[str, list[int]] = {host.addresses[0]: [] for host in workload.hosts}
    conf.write_text(json.dumps({"parallelscans": 32, "hosts": hosts, "scanports": scanports}), encoding="utf-8")
    output, process, cpu, memory = measure(lab, [*PROGRAM, "scan", "-c", str(conf), "--json"])
    document = json.loads(output)
    addresses = [address for host in document["hosts"] for address in host["addresses"]]
    opened = frozenset((item["address"], int(port)) for item in addresses for port in item["open"])
    closed = sum(item["closed"] for item in addresses)
    return Run(document["duration_seconds"], process, cpu, memory, opened, closed)


def run_nmap(lab: Lab, workload: Workload, _: Path) -> Run:
    """Scan once with nmap's connect scan, without name look-ups and host discovery."""
    ports = f"{workload.ports[0]}-{workload.ports[-1]}"
    addresses = [host.addresses[0] for host in workload.hosts]
    output, process, cpu, memory = measure(lab, ["nmap", "-sT", "-n", "-Pn", "-p", ports, "-oG", "-", *addresses])
    opened = frozenset(
        (line.split()[1], int(port))
        for line in output.splitlines()
        if "Ports:" in line
        for port in re.findall(r"(\d+)/open/", line)
    )
    closed = sum(map(int, re.findall(r"Ignored State: closed \((\d+)\)", output)))
    found = re.search(r"scanned in ([0-9.]+) seconds", output)
    if found is None:
        raise RuntimeError(f"nmap said nothing of its time: {output[-200:]}")
    return Run(float(found[1]), process, cpu, memory, opened, closed)


def measure(lab: Lab, argv: Sequence[str]) -> tuple[str, float, float, float]:
    """Run a program in the lab; gives its output, wall seconds, CPU seconds and peak memory in MiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as peak:
        # The peak is read by the process's own parent inside, since getrusage here mixes all children.
        done = lab.run([sys.executable, "-c", _PEAK, *argv], timeout=300, stdout=subprocess.PIPE, stderr=peak,
                       capture_output=False)  # fmt: skip
        wall = time.perf_counter() - started
        peak.seek(0)
        memory = float(peak.read().splitlines()[-1]) / 1024
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, wall, cpu, memory


_PEAK = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=False); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
)


def idle_share(lab: Lab, workload: Workload, directory: Path, seconds: float = 10.0) -> float:
    """Give the share of one core that the exporter takes between two rounds of a workload."""
    conf = directory / "idle.yml"
    hosts: dict[str, list[int]] = {host.addresses[0]: [] for host in workload.hosts}
    conf.write_text(json.dumps({"interval": 3600, "hosts": hosts, "scanports": list(workload.ports)}), encoding="utf-8")
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


def table(workload: Workload, ours: Sequence[Run], theirs: Sequence[Run]) -> list[str]:
    """Give the rows of one workload."""
    rows = []
    for name, runs in (("portspec", ours), ("nmap -sT", theirs)):
        opened = {len(run.opened & workload.opened) for run in runs}
        wrong = max(len(run.opened - workload.opened) for run in runs)
        closed = {run.closed for run in runs}
        figures = [
            f"{statistics.median(values):.2f}"
            for values in ([r.scan for r in runs], [r.process for r in runs], [r.cpu for r in runs])
        ]
        rows.append(
            f"| {workload.name} | {name} | {' | '.join(figures)} | {statistics.median(r.memory for r in runs):.0f} "
            f"| {'/'.join(map(str, sorted(opened)))} of {len(workload.opened)}, {wrong} wrong "
            f"| {'/'.join(map(str, sorted(closed)))} of {workload.total - len(workload.opened)} |"
        )
    return rows


def main() -> int:
    """Run and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each scanner on each workload (default 5)")
    runs = parser.parse_args().runs
    rows: list[str] = []
    ratios: list[str] = []
    exact = True
    with Lab() as lab, tempfile.TemporaryDirectory() as name:
        for workload in workloads():
            lab.apply(workload.hosts)
            ours: list[Run] = []
            theirs: list[Run] = []
            for number in range(runs):
                print(f"{workload.name}: run {number + 1} of {runs}", file=sys.stderr)
                ours.append(run_portspec(lab, workload, Path(name)))
                theirs.append(run_nmap(lab, workload, Path(name)))
            rows += table(workload, ours, theirs)
            pairs = [a.scan / b.scan for a, b in zip(ours, theirs, strict=True)]
            whole = [a.process / b.process for a, b in zip(ours, theirs, strict=True)]
            start = statistics.median(run.process - run.scan for run in ours)
            ratios.append(
                f"{workload.name}: portspec/nmap {statistics.median(pairs):.2f} of the scan "
                f"({min(pairs):.2f} to {max(pairs):.2f}), {statistics.median(whole):.2f} of the process; "
                f"portspec's process takes {start:.2f} s more than its scan"
            )
            exact &= all(
                run.opened == workload.opened and run.closed == workload.total - len(workload.opened) for run in ours
            )
        idle = idle_share(lab, workloads()[1], Path(name))
    version = subprocess.run(["nmap", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    print(f"{version.split(' (')[0]}; Python {platform.python_version()}; Linux {platform.release()}; {runs} runs\n")
    print("| workload | scanner | scan s | process s | CPU s | peak MiB | open found | closed |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    print()
    print("\n".join(ratios))
    print(f"idle between rounds of (b): {100 * idle:.2f} % of one core over 10 s")
    print("portspec found every open port and no other, and every other port closed: " + ("yes" if exact else "NO"))
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
