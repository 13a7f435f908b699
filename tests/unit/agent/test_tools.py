from __future__ import annotations

import contextlib
import os
import pwd
from typing import TYPE_CHECKING

import pytest

from portspec.agent import (
    TOOLS,
    System,
    ages_of_patches,
    choose_tool,
    read_os_release,
    tool_environment,
    usual_tool,
)
from portspec.audit import tools as formats

if TYPE_CHECKING:
    from pathlib import Path

DEBIAN = System("Linux", "debian", "dpkg-status:/var/lib/dpkg/status", (), "12")
DEBIAN_TESTING = System("Linux", "debian", "dpkg-status:/var/lib/dpkg/status")
UBUNTU = System("Linux", "ubuntu", "dpkg-status:/var/lib/dpkg/status")
FEDORA = System("Linux", "fedora", "")
MINT = System("Linux", "linuxmint", "dpkg-status:/var/lib/dpkg/status", ("ubuntu", "debian"), "22")
DEVUAN = System("Linux", "devuan", "dpkg-status:/var/lib/dpkg/status", ("debian",), "5")
ARCH = System("Linux", "arch", "")
MANJARO = System("Linux", "manjaro", "", ("arch",))
ALPINE = System("Linux", "alpine", "apk-installed:/lib/apk/db/installed", (), "3.22.1")
NETBSD = System("NetBSD", "netbsd", "", (), "10.1")
FREEBSD = System("FreeBSD", "freebsd", "/var/db/pkg/local.sqlite")
RHEL = System("Linux", "rhel", "", ("fedora",), "9.4")
ORACLE = System("Linux", "ol", "", ("fedora",), "8.9")
AMAZON = System("Linux", "amzn", "", ("fedora",), "2023")
LEAP = System("Linux", "opensuse-leap", "", ("suse", "opensuse"), "15.6")
SLES = System("Linux", "sles", "", ("suse",), "15.6")
OLD_FREEBSD = System("FreeBSD", "", "")


def test_every_tool_has_a_parser() -> None:
    """The tools that the agent names in audits are those that portspec reads."""
    assert set(TOOLS) == set(formats.TOOLS)


