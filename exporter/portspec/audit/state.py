"""What is known of a host from the inside: its last audit, judged by the exceptions at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from portspec.audit.model import Status, count_by_severity
from portspec.audit.priority import DEFAULT_PRIORITIES
from portspec.audit.reach import NOTHING_KNOWN
from portspec.audit.restart import restart_needs
from portspec.exceptions import in_force, is_outdated
from portspec.maintenance import edges, lasting
from portspec.priorities import Priority

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from portspec.audit.model import Audit, Severity, Vulnerability
    from portspec.audit.payload import Kernel, ListeningSocket
    from portspec.audit.priority import Finding, Priorities
    from portspec.audit.reach import Exposures, OutsideView
    from portspec.audit.restart import RestartNeeds
    from portspec.config import MaintenanceWindow, VulnerabilityException


@dataclass(frozen=True, slots=True)
class HostAudit:
    """What one audit says of its host, its tool's output being read; `at` is when the tool ended, a Unix time.

    `listeners` is None if the agent could not gather them, `kernel` if it does not see which ones are installed.
    `since` are the Unix times since when each vulnerability is known, in their order; empty if that is not known.
    """

    at: float
    tool: str
    tool_version: str | None
    audit: Audit
    listeners: tuple[ListeningSocket, ...] | None
    kernel: Kernel | None = None
    since: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class AuditState:
    """A host of the roster and its last audit, if it has sent one.

    `host` is its name in conf.yml, the label; `exceptions` those that are about it, in force or not. `judged_at` is
    the time whose exceptions count, in Unix seconds. `windows` are the times of maintenance of a host that is not
    scanned, over or not. `view` is what the scans see of it from outside, and `priorities` say what to fix first.
    """

    host: str
    exceptions: tuple[VulnerabilityException, ...] = ()
    host_audit: HostAudit | None = None
    judged_at: float = math.inf
    windows: tuple[MaintenanceWindow, ...] = ()
    view: OutsideView = ()
    priorities: Priorities = DEFAULT_PRIORITIES

    @property
    def maintenance(self) -> MaintenanceWindow | None:
        """The maintenance that lasts for a host that is not scanned; None without."""
        return lasting(self.windows, self.judged_at)

    @property
    def edges(self) -> tuple[float, ...]:
        """The Unix times from which it is judged by something else: by other exceptions, or under maintenance."""
        return (*(item.until for item in self.exceptions), *edges(self.windows))

    @property
    def vulnerabilities(self) -> tuple[Vulnerability, ...]:
        """What counts: all that the tool found but for what is excepted."""
        return self._found(is_excepted=False)

    @property
    def exposures(self) -> Exposures:
        """Which of its packages can be reached from outside."""
        audit = self.host_audit
        return self.priorities.exposures(audit.listeners, self.view) if audit else NOTHING_KNOWN

    @property
    def findings(self) -> list[Finding]:
        """What counts, with its class, the most urgent first."""
        found = self.vulnerabilities
        if not found:
            return []
        since = {id(item): at for item, at in self.since}
        findings = self.priorities.findings(found, self.exposures)
        return [item._replace(since=since.get(id(item.vulnerability))) for item in findings] if since else findings

    @property
    def ranks(self) -> list[int]:
        """The places of the classes of what counts, in the order of `vulnerabilities`: 0 is the most urgent."""
        return self.priorities.ranks(self.vulnerabilities, self.exposures)

    @property
    def by_class(self) -> Mapping[Priority, int]:
        """The number of vulnerabilities of each class, the most urgent first; one of several packages counts once."""
        return self.priorities.count(self.vulnerabilities, self.exposures)

    @property
    def oldest_by_class(self) -> dict[Priority, int]:
        """The Unix time since when the oldest vulnerability of each class is known, of the classes that there are."""
        dated = self.since
        ranks = self.priorities.ranks((item for item, _ in dated), self.exposures)
        oldest: dict[int, int] = {}
        for rank, (_, at) in zip(ranks, dated, strict=True):
            oldest[rank] = min(at, oldest.get(rank, at))
        return {priority: oldest[rank] for rank, priority in enumerate(Priority) if rank in oldest}

    @property
    def since(self) -> list[tuple[Vulnerability, int]]:
        """What counts, and the Unix time since when it is known; nothing if that is not known."""
        if self.host_audit is None or not self.host_audit.since:
            return []
        every = self.host_audit.audit.vulnerabilities
        counting = self.vulnerabilities
        dated = zip(every, self.host_audit.since, strict=True)
        if len(counting) == len(every):
            return list(dated)
        kept = set(map(id, counting))
        return [(item, at) for item, at in dated if id(item) in kept]

    @property
    def excepted(self) -> tuple[Vulnerability, ...]:
        """What does not count, since an exception is in force."""
        return self._found(is_excepted=True)

    @property
    def status(self) -> Status:
        """What the last audit comes to; vulnerable only by what counts."""
        if self.host_audit is None:
            return Status.NEVER
        audit = self.host_audit.audit
        if audit.status is not Status.VULNERABLE or self.vulnerabilities:
            return audit.status
        return audit.without

    @property
    def reason(self) -> str:
        """Why it failed, or what is stale; "" otherwise."""
        return self.host_audit.audit.reason if self.host_audit else ""

    @property
    def restarts(self) -> RestartNeeds | None:
        """What has to be restarted; None without an audit."""
        return restart_needs(self.host_audit.listeners, self.host_audit.kernel) if self.host_audit else None

    @property
    def is_counted(self) -> bool:
        """True if the numbers of vulnerabilities mean something: none found by a run that failed is not none."""
        return self.status in (Status.CLEAN, Status.VULNERABLE, Status.STALE_DATABASE) or bool(self.vulnerabilities)

    @property
    def vulnerable_packages(self) -> int:
        """The number of packages, in each version, that have a vulnerability which counts."""
        return len({(item.package, item.version) for item in self.vulnerabilities})

    @property
    def by_severity(self) -> Mapping[Severity, int]:
        """The number of vulnerabilities of every severity, the worst first.

        One that several packages have is counted once, with the worst severity that it has in any.
        """
        return count_by_severity(self.vulnerabilities)

    def judged(self, now: float) -> AuditState:
        """Return the state by the exceptions in force at `now`, in Unix seconds; the same object if nothing differs."""
        return replace(self, judged_at=now) if is_outdated(self, now) else self

    def _found(self, *, is_excepted: bool) -> tuple[Vulnerability, ...]:
        if self.host_audit is None:
            return ()
        found = self.host_audit.audit.vulnerabilities
        accepted = {name for item in in_force(self.exceptions, self.judged_at) for name in item.ids}
        if not accepted:
            return () if is_excepted else found
        return tuple(item for item in found if accepted.isdisjoint(item.names) is not is_excepted)
