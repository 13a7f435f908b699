"""A real apt, with sources, lists and a package database of its own: what it says of a security pocket."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.audit.model import Scope, Status, Vulnerability
from portspec.audit.payload import read_payload
from portspec.audit.tools import parse
from tests.e2e.audits import Agent, Done, configure, key, payload_of, run, status
from tests.e2e.exporter import exporter, until
from tests.requirements import missing

if TYPE_CHECKING:
    from pathlib import Path

    from portspec.audit.model import Audit
    from portspec.audit.payload import AuditPayload

HOST: Final = "db1.example.org"
TITLE: Final = "security update available"
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Package:
    """A version of a package, as a list and dpkg's status have it."""

    name: str
    version: str
    state: str = "install ok installed"

    def stanza(self, *fields: str) -> str:
        """Return its paragraph."""
        lines = (f"Package: {self.name}", f"Version: {self.version}", "Architecture: all", "Maintainer: t <t@e.org>")
        return "\n".join((*lines, *fields, "Description: for the tests", "", ""))


OLD, OTHER, NEW = Package("example", "1.0-1"), Package("other", "3-1"), Package("example", "1.0-1+u1")


class Apt:
    """An apt that knows nothing of this machine's packages, and a repository of files that it gets its lists from."""

    def __init__(self, directory: Path, release: dict[str, str]) -> None:
        self.directory = directory
        self._release = release
        self.codename = release["VERSION_CODENAME"]
        self._repository = directory / "repository"
        for path in ("etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "state/lists/partial", "cache"):
            (directory / path).mkdir(parents=True)
        self.config = directory / "apt.conf"
        settings = {
            "Dir": f"{directory}/",
            "Dir::Etc": "etc",
            "Dir::Cache": "cache",
            "Dir::State": "state",
            "Dir::State::status": f"{directory}/dpkg/status",
            "APT::Sandbox::User": "",
            "APT::Architecture": "amd64",
            "Acquire::Languages": "none",
        }
        lines = [f'{name} "{value}";\n' for name, value in settings.items()]
        self.config.write_text("".join(lines), encoding="utf-8")
        self.source(self.codename, f"{self.codename}-security")

    def source(self, *suites: str) -> None:
        """Let it have some suites of the repository for sources."""
        lines = [f"deb [trusted=yes] file:{self._repository} {suite} main\n" for suite in suites]
        (self.directory / "etc/sources.list").write_text("".join(lines), encoding="utf-8")

    def publish(self, suite: str, *packages: Package, version: str | None = None, age: float = 0.0) -> None:
        """Put a list of packages into the repository, made `age` seconds ago."""
        place = self._repository / "dists" / suite
        (place / "main/binary-amd64").mkdir(parents=True, exist_ok=True)
        text = "".join(
            each.stanza(f"Filename: pool/{each.name}.deb", "Size: 1", f"SHA256: {'0' * 64}") for each in packages
        )
        (place / "main/binary-amd64/Packages").write_text(text, encoding="utf-8")
        origin = self._release["ID"].capitalize()
        fields = {
            "Origin": origin,
            "Label": f"{origin}-Security" if suite.endswith("-security") and origin == "Debian" else origin,
            "Suite": suite,
            "Codename": suite,
            "Version": version or self._release["VERSION_ID"],
            "Date": datetime.fromtimestamp(time.time() - age, UTC).strftime("%a, %d %b %Y %H:%M:%S UTC"),
            "Architectures": "amd64",
            "Components": "main",
            "SHA256": f"\n {hashlib.sha256(text.encode()).hexdigest()} {len(text)} main/binary-amd64/Packages",
        }
        release = place / "Release"
        release.write_text("".join(f"{name}: {value}\n" for name, value in fields.items()), encoding="utf-8")
        os.utime(release, (0, time.time() - age))

    def update(self) -> None:
        """Get the lists."""
        done = run("apt-get", "update", environment={"PATH": os.defpath, "APT_CONFIG": str(self.config), "LC_ALL": "C"})
        assert done.code == 0, done

    def forget(self) -> None:
        """Lose the lists."""
        for path in (self.directory / "state/lists").glob("*Release"):
            path.unlink()
        for path in (self.directory / "state/lists").glob("*Packages*"):
            path.unlink()

    def install(self, *packages: Package) -> None:
        """Write dpkg's status."""
        (self.directory / "dpkg").mkdir(exist_ok=True)
        text = "".join(each.stanza(f"Status: {each.state}") for each in packages)
        (self.directory / "dpkg/status").write_text(text, encoding="utf-8")

    def audit(self, command: str = "") -> tuple[Audit, AuditPayload]:
        """Run the agent with it, in its own way or with a command; return what the server makes of the payload."""
        directory = self.directory / f"agent-{time.monotonic_ns()}"
        agent = Agent(directory, HOST, "0" * 64)
        agent.configure(tool="apt", command=command)
        payload = read_payload(payload_of(self.run(agent, "--dry-run")))
        return parse(*payload.runs), payload

    def run(self, agent: Agent, *arguments: str) -> Done:
        """Run an agent that finds this apt."""
        return agent.send(*arguments, APT_CONFIG=str(self.config))


@pytest.fixture
def apt(tmp_path: Path) -> Apt:
    """Return an apt on whose host two packages are installed, with lists of the release and of its security pocket."""
    for program in ("apt-cache", "apt-get", "apt-config"):
        if shutil.which(program) is None:
            missing(f"{program} (Debian: apt) is not installed")
    release = platform.freedesktop_os_release()
    if release["ID"] not in {"debian", "ubuntu"} or "VERSION_ID" not in release:
        missing("this is no release of Debian or Ubuntu, whose security pocket apt could have")
    found = Apt(tmp_path / "apt", release)
    found.install(OLD, OTHER)
    found.publish(found.codename, OLD, OTHER)
    found.publish(f"{found.codename}-security", NEW)
    return found


def update_of(package: Package, *fixed: Package) -> Vulnerability:
    """Return what is found of a package for which the pocket has some versions."""
    return Vulnerability(
        package.name, package.version, TITLE, title=TITLE, fixed_in=tuple(each.version for each in fixed)
    )


def test_update_of_the_security_pocket_is_found_until_it_is_installed(apt: Apt) -> None:
    """It is a finding without a CVE; afterwards the host is clean, and its packages are what was looked at."""
    apt.update()
    audit, payload = apt.audit()
    assert (audit.status, audit.vulnerabilities) == (Status.VULNERABLE, (update_of(OLD, NEW),))
    assert payload.runs[0].command[1:] == ("policy", "?installed")
    assert (payload.runs[0].errors.count("\n"), audit.reason) == (1, "")
    apt.install(NEW, OTHER)
    audit, _ = apt.audit()
    assert (audit.status, audit.reason, audit.scopes) == (Status.CLEAN, "", (Scope.SYSTEM,))


def test_packages_may_be_named(apt: Apt) -> None:
    """That is how apt before 2.0 is asked, and comes to the same."""
    apt.update()
    command = "apt-cache policy example other"
    assert apt.audit(command)[0] == apt.audit()[0]
    apt.install(NEW, OTHER)
    assert apt.audit(command)[0].status == Status.CLEAN


def test_update_is_found_whatever_holds_it_back(apt: Apt) -> None:
    """A package that is held, pinned away or has a newer version of another suite lacks the update all the same."""
    newest = Package("example", "2.0-1")
    apt.install(replace(OLD, state="hold ok installed"), OTHER)
    apt.publish(apt.codename, OTHER, newest)
    (apt.directory / "etc/preferences").write_text(
        "Package: *\nPin: release n=*-security\nPin-Priority: -1\n", encoding="utf-8"
    )
    apt.update()
    audit, _ = apt.audit()
    assert (audit.status, audit.vulnerabilities) == (Status.VULNERABLE, (update_of(OLD, NEW),))


def test_package_that_is_removed_but_for_its_configuration_is_none(apt: Apt) -> None:
    """Of a package that is not there nothing is to be updated."""
    apt.install(replace(OLD, state="deinstall ok config-files"), OTHER)
    apt.update()
    assert apt.audit()[0].status == Status.CLEAN


def test_without_a_security_pocket_nothing_is_known(apt: Apt) -> None:
    """An apt that is up to date with other suites says nothing of security."""
    apt.source(apt.codename)
    apt.update()
    audit, _ = apt.audit()
    assert (audit.status, audit.vulnerabilities) == (Status.UNSUPPORTED, ())
    assert audit.reason.startswith("apt has no package lists of a security pocket of ")


def test_pocket_of_another_release_is_not_that_of_this_one(apt: Apt) -> None:
    """After an upgrade to the next release the old pocket has nothing that is newer."""
    apt.install(NEW, OTHER)
    apt.publish(f"{apt.codename}-security", NEW, version="1")
    apt.update()
    audit, _ = apt.audit()
    assert audit.status == Status.FAILED
    assert audit.reason.startswith("the security pocket is of version 1, but this host is ")


def test_lists_that_are_missing_make_nothing_clean(apt: Apt) -> None:
    """Before the first `apt-get update`, and where the lists were deleted, as in an image of a container."""
    apt.install(NEW, OTHER)
    assert apt.audit()[0].status == Status.STALE_DATABASE
    apt.update()
    assert apt.audit()[0].status == Status.CLEAN
    apt.forget()
    assert apt.audit()[0].status == Status.STALE_DATABASE


@pytest.mark.parametrize(("days", "expected"), [(13, Status.CLEAN), (15, Status.STALE_DATABASE)])
def test_lists_grow_old(apt: Apt, days: int, expected: Status) -> None:
    """Lists that nobody brings up to date, or of a pocket that nobody serves any more, prove nothing in the end."""
    apt.install(NEW, OTHER)
    apt.publish(f"{apt.codename}-security", NEW, age=days * DAY)
    apt.update()
    audit, _ = apt.audit()
    assert audit.status == expected
    assert audit.database_at is not None
    assert abs(time.time() - days * DAY - audit.database_at) < DAY


def test_database_of_packages_that_cannot_be_read_failed(apt: Apt) -> None:
    """apt-cache ends with an error, and nothing is taken for clean."""
    apt.update()
    (apt.directory / "dpkg/status").write_text("Package example\n\nVersion\n", encoding="utf-8")
    audit, _ = apt.audit()
    assert audit.status == Status.FAILED


def test_update_shows_in_the_metrics(apt: Apt, tmp_path: Path) -> None:
    """A payload of apt counts its packages, and the series name the update."""
    apt.update()
    conf = configure(tmp_path / "conf.yml", [HOST])
    agent = Agent(tmp_path / "here", HOST, key(conf, HOST))
    with exporter(conf) as service:
        service.wait_until_ready()
        agent.configure(url=f"http://{service.address}", tool="apt", command="")
        done = apt.run(agent)
        assert (done.code, done.errors) == (0, "")
        until(lambda: status(service, HOST) == "vulnerable")
        series: dict[str, dict[str, Any]] = service.series()
        assert series["portspec_audit_vulnerable_packages"] == {f'host="{HOST}"': 1.0}
        found = f'fixed_version="1.0-1+u1",host="{HOST}",id="{TITLE}",package="example"'
        labels = f'class="plan",{found},severity="unknown",version="1.0-1"'
        assert series["portspec_audit_vulnerability"] == {labels: 1.0}
