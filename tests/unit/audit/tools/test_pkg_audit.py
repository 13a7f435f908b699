from __future__ import annotations

import pytest

from portspec.audit.model import Audit, Status, ToolRun
from portspec.audit.tools import parse

CURL = """\
curl-7.50.1 is vulnerable:
  cURL -- Escape and unescape integer overflows
  CVE: CVE-2016-7167
  WWW: https://vuxml.FreeBSD.org/freebsd/b018121b-7a4b-11e6-bf52-b499baebfeaf.html

"""

NONE = "0 problem(s) in 0 package(s) found.\n"

ONE = "1 problem(s) in 1 package(s) found.\n"

PERIODIC = "Checking for packages with security vulnerabilities:\n"


def pkg_audit(output: str, exit_status: int = 1) -> Audit:
    """Read an output of pkg audit."""
    return parse(ToolRun("pkg-audit", exit_status, output))


@pytest.mark.parametrize("exit_status", [2, 3, 64, 65, 74, 75, 139])
def test_audit_with_the_exit_status_of_an_error_is_failed(exit_status: int) -> None:
    """Neither a clean nor a vulnerable output has such an exit status."""
    assert pkg_audit(NONE, exit_status).status == Status.FAILED
    audit = pkg_audit(CURL + ONE, exit_status)
    assert (audit.status, len(audit.vulnerabilities)) == (Status.FAILED, 1)


@pytest.mark.parametrize(
    "line", ["pkg: something is wrong", "1 problem(s) in 1 pakcage(s) found.", "  curl", "curl", "# x", "CVE-1", "{"]
)
def test_unknown_line_is_failed(line: str) -> None:
    """The reason quotes the line with its number, and vulnerabilities are kept."""
    audit = pkg_audit(f"{CURL}{ONE}{line}\n")
    assert audit.status == Status.FAILED
    assert line == "{" or audit.reason.startswith(f'line 7 is "{line.strip()}", expected')
    assert len(audit.vulnerabilities) == (0 if line == "{" else 1)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (CURL + NONE, "the summary in line 6 counts 0 problems, but the lines before it have 1 in 1 package(s)"),
        (CURL, "the output ends without a summary line of its last issues"),
        (CURL + ONE + CURL, "the output ends without a summary line of its last issues"),
        ("curl-7 is vulnerable:\n" + ONE, "the summary in line 2 counts 1 problems, but the lines before it have 0"),
        (
            CURL.replace("  cURL -- Escape and unescape integer overflows\n", "") + ONE,
            'an issue of "curl-7.50.1" has no',
        ),
        ("curl-7.50.1\n" + NONE.replace("0", "1"), "the summary in line 2 counts 1 problems"),
    ],
)
def test_summary_with_a_wrong_count_is_failed(output: str, reason: str) -> None:
    """The count reveals lines that were lost."""
    audit = pkg_audit(output)
    assert audit.status == Status.FAILED
    assert audit.reason.startswith(reason)
    assert audit.vulnerabilities


def test_title_may_have_several_lines() -> None:
    """All lines between the header and the CVEs are one title."""
    audit = pkg_audit(CURL.replace("unescape integer", "unescape\n  integer") + ONE)
    assert audit.vulnerabilities[0].title == "cURL -- Escape and unescape integer overflows"


def test_title_that_ends_like_a_header_is_a_title() -> None:
    """A header begins in the first column and has one word before "is vulnerable:"."""
    audit = pkg_audit(CURL.replace("cURL -- Escape and unescape integer overflows", "libcurl is vulnerable") + ONE)
    assert [(each.package, each.title) for each in audit.vulnerabilities] == [("curl", "libcurl is vulnerable")]


