"""The page of all hosts, and others: the time to the first byte, its size, and how long the event loop is held.

    python -m benchmarks.pages [--runs N]

Before each request one host changes, so that no page is in the cache; the client is a plain socket on loopback. A task
in the server's event loop sleeps for a millisecond again and again: how late it wakes at worst is the longest block.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from typing import TYPE_CHECKING, Final

from benchmarks.exposition import Child, Served, Size, fetch
from benchmarks.targets import OUTCOMES
from portspec.app.process import GC_THRESHOLDS, GIL_SWITCH_INTERVAL
from portspec.config import Config
from portspec.scan import PortState
from portspec.state.changes import Change, DatedVerdict
from portspec.state.verdict import Verdict
from tests.unit.web.site import no_agent_key, no_audits

if TYPE_CHECKING:
    from portspec.state.snapshot import HostState

SIZES: Final = {Size(10_000, 20): 0.150, Size(100_000, 20): 0.400}  # the seconds to the first byte that are to be kept
MAX_BYTES: Final = 200_000
MAX_BLOCK: Final = 0.020  # seconds
INDEX: Final = (
    "/",
    "/?sort=-host",
    "/?sort=open",
    "/?q=host-00042",
    "/?verdict=out_of_spec&page=50",
)
OTHERS: Final = ("/hosts/host-00042.example.org", "/changes", "/status", "/config")
_HEAD: Final = (
    "| page | hosts | first byte ms, median | longest | bytes | longest block ms |\n|---|---|---|---|---|---|"
)


class Site(Served):
    """A server of pages: a change log of 200 rows, and a history of 100 verdicts for each host."""

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        self.audits = no_audits()
        self.agent_key = no_agent_key()
        self.config = Config("conf.yml", tuple(state.target.config for state in self.snapshot.hosts.values()))

    def find(self, host: str) -> HostState:
        """Return the state of a host."""
        return self.snapshot.hosts[host]

    async def changes(self, *, limit: int, **_: object) -> tuple[tuple[int, Change], ...]:
        """Return the newest changes."""
        now = time.time()
        states = PortState.OPEN, PortState.CLOSED
        host = next(iter(self.snapshot.hosts))
        return tuple(
            (
                number,
                Change(now - 60 * number, host, "10.0.0.0", "1001", states[number % 2], states[number % 2 - 1], now),
            )
            for number in range(min(limit, 200))
        )

    async def verdicts(self, host: str, *, limit: int) -> tuple[DatedVerdict, ...]:
        """Return the newest verdicts."""
        now, found = time.time(), (Verdict.IN_SPEC, Verdict.OUT_OF_SPEC)
        return tuple(DatedVerdict(now - 3600 * number, host, found[number % 2]) for number in range(min(limit, 100)))


def report(runs: int = 20) -> None:
    """Print the table and what came of the targets."""
    rows: list[str] = []
    outcomes: list[str] = []
    for size, seconds in SIZES.items():
        with Child("serve", size, "benchmarks.pages") as server:
            port = server.ask("port")
            slowest = longest = 0.0
            largest = 0
            for path in (*INDEX, *OTHERS):
                fetch(port, "identity", path)
                times: list[float] = []
                worst, length = 0.0, 0
                for _ in range(runs):
                    server.ask("change", "one host")
                    server.ask("watch")
                    first, _, length = fetch(port, "identity", path)
                    times.append(first)
                    worst = max(worst, server.ask("block"))
                median = statistics.median(times)
                rows.append(
                    f"| `{path}` | {size.hosts:,} | {1e3 * median:.0f} | {1e3 * max(times):.0f} | {length:,} "
                    f"| {1e3 * worst:.1f} |"
                )
                longest = max(longest, worst)
                if path in INDEX:
                    slowest, largest = max(slowest, median), max(largest, length)
        outcomes.append(
            f"* {size.hosts:,} hosts: first byte of the page of all hosts under {1e3 * seconds:.0f} ms "
            f"{OUTCOMES[slowest < seconds]}, under {MAX_BYTES:,} bytes {OUTCOMES[largest < MAX_BYTES]}, no block over "
            f"{1e3 * MAX_BLOCK:.0f} ms {OUTCOMES[longest <= MAX_BLOCK]}"
        )
    print("\n## The pages\n")
    print("\n".join([_HEAD, *rows, "", *outcomes]))


def main() -> None:
    """Be the server, or measure."""
    if sys.argv[1:2] == ["serve"]:
        sys.setswitchinterval(GIL_SWITCH_INTERVAL)  # as the exporter does
        gc.set_threshold(*GC_THRESHOLDS)
        asyncio.run(Site(Size(*map(int, sys.argv[2:]))).run())
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="requests of each page (default 20)")
    report(parser.parse_args().runs)


if __name__ == "__main__":
    main()
