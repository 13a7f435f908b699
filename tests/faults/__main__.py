"""Run the tests of faults, and write their table into docs/reliability.md: `python -m tests.faults` (make reliability).

Arguments are passed on to pytest, such as `--numprocesses 4` or `-k disk`. The page keeps the results of tests that did
not run.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Final

import pytest

from tests.faults.page import PAGE, replaced, results_of
from tests.faults.registry import cases

ORDER: Final = ("failed", "skipped", "passed")  # of the results of one test's parameters the first one counts


class Recorder:
    """A plugin of pytest that keeps the results, by the id of the test without parameters."""

    def __init__(self) -> None:
        self._found: defaultdict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the result of a phase of a test."""
        if report.when == "call" or report.outcome != "passed":
            self._found[report.nodeid.partition("[")[0]].add(report.outcome)

    @property
    def results(self) -> dict[str, str]:
        """The result of each test that ran."""
        return {test: next(name for name in ORDER if name in found) for test, found in self._found.items()}


def main(arguments: list[str]) -> int:
    """Run and write; returns the exit code of pytest."""
    recorder = Recorder()
    files = sorted({case.test.partition("::")[0] for case in cases()})
    code = pytest.main(["-q", "-m", "fault", *arguments, *files], plugins=[recorder])
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(page, cases(), results_of(page) | recorder.results), encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
