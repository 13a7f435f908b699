"""A result is only clean if the tool looked at the packages of this host and has data for its release."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Audit, Status, System, ToolRun
from portspec.audit.tools import parse
from portspec.audit.tools.coverage import arguments_of, first_option_set, option_values, past_standard_support

DEBIAN: Final = System("Linux", "debian", (), "12")
KIN_OF_RHEL: Final = ("rhel", "centos", "fedora")
FREEBSD: Final = System("FreeBSD", "freebsd", (), "14.1-RELEASE")
TRIVY: Final = {
    "SchemaVersion": 2,
    "Metadata": {"OS": {"Family": "debian", "Name": "12.5"}},
    "Results": [{"Target": "/ (debian 12.5)", "Class": "os-pkgs", "Packages": [{"Name": "bash"}]}],
}
CLEAN: Final = {
    "trivy": ToolRun("trivy", 0, json.dumps(TRIVY), system=System("Linux", "debian", (), "12")),
    "debsecan": ToolRun("debsecan", 0, "# portspec: debsecan ended with 0\n", system=System("Linux", "debian")),
    "pkg": ToolRun("pkg-audit", 0, "0 problem(s) in 0 installed package(s) found.\n", system=FREEBSD),
    "arch-audit": ToolRun("arch-audit", 0, "[]", system=System("Linux", "arch")),
    "pkg_admin": ToolRun(
        "pkg-admin",
        0,
        "# portspec: pkg_info\nx-1 y\n# portspec: pkg_admin ended with 0\n",
        system=System("NetBSD", "netbsd"),
    ),
}


def trivy(family: str, release: str, system: System | None = None, **more: Any) -> Audit:
    """Read an output of trivy that lists the packages of a system, without vulnerabilities."""
    document = {
        "SchemaVersion": 2,
        "ArtifactName": "/",
        "ArtifactType": "filesystem",
        "Metadata": {"OS": {"Family": family, "Name": release}},
        "Results": [{"Target": f"/ ({family} {release})", "Class": "os-pkgs", "Type": family}],
        **more,
    }
    return parse(ToolRun("trivy", 0, json.dumps(document), system=system))


def grype(name: str, version: str, like: tuple[str, ...] = (), system: System | None = None, **more: Any) -> Audit:
    """Read an output of grype without matches."""
    document = {
        "matches": [],
        "source": {"type": "directory", "target": "/"},
        "distro": {"name": name, "version": version, "idLike": list(like)},
        "descriptor": {"name": "grype", "configuration": {}, "db": {}},
        **more,
    }
    return parse(ToolRun("grype", 0, json.dumps(document), system=system))


def osv_scanner(ecosystem: str, system: System | None = None, **more: Any) -> Audit:
    """Read an output of osv-scanner that lists a package of a system, without vulnerabilities."""
    packages = [{"package": {"name": "bash", "version": "5", "ecosystem": ecosystem}}]
    document = {"results": [{"source": {"path": "/srv/sbom.json", "type": "sbom"}, "packages": packages}], **more}
    return parse(ToolRun("osv-scanner", 0, json.dumps(document), system=system))


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
    audit = trivy(family, release)
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
    audit = trivy(family, release, system)
    assert (audit.status, audit.reason) == (Status.CLEAN, "")


@pytest.mark.parametrize(
    ("name", "version", "like"),
    [
        ("ubuntu", "21.3", ("ubuntu", "debian")),  # Linux Mint
        ("ubuntu", "17", ("ubuntu", "debian")),  # Zorin
        ("debian", "7", ("debian",)),  # LMDE, made of Debian 13
        ("debian", "2024.1", ("debian",)),  # Kali
        ("debian", "5", ("debian",)),  # Devuan
        ("debian", "", ()),
        ("ubuntu", "", ()),
        ("redhat", "", ()),
    ],
)
def test_grype_without_data_for_the_release_is_unsupported(name: str, version: str, like: tuple[str, ...]) -> None:
    """Grype looks up a derivative by the derivative's own version, and finds nothing."""
    audit = grype(name, version, like)
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == f'grype has no data for packages of "{name} {version}'.rstrip() + '"'


