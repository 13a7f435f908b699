"""A tool that was to tell less than all proves nothing by finding nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Status, System, ToolRun
from portspec.audit.tools import parse
from portspec.audit.tools.coverage import arguments_of, first_option_set, option_values

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
def test_options_that_leave_out_vulnerabilities_are_not_clean(command: str) -> None:
    """What is left out may be there."""
    words = tuple(command.split())
    run = CLEAN[words[0] if words[0] in CLEAN else "trivy"]
    for spelled in (words, ("sudo", *words), ("sh", "-c", f"{command} 2>/dev/null")):
        assert parse(replace(run, command=spelled)).status == Status.FAILED
    audit = parse(replace(run, command=words))
    assert audit.reason


@pytest.mark.parametrize("command", ["pkg -j www audit", "pkg -c /jails/www audit -r", "pkg -r /mnt audit"])
def test_pkg_audit_of_a_jail_is_not_that_of_its_host(command: str) -> None:
    """Before the word audit these options name another root; after it -r is another one."""
    audit = parse(replace(CLEAN["pkg"], command=tuple(command.split())))
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason.endswith("looked at a jail or another root, not at this host")


@pytest.mark.parametrize("option", ["--scanners secret", "--scanners=misconfig,license", "--security-checks config"])
def test_trivy_that_was_to_look_for_other_things_is_unsupported(option: str) -> None:
    """With --list-all-pkgs it lists the packages, and compares them with nothing."""
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
def test_options_that_leave_out_nothing_are_clean(command: str) -> None:
    """Those of the agent, and others."""
    words = tuple(command.split())
    audit = parse(replace(CLEAN[words[0]], command=words))
    assert (audit.status, audit.reason) == (Status.CLEAN, "")


@pytest.mark.parametrize("option", ["only-fixed", "only-notfixed"])
def test_grype_that_was_to_tell_a_part_is_not_clean(option: str) -> None:
    """Its own configuration says so."""
    descriptor = {"name": "grype", "configuration": {option: True}}
    document = {"matches": [], "distro": {"name": "debian", "version": "12"}, "descriptor": descriptor}
    assert parse(ToolRun("grype", 0, json.dumps(document))).status == Status.FAILED
    descriptor["configuration"] = {option: False}
    assert parse(ToolRun("grype", 0, json.dumps(document))).status == Status.CLEAN


def test_portaudit_of_names_or_a_list_is_not_clean() -> None:
    """Its summary then does not speak of the installed packages."""
    assert parse(ToolRun("portaudit", 0, "0 problem(s) found.\n", system=FREEBSD)).status == Status.FAILED
    whole = "0 problem(s) in your installed packages found.\n"
    assert parse(ToolRun("portaudit", 0, whole, system=FREEBSD)).status == Status.CLEAN


def test_options_are_found_in_both_spellings() -> None:
    """With a value after it or behind "=", and behind programs that stand before the tool."""
    words = arguments_of(("sudo", "/usr/bin/trivy", "--a", "1", "--b=2", "--a=3", "--c"), "trivy")
    assert words == ("--a", "1", "--b=2", "--a=3", "--c")
    assert option_values(words, "--a", "--c") == ["1", "3", ""]
    assert first_option_set(words, "--c") == "--c"
    assert first_option_set(("--c=false",), "--c") == ""
    assert arguments_of(("sh", "-c", "x"), "trivy") == ()
    assert arguments_of(("sh", "-c", "pkg audit -r 2>/dev/null | head"), "pkg") == ("audit", "-r")


@given(st.sampled_from(sorted(CLEAN)), st.lists(st.text(max_size=12), max_size=6))
def test_no_command_makes_a_reader_raise(tool: str, words: list[str]) -> None:
    """Whatever words a host says that it ran."""
    audit = parse(replace(CLEAN[tool], command=(tool, *words)))
    assert audit.reason.isprintable()
    assert (audit.status == Status.CLEAN) == (not audit.reason)
