"""Real audits by dnf and by zypper: of a system in a directory, with a repository and advisories of the test."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import quoteattr

import pytest

import portspec.agent
from portspec.agent import ages_of_metadata
from portspec.audit.model import Audit, Severity, Status, System, ToolRun
from portspec.audit.tools import parse
from tests.e2e.audits import printed, run
from tests.requirements import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SYSTEM: Final = System("Linux", "rhel", ("fedora",), "9.4")
SPEC: Final = """\
Name: {name}
Epoch: {epoch}
Version: {version}
Release: {release}
Summary: A package of the tests
License: BSD-2-Clause
BuildArch: noarch
%description
A package of the tests.
%files
"""
OLD: Final = (
    ("alpha", 0, "1.0", "1.el9"),
    ("beta-libs", 2, "1.0", "1.el9"),
    ("gamma", 0, "1.0", "1.el9"),
    ("zypper", 0, "1.14.42", "1"),
)
NEW: Final = (("alpha", 0, "1.0", "2.el9"), ("beta-libs", 2, "1.1", "1.el9"))


@dataclass(frozen=True, slots=True)
class Advisory:
    """An advisory of one package: of NEW, or of OLD where it is fixed."""

    name: str
    package: tuple[str, int, str, str]
    cves: tuple[str, ...] = ()
    severity: str = "Important"
    kind: str = "security"

    @property
    def xml(self) -> str:
        """The advisory as updateinfo.xml has it; each refers to itself and to a bug, too, as Red Hat's do."""
        name, epoch, version, release = self.package
        references = [("self", self.name), ("bugzilla", "1234567"), *(("cve", each) for each in self.cves)]
        words = "".join(
            f'<reference href="https://example.org/" id="{id_}" type="{kind}"/>' for kind, id_ in references
        )
        attributes = f'name="{name}" epoch="{epoch}" version="{version}" release="{release}" arch="noarch" src="x"'
        packages = f"<package {attributes}><filename>{name}-{version}-{release}.noarch.rpm</filename></package>"
        return (
            f'<update from="a@example.org" status="final" type="{self.kind}" version="1"><id>{self.name}</id>'
            f"<title>{name} &amp; others</title><issued date={quoteattr('2026-10-01 00:00:00')}/>"
            f"<severity>{self.severity}</severity><description>Of\ntwo lines.</description>"
            f"<references>{words}</references><pkglist><collection><name>el9</name>{packages}</collection></pkglist>"
            "</update>"
        )


ADVISORIES: Final = (
    Advisory("RHSA-2026:0001", NEW[0], ("CVE-2026-10001", "CVE-2026-10002")),
    Advisory("RHSA-2026:0002", NEW[1], severity="Low"),
    Advisory("RHSA-2025:0001", OLD[2], ("CVE-2025-10001",)),
    Advisory("RHBA-2026:0003", NEW[1], kind="bugfix"),
)


def build(directory: Path, packages: Sequence[tuple[str, int, str, str]]) -> list[str]:
    """Build packages into a directory; return their files."""
    directory.mkdir()
    for name, epoch, version, release in packages:
        spec = directory.with_name(f"{name}-{version}-{release}.spec")
        spec.write_text(SPEC.format(name=name, epoch=epoch, version=version, release=release), encoding="ascii")
        top = directory.with_name("build")
        where = ("--define", f"_topdir {top}", "--define", f"_rpmdir {directory}", "--define", f"_dbpath {top}")
        names = ("--define", "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm")
        printed("rpmbuild", *where, *names, "-bb", str(spec))
    return sorted(map(str, directory.glob("*.rpm")))


def publish(directory: Path, advisories: Sequence[Advisory]) -> None:
    """Make the metadata of a repository, with updateinfo.xml only if there are advisories."""
    shutil.rmtree(directory / "repodata", ignore_errors=True)
    printed("createrepo_c", "--quiet", str(directory))
    if advisories:
        updates = directory.with_name("updateinfo.xml")
        text = "".join(each.xml for each in advisories)
        updates.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n<updates>{text}</updates>\n', encoding="utf-8")
        printed("modifyrepo_c", "--mdtype=updateinfo", str(updates), str(directory / "repodata"))