@pytest.mark.parametrize(
    ("name", "version", "system"),
    [
        ("almalinux", "9.4", System("Linux", "almalinux", KIN_OF_RHEL, "9.4")),
        ("amazonlinux", "2", System("Linux", "amzn", ("centos", "rhel", "fedora"), "2")),
        ("debian", "unstable", System("Linux", "debian")),
        ("oraclelinux", "9.4", System("Linux", "ol", ("fedora",), "9.4")),
        ("raspbian", "12", System("Linux", "raspbian", ("debian",), "12")),
        ("redhat", "8.9", System("Linux", "cloudlinux", KIN_OF_RHEL, "8.9")),
        ("rockylinux", "9.4", System("Linux", "rocky", KIN_OF_RHEL, "9.4")),
        ("sles", "15.5", System("Linux", "sles_sap", ("suse",), "15.5")),
        ("ubuntu", "22.04", System("Linux", "pop", ("ubuntu", "debian"), "22.04")),
        ("ubuntu", "24.04", System("Linux", "ubuntu", ("debian",), "24.04")),
        ("wolfi", "20230201", System("Linux", "wolfi", (), "20230201")),
    ],
)
def test_grype_on_systems_with_data_is_clean(name: str, version: str, system: System) -> None:
    """This includes derivatives that keep the version of the distribution they are based on."""
    audit = grype(name, version, system.like, system)
    assert (audit.status, audit.reason) == (Status.CLEAN, "")


@pytest.mark.parametrize(("name", "provider"), [("photon", "photon"), ("fedora", "fedora"), ("archlinux", "arch")])
def test_grype_has_data_for_the_providers_in_its_database(name: str, provider: str) -> None:
    """A newer database may list providers for systems that the reader does not know."""
    descriptor = {"name": "grype", "db": {"providers": {provider: {"captured": "2026-11-01T00:00:00Z"}}}}
    assert grype(name, "41", descriptor=descriptor).status == Status.CLEAN
    assert grype(name, "41").status == Status.UNSUPPORTED


@pytest.mark.parametrize("ecosystem", ["Debian:trixie", "Debian:sid", "Alpine:edge", "Ubuntu:noble"])
def test_osv_scanner_without_data_for_the_release_is_unsupported(ecosystem: str) -> None:
    """OSV has the packages of a system by release number."""
    audit = osv_scanner(ecosystem)
    assert audit.status == Status.UNSUPPORTED
    assert f'"{ecosystem}"' in audit.reason


@pytest.mark.parametrize(
    "ecosystem", ["Debian", "Debian:12", "Alpine:v3.20", "Ubuntu:Pro:16.04:LTS", "Rocky Linux:9", "Wolfi", "SUSE:x"]
)
def test_osv_scanner_with_data_for_the_release_is_clean(ecosystem: str) -> None:
    """This includes systems without releases, and an ecosystem that means all releases."""
    assert osv_scanner(ecosystem).status == Status.CLEAN


@pytest.mark.parametrize(
    "audit",
    [
        trivy("alpine", "3.20.1", DEBIAN),
        trivy("debian", "11.5", DEBIAN),
        trivy("ubuntu", "22.04", DEBIAN),
        trivy("debian", "12.5", System("Linux", "rhel", ("fedora",), "9.4")),
        grype("alpine", "3.20", system=DEBIAN),
        grype("debian", "11", system=DEBIAN),
        osv_scanner("Alpine:v3.20", DEBIAN),
        osv_scanner("Debian:11", DEBIAN),
    ],
)
def test_scan_of_another_system_is_unsupported(audit: Audit) -> None:
    """A scanner that runs in a container looks at the container."""
    assert audit.status == Status.UNSUPPORTED
    assert "this host is" in audit.reason


@pytest.mark.parametrize(
    "audit",
    [
        trivy("debian", "12.5", DEBIAN, ArtifactType="vm"),
        trivy("debian", "12.5", DEBIAN, ArtifactType="container_image"),
        grype("debian", "12", system=DEBIAN, source={"type": "purl", "target": "pkg:deb/debian/bash@5"}),
        grype("debian", "12", system=DEBIAN, source={"type": "snap", "target": "x@1"}),
        osv_scanner("Debian:12", DEBIAN, image_metadata={"os": "Debian GNU/Linux 12"}),
    ],
)
def test_scan_of_an_image_or_package_is_unsupported(audit: Audit) -> None:
    """This also applies if it is of the same system as the host."""
    assert audit.status == Status.UNSUPPORTED
    assert "not at this host" in audit.reason


