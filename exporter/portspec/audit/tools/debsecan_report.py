"""The report format of debsecan: sections of vulnerabilities, each with the packages that have it."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Final

from portspec.audit.tools.debsecan_notes import read_notes
from portspec.audit.tools.draft import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.audit.tools.draft import Draft

_BUG = re.compile(r"([A-Z][A-Za-z]{1,15}-[!-~]{1,60})(?: .*)?", re.DOTALL)
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,200}")
_CLEAN: Final = "No known vulnerabilities were found on the system."
_CLEAN_OF_FIXED: Final = "No known vulnerabilities for which updates are available were found"
_FIXED: Final = "*** Fixed vulnerabilities"
_INVALID: Final = "*** Packages with invalid versions"
_SECTIONS: Final = {
    "*** New security updates",
    "*** Available security updates",
    "*** New vulnerabilities",
    "*** Vulnerabilities without updates",
    "*** Vulnerabilities",
    _FIXED,
    _INVALID,
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
_EXPECTED: Final = "a line of debsecan's report"


class _Reader:
    """Reads line by line; an item is a list of packages, which may be wrapped."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
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
            if self._draft.is_lost:
                break
        self._close_item()

    def _read_line(self, number: int, line: str) -> None:
        if line in _SECTIONS:
            self._section, self._bug = line, ""
            self.has_fixed = self.has_fixed or line == _FIXED
        elif line == _CLEAN:
            self.is_clean = True
        elif line == _CLEAN_OF_FIXED:
            self._draft.fail("debsecan --only-fixed says nothing of vulnerabilities without updates; run it without")
        elif line in _PROSE:
            self._bug = ""
        elif line.startswith("  - ") and self._section == _INVALID:
            self._draft.doubt(f"debsecan could not check a package, since its version is invalid: {quote(line[4:])}")
        elif line.startswith("  - ") and self._bug:
            self._item, self._item_number = [line[4:].strip()], number
        elif line.startswith("  <") and line.endswith(">") and self._bug:
            self._url = line[3:-1]
        elif self._section and (found := _BUG.fullmatch(line)):
            self._bug, self._url = found[1], ""
            self._title = html.unescape(line[len(self._bug) + 1 :])
        else:
            self._draft.strange(number, line, _EXPECTED)

    def _close_item(self) -> None:
        text, self._item = " ".join(self._item), []
        if not text or self._section == _FIXED:
            return
        notes = ""
        if text.endswith(")"):
            text, _, notes = text[:-1].rpartition("(")
        worst = read_notes(self._draft, self._item_number, notes)
        for package in filter(None, (word.strip() for word in text.split(","))):
            if not _PACKAGE.fullmatch(package):
                self._draft.strange(self._item_number, package, "the name of a Debian package")
                continue
            self.has_vulnerabilities = True
            self._draft.add(package, "", [self._bug], severity=worst, title=self._title, url=self._url)


def read_report(draft: Draft, lines: Iterator[tuple[int, str]], *, is_proven: bool) -> None:
    """Read the lines after the first. `is_proven` says that debsecan is known to have come to its end."""
    reader = _Reader(draft)
    reader.read(lines)
    if reader.is_clean and reader.has_vulnerabilities:
        draft.fail(f"the report lists vulnerabilities, and says {quote(_CLEAN)}")
    elif not (reader.is_clean or reader.has_vulnerabilities or (reader.has_fixed and is_proven)):
        draft.fail(f"the report has no vulnerabilities, yet does not say {quote(_CLEAN)}")
