"""`apt-cache policy` of all installed packages, followed by that of the sources, as our agent runs them.

The version table of a package has the newest version first and *** before the installed one. A version above it that
a security pocket has is a security update, whether apt would install it today or not: it may be held, pinned, phased,
or have a newer one of another pocket above it. No CVE is told. The sources tell which pockets there are: apt lists only
those of which it has the lists. The layout is the same since apt 0.8 but for priorities of versions (since 1.1), and
"(phased 10%)" after them (since 2.1.16). apt-cache ends with 0, and with 100 for errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.draft import quote
from portspec.audit.tools.lines import numbered_lines
from portspec.audit.tools.proof import MARK, proof_of, read_proven
from portspec.audit.tools.ubuntu import past_support
from portspec.audit.tools.ubuntu_pro import UPDATE

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft

END_MARKER: Final = proof_of("apt-cache")
SOURCES: Final = f"{MARK}apt-cache policy"

_NAME = re.compile(r"([a-z0-9][a-z0-9+.-]{0,200}(?::[a-z0-9-]{1,40})?):")
_STATE = re.compile(r"  (Installed|Candidate|Package pin): (\S{1,200})")
_VERSION = re.compile(r" (\*\*\*|   ) (\S{1,200})(?: -?[0-9]{1,6})?(?: \(phased [0-9]{1,3}%\))?")
_ORIGIN = re.compile(r" {6,12}-?[0-9]{1,6} (\S.*)")
_SOURCE = re.compile(r" {0,3}-?[0-9]{1,6} (\S.*)")
_RELEASE: Final = "     release "
_PINNED: Final = "Pinned packages:"
_SECTIONS: Final = {"Package files:": "", _PINNED: "Package files:"}  # each after which other one
_PIN = re.compile(r" {5}\S+ -> \S+(?: with priority -?[0-9]{1,6})?")
_STATUS: Final = "/dpkg/status"
_PACKAGES: Final = " Packages"  # and not " Translation-en", which old versions list without its release
_FLAT: Final = " ./ "  # a repository without distributions, which may have no Release file
_WITH_VERSIONS: Final = {"debian", "ubuntu"}  # whose VERSION_ID is that of their pockets


@dataclass(slots=True)
class _Package:
    """A package, and of the versions above the installed one where apt gets them."""

    name: str
    installed: str = ""
    newer: dict[str, list[str]] = field(default_factory=dict)
    is_listed: bool = False  # its version table has come to the installed version


class _Tables:
    """The version tables of the installed packages."""

    def __init__(self) -> None:
        self.packages: list[_Package] = []
        self.origins: set[str] = set()  # of all versions
        self._version = ""

    def read(self, line: str) -> bool:
        """Take a line; tell whether it is one of a table."""
        if name := _NAME.fullmatch(line):
            self.packages.append(_Package(name[1]))
            self._version = ""
            return True
        return bool(self.packages) and self._read(self.packages[-1], line)

    def _read(self, package: _Package, line: str) -> bool:
        if state := _STATE.fullmatch(line):
            is_told_twice = state[1] == "Installed" and package.installed
            package.installed = state[2] if state[1] == "Installed" else package.installed
            return not is_told_twice
        if version := _VERSION.fullmatch(line):
            self._version = version[2]
            if version[1] == "***":
                is_expected = not package.is_listed and self._version == package.installed
                package.is_listed = True
                return is_expected
            if not package.is_listed:
                package.newer.setdefault(self._version, [])
        elif self._version and (origin := _ORIGIN.fullmatch(line)):
            self.origins.add(origin[1])
            if not package.is_listed:
                package.newer[self._version].append(origin[1])
        else:
            return line == "  Version table:"
        return True


class _Sources:
    """Where apt gets packages, with the fields of their releases: a(rchive), n(ame), o(rigin), l(abel), c(omponent)."""

    def __init__(self) -> None:
        self.releases: dict[str, dict[str, str]] = {}
        self._source = self.section = ""

    def read(self, line: str) -> bool:
        """Take a line; tell whether it is one of the sources."""
        if _SECTIONS.get(line) == self.section:
            self.section, self._source = line, ""
            return True
        if self.section == _PINNED:
            return _PIN.fullmatch(line) is not None
        source = _SOURCE.fullmatch(line)
        if source and source[1] not in self.releases:
            self._source = source[1]
            self.releases[self._source] = {}
            return bool(self.section)
        if line.startswith(_RELEASE) and self._source and not self.releases[self._source]:
            pairs = (part.partition("=") for part in line.removeprefix(_RELEASE).split(","))
            self.releases[self._source] = {key: value for key, _, value in pairs}
            return True
        return bool(self._source) and line.startswith("     origin ")


class _Reader:
    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._tables = _Tables()
        self._sources: _Sources | None = None

    def read(self, body: str) -> None:
        """Read all lines, and judge: the version tables, then the sources."""
        for number, line in numbered_lines(body):
            if line == SOURCES and self._sources is None:
                self._sources = _Sources()
            elif not (self._sources or self._tables).read(line):
                self._draft.strange(number, line, "what apt-cache policy prints of a package, or of a source")
                if self._draft.is_lost:
                    break
        self._judge()

    def _judge(self) -> None:
        """Say which packages have an update of a security pocket, and whether there is one that counts."""
        if self._sources is None or self._sources.section != _PINNED:
            self._draft.fail(f"the output has no sources, expected {quote(SOURCES)} and what it prints")
        sources = self._sources.releases if self._sources else {}
        pockets = {text for text, release in sources.items() if _is_security(release)}
        for package in self._tables.packages:
            if package.installed == "(none)":
                continue
            updates = [each for each, origins in package.newer.items() if not pockets.isdisjoint(origins)]
            if updates:
                self._draft.add(package.name, package.installed, (), title=UPDATE, fixed_in=updates)
            if not (package.installed and package.is_listed):
                self._draft.fail(f"the version table of {quote(package.name)} has no installed version")
        if unknown := sorted(self._tables.origins - set(sources)):
            self._draft.fail(f"{quote(unknown[0])} is where a version comes from, yet is not among the sources")
        for text, release in sources.items():
            if not release and text.endswith(_PACKAGES) and _FLAT not in text:
                self._draft.doubt(f"apt tells no release of {quote(text)}, which may be a security pocket")
        if all(package.installed == "(none)" for package in self._tables.packages):
            self._draft.doubt("apt-cache told of no installed package")
        self._judge_pockets(sources, [sources[text] for text in pockets])

    def _judge_pockets(self, sources: dict[str, dict[str, str]], pockets: list[dict[str, str]]) -> None:
        """Say what is missing for "no update" to mean anything."""
        draft, system = self._draft, self._draft.run.system
        if all(text.endswith(_STATUS) for text in sources):
            draft.stale("apt has no lists of packages; run apt-get update")
            return
        spelled = system.spelled if system is not None else "this system"
        own = [each for each in pockets if system is None or system.is_kin(each.get("o", "").lower())]
        if not own:
            draft.unsupported(f"apt has no lists of a security pocket of {spelled}, such as bookworm-security")
        elif system is not None and system.id in _WITH_VERSIONS and system.version:
            versions = {each.get("v", "") for each in own}
            if not any(_is_version(version, system.version) for version in versions):
                draft.doubt(f"the security pocket is of version {', '.join(sorted(versions))}, this is {spelled}")
        ours = {each.get("o", "") for each in own}
        components = {each.get("c", "") for each in sources.values() if each.get("o") in ours}
        if "universe" in components - {each.get("c", "") for each in own}:
            draft.doubt("apt has no list of universe of the security pocket")
        release = past_support(draft.run)
        if release and not any(each.get("o") == "UbuntuESM" for each in pockets):
            draft.doubt(f"{release} gets security updates only with Ubuntu Pro (esm-infra), which apt has no list of")


def read(draft: Draft) -> None:
    """Read what apt-cache printed."""
    draft.covers(Scope.SYSTEM)
    for line in draft.run.errors.splitlines():
        if line.startswith(("W: ", "E: ")):
            draft.doubt(f"apt-cache says {quote(line)}")
    read_proven(draft, END_MARKER, "what apt-cache policy prints", _Reader(draft).read)


def _is_security(release: dict[str, str]) -> bool:
    """Tell whether a source is a security pocket: bookworm-security, jammy-security, jammy-infra-security."""
    return release.get("l") == "Debian-Security" or any(release.get(key, "").endswith("-security") for key in "an")


def _is_version(release: str, version: str) -> bool:
    """Tell whether a release's version is that of a system; Debian's may have its point release, as 12.5."""
    return release == version or release.startswith(f"{version}.")