@pytest.mark.parametrize(
    "audit", [trivy("debian", "12.5", DEBIAN), grype("debian", "12", system=DEBIAN), osv_scanner("Debian:12", DEBIAN)]
)
def test_scan_of_the_host_is_clean(audit: Audit) -> None:
    """The same outputs for the right system and source are clean."""
    assert (audit.status, audit.reason) == (Status.CLEAN, "")


def test_trivy_that_lists_packages_of_another_system_is_unsupported() -> None:
    """The listed packages must belong to the system that trivy names."""
    result = {"Target": "x", "Class": "os-pkgs", "Type": "alpine"}
    audit = trivy("debian", "12.5", DEBIAN, Results=[result])
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == 'trivy names the system "debian" but lists packages of "alpine"'
    assert trivy("debian", "12.5", DEBIAN, Metadata={}).status == Status.UNSUPPORTED


def test_trivy_that_found_no_packages_is_failed() -> None:
    """Trivy names the system but lists nothing if the package database is missing or unreadable."""
    run = ToolRun(
        "trivy",
        0,
        json.dumps(
            {
                "SchemaVersion": 2,
                "Metadata": {"OS": {"Family": "debian", "Name": "12.5"}},
                "Results": [{"Target": "/ (debian 12.5)", "Class": "os-pkgs"}],
            }
        ),
        errors="2026-11-28T03:00:00Z\tWARN\tNo OS package is detected. Make sure you haven't deleted any files\n",
    )
    assert parse(run).status == Status.FAILED
    assert parse(replace(run, errors="")).status == Status.CLEAN


@pytest.mark.parametrize(
    ("tool", "output", "systems"),
    [
        (
            "pkg-audit",
            "0 problem(s) in 0 installed package(s) found.\n",
            [System("FreeBSD", "freebsd", (), "14.1-RELEASE"), System("DragonFly", "dragonfly", (), "6.4")],
        ),
        (
            "portaudit",
            "0 problem(s) in your installed packages found.\n",
            [System("FreeBSD", "freebsd", (), "8.4-RELEASE")],
        ),
        (
            "pkg-admin",
            "# portspec: pkg_info\nx-1 y\n# portspec: pkg_admin ended with 0\n",
            [System("NetBSD", "netbsd", (), "10.1"), System("SunOS", "sunos", (), "5.11")],
        ),
        (
            "apk",
            "x-1 = 1\n# portspec: apk version --indexes\nv3.22 [https://x]\n# portspec: apk ended with 0\n",
            [System("Linux", "alpine", (), "3.22.1"), System("Linux", "wolfi"), System("Linux", "x", ("alpine",))],
        ),
        ("debsecan", "# portspec: debsecan ended with 0\n", [DEBIAN, System("Linux", "raspbian", ("debian",), "12")]),
        ("arch-audit", "[]", [System("Linux", "arch"), System("Linux", "manjaro", ("arch",))]),
    ],
)
def test_tool_of_another_system_is_unsupported(tool: str, output: str, systems: list[System]) -> None:
    """A tool for the packages of one system says nothing about those of another."""
    run = ToolRun(tool, 0, output)
    assert parse(replace(run, system=System("Linux", "ubuntu", ("debian",), "24.04"))).status == Status.UNSUPPORTED
    assert {parse(replace(run, system=system)).status for system in systems} == {Status.CLEAN}


def test_pkg_audit_of_jails_only_is_unsupported() -> None:
    """Each section is about one root; a report without a section is about the host."""
    run = ToolRun("pkg-audit", 0, "", system=System("FreeBSD", "freebsd", (), "14.1-RELEASE"))
    summary = "0 problem(s) in 0 installed package(s) found.\n"
    assert parse(replace(run, output=f"jail: www\n{summary}")).status == Status.UNSUPPORTED
    assert parse(replace(run, output=f"Host system:\n{summary}jail: www\n{summary}")).status == Status.CLEAN


