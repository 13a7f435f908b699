"""The table of faults: a decorator for the tests, and what they say, read from their source."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
TESTS: Final = ROOT / "tests"

#: The faults, in the order of the page, and what each one is.
FAULTS: Final = {
    "name server": "It is down, slow, answers with an error or with garbage.",
    "network": "The link is down, or there is no route.",
    "disk full": "The file system has no space left.",
    "disk read-only": "The file system is read-only.",
    "disk that hangs": "The file system does not answer.",
    "no descriptors": "The process may open few files from the start, or no more (RLIMIT_NOFILE).",
    "no threads": "The process may start no more threads (RLIMIT_NPROC, the pids controller).",
    "memory short": "The process gets no more memory (RLIMIT_AS).",
    "clock": "The wall clock jumps, by a year forward or back, or by a leap second.",
    "mail server": "The SMTP server is down, slow, rejects mails for now or for good, or has no valid certificate.",
    "Alertmanager": "It is down, or answers with an error.",
    "http_sd": "The server of targets is down, slow, or answers with garbage.",
    "stop": "The process is stopped and continued (SIGSTOP, a suspended machine).",
    "kill": "The process is killed (kill -9, a lack of memory, a loss of power).",
    "part that ends": "A task or a thread of the exporter ends, by a bug or for want of memory.",
    "part that hangs": "A part of the exporter makes no progress.",
    "configuration": "conf.yml is invalid or unreadable at a reload.",
}
PARTS: Final = frozenset(
    {"scans", "state file", "mails", "audits", "metrics and pages", "report file", "discovery", "reload", "start",
     "whole exporter"}
)  # fmt: skip


def fault(name: str, part: str, expectation: str) -> pytest.MarkDecorator:
    """Say that a test shows what a fault does to a part; `expectation` is a sentence for the operator."""
    assert name in FAULTS, name
    assert part in PARTS, part
    return pytest.mark.fault(name, part, expectation)


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table; `test` is the id of the test without parameters."""

    fault: str
    part: str
    expectation: str
    test: str


def cases() -> tuple[Case, ...]:
    """Return all cases, by the order of FAULTS, then by part and test. Imports no test."""
    found = [case for path in sorted(TESTS.rglob("test_*.py")) for case in _cases_of(path)]
    order = list(FAULTS)
    return tuple(sorted(found, key=lambda case: (order.index(case.fault), case.part, case.test, case.expectation)))


def _cases_of(path: Path) -> Iterator[Case]:
    text = path.read_text(encoding="utf-8")
    if "@fault(" not in text:
        return
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "fault":
                    name, part, expectation = map(ast.literal_eval, mark.args)
                    yield Case(name, part, expectation, f"{path.relative_to(ROOT)}::{node.name}")
