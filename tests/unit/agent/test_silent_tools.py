"""Tools that say nothing where they found nothing, and those that run beside another: what the agent sends of them."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.agent import Audit, Settings, System, freebsd_base, spell_newest
from portspec.audit.model import Scope, Status, ToolRun
from portspec.audit.model import System as Seen
from portspec.audit.tools import parse
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NETBSD: Final = System("NetBSD", "netbsd", "", (), "10.1")
ALPINE: Final = System("Linux", "alpine", "apk-installed:/lib/apk/db/installed", (), "3.22.1")
UBUNTU: Final = System("Linux", "ubuntu", "dpkg-status:/var/lib/dpkg/status", ("debian",), "24.04")
RELEASE: Final = ("14.1-RELEASE-p5", "14.1-RELEASE-p6")
PACKAGES: Final = "bash-5.2.15  The GNU Bourne Again Shell"
CLEAN_POLICY: Final = """\
bash:
  Installed: 5.2.21-2ubuntu4
  Candidate: 5.2.21-2ubuntu4
  Version table:
 *** 5.2.21-2ubuntu4 500
        500 http://security.ubuntu.com/ubuntu noble-security/main amd64 Packages
        100 /var/lib/dpkg/status"""
SOURCES: Final = """\
Package files:
 100 /var/lib/dpkg/status
     release a=now
 500 http://security.ubuntu.com/ubuntu noble-security/main amd64 Packages
     release v=24.04,o=Ubuntu,a=noble-security,n=noble,l=Ubuntu,c=main,b=amd64
     origin security.ubuntu.com
