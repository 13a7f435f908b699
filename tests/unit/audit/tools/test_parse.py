from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from portspec.audit.model import Scope, Severity, Status, System, ToolRun
from portspec.audit.tools import TOOLS, parse

SIZE = 100_000  # characters; what is quadratic takes half an hour
CURL = """\
curl-7.50.1 is vulnerable:
  cURL -- Escape and unescape integer overflows
  CVE: CVE-2016-7167

1 problem(s) in 1 package(s) found.
"""
JSON_TOOLS = ("osv-scanner", "trivy", "grype", "pip-audit", "pkg-audit", "ubuntu-pro", "arch-audit", "dnf")


def match(package: str = "bash", name: str = "CVE-2024-1", **fields: Any) -> dict[str, Any]:
    """Return a match of grype."""
    return {"vulnerability": {"id": name, **fields}, "artifact": {"name": package, "version": "5.0"}}


def grype(*matches: dict[str, Any]) -> str:
    """Return a document of grype."""
    return json.dumps(
        {"matches": matches, "distro": {"name": "debian", "version": "12"}, "descriptor": {"name": "grype"}}
    )


def test_unknown_tool_is_unsupported() -> None:
    """The reason lists the supported tools."""
    audit = parse(ToolRun("vuls\n<b>", 0, "0 problem(s) in 0 package(s) found.\n"))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == (
        'unknown tool "vuls <b>", expected one of portaudit, pkg-audit, debsecan, osv-scanner, trivy, grype, '
        "pip-audit, ubuntu-pro, apt, arch-audit, pkg-admin, apk, dnf, zypper"
    )


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    "output", ["", "\n", " \r\n\t", "\0\0", "\ufffd\ufffd", "null", "true", "0", "[]", "{}", "<html>"]
)
def test_output_of_something_else_is_failed(tool: str, output: str) -> None:
    """Whitespace, NULs, a web page and empty JSON are failed with a reason."""
    audit = parse(ToolRun(tool, 0, output))
    assert audit.status == Status.FAILED
    assert audit.reason


@pytest.mark.parametrize("tool", JSON_TOOLS)
@pytest.mark.parametrize("unit", ['{"a":', "[", '{"matches":[', "{"])
def test_json_with_excessive_nesting_is_failed(tool: str, unit: str) -> None:
    """100,000 levels are rejected before json's scanner recurses into them."""
    audit = parse(ToolRun(tool, 0, unit * 100_000))
    assert audit.status == Status.FAILED
    # pkg audit is only JSON where it begins with an object.
    assert "nested more than 100 levels deep in line 1" in audit.reason or (tool, unit) == ("pkg-audit", "[")


def test_brackets_in_strings_do_not_count_as_nesting() -> None:
    """A title may consist of brackets, quotes and backslashes."""
    title = '[{"\\' * 60
    audit = parse(ToolRun("grype", 0, grype(match(description=title))))
    assert (audit.status, audit.vulnerabilities[0].title) == (Status.VULNERABLE, title)


@pytest.mark.parametrize("number", ["1" * 5000, "-" + "9" * 400, "1e999", "NaN", "1.5", "true", '"0"', "null"])
def test_invalid_number_is_failed_with_its_path(number: str) -> None:
    """Only an integer of limited length is a count."""
    audit = parse(ToolRun("pkg-audit", 0, f'{{"pkg_count": {number}}}'))
    assert audit.status == Status.FAILED
    assert audit.reason.startswith("pkg_count is ")


def test_wrong_type_is_failed_with_its_path() -> None:
    """The reason has the path, the value and the expected type; other vulnerabilities are kept."""
    output = grype(match(), {"vulnerability": [], "artifact": {"name": "tar"}}, match(name="CVE-2024-2"))
    audit = parse(ToolRun("grype", 0, output))
    assert audit.status == Status.FAILED
    assert audit.reason == "matches[1].vulnerability is a list, expected an object"
    assert [each.id for each in audit.vulnerabilities] == ["CVE-2024-1", "CVE-2024-2"]


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("\n\nwarning: x\n", 'line 3 is "warning: x", expected the end of the JSON document'),
        ("{}", 'line 1 is "{}", expected the end of the JSON document'),
    ],
)
def test_text_after_the_json_document_is_failed(tail: str, reason: str) -> None:
    """Only one document is expected."""
    audit = parse(ToolRun("grype", 0, grype() + tail))
    assert (audit.status, audit.reason) == (Status.FAILED, reason)


def test_broken_document_keeps_the_vulnerabilities_before_the_error() -> None:
    """They are read up to the last closing bracket."""
    output = grype(match(), match(name="CVE-2024-2"), match(name="CVE-2024-3"))
    broken = output.replace('"CVE-2024-3"', "CVE-2024-3")
    audit = parse(ToolRun("grype", 0, broken))
    assert audit.reason == "the JSON document is broken or truncated in line 1: expecting value"
    assert [each.id for each in audit.vulnerabilities] == ["CVE-2024-1", "CVE-2024-2"]


def test_duplicate_vulnerability_is_merged() -> None:
    """It has the worse severity, all aliases and fixed versions, and the first title."""
    first = match(severity="Low", description="a", fix={"versions": ["1.2"]}, advisories=[{"id": "DSA-2"}])
    second = match(severity="High", description="b", fix={"versions": ["1.3", "1.2"]}, advisories=[{"id": "DSA-1"}])
    (each,) = parse(ToolRun("grype", 0, grype(first, second))).vulnerabilities
    assert each.severity == Severity.HIGH
    assert each.advisories == ("DSA-1", "DSA-2")
    assert each.fixed_in == ("1.2", "1.3")
    assert each.title == "a"


