"""Reads portaudit(1), the shell script of 2004 to 2013, and its periodic(8) script.

Exit status 0: nothing found; 1: found; 2: the database is missing, corrupt or older than 14 days. Entries for the base
system (FreeBSD-<__FreeBSD_version>) are printed, but neither the summary nor the exit status counts them
(audit_installed in portaudit.sh). With -q there are names only and no summary, so that a clean host and a failed audit
look the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.coverage import FREEBSD_KERNELS
from portspec.audit.tools.fields import (
    find_cves,
    find_vuxml_ids,
    is_name_version,
    parse_timestamp,
    split_name_version,
)
from portspec.audit.tools.output import ends_with_newline, numbered_lines
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from portspec.audit.tools.result import ResultBuilder

_SUMMARY = re.compile(r"([0-9]{1,9}) problem\(s\)( in your installed packages)? found\.")
_BASE = re.compile(r"FreeBSD-[0-9]+")
_DATABASE_ERRORS: Final = ("database missing", "corrupt", "database too old", "no database", "download failed")
_OTHER_ERRORS: Final = ("portaudit: Can't", "portaudit: No Makefile", "Usage: ")
_NO_AUDIT: Final = 2  # exit status
_IGNORED: Final = (
    "Attempting to fetch from ",
    "Checking for packages with security vulnerabilities:",
    "Downloading fresh database.",
    "New database installed.",
    "Old database restored.",
    "You are advised to update or deinstall the affected package(s) immediately.",
    "auditfile.tbz ",
    "portaudit version ",
)
_EXPECTED: Final = "an entry or the summary of portaudit"


@dataclass(slots=True)
class _PortauditEntry:
    package: str
    title: str = ""
    references: list[str] = field(default_factory=list)


class _PortauditReader:
    """Reads line by line. `_entries` are the packages of the entries since the last summary."""

    def __init__(self, result: ResultBuilder) -> None:
        self._result = result
        self._entry: _PortauditEntry | None = None
        self._entries: list[str] = []
        self._names: list[str] = []
        self._has_summary = self._has_port = False

    def read(self, output: str) -> None:
        """Read the whole output."""
        for number, line in numbered_lines(output):
            self._read_line(number, line)
            if self._result.should_stop:
                break
        self._close_entry()
        is_without_audit = self._result.run.exit_status == _NO_AUDIT
        if not (self._has_summary or self._names or self._entries):
            if is_without_audit:
                return
            self._result.fail('no summary line, expected "… problem(s) in your installed packages found."')
        elif self._names and (self._has_summary or not ends_with_newline(output)):
            self._result.fail("the list of packages is truncated, or has an unexpected summary")
        elif self._entries:
            self._result.fail("the output ends without the summary of its last entries")
        self._result.complete(
            clean=(_NO_AUDIT,) if is_without_audit else (0,), vulnerable=(1,) if self._has_port else (0, 1)
        )

    def _read_line(self, number: int, line: str) -> None:
        key, colon, value = line.partition(": ")
        value = value.strip()
        if summary := _SUMMARY.fullmatch(line):
            self._check_summary(number, int(summary[1]), is_of_arguments=summary[2] is None)
        elif colon and key == "Affected package":
            self._close_entry()
            self._entry = _PortauditEntry(value.partition(" (matched by ")[0])
        elif self._entry is not None and colon and key in {"Type of problem", "Reference", "Note"}:
            if key == "Type of problem":
                self._entry.title = value.removesuffix(".")
            elif key == "Reference":
                self._entry.references.append(value.removeprefix("<").removesuffix(">"))
        elif colon and key == "Database created":
            self._result.set_database_time(parse_timestamp(value))
        elif _is_database_error(line):
            self._result.mark_stale(f"portaudit reports {quote(line)}")
        elif self._entry is None and is_name_version(line):
            self._names.append(line)
            self._has_port = self._has_port or not _BASE.fullmatch(line)
            self._result.add(*split_name_version(line), ())
        elif not line.startswith(_IGNORED):
            self._result.unexpected_line(number, line, _EXPECTED)

    def _close_entry(self) -> None:
        if (entry := self._entry) is None:
            return
        self._entry = None
        self._entries.append(entry.package)
        self._has_port = self._has_port or not _BASE.fullmatch(entry.package)
        self._result.add(
            *split_name_version(entry.package),
            [name for reference in entry.references for name in find_cves(reference)],
            title=entry.title,
            url=entry.references[0] if entry.references else "",
            advisories=[name for reference in entry.references for name in find_vuxml_ids(reference)],
        )
        if not entry.title:
            self._result.fail(f'the entry of {quote(entry.package)} has no "Type of problem"')

    def _check_summary(self, number: int, total: int, *, is_of_arguments: bool) -> None:
        self._close_entry()
        self._has_summary = True
        counts = {sum(not _BASE.fullmatch(package) for package in self._entries)}
        if is_of_arguments:  # -f counts entries; names on the command line count once each, including the base system
            counts |= {len(self._entries), len(set(self._entries))}
            self._result.mark_inconclusive(
                "portaudit looked at a list or at names of packages, not at the installed packages; run it with -a"
            )
        if total not in counts:
            self._result.fail(
                f"the summary in line {number} counts {total} problems, but the lines before it have {max(counts)}"
            )
        self._entries = []


def read(result: ResultBuilder) -> None:
    """Read the output of portaudit."""
    run = result.run
    result.covers(Scope.SYSTEM)
    if run.system is not None and run.system.kernel not in FREEBSD_KERNELS:
        result.mark_unsupported(f"portaudit only knows packages of FreeBSD, not of {run.system.spelled}")
    for line in run.errors.splitlines():
        if line.startswith(_OTHER_ERRORS):
            result.fail(f"portaudit reports {quote(line)}")
        elif _is_database_error(line):
            result.mark_stale(f"portaudit reports {quote(line)}")
    if run.exit_status != _NO_AUDIT and not run.output.strip():
        result.no_output("entries and a summary of portaudit")
        return
    _PortauditReader(result).read(run.output)
    if run.exit_status == _NO_AUDIT:
        result.mark_stale("the database of portaudit is missing, corrupt or too old (exit status 2)")


def _is_database_error(line: str) -> bool:
    return line.startswith("portaudit: ") and any(words in line.lower() for words in _DATABASE_ERRORS)
