"""What a host's audit said, whatever tool it ran."""

from __future__ import annotations

import enum
import re
from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CVE: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
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


RANKS: Final[Mapping[Severity, int]] = MappingProxyType({severity: rank for rank, severity in enumerate(Severity)})


class Scope(enum.StrEnum):
    """What a tool looked at."""

    SYSTEM = "system packages"  # those of the distribution, and of FreeBSD's and NetBSD's ports
    BASE = "base system"  # FreeBSD's, that is no package
    LANGUAGES = "language packages"  # of pip, npm, Go and others, and applications that are made of them


@dataclass(frozen=True, slots=True)
class System:
    """The operating system of a host: `id`, `like` and `version` are ID, ID_LIKE and VERSION_ID of os-release(5).

    FreeBSD's are "freebsd", nothing, and what freebsd-version(1) prints. `kernel` is the name of uname(1).
    """

    kernel: str
    id: str
    like: tuple[str, ...] = ()
    version: str = ""

    @property
    def spelled(self) -> str:
        """Its name and version, as "ubuntu 24.04"."""
        return f"{self.id or self.kernel} {self.version}".strip()

    def is_kin(self, *ids: str) -> bool:
        """Return whether it is one of some systems, or says that it is like one."""
        return self.id in ids or not set(ids).isdisjoint(self.like)


@dataclass(frozen=True, slots=True)
class ToolRun:
    """One run of an audit tool on a host, as its audit has it.

    `tool` is the name of the tool ("pkg-audit"). `exit_status` is None if a signal killed the tool or if it was not
    run. `is_truncated` is True if the output exceeded the size limit of an audit. `ended_at` is a Unix time, `command`
    the program and its arguments. `system` is None if the agent did not send it. `is_of_applications` is True if the
    agent is configured to audit only applications, not the packages of the system.
    """

    tool: str
    exit_status: int | None
    output: str
    errors: str = ""
    is_truncated: bool = False
    ended_at: float = 0.0
    command: tuple[str, ...] = ()
    system: System | None = None
    is_of_applications: bool = False


@dataclass(frozen=True, slots=True, order=True, weakref_slot=True)
class Vulnerability:
    """One vulnerability of one package; texts are those of the tool, "" if it prints none.

    `id` is a CVE if there is one, otherwise the id of the advisory. `aliases` are the ids that other databases have for
    the same vulnerability; `advisories` describe it, and perhaps others as well (DSA, RHSA, an entry of VuXML).
    `fixed_in` are the versions that no longer have it, `paths` the files in which it was found. `epss` is its score,
    from 0 to 1, and `is_exploited` is True if CISA's catalogue has it; None and False where the tool does not tell.
    """

    package: str
    version: str
    id: str
    severity: Severity = Severity.UNKNOWN
    aliases: tuple[str, ...] = ()
    fixed_in: tuple[str, ...] = ()
    title: str = ""
    url: str = ""
    advisories: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    epss: float | None = None
    is_exploited: bool = False

    @property
    def names(self) -> frozenset[str]:
        """All that it may be called in an exception, in lower case: its ids, and the advisories that tell of it."""
        return frozenset(name.lower() for name in (self.id, *self.aliases, *self.advisories))

    @property
    def key(self) -> str | tuple[str, str, str]:
        """What tells it from others: its id; without one, which is then the title, the package as well."""
        return self.id if self.id and self.id != self.title else (self.package, self.version, self.id)

    @property
    def link(self) -> str:
        """Where to read about it: as the tool says, else by its id; "" if that is of no kind that is known."""
        if self.url:
            return self.url
        if CVE.fullmatch(self.id):
            return f"https://www.cve.org/CVERecord?id={self.id}"
        return f"https://osv.dev/vulnerability/{self.id}" if _OSV.fullmatch(self.id) else ""


def count_by_severity(found: Iterable[Vulnerability]) -> dict[Severity, int]:
    """Count vulnerabilities by severity, the worst first, each once: with the worst severity of any package."""
    worst: dict[str | tuple[str, str, str], int] = {}
    for item in found:
        rank = RANKS[item.severity]
        if rank < worst.get(item.key, len(RANKS)):
            worst[item.key] = rank
    counts = Counter(worst.values())
    return {severity: counts[rank] for severity, rank in RANKS.items()}


@dataclass(frozen=True, slots=True)
class Audit:
    """What the runs of a host's tools come to.

    `reason` says in one line why it failed, what is stale or what was not looked at; "" otherwise. `database_at` is
    when the tool's database was made or fetched, as a Unix time, if the tool tells. `without` is what the status would
    be without vulnerabilities, all of which may be excepted. `scopes` are what was looked at, in the order of Scope.
    """

    status: Status
    vulnerabilities: tuple[Vulnerability, ...] = ()
    reason: str = ""
    database_at: float | None = None
    without: Status = Status.CLEAN
    scopes: tuple[Scope, ...] = ()
