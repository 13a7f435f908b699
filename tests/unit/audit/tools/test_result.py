"""The ids, advisories and paths of a vulnerability."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Audit, Severity, Status, ToolRun, Vulnerability, count_by_severity
from portspec.audit.tools import parse

CVES: Final = ("CVE-2024-0001", "CVE-2024-0002")


def trivy(*found: dict[str, Any], target: str = "/ (debian 12.5)", kind: str = "os-pkgs") -> Audit:
    """Read an output of trivy with one result."""
    document = {
        "SchemaVersion": 2,
        "Metadata": {"OS": {"Family": "debian", "Name": "12.5"}},
        "Results": [{"Target": target, "Class": kind, "Vulnerabilities": list(found)}],
    }
    return parse(ToolRun("trivy", 0, json.dumps(document), is_of_applications=True))


def grype(ids: list[str], *, advisories: tuple[str, ...] = (), **artifact: Any) -> tuple[Vulnerability, ...]:
    """Read an output of grype with one match of the first id; the other ids are related vulnerabilities."""
    match = {
        "vulnerability": {"id": ids[0], "severity": "High", "advisories": [{"id": each} for each in advisories]},
        "relatedVulnerabilities": [{"id": each} for each in ids[1:]],
        "artifact": {"name": "x", "version": "1", **artifact},
    }
    distro = {"name": "amazonlinux", "version": "2"}
    document = {"matches": [match], "distro": distro, "descriptor": {"name": "grype"}}
    return parse(ToolRun("grype", 0, json.dumps(document))).vulnerabilities


def osv_scanner(package: dict[str, Any], records: list[dict[str, Any]], ids: list[str]) -> Audit:
    """Read an output of osv-scanner with one group of records."""
    packages = [{"package": package, "vulnerabilities": records, "groups": [{"ids": ids, "aliases": ids}]}]
    document = {"results": [{"source": {"path": "/srv/app", "type": "git"}, "packages": packages}]}
    return parse(ToolRun("osv-scanner", 1, json.dumps(document), is_of_applications=True))


@pytest.mark.parametrize("name", ["ALAS2-2024-2500", "ELSA-2024-1234", "RHSA-2024:1234", "GHSA-aaaa-bbbb-cccc"])
def test_each_cve_of_an_advisory_is_a_vulnerability(name: str) -> None:
    """An exception for one CVE leaves the other, an exception for the advisory accepts both."""
    found = grype([name, *CVES])
    assert [(each.id, each.aliases, each.advisories) for each in found] == [(cve, (), (name,)) for cve in CVES]
    assert all(name.lower() in each.names for each in found)
    assert CVES[1].lower() not in found[0].names
    assert count_by_severity(found)[Severity.HIGH] == 2


@pytest.mark.parametrize("name", ["ALAS2-2024-2500", "GHSA-aaaa-bbbb-cccc", "DSA-5678-1", "TEMP-0000000-ABCDEF"])
def test_id_is_kept_if_there_is_no_cve(name: str) -> None:
    """The id is spelled as the tool prints it."""
    (each,) = grype([name])
    assert (each.id, each.aliases, each.advisories) == (name, (), ())


def test_cve_of_two_advisories_is_one_vulnerability() -> None:
    """It has the ids of both advisories."""
    found = trivy(
        {"VulnerabilityID": CVES[0], "PkgName": "x", "VendorIDs": ["DSA-1-1"], "Severity": "LOW"},
        {"VulnerabilityID": CVES[0], "PkgName": "x", "VendorIDs": ["DLA-2-1"], "Severity": "HIGH"},
    ).vulnerabilities
    assert [(each.id, each.severity, each.advisories) for each in found] == [
        (CVES[0], Severity.HIGH, ("DLA-2-1", "DSA-1-1"))
    ]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_each_cve_of_a_suse_advisory_is_a_vulnerability(count: int) -> None:
    """Trivy has the CVEs in the references; without any, the advisory is the vulnerability."""
    references = [f"https://www.suse.com/security/cve/{cve}/" for cve in CVES[:count]]
    others = [
        "https://bugzilla.suse.com/1",
        "https://lists.suse.com/x",
        "https://evil.example/security/cve/CVE-2024-9999/",
    ]
    name = "SUSE-SU-2024:0123-1"
    found = trivy({"VulnerabilityID": name, "PkgName": "x", "References": [*others, *references]}).vulnerabilities
    assert [each.id for each in found] == list(CVES[:count] or [name])
    assert all(each.advisories == ((name,) if count else ()) and name.lower() in each.names for each in found)


def test_case_of_a_cve_is_ignored() -> None:
    """Some databases spell CVEs in lower case; both count as one, in upper case."""
    found = trivy(
        {"VulnerabilityID": "cve-2024-0001", "PkgName": "a", "Severity": "LOW"},
        {"VulnerabilityID": "CVE-2024-0001", "PkgName": "b", "Severity": "LOW"},
    ).vulnerabilities
    assert [each.id for each in found] == [CVES[0], CVES[0]]
    assert count_by_severity(found)[Severity.LOW] == 1
    assert found[0].link.endswith("CVE-2024-0001")


@pytest.mark.parametrize(
    "record",
    [
        {"id": "DEBIAN-CVE-2024-0001"},
        {"id": "DEBIAN-CVE-2024-0001", "upstream": ["CVE-2024-0001"]},
        {"id": "DEBIAN-CVE-2024-0001", "aliases": ["CVE-2024-0001"]},
    ],
)
def test_record_of_a_distribution_has_the_id_of_its_cve(record: dict[str, Any]) -> None:
    """OSV used to have it in `aliases`, and now has it in `upstream`."""
    package = {"name": "bash", "version": "5", "ecosystem": "Debian:12"}
    (each,) = osv_scanner(package, [record], [record["id"]]).vulnerabilities
    assert (each.id, each.aliases) == ("CVE-2024-0001", ("DEBIAN-CVE-2024-0001",))


def test_each_cve_of_an_osv_advisory_is_a_vulnerability() -> None:
    """A DSA has its CVEs in `upstream`."""
    package = {"name": "bash", "version": "5", "ecosystem": "Debian:12"}
    found = osv_scanner(package, [{"id": "DSA-5678-1", "upstream": list(CVES)}], ["DSA-5678-1"]).vulnerabilities
    assert [(each.id, each.advisories) for each in found] == [(cve, ("DSA-5678-1",)) for cve in CVES]


def test_repository_without_a_name_has_the_name_of_its_directory() -> None:
    """osv-scanner identifies it by its commit only."""
    package = {"name": "", "version": "", "ecosystem": "GIT", "commit": "9a6bd55c"}
    audit = osv_scanner(package, [{"id": "OSV-2024-1"}], ["OSV-2024-1"])
    assert audit.status == Status.VULNERABLE
    assert [(each.package, each.version, each.id) for each in audit.vulnerabilities] == [
        ("/srv/app", "9a6bd55c", "OSV-2024-1")
    ]


@pytest.mark.parametrize("empty", ["VulnerabilityID", "PkgName"])
def test_vulnerability_without_a_name_is_failed(empty: str) -> None:
    """Trivy exits with 0 in any case, so ignoring the vulnerability would make the result clean."""
    audit = trivy({"VulnerabilityID": CVES[0], "PkgName": "x", empty: ""})
    assert audit.status == Status.FAILED
    assert f"{empty} is the string" in audit.reason


def test_all_paths_of_a_library_are_kept() -> None:
    """A path within an archive includes the path of the archive."""
    metadata = {"virtualPath": "/srv/app.war:WEB-INF/lib/x.jar"}
    locations = [{"path": "/srv/app.war"}, {"path": "/opt/x.jar"}]
    (each,) = grype([CVES[0]], type="java-archive", locations=locations, metadata=metadata)
    assert each.paths == ("/srv/app.war:WEB-INF/lib/x.jar", "/opt/x.jar")


def test_number_of_paths_is_limited() -> None:
    """A library in thousands of programs has the first twenty paths."""
    (each,) = grype([CVES[0]], type="npm", locations=[{"path": f"/srv/{number}"} for number in range(5000)])
    assert each.paths == tuple(f"/srv/{number}" for number in range(20))


@pytest.mark.parametrize(
    ("target", "path", "paths"),
    [
        ("usr/bin/x", "", ("usr/bin/x",)),
        ("Node.js", "srv/node_modules/x/package.json", ("srv/node_modules/x/package.json",)),
        ("Node.js", "", ()),  # the sum of all such packages, which is no file
        ("Java", "", ()),
    ],
)
def test_path_of_a_library_is_that_of_its_package_or_target(target: str, path: str, paths: tuple[str, ...]) -> None:
    """The path of the package comes before the target, which is used if it is a file."""
    found = {"VulnerabilityID": CVES[0], "PkgName": "x", "PkgPath": path}
    (each,) = trivy(found, target=target, kind="lang-pkgs").vulnerabilities
    assert each.paths == paths


@given(st.lists(st.text(st.characters(codec=None), max_size=600), max_size=4))
def test_any_path_is_a_single_line(paths: list[str]) -> None:
    """Control characters and lone surrogates are escaped, and long paths are cut."""
    (each,) = grype([CVES[0]], type="npm", locations=[{"path": path} for path in paths])
    assert len(each.paths) <= len(paths)
    for path in each.paths:
        assert path.isprintable()
        assert 0 < len(path) <= 500
        assert path.encode().decode() == path
