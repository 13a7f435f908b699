"""What a host's audit said, whatever tool it ran."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

_CVE: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
_OSV: Final = re.compile(r"(?:GHSA|PYSEC|DSA|DLA|GO|RUSTSEC|OSV)-[A-Za-z0-9-]{1,80}")  # https://osv.dev/list


class Status(enum.StrEnum):
    """What is known of a host's packages. Only what was read whole and understood whole may be clean."""

    CLEAN = "clean"
    VULNERABLE = "vulnerable"
    FAILED = "failed"
    STALE_DATABASE = "stale_database"
    UNSUPPORTED = "unsupported"
    NEVER = "never"


class Severity(enum.StrEnum):
    """How bad a vulnerability is, in the words of CVSS 3.1, section 5; tools that say less say `unknown`."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    NEGLIGIBLE = "negligible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ToolRun:
    """One run of an audit tool on a host, as its report has it.

    `tool` is its name ("pkg-audit"), `exit_status` None if it was ended by a signal or not run at all. `is_truncated`
    says that the output was longer than a report may be. `ended_at` is a Unix time.
    """

    tool: str
    exit_status: int | None
    output: str
    errors: str = ""
    is_truncated: bool = False
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True, order=True, weakref_slot=True)
class Vulnerability:
    """One vulnerability of one package; texts are as the tool has them, "" where it says nothing.

    `id` is the one to speak of it by: a CVE where there is one. `aliases` are its other ids, `fixed_in` the versions
    that do not have it any more.
    """

    package: str
    version: str
    id: str
    severity: Severity = Severity.UNKNOWN
    aliases: tuple[str, ...] = ()
    fixed_in: tuple[str, ...] = ()
    title: str = ""
    url: str = ""

    @property
    def link(self) -> str:
        """Where to read about it: as the tool says, else by its id; "" if that is of no kind that is known."""
        if self.url:
            return self.url
        if _CVE.fullmatch(self.id):
            return f"https://www.cve.org/CVERecord?id={self.id}"
        return f"https://osv.dev/vulnerability/{self.id}" if _OSV.fullmatch(self.id) else ""


@dataclass(frozen=True, slots=True)
class Audit:
    """What a run of a tool comes to.

    `reason` says in one line why it failed or what is stale; "" otherwise. `database_at` is when the tool's database
    was made or fetched, as a Unix time, if the tool tells. `without` is what the status would be without
    vulnerabilities, all of which may be excepted.
    """

    status: Status
    vulnerabilities: tuple[Vulnerability, ...] = ()
    reason: str = ""
    database_at: float | None = None
    without: Status = Status.CLEAN