def test_vulnerabilities_are_sorted_by_severity_then_package_then_id() -> None:
    """The worst comes first."""
    severities = ["Unknown", "Negligible", "Low", "Medium", "High", "Critical"]
    matches = [match("b", f"CVE-2024-{number}", severity=word) for number, word in enumerate(severities)]
    matches += [match("c", "CVE-2023-1", severity="High"), match("b", "CVE-2025-1", severity="High")]
    found = parse(ToolRun("grype", 0, grype(*matches))).vulnerabilities
    assert [(each.severity.value, each.package, each.id) for each in found] == [
        ("critical", "b", "CVE-2024-5"),
        ("high", "b", "CVE-2024-4"),
        ("high", "b", "CVE-2025-1"),
        ("high", "c", "CVE-2023-1"),
        ("medium", "b", "CVE-2024-3"),
        ("low", "b", "CVE-2024-2"),
        ("negligible", "b", "CVE-2024-1"),
        ("unknown", "b", "CVE-2024-0"),
    ]


def test_texts_are_single_printable_lines() -> None:
    """Control characters, direction marks and lone surrogates are escaped, and long texts are cut."""
    output = grype(match("ba\0sh\u202e", "CVE-2024-1\ud800", dataSource="u" * 9999))
    (each,) = parse(ToolRun("grype", 0, output)).vulnerabilities
    assert each.package == "ba\\x00sh\\u202e"
    assert each.id == "CVE-2024-1\\ud800"
    assert each.url == "u" * 499 + "…"


def test_too_many_vulnerabilities_are_failed() -> None:
    """The limit bounds the memory for an endless output."""
    lines = "".join(f"CVE-2024-{number} bash\n" for number in range(100_001))
    audit = parse(ToolRun("debsecan", 0, lines))
    assert (audit.status, audit.reason) == (Status.FAILED, "the output has more than 100,000 vulnerabilities")
    assert len(audit.vulnerabilities) == 100_000


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.timeout(60)
def test_reading_takes_linear_time(tool: str) -> None:
    """Long repetitions of the patterns that readers look for do not cause backtracking."""
    for unit in (
        *("A", "{", "[", '"', '"\\', "\n", " ", '{"a":', "[],", "1", "a-1", "fixed, ", "40a3bca2-6809-", "CVE-2024-"),
        *("foo-1 is vulnerable:\n", "Affected package: a-1\n", "CVE-2024-1\n", "  x\n", "jail: x\n", "foo-1.2\n"),
        *("CVE: CVE-2024-1\n", "1 problem(s) in 1 package(s) found.\n", "  - a,\n    b,\n", "portaudit: corrupt\n"),
        *("a:\n", " *** 1 0\n", "     1 0\n        0 a\n", " 0 a\n     release a=b,\n", "a-1-r0 < 2\n", "a [b]\n"),
        *("Package a-1 has a b vulnerability, see c\n", "# portspec: pkg_info\n", "W: \n", "# portspec: a\n"),
    ):
        for head in (
            "",
            '{"a":"',
            "foo-1 is vulnerable:\n",
            "Security report based on x\n*** Vulnerabilities\nCVE-1 x\n",
            "# portspec: apt-cache policy\nPackage files:\n",
            "# portspec: apk version --indexes\n",
            "# portspec: pkg_info\n",
        ):
            output = head + unit * (SIZE // len(unit))
            assert parse(ToolRun(tool, 0, output, errors=output)).status != Status.CLEAN


@pytest.mark.parametrize(("days", "status"), [(13, Status.CLEAN), (15, Status.STALE_DATABASE)])
def test_agent_may_send_the_time_of_the_database(days: int, status: Status) -> None:
    """It is used if the tool does not print it; an old database makes the result stale."""
    run = ToolRun(
        "pkg-audit",
        0,
        "0 problem(s) in 0 package(s) found.\n",
        "# portspec: database of 2026-11-01T06:12:12Z\n",
        ended_at=1_793_513_532.0 + days * 86_400,
    )
    found = parse(run)
    assert (found.status, found.database_at) == (status, 1_793_513_532.0)


def test_runs_of_several_tools_are_merged() -> None:
    """The audit has the worst status, all vulnerabilities and all reasons."""
    packages = ToolRun("pkg-audit", 1, CURL)
    base = ToolRun("pkg-audit", 0, '{"pkg_count": 0}', command=("pkg", "audit", "FreeBSD-14.1_5"))
    audit = parse(packages, base)
    assert (audit.status, audit.without) == (Status.VULNERABLE, Status.CLEAN)
    assert audit.scopes == (Scope.SYSTEM, Scope.BASE)
    assert [each.package for each in audit.vulnerabilities] == ["curl"]
    broken = parse(packages, replace(base, output="", errors="no vuln.xml\n"))
    assert (broken.status, broken.without) == (Status.FAILED, Status.FAILED)
    assert broken.reason.startswith("pkg-audit: no output, expected ")
    assert [each.package for each in broken.vulnerabilities] == ["curl"]


def test_audit_of_the_base_system_only_is_unsupported() -> None:
    """It says nothing about the installed packages."""
    system = System("FreeBSD", "freebsd", (), "14.1-RELEASE-p5")
    base = ToolRun("pkg-audit", 0, '{"pkg_count": 0}', command=("pkg", "audit", "FreeBSD-14.1_5"), system=system)
    audit = parse(base)
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason.startswith("pkg-audit looked at base system, not at the packages of freebsd 14.1-RELEASE-p5; ")
    assert parse(replace(base, command=("pkg", "audit")), base).status == Status.CLEAN