def test_debsecan_with_an_error_is_failed() -> None:
    """An error on standard error counts even if the exit status is 0."""
    run = ToolRun("debsecan", 0, "# portspec: debsecan ended with 0\n", "error: while downloading: x\n", system=DEBIAN)
    assert parse(run).status == Status.FAILED


@pytest.mark.parametrize(
    "system",
    [
        System("Linux", "linuxmint", ("debian",), "7"),
        System("Linux", "devuan", ("debian",), "7"),
        System("Linux", "sparky", ("debian",), "8"),
    ],
)
def test_release_number_of_a_derivative_is_not_taken_for_debian(system: System) -> None:
    """Scanners that read os-release(5) take it for Debian's; trivy reads /etc/debian_version."""
    assert grype("debian", system.version, system=system).status == Status.UNSUPPORTED
    assert osv_scanner(f"Debian:{system.version}", system).status == Status.UNSUPPORTED
    assert trivy("debian", "13.1", system).status == Status.CLEAN


@pytest.mark.parametrize(
    ("version", "day", "is_past"),
    [
        ("18.04", "2023-05-31", False),
        ("18.04", "2023-06-01", True),
        ("22.04", "2027-05-31", False),
        ("24.04", "2026-11-29", False),
        ("23.04", "2024-01-31", False),
        ("23.04", "2024-02-01", True),
        ("23.10", "2024-07-31", False),
        ("23.10", "2024-08-01", True),
        ("26.10", "2027-07-31", False),
        ("6.06", "2026-11-29", False),
        ("", "2026-11-29", False),
    ],
)
def test_standard_support_of_an_ubuntu_release_ends(version: str, day: str, *, is_past: bool) -> None:
    """An LTS has five years until the end of May, any other release nine months."""
    at = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    run = ToolRun("apt", 0, "", ended_at=at, system=System("Linux", "ubuntu", (), version))
    assert past_standard_support(run) == (f"ubuntu {version}" if is_past else "")


@pytest.mark.parametrize(
    ("system", "release"),
    [
        (System("Linux", "pop", ("ubuntu", "debian"), "20.04"), "pop 20.04"),
        (System("Linux", "neon", ("ubuntu", "debian"), "24.04"), ""),
        (System("Linux", "linuxmint", ("ubuntu", "debian"), "21.3"), ""),
        (System("Linux", "debian", (), "20.04"), ""),
    ],
)
def test_support_of_a_derivative_ends_with_the_ubuntu_release_of_its_number(system: System, release: str) -> None:
    """It gets its security updates from the pocket of that release."""
    at = datetime(2026, 11, 29, tzinfo=UTC).timestamp()
    assert past_standard_support(ToolRun("apt", 0, "", ended_at=at, system=system)) == release


@pytest.mark.parametrize(
    "command",
    [
        "trivy rootfs --severity CRITICAL,HIGH /",
        "trivy rootfs --severity=CRITICAL /",
        "trivy rootfs -s HIGH /",
        "docker run --rm aquasec/trivy:0.58.1 rootfs --severity HIGH /host",
        "trivy rootfs --ignore-unfixed /",
        "trivy rootfs --ignore-status affected /",
        "debsecan --only-fixed --format detail",
        "debsecan --only --format detail",  # as optparse has it
        "debsecan --no-obsolete",
        "debsecan --status=/srv/status",
        "debsecan --add-whitelist CVE-2024-0001",
        "pkg audit nginx-1.26.0",
        "pkg audit -f vuln.xml nginx-1.26.0",
        "arch-audit --upgradable --json",
        "arch-audit -u --json",
        "pkg_admin audit-pkg x-1",
        "pkg_admin -v audit -t denial-of-service",
    ],
)
def test_options_that_hide_vulnerabilities_are_failed(command: str) -> None:
    """An option that hides vulnerabilities makes "nothing found" inconclusive."""
    words = tuple(command.split())
    run = CLEAN[words[0] if words[0] in CLEAN else "trivy"]
    for spelled in (words, ("sudo", *words), ("sh", "-c", f"{command} 2>/dev/null")):
        assert parse(replace(run, command=spelled)).status == Status.FAILED
    audit = parse(replace(run, command=words))
    assert audit.reason


