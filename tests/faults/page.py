"""The table of faults as it stands in docs/reliability.md."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Final

from tests.faults.registry import FAULTS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.faults.registry import Case

PAGE: Final[Path] = ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- The rest of this page is written by `make reliability`. -->\n"


def replaced(page: str, cases: Iterable[Case], results: Mapping[str, str]) -> str:
    """Return the page with another table; a test without a result has "not run"."""
    return page.partition(BEGIN)[0] + BEGIN + "".join(_lines(cases, results))


def results_of(page: str) -> dict[str, str]:
    """Return the results on a page, by the id of the test."""
    rows = re.findall(r"\[(\w+)\]\(\.\./([\w/.]+)\) \| (passed|failed|skipped) \|$", page, re.MULTILINE)
    return {f"{path}::test_{name}": result for name, path, result in rows}


def without_results(page: str) -> str:
    """Return the page without the last column of its tables."""
    return re.sub(r" \| (passed|failed|skipped|not run) \|$", " |", page, flags=re.MULTILINE)


def _lines(cases: Iterable[Case], results: Mapping[str, str]) -> Iterator[str]:
    for fault, rows in groupby(cases, key=lambda case: case.fault):
        yield f"\n### {fault[0].upper()}{fault[1:]}\n\n{FAULTS[fault]}\n\n| part | what happens | test | last run |\n"
        yield "|---|---|---|---|\n"
        for row in rows:
            path, _, name = row.test.partition("::")
            test = f"[{name.removeprefix('test_')}](../{path})"
            yield f"| {row.part} | {row.expectation} | {test} | {results.get(row.test, 'not run')} |\n"
