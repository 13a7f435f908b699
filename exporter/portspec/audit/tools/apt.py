"""Reads `apt-cache policy` of all installed packages, followed by `apt-cache policy` alone, as the agent runs them.

The first part has a version table for each package: the newest version first, *** before the installed one. A version
above the installed one that comes from a security pocket is a security update, whether apt would install it now or not:
it may be held, pinned or phased, or another pocket may have an even newer version. No CVE is printed.

The second part lists the sources with their releases, which show the security pockets. apt only lists those that it has
package lists for. The layout is the same since apt 0.8, except for priorities of versions (since 1.1) followed by
"(phased 10%)" (since 2.1.16). apt-cache exits with 0, on errors with 100.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.coverage import past_standard_support
from portspec.audit.tools.output import AGENT_PREFIX, end_marker_of, numbered_lines, read_marked_output
from portspec.audit.tools.result import quote
from portspec.audit.tools.ubuntu_pro import SECURITY_UPDATE

if TYPE_CHECKING:
    from portspec.audit.tools.result import ResultBuilder

END_MARKER: Final = end_marker_of("apt-cache")
SOURCES: Final = f"{AGENT_PREFIX}apt-cache policy"

_NAME = re.compile(r"([a-z0-9][a-z0-9+.-]{0,200}(?::[a-z0-9-]{1,40})?):")
_STATE = re.compile(r"  (Installed|Candidate|Package pin): (\S{1,200})")
_VERSION = re.compile(r" (\*\*\*|   ) (\S{1,200})(?: -?[0-9]{1,6})?(?: \(phased [0-9]{1,3}%\))?")
_ORIGIN = re.compile(r" {6,12}-?[0-9]{1,6} (\S.*)")
_SOURCE = re.compile(r" {0,3}-?[0-9]{1,6} (\S.*)")
_RELEASE_PREFIX: Final = "     release "
_PINNED: Final = "Pinned packages:"
_PRECEDING_SECTION: Final = {"Package files:": "", _PINNED: "Package files:"}
_PIN = re.compile(r" {5}\S+ -> \S+(?: with priority -?[0-9]{1,6})?")
_NOT_INSTALLED: Final = "(none)"
_STATUS_FILE: Final = "/dpkg/status"
_PACKAGE_LIST: Final = " Packages"  # not " Translation-en", which old versions list without a release
_FLAT_REPOSITORY: Final = " ./ "  # has no distributions, and may have no Release file
_SYSTEMS_WITH_VERSIONS: Final = {"debian", "ubuntu"}  # their VERSION_ID is the version of their pockets


@dataclass(slots=True)
class _InstalledPackage:
    """A package, and the sources of each version above the installed one."""

    name: str
    installed: str = ""
    newer: dict[str, list[str]] = field(default_factory=dict)
    has_installed_row: bool = False  # the version table has been read down to the installed version


class _VersionTables:
    """The version tables of the packages."""

    def __init__(self) -> None:
        self.packages: list[_InstalledPackage] = []
        self.origins: set[str] = set()  # of all versions
        self._version = ""

    def read(self, line: str) -> bool:
        """Read a line. Return whether it belongs to a version table."""
        if name := _NAME.fullmatch(line):
            self.packages.append(_InstalledPackage(name[1]))
            self._version = ""
            return True
        return bool(self.packages) and self._read_row(self.packages[-1], line)

    def _read_row(self, package: _InstalledPackage, line: str) -> bool:
        if state := _STATE.fullmatch(line):
            is_duplicate = state[1] == "Installed" and package.installed
            package.installed = state[2] if state[1] == "Installed" else package.installed
            return not is_duplicate
        if version := _VERSION.fullmatch(line):
            self._version = version[2]
            if version[1] == "***":
                is_expected = not package.has_installed_row and self._version == package.installed
                package.has_installed_row = True
                return is_expected
            if not package.has_installed_row:
                package.newer.setdefault(self._version, [])
        elif self._version and (origin := _ORIGIN.fullmatch(line)):
            self.origins.add(origin[1])
            if not package.has_installed_row:
                package.newer[self._version].append(origin[1])
        else:
            return line == "  Version table:"
        return True


class _PackageSources:
    """The sources, with the fields of their releases: a(rchive), n(ame), o(rigin), l(abel), c(omponent), v(ersion)."""

    def __init__(self) -> None:
        self.releases: dict[str, dict[str, str]] = {}
        self._source = self.section = ""

    def read(self, line: str) -> bool:
        """Read a line. Return whether it belongs to the list of sources."""
        if _PRECEDING_SECTION.get(line) == self.section:
            self.section, self._source = line, ""
            return True
        if self.section == _PINNED:
            return _PIN.fullmatch(line) is not None
        source = _SOURCE.fullmatch(line)
        if source and source[1] not in self.releases:
            self._source = source[1]
            self.releases[self._source] = {}
            return bool(self.section)
        if line.startswith(_RELEASE_PREFIX) and self._source and not self.releases[self._source]:
            pairs = (part.partition("=") for part in line.removeprefix(_RELEASE_PREFIX).split(","))
            self.releases[self._source] = {key: value for key, _, value in pairs}
            return True
        return bool(self._source) and line.startswith("     origin ")


class _AptReader:
    def __init__(self, result: ResultBuilder) -> None:
        self._result = result
        self._tables = _VersionTables()
        self._sources: _PackageSources | None = None

    def read(self, body: str) -> None:
        """Read the version tables and then the sources."""
        for number, line in numbered_lines(body):
            if line == SOURCES and self._sources is None:
                self._sources = _PackageSources()
            elif not (self._sources or self._tables).read(line):
                self._result.unexpected_line(number, line, "a package or a source, as printed by apt-cache policy")
                if self._result.should_stop:
                    break
        self._add_updates()

    def _add_updates(self) -> None:
        """Add the updates from security pockets, and check that both parts of the output are complete."""
        if self._sources is None or self._sources.section != _PINNED:
            self._result.fail(f"the output has no sources, expected {quote(SOURCES)} followed by its output")
        sources = self._sources.releases if self._sources else {}
        pockets = {source for source, release in sources.items() if _is_security_pocket(release)}
        for package in self._tables.packages:
            if package.installed == _NOT_INSTALLED:
                continue
            updates = [version for version, origins in package.newer.items() if not pockets.isdisjoint(origins)]
            if updates:
                self._result.add(package.name, package.installed, (), title=SECURITY_UPDATE, fixed_in=updates)
            if not (package.installed and package.has_installed_row):
                self._result.fail(f"the version table of {quote(package.name)} has no installed version")
        if unknown := sorted(self._tables.origins - set(sources)):
            self._result.fail(f"a version comes from {quote(unknown[0])}, which is not among the sources")
        for source, release in sources.items():
            if not release and source.endswith(_PACKAGE_LIST) and _FLAT_REPOSITORY not in source:
                self._result.mark_inconclusive(
                    f"apt does not know the release of {quote(source)}, which may be a security pocket"
                )
        if all(package.installed == _NOT_INSTALLED for package in self._tables.packages):
            self._result.mark_inconclusive("apt-cache lists no installed packages")
        self._check_pockets(sources, [sources[source] for source in pockets])

    def _check_pockets(self, sources: dict[str, dict[str, str]], pockets: list[dict[str, str]]) -> None:
        """Check what "no update" depends on: lists of the security pockets of this system and release."""
        result, system = self._result, self._result.run.system
        if all(source.endswith(_STATUS_FILE) for source in sources):
            result.mark_stale("apt has no package lists; run apt-get update")
            return
        spelled = system.spelled if system is not None else "this system"
        own = [each for each in pockets if system is None or system.is_kin(each.get("o", "").lower())]
        if not own:
            result.mark_unsupported(
                f"apt has no package lists of a security pocket of {spelled}, such as bookworm-security"
            )
        elif system is not None and system.id in _SYSTEMS_WITH_VERSIONS and system.version:
            versions = {each.get("v", "") for each in own}
            if not any(_is_version(version, system.version) for version in versions):
                result.mark_inconclusive(
                    f"the security pocket is of version {', '.join(sorted(versions))}, but this host is {spelled}"
                )
        own_origins = {each.get("o", "") for each in own}
        components = {each.get("c", "") for each in sources.values() if each.get("o") in own_origins}
        if "universe" in components - {each.get("c", "") for each in own}:
            result.mark_inconclusive("apt has no package list of universe in the security pocket")
        release = past_standard_support(result.run)
        if release and not any(each.get("o") == "UbuntuESM" for each in pockets):
            result.mark_inconclusive(
                f"{release} only gets security updates from Ubuntu Pro (esm-infra), which apt has no package list of"
            )


def read(result: ResultBuilder) -> None:
    """Read the output of apt-cache."""
    result.covers(Scope.SYSTEM)
    for line in result.run.errors.splitlines():
        if line.startswith(("W: ", "E: ")):
            result.mark_inconclusive(f"apt-cache reports {quote(line)}")
    read_marked_output(result, END_MARKER, "the output of apt-cache policy", _AptReader(result).read)


def _is_security_pocket(release: dict[str, str]) -> bool:
    """Return whether a source is a security pocket: bookworm-security, jammy-security, jammy-infra-security."""
    return release.get("l") == "Debian-Security" or any(release.get(key, "").endswith("-security") for key in "an")


def _is_version(release: str, version: str) -> bool:
    """Return whether the version of a release is that of a system; Debian's may be a point release, as 12.5."""
    return release == version or release.startswith(f"{version}.")
