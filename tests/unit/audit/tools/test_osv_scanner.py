"""osv-scanner: what it counts, the severity of a score, and which systems it has data for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from portspec.audit.model import Audit, Severity, Status, ToolRun
from portspec.audit.tools import parse
from tests.unit.audit.tools.outputs import osv_scanner


def group(group: dict[str, Any], exit_status: int = 1, *records: dict[str, Any], path: str = "/srv/go.mod") -> Audit:
    """Read an output of osv-scanner of an application with one package, which has one group."""
    package = {"name": "p", "version": "1", "ecosystem": "Go"}
    packages = [{"package": package, "vulnerabilities": list(records), "groups": [group]}]
    document = {"results": [{"source": {"path": path, "type": "os"}, "packages": packages}]}
    return parse(ToolRun("osv-scanner", exit_status, json.dumps(document)))


@pytest.mark.parametrize(
    ("score", "severity"),
    [
        ("10.0", Severity.CRITICAL),
        ("9.0", Severity.CRITICAL),
        ("8.9", Severity.HIGH),
        ("7", Severity.HIGH),
        ("6.9", Severity.MEDIUM),
        ("4.0", Severity.MEDIUM),
        ("3.9", Severity.LOW),
        ("0.1", Severity.LOW),
        ("0", Severity.UNKNOWN),
        ("0.0", Severity.UNKNOWN),
        ("10.1", Severity.UNKNOWN),
        ("-1", Severity.UNKNOWN),
        ("", Severity.UNKNOWN),
        (".", Severity.UNKNOWN),
        ("nan", Severity.UNKNOWN),
        ("1e1", Severity.UNKNOWN),
        ("٩.٩", Severity.UNKNOWN),
        ("9" * 400, Severity.UNKNOWN),
    ],
)
def test_score_is_mapped_to_a_severity(score: str, severity: Severity) -> None:
    """The ranges are those of CVSS 3.1; anything else than a score is unknown."""
    (each,) = group({"ids": ["GO-1"], "max_severity": score}).vulnerabilities
    assert each.severity == severity


def test_word_of_the_advisory_is_used_without_a_score() -> None:
    """GitHub's advisories have words of their own, such as MODERATE."""
    record = {"id": "GHSA-1", "database_specific": {"severity": "MODERATE"}}
    (each,) = group({"ids": ["GHSA-1"], "max_severity": ""}, 1, record).vulnerabilities
    assert each.severity == Severity.MEDIUM


def test_result_without_packages_is_not_understood() -> None:
    """osv-scanner names the packages of each source, even if it found none: without them nothing is clean."""
    entries: list[dict[str, Any]] = [{}, {"Packages ": []}, {"packages": {}}]
    for entry in entries:
        document = {"results": [{"source": {"path": "/srv/go.mod", "type": "lockfile"}, **entry}]}
        assert parse(ToolRun("osv-scanner", 0, json.dumps(document))).status is Status.FAILED


def test_records_without_a_group_are_kept() -> None:
    """Each group counts, and each record that is in none."""
    audit = group(
        {"ids": ["GO-1"], "aliases": ["CVE-2024-0001"]}, 1, {"id": "GO-1"}, {"id": "GO-2", "aliases": ["CVE-2024-0002"]}
    )
    assert [(each.id, each.aliases) for each in audit.vulnerabilities] == [
        ("CVE-2024-0001", ("GO-1",)),
        ("CVE-2024-0002", ("GO-2",)),
    ]


@pytest.mark.parametrize(
    ("analysis", "is_counted"),
    [
        ({}, True),
        ({"GO-1": {"called": True}}, True),
        ({"GO-1": {"called": False}}, False),
        ({"GO-1": {"called": False}, "GO-2": {"called": True}}, True),
        ({"GO-1": {"called": True, "unimportant": True}}, False),
    ],
)
def test_groups_that_osv_scanner_does_not_count_are_ignored(analysis: dict[str, Any], *, is_counted: bool) -> None:
    """osv-scanner lists code that is never called and unimportant findings, but exits with 0 for them."""
    audit = group({"ids": ["GO-1", "GO-2"], "experimental_analysis": analysis}, 1 if is_counted else 0)
    assert audit.status == (Status.VULNERABLE if is_counted else Status.CLEAN)


@pytest.mark.parametrize(
    ("exit_status", "status"),
    [
        (0, Status.FAILED),
        (1, Status.VULNERABLE),
        (126, Status.VULNERABLE),
        (127, Status.FAILED),
        (128, Status.FAILED),
        (129, Status.FAILED),
        (255, Status.FAILED),
    ],
)
def test_osv_scanner_with_vulnerabilities_exits_with_1_to_126(exit_status: int, status: Status) -> None:
    """Any other exit status is failed, and the vulnerabilities are kept."""
    audit = group({"ids": ["GO-1"]}, exit_status)
    assert (audit.status, len(audit.vulnerabilities)) == (status, 1)


def test_vulnerabilities_in_a_dpkg_status_file_are_trusted() -> None:
    """Only a dpkg status file without vulnerabilities is inconclusive."""
    audit = group({"ids": ["DEBIAN-CVE-2024-0001"], "aliases": ["CVE-2024-0001"]}, 1, path="/mnt/var/lib/dpkg/status")
    assert (audit.status, audit.reason) == (Status.VULNERABLE, "")


def test_inconclusive_dpkg_status_file_keeps_other_vulnerabilities() -> None:
    """The result is vulnerable, with a reason."""
    document = {"results": [{"source": {"path": "go.mod"}, "packages": [
        {"package": {"name": "p", "version": "1"}, "groups": [{"ids": ["GO-1"]}]}]}]}  # fmt: skip
    run = ToolRun("osv-scanner", 1, json.dumps(document), "Scanned /var/lib/dpkg/status file and found 9 packages\n")
    audit = parse(run)
    assert audit.status == Status.VULNERABLE
    assert "#1293" in audit.reason


@pytest.mark.parametrize("ecosystem", ["Debian:trixie", "Debian:sid", "Alpine:edge", "Ubuntu:noble"])
def test_osv_scanner_without_data_for_the_release_is_unsupported(ecosystem: str) -> None:
    """OSV has the packages of a system by release number."""
    audit = parse(osv_scanner(ecosystem))
    assert audit.status == Status.UNSUPPORTED
    assert f'"{ecosystem}"' in audit.reason


@pytest.mark.parametrize(
    "ecosystem", ["Debian", "Debian:12", "Alpine:v3.20", "Ubuntu:Pro:16.04:LTS", "Rocky Linux:9", "Wolfi", "SUSE:x"]
)
def test_osv_scanner_with_data_for_the_release_is_clean(ecosystem: str) -> None:
    """This includes systems without releases, and an ecosystem that means all releases."""
    assert parse(osv_scanner(ecosystem)).status == Status.CLEAN
