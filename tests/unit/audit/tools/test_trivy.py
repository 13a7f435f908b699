"""trivy: whether it looked at the packages of the system, and has data for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from portspec.audit.model import Scope, Status, System
from portspec.audit.tools import parse
from tests.unit.audit.tools.outputs import DEBIAN, KIN_OF_RHEL, trivy


@pytest.mark.parametrize(
    ("family", "release"),
    [
        ("debian", "trixie/sid"),  # testing, unstable, Linux Mint, Pop!_OS, elementary: /etc/debian_version
        ("debian", "kali-rolling"),
        ("debian", "daedalus/ceres"),
        ("debian", "5"),
        ("debian", ""),
        ("ubuntu", "21.3"),
        ("coreos", "40.20240101.3.0"),  # has a driver that knows nothing
        ("none", ""),
    ],
)
def test_trivy_without_data_for_the_release_is_unsupported(family: str, release: str) -> None:
    """Trivy lists the packages, finds nothing, and does not say that it has no data."""
    audit = parse(trivy(family, release))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == (
        f'trivy lists the packages of "{family} {release}'.rstrip() + '" but has no data for this system'
    )


@pytest.mark.parametrize(
    ("family", "release", "system"),
    [
        ("alma", "9.4", System("Linux", "almalinux", KIN_OF_RHEL, "9.4")),
        ("alpine", "3.20.1", System("Linux", "alpine", (), "3.20.1")),
        ("amazon", "2 (Karoo)", System("Linux", "amzn", ("centos", "rhel", "fedora"), "2")),
        ("amazon", "2023.6.20241010 (Amazon Linux)", System("Linux", "amzn", ("fedora",), "2023")),
        ("amazon", "AMI release 2018.03", System("Linux", "amzn", ("rhel", "fedora"), "2018.03")),
        ("azurelinux", "3.0", System("Linux", "azurelinux", (), "3.0")),
        ("bottlerocket", "1.20.0", System("Linux", "bottlerocket", (), "1.20.0")),
        ("cbl-mariner", "2.0.20240101", System("Linux", "mariner", (), "2.0")),
        ("centos", "7.9.2009", System("Linux", "centos", ("rhel", "fedora"), "7")),
        ("chainguard", "20230214", System("Linux", "chainguard", (), "20230214")),
        ("debian", "12.5", DEBIAN),
        ("debian", "12.5", System("Linux", "raspbian", ("debian",), "12")),
        ("debian", "13.0", None),
        ("echo", "1", System("Linux", "echo", ("debian",), "1")),
        ("minimos", "20250101", System("Linux", "minimos", (), "20250101")),
        ("opensuse.leap", "15.5", System("Linux", "opensuse-leap", ("suse", "opensuse"), "15.5")),
        ("opensuse-tumbleweed", "20240607", System("Linux", "opensuse-tumbleweed", ("opensuse", "suse"), "20240607")),
        ("oracle", "9.4", System("Linux", "ol", ("fedora",), "9.4")),
        ("photon", "5.0", System("Linux", "photon", (), "5.0")),
        ("redhat", "9.4", System("Linux", "rhel", ("fedora",), "9.4")),
        ("redhat", "8.9", System("Linux", "cloudlinux", KIN_OF_RHEL, "8.9")),
        ("rocky", "9.4", System("Linux", "rocky", KIN_OF_RHEL, "9.4")),
        ("suse linux enterprise server", "15.5", System("Linux", "sles", ("suse",), "15.5")),
        ("sles", "15.5", System("Linux", "sles_sap", ("suse",), "15.5")),
        ("slem", "6.0", System("Linux", "sl-micro", ("suse",), "6.0")),
        ("ubuntu", "22.04-ESM", System("Linux", "ubuntu", ("debian",), "22.04")),
        ("ubuntu", "24.10", System("Linux", "ubuntu", ("debian",), "24.10")),
        ("wolfi", "20230201", System("Linux", "wolfi", (), "20230201")),
    ],
)
def test_trivy_on_each_system_with_data_is_clean(family: str, release: str, system: System | None) -> None:
    """Trivy may spell the system differently than os-release(5)."""
    audit = parse(trivy(family, release, system))
    assert (audit.status, audit.reason) == (Status.CLEAN, "")


@pytest.mark.parametrize(
    ("classes", "status"),
    [
        (["secret"], Status.FAILED),
        (["config", "license"], Status.FAILED),
        ([], Status.FAILED),
        (["os-pkgs"], Status.CLEAN),
    ],
)
def test_trivy_must_have_looked_at_packages(classes: list[str], status: Status) -> None:
    """Results of other classes say nothing about packages."""
    run = trivy(Metadata={}, Results=[{"Target": "x", "Class": each} for each in classes])
    assert parse(run).status == status


@pytest.mark.parametrize("system", [{}, {"OS": {"Family": "fedora", "Name": "41"}}])
def test_trivy_that_looked_at_language_packages_only_is_unsupported(system: dict[str, Any]) -> None:
    """Trivy omits systems that it has no data for; vulnerabilities of language packages are kept."""
    found = {"VulnerabilityID": "CVE-2024-1", "PkgName": "stdlib", "InstalledVersion": "1.2", "PkgPath": "usr/bin/x"}
    result = {"Target": "usr/bin/x", "Class": "lang-pkgs", "Vulnerabilities": [found]}
    audit = parse(trivy(Metadata=system, Results=[result]))
    assert audit.status == Status.UNSUPPORTED
    assert "did not look at the packages of" in audit.reason
    assert [(each.id, each.paths) for each in audit.vulnerabilities] == [("CVE-2024-1", ("usr/bin/x",))]
    assert audit.scopes == (Scope.LANGUAGES,)


@pytest.mark.parametrize("option", [("--pkg-types", "library"), ("--vuln-type=library",), ("--pkg-types=library",)])
def test_trivy_with_its_option_for_applications_is_clean(option: tuple[str, ...]) -> None:
    """With this option the packages of the system are not expected."""
    run = trivy(Metadata={}, Results=[{"Target": "x", "Class": "lang-pkgs"}])
    assert parse(replace(run, command=("trivy", "fs", *option, "/srv/app"))).status == Status.CLEAN
    assert parse(replace(run, command=("trivy", "fs", "/srv/app"))).status == Status.UNSUPPORTED


def test_trivy_on_an_unsupported_release_is_failed() -> None:
    """There are no new advisories for it, so "nothing found" proves nothing."""
    system = {"OS": {"Family": "debian", "Name": "8.11", "EOSL": True}}
    audit = parse(trivy(Metadata=system))
    assert audit.status == Status.FAILED
    assert audit.reason == "trivy gets no new vulnerabilities of debian 8.11, which is out of support"


def test_trivy_that_lists_packages_of_another_system_is_unsupported() -> None:
    """The listed packages must belong to the system that trivy names."""
    result = {"Target": "x", "Class": "os-pkgs", "Type": "alpine"}
    audit = parse(trivy("debian", "12.5", DEBIAN, Results=[result]))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == 'trivy names the system "debian" but lists packages of "alpine"'
    assert parse(trivy("debian", "12.5", DEBIAN, Metadata={})).status == Status.UNSUPPORTED


def test_trivy_that_found_no_packages_is_failed() -> None:
    """Trivy names the system but lists nothing if the package database is missing or unreadable."""
    warning = "2026-11-28T03:00:00Z\tWARN\tNo OS package is detected. Make sure you haven't deleted any files\n"
    assert parse(replace(trivy(), errors=warning)).status == Status.FAILED
    assert parse(trivy()).status == Status.CLEAN


@pytest.mark.parametrize("option", ["--scanners secret", "--scanners=misconfig,license", "--security-checks config"])
def test_trivy_with_other_scanners_is_unsupported(option: str) -> None:
    """With --list-all-pkgs it still lists the packages."""
    command = ("trivy", "rootfs", "--list-all-pkgs", *option.split(), "/")
    audit = parse(replace(trivy(), command=command))
    assert audit.status == Status.UNSUPPORTED
    assert "not for vulnerabilities" in audit.reason
