"""Reads debsecan 0.4.18 to 0.4.20 in the formats summary, simple, detail and report.

debsecan exits with 0 whether it found something or not; with 1 on errors; with 2 if it cannot open a file, which it
reports on standard output. In the formats summary, simple and detail it prints nothing if there are no vulnerabilities.
It also prints nothing if --cron could not download or has run on that day already, and if --mailto sees no change. So
an empty output is failed unless it has the end marker, which the agent adds when debsecan itself exited with 0.
"""

from __future__ import annotations

import html
import re
from itertools import chain
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope, Severity
from portspec.audit.tools.coverage import arguments_of
from portspec.audit.tools.output import end_marker_of, ends_with_newline, numbered_lines, split_end_marker
from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.audit.tools.result import ResultBuilder

END_MARKER: Final = end_marker_of("debsecan")

_SYSTEMS_WITH_DATA: Final = {"debian", "raspbian"}
# The options that do not restrict what debsecan prints. Any other one does, or makes debsecan do something else, and it
# exits with 0 nevertheless (--only-fixed, --no-obsolete, --status, --add-whitelist). optparse accepts prefixes of them.
_HARMLESS_OPTIONS: Final = (
    "--format",
    "--suite",
    "--source",
    "--config",
    "--history",
    "--line-length",
    "--disable-https-check",
)
_ERROR: Final = "error: "
_INVALID_VERSION: Final = ("error: invalid version ", "error: invalid source version ")

# The formats summary, simple and detail.
_BUG = r"([A-Z][A-Za-z]{1,15}-[!-~]{1,60})"
_SUMMARY = re.compile(rf"{_BUG} ([a-z0-9][a-z0-9.+-]{{0,200}})(?: \(([a-z, ]{{1,100}})\))?")
_DETAIL = re.compile(rf"{_BUG}(?: \(([a-z, ]{{1,100}})\))?")
_FIXED_IN: Final = ("fixed in unstable: ", "fixed on branch: ")
_REMARKS: Final = ("(built from ", "package is obsolete", "fix is available for the selected suite")
_EXPECTED: Final = "a vulnerability in the format summary, detail or report"
_NOTES: Final = {
    "fixed": Severity.UNKNOWN,  # there is an update; the formats that have notes do not name its version
    "remotely exploitable": Severity.UNKNOWN,
    "obsolete": Severity.UNKNOWN,
    "low urgency": Severity.LOW,
    "medium urgency": Severity.MEDIUM,
    "high urgency": Severity.HIGH,
}

# The format report.
_REPORT_HEADER: Final = "Security report based on "
_REPORT_BUG = re.compile(rf"{_BUG}(?: .*)?", re.DOTALL)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,200}")
_CLEAN: Final = "No known vulnerabilities were found on the system."
_CLEAN_OF_FIXED: Final = "No known vulnerabilities for which updates are available were found"
_FIXED_SECTION: Final = "*** Fixed vulnerabilities"
_INVALID_SECTION: Final = "*** Packages with invalid versions"
_SECTIONS: Final = {
    "*** New security updates",
    "*** Available security updates",
    "*** New vulnerabilities",
    "*** Vulnerabilities without updates",
    "*** Vulnerabilities",
    _FIXED_SECTION,
    _INVALID_SECTION,
}
_PROSE: Final = {
    "If you specify a proper suite, this report will include information",
    "regarding available security updates and obsolete packages.  To set",
    'the correct suite, run "dpkg-reconfigure debsecan" as root.',
    "Note that some packages were marked as obsolete.  To deal with the",
    "vulnerabilities in them, you need to remove them.  Before you can do",
    "this, you may have to upgrade other packages depending on them.",
    "However, some bugs have been whitelisted.",
    "Note that some vulnerablities have been whitelisted and are not included",  # sic
    "in this report.",
    "The following non-official packages have invalid versions and cannot",
    "be classified correctly:",
    "on the system.",
}
_EXPECTED_IN_REPORT: Final = "a line of debsecan's report"


def read(result: ResultBuilder) -> None:
    """Read the output of debsecan."""
    run = result.run
    result.covers(Scope.SYSTEM)
    if run.system and run.system.id not in _SYSTEMS_WITH_DATA:
        result.mark_unsupported(f"debsecan only has data for packages of Debian, not of {run.system.spelled}")
    _check_options(result)
    body, has_end_marker = split_end_marker(run.output, END_MARKER)
    for line in run.errors.splitlines():
        if line.startswith(_INVALID_VERSION):
            result.mark_inconclusive(f"debsecan could not check a package: {quote(line)}")
        elif line.startswith(_ERROR):
            result.mark_inconclusive(f"debsecan reports {quote(line)}")
    lines = numbered_lines(body)
    first = next(lines, None)
    if first is None:
        if not has_end_marker:
            result.no_output(f"vulnerabilities, or the last line {quote(END_MARKER)}")
            return
    elif first[1].startswith(_ERROR):
        result.fail(f"debsecan reports {quote(first[1])}")
    elif first[1].startswith(_REPORT_HEADER):
        _read_report(result, lines, has_end_marker=has_end_marker)
    else:
        _read_records(result, chain([first], lines))
    if not has_end_marker and not ends_with_newline(body):
        result.fail("the output is truncated in its last line")
    result.complete(clean=(0,), vulnerable=(0,))


def _check_options(result: ResultBuilder) -> None:
    """Check for options that hide vulnerabilities of this host."""
    for word in arguments_of(result.run.command, "debsecan"):
        option = word.partition("=")[0]
        if option.startswith("--") and not any(each.startswith(option) for each in _HARMLESS_OPTIONS):
            result.mark_inconclusive(
                f"with {quote(option)} debsecan does not list all vulnerabilities; run it without this option"
            )


