"""`make fuzz`: run harnesses for some time each, and print what came of it. Exit code 1 if there are findings."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fuzz.catalogue import MODULES

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT: Final = Path(__file__).parents[2]
_EXECUTIONS: Final = re.compile(r"stat::number_of_executed_units: ([0-9]+)")
_LAST_LINES: Final = 15  # of the log of an engine that failed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one harness: executions, inputs in the corpus, and the files of the findings.

    `failure` are the last lines of the log of an engine that ended otherwise than it should.
    """

    name: str
    engine: str
    seconds: int
    executions: int
    inputs: int
    findings: tuple[Path, ...]
    failure: str = ""

    @property
    def is_good(self) -> bool:
        """True if nothing was found and the engine ran to its end."""
        return not (self.findings or self.failure)

    def lines(self) -> list[str]:
        """Return a line of numbers, and one for each file of the findings: the input, and beside it its traceback."""
        numbers = (
            f"{self.name:<12} {self.engine:<10} {self.seconds:>6} {self.executions:>12,} "
            f"{self.executions / max(1, self.seconds):>10,.0f} {self.inputs:>8,} {len(self.findings):>8}"
        )
        return [numbers, *(f"  {path}" for path in self.findings), *(f"  {line}" for line in self.failure.splitlines())]


HEADER: Final = (
    f"{'harness':<12} {'engine':<10} {'time/s':>6} {'executions':>12} {'per second':>10} {'corpus':>8} {'findings':>8}"
)


def run(name: str, seconds: int, *, is_kept: bool = False) -> Outcome:
    """Run a harness in a process of its own; its directory is removed if there is nothing to look at."""
    directory = Path(tempfile.mkdtemp(prefix=f"portspec-fuzz-{name}-"))
    log = directory / "log"
    command = [sys.executable, "-m", "tests.fuzz.engine", name, f"--directory={directory}"]
    with log.open("wb") as output:
        ends = [
            subprocess.run([*command, option], cwd=_ROOT, stdout=output, stderr=output, check=False).returncode
            for option in (f"--seconds={seconds}", "--measure")
        ]
    told = log.read_text("utf-8", "replace")
    executions = _EXECUTIONS.findall(told)
    findings = tuple(sorted((directory / "findings").glob("*")))
    is_failed = any(ends) and not findings
    engine = directory / "engine"
    outcome = Outcome(
        name,
        engine.read_text("ascii") if engine.exists() else "none",
        seconds,
        int(executions[-1]) if executions else 0,
        len(list((directory / "corpus").glob("*"))),
        findings,
        "\n".join([*told.splitlines()[-_LAST_LINES:], f"log: {log}"]) if is_failed else "",
    )
    if is_kept and outcome.is_good:
        keep = [sys.executable, "-m", "tests.fuzz.keep", name, str(directory / "corpus")]
        subprocess.run(keep, cwd=_ROOT, check=True)
    if outcome.is_good:
        shutil.rmtree(directory)
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the harnesses that are named, or all."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("harness", nargs="*", help=f"by default all: {', '.join(MODULES)}")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each harness (default: 60)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="harnesses at a time (default: 1)")
    parser.add_argument("--keep", action="store_true", help="keep inputs that reach new lines in tests/fuzz/corpus")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.harness) - MODULES.keys()):
        parser.error(f"no such harness: {', '.join(unknown)} (there are {', '.join(MODULES)})")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # what atheris has instrumented is for it alone
    print(HEADER, flush=True)
    good = True
    with ThreadPoolExecutor(options.jobs) as pool:
        made = partial(run, seconds=options.seconds, is_kept=options.keep)
        for outcome in pool.map(made, options.harness or MODULES):
            print(*outcome.lines(), sep="\n", flush=True)
            good &= outcome.is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
