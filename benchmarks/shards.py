"""Eight shards of 100,000 hosts each on one machine, with simulated scans, and one real Prometheus.

    python -m benchmarks.shards [--shards N] [--hosts N] [--seconds N]

A shard is killed and comes back; then all stop, and one more shares the hosts. At each step Prometheus must have every
host of the shards that run, and none on two of them.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.targets import Target
from portspec.inventory.shard import hashmod
from tests.e2e.shards import Fleet, fleet

SHARDS: Final = 8
HOSTS: Final = 100_000  # of a shard
SECONDS: Final = 60  # between two scrapes
PATIENCE: Final = 1800.0  # seconds for a round of all shards
PROGRAM: Final = (sys.executable, "-m", "benchmarks.simulated", "serve")
LARGEST: Final = 16  # the prefix of the largest CIDR that conf.yml may have
FIRST: Final = ipaddress.IPv4Address("127.96.0.0")


def main() -> int:
    """Run it by itself."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=SHARDS, help=f"at first (default {SHARDS})")
    parser.add_argument("--hosts", type=int, default=HOSTS, help=f"of each shard, at first (default {HOSTS})")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"between two scrapes (default {SECONDS})")
    options = parser.parse_args()
    return 0 if all(target.is_met for target in report(options.shards, options.hosts, options.seconds)) else 1


def report(shards: int = SHARDS, hosts: int = HOSTS, seconds: int = SECONDS) -> list[Target]:
    """Print what each step took; returns the targets."""
    total = shards * hosts
    last = FIRST + total - 1
    networks = [
        str(part)
        for network in ipaddress.summarize_address_range(FIRST, last)
        for part in network.subnets(new_prefix=max(network.prefixlen, LARGEST))
    ]
    print(f"\n## {shards} shards of {hosts:,} hosts each, simulated scans\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        conf = directory / "conf.yml"
        settings = {"hosts": {network: [] for network in networks}, "scanports": ["1-20"], "interval": "1d"}
        conf.write_text(json.dumps(settings | {"autoreload": False, "parallelscans": 256}), encoding="utf-8")
        with fleet(
            directory, conf, program=PROGRAM, names=("port_scan_success",), seconds=seconds, patience=PATIENCE
        ) as running:
            return _steps(running, shards, total)


def _steps(running: Fleet, shards: int, total: int) -> list[Target]:
    steps = _Steps(running)
    for shard in range(shards):
        running.start(shard, shards)
    steps.reach(f"Prometheus has all {total:,} hosts of {shards} shards", total)
    steps.reach("all hosts are scanned", total, scanned=total)
    print(f"* the most memory of a shard: {running.peak() / 1e6:.0f} MB", flush=True)
    others = sum(hashmod(str(FIRST + number), shards) != 1 for number in range(total))
    running.kill(1)
    steps.reach(f"shard 1 was killed: Prometheus has the {others:,} hosts of the others", others)
    running.start(1, shards)
    steps.reach("shard 1 is back, with what it knew of its hosts", total, scanned=total)
    running.stop()
    steps.reach("all shards have stopped, and Prometheus has no host", 0)
    for shard in range(shards + 1):
        running.start(shard, shards + 1)
    steps.reach(f"Prometheus has all hosts of {shards + 1} shards", total)
    work = f"{shards}, then {shards + 1} shards of {total:,} hosts"
    return [
        Target(f"{work}, most hosts that were missing at a step's end", steps.missing, 0),
        Target(f"{work}, most hosts on two shards at a time", running.twice, 0),
    ]


class _Steps:
    """A clock that tells how long each step took, and the most hosts that were missing at the end of one."""

    def __init__(self, running: Fleet) -> None:
        self.missing = 0
        self._running = running
        self._began = time.perf_counter()

    def reach(self, step: str, hosts: int, *, scanned: int | None = None) -> None:
        """Wait for a step's end, and print it."""
        try:
            self._running.wait_for(hosts, scanned=scanned)
        except AssertionError as error:
            self.missing = max(self.missing, abs(hosts - self._running.look().hosts), 1)
            step += f", NOT: {error}"
        now = time.perf_counter()
        print(f"* {step}: {now - self._began:.0f} s", flush=True)
        self._began = now


if __name__ == "__main__":
    sys.exit(main())
