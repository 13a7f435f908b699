from __future__ import annotations

import pytest

from portspec.audit.model import Audit, Status, ToolRun
from portspec.audit.tools import parse

CUPS = """\
Affected package: cups-base-1.1.22.0_1
Type of problem: cups-base -- HPGL buffer overflow vulnerability.
Reference: <http://www.FreeBSD.org/ports/portaudit/40a3bca2-6809-11d9-a9e7-0001020eed82.html>

"""


def portaudit(output: str, exit_status: int, errors: str = "") -> Audit:
    """Read an output of portaudit."""
    return parse(ToolRun("portaudit", exit_status, output, errors))


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ("portaudit: Database missing, run `portaudit -F' to update.\n", Status.STALE_DATABASE),
        ("portaudit: Corrupt database.\n", Status.STALE_DATABASE),
        ("portaudit: Database too old.\n", Status.STALE_DATABASE),
        ("", Status.STALE_DATABASE),
        ("portaudit: Can't read /tmp/x\n", Status.FAILED),
        ("Usage: portaudit -aCdFVvq\n", Status.FAILED),
    ],
)
def test_exit_status_2_is_stale(errors: str, status: Status) -> None:
    """Portaudit exits with 2 if its database is missing or too old, unless it reports another error."""
    assert portaudit("", 2, errors).status == status


def test_old_database_with_vulnerabilities_is_vulnerable() -> None:
    """The reason says that the database is old."""
    audit = portaudit(f"portaudit: database too old.\n\n{CUPS}1 problem(s) in your installed packages found.\n", 1)
    assert audit.status == Status.VULNERABLE
    assert audit.reason == 'portaudit reports "portaudit: database too old."'


def test_summary_counts_packages_named_in_the_command_once() -> None:
    """Several entries of such a package count as one problem."""
    audit = portaudit(f"{CUPS}{CUPS.replace('40a3bca2', '50a3bca2')}1 problem(s) found.\n", 1)
    assert (audit.status, len(audit.vulnerabilities)) == (Status.VULNERABLE, 2)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (CUPS, "the output ends without the summary of its last entries"),
        ("New database installed.\n", 'no summary line, expected "… problem(s) in your installed packages found."'),
        (
            "cups-base-1.1\n1 problem(s) in your installed packages found.\n",
            "the summary in line 2 counts 1 problems, but the lines before it have 0",
        ),
        ("cups-base-1.1", "the list of packages is truncated, or has an unexpected summary"),
        ("Type of problem: x\n", 'line 1 is "Type of problem: x", expected an entry or the summary of portaudit'),
    ],
)
def test_missing_or_wrong_summary_is_failed(output: str, reason: str) -> None:
    """The summary counts the entries before it; only -q omits it."""
    audit = portaudit(output, 1)
    assert (audit.status, audit.reason) == (Status.FAILED, reason)
