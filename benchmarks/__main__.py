"""portspec beside its peers, alternately, in the lab: what each took and found, as tables in Markdown.

First comes the table of what a target is set for. Without a PART the other tables go into docs/measurements.md.

    python -m benchmarks [--runs N] [PART …]

Without a name all of them run. Times are seconds, medians; "scan" is the scanner's own figure (duration_seconds of
`portspec scan --json`, "scanned in … seconds" of nmap, the process less its final wait for masscan), "process" is the
whole process's. Ratios are portspec's time divided by the peer's, taken pair by pair. Exit code 1 if portspec missed a
port or made one up.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import (
    abuse,
    audits,
    connect,
    exposition,
    forging,
    kill,
    names,
    pages,
    priorities,
    rounds,
    rules,
    shards,
    soak,
    start,
    syn,
)
from benchmarks.scanners import version
from benchmarks.targets import Target, table
from tests.lab.network import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ROOT / "docs/measurements.md"
RUSTSCAN = ROOT / ".packages/rustscan/bin"  # see rustscan.sh
PARTS = (
    "start",
    "connect",
    "syn",
    "names",
    "forging",
    "large",
    "rounds",
    "shards",
    "exposition",
    "pages",
    "kill",
    "soak",
    "audits",
    "priorities",
    "rules",
    "abuse",
)
_IN_LAB = {"start", "rounds", "connect", "syn", "names", "forging", "large"}


def main() -> int:
    """Run and print what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each scanner on each workload (default 5)")
    parser.add_argument("--against", metavar="TREE", help="abuse: another tree, or a commit, that is attacked first")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: no such part; known are {', '.join(PARTS)}")
    os.environ["PATH"] = os.pathsep.join((os.environ["PATH"], str(RUSTSCAN)))
    chosen = options.parts or PARTS
    if options.parts:
        is_exact, targets = _run(chosen, options)
        if targets:
            print("\n" + table(targets))
        return 0 if is_exact else 1
    unfinished = MEASUREMENTS.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        is_exact, targets = _run(chosen, options)
    tables = unfinished.read_text(encoding="utf-8")
    unfinished.unlink()
    summary = table(targets)
    MEASUREMENTS.write_text(
        f"# Measurements\n\n`make bench` wrote this file.\n\n{summary}\n\n{tables}", encoding="utf-8"
    )
    print(f"{summary}\n\nAll tables are in {MEASUREMENTS.relative_to(ROOT)}.")
    return 0 if is_exact else 1


def _run(chosen: Sequence[str], options: argparse.Namespace) -> tuple[bool, list[Target]]:
    """Run the parts; tell whether portspec found every state, and the targets."""
    peers = [version(name) for name in ("nmap", "masscan", "zmap", "naabu", "rustscan") if shutil.which(name)]
    print(
        f"{', '.join(peers)}; Python {platform.python_version()}; Linux {platform.release()}; {options.runs} runs",
        flush=True,
    )
    is_exact = True
    targets: list[Target] = []
    if _IN_LAB.intersection(chosen):
        is_exact, targets = _run_in_lab(chosen, options.runs)
    others: dict[str, Callable[[], list[Target] | None]] = {
        "shards": shards.report,
        "exposition": lambda: exposition.report(options.runs),
        "pages": pages.report,
        "kill": kill.report,
        "soak": soak.report,
        "audits": audits.report,
        "priorities": priorities.report,
        "rules": rules.report,
        "abuse": lambda: abuse.report(against=options.against),
    }
    for part, report in others.items():
        if part in chosen:
            targets += report() or []
    return is_exact, targets


def _run_in_lab(chosen: Sequence[str], runs: int) -> tuple[bool, list[Target]]:
    """Run the parts that share a lab; tell whether portspec found every state, and the targets."""
    exact = True
    targets: list[Target] = []
    with Lab() as lab, tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        if "start" in chosen:
            targets += start.report(lab, directory)
        if "connect" in chosen:
            is_exact, some = connect.report(lab, runs, directory)
            exact, targets = exact and is_exact, targets + some
        if "syn" in chosen:
            is_exact, some = syn.report(lab, runs, directory)
            exact, targets = exact and is_exact, targets + some
        if "names" in chosen:
            exact &= names.report(lab, runs, directory)
        if "forging" in chosen:
            exact &= forging.report(lab)
        if "large" in chosen:
            exact &= syn.large(lab, directory)
        if "rounds" in chosen:
            targets += rounds.report(lab, directory)
    print(f"\nportspec found every open port and no other, and every other port's state: {'yes' if exact else 'NO'}")
    return exact, targets


if __name__ == "__main__":
    sys.exit(main())
