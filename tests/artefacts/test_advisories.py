"""`make audit`: what comes of pip-audit's answers, also of those that it calls fine."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests import advisories
from tests.advisories import CLEAN, UNKNOWN, VULNERABLE, Verdict, ask, judge

if TYPE_CHECKING:
    from pathlib import Path

FINE: dict[str, Any] = {"name": "idna", "version": "3.11", "vulns": []}
FLAW: dict[str, Any] = {
    "name": "jinja2",
    "version": "3.1.0",
    "vulns": [
        {"id": "PYSEC-2025-1", "fix_versions": ["3.1.6", "4.0"], "aliases": [], "description": ""},
        {"id": "PYSEC-2025-2", "fix_versions": [], "aliases": [], "description": ""},
    ],
}
SKIPPED: dict[str, Any] = {"name": "rich", "skip_reason": "Dependency not found on PyPI"}
UNKNOWN_RICH = "nothing is known about 1 of 2 packages: rich (Dependency not found on PyPI)"
FLAWS = ("jinja2 3.1.0: PYSEC-2025-1, fixed in 3.1.6, 4.0", "jinja2 3.1.0: PYSEC-2025-2, not fixed in any version")


@pytest.mark.parametrize(
    ("packages", "verdict"),
    [
        ([FINE], Verdict(CLEAN, ("no known vulnerability (packages: 1)",))),
        ([FINE, FLAW], Verdict(VULNERABLE, FLAWS)),
        ([FINE, SKIPPED], Verdict(UNKNOWN, (UNKNOWN_RICH,))),
        ([], Verdict(UNKNOWN, ("nothing is known about 0 of 0 packages",))),
    ],
    ids=["clean", "vulnerable", "skipped", "nothing"],
)
def test_answer_is_judged(packages: list[Any], verdict: Verdict) -> None:
    """Only an answer that has all packages is clean; a package that was not looked up is unknown."""
    assert judge({"dependencies": packages, "fixes": []}) == verdict


def test_vulnerable_is_worse_than_unknown() -> None:
    """What is vulnerable is told beside what is unknown, and decides."""
    verdict = judge({"dependencies": [SKIPPED] * 7 + [FLAW]})
    assert verdict.code == VULNERABLE
    assert verdict.lines[-1].startswith("nothing is known about 7 of 8 packages: rich, rich, rich, ")
    assert " and 2 more (" in verdict.lines[-1]


def script(tmp_path: Path, text: str) -> list[str]:
    """Return the command of a program in the place of pip-audit."""
    path = tmp_path / "pip-audit.py"
    path.write_text(text, encoding="utf-8")
    return [sys.executable, str(path)]


def test_result_is_read_whatever_the_exit_code(tmp_path: Path) -> None:
    """pip-audit ends with 1 for a finding; its JSON is read all the same, for the file that was asked about."""
    answer = json.dumps({"dependencies": [FLAW]})
    command = script(
        tmp_path, f"import sys\nassert sys.argv[-1] == 'constraints.txt'\nprint({answer!r})\nsys.exit(1)\n"
    )
    assert ask("constraints.txt", command).code == VULNERABLE


def test_no_result_is_unknown(tmp_path: Path) -> None:
    """Without the network, or without pip-audit, nothing is known, and the reason is told."""
    command = script(tmp_path, "raise SystemExit('Traceback\\nname resolution failed')")
    (line,) = ask("constraints.txt", command).lines
    assert line.endswith("at https://pypi.org): name resolution failed")
    verdict = ask("constraints.txt", [str(tmp_path / "missing")])
    assert (verdict.code, verdict.lines[0].startswith("pip-audit did not run: ")) == (UNKNOWN, True)


@pytest.mark.parametrize(
    ("codes", "code"),
    [((0, 0), CLEAN), ((0, 2), UNKNOWN), ((2, 1), VULNERABLE)],
    ids=["clean", "unknown", "vulnerable"],
)
def test_worst_verdict_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], codes: tuple[int, int], code: int
) -> None:
    """Each file of constraints has its lines, and the worst of them decides."""
    verdicts = dict(zip(advisories.FILES, (Verdict(each, ("said",)) for each in codes), strict=True))
    monkeypatch.setattr(advisories, "ask", verdicts.__getitem__)
    assert advisories.main() == code
    assert capsys.readouterr().out == "constraints.txt: said\ntests/constraints.txt: said\n"