Pinned packages:"""
NO_ESM: Final = (
    '{"_schema_version": "0.1", "packages": [], "summary": {"ua": {"attached": false, "enabled_services": []}, '
    '"num_installed_packages": 1, "num_standard_security_updates": 0, "num_esm_infra_updates": 0, '
    '"num_esm_apps_updates": 0}}'
)


def script(cases: Mapping[str, str], otherwise: str = "exit 9") -> str:
    """Return a shell script that does what its arguments, as one text, say."""
    arms = "".join(f"'{arguments}') {action};;\n" for arguments, action in cases.items())
    return f'#!/bin/sh\ncase "$*" in\n{arms}*) {otherwise};;\nesac\n'


def says(text: str, status: int = 0) -> str:
    """Return the shell commands that print a text and end."""
    return f"cat <<'EOF'\n{text}\nEOF\nexit {status}"


class Host:
    """A host whose only programs are scripts, and those of them that are named of this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bare = directory / "bin"
        self.bare.mkdir()
        for name in ("cat", "sh"):
            (self.bare / name).symlink_to(shutil.which(name) or name)

    def has(self, program: str, text: str) -> None:
        """Let it have a program."""
        path = self.bare / program
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def audit(self, system: System, **settings: Any) -> list[dict[str, Any]]:
        """Run the audit; return the tools of its audit."""
        audit = Audit(Settings(scope="system", **settings), {"PATH": str(self.bare)}, system)
        return audit.run()[0]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a host that finds nothing but its own programs."""
    monkeypatch.setattr("portspec.agent.DIRECTORIES", ())
    return Host(tmp_path)


def judged(tools: list[dict[str, Any]], system: System) -> Any:
    """Return what the server makes of the tools of an audit."""
    seen = Seen(system.kernel, system.id, system.like, system.version)
    return parse(
        *(
            ToolRun(
                tool["name"],
                tool["exit_status"],
                tool["output"],
                tool["errors"],
                tool["truncated"],
                time.time(),
                tuple(tool["command"]),
                seen,
            )
            for tool in tools
        )
    )


def pkg_admin(audit: str) -> str:
    """Return a pkg_admin whose audit does something."""
    return script({"-v audit -e": audit, "fetch-pkg-vulnerabilities": "exit 0", "config-var PKGVULNDIR": "exit 1"})


def test_silent_tool_that_ended_well_is_clean_with_what_it_looked_at(host: Host) -> None:
    """pkg_admin prints nothing for a clean host; the installed packages follow, and the line that it ended with 0."""
    host.has("pkg_admin", pkg_admin("exit 0"))
    host.has("pkg_info", script({"": says(PACKAGES)}))
    (tool,) = host.audit(NETBSD)
    assert tool["output"] == f"# portspec: pkg_info\n{PACKAGES}\n# portspec: pkg_admin ended with 0\n"
    assert judged([tool], NETBSD).status == Status.CLEAN


@pytest.mark.parametrize(
    ("audit", "info"),
    [
        ("exit 1", says(PACKAGES)),
        ("exit 0", says(PACKAGES, 1)),
        ("exit 0", "kill -9 $$"),
        ("exit 0", "exit 0"),
        ("kill -9 $$", says(PACKAGES)),
    ],
)
def test_silent_tool_of_which_anything_failed_is_not_clean(host: Host, audit: str, info: str) -> None:
    """Neither is it where no package is installed, which may be a database of packages that was not found."""
    host.has("pkg_admin", pkg_admin(audit))
    host.has("pkg_info", script({"": info}))
    assert judged(host.audit(NETBSD), NETBSD).status == Status.FAILED


def test_why_there_is_no_proof_is_said(host: Host) -> None:
    """What follows the output is as much part of the audit: its failure stands in standard error."""
    host.has("pkg_admin", pkg_admin("exit 0"))
    host.has("pkg_info", script({"": "echo 'pkg_info: no database' >&2; exit 1"}))
    (tool,) = host.audit(NETBSD)
    assert (tool["output"], tool["errors"]) == (
        "",
        "portspec-send: pkg_info ended with 1: pkg_info: no database\n",
    )


def test_silent_tool_behind_another_program_gets_no_proof(host: Host) -> None:
    """Of a program that runs it nobody knows what its 0 means."""
    host.has("pkg_admin", pkg_admin("exit 0"))
    host.has("pkg_info", script({"": says(PACKAGES)}))
    host.has("wrap", "#!/bin/sh\npkg_admin -v audit -e | cat\n")
    (tool,) = host.audit(NETBSD, tool="pkg-admin", command=("wrap",))
    assert tool["output"] == ""
    assert judged([tool], NETBSD).status == Status.FAILED


@pytest.mark.parametrize(
    ("system", "usual"),
    [(NETBSD, "pkg-admin"), (ALPINE, "apk"), (UBUNTU, "ubuntu-pro")],
    ids=lambda each: str(each)[:9],
)
def test_host_without_any_tool_failed_under_the_name_of_its_usual_one(host: Host, system: System, usual: str) -> None:
    """Nothing runs, and the audit says what is missing."""
    (tool,) = host.audit(system)
    assert (tool["name"], tool["command"], tool["output"]) == (usual, [], "")
    assert tool["errors"].startswith(
        f"portspec-send: no audit tool is installed; the usual one for this system is {usual}"
    )
    assert judged([tool], system).status == Status.FAILED


def test_database_of_pkg_admin_is_where_it_says(host: Host) -> None:
    """Its age is that of the file that was fetched last."""
    host.has(
        "pkg_admin",
        script({"-v audit -e": "exit 0", "config-var PKGVULNDIR": says(str(host.directory)), "-V": says("20210410")}),
    )
    host.has("pkg_info", script({"": says(PACKAGES)}))
    database = host.directory / "pkg-vulnerabilities"
    database.touch()
    os.utime(database, (0, time.time() - 20 * 86_400))
    assert judged(host.audit(NETBSD), NETBSD).status == Status.STALE_DATABASE
    os.utime(database)
    assert judged(host.audit(NETBSD), NETBSD).status == Status.CLEAN


def test_apk_is_asked_of_packages_and_of_indexes(host: Host) -> None:
    """The indexes are brought up to date before."""
    fresh = host.directory / "fresh"
    row = "busybox-1.37.0-r18                      = 1.37.0-r18"
    index = "v3.22.1-187-g5f7a2b4c3d1 [https://dl-cdn.alpinelinux.org/alpine/v3.22/main]"
    host.has(
        "apk",
        script(
            {
                "update": f": > {fresh}",
                "version -l <=>?": f"test -e {fresh} || exit 1\n{says(f'Installed:   Available:{chr(10)}{row}')}",
                "version --indexes": says(index),
                "--version": says("apk-tools 3.0.0, compiled for x86_64."),
            }
        ),
    )
    (tool,) = host.audit(ALPINE)
    assert (tool["name"], tool["version"], tool["command"][1:]) == ("apk", "3.0.0", ["version", "-l", "<=>?"])
    assert judged([tool], ALPINE).status == Status.CLEAN


def test_ubuntu_pro_has_apt_beside_it(host: Host) -> None:
    """Both are sent, and what one of them lacks the host lacks."""
    host.has("pro", script({"security-status --format json": says(NO_ESM)}))
    host.has("apt-cache", script({"policy ?installed": says(CLEAN_POLICY), "policy": says(SOURCES)}))
    tools = host.audit(UBUNTU)
    assert [tool["name"] for tool in tools] == ["ubuntu-pro", "apt"]
    assert judged(tools, UBUNTU).status == Status.CLEAN
    host.has("apt-cache", script({"policy ?installed": says(CLEAN_POLICY)}))
    assert judged(host.audit(UBUNTU), UBUNTU).status == Status.FAILED


@pytest.mark.parametrize(
    "answer",
    ["echo 'N: Unable to locate package ?installed' >&2", "echo 'E: Regex compilation error - x' >&2; exit 100"],
)
def test_apt_that_knows_no_patterns_is_asked_by_names(host: Host, answer: str) -> None:
    """Names of what dpkg has something of are what apt before 2.0 is told."""
    rows = "ii  bash\nhi  held\nrc  gone\nun  never\niU  half:i386"
    host.has("dpkg-query", script({}, says(rows)))
    host.has(
        "apt-cache",
        script(
            {"policy ?installed": answer, "policy bash held half:i386": says(CLEAN_POLICY), "policy": says(SOURCES)}
        ),
    )
    (tool,) = host.audit(UBUNTU)
    assert tool["command"][1:] == ["policy", "bash", "held", "half:i386"]
    assert judged([tool], UBUNTU).status == Status.CLEAN


def test_lists_of_the_pocket_tell_the_age_of_what_apt_knows(host: Host) -> None:
    """The newest list of a security pocket of this release counts, wherever apt's own settings have the lists."""
    apt_config = shutil.which("apt-config")
    if apt_config is None:
        missing("apt-config (Debian: apt) is not installed")
    lists = host.directory / "lists"
    lists.mkdir()
    (host.directory / "apt.conf").write_text(f'Dir::State::lists "{lists}/";\n', encoding="utf-8")
    host.has("apt-config", f'#!/bin/sh\nAPT_CONFIG={host.directory}/apt.conf exec {apt_config} "$@"\n')
    host.has("apt-cache", script({"policy ?installed": says(CLEAN_POLICY), "policy": says(SOURCES)}))
    for days, name in enumerate(("noble", "noble-updates", "jammy-security", "noble-security", "noble-infra-security")):
        path = lists / f"archive.ubuntu.com_ubuntu_dists_{name}_InRelease"
        path.touch()
        os.utime(path, (0, 1_700_000_000 - 86_400 * days))
    system = System("Linux", "ubuntu", "", ("debian",), "24.04", codenames=("noble",))
    (tool,) = host.audit(system)
    assert tool["errors"] == "# portspec: database of 2023-11-11T22:13:20Z\n"


