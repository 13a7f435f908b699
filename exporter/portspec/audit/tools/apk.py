"""Reads `apk version -l '<=>?'` of apk-tools 2 and 3, followed by `apk version --indexes`, as the agent runs them.

apk compares each installed package with the versions in the repositories. It does not know which updates are security
updates: the secfixes of Alpine are in a file on a separate server, one for each release, not in the index. So each
finding is "update available", whatever the update is for.

A package that no repository has compares equal to itself ("="), so "no update" only counts if the indexes are there. An
index that is there has the description that it was built with. apk exits with 0 even if an index is missing; it only
prints a warning. Source: src/app_version.c (ver_print_package_status, ver_indexes).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.output import AGENT_PREFIX, end_marker_of, numbered_lines, read_marked_output
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from portspec.audit.tools.result import ResultBuilder

END_MARKER: Final = end_marker_of("apk")
INDEXES: Final = f"{AGENT_PREFIX}apk version --indexes"
UPDATE_AVAILABLE: Final = "update available"

_SYSTEMS_WITHOUT_APK: Final = ("debian", "ubuntu", "rhel", "fedora", "suse", "opensuse", "arch")
_HEADER = re.compile(r"Installed: +Available:")
_PACKAGE = re.compile(r"(\S{1,200})-([0-9][^\s-]{0,100}(?:-r[0-9]{1,10})?) +([<=>?]) (\S{1,200})(?: @\S{1,100})?")
_INDEX = re.compile(r"(.{0,200}) \[(\S{1,500})\]")  # a description, and the URL of the repository


class _ApkReader:
    def __init__(self, result: ResultBuilder) -> None:
        self._result = result
        self._packages = self._indexes = 0
        self._missing_indexes: list[str] = []
        self._has_header = self._is_in_indexes = False

    def read(self, body: str) -> None:
        """Read the packages and then the indexes."""
        for number, line in numbered_lines(body):
            if line == INDEXES and not self._is_in_indexes:
                self._is_in_indexes = True
            elif not (self._read_index(line) if self._is_in_indexes else self._read_package(line)):
                self._result.unexpected_line(number, line, "a package or an index, as printed by apk version")
                if self._result.should_stop:
                    break
        self._check_coverage()

    def _read_package(self, line: str) -> bool:
        if _HEADER.fullmatch(line) and not self._has_header:
            self._has_header = True
            return True
        found = _PACKAGE.fullmatch(line)
        if found is None:
            return False
        self._packages += 1
        name, installed, relation, available = found.groups()
        if relation == "<":
            self._result.add(name, installed, (), title=UPDATE_AVAILABLE, fixed_in=[available])
        elif relation == "?":
            self._result.mark_inconclusive(f"apk cannot compare the versions of {quote(name)}")
        return True

    def _read_index(self, line: str) -> bool:
        found = _INDEX.fullmatch(line)
        if found is None:
            return False
        if found[1].strip():
            self._indexes += 1
        else:
            self._missing_indexes.append(found[2])
        return True

    def _check_coverage(self) -> None:
        """Check what "no update" depends on: packages, and an index of each repository."""
        if not self._is_in_indexes:
            self._result.fail(f"the output has no indexes, expected {quote(INDEXES)} followed by its output")
        elif not self._indexes:
            self._result.mark_stale("apk has no repository index; run apk update")
        elif self._missing_indexes:
            self._result.mark_inconclusive(f"apk has no index of {quote(self._missing_indexes[0])}")
        if not self._packages:
            self._result.mark_inconclusive("apk lists no installed packages")


def read(result: ResultBuilder) -> None:
    """Read the output of apk."""
    result.covers(Scope.SYSTEM)
    system = result.run.system
    if system is not None and system.is_kin(*_SYSTEMS_WITHOUT_APK):
        result.mark_unsupported(f"apk only knows the packages of Alpine and its derivatives, not of {system.spelled}")
    for line in result.run.errors.splitlines():
        if line.startswith(("WARNING: ", "ERROR: ")):
            result.mark_inconclusive(f"apk reports {quote(line)}")
    read_marked_output(result, END_MARKER, "the output of apk version", _ApkReader(result).read)
