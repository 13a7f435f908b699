"""How long a command takes that has nearly nothing to do: `portspec scan` of one closed port of loopback."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING

from benchmarks.targets import Target
from benchmarks.workload import measure
from tests.lab.program import PROGRAM

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.network import Lab

RUNS = 15
LIMIT = 0.30  # seconds


def report(lab: Lab, directory: Path) -> list[Target]:
    """Print what the whole process takes with each engine; returns the target."""
    conf = directory / "start.yml"
    print("\n## The start: `portspec scan` of one port of loopback\n")
    print("| engine | process s | fastest s | user s | system s |\n|---|---|---|---|---|")
    walls = {}
    for engine in ("syn", "connect"):
        conf.write_text(json.dumps({"hosts": {"127.0.0.1": []}, "scanports": [9], "scan": {"engine": engine}}), "utf-8")
        runs = [measure(lab, [*PROGRAM, "scan", "-c", str(conf)])[2] for _ in range(RUNS + 1)][1:]
        walls[engine] = statistics.median(run.wall for run in runs)
        print(
            f"| {engine} | {walls[engine]:.2f} | {min(run.wall for run in runs):.2f} "
            f"| {statistics.median(run.user for run in runs):.2f} "
            f"| {statistics.median(run.system for run in runs):.2f} |"
        )
    return [Target("`portspec scan`, one port of loopback, whole process", max(walls.values()), LIMIT, " s")]
