from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from portspec.audit.model import Audit, Scope, Severity, Status, System, ToolRun
from portspec.audit.tools import parse

DAY = 86400.0
BUILT = "2026-03-01T00:00:00Z"
BUILT_AT = 1772323200.0


def osv(group: dict[str, Any], exit_status: int = 1, *records: dict[str, Any], path: str = "/srv/go.mod") -> Audit:
    """Read an output of osv-scanner with one package that has one group."""
    package = {"name": "p", "version": "1", "ecosystem": "Go"}
    packages = [{"package": package, "vulnerabilities": list(records), "groups": [group]}]
    document = {"results": [{"source": {"path": path, "type": "os"}, "packages": packages}]}
    return parse(ToolRun("osv-scanner", exit_status, json.dumps(document)))


def grype(descriptor: dict[str, Any], ended_at: float = 0.0) -> Audit:
    """Read an output of grype without matches."""
    distro = {"name": "debian", "version": "12"}
    document = {"matches": [], "distro": distro, "descriptor": {"name": "grype", **descriptor}}
    return parse(ToolRun("grype", 0, json.dumps(document), ended_at=ended_at))


def trivy(document: dict[str, Any], exit_status: int = 0) -> Audit:
    """Read an output of trivy."""
    return parse(ToolRun("trivy", exit_status, json.dumps({"SchemaVersion": 2, **document})))


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
def test_a_score_is_a_severity(score: str, severity: Severity) -> None:
    """The bands are those of CVSS 3.1; what is no score says nothing."""
    (each,) = osv({"ids": ["GO-1"], "max_severity": score}).vulnerabilities
    assert each.severity == severity


def test_without_a_score_the_word_of_the_advisory_counts() -> None:
    """GitHub's advisories have one, also in words of their own."""
    record = {"id": "GHSA-1", "database_specific": {"severity": "MODERATE"}}
    (each,) = osv({"ids": ["GHSA-1"], "max_severity": ""}, 1, record).vulnerabilities
    assert each.severity == Severity.MEDIUM


def test_records_that_are_in_no_group_are_not_lost() -> None:
    """Groups are counted, and what they leave out besides."""
    audit = osv(
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
def test_groups_that_osv_scanner_does_not_count_are_no_vulnerabilities(
    analysis: dict[str, Any], *, is_counted: bool
) -> None:
    """It lists what is never called or unimportant, yet ends with 0 for them."""
    audit = osv({"ids": ["GO-1", "GO-2"], "experimental_analysis": analysis}, 1 if is_counted else 0)
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
def test_osv_scanner_with_vulnerabilities_ends_with_1_to_126(exit_status: int, status: Status) -> None:
    """All else contradicts them, and they are kept."""
    audit = osv({"ids": ["GO-1"]}, exit_status)
    assert (audit.status, len(audit.vulnerabilities)) == (status, 1)


def test_vulnerabilities_in_a_dpkg_status_file_show_that_it_was_understood() -> None:
    """Only silence about it is suspicious."""
    audit = osv({"ids": ["DEBIAN-CVE-2024-0001"], "aliases": ["CVE-2024-0001"]}, 1, path="/mnt/var/lib/dpkg/status")
    assert (audit.status, audit.reason) == (Status.VULNERABLE, "")


def test_silence_about_a_dpkg_status_file_leaves_other_findings() -> None:
    """They are vulnerable, and the reason tells of the silence."""
    document = {"results": [{"source": {"path": "go.mod"}, "packages": [
        {"package": {"name": "p", "version": "1"}, "groups": [{"ids": ["GO-1"]}]}]}]}  # fmt: skip
    run = ToolRun("osv-scanner", 1, json.dumps(document), "Scanned /var/lib/dpkg/status file and found 9 packages\n")
    audit = parse(run)
    assert audit.status == Status.VULNERABLE
    assert "#1293" in audit.reason


@pytest.mark.parametrize(
    "db",
    [{"status": {"built": BUILT, "valid": True}}, {"built": BUILT, "error": None}, {"dataAge": BUILT, "error": {}}],
)
def test_grype_tells_when_its_database_was_built(db: dict[str, Any]) -> None:
    """It does so in a different place with every schema; 14 days after, the database is stale."""
    fresh = grype({"db": db}, BUILT_AT + 14 * DAY)
    assert (fresh.status, fresh.database_at) == (Status.CLEAN, BUILT_AT)
    stale = grype({"db": db}, BUILT_AT + 14 * DAY + 1)
    assert (stale.status, stale.database_at) == (Status.STALE_DATABASE, BUILT_AT)
    assert stale.reason == "the database dates from 2026-03-01 and is 14 days old; update it"


@pytest.mark.parametrize("ended_at", [0.0, -1e300, float("nan"), float("inf")])
def test_an_end_that_is_no_time_makes_no_database_stale(ended_at: float) -> None:
    """The age is only known where both times are."""
    assert grype({"db": {"built": BUILT}}, ended_at).status == Status.CLEAN


def test_a_database_that_grype_calls_invalid_is_stale() -> None:
    """The reason has grype's own."""
    audit = grype({"db": {"status": {"built": BUILT, "valid": False, "error": "checksum mismatch"}}})
    assert audit.status == Status.STALE_DATABASE
    assert audit.reason == 'grype reports that its database is not valid: "checksum mismatch"'


@pytest.mark.parametrize("built", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "", "yesterday", "9999-99-99"])
def test_a_time_that_stands_for_none_is_none(built: str) -> None:
    """Go's zero time and what is no time tell no age."""
    audit = grype({"db": {"built": built}}, 1e300)
    assert (audit.status, audit.database_at) == (Status.CLEAN, None)