class Host:
    """A system in a directory, that the programs of `bin` look at in place of this one; and agent.py, copied there."""

    def __init__(self, path: Path, tool: str) -> None:
        self.tool = tool
        self.root = path / "root"
        self.repository = path / "updates"
        self.repositories = self.root / "etc" / ("yum.repos.d" if tool == "dnf" else "zypp/repos.d")
        self.repositories.mkdir(parents=True)
        programs = path / "bin"
        programs.mkdir()
        # What they write elsewhere than into the system belongs to the test as well.
        own = {"HOME": str(path), "ZYPP_LOGFILE": str(path / "zypper.log")}
        self._environment = {"PATH": f"{programs}:{os.defpath}", "TZ": "UTC", **own}
        self._agent = path / "agent.py"
        shutil.copy(portspec.agent.__file__, self._agent)
        self._configuration = path / "dnf.conf"
        self._configuration.write_text(f"[main]\ncachedir={path / 'cache'}\nlogdir={path / 'log'}\n", encoding="ascii")
        printed("rpm", "--root", str(self.root), "--initdb")
        self.install(*build(path / "old", OLD))
        self.newer = build(self.repository, NEW)
        self.offer("updates", self.repository)
        options = {
            "dnf": f"--installroot={self.root} -c {self._configuration} --releasever=9 --setopt=metadata_expire=0",
            "zypper": f"--root {self.root} --no-gpg-checks",
        }
        program = programs / tool
        program.write_text(f'#!/bin/sh\nexec {shutil.which(tool)} {options[tool]} "$@"\n', encoding="utf-8")
        program.chmod(0o755)

    def install(self, *files: str) -> None:
        """Install or update packages; Debian 12's rpm wants to be told that it may."""
        may = ["--force-debian"] if b"--force-debian" in printed("rpm", "--help") else []
        printed("rpm", "--root", str(self.root), *may, "--nodeps", "-U", *files)

    def offer(self, name: str, directory: Path, **options: str) -> None:
        """Set a repository up."""
        lines = {"name": name, "baseurl": directory.as_uri(), "enabled": "1", "autorefresh": "1", "gpgcheck": "0"}
        text = "".join(f"{key}={value}\n" for key, value in (lines | {"type": "rpm-md"} | options).items())
        (self.repositories / f"{name}.repo").write_text(f"[{name}]\n{text}", encoding="ascii")

    def exclude(self, packages: str) -> None:
        """Let dnf pass over packages."""
        with self._configuration.open("a", encoding="ascii") as file:
            file.write(f"excludepkgs={packages}\n")

    def ask(self, *arguments: str) -> str:
        """Return what the tool prints."""
        done = run(self.tool, *arguments, environment=self._environment)
        assert done.code == 0, done.errors
        return done.output.decode()

    def payload(self) -> tuple[dict[str, Any], str]:
        """Return the payload that the agent would send, and what it says."""
        command = (sys.executable, "-I", str(self._agent), "--dry-run", "--host", "web1", "--tool", self.tool)
        done = run(*command, environment=self._environment)
        assert done.code == 0, done.errors
        payload: dict[str, Any] = json.loads(done.output.splitlines()[0])
        return payload, done.errors

    def audit(self, system: System = SYSTEM) -> Audit:
        """Return what portspec makes of the payload of a host with this system."""
        return judge(self.payload()[0], system)


def judge(payload: dict[str, Any], system: System = SYSTEM) -> Audit:
    """Return what portspec makes of a payload of a host with this system."""
    tool = payload["tool"]
    told = (tool["name"], tool["exit_status"], tool["output"], tool["errors"], tool["truncated"])
    return parse(ToolRun(*told, command=tuple(tool["command"]), system=system))


def makes(tool: str, path: Path) -> Host:
    """Return a host with a tool."""
    for program, package in (("rpmbuild", "rpm"), ("createrepo_c", "createrepo-c"), (tool, tool)):
        if shutil.which(program) is None:
            missing(f"{program} (Debian: {package}) is not installed")
    return Host(path, tool)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of the test that is the home, too, below which Debian's rpm keeps its database."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def dnf(home: Path) -> Host:
    """Return a host with dnf."""
    return makes("dnf", home)


@pytest.fixture
def zypper(home: Path) -> Host:
    """Return a host with zypper."""
    return makes("zypper", home)


def test_age_of_metadata_that_dnf_holds_for_expired_is_that_of_its_files(dnf: Host) -> None:
    """With metadata_expire=1, dnf tells 1970 of a repository that it refreshed a moment ago; the agent does not."""
    publish(dnf.repository, ADVISORIES)
    dnf.payload()
    (expired,) = dnf.root.rglob("expired_repos.json")
    expired.write_text('["updates"]', encoding="ascii")
    (primary,) = dnf.root.rglob("updates-*/repodata/*primary.xml*")
    os.utime(primary, (1_000_000, 1_000_000))
    told = dnf.ask("-C", "repolist", "-v")
    assert "(last: Thu Jan  1 00:00:00 1970)" in told
    assert ages_of_metadata(told) == [1_000_000]


