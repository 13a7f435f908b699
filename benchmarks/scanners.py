"""portspec and its peers, each run once on a workload in the lab."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.workload import LIMIT, Run, Workload, measure
from tests.lab.plumbing import GATEWAY_MAC, SCANNER4
from tests.lab.program import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.lab.network import Lab

    Scanner = Callable[[Lab, Workload, Path], Run]

MASSCAN_WAIT = 2  # seconds that masscan listens after its last probe; the least it takes is 1
PARALLEL = 64  # hosts at a time: nmap and masscan choose for themselves


def portspec(engine: str, *, parallel: int = PARALLEL, limit: float = LIMIT) -> Scanner:
    """Return `portspec scan --json` with an engine; what is open is expected, as it is in most scans."""

    def run(lab: Lab, workload: Workload, directory: Path) -> Run:
        conf = directory / "conf.yml"
        document = {
            "parallelscans": parallel,
            "hosts": {host.addresses[0]: [port for _, port in host.ports] for host in workload.hosts},
            "scanports": [workload.spelled],
            "scan": {"engine": engine},
        }
        conf.write_text(json.dumps(document), encoding="utf-8")
        output, _, usage = measure(lab, [*PROGRAM, "scan", "-c", str(conf), "--json"], timeout=limit)
        result = json.loads(output)
        addresses = [address for host in result["hosts"] for address in host["addresses"]]
        opened = frozenset((item["address"], int(port)) for item in addresses for port in item["open"])
        closed = sum(item["closed"] for item in addresses)
        return Run(result["duration_seconds"], usage, opened, closed, result["probes_sent"])

    return run


def nmap(kind: str) -> Scanner:
    """Return nmap with one of its scans (-sS, -sT), without name look-ups and host discovery."""

    def run(lab: Lab, workload: Workload, directory: Path) -> Run:
        targets = _targets(workload, directory)
        argv = ["nmap", kind, "-n", "-Pn", "-p", workload.spelled, "-oG", "-", "-iL", targets]
        output, _, usage = measure(lab, argv)
        opened = frozenset(
            (line.split()[1], int(port))
            for line in output.splitlines()
            if "Ports:" in line
            for port in re.findall(r"(\d+)/open/", line)
        )
        found = re.search(r"scanned in ([0-9.]+) seconds", output)
        if found is None:
            raise RuntimeError(f"nmap said nothing of its time: {output[-200:]}")
        closed = sum(map(int, re.findall(r"Ignored State: closed \((\d+)\)", output)))
        return Run(float(found[1]), usage, opened, closed)

    return run


def masscan(lab: Lab, workload: Workload, directory: Path) -> Run:
    """Run masscan as fast as it can; its time is the process's without the wait for late answers at the end.

    It ends only when one more packet arrives after that wait, so that some are sent to it all the time.
    """
    argv = ["masscan", "-iL", _targets(workload, directory), "-p", workload.spelled, "--rate", "10000000",
            "--wait", str(MASSCAN_WAIT), "--adapter", "lab0", "--router-mac", GATEWAY_MAC.replace(":", "-"),
            "-oL", "-"]  # fmt: skip
    nudger = lab.popen([sys.executable, "-c", _NUDGE, SCANNER4], side="hosts")
    try:
        output, _, usage = measure(lab, argv)
    finally:
        nudger.terminate()
        nudger.wait()
    opened = frozenset((line.split()[3], int(line.split()[2])) for line in output.splitlines() if line[:4] == "open")
    return Run(usage.wall - MASSCAN_WAIT, usage, opened)


_NUDGE = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    while True:
        sock.sendto(b"", (sys.argv[1], 9))
        time.sleep(0.02)
"""


def naabu(lab: Lab, workload: Workload, directory: Path) -> Run:
    """Run naabu's SYN scan as fast as it can."""
    argv = ["naabu", "-list", _targets(workload, directory), "-p", workload.spelled, "-scan-type", "s", "-Pn", "-json",
            "-silent", "-rate", "1000000", "-warm-up-time", "0", "-disable-update-check"]  # fmt: skip
    output, _, usage = measure(lab, argv)
    found = (json.loads(line) for line in output.splitlines())
    return Run(usage.wall, usage, frozenset((item["ip"], int(item["port"])) for item in found))


def rustscan(lab: Lab, workload: Workload, directory: Path) -> Run:
    """Run RustScan's connect scan with the batches that the descriptors allow."""
    argv = ["rustscan", "--no-config", "-a", _targets(workload, directory), "-r", workload.spelled, "-b", "4500",
            "--greppable"]  # fmt: skip
    output, _, usage = measure(lab, argv)
    lines = re.findall(r"^(\S+) -> \[([\d,]+)\]", output, re.MULTILINE)
    return Run(
        usage.wall, usage, frozenset((address, int(port)) for address, ports in lines for port in ports.split(","))
    )


def syn_peers() -> dict[str, Scanner]:
    """Return the peers of the SYN engine that are installed, by name."""
    every: dict[str, Scanner] = {"nmap -sS": nmap("-sS"), "masscan": masscan, "naabu": naabu, "rustscan": rustscan}
    return {name: run for name, run in every.items() if shutil.which(name.split()[0])}


def version(name: str) -> str:
    """Return the name and version of an installed peer, as it prints them."""
    done = subprocess.run([name, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d[\w.]*", done.stdout + done.stderr)
    return f"{name} {found[0] if found else '?'}"


def _targets(workload: Workload, directory: Path) -> str:
    path = directory / "targets"
    path.write_text("\n".join(workload.addresses) + "\n", encoding="utf-8")
    return str(path)