@pytest.mark.parametrize("command", ["pkg -j www audit", "pkg -c /jails/www audit -r", "pkg -r /mnt audit"])
def test_pkg_audit_of_another_root_is_unsupported(command: str) -> None:
    """These options name another root only before the word audit; after it -r means something else."""
    audit = parse(replace(CLEAN["pkg"], command=tuple(command.split())))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason.endswith("looked at a jail or another root, not at this host")


@pytest.mark.parametrize("option", ["--scanners secret", "--scanners=misconfig,license", "--security-checks config"])
def test_trivy_with_other_scanners_is_unsupported(option: str) -> None:
    """With --list-all-pkgs it still lists the packages."""
    command = ("trivy", "rootfs", "--list-all-pkgs", *option.split(), "/")
    audit = parse(replace(CLEAN["trivy"], command=command))
    assert audit.status == Status.UNSUPPORTED
    assert "not for vulnerabilities" in audit.reason


@pytest.mark.parametrize(
    "command",
    [
        "trivy rootfs --format json --quiet --timeout 1800s --scanners vuln /",
        "trivy rootfs --scanners vuln,secret --ignore-unfixed=false --pkg-types os /",
        "trivy rootfs --severity UNKNOWN,LOW,MEDIUM,HIGH,CRITICAL /",
        "debsecan --format detail",
        "debsecan --suite bookworm --format=summary",
        "pkg audit --raw=json-compact",
        "pkg audit -r -f vuln.xml",
        "arch-audit --json",
        "pkg_admin -v audit -e",
    ],
)
def test_harmless_options_are_clean(command: str) -> None:
    """These include the options that the agent uses."""
    words = tuple(command.split())
    audit = parse(replace(CLEAN[words[0]], command=words))
    assert (audit.status, audit.reason) == (Status.CLEAN, "")


@pytest.mark.parametrize("option", ["only-fixed", "only-notfixed"])
def test_grype_with_options_that_hide_vulnerabilities_is_failed(option: str) -> None:
    """The output of grype has its configuration."""
    descriptor = {"name": "grype", "configuration": {option: True}}
    document = {"matches": [], "distro": {"name": "debian", "version": "12"}, "descriptor": descriptor}
    assert parse(ToolRun("grype", 0, json.dumps(document))).status == Status.FAILED
    descriptor["configuration"] = {option: False}
    assert parse(ToolRun("grype", 0, json.dumps(document))).status == Status.CLEAN


def test_portaudit_of_names_or_a_list_is_failed() -> None:
    """Its summary is then not about the installed packages."""
    assert parse(ToolRun("portaudit", 0, "0 problem(s) found.\n", system=FREEBSD)).status == Status.FAILED
    whole = "0 problem(s) in your installed packages found.\n"
    assert parse(ToolRun("portaudit", 0, whole, system=FREEBSD)).status == Status.CLEAN


def test_options_are_found_in_both_spellings() -> None:
    """A value follows in the next word or after "=", and other programs may precede the tool."""
    words = arguments_of(("sudo", "/usr/bin/trivy", "--a", "1", "--b=2", "--a=3", "--c"), "trivy")
    assert words == ("--a", "1", "--b=2", "--a=3", "--c")
    assert option_values(words, "--a", "--c") == ["1", "3", ""]
    assert first_option_set(words, "--c") == "--c"
    assert first_option_set(("--c=false",), "--c") == ""
    assert arguments_of(("sh", "-c", "x"), "trivy") == ()
    assert arguments_of(("sh", "-c", "pkg audit -r 2>/dev/null | head"), "pkg") == ("audit", "-r")


@given(st.sampled_from(sorted(CLEAN)), st.lists(st.text(max_size=12), max_size=6))
def test_no_command_makes_a_reader_raise(tool: str, words: list[str]) -> None:
    """The words of a command come from the host and may be anything."""
    audit = parse(replace(CLEAN[tool], command=(tool, *words)))
    assert audit.reason.isprintable()
    assert (audit.status == Status.CLEAN) == (not audit.reason)
