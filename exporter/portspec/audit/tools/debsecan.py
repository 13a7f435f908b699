"""debsecan in the formats summary, simple, detail and report (0.4.18 to 0.4.20).

It ends with 0 whether it found something or not, with 1 on errors and with 2 for files that cannot be opened (which it
says on standard output). It prints nothing for a host without vulnerabilities in summary, simple and detail, and
nothing as well when --cron could not download or had run before that day, and when --mailto sees no change. So no
output is failed, unless the last line of the output is END_MARKER, which our agent adds when debsecan itself ended with 0.
"""

from __future__ import annotations

import html
import re
from itertools import chain
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Scope
from portspec.audit.tools.debsecan_notes import read_notes
from portspec.audit.tools.debsecan_report import read_report
from portspec.audit.tools.draft import quote
from portspec.audit.tools.lines import ends_whole, numbered_lines
from portspec.audit.tools.options import words_of
from portspec.audit.tools.proof import proof_of, split_proof

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.audit.model import Severity
    from portspec.audit.tools.draft import Draft

END_MARKER: Final = proof_of("debsecan")

_WITH_DATA: Final = {"debian", "raspbian"}
# Those that take nothing from what it tells; any other does, or has it do something else, and it ends with 0 all the
# same (--only-fixed, --no-obsolete, --status, --add-whitelist). They may be shortened, as optparse has it.
_HARMLESS: Final = (
    "--format",
    "--suite",
    "--source",
    "--config",
    "--history",
    "--line-length",
    "--disable-https-check",
)
_BUG = r"([A-Z][A-Za-z]{1,15}-[!-~]{1,60})"
_SUMMARY = re.compile(rf"{_BUG} ([a-z0-9][a-z0-9.+-]{{0,200}})(?: \(([a-z, ]{{1,100}})\))?")
_RECORD = re.compile(rf"{_BUG}(?: \(([a-z, ]{{1,100}})\))?")
_FIXED: Final = ("fixed in unstable: ", "fixed on branch: ")
_REMARKS: Final = ("(built from ", "package is obsolete", "fix is available for the selected suite")
_EXPECTED: Final = "a vulnerability in one of the formats summary, detail and report"


class _Record:
    """A record of the detail format."""

    def __init__(self, bug: str, severity: Severity) -> None:
        self.bug = bug
        self.severity = severity
        self.package = self.version = self.title = ""
        self.fixed_in: list[str] = []

    def take(self, text: str) -> bool:
        """Take a line of the record; tell whether it is one."""
        if not self.package:
            if text.startswith("installed: "):
                self.package, _, self.version = text.removeprefix("installed: ").strip().partition(" ")
                return True
            is_title, self.title = not self.title, self.title or html.unescape(text)
            return is_title
        for prefix in _FIXED:
            if text.startswith(prefix):
                self.fixed_in += text.removeprefix(prefix).split()[1:2]  # package, version, (source package)
                return True
        return text.startswith(_REMARKS)


def read(draft: Draft) -> None:
    """Read what debsecan printed."""
    run = draft.run
    draft.covers(Scope.SYSTEM)
    if run.system and run.system.id not in _WITH_DATA:
        draft.unsupported(f"debsecan has no data for packages of {run.system.spelled}, only for those of Debian")
    _judge_options(draft)
    body, is_proven = split_proof(run.output, END_MARKER)
    for line in run.errors.splitlines():
        if line.startswith(("error: invalid version ", "error: invalid source version ")):
            draft.doubt(f"debsecan could not check a package: {quote(line)}")
        elif line.startswith("error: "):
            draft.doubt(f"debsecan says {quote(line)}")
    lines = numbered_lines(body)
    first = next(lines, None)
    if first is None:
        if not is_proven:
            draft.no_output(f"vulnerabilities, or the last line {quote(END_MARKER)}")
            return
    elif first[1].startswith("error: "):
        draft.fail(f"debsecan says {quote(first[1])}")
    elif first[1].startswith("Security report based on "):
        read_report(draft, lines, is_proven=is_proven)
    else:
        _read_records(draft, chain([first], lines))
    if not is_proven and not ends_whole(body):
        draft.fail("the output is cut off within its last line")
    draft.end(clean=(0,), found=(0,))


def _judge_options(draft: Draft) -> None:
    """Say which option keeps debsecan from telling all vulnerabilities of this host."""
    for word in words_of(draft.run.command, "debsecan"):
        option = word.partition("=")[0]
        if option.startswith("--") and not any(each.startswith(option) for each in _HARMLESS):
            draft.doubt(f"debsecan {quote(option)} has it tell not all of this host's vulnerabilities; run it without")


def _read_records(draft: Draft, lines: Iterable[tuple[int, str]]) -> None:
    """Read summary, simple and detail, which differ by the package in the line of the vulnerability."""
    record: _Record | None = None
    for number, line in lines:
        if record is not None and line.startswith("  ") and record.take(line.strip()):
            continue
        if not line.startswith("  "):
            _add(draft, record)
            record = None
        if summary := _SUMMARY.fullmatch(line):
            bug, package, notes = summary.groups()
            draft.add(package, "", [bug], severity=read_notes(draft, number, notes))
        elif head := _RECORD.fullmatch(line):
            record = _Record(head[1], read_notes(draft, number, head[2]))
        else:
            draft.strange(number, line, _EXPECTED)
            if draft.is_lost:
                break
    _add(draft, record)


def _add(draft: Draft, record: _Record | None) -> None:
    if record is None:
        return
    if not record.package:
        draft.fail(f'the record of {quote(record.bug)} has no line "installed: "')
        return
    draft.add(
        record.package,
        record.version,
        [record.bug],
        severity=record.severity,
        fixed_in=record.fixed_in,
        title=record.title,
    )
