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
def test_debsecan_only_has_data_for_debian(system: System, status: Status) -> None:
    """On other systems it is unsupported, whatever it finds."""
    audit = parse(ToolRun("debsecan", 0, f"{END_MARKER}\n", system=system))
    assert audit.status == status
    why = f"debsecan only has data for packages of Debian, not of {system.spelled}"
    assert audit.reason == ("" if status is Status.CLEAN else why)


def test_end_marker_is_the_line_that_the_agent_adds() -> None:
    """It cannot change, because agents in use print it."""
    assert END_MARKER == "# portspec: debsecan ended with 0"


@pytest.mark.parametrize("output", [END_MARKER, f"{END_MARKER}\n", f"\n{END_MARKER}\r\n", f"\n\n{END_MARKER}\n\n"])
def test_empty_output_is_clean_only_with_the_end_marker(output: str) -> None:
    """The end marker proves that debsecan completed."""
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
def test_line_that_resembles_the_end_marker_is_failed(output: str) -> None:
    """The line must be the same, the last one, and there only once."""
    assert debsecan(output).status == Status.FAILED


@pytest.mark.parametrize("exit_status", [1, 2, 127])
def test_end_marker_does_not_override_the_exit_status(exit_status: int) -> None:
    """Debsecan exits with 0 whether it found something or not; any other status is an error."""
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
def test_urgency_is_the_severity(notes: str, severity: Severity) -> None:
    """Notes without an urgency leave the severity unknown."""
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
def test_unknown_line_is_failed(line: str, reason: str) -> None:
    """The reason quotes the line with its number, and other vulnerabilities are kept."""
    audit = debsecan(f"{LINE}{line}\n")
    assert audit.status == Status.FAILED
    assert audit.reason.startswith(reason)
    assert audit.vulnerabilities[-1].package == "ethereal" or audit.vulnerabilities[0].package == "ethereal"


def test_error_on_standard_output_is_the_reason() -> None:
    """Debsecan reports files that it cannot open on standard output."""
    audit = debsecan("error: could not open '/x': Permission denied\n", 2)
    assert audit.reason == "debsecan reports \"error: could not open '/x': Permission denied\""


@pytest.mark.parametrize("note", ["\nHowever, some bugs have been whitelisted.\n", f"\n{END_MARKER}\n"])
def test_clean_audit_may_have_more_lines(note: str) -> None:
    """A whitelist is the decision of the administrator."""
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
def test_contradictory_audit_is_failed(output: str) -> None:
    """A report either lists vulnerabilities or says that there are none, without unknown lines."""
    assert debsecan(output).status == Status.FAILED


def test_audit_of_fixed_vulnerabilities_only_needs_the_end_marker() -> None:
    """It does not say that there are no others."""
    fixed = f"{REPORT}*** Fixed vulnerabilities\n\nCVE-1-1\n  <https://x.example/>\n  - bind9\n\n"
    assert debsecan(fixed).status == Status.FAILED
    assert debsecan(f"{fixed}{END_MARKER}\n").status == Status.CLEAN
