"""What is known of a host from the inside: its last audit, judged by the exceptions at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from portspec.audit.model import Status, count_by_severity
from portspec.audit.priority import DEFAULT_PRIORITIES
from portspec.audit.reach import NOTHING_KNOWN, exposures, names_of
from portspec.audit.restart import restart_needs
from portspec.deadlines import NO_DEADLINES, Deadlines, DueTimes
from portspec.exceptions import in_force, is_outdated
from portspec.maintenance import edges, lasting
from portspec.priorities import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from portspec.audit.model import Audit, Severity, Vulnerability
    from portspec.audit.payload import Kernel, ListeningSocket
    from portspec.audit.priority import Finding, Priorities
    from portspec.audit.reach import Exposures, OutsideView
    from portspec.audit.restart import RestartNeeds
    from portspec.config import MaintenanceWindow, VulnerabilityException
    from portspec.inventory import AuditedHost


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
    `owner` is who is responsible for the host, "" if nobody is named. `due` is when its vulnerabilities are due by its
    `deadlines`, as with_due_times() found; None until then, and without deadlines.
    """

    host: str
    exceptions: tuple[VulnerabilityException, ...] = ()
    host_audit: HostAudit | None = None
    judged_at: float = math.inf
    windows: tuple[MaintenanceWindow, ...] = ()
    view: OutsideView = ()
    priorities: Priorities = DEFAULT_PRIORITIES
    owner: str = ""
    deadlines: Deadlines = NO_DEADLINES
    due: DueTimes | None = None

    @classmethod
    def of(cls, entry: AuditedHost, host_audit: HostAudit | None, now: float) -> AuditState:
        """Return what is known of a host of the roster at a Unix time, before it is looked at from outside."""
        return cls(
            entry.host,
            entry.exceptions,
            host_audit,
            now,
            entry.maintenance,
            owner=entry.owner,
            deadlines=entry.deadlines,
        )

    @property
    def maintenance(self) -> MaintenanceWindow | None:
        """The maintenance that lasts for a host that is not scanned; None without."""
        return lasting(self.windows, self.judged_at)

    @property
    def edges(self) -> tuple[float, ...]:
        """The Unix times from which it is judged by something else: other exceptions, maintenance, a deadline."""
        ends = (item.until for item in self.exceptions)
        return (*ends, *edges(self.windows), *(self.due.edges(self.judged_at) if self.due else ()))

    @property
    def vulnerabilities(self) -> tuple[Vulnerability, ...]:
        """What counts: all that the tool found but for what is excepted."""
        return self._found(is_excepted=False)

    @property
    def exposures(self) -> Exposures:
        """Which of its packages can be reached from outside."""
        audit = self.host_audit
        return self.priorities.exposures(audit.listeners, self.view) if audit else NOTHING_KNOWN

    def exposures_of(self, vulnerabilities: Iterable[Vulnerability]) -> Exposures:
        """Return which of its packages can be reached from outside, of those that have some vulnerabilities."""
        audit = self.host_audit
        return exposures(audit.listeners, self.view, names_of(vulnerabilities)) if audit else NOTHING_KNOWN

    @property
    def findings(self) -> list[Finding]:
        """What counts, with its class, the most urgent first."""
        found = self.vulnerabilities
        if not found:
            return []
        since = {id(item): at for item, at in self.since}
        findings = self.priorities.findings(found, self.exposures)
        return [self._dated(item, since.get(id(item.vulnerability))) for item in findings] if since else findings

    @property
    def overdue_by_class(self) -> Mapping[Priority, int] | None:
        """The number of vulnerabilities of each class that are past their deadline; None where that is not known.

        One that several packages have is counted once; see Priorities.due_times().
        """
        if self.due is None or not self.is_counted or (self.vulnerabilities and not self.since):
            return None
        return {priority: self.due.overdue(priority, self.judged_at) for priority in Priority}

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

    def with_due_times(self) -> AuditState:
        """Return the state with when what counts is due; the same object if that is as before. It takes a while."""
        deadlines = self.deadlines
        is_due = deadlines.has_vulnerabilities
        due = self.priorities.due_times(self.since, self.exposures, deadlines) if is_due else None
        return self if due == self.due else replace(self, due=due)

    def under(self, entry: AuditedHost, now: float) -> AuditState:
        """Return the state by another roster, judged at a Unix time; the same object if nothing differs."""
        after = replace(
            self,
            host=entry.host,
            exceptions=entry.exceptions,
            windows=entry.maintenance,
            owner=entry.owner,
            deadlines=entry.deadlines,
            due=self.due if entry.deadlines == self.deadlines else None,
        )
        return self.judged(now) if after == self else replace(after, judged_at=now)

    def judged(self, now: float) -> AuditState:
        """Return the state by the exceptions in force at `now`, in Unix seconds; the same object if nothing differs."""
        return replace(self, judged_at=now) if is_outdated(self, now) else self

    def _dated(self, item: Finding, since: int | None) -> Finding:
        """Return a finding with since when it is known, and when it is due."""
        if since is None:
            return item
        severity = item.vulnerability.severity
        due = self.deadlines.of_vulnerability(item.priority, severity, since, item.exploited_since)
        return item._replace(since=since, due=due)

    def _found(self, *, is_excepted: bool) -> tuple[Vulnerability, ...]:
        if self.host_audit is None:
            return ()
        found = self.host_audit.audit.vulnerabilities
        accepted = {name for item in in_force(self.exceptions, self.judged_at) for name in item.ids}
        if not accepted:
            return () if is_excepted else found
        return tuple(item for item in found if accepted.isdisjoint(item.names) is not is_excepted)
