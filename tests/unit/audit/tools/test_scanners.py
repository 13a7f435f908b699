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
def test_score_is_mapped_to_a_severity(score: str, severity: Severity) -> None:
    """The ranges are those of CVSS 3.1; anything else than a score is unknown."""
    (each,) = osv({"ids": ["GO-1"], "max_severity": score}).vulnerabilities
    assert each.severity == severity


def test_word_of_the_advisory_is_used_without_a_score() -> None:
    """GitHub's advisories have words of their own, such as MODERATE."""
    record = {"id": "GHSA-1", "database_specific": {"severity": "MODERATE"}}
    (each,) = osv({"ids": ["GHSA-1"], "max_severity": ""}, 1, record).vulnerabilities
    assert each.severity == Severity.MEDIUM


def test_records_without_a_group_are_kept() -> None:
    """Each group counts, and each record that is in none."""
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
def test_groups_that_osv_scanner_does_not_count_are_ignored(analysis: dict[str, Any], *, is_counted: bool) -> None:
    """osv-scanner lists code that is never called and unimportant findings, but exits with 0 for them."""
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
def test_osv_scanner_with_vulnerabilities_exits_with_1_to_126(exit_status: int, status: Status) -> None:
    """Any other exit status is failed, and the vulnerabilities are kept."""
    audit = osv({"ids": ["GO-1"]}, exit_status)
    assert (audit.status, len(audit.vulnerabilities)) == (status, 1)


def test_vulnerabilities_in_a_dpkg_status_file_are_trusted() -> None:
    """Only a dpkg status file without vulnerabilities is inconclusive."""
    audit = osv({"ids": ["DEBIAN-CVE-2024-0001"], "aliases": ["CVE-2024-0001"]}, 1, path="/mnt/var/lib/dpkg/status")
    assert (audit.status, audit.reason) == (Status.VULNERABLE, "")


def test_inconclusive_dpkg_status_file_keeps_other_vulnerabilities() -> None:
    """The result is vulnerable, with a reason."""
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
def test_grype_has_the_time_of_its_database(db: dict[str, Any]) -> None:
    """Each schema has it in another place; the database is stale after 14 days."""
    fresh = grype({"db": db}, BUILT_AT + 14 * DAY)
    assert (fresh.status, fresh.database_at) == (Status.CLEAN, BUILT_AT)
    stale = grype({"db": db}, BUILT_AT + 14 * DAY + 1)
    assert (stale.status, stale.database_at) == (Status.STALE_DATABASE, BUILT_AT)
    assert stale.reason == "the database dates from 2026-03-01 and is 14 days old; update it"


@pytest.mark.parametrize("ended_at", [0.0, -1e300, float("nan"), float("inf")])
def test_invalid_end_time_does_not_make_the_database_stale(ended_at: float) -> None:
    """The age is known only if both times are."""
    assert grype({"db": {"built": BUILT}}, ended_at).status == Status.CLEAN


def test_invalid_database_of_grype_is_stale() -> None:
    """The reason quotes grype."""
    audit = grype({"db": {"status": {"built": BUILT, "valid": False, "error": "checksum mismatch"}}})
    assert audit.status == Status.STALE_DATABASE
    assert audit.reason == 'grype reports that its database is not valid: "checksum mismatch"'


@pytest.mark.parametrize("built", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "", "yesterday", "9999-99-99"])
def test_placeholder_for_a_missing_time_is_ignored(built: str) -> None:
    """Go's zero time and anything that is not a time have no age."""
    audit = grype({"db": {"built": built}}, 1e300)
    assert (audit.status, audit.database_at) == (Status.CLEAN, None)


@pytest.mark.parametrize("classes", [["secret"], ["config", "license"], []])
def test_trivy_that_looked_at_no_packages_is_failed(classes: list[str]) -> None:
    """Results of other classes say nothing about packages."""
    audit = trivy({"Results": [{"Target": "x", "Class": each} for each in classes]})
    assert audit.status == Status.FAILED


def test_trivy_that_looked_at_packages_of_the_system_is_clean() -> None:
    """The result of the class os-pkgs is there, without vulnerabilities."""
    assert trivy({"Results": [{"Target": "x", "Class": "os-pkgs"}]}).status == Status.CLEAN


@pytest.mark.parametrize("system", [{}, {"OS": {"Family": "fedora", "Name": "41"}}])
def test_trivy_that_looked_at_language_packages_only_is_unsupported(system: dict[str, Any]) -> None:
    """Trivy omits systems that it has no data for; vulnerabilities of language packages are kept."""
    found = {"VulnerabilityID": "CVE-2024-1", "PkgName": "stdlib", "InstalledVersion": "1.2", "PkgPath": "usr/bin/x"}
    result = {"Target": "usr/bin/x", "Class": "lang-pkgs", "Vulnerabilities": [found]}
    audit = trivy({"Metadata": system, "Results": [result]})
    assert audit.status == Status.UNSUPPORTED
    assert "did not look at the packages of" in audit.reason
    assert [(each.id, each.paths) for each in audit.vulnerabilities] == [("CVE-2024-1", ("usr/bin/x",))]
    assert audit.scopes == (Scope.LANGUAGES,)