@pytest.mark.parametrize("exit_status", [0, 1])
def test_periodic_exits_with_0_or_1_on_a_clean_host(exit_status: int) -> None:
    """After jails 410.pkg-audit exits with 1, the status of a test in the shell."""
    output = f"{PERIODIC}Host system:\n{NONE}\njail: a\n{NONE}"
    assert pkg_audit(output, exit_status).status == Status.CLEAN


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (f"Host system:\n{NONE}\njail: a\njail: b\n{NONE}", 'no summary line in "jail: a", expected'),
        (f"Host system:\n\njail: b\n{NONE}", "no summary line in the host system, expected"),
        (f"Host system:\n{NONE}", '"Host system:" announces chroots or jails, but none follows'),
        (f"Host system:\n{CURL}\njail: b\n{NONE}", "the host system ends without a summary line of its last issues"),
        ("", "no summary line in the output, expected"),
        (
            "Wrong version string, cannot run audit\n" + NONE,
            'line 2 is "Wrong version string, cannot run audit", expected',
        ),
    ],
)
def test_every_jail_needs_an_audit(output: str, reason: str) -> None:
    """A periodic report that lacks a part is failed, and the reason names the part."""
    audit = pkg_audit(PERIODIC + output, 3 if CURL in output else 0)
    assert audit.status == Status.FAILED
    assert audit.reason.startswith(reason)


@pytest.mark.parametrize("exit_status", [0, 1])
def test_periodic_with_vulnerabilities_exits_with_3(exit_status: int) -> None:
    """A lower exit status contradicts the output."""
    audit = pkg_audit(PERIODIC + CURL + ONE, exit_status)
    assert audit.reason == f"the output has a vulnerability, expected exit status 3 (exit status {exit_status})"


@pytest.mark.parametrize("date", ["dim.  8 janv. 2017 04:12:38 CET", "today", "Fri Jun 31 12:00:00 UTC 2023"])
def test_date_in_another_language_is_ignored(date: str) -> None:
    """date(1) uses the locale of its user; the report counts without the age."""
    audit = pkg_audit(f"{PERIODIC}Database fetched: {date}\n{NONE}", 0)
    assert (audit.status, audit.database_at) == (Status.CLEAN, None)


def test_jail_without_a_database_is_stale() -> None:
    """The message of pkg within a periodic report is not an unexpected line."""
    audit = pkg_audit(f"{PERIODIC}pkg: vulnxml file (null) does not exist. Try running 'pkg audit -F' first\n", 3)
    assert audit.status == Status.STALE_DATABASE
    assert audit.reason.startswith("pkg has no vulnerability database: ")


@pytest.mark.parametrize(
    "head", ["pkg: warning\n", "0 problem(s) in 0 package(s) found.\n", "curl-7.50.1 is vulnerable:\n"]
)
def test_unknown_text_before_the_json_is_failed(head: str) -> None:
    """Only the messages of -F may precede it."""
    audit = pkg_audit(f'{head}{{"pkg_count":0}}\n', 0)
    assert (audit.status, audit.reason) == (Status.FAILED, f'line 1 is "{head.strip()}", expected JSON')


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ('{"pkg_count":0}', "the output has no vulnerabilities, expected exit status 0 (exit status 1)"),
        ('{"pkg_count":1,"packages":{"a":[]}}', "packages.a is a list, expected an object"),
        ('{"pkg_count":1,"packages":{"a":{}}}', "packages.a.issues is missing, expected a list"),
        (
            '{"pkg_count":1,"packages":{"a":{"issue_count":2,"issues":[{"description":"x"}]}}}',
            'packages."a": issue_count is 2, but there are 1 issues',
        ),
        ('{"packages":{}}', "pkg_count is missing, expected an integer"),
    ],
)
def test_incomplete_json_is_failed(output: str, reason: str) -> None:
    """The counts in the document must match its contents."""
    audit = pkg_audit(output)
    assert (audit.status, audit.reason) == (Status.FAILED, reason)


def test_package_without_issues_in_json_is_kept() -> None:
    """A listed package is vulnerable even if its issues cannot be read."""
    audit = pkg_audit('{"pkg_count":1,"packages":{"a":{"version":"1"}}}')
    assert [(each.package, each.version, each.id) for each in audit.vulnerabilities] == [("a", "1", "")]
