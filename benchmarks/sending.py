"""Sending alone: targets that drop everything, so that nothing but the way out counts; and the floor below it.

How fast each program sends is read off the interface's own counter, the same way for all.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.scanners import masscan, portspec
from benchmarks.workload import Workload, many_hosts, measure
from tests.lab.plumbing import GATEWAY_MAC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.network import Lab

PROBES = 256_000
_FLOOR = Path(__file__).with_name("floor.py")
_DROP = """
table inet silent {
  chain input { type filter hook input priority -20; tcp flags syn drop; }
}
"""
_READ = """
import time
while True:
    for line in open("/proc/self/net/dev"):
        if "lab0:" in line:
            print(time.perf_counter(), line.split()[10], flush=True)
    time.sleep(0.005)
"""


def table(lab: Lab, runs: int, directory: Path) -> list[str]:
    """Return the lines to print."""
    workload = many_hosts(256, PROBES // 256)
    workload.apply(lab)
    senders: dict[str, Callable[[], object]] = {
        "portspec": lambda: portspec("syn", parallel=256)(lab, workload, directory)
    }
    if shutil.which("masscan"):
        senders["masscan"] = lambda: masscan(lab, workload, directory)
    if shutil.which("zmap"):
        senders["zmap"] = lambda: _zmap(lab)
    rates: dict[str, list[float]] = {name: [] for name in senders}
    floors: dict[str, list[float]] = {}
    with _silent(lab):
        for number in range(runs):
            for name, send in senders.items():
                print(f"sending alone: {name}, run {number + 1} of {runs}", file=sys.stderr, flush=True)
                rates[name].append(_rate(lab, send))
            for name, rate in _floor(lab, workload).items():
                floors.setdefault(name, []).append(rate)
    medians = {name: statistics.median(some) for name, some in (rates | floors).items()}
    lines = ["| sender | packets/s | portspec's share |", "|---|---|---|"]
    lines += [f"| {name} | {rate:,.0f} | {medians['portspec'] / rate:.2f} |" for name, rate in medians.items()]
    return lines


@contextlib.contextmanager
def _silent(lab: Lab) -> Iterator[None]:
    lab.run(["nft", "-f", "-"], side="hosts", input=_DROP, check=True)
    try:
        yield
    finally:
        lab.run(["nft", "delete", "table", "inet", "silent"], side="hosts", check=True)


def _rate(lab: Lab, send: Callable[[], object]) -> float:
    """Return packets a second between a tenth and nine tenths of the first probes, before any is repeated."""
    reader = lab.popen([sys.executable, "-c", _READ], stdout=subprocess.PIPE)
    samples: list[tuple[float, int]] = []

    def collect() -> None:
        for line in reader.stdout or ():
            at, packets = line.split()
            samples.append((float(at), int(packets)))

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    try:
        send()
    finally:
        reader.terminate()
        reader.wait()
        thread.join()
    first = samples[0][1]
    start, end = (next(sample for sample in samples if sample[1] - first >= PROBES * share) for share in (0.1, 0.9))
    return (end[1] - start[1]) / (end[0] - start[0])


def _zmap(lab: Lab) -> None:
    """Have zmap, which takes one port a run, send as many probes, eight to each of the lab's 32,768 addresses."""
    measure(lab, ["zmap", "-p", "80", "-P", "8", "-r", "10000000", "-i", "lab0", "-G", GATEWAY_MAC, "-b", "/dev/null",
                  "-c", "1", "-q", "-o", "/dev/null", "198.18.0.0/17"])  # fmt: skip


def _floor(lab: Lab, workload: Workload) -> dict[str, float]:
    """Return the rates of sendmmsg alone, by how many threads share the work."""
    done = lab.run(
        [sys.executable, str(_FLOOR)],
        input=json.dumps({"addresses": workload.addresses, "ports": len(workload.ports)}),
        timeout=120,
        check=True,
    )
    return {f"sendmmsg alone, {threads} thread(s)": rate for threads, rate in json.loads(done.stdout).items()}