@pytest.mark.parametrize("classes", [["secret"], ["config", "license"], []])
def test_trivy_that_looked_at_no_packages_failed(classes: list[str]) -> None:
    """Results of other classes say nothing of packages."""
    audit = trivy({"Results": [{"Target": "x", "Class": each} for each in classes]})
    assert audit.status == Status.FAILED


def test_trivy_that_looked_at_packages_of_the_system_is_clean() -> None:
    """The list it looked at is there, without vulnerabilities."""
    assert trivy({"Results": [{"Target": "x", "Class": "os-pkgs"}]}).status == Status.CLEAN


@pytest.mark.parametrize("system", [{}, {"OS": {"Family": "fedora", "Name": "41"}}])
def test_trivy_that_looked_at_language_packages_alone_is_unsupported(system: dict[str, Any]) -> None:
    """What it has no data for it leaves out; what it found in language packages is kept."""
    found = {"VulnerabilityID": "CVE-2024-1", "PkgName": "stdlib", "InstalledVersion": "1.2", "PkgPath": "usr/bin/x"}
    result = {"Target": "usr/bin/x", "Class": "lang-pkgs", "Vulnerabilities": [found]}
    audit = trivy({"Metadata": system, "Results": [result]})
    assert audit.status == Status.UNSUPPORTED
    assert "did not look at the packages of" in audit.reason
    assert [(each.id, each.paths) for each in audit.vulnerabilities] == [("CVE-2024-1", ("usr/bin/x",))]
    assert audit.scopes == (Scope.LANGUAGES,)


@pytest.mark.parametrize("option", [("--pkg-types", "library"), ("--vuln-type=library",), ("--pkg-types=library",)])
def test_trivy_that_was_to_look_at_applications_alone_is_clean(option: tuple[str, ...]) -> None:
    """Whoever runs it with its option for that means no packages of the system."""
    document = json.dumps({"SchemaVersion": 2, "Results": [{"Target": "x", "Class": "lang-pkgs"}]})
    command = ("trivy", "fs", *option, "/srv/app")
    assert parse(ToolRun("trivy", 0, document, command=command)).status == Status.CLEAN
    assert parse(ToolRun("trivy", 0, document, command=("trivy", "fs", "/srv/app"))).status == Status.UNSUPPORTED


@pytest.mark.parametrize("tool", ["trivy", "grype", "pip-audit", "osv-scanner"])
def test_audit_of_applications_is_clean_where_that_is_meant(tool: str) -> None:
    """`scope = applications` of the agent says so; without it the packages of the system are to be looked at."""
    outputs = {
        "trivy": {"SchemaVersion": 2, "Results": [{"Target": "x", "Class": "lang-pkgs"}]},
        "grype": {"matches": [], "distro": {"name": ""}, "descriptor": {"name": "grype"}},
        "pip-audit": {"dependencies": [{"name": "x", "version": "1", "vulns": []}]},
        "osv-scanner": {"results": []},
    }
    arch = System("Linux", "arch")
    run = ToolRun(tool, 0, json.dumps(outputs[tool]), system=arch)
    assert parse(replace(run, is_of_applications=True)).status == Status.CLEAN
    audit = parse(run)
    assert (audit.status, audit.without) == (Status.UNSUPPORTED, Status.UNSUPPORTED)
    assert audit.reason