@pytest.mark.parametrize(
    ("system", "installed", "chosen"),
    [
        (FREEBSD, {"pkg", "portaudit", "trivy"}, "pkg-audit"),
        (OLD_FREEBSD, {"pkg", "portaudit"}, "portaudit"),  # /usr/sbin/pkg is in the base system
        (OLD_FREEBSD, {"pkg"}, "pkg-audit"),
        (DEBIAN, {"pkg", "debsecan", "trivy", "grype", "osv-scanner", "pip-audit"}, "debsecan"),
        (DEBIAN, {"trivy", "grype", "osv-scanner", "pip-audit"}, "trivy"),
        (DEBIAN, {"grype", "osv-scanner", "pip-audit"}, "grype"),
        (DEBIAN, {"osv-scanner", "pip-audit"}, "osv-scanner"),
        (DEBIAN, {"osv-scanner", "apt-cache", "pip-audit"}, "osv-scanner"),
        (DEBIAN, {"apt-cache", "pip-audit"}, "apt"),
        (UBUNTU, {"osv-scanner", "pip-audit"}, "pip-audit"),
        (UBUNTU, {"pro", "apt-cache", "trivy", "grype"}, "trivy"),
        (UBUNTU, {"pro", "apt-cache", "grype"}, "grype"),
        (UBUNTU, {"debsecan", "osv-scanner", "pro", "apt-cache", "pip-audit"}, "ubuntu-pro"),
        (UBUNTU, {"apt-cache", "pip-audit"}, "apt"),
        (MINT, {"pro", "apt-cache"}, "ubuntu-pro"),
        (MINT, {"debsecan", "apt-cache"}, "apt"),
        (DEVUAN, {"debsecan", "apt-cache", "pip-audit"}, "apt"),
        (DEVUAN, {"osv-scanner", "trivy", "grype", "apt-cache"}, "apt"),
        (MINT, {"trivy", "grype", "apt-cache"}, "apt"),  # trivy and grype have no data of its releases
        (DEBIAN_TESTING, {"trivy", "grype", "osv-scanner", "apt-cache"}, "grype"),
        (ARCH, {"arch-audit", "trivy", "grype"}, "arch-audit"),
        (MANJARO, {"arch-audit", "pip-audit"}, "arch-audit"),
        (ARCH, {"grype", "apt-cache", "apk", "pkg_admin"}, "grype"),
        (NETBSD, {"pkg_admin", "trivy", "pkg"}, "pkg-admin"),
        (NETBSD, {"pip-audit"}, "pip-audit"),
        (ALPINE, {"apk", "osv-scanner", "grype", "trivy"}, "trivy"),
        (ALPINE, {"apk", "osv-scanner", "pip-audit"}, "osv-scanner"),
        (ALPINE, {"apk", "pip-audit"}, "apk"),
        (FEDORA, {"apk", "apt-cache", "pkg_admin", "pro", "arch-audit"}, None),
        (FEDORA, {"osv-scanner", "pip-audit"}, "pip-audit"),
        (FEDORA, {"pkg"}, None),
        (FEDORA, {"dnf", "trivy", "grype"}, "dnf"),  # of which the others have no data
        (FEDORA, {"dnf5"}, "dnf"),
        (RHEL, {"dnf", "yum", "trivy", "grype"}, "trivy"),
        (RHEL, {"dnf", "yum", "grype"}, "grype"),
        (RHEL, {"dnf", "yum"}, "dnf"),
        (ORACLE, {"yum", "pip-audit"}, "dnf"),
        (AMAZON, {"dnf", "zypper"}, "dnf"),
        (LEAP, {"zypper", "dnf", "grype", "trivy"}, "trivy"),
        (LEAP, {"zypper", "dnf", "grype"}, "zypper"),
        (SLES, {"zypper", "grype"}, "grype"),
        (SLES, {"zypper", "pip-audit"}, "zypper"),
        (DEBIAN, {"dnf", "zypper", "yum"}, None),  # they are packages there, without repositories
        (DEBIAN, set(), None),
    ],
)
def test_tool_is_the_first_that_can_audit_the_system(system: System, installed: set[str], chosen: str | None) -> None:
    """Of the tools that are there the one that knows the system best is taken, and none that is blind to it."""
    tool = choose_tool(system, lambda program: f"/bin/{program}" if program in installed else None)
    assert (tool.name if tool else None) == chosen


def test_tool_that_is_missed_is_named() -> None:
    """A host without any tool audits as if its system's usual one had failed."""
    usual = {
        "pkg-audit": [FREEBSD],
        "debsecan": [DEBIAN],
        "ubuntu-pro": [UBUNTU, MINT],
        "apt": [DEVUAN],
        "arch-audit": [ARCH, MANJARO],
        "apk": [ALPINE],
        "pkg-admin": [NETBSD],
        "dnf": [FEDORA, RHEL, ORACLE, AMAZON],
        "zypper": [LEAP, SLES],
        "trivy": [System("Linux", "gentoo", "")],
    }
    assert {tool: [usual_tool(system) for system in systems] for tool, systems in usual.items()} == {
        tool: [tool] * len(systems) for tool, systems in usual.items()
    }


def test_tools_are_never_run_in_ways_that_lie() -> None:
    """No command has an option that hides findings or failures, and trivy looks for no secrets."""
    commands = {tool.name: " ".join(tool.commands) for tool in TOOLS.values()}
    assert "-q" not in commands["pkg-audit"]
    assert "-F" not in commands["pkg-audit"]
    assert "--cron" not in commands["debsecan"]
    assert "secret" not in commands["trivy"]
    assert "--all-packages" in commands["osv-scanner"]
    for command in TOOLS["dnf"].commands:
        for line in command.split(" && "):
            assert "*.skip_if_unavailable=0" in line
            assert "--disableexcludes=all" in line or "disable_excludes=*" in line
            assert "{release}" in line
    assert "--no-refresh" not in commands["zypper"]
    assert "upgradable" not in commands["apt"]