def test_dnf_finds_what_is_to_be_updated_and_nothing_after_it(dnf: Host) -> None:
    """A host with old packages is vulnerable, with the CVEs of each; when it is updated it is clean."""
    publish(dnf.repository, ADVISORIES)
    payload, said = dnf.payload()
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", payload["tool"]["version"])
    assert said == ""
    assert payload["tool"]["errors"].startswith(f"# portspec: database of {payload['day']}")
    audit = judge(payload)
    assert (audit.status, audit.reason) == (Status.VULNERABLE, "")
    assert [
        (each.package, each.id, each.severity, each.fixed_in, each.advisories) for each in audit.vulnerabilities
    ] == [
        ("alpha", "CVE-2026-10001", Severity.HIGH, ("1.0-2.el9",), ("RHSA-2026:0001",)),
        ("alpha", "CVE-2026-10002", Severity.HIGH, ("1.0-2.el9",), ("RHSA-2026:0001",)),
        ("beta-libs", "RHSA-2026:0002", Severity.LOW, ("2:1.1-1.el9",), ()),
    ]
    dnf.install(*dnf.newer)
    audit = dnf.audit()
    assert (audit.status, audit.reason, audit.vulnerabilities) == (Status.CLEAN, "", ())


def test_dnf_without_advisories_is_unsupported(dnf: Host) -> None:
    """Where the repositories have no updateinfo.xml dnf says what it says on a host that is up to date."""
    publish(dnf.repository, ())
    assert dnf.audit().status == Status.UNSUPPORTED
    publish(dnf.repository, ADVISORIES[3:])
    assert dnf.audit().status == Status.UNSUPPORTED


def test_dnf_of_centos_or_fedora_is_unsupported_with_advisories_of_others(dnf: Host) -> None:
    """Advisories of another vendor prove nothing, and CentOS has none of its own."""
    publish(dnf.repository, ADVISORIES)
    dnf.install(*dnf.newer)
    payload, _ = dnf.payload()
    assert judge(payload).status == Status.CLEAN
    for name in ("centos", "fedora"):
        assert judge(payload, System("Linux", name, (), "9")).status == Status.UNSUPPORTED


@pytest.mark.parametrize("is_skipped", [True, False])
def test_dnf_with_a_repository_that_is_not_there_is_failed(dnf: Host, *, is_skipped: bool) -> None:
    """Also where the repository may be skipped, which dnf does without a word."""
    publish(dnf.repository, ADVISORIES)
    dnf.install(*dnf.newer)
    dnf.offer("gone", dnf.root / "gone", skip_if_unavailable=str(int(is_skipped)))
    payload, said = dnf.payload()
    assert judge(payload).status == Status.FAILED
    assert "dnf ended with 1 and printed nothing: Error: Failed to download metadata for repo 'gone'" in said


def test_dnf_with_a_broken_repository_is_failed(dnf: Host) -> None:
    """Metadata that cannot be read is no metadata."""
    publish(dnf.repository, ADVISORIES)
    (dnf.repository / "repodata" / "repomd.xml").write_text("<repomd>", encoding="ascii")
    assert dnf.audit().status == Status.FAILED


def test_dnf_without_repositories_is_unsupported(dnf: Host) -> None:
    """A host without any repository knows nothing."""
    (dnf.repositories / "updates.repo").unlink()
    assert dnf.audit().status in {Status.UNSUPPORTED, Status.FAILED}


def test_dnf_finds_packages_that_are_excluded(dnf: Host) -> None:
    """What dnf.conf or a repository excludes from updates is vulnerable all the same."""
    publish(dnf.repository, ADVISORIES)
    dnf.exclude("alpha")
    dnf.offer("updates", dnf.repository, excludepkgs="beta*")
    assert {each.package for each in dnf.audit().vulnerabilities} == {"alpha", "beta-libs"}


