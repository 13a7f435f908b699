"""What to fix first, in a fleet: the join of one audit with the scans, and how fast another list of EPSS is applied.

    python -m benchmarks.priorities [--hosts N] [--findings N] [--listeners N]

The hosts have random vulnerabilities and listeners; the lists have their real size. "applied" is the time from another
list to a page of /metrics with the classes by it, all in one thread, beside nothing else. CPU is that of the process.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.targets import Target, table
from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.payload import Library, ListeningSocket
from portspec.audit.priority import Priorities
from portspec.audit.reach import SeenAddress
from portspec.audit.state import AuditState, HostAudit
from portspec.feeds import NO_FEEDS, FeedName, read_feed
from portspec.metrics.host_families import AUDITS
from portspec.metrics.render import Renderer
from portspec.ports import PortSet
from portspec.state.table import HostTable
from tests.unit.feeds.lists import epss, kev, packed

if TYPE_CHECKING:
    from collections.abc import Callable

JOIN, APPLIED = 0.02, 10.0  # the targets: seconds of CPU of one audit, and seconds
LIBRARIES: Final = 20  # of a process
BUDGET: Final = 100_000  # series, the default
_CVES: Final = [f"CVE-{year}-{number:04}" for year in range(1999, 2027) for number in range(1, 12_000)]


def fleet(hosts: int, findings: int, listeners: int, priorities: Priorities, rng: random.Random) -> list[AuditState]:
    """Make hosts, each with so many vulnerabilities of 5,000 that there are, and so many listeners."""
    libraries = [Library(f"/usr/lib/lib{i}.so.1", f"lib{i}:amd64", "1", f"source{i}") for i in range(200)]
    names = [f"lib{i}" for i in range(400)] + [f"package{i}" for i in range(2 * listeners)]
    severities = list(Severity)
    every = [Vulnerability(rng.choice(names), "1", cve, rng.choice(severities)) for cve in rng.sample(_CVES, 5000)]
    ports = range(1000, 1000 + listeners)
    view = (SeenAddress("192.0.2.1", PortSet.of(ports), PortSet.of(ports[::2])),)

    def one(number: int) -> AuditState:
        sockets = tuple(
            ListeningSocket(
                "tcp",
                "::",
                port,
                f"p{port}",
                "root",
                f"/usr/sbin/p{port}",
                package=f"package{port - 1000}",
                libraries=tuple(rng.sample(libraries, LIBRARIES)),
            )
            for port in ports
        )
        audit = Audit(Status.VULNERABLE, tuple(rng.sample(every, findings)))
        return AuditState(f"host{number}", (), HostAudit(0.0, "x", None, audit, sockets), 1.0, (), view, priorities)

    return [one(number) for number in range(hosts)]


def measured(job: Callable[[], object], times: int = 1) -> float:
    """Return the seconds of CPU that a job takes."""
    began = time.process_time()
    for _ in range(times):
        job()
    return (time.process_time() - began) / times


def report(hosts: int = 10_000, findings: int = 400, listeners: int = 30) -> list[Target]:
    """Print the figures; returns the targets."""
    rng = random.Random(1)  # noqa: S311 - repeatable
    scores = {cve: rng.random() ** 8 for cve in _CVES}
    # From one day to the next most scores stay, and some change a little.
    changed = {cve: score * rng.uniform(0.95, 1.0) if rng.random() < 0.1 else score for cve, score in scores.items()}
    lists = [packed(epss(rows.items())) for rows in (scores, changed)]
    catalogue = read_feed(FeedName.KEV, kev(*rng.sample(_CVES, 1500)))
    reading = measured(lambda: read_feed(FeedName.EPSS, lists[0]))
    before, after = (
        Priorities(feeds=NO_FEEDS.having(catalogue).having(read_feed(FeedName.EPSS, data))) for data in lists
    )
    states = fleet(hosts, findings, listeners, before, rng)
    joins = sorted(measured(lambda state=state: state.findings) for state in states[:200])  # type: ignore[misc]
    renderer = Renderer(AUDITS, BUDGET)
    first = measured(lambda: renderer.render(HostTable(states)))
    began = time.perf_counter()
    renderer.render(HostTable([replace(state, priorities=after) for state in states]))
    applied = time.perf_counter() - began
    join = joins[len(joins) // 2]
    print(f"\n## What to fix first: {hosts:,} hosts, {findings} vulnerabilities and {listeners} listeners each\n")
    print(f"* the join of one audit takes {1e3 * join:.2f} ms of CPU")
    print(f"* a list of EPSS of {len(_CVES):,} rows is read in {reading:.2f} s of CPU")
    print(f"* /metrics shows another list after {applied:.1f} s; its first page takes {first:.1f} s of CPU", flush=True)
    return [
        Target("join of one audit with the scans, CPU", 1e3 * join, 1e3 * JOIN, " ms"),
        Target(f"another list of EPSS in /metrics of {hosts:,} hosts", applied, APPLIED, " s"),
    ]


def main() -> None:
    """Print the figures beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--findings", type=int, default=400)
    parser.add_argument("--listeners", type=int, default=30)
    print("\n" + table(report(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