def test_age_of_patches_is_that_of_enabled_repositories_that_have_some(tmp_path: Path) -> None:
    """The time at which zypper last asked for news; a repository that is disabled, or has no patches, tells nothing."""
    line = '<repo alias="{0}" name="{0}" type="rpm-md" enabled="{1}" autorefresh="1" gpgcheck="1">\n'
    text = "".join(line.format(name, int(name != "old")) for name in ("updates", "sle", "pool", "old", "gone"))
    for moment, name in enumerate(("updates", "sle", "pool", "old"), 1_795_000_000):
        data = tmp_path / name / "repodata"
        data.mkdir(parents=True)
        (data / "repomd.xml").touch()
        os.utime(data / "repomd.xml", (moment, moment))
        if name != "pool":
            (data / "0a1b-updateinfo.xml.gz").touch()
    assert ages_of_patches(text, tmp_path) == [1_795_000_000, 1_795_000_001]
    assert ages_of_patches('<repo alias=".." enabled="1">', tmp_path) == []


def test_amazon_linux_is_not_asked_for_its_own_release() -> None:
    """It is locked to a release, and dnf finds nothing of what came after it unless asked for the latest."""
    assert AMAZON.release == "--releasever=latest"
    assert [system.release for system in (RHEL, FEDORA, System("Linux", "amzn", "", (), "2"))] == ["", "", ""]


def test_system_is_that_of_os_release() -> None:
    """os-release(5) is read as a shell reads it; what is no assignment is passed over."""
    text = '# x\nNAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID=\'22.1\'\nbroken "\nA="b\n'
    assert read_os_release(text) == {
        "NAME": "Linux Mint",
        "ID": "linuxmint",
        "ID_LIKE": "ubuntu debian",
        "VERSION_ID": "22.1",
    }


@pytest.mark.parametrize("system", [UBUNTU, System("Linux", "linuxmint", "dpkg-status:/x", ("ubuntu", "debian"))])
def test_debsecan_is_not_taken_where_it_has_no_data(system: System) -> None:
    """It ends with 0 and says nothing on Ubuntu and its kin."""
    found = {"debsecan", "trivy"}
    assert choose_tool(system, lambda program: program if program in found else None) == TOOLS["trivy"]
    assert choose_tool(system, lambda program: program if program == "debsecan" else None) is None


def test_system_goes_with_the_audit() -> None:
    """The server judges the output of a tool by it."""
    system = System("Linux", "ubuntu", "", ("debian",), "24.04")
    assert system.as_json() == {"kernel": "Linux", "id": "ubuntu", "id_like": ["debian"], "version_id": "24.04"}


def test_environment_of_tools() -> None:
    """Tools speak English, are found where cron does not look, and are told nothing of the agent's settings."""
    environ = tool_environment(
        {"PATH": "/opt/bin:/usr/bin", "LC_ALL": "de_DE.UTF-8", "PORTSPEC_SEND_URL": "x", "A": "b"}
    )
    assert environ["PATH"] == (
        "/opt/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin:"
        "/usr/pkg/sbin:/usr/pkg/bin:/opt/local/sbin:/opt/local/bin:/opt/pkg/sbin:/opt/pkg/bin"
    )
    assert (environ["LC_ALL"], environ["A"]) == ("C", "b")
    with contextlib.suppress(KeyError):  # of a number without a user, as in some containers
        assert environ["HOME"] == pwd.getpwuid(os.geteuid()).pw_dir
    assert "PORTSPEC_SEND_URL" not in environ