@pytest.mark.parametrize("tool", ["trivy", "grype"])
def test_audit_of_an_image_is_not_that_of_its_host(tool: str) -> None:
    """The system of the host is known, and it is not what was looked at."""
    outputs = {
        "trivy": {
            "SchemaVersion": 2,
            "ArtifactName": "shop:1",
            "ArtifactType": "container_image",
            "Metadata": {"OS": {"Family": "debian", "Name": "12"}},
            "Results": [{"Target": "shop:1 (debian 12)", "Class": "os-pkgs"}],
        },
        "grype": {
            "matches": [],
            "source": {"type": "image", "target": {}},
            "distro": {"name": "debian", "version": "12"},
            "descriptor": {"name": "grype"},
        },
    }
    run = ToolRun(tool, 0, json.dumps(outputs[tool]), system=System("Linux", "debian", (), "12"))
    audit = parse(run)
    assert audit.status == Status.UNSUPPORTED
    assert "not at this host" in audit.reason
    assert parse(replace(run, is_of_applications=True)).status == Status.CLEAN


@pytest.mark.parametrize("name", ["", "fedora", "archlinux", "gentoo", "opensuse-leap", "nixos"])
def test_grype_without_data_for_the_system_is_unsupported(name: str) -> None:
    """It names no system, or one that none of its sources is about."""
    document = {"matches": [], "distro": {"name": name, "version": "1"}, "descriptor": {"name": "grype"}}
    assert parse(ToolRun("grype", 0, json.dumps(document))).status == Status.UNSUPPORTED


@pytest.mark.parametrize("name", ["debian", "redhat", "rockylinux", "rocky-linux", "amazonlinux", "alpine", "sles"])
def test_grype_with_data_for_the_system_is_clean(name: str) -> None:
    """However the system's name is spelled."""
    document = {"matches": [], "distro": {"name": name, "version": "9"}, "descriptor": {"name": "grype"}}
    audit = parse(ToolRun("grype", 0, json.dumps(document)))
    assert (audit.status, audit.scopes) == (Status.CLEAN, (Scope.SYSTEM, Scope.LANGUAGES))


@pytest.mark.parametrize("kind", ["distro-eol", "distro-unknown", "distro-disabled"])
def test_grype_that_warns_of_the_system_is_unsupported(kind: str) -> None:
    """What it says of a package's distribution counts whatever it is."""
    alerts = [{"package": {"name": "bash"}, "alerts": [{"type": kind, "message": "too old"}]}]
    document = {"matches": [], "alertsByPackage": alerts, "distro": {"name": "debian", "version": "9"}}
    audit = parse(ToolRun("grype", 0, json.dumps({**document, "descriptor": {"name": "grype"}})))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == f'grype has no data for packages of "debian 9" ({kind}: "too old")'


def test_grype_that_failed_on_what_it_found_is_vulnerable() -> None:
    """--fail-on ends with 2, in older versions with 1; without a finding 1 is an error."""
    match = {"vulnerability": {"id": "CVE-2024-1"}, "artifact": {"name": "bash", "version": "5"}}
    document = {"matches": [match], "distro": {"name": "debian", "version": "12"}, "descriptor": {"name": "grype"}}
    for status in (0, 1, 2):
        assert parse(ToolRun("grype", status, json.dumps(document))).status == Status.VULNERABLE
    assert parse(ToolRun("grype", 1, json.dumps({**document, "matches": []}))).status == Status.FAILED


def test_trivy_on_a_distribution_past_its_support_is_not_clean() -> None:
    """There are no new advisories for it, so that nothing found means nothing known."""
    system = {"OS": {"Family": "debian", "Name": "8.11", "EOSL": True}}
    audit = trivy({"Metadata": system, "Results": [{"Target": "x", "Class": "os-pkgs"}]})
    assert audit.status == Status.FAILED
    assert audit.reason == "trivy gets no new vulnerabilities of debian 8.11, which is out of support"


def pip_audit(aliases: list[str]) -> Audit:
    """Read an output of pip-audit with one vulnerability."""
    vulnerability = {"id": "PYSEC-1", "fix_versions": [], "aliases": aliases}
    document = {"dependencies": [{"name": "x", "version": "1", "vulns": [vulnerability]}]}
    return parse(ToolRun("pip-audit", 1, json.dumps(document)))


def test_pip_audit_prefers_the_cve() -> None:
    """The id of PyPI's database and that of GitHub are aliases."""
    (each,) = pip_audit(["GHSA-1", "CVE-2024-0009"]).vulnerabilities
    assert (each.id, each.aliases, each.advisories) == ("CVE-2024-0009", ("GHSA-1", "PYSEC-1"), ())


def test_each_cve_of_an_advisory_is_a_vulnerability() -> None:
    """They are other flaws, not other names: what tells of several is an advisory, which stands beside each."""
    found = pip_audit(["GHSA-1", "CVE-2024-0009", "CVE-2024-0001"]).vulnerabilities
    assert [(each.id, each.aliases, each.advisories) for each in found] == [
        ("CVE-2024-0001", (), ("GHSA-1", "PYSEC-1")),
        ("CVE-2024-0009", (), ("GHSA-1", "PYSEC-1")),
    ]
