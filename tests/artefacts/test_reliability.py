"""docs/reliability.md says what the tests of faults show."""

from __future__ import annotations

import re

from tests.faults.page import PAGE, replaced, without_results
from tests.faults.registry import FAULTS, PARTS, cases


def test_page_has_every_case() -> None:
    """The table of the page is that of the tests: `make reliability` writes it."""
    page = PAGE.read_text(encoding="utf-8")
    assert without_results(replaced(page, cases(), {})) == without_results(page), "make reliability"


def test_no_case_of_the_page_has_failed() -> None:
    """The page was written by a run in which every test passed."""
    page = PAGE.read_text(encoding="utf-8")
    results = re.findall(r" \| (passed|failed|skipped|not run) \|$", page, re.MULTILINE)
    assert len(results) == len(cases())
    assert set(results) == {"passed"}


def test_every_fault_has_a_case() -> None:
    """No fault and no part of the table is without a test."""
    assert {case.fault for case in cases()} == set(FAULTS)
    assert {case.part for case in cases()} == PARTS


def test_expectations_are_sentences() -> None:
    """Each begins and ends as a sentence does, and fits the table."""
    for case in cases():
        assert re.fullmatch(r"[A-Z`/].*\.", case.expectation), case
        assert "|" not in case.expectation, case