@pytest.mark.parametrize("option", [("--pkg-types", "library"), ("--vuln-type=library",), ("--pkg-types=library",)])
def test_trivy_with_its_option_for_applications_is_clean(option: tuple[str, ...]) -> None:
    """With this option the packages of the system are not expected."""
    document = json.dumps({"SchemaVersion": 2, "Results": [{"Target": "x", "Class": "lang-pkgs"}]})
    command = ("trivy", "fs", *option, "/srv/app")
    assert parse(ToolRun("trivy", 0, document, command=command)).status == Status.CLEAN
    assert parse(ToolRun("trivy", 0, document, command=("trivy", "fs", "/srv/app"))).status == Status.UNSUPPORTED


@pytest.mark.parametrize("tool", ["trivy", "grype", "pip-audit", "osv-scanner"])
def test_audit_of_applications_only_is_clean_with_the_setting_of_the_agent(tool: str) -> None:
    """Without `scope = applications` the packages of the system are expected."""
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
def test_scan_of_an_image_is_unsupported(tool: str) -> None:
    """The image is not the host, except if only applications are audited."""
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
    """Grype names no system, or one that no provider of its database covers."""
    document = {"matches": [], "distro": {"name": name, "version": "1"}, "descriptor": {"name": "grype"}}
    assert parse(ToolRun("grype", 0, json.dumps(document))).status == Status.UNSUPPORTED


@pytest.mark.parametrize("name", ["debian", "redhat", "rockylinux", "rocky-linux", "amazonlinux", "alpine", "sles"])
def test_grype_with_data_for_the_system_is_clean(name: str) -> None:
    """The name of the system may be spelled with or without hyphens."""
    document = {"matches": [], "distro": {"name": name, "version": "9"}, "descriptor": {"name": "grype"}}
    audit = parse(ToolRun("grype", 0, json.dumps(document)))
    assert (audit.status, audit.scopes) == (Status.CLEAN, (Scope.SYSTEM, Scope.LANGUAGES))


@pytest.mark.parametrize("kind", ["distro-eol", "distro-unknown", "distro-disabled"])
def test_grype_with_an_alert_about_the_system_is_unsupported(kind: str) -> None:
    """Every kind of alert about the distribution of a package counts."""
    alerts = [{"package": {"name": "bash"}, "alerts": [{"type": kind, "message": "too old"}]}]
    document = {"matches": [], "alertsByPackage": alerts, "distro": {"name": "debian", "version": "9"}}
    audit = parse(ToolRun("grype", 0, json.dumps({**document, "descriptor": {"name": "grype"}})))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == f'grype has no data for packages of "debian 9" ({kind}: "too old")'


def test_grype_with_fail_on_is_vulnerable() -> None:
    """--fail-on exits with 2, in older versions with 1; without a vulnerability 1 is an error."""
    match = {"vulnerability": {"id": "CVE-2024-1"}, "artifact": {"name": "bash", "version": "5"}}
    document = {"matches": [match], "distro": {"name": "debian", "version": "12"}, "descriptor": {"name": "grype"}}
    for status in (0, 1, 2):
        assert parse(ToolRun("grype", status, json.dumps(document))).status == Status.VULNERABLE
    assert parse(ToolRun("grype", 1, json.dumps({**document, "matches": []}))).status == Status.FAILED


def test_trivy_on_an_unsupported_release_is_failed() -> None:
    """There are no new advisories for it, so "nothing found" proves nothing."""
    system = {"OS": {"Family": "debian", "Name": "8.11", "EOSL": True}}
    audit = trivy({"Metadata": system, "Results": [{"Target": "x", "Class": "os-pkgs"}]})
    assert audit.status == Status.FAILED
    assert audit.reason == "trivy gets no new vulnerabilities of debian 8.11, which is out of support"


def pip_audit(aliases: list[str]) -> Audit:
    """Read an output of pip-audit with one vulnerability."""
    vulnerability = {"id": "PYSEC-1", "fix_versions": [], "aliases": aliases}
    document = {"dependencies": [{"name": "x", "version": "1", "vulns": [vulnerability]}]}
    return parse(ToolRun("pip-audit", 1, json.dumps(document)))


def test_cve_of_pip_audit_is_the_id() -> None:
    """The ids of PyPI's database and of GitHub are aliases."""
    (each,) = pip_audit(["GHSA-1", "CVE-2024-0009"]).vulnerabilities
    assert (each.id, each.aliases, each.advisories) == ("CVE-2024-0009", ("GHSA-1", "PYSEC-1"), ())


def test_each_cve_of_pip_audit_is_a_vulnerability() -> None:
    """The other ids are advisories about all of them."""
    found = pip_audit(["GHSA-1", "CVE-2024-0009", "CVE-2024-0001"]).vulnerabilities
    assert [(each.id, each.aliases, each.advisories) for each in found] == [
        ("CVE-2024-0001", (), ("GHSA-1", "PYSEC-1")),
        ("CVE-2024-0009", (), ("GHSA-1", "PYSEC-1")),
    ]
