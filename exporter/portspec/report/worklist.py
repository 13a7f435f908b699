"""What the owners of hosts have to do: ports that deviate, packages to upgrade, processes to restart. Pure.

A host of which a view is missing has an item that says so: nobody knows then what else there is to do.

All vulnerabilities of a package are one item, since one upgrade fixes them. Packages whose vulnerabilities are neither
urgent nor have a deadline are left to the report of all machines.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from portspec.audit.model import Status
from portspec.exposure import PortSeverity, reason_of
from portspec.ports import PortSet
from portspec.priorities import Priority
from portspec.report import wording
from portspec.report.model import FAILED_STATUSES, URGENT
from portspec.report.wording import STATUSES
from portspec.state.correlation import correlate
from portspec.state.document import timestamp
from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from portspec.audit.priority import Finding
    from portspec.audit.state import AuditState
    from portspec.inventory import AuditedHost
    from portspec.state.snapshot import HostState, Snapshot

G = TypeVar("G")
COLUMNS: Final = ("owner", "host", "work", "what", "action", "urgency", "overdue", "due", "since", "why")
MAX_NAMES: Final = 3  # ids and fixed versions of a package that an item names
_ACTIONS: Final = {
    Kind.UNEXPECTED: "close, or accept in conf.yml",
    Kind.MISSING: "start the service, or remove the port from expect in conf.yml",
}
#: The order of items with the same deadline: by the class of a package, the severity of a port; others between them.
_RANKS: Final[Mapping[str, int]] = {
    **{priority: rank for rank, priority in enumerate(Priority)},
    **{severity: rank for rank, severity in enumerate(PortSeverity)},
    "": URGENT,
}


class Work(enum.StrEnum):
    """What an item is about."""

    PORTS = "ports"
    PACKAGE = "package"
    RESTART = "restart"
    SCAN = "scan"  # it is not known what else there is to do
    AUDIT = "audit"  # the same


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One thing to do on a host.

    Attributes:
        owner: Who is responsible for the host, "" if nobody is named.
        work: What it is about.
        what: The ports, the package with its version, or what runs.
        urgency: The class of a package's most urgent vulnerability, the severity of ports, or "".
        action: What to do.
        why: Why.
        since: The Unix time since which it is so; None if that is not known.
        due: The Unix time by which it is to be done; None without a deadline.
    """

    owner: str
    host: str
    work: Work
    what: str
    urgency: str
    action: str
    why: str
    since: float | None = None
    due: float | None = None

    def document(self, now: float) -> dict[str, object]:
        """Return it as the row of a table or the object of JSON, with the keys COLUMNS."""
        return {
            "owner": self.owner,
            "host": self.host,
            "work": self.work.value,
            "what": self.what,
            "action": self.action,
            "urgency": self.urgency,
            "overdue": self.is_overdue(now),
            "due": timestamp(self.due),
            "since": timestamp(self.since),
            "why": self.why,
        }

    def is_overdue(self, now: float) -> bool:
        """Return whether it is past its deadline at a Unix time."""
        return self.due is not None and self.due <= now


@dataclass(frozen=True, slots=True)
class OwnerSummary:
    """How much there is of an owner: hosts, ports that deviate, and what is past its deadline.

    Of `unknown` hosts the scan or the audit is missing, late or without a result: there may be more.
    """

    owner: str
    hosts: int
    unknown: int
    deviations: int
    overdue: int


@dataclass(frozen=True, slots=True)
class Worklist:
    """The first items of a worklist, and how many there are, and are overdue."""

    items: Sequence[WorkItem] = ()
    total: int = 0
    overdue: int = 0


def owners(snapshot: Snapshot, now: float, *, max_age: float = math.inf) -> list[OwnerSummary]:
    """Return every owner in the order of their names, hosts without one last.

    `now` is a Unix time; an audit is late after `max_age` seconds.
    """
    counts: dict[str, Counter[str]] = {}
    unread = {host.host: host.owner for host in snapshot.unread}
    for state, audit in _hosts(snapshot):
        is_unknown = bool(
            (state and (unread.pop(state.host, None) is not None or any(_unseen(state, now))))
            or (audit and any(_unaudited(audit, now, max_age)))
        )
        overdue = sum(len(ports) for ports in state.overdue.values()) if state else 0
        overdue += sum((audit.overdue_by_class or {}).values()) if audit else 0
        deviations = len({(item.kind, item.port) for item in state.deviations}) if state else 0
        counts.setdefault(_owner(state, audit), Counter()).update(
            hosts=1, unknown=is_unknown, deviations=deviations, overdue=overdue
        )
    for owner in unread.values():
        counts.setdefault(owner, Counter()).update(hosts=1, unknown=1)
    return [
        OwnerSummary(owner, of["hosts"], of["unknown"], of["deviations"], of["overdue"])
        for owner, of in sorted(counts.items(), key=lambda item: (not item[0], item[0]))
    ]


