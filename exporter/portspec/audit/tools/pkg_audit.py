"""Reads `pkg audit` of all versions, as text and as JSON, and what FreeBSD's periodic(8) scripts print around it.

Exit status 0: nothing found; 1: found, or any error (since 1.16; before, errors had those of sysexits(3)). An error
comes without a summary and without JSON, so it is not mistaken for a vulnerability.

Text comes alone or from periodic(8)'s 410.pkg-audit and 405.pkg-base-audit. Until 1.15 each issue has a header and
begins in the first column; since 1.16 (src/audit.c, print_issue) a package has one header, and its issues are indented.
The summary counts packages until 1.10, then issues and packages. Each jail and each chroot has a report of its own; the
base system has two, of kernel and userland.

With -q (the default of 410.pkg-audit) there is no summary: the output is empty if there are no vulnerabilities, but
also if there is no package database, or if the output was lost. So an empty output is failed; a list of names is
vulnerable, without ids.

The periodic scripts exit with 3 or more for every vulnerability and failure, and with 1 after jails without
vulnerabilities (their `return $rc` with rc not set).

JSON is `pkg audit --raw=json` or --raw=json-compact (pkg 1.16 and later). If nothing is found it is {"pkg_count": 0},
because libucl omits null. With -q as well pkg drops all but one issue of each package (libpkg/pkg_audit.c: stop_quick),
which the output does not show: do not use it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.coverage import FREEBSD_KERNELS, arguments_of
from portspec.audit.tools.fields import (
    find_cves,
    find_vuxml_ids,
    is_name_version,
    parse_timestamp,
    split_name_version,
)
from portspec.audit.tools.json_reader import read_json
from portspec.audit.tools.output import ends_with_newline, numbered_lines
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.audit.tools.json_reader import JsonReader
    from portspec.audit.tools.result import ResultBuilder

# Options before the word audit; after it the same letters mean something else.
_OTHER_ROOT_OPTIONS: Final = ("-j", "-c", "-r", "--jail", "--chroot", "--rootdir")
_OPTIONS_WITH_VALUE: Final = {"-f", "--file"}
_NO_DATABASE: Final = ("pkg audit -F", "unable to open vulnxml file", "unable to open audit file")
_DOWNLOAD: Final = (  # what -F prints to standard output
    "Fetching ",
    "vulnxml file up-to-date",
    "Audit file up-to-date.",
    "http://portaudit.FreeBSD.org/auditfile.tbz ",
    "New vulnxml file installed",
)

_SUMMARY = re.compile(
    r"([0-9]{1,9}) problem\(s\) in (?:(?:your|the) installed packages|([0-9]{1,9}) (?:installed )?package\(s\)) found\."
)
_BANNERS: Final = {
    "Checking for packages with security vulnerabilities:": Scope.SYSTEM,
    "Checking for security vulnerabilities in base (userland & kernel):": Scope.BASE,
}
_NOTICES_WITHOUT_NEWLINE: Final = ("vulnxml file up-to-date", "Audit file up-to-date.")  # in pkg 1.5.0
_OTHER_FORMATS: Final = ("pkg_count = ", "pkg_count: ", "packages {", "packages:", "---")  # UCL and YAML
_PKG_NOT_USED: Final = "pkg-audit is enabled but pkg is not used"
_EXPIRY_TAGS: Final = (": Tag: expiration_date Value: ", ": Tag: deprecated Value: ")
_MAX_TITLE_LENGTH: Final = 2000  # characters
_RANGE: Final = ("<", ">", "=")
_EXPECTED: Final = 'a package that "is vulnerable:" or the summary of pkg audit'
_PERIODIC_ALERT: Final = 3  # exit status of the periodic scripts if they found something


def read(result: ResultBuilder) -> None:
    """Read the output of pkg audit."""
    run = result.run
    if run.system is not None and run.system.kernel not in FREEBSD_KERNELS:
        result.mark_unsupported(f"pkg audit only knows packages of FreeBSD, not of {run.system.spelled}")
    _check_command(result)
    for line in run.errors.splitlines():
        if _lacks_database(line):
            result.mark_stale(f"pkg has no vulnerability database: {quote(line)}")
    if not run.output.strip():
        if not result.is_stale:
            result.no_output("text or JSON of pkg audit")
        return
    start = 0 if run.output.startswith("{") else max(run.output.find(f"{end}{{") for end in "\n\r") + 1
    if run.output[start] == "{":
        _read_json_report(result, start)
    else:
        _read_text_report(result)


def _check_command(result: ResultBuilder) -> None:
    """Check that pkg looked at this host, not at a jail, and at all packages, not at those named in the command."""
    arguments = arguments_of(result.run.command, "pkg")
    if "audit" not in arguments:
        return
    at = arguments.index("audit")
    if option := next((word for word in arguments[:at] if word.startswith(_OTHER_ROOT_OPTIONS)), ""):
        result.mark_unsupported(f"with {quote(option)} pkg looked at a jail or another root, not at this host")
    names = [
        word
        for before, word in zip(arguments[at:], arguments[at + 1 :], strict=False)
        if not word.startswith(("-", "FreeBSD-")) and before not in _OPTIONS_WITH_VALUE
    ]
    if names:
        result.mark_inconclusive(
            f"pkg audit only looked at {quote(names[0])}, not at all installed packages; run it without names"
        )


def _scope_of(command: Sequence[str]) -> Scope:
    """Return what a run looked at: the base system if it has arguments such as FreeBSD-14.1_5, else packages."""
    return Scope.BASE if any(word.startswith("FreeBSD-") for word in command) else Scope.SYSTEM


def _fixed_version(affected: str) -> str:
    """Return the version at the end of an affected range such as ">= 1.0 : < 2.0"; "" if the range is open."""
    last = affected.rpartition(":")[2].strip()
    return last[1:].strip() if last.startswith("<") and not last.startswith("<=") else ""


def _is_download(line: str) -> bool:
    """Return whether a line is about a download by -F."""
    return line.startswith(_DOWNLOAD)


def _lacks_database(line: str) -> bool:
    """Return whether pkg says in a line that vuln.xml is missing or cannot be read."""
    return any(words in line for words in _NO_DATABASE)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _read_json_report(result: ResultBuilder, start: int) -> None:
    """Read the document that begins at `start`. Before it there may be lines about a download."""
    run = result.run
    for number, line in numbered_lines(run.output[:start]):
        if not _is_download(line) and not _lacks_database(line):
            result.unexpected_line(number, line, "JSON")
    root = read_json(run.output, result, start)
    if root is None:
        return
    result.covers(_scope_of(run.command))
    packages = root.object("packages")
    package_count = 0
    for name, package in packages.members():
        package_count += 1
        issue_count = 0
        for issue in package.objects("issues", is_required=True):
            issue_count += 1
            _add_issue(result, name, package.text("version"), issue)
        stated = package.integer("issue_count", is_required=True)
        if stated != issue_count:
            result.fail(f'packages."{name}": issue_count is {stated}, but there are {issue_count} issues')
        if not issue_count:
            result.add(name, package.text("version"), ())
    stated = root.integer("pkg_count", is_required=True)
    if stated != package_count:
        result.fail(f"pkg_count is {stated}, but there are {package_count} packages")
    result.complete(clean=(0,), vulnerable=(1,))


def _add_issue(result: ResultBuilder, name: str, version: str, issue: JsonReader) -> None:
    url = issue.text("url")
    ranges = issue.texts("Affected versions")
    result.add(
        name,
        version,
        issue.texts("cve") + find_cves(url),
        fixed_in=[fixed for each in ranges if (fixed := _fixed_version(each))],
        title=issue.text("description", is_required=True),
        url=url,
        advisories=find_vuxml_ids(url),
    )


# --- Text -------------------------------------------------------------------------------------------------------------


def _read_text_report(result: ResultBuilder) -> None:
    begin = result.run.output[:_MAX_TITLE_LENGTH]
    if any(line.startswith(_OTHER_FORMATS) for _, line in numbered_lines(begin)):
        result.fail("`pkg audit --raw` printed UCL or YAML, which portspec does not read; add --raw=json-compact")
    _TextReader(result).read(result.run.output)


@dataclass(slots=True)
class _Issue:
    title: str = ""
    url: str = ""
    cves: list[str] = field(default_factory=list)
    fixed_in: list[str] = field(default_factory=list)
    is_in_ranges: bool = False


class _TextReader:
    """Reads line by line. A report ends with its summary, a section (host, chroot, jail) with the next section."""

    def __init__(self, result: ResultBuilder) -> None:
        self._result = result
        self._package = ""  # the package of the issues that are being read
        self._issue: _Issue | None = None
        self._packages: dict[str, int] = {}  # of this report, with the number of their issues
        self._is_after_header = False
        self._has_names = self._has_tags = self._has_summary = self._lacks_database = False
        self._is_periodic = False
        self._scope = _scope_of(result.run.command)
        self._section = ""
        self._has_host = False
        self._has_report = False  # this section has a summary or a name
        self._section_without_report = ""  # the first one
        self._lacks_sections = False  # "Host system:" announces other sections, and none has followed so far

    def read(self, output: str) -> None:
        """Read the whole output."""
        for number, line in numbered_lines(output):
            self._read_line(number, line)
            if self._result.should_stop:
                break
        self._close_report("the output")
        self._close_section()
        if self._has_names:
            if not ends_with_newline(output):
                self._result.fail("the output is truncated in its last line")
        elif self._section_without_report and not self._lacks_database:
            self._result.fail(
                f'no summary line in {self._section_without_report}, expected "… problem(s) in … package(s) found." '
                "(without one, as with -q, a failed audit looks like a clean host)"
            )
        if self._lacks_sections:
            self._result.fail('"Host system:" announces chroots or jails, but none follows')
        may_alert = self._has_tags or self._lacks_database
        if not self._is_periodic:
            self._result.complete(clean=(0, 1) if self._lacks_database else (0,), vulnerable=(1,))
        else:
            self._result.complete(clean=(0, 1, _PERIODIC_ALERT) if may_alert else (0, 1), vulnerable=(_PERIODIC_ALERT,))

    def _read_line(self, number: int, line: str) -> None:
        for notice in _NOTICES_WITHOUT_NEWLINE:
            line = line.removeprefix(notice) or line
        text = line.strip()
        package = text.removesuffix(":").removesuffix(" is vulnerable")
        if package != text.removesuffix(":") and line == text and " " not in package:
            self._open_package(package)
        elif summary := _SUMMARY.fullmatch(text):
            self._check_summary(number, int(summary[1]), int(summary[2]) if summary[2] else None)
        elif self._package and self._read_issue(line, text):
            pass
        elif not self._read_frame(text) and not _is_download(text):
            if is_name_version(text) and line == text and not (self._package or self._has_summary):
                self._has_names = self._has_report = True
                self._cover()
                self._result.add(*split_name_version(text), ())
            else:
                self._result.unexpected_line(number, line, _EXPECTED)

    def _read_issue(self, line: str, text: str) -> bool:
        """Read a line. Return whether it belongs to an issue of the package."""
        issue = self._issue
        if text.startswith("Packages that depend on "):
            return True
        if issue is None:
            # The first issue follows the header, others are indented; a line in the first column is something else.
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
            if fixed := _fixed_version(text):
                issue.fixed_in.append(fixed)
        else:
            issue.title = f"{issue.title} {text}".strip()
            return len(issue.title) <= _MAX_TITLE_LENGTH
        return True

    def _read_frame(self, text: str) -> bool:
        """Read a line. Return whether it belongs to the frame around the reports."""
        if text in _BANNERS:
            self._is_periodic = True
            self._scope = _BANNERS[text]
        elif text.startswith("Database fetched: "):
            self._result.set_database_time(parse_timestamp(text.removeprefix("Database fetched: ")))
        elif text == "Host system:":
            self._open_section("the host system")
            self._has_host = True
            self._lacks_sections = True
        elif text.startswith(("chroot: ", "jail: ")):
            self._lacks_sections = False
            self._open_section(quote(text))
        elif text.startswith("ignoring jail: "):
            self._lacks_sections = False
        elif any(tag in text for tag in _EXPIRY_TAGS):
            self._has_tags = True
        elif text == _PKG_NOT_USED:
            self._result.fail("this host does not use pkg, so pkg audit cannot check anything")
        elif _lacks_database(text):
            self._lacks_database = True
            self._result.mark_stale(f"pkg has no vulnerability database: {quote(text)}")
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
        self._result.add(
            *split_name_version(self._package),
            issue.cves + find_cves(issue.url),
            fixed_in=issue.fixed_in,
            title=issue.title,
            url=issue.url,
            advisories=find_vuxml_ids(issue.url),
        )
        if not issue.title:
            self._result.fail(f"an issue of {quote(self._package)} has no title")

    def _check_summary(self, number: int, problems: int, packages: int | None) -> None:
        self._close_issue()
        issues = sum(self._packages.values())
        if packages is None:  # the summary counts packages only
            is_right = problems == len(self._packages)
        else:
            is_right = (problems, packages) == (issues, len(self._packages))
        if not is_right:
            words = f"the lines before it have {issues} in {len(self._packages)} package(s)"
            self._result.fail(f"the summary in line {number} counts {problems} problems, but {words}")
        if self._has_names:
            self._result.fail(f"line {number} is a summary, which cannot follow a list of package names")
        self._has_report = self._has_summary = True
        self._cover()
        self._close_report("", is_counted=True)

    def _cover(self) -> None:
        """Record what was looked at. Jails and chroots are not the host; with -q only "Host system:" shows the host."""
        if not self._section or self._has_host:
            self._result.covers(self._scope)

    def _close_report(self, place: str, *, is_counted: bool = False) -> None:
        self._close_issue()
        for package, issues in self._packages.items():
            if not issues:
                self._result.add(*split_name_version(package), ())
                self._result.fail(f"no issue follows the header of {quote(package)}")
        if self._packages and not is_counted:
            self._result.fail(f"{place} ends without a summary line of its last issues")
        self._packages, self._package = {}, ""

    def _open_section(self, name: str) -> None:
        self._close_report(self._section or "the host")
        if self._section or self._has_report:
            self._close_section()
        self._section, self._has_report = name, False

    def _close_section(self) -> None:
        if not self._has_report and not self._section_without_report:
            self._section_without_report = self._section or "the output"
