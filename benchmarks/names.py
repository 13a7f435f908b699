"""Two hundred names of one address beside one name; see benchmarks/__main__.py."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from tests.lab.program import configure, scan
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.network import Lab

NAMES = 200
ADDRESS = "198.18.1.1"
PORTS = ["1-1000"]


def report(lab: Lab, runs: int, directory: Path) -> bool:
    """Print how long all names take beside one; returns whether each of them was seen as it is."""
    is_right = True
    print(f"\n## {NAMES} names of one address, 1,000 ports\n")
    print("| engine | address | one name | all names | ratio | one name, process | all names, process | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    names = [f"www{number}.test" for number in range(NAMES)]
    for engine in ("syn", "connect"):
        for kind, default in (("answers", State.CLOSED), ("is silent", State.DROPPED)):
            lab.apply([HostTruth("one", (ADDRESS,), {(ADDRESS, 22): State.OPEN}, default=default)])
            lines = "".join(f"{ADDRESS} {name}\n" for name in names)
            lab.run(["sh", "-c", "cat > /etc/hosts"], input=lines, check=True)
            times: list[tuple[float, ...]] = []
            for _ in range(runs):
                scans, processes = [], []
                for some in (names[:1], names):
                    hosts = {name: [22] for name in some}
                    conf = configure(directory, hosts, PORTS, scan={"engine": engine}, ipv6=False)
                    started = time.perf_counter()
                    _, document = scan(lab, conf, prefix=("env",))  # a process of its own
                    processes.append(time.perf_counter() - started)
                    is_right &= {host["verdict"] for host in document["hosts"]} == {"in_spec"}
                    scans.append(document["duration_seconds"])
                times.append((*scans, *processes))
            one, every, one_process, every_process = (statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(every / one for one, every, _, _ in times)
            of_processes = statistics.median(every / one for _, _, one, every in times)
            print(
                f"| {engine} | {kind} | {one:.2f} s | {every:.2f} s | {ratio:.2f} "
                f"| {one_process:.2f} s | {every_process:.2f} s | {of_processes:.2f} |"
            )
    return is_right