def test_files_that_are_not_there_have_no_time(tmp_path: Path) -> None:
    """Nothing is said of the age where no file tells it."""
    assert spell_newest([tmp_path / "a", tmp_path / "b"]) == ""


# --- FreeBSD's base system --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "userland", "names"),
    [
        (*RELEASE, ("FreeBSD-kernel-14.1_5", "FreeBSD-14.1_6")),
        ("14.1-RELEASE", "14.1-RELEASE", ("FreeBSD-kernel-14.1", "FreeBSD-14.1")),
        ("14.1-RELEASE-p5", "", ("FreeBSD-kernel-14.1_5",)),
        ("15.0-CURRENT", "14.1-STABLE", ()),
        ("14.1-RELEASE-p5; reboot", "14.1-RELEASE-p", ()),
    ],
)
def test_base_system_is_named_as_vuxml_does(kernel: str, userland: str, names: tuple[str, ...]) -> None:
    """A release with its patch level; there are no entries for anything else."""
    assert freebsd_base(kernel, userland) == names


def freebsd(base: tuple[str, ...]) -> System:
    """Return a FreeBSD with packages."""
    return System("FreeBSD", "freebsd", "/var/db/pkg/local.sqlite", (), "14.1-RELEASE-p6", base)


FOUND: Final = (
    '{"pkg_count":1,"packages":{"FreeBSD":{"version":"14.1_6","issue_count":1,"issues":[{"Affected versions":'
    '[">= 14.1 : < 14.1_7"],"description":"FreeBSD -- Heap overflow","cve":["CVE-2025-0001"],'
    '"url":"https://vuxml.FreeBSD.org/freebsd/40a3bca2-6809-11d9-a9e7-0001020eed82.html"}],"reverse dependencies":[]}}}'
)


@pytest.mark.parametrize(
    ("answer", "status", "found"),
    [
        (says('{"pkg_count":0}'), Status.CLEAN, 0),
        (says(FOUND, 1), Status.VULNERABLE, 1),
        ("echo 'pkg: out of memory' >&2; exit 1", Status.FAILED, 0),
    ],
)
def test_base_system_is_audited_beside_the_packages(host: Host, answer: str, status: Status, found: int) -> None:
    """A host is clean only if both are, and both were looked at."""
    names = freebsd_base(*RELEASE)
    host.has(
        "pkg",
        script(
            {
                "audit -Fq": "exit 0",
                "audit --raw=json-compact": says('{"pkg_count":0}'),
                f"audit --raw=json-compact {' '.join(names)}": answer,
            }
        ),
    )
    tools = host.audit(freebsd(names))
    assert [tool["name"] for tool in tools] == ["pkg-audit", "pkg-audit"]
    audit = judged(tools, freebsd(names))
    assert (audit.status, len(audit.vulnerabilities)) == (status, found)
    assert Scope.SYSTEM in audit.scopes
    assert (Scope.BASE in audit.scopes) == (status != Status.FAILED)


def test_base_system_alone_is_not_the_packages(host: Host) -> None:
    """A run that was given names as arguments tells nothing of any other package."""
    names = freebsd_base(*RELEASE)
    host.has("pkg", script({}, says('{"pkg_count":0}')))
    (_, beside) = host.audit(freebsd(names))
    audit = judged([beside], freebsd(names))
    assert (audit.status, audit.scopes) == (Status.UNSUPPORTED, (Scope.BASE,))


def test_base_system_that_is_no_release_is_not_asked_for(host: Host) -> None:
    """VuXML has nothing about it, and no answer would be taken for clean."""
    host.has("pkg", script({"audit -Fq": "exit 0", "audit --raw=json-compact": says('{"pkg_count":0}')}))
    assert len(host.audit(freebsd(()))) == 1