def test_zypper_finds_what_is_to_be_updated_and_nothing_after_it(zypper: Host) -> None:
    """A host with old packages is vulnerable, by the patches with their CVEs; when it is updated it is clean."""
    publish(zypper.repository, ADVISORIES)
    audit = zypper.audit(System("Linux", "sles", ("suse",), "15.6"))
    assert (audit.status, audit.reason) == (Status.VULNERABLE, "")
    assert [(each.package, each.id, each.severity, each.title) for each in audit.vulnerabilities] == [
        ("RHSA-2026:0001", "CVE-2026-10001", Severity.HIGH, "alpha & others"),
        ("RHSA-2026:0001", "CVE-2026-10002", Severity.HIGH, "alpha & others"),
        ("RHSA-2026:0002", "RHSA-2026:0002", Severity.LOW, "beta-libs & others"),
    ]
    zypper.install(*zypper.newer)
    audit = zypper.audit()
    assert (audit.status, audit.reason, audit.vulnerabilities) == (Status.CLEAN, "", ())


def test_zypper_that_sees_no_packages_is_failed(zypper: Host) -> None:
    """Where the database of rpm is somewhere else nothing is installed, so that nothing is to be updated."""
    publish(zypper.repository, ADVISORIES)
    for found in zypper.root.rglob("rpmdb.sqlite*"):
        found.unlink()
    printed("rpm", "--root", str(zypper.root), "--initdb")
    payload, _ = zypper.payload()
    assert payload["tool"]["exit_status"] == 104
    assert judge(payload).status == Status.FAILED


def without_patches(host: Host) -> None:
    """Let the repository have packages only."""
    publish(host.repository, ())


def without_repository(host: Host) -> None:
    """Take the repository away."""
    (host.repositories / "updates.repo").unlink()


@pytest.mark.parametrize("prepare", [without_patches, without_repository])
def test_zypper_without_patches_is_unsupported(zypper: Host, prepare: Callable[[Host], None]) -> None:
    """Where no repository has patches an empty list says nothing."""
    prepare(zypper)
    audit = zypper.audit()
    assert audit.status == Status.UNSUPPORTED
    assert audit.reason == "no repository of this system has patches: no update repository is set up"


def test_zypper_with_a_repository_that_is_not_there_is_failed(zypper: Host) -> None:
    """It goes on without the repository, and tells of an error; the status of its own for that it has for root only."""
    publish(zypper.repository, ADVISORIES)
    zypper.install(*zypper.newer)
    zypper.offer("gone", zypper.root / "gone")
    payload, _ = zypper.payload()
    assert payload["tool"]["exit_status"] == (0 if os.geteuid() else 106)
    assert judge(payload).status == Status.FAILED


OWNING: Final = """\
Name: {name}
Epoch: 2
Version: 1.0
Release: 3.el9
Summary: A package of the tests
License: BSD-2-Clause
BuildArch: noarch
%description
A package of the tests.
%install
for file in {files}; do install -D /dev/null %{{buildroot}}$file; done
%files
{lines}
"""


def test_rpm_tells_which_packages_own_executables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all files in one call; of one that several packages have, the first; and which belong to none."""
    for program in ("rpm", "rpmbuild"):
        if shutil.which(program) is None:
            missing(f"{program} (package rpm)")
    server, shared, own, gone = (tmp_path / name for name in ("server", "shared", "own", "gone"))
    for path in (server, shared, own):
        path.touch()
    (tmp_path / ".rpmmacros").write_text(f"%_dbpath {tmp_path}/db\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, files in (("app-server", (server, shared)), ("app-tools", (shared,))):
        spec = tmp_path / f"{name}.spec"
        text = OWNING.format(name=name, files=" ".join(map(str, files)), lines="\n".join(map(str, files)))
        spec.write_text(text, encoding="utf-8")
        defined = ("--define", f"_topdir {tmp_path}/top", "--define", f"_rpmdir {tmp_path}")
        printed("rpmbuild", *defined, "-bb", str(spec))
        printed("rpm", "--install", "--justdb", "--nodeps", *map(str, tmp_path.glob(f"noarch/{name}-*.rpm")))
    owners = portspec.agent.Owners(dict(os.environ), {"rpm": (str(tmp_path / "db"),)})
    owner = portspec.agent.Owner("app-server", "2:1.0-3.el9", "app-server")
    assert owners.of(sorted(map(str, (server, own)))) == ({str(server): owner}, "")
    found, why = owners.of(sorted(map(str, (server, shared, own, gone))))
    assert (found[str(server)], why) == (owner, "")
    assert found[str(shared)].package in {"app-server", "app-tools"}
    assert found.keys() == {str(server), str(shared)}