def worklist(
    snapshot: Snapshot, now: float, owner: str | None = None, *, limit: int, max_age: float = math.inf
) -> Worklist:
    """Return what an owner has to do at a Unix time, or all of them, what is overdue and urgent first.

    Args:
        snapshot: The state of all hosts.
        now: The Unix time.
        owner: Whose hosts; None for all hosts.
        limit: How many items are kept.
        max_age: Seconds after which an audit is late.
    """
    found = worklists(snapshot, now, lambda of: 0 if owner in (None, of) else None, limit=limit, max_age=max_age)
    return found.get(0, Worklist())


def worklists(
    snapshot: Snapshot, now: float, group: Callable[[str], G | None], *, limit: int, max_age: float = math.inf
) -> dict[G, Worklist]:
    """Return a worklist for each group of owners; `group` gives that of an owner, None if it is in none."""
    found: dict[G, _FirstItems] = {}
    for state, audit in _hosts(snapshot):
        key = group(_owner(state, audit))
        if key is None:
            continue
        for item in _items(state, audit, now, max_age):
            found.setdefault(key, _FirstItems(now, limit)).add(item)
    for host in snapshot.unread:
        if (key := group(host.owner)) is not None:
            found.setdefault(key, _FirstItems(now, limit)).add(_unread(host))
    return {key: items.worklist() for key, items in found.items()}


class _FirstItems:
    """Keeps the first of many items: a fleet may have millions."""

    def __init__(self, now: float, limit: int) -> None:
        self._now = now
        self._limit = limit
        self._kept: list[WorkItem] = []
        self._total = self._overdue = 0

    def add(self, item: WorkItem) -> None:
        self._total += 1
        self._overdue += item.is_overdue(self._now)
        self._kept.append(item)
        if len(self._kept) > 2 * self._limit:
            self._kept = self._first()

    def worklist(self) -> Worklist:
        return Worklist(self._first(), self._total, self._overdue)

    def _first(self) -> list[WorkItem]:
        return heapq.nsmallest(self._limit, self._kept, key=lambda item: _order(item, self._now))


def _order(item: WorkItem, now: float) -> tuple[bool, int, float, str, str]:
    due = math.inf if item.due is None else item.due
    return not item.is_overdue(now), _RANKS[item.urgency], due, item.host, item.what


def _hosts(snapshot: Snapshot) -> Iterator[tuple[HostState | None, AuditState | None]]:
    audits = {audit.host: audit for chunk in snapshot.audits.chunks for audit in chunk}
    for chunk in snapshot.hosts.chunks:
        for state in chunk:
            yield state, audits.pop(state.host, None)
    for audit in audits.values():
        yield None, audit


def _owner(state: HostState | None, audit: AuditState | None) -> str:
    return state.target.owner if state else audit.owner if audit else ""


def _items(state: HostState | None, audit: AuditState | None, now: float, max_age: float) -> Iterator[WorkItem]:
    if state:
        if state.deviations:
            yield from _ports(state, audit)
        yield from _unseen(state, now)
    if audit:
        yield from _packages(audit)
        yield from _restarts(audit)
        yield from _unaudited(audit, now, max_age)


def _unseen(state: HostState, now: float) -> Iterator[WorkItem]:
    """Yield that it is not known whether there is anything to do about ports."""
    latest, conclusive = state.latest, state.conclusive
    if latest is None:
        action, why = "wait for the first scan", "not scanned yet"
    elif state.verdict is Verdict.UNKNOWN or latest.judgement.failure:  # of one of several addresses, too
        failure = latest.judgement.failure
        action, why = "find out why it cannot be scanned", f"{failure.detail} ({failure.reason})" if failure else ""
    elif state.overdue_at is not None and state.overdue_at < now:
        action, why = "find out why it is no longer scanned", f"last scan: {wording.time(latest.finished_at)}"
    else:
        return
    since = conclusive.finished_at if conclusive else None
    yield WorkItem(state.target.owner, state.host, Work.SCAN, "scan", "", action, why, since)


