"""The text of `pkg audit`, of all generations, alone or in that of periodic(8)'s 410.pkg-audit and 405.pkg-base-audit.

Until 1.15 each issue has a header and stands at the margin; since 1.16 (src/audit.c, print_issue) a package has one
header and its issues are indented. The summary counts packages until 1.10, then both issues and packages. Each jail and
each chroot has a report of its own; the base system has two, of kernel and userland.

With -q (the default of 410.pkg-audit) there is no summary: a host without findings, one without a package database and
one whose output was lost print the same nothing. That is failed; a list of names is vulnerable, without ids.

The periodic scripts end with 3 or more for every finding and failure, and with 1 after jails without findings (their
`return $rc` with rc not set).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.draft import quote
from portspec.audit.tools.freebsd import (
    cves_of,
    entries_of,
    fixed_version,
    is_package,
    scope_of,
    split_package,
)
from portspec.audit.tools.lines import ends_whole, numbered_lines
from portspec.audit.tools.moment import read_moment

if TYPE_CHECKING:
    from portspec.audit.tools.draft import Draft

_SUMMARY = re.compile(
    r"([0-9]{1,9}) problem\(s\) in (?:(?:your|the) installed packages|([0-9]{1,9}) (?:installed )?package\(s\)) found\."
)
_BANNERS: Final = {
    "Checking for packages with security vulnerabilities:": Scope.SYSTEM,
    "Checking for security vulnerabilities in base (userland & kernel):": Scope.BASE,
}
_FETCH: Final = (
    "Fetching ",
    "vulnxml file up-to-date",
    "Audit file up-to-date.",
    "http://portaudit.FreeBSD.org/auditfile.tbz ",
    "New vulnxml file installed",
)
_NOTICES: Final = ("vulnxml file up-to-date", "Audit file up-to-date.")
_OTHER_FORMATS: Final = ("pkg_count = ", "pkg_count: ", "packages {", "packages:", "---")  # UCL, and YAML
_NO_DATABASE: Final = ("pkg audit -F", "unable to open vulnxml file", "unable to open audit file")
_NOT_USED: Final = "pkg-audit is enabled but pkg is not used"
_TAGS: Final = (": Tag: expiration_date Value: ", ": Tag: deprecated Value: ")
_LONGEST_TITLE: Final = 2000  # characters
_RANGE: Final = ("<", ">", "=")
_EXPECTED: Final = 'a package that "is vulnerable:" or the summary of pkg audit'
_ALERT: Final = 3  # the exit status of the periodic scripts for what they found


@dataclass(slots=True)
class _Issue:
    title: str = ""
    url: str = ""
    cves: list[str] = field(default_factory=list)
    fixed_in: list[str] = field(default_factory=list)
    is_in_ranges: bool = False


class _Reader:
    """Reads line by line. A report ends with its summary, a section (host, chroot, jail) with the next one."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._package = ""  # whose issues are being read
        self._issue: _Issue | None = None
        self._packages: dict[str, int] = {}  # of this report, with the number of their issues
        self._is_after_header = False
        self._has_names = self._has_tags = self._has_summary = self._lacks_database = False
        self._is_periodic = False
        self._scope = scope_of(draft.run.command)
        self._section = ""
        self._has_host = False
        self._is_proven = False  # this section has had a summary or a name
        self._unproven = ""  # the first section without
        self._lacks_sections = False  # "Host system:" was there, which announces others

    def read(self, output: str) -> None:
        """Read the whole output."""
        for number, line in numbered_lines(output):
            self._read_line(number, line)
            if self._draft.is_lost:
                break
        self._close_report("the output")
        self._close_section()
        if self._has_names:
            if not ends_whole(output):
                self._draft.fail("the output is cut off within its last line")
        elif self._unproven and not self._lacks_database:
            self._draft.fail(
                f'no summary line in {self._unproven}, expected "… problem(s) in … package(s) found." '
                "(without one, as with -q, a failed audit looks like a clean host)"
            )
        if self._lacks_sections:
            self._draft.fail('"Host system:" announces chroots or jails, but none follows')
        may_alert = self._has_tags or self._lacks_database
        if not self._is_periodic:
            self._draft.end(clean=(0, 1) if self._lacks_database else (0,), found=(1,))
        else:
            self._draft.end(clean=(0, 1, _ALERT) if may_alert else (0, 1), found=(_ALERT,))

    def _read_line(self, number: int, line: str) -> None:
        for notice in _NOTICES:  # pkg 1.5.0 ends them with no line end
            line = line.removeprefix(notice) or line
        text = line.strip()
        package = text.removesuffix(":").removesuffix(" is vulnerable")
        if package != text.removesuffix(":") and line == text and " " not in package:
            self._open_package(package)
        elif summary := _SUMMARY.fullmatch(text):
            self._count(number, int(summary[1]), int(summary[2]) if summary[2] else None)
        elif self._package and self._read_issue(line, text):
            pass
        elif not self._read_frame(text) and not is_fetch(text):
            if is_package(text) and line == text and not (self._package or self._has_summary):
                self._has_names = self._is_proven = True
                self._cover()
                self._draft.add(*split_package(text), ())
            else:
                self._draft.strange(number, line, _EXPECTED)

    def _read_issue(self, line: str, text: str) -> bool:
        """Take a line of the package's issues; tell whether it is one."""
        issue = self._issue
        if text.startswith("Packages that depend on "):
            return True
        if issue is None:
            # The first issue follows its header, another one is indented; at the margin stands something else.
            if not (self._is_after_header or line.startswith("  ")):
                return False
            issue = self._issue = _Issue()
        if text.startswith("CVE: "):
            issue.cves.append(text.removeprefix("CVE: ").strip())
        elif text.startswith("WWW: "):
            issue.url = text.removeprefix("WWW: ").strip()
            self._close_issue()
        elif text == "Affected versions:":
            issue.is_in_ranges = True
        elif issue.is_in_ranges and not issue.title and text.startswith(_RANGE):
            if fixed := fixed_version(text):
                issue.fixed_in.append(fixed)
        else:
            issue.title = f"{issue.title} {text}".strip()
            return len(issue.title) <= _LONGEST_TITLE
        return True

    def _read_frame(self, text: str) -> bool:
        """Take a line that frames the reports; tell whether it is one."""
        if text in _BANNERS:
            self._is_periodic = True
            self._scope = _BANNERS[text]
        elif text.startswith("Database fetched: "):
            self._draft.database(read_moment(text.removeprefix("Database fetched: ")))
        elif text == "Host system:":
            self._open_section("the host system")
            self._has_host = True
            self._lacks_sections = True
        elif text.startswith(("chroot: ", "jail: ")):
            self._lacks_sections = False
            self._open_section(quote(text))
        elif text.startswith("ignoring jail: "):
            self._lacks_sections = False
        elif any(tag in text for tag in _TAGS):
            self._has_tags = True
        elif text == _NOT_USED:
            self._draft.fail("pkg is not used on this host, so that pkg audit cannot tell anything")
        elif lacks_database(text):
            self._lacks_database = True
            self._draft.stale(f"pkg has no database of vulnerabilities: {quote(text)}")
        else:
            return False
        return True

    def _open_package(self, package: str) -> None:
        self._close_issue()
        self._package, self._is_after_header = package, True
        self._packages.setdefault(package, 0)

    def _close_issue(self) -> None:
        issue, self._issue = self._issue, None
        self._is_after_header = False
        if issue is None:
            return
        self._packages[self._package] += 1
        self._draft.add(
            *split_package(self._package),
            issue.cves + cves_of(issue.url),
            fixed_in=issue.fixed_in,
            title=issue.title,
            url=issue.url,
            advisories=entries_of(issue.url),
        )
        if not issue.title:
            self._draft.fail(f"an issue of {quote(self._package)} has no title")

    def _count(self, number: int, said: int, said_packages: int | None) -> None:
        self._close_issue()
        issues = sum(self._packages.values())
        expected = (said, len(self._packages)) if said_packages is None else (said, said_packages)
        read = (len(self._packages), len(self._packages)) if said_packages is None else (issues, len(self._packages))
        if expected != read:
            words = f"the lines before it have {issues} in {len(self._packages)} package(s)"
            self._draft.fail(f"the summary in line {number} counts {said} problems, {words}")
        if self._has_names:
            self._draft.fail(f"line {number} is a summary, which does not go with the list of packages before it")
        self._is_proven = self._has_summary = True
        self._cover()
        self._close_report("", is_counted=True)

    def _cover(self) -> None:
        """Say what was looked at; a jail or a chroot is not the host, which with -q is told of by a headline alone."""
        if not self._section or self._has_host:
            self._draft.covers(self._scope)

    def _close_report(self, place: str, *, is_counted: bool = False) -> None:
        self._close_issue()
        for package, issues in self._packages.items():
            if not issues:
                self._draft.add(*split_package(package), ())
                self._draft.fail(f"no issue of {quote(package)} follows its header")
        if self._packages and not is_counted:
            self._draft.fail(f"{place} ends without a summary line of its last issues")
        self._packages, self._package = {}, ""

    def _open_section(self, name: str) -> None:
        self._close_report(self._section or "the host")
        if self._section or self._is_proven:
            self._close_section()
        self._section, self._is_proven = name, False

    def _close_section(self) -> None:
        if not self._is_proven and not self._unproven:
            self._unproven = self._section or "the output"


def read(draft: Draft) -> None:
    """Read the text."""
    begin = draft.run.output[:_LONGEST_TITLE]
    if any(line.startswith(_OTHER_FORMATS) for _, line in numbered_lines(begin)):
        draft.fail("the output is that of `pkg audit --raw` in UCL or YAML, which is not read: add --raw=json-compact")
    _Reader(draft).read(draft.run.output)


def is_fetch(line: str) -> bool:
    """Tell whether a line is what -F prints, to standard output, of its download."""
    return line.startswith(_FETCH)


def lacks_database(line: str) -> bool:
    """Tell whether pkg says in a line that there is no vuln.xml, or none that it may read."""
    return any(words in line for words in _NO_DATABASE)
