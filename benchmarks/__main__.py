"""portspec beside its peers, alternately, in the lab: what each took and found, as tables in Markdown.

    python -m benchmarks [--runs N] [PART …]

Without a name all of them run. Times are seconds, medians; "scan" is the scanner's own figure (duration_seconds of
`portspec scan --json`, "scanned in … seconds" of nmap, the process less its final wait for masscan), "process" is the
whole process's. Ratios are portspec's time divided by the peer's, taken pair by pair. Exit code 1 if portspec missed a
port or made one up.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import abuse, audits, connect, exposition, forging, kill, names, pages, rules, soak, syn
from benchmarks.scanners import version
from tests.lab.network import Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = (
    "connect",
    "syn",
    "names",
    "forging",
    "large",
    "exposition",
    "pages",
    "kill",
    "soak",
    "audits",
    "rules",
    "abuse",
)
_IN_LAB = {"connect", "syn", "names", "forging", "large"}


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
    chosen = options.parts or PARTS
    peers = [version(name) for name in ("nmap", "masscan", "zmap", "naabu", "rustscan") if shutil.which(name)]
    print(f"{', '.join(peers)}; Python {platform.python_version()}; Linux {platform.release()}; {options.runs} runs")
    is_exact = _compare(chosen, options.runs) if _IN_LAB.intersection(chosen) else True
    if "exposition" in chosen:
        exposition.report(options.runs)
    if "pages" in chosen:
        pages.report()
    if "kill" in chosen:
        kill.report()
    if "soak" in chosen:
        soak.report()
    if "audits" in chosen:
        audits.report()
    if "rules" in chosen:
        rules.report()
    if "abuse" in chosen:
        abuse.report(against=options.against)
    return 0 if is_exact else 1


def _compare(chosen: Sequence[str], runs: int) -> bool:
    """Compare the scanners; tell whether portspec found every state."""
    exact = True
    with Lab() as lab, tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        if "connect" in chosen:
            exact &= connect.report(lab, runs, directory)
        if "syn" in chosen:
            exact &= syn.report(lab, runs, directory)
        if "names" in chosen:
            exact &= names.report(lab, runs, directory)
        if "forging" in chosen:
            exact &= forging.report(lab)
        if "large" in chosen:
            exact &= syn.large(lab, directory)
    print(f"\nportspec found every open port and no other, and every other port's state: {'yes' if exact else 'NO'}")
    return exact


if __name__ == "__main__":
    sys.exit(main())
