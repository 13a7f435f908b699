from __future__ import annotations

import pytest

from portspec.audit.model import Audit, Severity, Status, System, ToolRun
from portspec.audit.tools import parse
from portspec.audit.tools.debsecan import END_MARKER

LINE = "CVE-2005-3184 ethereal (fixed, remotely exploitable, medium urgency)\n"
REPORT = "Security report based on the sid release\n\n"
ENTRY = """\
*** New vulnerabilities

CVE-2005-0034 x
  <https://security-tracker.debian.org/tracker/CVE-2005-0034>
  - bind9 (remotely exploitable)

"""
CLEAN = "No known vulnerabilities were found on the system.\n"


def debsecan(output: str, exit_status: int = 0, errors: str = "") -> Audit:
    """Read an output of debsecan."""
    return parse(ToolRun("debsecan", exit_status, output, errors))


@pytest.mark.parametrize(
    ("system", "status"),
    [
        (System("Linux", "debian", (), "12"), Status.CLEAN),
        (System("Linux", "raspbian", ("debian",), "12"), Status.CLEAN),
        (System("Linux", "ubuntu", ("debian",), "24.04"), Status.UNSUPPORTED),
        (System("Linux", "linuxmint", ("ubuntu", "debian"), "22"), Status.UNSUPPORTED),
        (System("Linux", "kali", ("debian",), "2026.3"), Status.UNSUPPORTED),
    ],
)
def test_debsecan_has_data_of_debian_alone(system: System, status: Status) -> None:
    """Whatever it finds elsewhere, and whatever it does not find, says nothing of the packages of that system."""
    audit = parse(ToolRun("debsecan", 0, f"{END_MARKER}\n", system=system))
    assert audit.status == status
    why = f"debsecan only has data for packages of Debian, not of {system.spelled}"
    assert audit.reason == ("" if status is Status.CLEAN else why)


def test_the_proof_is_the_line_that_the_agent_adds() -> None:
    """It is fixed: agents that are out there print it."""
    assert END_MARKER == "# portspec: debsecan ended with 0"


@pytest.mark.parametrize("output", [END_MARKER, f"{END_MARKER}\n", f"\n{END_MARKER}\r\n", f"\n\n{END_MARKER}\n\n"])
def test_no_output_is_clean_only_with_proof(output: str) -> None:
    """The proof says that debsecan came to its end, so that nothing means nothing found."""
    assert debsecan(output).status == Status.CLEAN


@pytest.mark.parametrize(
    "output",
    [
        "# portspec: debsecan ended with 1\n",
        "# portspec: debsecan ended with 01\n",
        f" {END_MARKER}\n",
        f"x{END_MARKER}\n",
        f"{END_MARKER}\n{END_MARKER}\n",
        f"{END_MARKER}\n# x\n",
        f"{END_MARKER}.\n",
    ],
)
def test_a_line_that_only_looks_like_the_proof_is_none(output: str) -> None:
    """Another number, another place and other words prove nothing."""
    assert debsecan(output).status == Status.FAILED


@pytest.mark.parametrize("exit_status", [1, 2, 127])
def test_proof_does_not_outweigh_the_exit_status(exit_status: int) -> None:
    """It ends with 0 whether it found something or not; all else is an error."""
    assert debsecan(f"{END_MARKER}\n", exit_status).status == Status.FAILED
    assert debsecan(LINE, exit_status).status == Status.FAILED


@pytest.mark.parametrize(
    ("notes", "severity"),
    [
        ("", Severity.UNKNOWN),
        (" (obsolete)", Severity.UNKNOWN),
        (" (low urgency)", Severity.LOW),
        (" (fixed, medium urgency)", Severity.MEDIUM),
        (" (fixed, remotely exploitable, high urgency, obsolete)", Severity.HIGH),
    ],
)
def test_the_urgency_is_the_severity(notes: str, severity: Severity) -> None:
    """Notes without one leave it unknown."""
    (each,) = debsecan(f"CVE-2005-3184 ethereal{notes}\n").vulnerabilities
    assert each.severity == severity


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "CVE-2005-3184 ethereal (fixd)",
            'line 2 has the note "fixd", expected "fixed", "… urgency" or another one of debsecan',
        ),
        ("CVE-2005-3184", 'the record of "CVE-2005-3184" has no line "installed: "'),
        ("ethereal", 'line 2 is "ethereal", expected a vulnerability in the format summary, detail or report'),
        ("  installed: x 1", 'line 2 is "installed: x 1", expected a vulnerability in the format'),
    ],
)
def test_a_line_that_debsecan_does_not_print_failed(line: str, reason: str) -> None:
    """The reason says which and where; the others are kept."""
    audit = debsecan(f"{LINE}{line}\n")
    assert audit.status == Status.FAILED
    assert audit.reason.startswith(reason)
    assert audit.vulnerabilities[-1].package == "ethereal" or audit.vulnerabilities[0].package == "ethereal"


def test_an_error_on_standard_output_is_the_reason() -> None:
    """What it cannot open stands there, in place of a report."""
    audit = debsecan("error: could not open '/x': Permission denied\n", 2)
    assert audit.reason == "debsecan reports \"error: could not open '/x': Permission denied\""


@pytest.mark.parametrize("note", ["\nHowever, some bugs have been whitelisted.\n", f"\n{END_MARKER}\n"])
def test_a_clean_report_may_say_more(note: str) -> None:
    """A whitelist is the choice of who runs the host."""
    assert debsecan(REPORT + CLEAN + note).status == Status.CLEAN


@pytest.mark.parametrize(
    "output",
    [
        f"{REPORT}{ENTRY}{CLEAN}",
        f"{REPORT}{ENTRY}something else\n",
        f"{REPORT}{ENTRY.replace('New', 'Old')}",
        f"{REPORT}{ENTRY.replace('bind9', 'Bind 9')}",
        f"{REPORT}{END_MARKER}\n",
        f"{REPORT}  - bind9\n",
    ],
)
def test_a_report_that_contradicts_itself_failed(output: str) -> None:
    """It has vulnerabilities, or says that it has none, and no line besides."""
    assert debsecan(output).status == Status.FAILED


def test_a_report_of_nothing_but_fixed_vulnerabilities_needs_proof() -> None:
    """It does not say that there are no others."""
    fixed = f"{REPORT}*** Fixed vulnerabilities\n\nCVE-1-1\n  <https://x.example/>\n  - bind9\n\n"
    assert debsecan(fixed).status == Status.FAILED
    assert debsecan(f"{fixed}{END_MARKER}\n").status == Status.CLEAN
