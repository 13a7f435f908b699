"""A result is only clean if the tool looked at the packages of this host and has data for its release."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Status, System, ToolRun
from portspec.audit.tools import parse
from portspec.audit.tools.coverage import arguments_of, first_option_set, option_values, past_standard_support
from tests.unit.audit.tools.outputs import DEBIAN, grype, osv_scanner, trivy

FREEBSD: Final = System("FreeBSD", "freebsd", (), "14.1-RELEASE")
CLEAN: Final = {
    "trivy": trivy(system=DEBIAN),
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


@pytest.mark.parametrize(
    "run",
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
def test_scan_of_another_system_is_unsupported(run: ToolRun) -> None:
    """A scanner that runs in a container looks at the container."""
    audit = parse(run)
    assert audit.status == Status.UNSUPPORTED
    assert "this host is" in audit.reason


@pytest.mark.parametrize(
    "run",
    [
        trivy("debian", "12.5", DEBIAN, ArtifactType="vm"),
        trivy("debian", "12.5", DEBIAN, ArtifactType="container_image"),
        grype("debian", "12", system=DEBIAN, source={"type": "image", "target": {}}),
        grype("debian", "12", system=DEBIAN, source={"type": "purl", "target": "pkg:deb/debian/bash@5"}),
        grype("debian", "12", system=DEBIAN, source={"type": "snap", "target": "x@1"}),
        osv_scanner("Debian:12", DEBIAN, image_metadata={"os": "Debian GNU/Linux 12"}),
    ],
)
def test_scan_of_an_image_or_package_is_unsupported(run: ToolRun) -> None:
    """This also applies if it is of the same system as the host, except if only applications are audited."""
    audit = parse(run)
    assert audit.status == Status.UNSUPPORTED
    assert "not at this host" in audit.reason
    assert parse(replace(run, is_of_applications=True)).status == Status.CLEAN


@pytest.mark.parametrize(
    "run", [trivy("debian", "12.5", DEBIAN), grype("debian", "12", system=DEBIAN), osv_scanner("Debian:12", DEBIAN)]
)
def test_scan_of_the_host_is_clean(run: ToolRun) -> None:
    """The same outputs for the right system and source are clean."""
    audit = parse(run)
    assert (audit.status, audit.reason) == (Status.CLEAN, "")


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
    assert parse(grype("debian", system.version, system=system)).status == Status.UNSUPPORTED
    assert parse(osv_scanner(f"Debian:{system.version}", system)).status == Status.UNSUPPORTED
    assert parse(trivy("debian", "13.1", system)).status == Status.CLEAN


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
