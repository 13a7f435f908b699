"""What a reader has understood of a run so far, and the verdict that it comes to."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

from portspec.audit.model import CVE, RANKS, Audit, Scope, Severity, Status, Vulnerability
from portspec.errors import is_printable, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.audit.model import ToolRun

MAX_AGE: Final = 14 * 86400.0  # seconds; a database that is older is stale, as portaudit(1) has it
_LONGEST: Final = 500  # characters of a text that is kept: texts become labels, cells and lines of a mail
_LONGEST_REASON: Final = 400
_LONGEST_QUOTE: Final = 120
_FEW: Final = 3  # exit statuses that a reason names one by one
_MOST_FOUND: Final = 100_000  # vulnerabilities; a host with every package of Debian has fewer
_MOST_PATHS: Final = 20  # of a vulnerability: a library that hundreds of programs carry
_MOST_STRANGE_LINES: Final = 100  # an output with more of them is not the tool's; the rest of it is not looked at

_CVE_IN_OTHER_CASE = re.compile(CVE.pattern, re.IGNORECASE | re.ASCII)


@dataclass(slots=True)
class _Entry:
    """A vulnerability that may be found again, with more to tell."""

    severity: Severity
    title: str
    url: str
    aliases: set[str] = field(default_factory=set)
    advisories: set[str] = field(default_factory=set)
    paths: dict[str, None] = field(default_factory=dict)
    fixed_in: dict[str, None] = field(default_factory=dict)  # in the order of the tool, each once


class Draft:
    """The audit that a reader is making of a run.

    What a reader finds it adds, and with `covers` it says what the tool looked at. What speaks against the result it
    says as one of four, and the first of each counts:

    * `fail`: the output was not understood, or contradicts itself or the exit status;
    * `unsupported`: the tool has no data for the packages of this system, or did not look at them;
    * `doubt`: the output is understood, yet "nothing found" proves nothing;
    * `stale`: the tool's database is missing or old.

    A reader that came to the end of the output and found it whole says so with `end`. Only then may it be clean.
    """

    def __init__(self, run: ToolRun) -> None:
        self.run = run
        self.database_at: float | None = None
        self._found: dict[tuple[str, str, str], _Entry] = {}
        self._fault = self._unsupported = self._doubt = self._stale = ""
        self._scopes: set[Scope] = set()
        self._strange_lines = self._count = 0
        self._is_whole = False
        if run.is_truncated:
            self.fail(f"the output was cut off, it is longer than a report may be{self._said()}")
        elif run.exit_status is None:
            self.fail(f"the tool was ended by a signal, or could not be run{self._said()}")

    @property
    def is_lost(self) -> bool:
        """Tell whether reading on is pointless: the output has more than a tool's, or strange lines over and over."""
        return self._strange_lines > _MOST_STRANGE_LINES or self._count > _MOST_FOUND

    @property
    def is_stale(self) -> bool:
        """Tell whether the tool said that its database is missing or old."""
        return bool(self._stale)

    def add(  # noqa: PLR0913 - that much is told of a vulnerability
        self,
        package: str,
        version: str,
        ids: Iterable[str],
        *,
        severity: Severity = Severity.UNKNOWN,
        fixed_in: Iterable[str] = (),
        title: str = "",
        url: str = "",
        advisories: Iterable[str] = (),
        paths: Iterable[str] = (),
    ) -> None:
        """Add a vulnerability, or all of an advisory.

        Among `ids`, its names, a CVE speaks for it, else the first, else an advisory, else the title. With several
        CVEs there are as many vulnerabilities, and the other ids are those of an advisory that tells of all of them.

        A vulnerability that was added before (same package, version and id) takes up what is new: the worse severity,
        the other aliases, advisories, fixed versions and paths, a title and a URL if it had none.
        """
        known = dict.fromkeys(clean for each in ids if (clean := _name(each)))
        told_by = dict.fromkeys(clean for each in advisories if (clean := _name(each)))
        cves = [each for each in known if CVE.fullmatch(each)]
        others = [each for each in known if each not in cves and each not in told_by]
        title, url = plain(title), plain(url)
        if len(cves) > 1:
            told_by |= dict.fromkeys(others)
            others = []
        names = cves or others[:1] or list(told_by)[:1] or [title]
        fixed = [clean for each in fixed_in if (clean := plain(each))]
        files = [clean for each in islice(paths, _MOST_PATHS) if (clean := plain(each))]
        for name in names:
            self._count += 1
            if self._count > _MOST_FOUND:
                self.fail(f"the output has more than {_MOST_FOUND:,} vulnerabilities")
                return
            entry = self._found.setdefault((plain(package), plain(version), name), _Entry(severity, title, url))
            entry.severity = min(entry.severity, severity, key=RANKS.__getitem__)
            entry.title = entry.title or title
            entry.url = entry.url or url
            entry.aliases.update(each for each in others if each != name)
            entry.advisories.update(each for each in told_by if each != name)
            entry.fixed_in.update(dict.fromkeys(fixed))
            for path in files[: _MOST_PATHS - len(entry.paths)]:
                entry.paths[path] = None

    def covers(self, scope: Scope) -> None:
        """Say what the tool looked at, of which it may then be clean."""
        self._scopes.add(scope)

    def unsupported(self, reason: str) -> None:
        """Say why the tool cannot tell anything of the packages of this system; what was found all the same is kept."""
        self._unsupported = self._unsupported or _one_line(reason)

    def fail(self, reason: str) -> None:
        """Say that the output cannot be relied on, and why; where, too: a line or a path."""
        self._fault = self._fault or _one_line(reason)

    def doubt(self, reason: str) -> None:
        """Say why nothing found does not mean that there is nothing; it takes nothing from what was found."""
        self._doubt = self._doubt or _one_line(reason)

    def stale(self, reason: str) -> None:
        """Say that the database is missing or old; it takes nothing from what was found."""
        self._stale = self._stale or _one_line(reason)

    def strange(self, number: int, line: str, expected: str) -> None:
        """Fail for a line that does not belong where it stands."""
        self._strange_lines += 1
        if not self._fault:
            self.fail(f"line {number} is {quote(line)}, expected {expected}")

    def no_output(self, expected: str) -> None:
        """Fail for an output that has nothing in it, with what the tool said on standard error."""
        self.fail(f"no output, expected {expected}{self._ending()}")

    def database(self, made_at: float | None) -> None:
        """Tell when the database was made or fetched; of several the oldest counts. It is stale after MAX_AGE."""
        if made_at is not None and (self.database_at is None or made_at < self.database_at):
            self.database_at = made_at

    def end(self, *, clean: Sequence[int], found: Sequence[int]) -> None:
        """Say that the output was read whole, and with which exit statuses the tool says clean and found."""
        self._is_whole = True
        status = self.run.exit_status
        expected = found if self._found else clean
        if status is None or status not in expected:
            said = {0: "no vulnerability", 1: "a vulnerability"}.get(len(self._found), "vulnerabilities")
            words = f"{expected[0]} to {expected[-1]}" if len(expected) > _FEW else " or ".join(map(str, expected))
            self.fail(f"the output has {said}, which takes exit status {words}{self._ending()}")

    def audit(self) -> Audit:
        """Give the verdict: failed, unsupported, vulnerable, stale and clean, the first of these that holds.

        Vulnerabilities that were read are kept whatever the status. A stale database with vulnerabilities is
        vulnerable, and the reason tells of the database.
        """
        found = self._vulnerabilities()
        stale = self._stale or self._age()
        scopes = tuple(scope for scope in Scope if scope in self._scopes)
        without = Status.STALE_DATABASE if stale else Status.FAILED if self._doubt else Status.CLEAN
        status = Status.VULNERABLE if found else without
        reasons = [stale, self._doubt] if found else [stale or self._doubt]
        if self._fault or (not self._is_whole and not self._stale):
            status = without = Status.FAILED
            reasons = [self._fault or "the output could not be read to its end"]
        elif self._unsupported:
            status = without = Status.UNSUPPORTED
            reasons = [self._unsupported]
        return Audit(status, found, "; ".join(filter(None, reasons)), self.database_at, without, scopes)

    def _vulnerabilities(self) -> tuple[Vulnerability, ...]:
        entries = sorted(
            self._found.items(), key=lambda item: (RANKS[item[1].severity], item[0][0], item[0][2], item[0][1])
        )
        return tuple(
            Vulnerability(
                package,
                version,
                name,
                entry.severity,
                tuple(sorted(entry.aliases)),
                tuple(entry.fixed_in),
                entry.title,
                entry.url,
                tuple(sorted(entry.advisories)),
                tuple(entry.paths),
            )
            for (package, version, name), entry in entries
        )

    def _age(self) -> str:
        """Give how old the database was at the end of the run, if that is too old; "" if not, or not known."""
        age = self.run.ended_at - (self.database_at or 0.0)
        if self.database_at is None or not math.isfinite(age) or age <= MAX_AGE:
            return ""
        day = datetime.fromtimestamp(self.database_at, UTC).strftime("%Y-%m-%d")
        return f"the database is of {day}, {age / 86400:.0f} days old; update it"

    def _ending(self) -> str:
        """Give how the run ended: its exit status and the last line of standard error."""
        last = f", standard error ends with {quote(self._last)}" if self._last else ""
        return f" (exit status {self.run.exit_status}{last})"

    def _said(self) -> str:
        """Give what the agent says about that in the last line of standard error; "" if it says nothing."""
        return f": {quote(self._last)}" if self._last.startswith("portspec-send: ") else ""

    @property
    def _last(self) -> str:
        """The last line of standard error."""
        return self.run.errors[-10 * _LONGEST :].strip().rpartition("\n")[2]


def quote(text: str) -> str:
    """Quote what a tool wrote, cut to a length that fits a line."""
    text = plain(text)
    return f'"{text}"' if len(text) <= _LONGEST_QUOTE else f'"{text[:_LONGEST_QUOTE]}…"'


def plain(text: str) -> str:
    """Give a text as one line without control characters and halves of surrogate pairs, cut to 500 characters."""
    if len(text) <= _LONGEST and is_printable(text):
        return text.strip()
    text = printable(" ".join(text[: 2 * _LONGEST].split()))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _name(text: str) -> str:
    """Give an id; that of a CVE in capitals, however it is written, so that it is the same everywhere."""
    text = plain(text)
    return text.upper() if _CVE_IN_OTHER_CASE.fullmatch(text) else text


def _one_line(reason: str) -> str:
    return printable(" ".join(reason[: 2 * _LONGEST_REASON].split()))[:_LONGEST_REASON]