def _unaudited(audit: AuditState, now: float, max_age: float) -> Iterator[WorkItem]:
    """Yield that it is not known whether there is anything to do about vulnerabilities."""
    host_audit = audit.host_audit
    status = host_audit.audit.without if audit.status is Status.VULNERABLE and host_audit else audit.status
    if host_audit is None:
        action, why = "install portspec-send", "no audit was received"
    elif status in FAILED_STATUSES:  # also if it names vulnerabilities: there may be others
        action, why = "find out why the audit has no result", ": ".join(filter(None, (STATUSES[status], audit.reason)))
    elif now - host_audit.at > max_age:
        action, why = "find out why no audit arrives", f"last audit: {wording.time(host_audit.at)}"
    else:
        return
    since = host_audit.at if host_audit else None
    yield WorkItem(audit.owner, audit.host, Work.AUDIT, "audit", "", action, why, since)


def _unread(host: AuditedHost) -> WorkItem:
    """Return that it is not known whether there is anything to do about vulnerabilities."""
    action, why = "wait until the audit is read", "no audit of this host is read yet"
    return WorkItem(host.owner, host.host, Work.AUDIT, "audit", "", action, why)


def _ports(state: HostState, audit: AuditState | None) -> Iterator[WorkItem]:
    """Yield the ports that deviate since the same time in the same way, of the same severity, as one item."""
    correlation = correlate(state, audit)
    groups: dict[tuple[Kind, PortSeverity, float | None, float | None], list[int]] = {}
    deviations = {(item.kind, item.port): item for item in state.deviations}  # on whichever address
    for (kind, port), item in sorted(deviations.items()):
        since = state.deviates_since(kind, PortSet.of([port]))
        groups.setdefault((kind, state.severity_of(item), since, state.due_at(item)), []).append(port)
    for (kind, severity, since, due), ports in groups.items():
        reasons = [reason_of(port) or "" for port in ports[:1]] if kind is Kind.UNEXPECTED and len(ports) == 1 else []
        listeners = [item for port in ports for item in (correlation.listeners.get(port, ()) if correlation else ())]
        if listeners:
            reasons.append(f"held by {wording.processes(wording.distinct_processes(listeners))}")
        yield WorkItem(
            owner=state.target.owner,
            host=state.host,
            work=Work.PORTS,
            what=f"{kind} {wording.ports(PortSet.of(ports))}",
            urgency=severity,
            action=_ACTIONS[kind],
            why="; ".join(filter(None, reasons)),
            since=since,
            due=due,
        )


def _packages(audit: AuditState) -> Iterator[WorkItem]:
    by_package: dict[tuple[str, str], list[Finding]] = {}
    for finding in audit.findings:  # the most urgent first
        item = finding.vulnerability
        by_package.setdefault((item.package, item.version), []).append(finding)
    for (package, version), findings in by_package.items():
        first = findings[0]
        due = min((item.due for item in findings if item.due is not None), default=None)
        if due is None and _RANKS[first.priority] >= URGENT:
            continue
        yield WorkItem(
            owner=audit.owner,
            host=audit.host,
            work=Work.PACKAGE,
            what=f"{package} {version}".strip(),
            urgency=first.priority,
            action=_upgrade(findings),
            why=_vulnerabilities(findings),
            since=min((item.since for item in findings if item.since is not None), default=None),
            due=due,
        )


def _upgrade(findings: Sequence[Finding]) -> str:
    versions = list(dict.fromkeys(version for item in findings for version in item.vulnerability.fixed_in))
    if not versions:
        return "no fixed version is known; accept it until there is one, or remove the package"
    return f"upgrade, fixed in {_named(versions)}"


def _vulnerabilities(findings: Sequence[Finding]) -> str:
    ids = list(dict.fromkeys(item.vulnerability.id or "without an id" for item in findings))
    first = findings[0]
    why = "" if first.priority is Priority.REST else f"; {first.why}"
    return f"{_named(ids)}{why}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return f"{', '.join(names[:MAX_NAMES])}{more}"


def _restarts(audit: AuditState) -> Iterator[WorkItem]:
    needs = audit.restarts
    if needs is None:
        return
    kernel = needs.kernel
    found: Iterable[tuple[str, str, str]] = (
        (item.process or "unknown process", "restart", item.spelled) for item in needs.processes or ()
    )
    if kernel and kernel.newer:
        found = (*found, (f"kernel {kernel.running}", "reboot", f"{kernel.newer} is installed"))
    for what, action, why in found:
        yield WorkItem(audit.owner, audit.host, Work.RESTART, what, "", action, why)