def _read_notes(result: ResultBuilder, number: int, notes: str) -> Severity:
    """Return the severity in the notes of line `number`, such as "fixed, remotely exploitable, medium urgency".

    A note that debsecan does not print fails the result.
    """
    found = Severity.UNKNOWN
    for note in notes.split(", ") if notes else ():
        severity = _NOTES.get(note)
        if severity is None:
            result.fail(
                f'line {number} has the note {quote(note)}, expected "fixed", "… urgency" or another one of debsecan'
            )
        elif severity != Severity.UNKNOWN:
            found = severity
    return found


class _DetailRecord:
    """A record of the format detail."""

    def __init__(self, bug: str, severity: Severity) -> None:
        self.bug = bug
        self.severity = severity
        self.package = self.version = self.title = ""
        self.fixed_in: list[str] = []

    def read(self, text: str) -> bool:
        """Read a line. Return whether it belongs to the record."""
        if not self.package:
            if text.startswith("installed: "):
                self.package, _, self.version = text.removeprefix("installed: ").strip().partition(" ")
                return True
            is_title, self.title = not self.title, self.title or html.unescape(text)
            return is_title
        for prefix in _FIXED_IN:
            if text.startswith(prefix):
                self.fixed_in += text.removeprefix(prefix).split()[1:2]  # package, version, (source package)
                return True
        return text.startswith(_REMARKS)


def _read_records(result: ResultBuilder, lines: Iterable[tuple[int, str]]) -> None:
    """Read the formats summary and simple, which have the package in the line of the vulnerability, and detail."""
    record: _DetailRecord | None = None
    for number, line in lines:
        if record is not None and line.startswith("  ") and record.read(line.strip()):
            continue
        if not line.startswith("  "):
            _add(result, record)
            record = None
        if summary := _SUMMARY.fullmatch(line):
            bug, package, notes = summary.groups()
            result.add(package, "", [bug], severity=_read_notes(result, number, notes))
        elif detail := _DETAIL.fullmatch(line):
            record = _DetailRecord(detail[1], _read_notes(result, number, detail[2]))
        else:
            result.unexpected_line(number, line, _EXPECTED)
            if result.should_stop:
                break
    _add(result, record)


def _add(result: ResultBuilder, record: _DetailRecord | None) -> None:
    if record is None:
        return
    if not record.package:
        result.fail(f'the record of {quote(record.bug)} has no line "installed: "')
        return
    result.add(
        record.package,
        record.version,
        [record.bug],
        severity=record.severity,
        fixed_in=record.fixed_in,
        title=record.title,
    )


class _ReportReader:
    """Reads the format report: sections of vulnerabilities, each with an item that lists its packages.

    Long items continue on the next lines.
    """

    def __init__(self, result: ResultBuilder) -> None:
        self._result = result
        self._section = ""
        self._bug = self._title = self._url = ""
        self._item: list[str] = []
        self._item_number = 0
        self.is_clean = self.has_vulnerabilities = self.has_fixed = False

    def read(self, lines: Iterator[tuple[int, str]]) -> None:
        """Read the lines after the first."""
        for number, line in lines:
            if line.startswith("    ") and self._item:
                self._item.append(line.strip())
            else:
                self._close_item()
                self._read_line(number, line)
            if self._result.should_stop:
                break
        self._close_item()

    def _read_line(self, number: int, line: str) -> None:
        if line in _SECTIONS:
            self._section, self._bug = line, ""
            self.has_fixed = self.has_fixed or line == _FIXED_SECTION
        elif line == _CLEAN:
            self.is_clean = True
        elif line == _CLEAN_OF_FIXED:
            self._result.fail("debsecan --only-fixed hides vulnerabilities without updates; run it without this option")
        elif line in _PROSE:
            self._bug = ""
        elif line.startswith("  - ") and self._section == _INVALID_SECTION:
            self._result.mark_inconclusive(
                f"debsecan could not check a package with invalid version: {quote(line[4:])}"
            )
        elif line.startswith("  - ") and self._bug:
            self._item, self._item_number = [line[4:].strip()], number
        elif line.startswith("  <") and line.endswith(">") and self._bug:
            self._url = line[3:-1]
        elif self._section and (found := _REPORT_BUG.fullmatch(line)):
            self._bug, self._url = found[1], ""
            self._title = html.unescape(line[len(self._bug) + 1 :])
        else:
            self._result.unexpected_line(number, line, _EXPECTED_IN_REPORT)

    def _close_item(self) -> None:
        text, self._item = " ".join(self._item), []
        if not text or self._section == _FIXED_SECTION:
            return
        notes = ""
        if text.endswith(")"):
            text, _, notes = text[:-1].rpartition("(")
        severity = _read_notes(self._result, self._item_number, notes)
        for package in filter(None, (word.strip() for word in text.split(","))):
            if not _PACKAGE.fullmatch(package):
                self._result.unexpected_line(self._item_number, package, "the name of a Debian package")
                continue
            self.has_vulnerabilities = True
            self._result.add(package, "", [self._bug], severity=severity, title=self._title, url=self._url)


def _read_report(result: ResultBuilder, lines: Iterator[tuple[int, str]], *, has_end_marker: bool) -> None:
    """Read the format report after its first line."""
    reader = _ReportReader(result)
    reader.read(lines)
    if reader.is_clean and reader.has_vulnerabilities:
        result.fail(f"the report lists vulnerabilities but says {quote(_CLEAN)}")
    elif not (reader.is_clean or reader.has_vulnerabilities or (reader.has_fixed and has_end_marker)):
        result.fail(f"the report lists no vulnerabilities but does not say {quote(_CLEAN)}")
