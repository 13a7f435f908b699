"""The result of a run: what a reader has understood of it so far, and the status that follows.

Read the class docstring of ResultBuilder first. `merge` makes one audit of the results of a host's runs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

from portspec.audit.model import CVE, RANKS, Audit, Scope, Severity, Status, Vulnerability
from portspec.errors import is_printable, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.audit.model import ToolRun

MAX_DATABASE_AGE: Final = 14 * 86400.0  # seconds; portaudit(1) has the same limit
_MAX_TEXT_LENGTH: Final = 500  # characters; texts become labels, table cells and lines of a mail
_MAX_REASON_LENGTH: Final = 400
_MAX_QUOTE_LENGTH: Final = 120
_MAX_STATUSES_LISTED: Final = 3  # exit statuses that a reason lists one by one, rather than as a range
_MAX_VULNERABILITIES: Final = 100_000  # a host with every package of Debian has fewer
_MAX_PATHS: Final = 20  # of a vulnerability: hundreds of programs may contain the same library
_MAX_UNEXPECTED_LINES: Final = 100  # with more of them the output is not the tool's, and the rest is not read

_CVE_IN_ANY_CASE = re.compile(CVE.pattern, re.IGNORECASE | re.ASCII)
_WORST_FIRST: Final = (Status.FAILED, Status.UNSUPPORTED, Status.VULNERABLE, Status.STALE_DATABASE, Status.CLEAN)


@dataclass(slots=True)
class _CollectedVulnerability:
    """A vulnerability, to which later lines of the output may add."""

    severity: Severity
    title: str
    url: str
    aliases: set[str] = field(default_factory=set)
    advisories: set[str] = field(default_factory=set)
    paths: dict[str, None] = field(default_factory=dict)
    epss: float | None = None
    is_exploited: bool = False
    fixed_in: dict[str, None] = field(default_factory=dict)  # in the order of the tool, without duplicates


class ResultBuilder:
    """Builds the audit of one run of a tool.

    A reader calls `add` for each vulnerability, `covers` for what the tool looked at, and `complete` once the whole
    output is read and understood. Without `complete` the result cannot be clean.

    A reader reports problems with one of four methods. Only the first reason of each kind is kept:

    * `fail`: the output is not understood, or contradicts itself or the exit status;
    * `mark_unsupported`: the tool has no data for the packages of this system, or did not look at them;
    * `mark_inconclusive`: the output is understood, but "nothing found" does not prove that there is nothing;
    * `mark_stale`: the tool's database is missing or too old.
    """

    def __init__(self, run: ToolRun) -> None:
        self.run = run
        self.database_at: float | None = None
        self._found: dict[tuple[str, str, str], _CollectedVulnerability] = {}
        self._failure = self._unsupported = self._inconclusive = self._stale = ""
        self._scopes: set[Scope] = set()
        self._unexpected_lines = self._vulnerability_count = 0
        self._is_complete = False
        if run.is_truncated:
            self.fail(f"the output is truncated: it exceeds the size limit of an audit{self._agent_note()}")
        elif run.exit_status is None:
            self.fail(f"the tool was killed by a signal, or could not be run{self._agent_note()}")

    @property
    def should_stop(self) -> bool:
        """True if the output has too many unexpected lines or vulnerabilities, so that the rest need not be read."""
        return self._unexpected_lines > _MAX_UNEXPECTED_LINES or self._vulnerability_count > _MAX_VULNERABILITIES

    @property
    def is_stale(self) -> bool:
        """True if the tool said that its database is missing or too old."""
        return bool(self._stale)

    def add(  # noqa: PLR0913 - a vulnerability has that many fields
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
        epss: float | None = None,
        is_exploited: bool = False,
    ) -> None:
        """Add a vulnerability, or all vulnerabilities of an advisory.

        Its id is the CVE among `ids`, else the first of `ids`, else the first of `advisories`, else the title. The
        other ids become aliases. If there are several CVEs, each is a vulnerability, and the other ids are taken as
        ids of an advisory about all of them.

        If the same package, version and id is added again, the entry keeps its title and URL, takes the worse
        severity and the higher score, and collects the aliases, advisories, fixed versions and paths of both.

        Args:
            package: The name of the package.
            version: The installed version; "" if the tool does not print it.
            ids: The names of this vulnerability, such as a CVE and a GHSA.
            severity: The severity; unknown if the tool has none.
            fixed_in: The versions that fix it.
            title: A short description.
            url: Where to read more about it.
            advisories: Ids of advisories that are about this and perhaps other vulnerabilities, such as a DSA.
            paths: The files that it was found in, if it is not in a package of the system.
            epss: Its score of EPSS, from 0 to 1.
            is_exploited: True if CISA's catalogue has it.
        """
        known = dict.fromkeys(clean for each in ids if (clean := _normalize_id(each)))
        advisory_ids = dict.fromkeys(clean for each in advisories if (clean := _normalize_id(each)))
        cves = [each for each in known if CVE.fullmatch(each)]
        others = [each for each in known if each not in cves and each not in advisory_ids]
        title, url = plain(title), plain(url)
        if len(cves) > 1:
            advisory_ids |= dict.fromkeys(others)
            others = []
        names = cves or others[:1] or list(advisory_ids)[:1] or [title]
        fixed = [clean for each in fixed_in if (clean := plain(each))]
        files = [clean for each in islice(paths, _MAX_PATHS) if (clean := plain(each))]
        for name in names:
            self._vulnerability_count += 1
            if self._vulnerability_count > _MAX_VULNERABILITIES:
                self.fail(f"the output has more than {_MAX_VULNERABILITIES:,} vulnerabilities")
                return
            entry = self._found.setdefault(
                (plain(package), plain(version), name), _CollectedVulnerability(severity, title, url)
            )
            entry.severity = min(entry.severity, severity, key=RANKS.__getitem__)
            entry.title = entry.title or title
            entry.url = entry.url or url
            entry.aliases.update(each for each in others if each != name)
            entry.advisories.update(each for each in advisory_ids if each != name)
            entry.fixed_in.update(dict.fromkeys(fixed))
            entry.epss = max((each for each in (entry.epss, epss) if each is not None), default=None)
            entry.is_exploited = entry.is_exploited or is_exploited
            for path in files[: _MAX_PATHS - len(entry.paths)]:
                entry.paths[path] = None

    def covers(self, scope: Scope) -> None:
        """Record that the tool looked at a kind of packages. If it found nothing, these are clean and no others."""
        self._scopes.add(scope)

    def mark_unsupported(self, reason: str) -> None:
        """Record that the tool cannot judge the packages of this system. What it found is kept."""
        self._unsupported = self._unsupported or _one_line(reason)

    def fail(self, reason: str) -> None:
        """Record that the output cannot be relied on. The reason says why, and where: a line or a path."""
        self._failure = self._failure or _one_line(reason)

    def mark_inconclusive(self, reason: str) -> None:
        """Record why "nothing found" proves nothing. Without vulnerabilities the result is failed, else vulnerable."""
        self._inconclusive = self._inconclusive or _one_line(reason)

    def mark_stale(self, reason: str) -> None:
        """Record that the database is missing or too old. With vulnerabilities the result is still vulnerable."""
        self._stale = self._stale or _one_line(reason)

    def unexpected_line(self, number: int, line: str, expected: str) -> None:
        """Fail because of a line that the tool does not print in this place."""
        self._unexpected_lines += 1
        if not self._failure:
            self.fail(f"line {number} is {quote(line)}, expected {expected}")

    def no_output(self, expected: str) -> None:
        """Fail because of an empty output. The reason includes the exit status and the end of standard error."""
        self.fail(f"no output, expected {expected}{self._exit_note()}")

    def set_database_time(self, built_at: float | None) -> None:
        """Set when the database was built or downloaded, as a Unix time. Of several the oldest counts.

        The database is stale after MAX_DATABASE_AGE.
        """
        if built_at is not None and (self.database_at is None or built_at < self.database_at):
            self.database_at = built_at

    def complete(self, *, clean: Sequence[int], vulnerable: Sequence[int]) -> None:
        """Record that the whole output is read, and fail if the exit status does not fit what was found.

        Args:
            clean: The exit statuses of the tool if it found nothing.
            vulnerable: The exit statuses of the tool if it found a vulnerability.
        """
        self._is_complete = True
        status = self.run.exit_status
        expected = vulnerable if self._found else clean
        if status is None or status not in expected:
            found = {0: "no vulnerabilities", 1: "a vulnerability"}.get(len(self._found), "vulnerabilities")
            is_range = len(expected) > _MAX_STATUSES_LISTED
            words = f"{expected[0]} to {expected[-1]}" if is_range else " or ".join(map(str, expected))
            self.fail(f"the output has {found}, expected exit status {words}{self._exit_note()}")

    def build(self) -> Audit:
        """Return the audit. Its status is the first of failed, unsupported, vulnerable, stale and clean that applies.

        Vulnerabilities are kept whatever the status. If there are some and the database is stale, the status is
        vulnerable and the reason says that the database is stale.
        """
        found = self._vulnerabilities()
        stale = self._stale or self._age_reason()
        scopes = tuple(scope for scope in Scope if scope in self._scopes)
        without = Status.STALE_DATABASE if stale else Status.FAILED if self._inconclusive else Status.CLEAN
        status = Status.VULNERABLE if found else without
        reasons = [stale, self._inconclusive] if found else [stale or self._inconclusive]
        if self._failure or (not self._is_complete and not self._stale):
            status = without = Status.FAILED
            reasons = [self._failure or "the output was not read to its end"]
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
                entry.epss,
                entry.is_exploited,
            )
            for (package, version, name), entry in entries
        )

    def _age_reason(self) -> str:
        """Return the reason if the database was too old at the end of the run; "" if not, or if its age is unknown."""
        age = self.run.ended_at - (self.database_at or 0.0)
        if self.database_at is None or not math.isfinite(age) or age <= MAX_DATABASE_AGE:
            return ""
        day = datetime.fromtimestamp(self.database_at, UTC).strftime("%Y-%m-%d")
        return f"the database dates from {day} and is {age / 86400:.0f} days old; update it"

    def _exit_note(self) -> str:
        """Return the exit status and the last line of standard error, in parentheses."""
        last = f", standard error ends with {quote(self._last_error)}" if self._last_error else ""
        return f" (exit status {self.run.exit_status}{last})"

    def _agent_note(self) -> str:
        """Return the explanation that the agent added as the last line of standard error; "" if there is none."""
        return f": {quote(self._last_error)}" if self._last_error.startswith("portspec-send: ") else ""

    @property
    def _last_error(self) -> str:
        """The last line of standard error."""
        return self.run.errors[-10 * _MAX_TEXT_LENGTH :].strip().rpartition("\n")[2]


def merge(runs: Sequence[ToolRun], audits: Sequence[Audit]) -> Audit:
    """Return the audit of a host from the audits of its runs; there is at least one.

    It has the worst status of them and the vulnerabilities of all. It is only clean if one of the tools looked at the
    packages of the system. Two exceptions: the host is set up to have only its applications audited, or its agent is
    so old that it does not send the system.
    """
    audit = audits[0] if len(audits) == 1 else _combine(runs, audits)
    system = runs[0].system
    is_settled = audit.status in {Status.FAILED, Status.UNSUPPORTED, Status.STALE_DATABASE}
    if is_settled or system is None or Scope.SYSTEM in audit.scopes or all(run.is_of_applications for run in runs):
        return audit
    covered = " and ".join(audit.scopes) or "nothing"
    reason = (
        f"{runs[0].tool} looked at {covered}, not at the packages of {system.spelled}; use another tool, or set "
        '"scope = applications" for portspec-send to audit only these'
    )
    return replace(audit, status=Status.UNSUPPORTED, without=Status.UNSUPPORTED, reason=reason)


def _combine(runs: Sequence[ToolRun], audits: Sequence[Audit]) -> Audit:
    found: dict[tuple[str, str, str], Vulnerability] = {}
    for each in audits:
        for item in each.vulnerabilities:
            found.setdefault((item.package, item.version, item.id), item)
    # If one tool prints the installed version and another does not, it is the same vulnerability.
    with_version = {(package, name) for package, version, name in found if version}
    for key in [key for key in found if not key[1] and (key[0], key[2]) in with_version]:
        del found[key]
    reasons = [f"{run.tool}: {each.reason}" for run, each in zip(runs, audits, strict=True) if each.reason]
    database_times = [each.database_at for each in audits if each.database_at is not None]
    return Audit(
        status=min((each.status for each in audits), key=_WORST_FIRST.index),
        vulnerabilities=tuple(sorted(found.values(), key=lambda item: (RANKS[item.severity], item))),
        reason="; ".join(reasons),
        database_at=min(database_times, default=None),
        without=min((each.without for each in audits), key=_WORST_FIRST.index),
        scopes=tuple(scope for scope in Scope if any(scope in each.scopes for each in audits)),
    )


def quote(text: str) -> str:
    """Return text of a tool in quotation marks, as one line of limited length."""
    text = plain(text)
    return f'"{text}"' if len(text) <= _MAX_QUOTE_LENGTH else f'"{text[:_MAX_QUOTE_LENGTH]}…"'


def plain(text: str) -> str:
    """Return a text as one line of at most 500 characters, without control characters and lone surrogates."""
    if len(text) <= _MAX_TEXT_LENGTH and is_printable(text):
        return text.strip()
    text = printable(" ".join(text[: 2 * _MAX_TEXT_LENGTH].split()))
    return text if len(text) <= _MAX_TEXT_LENGTH else f"{text[: _MAX_TEXT_LENGTH - 1]}…"


def _normalize_id(text: str) -> str:
    """Return an id as one line; a CVE in capitals, so that it is the same from every tool."""
    text = plain(text)
    return text.upper() if _CVE_IN_ANY_CASE.fullmatch(text) else text


def _one_line(reason: str) -> str:
    return printable(" ".join(reason[: 2 * _MAX_REASON_LENGTH].split()))[:_MAX_REASON_LENGTH]
