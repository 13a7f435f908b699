"""portspec's SYN engine beside the scanners that are installed; see benchmarks/__main__.py."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING

from benchmarks import sending
from benchmarks.comparison import HEAD, Comparison
from benchmarks.scanners import portspec, syn_peers
from benchmarks.targets import Target
from benchmarks.workload import many_hosts, one_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.network import Lab


def report(lab: Lab, runs: int, directory: Path) -> tuple[bool, list[Target]]:
    """Print the tables; returns whether portspec was exact in every run, and the targets."""
    scanners = {"portspec": portspec("syn"), **syn_peers()}
    workloads = (
        one_host(),
        many_hosts(256, 1000),
        many_hosts(4096, 100),
        many_hosts(256, 1000, silent=4, loss=2),
        many_hosts(16_384, 20),
    )
    done = [Comparison.make(lab, workload, scanners, runs, directory) for workload in workloads]
    lines = sending.table(lab, runs, directory)
    print("\n## The SYN engine\n")
    print(
        "\n".join(
            [HEAD, *(row for one in done for row in one.rows()), "", *(line for one in done for line in one.ratios())]
        )
    )
    for one in done:
        per_million = statistics.median(1e6 * run.usage.user / (run.probes or 1) for run in one.ours)
        start = statistics.median(run.usage.wall - run.scan for run in one.ours)
        print(
            f"* {one.workload.name}: portspec takes {per_million:.1f} s of user CPU for a million probes, its process "
            f"{start:.2f} s more than its scan"
        )
    print("\n## Sending alone\n")
    print("\n".join(lines))
    has_peer = "nmap -sS" in scanners
    return all(one.is_exact for one in done), list(_targets(*done)) if has_peer else []


def _targets(
    one: Comparison, many: Comparison, _: Comparison, lossy: Comparison, small: Comparison
) -> Iterator[Target]:
    for compared, most in ((one, 0.75), (many, 0.60)):
        name = f"{compared.workload.name}, SYN, whole process / nmap -sS whole process"
        yield Target(name, compared.process_ratio("nmap -sS"), most)
    for compared in (one, many):
        yield Target(
            f"{compared.workload.name}, SYN, the scan alone / nmap's own", compared.scan_ratio("nmap -sS"), 0.40
        )
    for compared in (one, many):
        yield Target(
            f"{compared.workload.name}, SYN, user CPU for a million probes", compared.user_per_million, 2.0, " s"
        )
    yield Target(f"{lossy.workload.name}, SYN", statistics.median(run.scan for run in lossy.ours), 4.0, " s")
    yield Target(f"{small.workload.name}, SYN, the scan alone / nmap's own", small.scan_ratio("nmap -sS"), 0.35)
    yield Target(f"{small.workload.name}, SYN, user CPU", small.user_seconds, 3.5, " s")


def large(lab: Lab, directory: Path) -> bool:
    """Print what a round of 1,000 hosts with all their ports takes; returns whether it was exact and below 150 MB."""
    workload = many_hosts(1000, 65535)
    workload.apply(lab)
    print(f"{workload.name}: one run", file=sys.stderr, flush=True)
    run = portspec("syn", parallel=10, limit=1800)(lab, workload, directory)
    megabytes = run.usage.memory * 1.048576
    print(
        f"\n## A large round\n\n* {workload.name}, 10 at a time: {run.scan:.0f} s, {run.probes:,} probes, "
        f"at most {megabytes:.0f} MB of memory, {len(run.opened & workload.opened)} of {len(workload.opened)} open "
        f"ports found, {len(run.opened - workload.opened)} false"
    )
    return run.opened == workload.opened and run.closed == workload.closed and megabytes < 150
