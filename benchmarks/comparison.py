"""Runs of several scanners, alternately, and the table of what they took and found."""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.workload import LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.scanners import Scanner
    from benchmarks.workload import Run, Workload
    from tests.lab.network import Lab

HEAD = (
    "| workload | scanner | scan s | process s | user s | system s | peak MiB | open found | false | closed |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The runs of each scanner on one workload; the first scanner is portspec."""

    workload: Workload
    runs: Mapping[str, Sequence[Run]]
    endless: frozenset[str] = frozenset()

    @classmethod
    def make(
        cls, lab: Lab, workload: Workload, scanners: Mapping[str, Scanner], runs: int, directory: Path
    ) -> Comparison:
        """Run all scanners in turn, `runs` times; a peer that does not end within LIMIT is not run again."""
        workload.apply(lab)
        done: dict[str, list[Run]] = {name: [] for name in scanners}
        endless: set[str] = set()
        for number in range(runs):
            for name, scan in scanners.items():
                if name in endless:
                    continue
                print(f"{workload.name}: {name}, run {number + 1} of {runs}", file=sys.stderr, flush=True)
                try:
                    done[name].append(scan(lab, workload, directory))
                except subprocess.TimeoutExpired:
                    endless.add(name)
        return cls(workload, done, frozenset(endless))

    @property
    def ours(self) -> Sequence[Run]:
        """The runs of portspec."""
        return next(iter(self.runs.values()))

    @property
    def is_exact(self) -> bool:
        """True if portspec found every open port, no other, and every other port in its state, in every run."""
        return all(run.opened == self.workload.opened and run.closed == self.workload.closed for run in self.ours)

    def rows(self) -> list[str]:
        """Return a row of the table for each scanner: medians, and the range of what was found."""
        return [self._row(name, runs) for name, runs in self.runs.items()]

    def _row(self, name: str, runs: Sequence[Run]) -> str:
        if name in self.endless:
            return f"| {self.workload.name} | {name} | not done after {LIMIT:.0f} | | | | | | | |"
        found = {len(run.opened & self.workload.opened) for run in runs}
        wrong = max(len(run.opened - self.workload.opened) for run in runs)
        closed = {run.closed for run in runs if run.closed is not None}
        figures = [
            statistics.median(values)
            for values in (
                [run.scan for run in runs],
                [run.usage.wall for run in runs],
                [run.usage.user for run in runs],
                [run.usage.system for run in runs],
            )
        ]
        cells = [
            self.workload.name,
            name,
            *(f"{figure:.2f}" for figure in figures),
            f"{statistics.median(run.usage.memory for run in runs):.0f}",
            f"{_range(found)} of {len(self.workload.opened)}",
            str(wrong),
            f"{_range(closed)} of {self.workload.closed}" if closed else "not told",
        ]
        return f"| {' | '.join(cells)} |"

    def process_ratio(self, peer: str) -> float:
        """Return the median of the ratios of the whole processes' times, pair by pair."""
        return statistics.median(
            ours.usage.wall / theirs.usage.wall for ours, theirs in zip(self.ours, self.runs[peer], strict=True)
        )

    def scan_ratio(self, peer: str) -> float:
        """Return the median of the ratios of the scans' own times, pair by pair."""
        return statistics.median(
            ours.scan / theirs.scan for ours, theirs in zip(self.ours, self.runs[peer], strict=True)
        )

    @property
    def user_seconds(self) -> float:
        """The median of portspec's seconds of CPU as the user."""
        return statistics.median(run.usage.user for run in self.ours)

    @property
    def user_per_million(self) -> float:
        """The median of portspec's seconds of CPU as the user for a million probes."""
        return statistics.median(1e6 * run.usage.user / (run.probes or 1) for run in self.ours)

    def ratios(self) -> list[str]:
        """Give, for each peer, portspec's time divided by the peer's, pair by pair."""
        lines = []
        for name, theirs in list(self.runs.items())[1:]:
            if name in self.endless:
                share = statistics.median(run.scan for run in self.ours) / LIMIT
                lines.append(f"* {self.workload.name}: portspec/{name} below {share:.2f} of the scan")
                continue
            pairs = [a.scan / b.scan for a, b in zip(self.ours, theirs, strict=True)]
            whole = [a.usage.wall / b.usage.wall for a, b in zip(self.ours, theirs, strict=True)]
            recall = min(len(run.opened & self.workload.opened) for run in theirs) / max(1, len(self.workload.opened))
            lines.append(
                f"* {self.workload.name}: portspec/{name} {statistics.median(pairs):.2f} of the scan "
                f"({min(pairs):.2f} to {max(pairs):.2f}), {statistics.median(whole):.2f} of the process; "
                f"{name}'s worst recall {100 * recall:.1f} %"
            )
        return lines


def _range(values: set[int]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"
