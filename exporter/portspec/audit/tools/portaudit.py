"""portaudit(1), the shell script of 2004 to 2013, and its periodic(8) script.

Exit status 0: nothing found, 1: found, 2: the database is missing, corrupt or older than 14 days. Entries for the base
system (FreeBSD-<__FreeBSD_version>) are printed but neither counted in the summary nor told by the exit status
(audit_installed in portaudit.sh). -q prints names only and no summary, so there nothing found looks like nothing done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.draft import quote
from portspec.audit.tools.freebsd import KERNELS, cves_of, entries_of, is_package, split_package
from portspec.audit.tools.lines import ends_whole, numbered_lines
from portspec.audit.tools.moment import read_moment

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft

_SUMMARY = re.compile(r"([0-9]{1,9}) problem\(s\)( in your installed packages)? found\.")
_BASE = re.compile(r"FreeBSD-[0-9]+")
_NO_DATABASE: Final = ("database missing", "corrupt", "database too old", "no database", "download failed")
_OTHER_TROUBLE: Final = ("portaudit: Can't", "portaudit: No Makefile", "Usage: ")
_NO_AUDIT: Final = 2  # the exit status
_NOISE: Final = (
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
class _Entry:
    package: str
    title: str = ""
    references: list[str] = field(default_factory=list)


class _Reader:
    """Reads line by line; `entries` are those that no summary has counted yet."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._entry: _Entry | None = None
        self._entries: list[str] = []
        self._names: list[str] = []
        self._has_summary = self._has_other_entries = False

    def read(self, output: str) -> None:
        """Read the whole output."""
        for number, line in numbered_lines(output):
            self._read_line(number, line)
            if self._draft.is_lost:
                break
        self._close_entry()
        is_refused = self._draft.run.exit_status == _NO_AUDIT
        if not (self._has_summary or self._names or self._entries):
            if is_refused:
                return
            self._draft.fail('no summary line, expected "… problem(s) in your installed packages found."')
        elif self._names and (self._has_summary or not ends_whole(output)):
            self._draft.fail("the list of packages is cut off, or has a summary that it should not have")
        elif self._entries:
            self._draft.fail("the output ends without the summary of its last entries")
        self._draft.end(clean=(_NO_AUDIT,) if is_refused else (0,), found=(1,) if self._has_other_entries else (0, 1))

    def _read_line(self, number: int, line: str) -> None:
        key, colon, value = line.partition(": ")
        value = value.strip()
        if summary := _SUMMARY.fullmatch(line):
            self._count(number, int(summary[1]), is_of_arguments=summary[2] is None)
        elif colon and key == "Affected package":
            self._close_entry()
            self._entry = _Entry(value.partition(" (matched by ")[0])
        elif self._entry is not None and colon and key in {"Type of problem", "Reference", "Note"}:
            if key == "Type of problem":
                self._entry.title = value.removesuffix(".")
            elif key == "Reference":
                self._entry.references.append(value.removeprefix("<").removesuffix(">"))
        elif colon and key == "Database created":
            self._draft.database(read_moment(value))
        elif line.startswith("portaudit: ") and any(word in line.lower() for word in _NO_DATABASE):
            self._draft.stale(f"portaudit says {quote(line)}")
        elif self._entry is None and is_package(line):
            self._names.append(line)
            self._has_other_entries = self._has_other_entries or not _BASE.fullmatch(line)
            self._draft.add(*split_package(line), ())
        elif not line.startswith(_NOISE):
            self._draft.strange(number, line, _EXPECTED)

    def _close_entry(self) -> None:
        if (entry := self._entry) is None:
            return
        self._entry = None
        self._entries.append(entry.package)
        self._has_other_entries = self._has_other_entries or not _BASE.fullmatch(entry.package)
        self._draft.add(
            *split_package(entry.package),
            [name for reference in entry.references for name in cves_of(reference)],
            title=entry.title,
            url=entry.references[0] if entry.references else "",
            advisories=[name for reference in entry.references for name in entries_of(reference)],
        )
        if not entry.title:
            self._draft.fail(f'the entry of {quote(entry.package)} has no "Type of problem"')

    def _count(self, number: int, said: int, *, is_of_arguments: bool) -> None:
        self._close_entry()
        self._has_summary = True
        counts = {sum(not _BASE.fullmatch(package) for package in self._entries)}
        if is_of_arguments:  # -f counts the entries, names on the command line count as one each, the base too
            counts |= {len(self._entries), len(set(self._entries))}
            self._draft.doubt("portaudit looked at what it was given, not at the installed packages; run it with -a")
        if said not in counts:
            self._draft.fail(
                f"the summary in line {number} counts {said} problems, the lines before it have {max(counts)}"
            )
        self._entries = []


def read(draft: Draft) -> None:
    """Read what portaudit printed."""
    run = draft.run
    draft.covers(Scope.SYSTEM)
    if run.system is not None and run.system.kernel not in KERNELS:
        draft.unsupported(f"portaudit knows packages of FreeBSD, not those of {run.system.spelled}")
    for line in run.errors.splitlines():
        if line.startswith(_OTHER_TROUBLE):
            draft.fail(f"portaudit says {quote(line)}")
        elif line.startswith("portaudit: ") and any(word in line.lower() for word in _NO_DATABASE):
            draft.stale(f"portaudit says {quote(line)}")
    if run.exit_status != _NO_AUDIT and not run.output.strip():
        draft.no_output("entries and a summary of portaudit")
        return
    _Reader(draft).read(run.output)
    if run.exit_status == _NO_AUDIT:
        draft.stale("portaudit's database is missing, corrupt or too old (exit status 2)")
