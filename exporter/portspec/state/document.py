"""A host as a JSON object: the same in `portspec scan --json`, in the API, and in the report of all machines."""

from __future__ import annotations

import math
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Final, TypedDict

from msgspec import Meta

from portspec.audit.model import Scope, Severity, Status
from portspec.audit.reach import Reach
from portspec.config.rulings import Ruling
from portspec.documents import Count, PortName, Seconds, Timestamp
from portspec.ports import spell
from portspec.priorities import Priority
from portspec.scan import PortState, Reason
from portspec.state.budget import left_out_of
from portspec.state.correlation import correlate
from portspec.state.verdict import Kind, Verdict
from portspec.times import moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.audit.model import Vulnerability
    from portspec.audit.payload import ListeningSocket
    from portspec.audit.priority import Finding
    from portspec.audit.restart import RestartNeeds
    from portspec.audit.state import AuditState
    from portspec.config import MaintenanceWindow, VulnerabilityException
    from portspec.scan import AddressObservation
    from portspec.state.changes import Change
    from portspec.state.correlation import Correlation
    from portspec.state.snapshot import HostState


class AddressDocument(TypedDict):
    """What a scan saw of an address; `closed` and `filtered` are numbers of ports."""

    address: str
    open: list[PortName]
    unconfirmed: list[PortName]
    closed: Count
    filtered: Count
    rtt_seconds: Seconds | None


class VulnerabilityDocument(TypedDict):
    """A vulnerability of a package."""

    package: str
    version: str
    id: str
    aliases: list[str]
    advisories: list[str]
    severity: Severity
    fixed_in: list[str]
    title: str
    url: str
    paths: list[str]


_Class = TypedDict("_Class", {"class": Priority})  # a keyword


class FindingDocument(VulnerabilityDocument, _Class):
    """A vulnerability that counts: the class in which it is to be fixed, why, and whether it can be reached.

    `due` is when it is to be fixed, by `deadlines` of conf.yml; null without a deadline.
    """

    why: str
    reach: Reach
    exploited: bool | None
    epss: float | None
    first_seen: Timestamp | None
    due: Timestamp | None


class ExceptedDocument(VulnerabilityDocument):
    """A vulnerability that an exception of conf.yml accepts, and the exception."""

    until: Timestamp | None
    reason: str
    owner: str


class HolderDocument(TypedDict):
    """Who holds a socket; null is what the audit does not tell, and `note` says why.

    `package`, its `version` and its `source` package own the file `executable`, which is gone if `is_deleted`.
    """

    process: str | None
    user: str | None
    executable: str | None
    is_deleted: bool
    unit: str | None
    container: str | None
    container_name: str | None
    image: str | None
    package: str | None
    version: str | None
    source: str | None
    note: str | None


class ListenerDocument(HolderDocument):
    """A socket that listens on the host, and who holds it."""

    protocol: str
    address: str
    port: int


class StaleProcessDocument(TypedDict):
    """A process that listens, and the files of which it runs another version than the installed one."""

    process: str | None
    user: str | None
    details: str
    files: list[str]


class KernelDocument(TypedDict):
    """The release of the running kernel, and of the newer one that is installed; null if none is."""

    running: str
    newer: str | None


class RestartDocument(TypedDict):
    """What has to be restarted; null is what the audit does not tell.

    `is_complete` is false if the agent did not see of every process that listens which files it runs.
    """

    processes: list[StaleProcessDocument] | None
    is_complete: bool
    kernel: KernelDocument | None


class AuditDocument(TypedDict):
    """The last audit of a host; null is what it does not tell."""

    status: Status
    reason: str | None
    reported_at: Timestamp | None
    tool: str | None
    tool_version: str | None
    database_at: Timestamp | None
    looked_at: list[Scope]
    vulnerable_packages: Count | None
    classes: dict[Priority, Count] | None
    overdue: dict[Priority, Count] | None
    vulnerabilities: list[FindingDocument]
    excepted: list[ExceptedDocument]
    listeners: list[ListenerDocument] | None
    restart_needed: RestartDocument | None
    unexpected_listeners: dict[str, list[HolderDocument]]
    listening_unreachable: list[PortName]
    reachable_unheld: list[PortName]
    reachable_newer: list[PortName]
    series_dropped: Count


#: A time of maintenance that lasts; `from` is null if it has no beginning.
MaintenanceDocument = TypedDict(
    "MaintenanceDocument",
    {"from": Timestamp | None, "until": Timestamp, "reason": str, "owner": str},
)


class HostDocument(TypedDict):
    """A host; one that is not scanned has the verdict null."""

    host: str
    labels: dict[str, str]
    verdict: Verdict | None
    reason: Reason | None
    detail: str | None
    expected: list[PortName]
    allowed: list[PortName]
    missing: list[PortName]
    unexpected: list[PortName]
    excepted: list[PortName]
    overdue: list[PortName]
    addresses: list[AddressDocument]
    last_scan: Timestamp | None
    duration_seconds: Seconds | None
    last_change: Timestamp | None
    next_scan: Timestamp | None
    pace: Seconds | None
    maintenance: MaintenanceDocument | None
    audit: AuditDocument | None


#: A row of the change log; ports that change in the same way are one row.
ChangeDocument = TypedDict(
    "ChangeDocument",
    {
        "id": int,
        "at": Timestamp,
        "host": str,
        "address": str,
        "ports": Annotated[str, Meta(description='Ports, such as "1-21, 23", or ids of vulnerabilities.')],
        "from": PortState | None,
        "to": Annotated[str, Meta(extra_json_schema={"enum": [str(state) for state in (*PortState, *Ruling)]})],
        "first_seen": Timestamp,
        "note": Annotated[str, Meta(description="Of a change of conf.yml: until when, why, and who.")],
    },
)


def timestamp(seconds: float | None) -> str | None:
    """Spell Unix seconds as RFC 3339 in UTC, to the millisecond; None for None."""
    return None if seconds is None else spelled(seconds)


def spelled(seconds: float) -> str:
    """Spell Unix seconds as RFC 3339 in UTC, to the millisecond."""
    return moment(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def host_document(state: HostState, audit: AuditState | None = None) -> HostDocument:
    """Return the JSON object of a host; ports are strings, sorted by number.

    `verdict` and `reason` are those of the latest scan, the rest is as of the latest conclusive one
    (of the latest at all while there was none). `next_scan` is when the host, or what deviates of it, is looked
    at next; null before its first scan, and where nobody scans it again. `maintenance` is the one that lasts, null
    without; it changes nothing else. `audit` is null for a host that need not report.
    """
    latest = state.latest
    shown = state.conclusive or latest
    failure = latest.judgement.failure if latest else None
    return {
        "host": state.host,
        "labels": dict(state.target.config.labels),
        "verdict": state.verdict,
        "reason": failure.reason if failure else None,
        "detail": failure.detail if failure else None,
        "expected": [spell(port) for port in state.target.config.specification.expect],
        "allowed": [spell(port) for port in state.target.config.specification.allow],
        "missing": _ports(state, Kind.MISSING),
        "unexpected": _ports(state, Kind.UNEXPECTED),
        "excepted": [spell(port) for port in sorted({item.port for item in state.excepted})],
        "overdue": [spell(port) for port in sorted({port for ports in state.overdue.values() for port in ports})],
        "addresses": [_address(observation) for observation in shown.addresses] if shown else [],
        "last_scan": timestamp(shown.finished_at) if shown else None,
        "duration_seconds": round(shown.duration, 6) if shown else None,
        "last_change": timestamp(state.last_change),
        "next_scan": timestamp(state.next_scan),
        "pace": state.pace,
        "maintenance": maintenance_document(state.maintenance) if state.maintenance else None,
        "audit": None if audit is None else audit_document(audit, correlate(state, audit)),
    }


def unscanned_document(audit: AuditState) -> HostDocument:
    """Return the JSON object of a host that reports, but is not scanned: the keys of the others, without a verdict."""
    return {
        "host": audit.host,
        "labels": {},
        "verdict": None,
        "reason": None,
        "detail": None,
        "expected": [],
        "allowed": [],
        "missing": [],
        "unexpected": [],
        "excepted": [],
        "overdue": [],
        "addresses": [],
        "last_scan": None,
        "duration_seconds": None,
        "last_change": None,
        "next_scan": None,
        "pace": None,
        "maintenance": maintenance_document(audit.maintenance) if audit.maintenance else None,
        "audit": audit_document(audit, correlate(None, audit)),
    }


def maintenance_document(window: MaintenanceWindow) -> MaintenanceDocument:
    """Return the JSON object of a time of maintenance; `from` is null if it has no beginning."""
    return {
        "from": None if window.begins == -math.inf else timestamp(window.begins),
        "until": spelled(window.until),
        "reason": window.reason,
        "owner": window.owner,
    }


def audit_document(audit: AuditState, correlation: Correlation | None) -> AuditDocument:
    """Return the JSON object of the audit of a host, with what `correlation` adds; texts are as the host sent them.

    Of a host that never reported, and of what a report does not tell, there is null. `vulnerable_packages` is null if
    nothing found does not mean that there is nothing. `series_dropped` is how many of its series /metrics leaves out.
    """
    host_audit = audit.host_audit
    listeners = host_audit.listeners if host_audit else None
    by_id = accepting(audit)
    return {
        "status": audit.status,
        "reason": audit.reason or None,
        "reported_at": timestamp(host_audit.at) if host_audit else None,
        "tool": host_audit.tool if host_audit else None,
        "tool_version": host_audit.tool_version if host_audit else None,
        "database_at": timestamp(host_audit.audit.database_at) if host_audit else None,
        "looked_at": list(host_audit.audit.scopes) if host_audit else [],
        "vulnerable_packages": audit.vulnerable_packages if audit.is_counted else None,
        "classes": dict(audit.by_class) if audit.is_counted else None,
        "overdue": _counts(audit.overdue_by_class),
        "vulnerabilities": [finding_document(item) for item in audit.findings],
        "excepted": [_excepted(item, by_id) for item in audit.excepted],
        "listeners": None if listeners is None else [_listener(item) for item in listeners],
        "restart_needed": _restarts(audit.restarts) if audit.restarts is not None else None,
        "unexpected_listeners": _unexpected_listeners(correlation) if correlation else {},
        "listening_unreachable": [spell(port) for port in correlation.unreachable] if correlation else [],
        "reachable_unheld": [spell(port) for port in correlation.unheld] if correlation else [],
        "reachable_newer": [spell(port) for port in correlation.newer] if correlation else [],
        "series_dropped": left_out_of(audit),
    }


def accepting(audit: AuditState) -> Mapping[str, VulnerabilityException]:
    """Return the exception in force for each id, in lower case; of several the one that ends last."""
    in_force = sorted((item for item in audit.exceptions if audit.judged_at < item.until), key=lambda item: item.until)
    return {name: item for item in in_force for name in item.ids}


def exception_for(item: Vulnerability, by_id: Mapping[str, VulnerabilityException]) -> VulnerabilityException | None:
    """Return the exception that accepts a vulnerability, by any of its ids; of several the one that ends last."""
    found = [by_id[name] for name in item.names if name in by_id]
    return max(found, key=lambda exception: exception.until, default=None)


def change_document(number: int, change: Change) -> ChangeDocument:
    """Return the JSON object of a row of the change log; `from` is null where the ports were not looked at before."""
    return {
        "id": number,
        "at": spelled(change.at),
        "host": change.host,
        "address": change.address,
        "ports": change.ports,
        "from": change.before,
        "to": change.after,
        "first_seen": spelled(change.first_seen),
        "note": change.note,
    }


def _counts(found: Mapping[Priority, int] | None) -> dict[Priority, Count] | None:
    return None if found is None else dict(found)


def _ports(state: HostState, kind: Kind) -> list[str]:
    return [spell(port) for port in sorted({item.port for item in state.deviations if item.kind is kind})]


def _address(observation: AddressObservation) -> AddressDocument:
    return {
        "address": observation.address,
        "open": [spell(port) for port in observation.open],
        "unconfirmed": [spell(port) for port in observation.unconfirmed],
        "closed": observation.closed,
        "filtered": len(observation.filtered),
        "rtt_seconds": None if observation.rtt is None else round(observation.rtt, 6),
    }


@lru_cache(maxsize=20_000)  # many hosts have the same; nobody changes what is given
def vulnerability_document(item: Vulnerability) -> VulnerabilityDocument:
    """Return the JSON object of a vulnerability."""
    return {
        "package": item.package,
        "version": item.version,
        "id": item.id,
        "aliases": list(item.aliases),
        "advisories": list(item.advisories),
        "severity": item.severity,
        "fixed_in": list(item.fixed_in),
        "title": item.title,
        "url": item.url,
        "paths": list(item.paths),
    }


def finding_document(finding: Finding) -> FindingDocument:
    """Return the JSON object of a vulnerability with its class."""
    return {**vulnerability_document(finding.vulnerability), **priority_document(finding)}  # type: ignore[typeddict-item]


def priority_document(finding: Finding) -> dict[str, Any]:
    """Return what finding_document() adds to the object of the vulnerability."""
    facts = finding.facts
    return {
        "class": finding.priority,
        "why": finding.why,
        "reach": finding.exposure.reach,
        "exploited": facts.is_exploited,
        "epss": None if facts.epss is None else round(facts.epss, 5),
        "first_seen": None if finding.since is None else timestamp(finding.since),
        "due": timestamp(finding.due),
    }


def _excepted(item: Vulnerability, by_id: Mapping[str, VulnerabilityException]) -> ExceptedDocument:
    exception = exception_for(item, by_id)
    return {
        **vulnerability_document(item),
        "until": timestamp(exception.until) if exception else None,
        "reason": exception.reason if exception else "",
        "owner": exception.owner if exception else "",
    }


def _listener(item: ListeningSocket) -> ListenerDocument:
    return {
        "protocol": item.protocol,
        "address": item.address,
        "port": item.port,
        **_holder(item),
    }


_HOLDER: Final = attrgetter(*HolderDocument.__annotations__)


def _holder(item: ListeningSocket) -> HolderDocument:
    return {
        "process": item.process,
        "user": item.user,
        "executable": item.executable,
        "is_deleted": item.is_deleted,
        "unit": item.unit,
        "container": item.container,
        "container_name": item.container_name,
        "image": item.image,
        "package": item.package,
        "version": item.version,
        "source": item.source,
        "note": item.note,
    }


def _restarts(needs: RestartNeeds) -> RestartDocument:
    kernel = needs.kernel
    return {
        "processes": None
        if needs.processes is None
        else [
            {"process": item.process, "user": item.user, "details": item.details, "files": list(item.files)}
            for item in needs.processes
        ],
        "is_complete": needs.is_complete,
        "kernel": {"running": kernel.running, "newer": kernel.newer} if kernel else None,
    }


def _unexpected_listeners(correlation: Correlation) -> dict[str, list[HolderDocument]]:
    """Return who listens on each unexpected port, each once, as far as the audit tells."""
    return {
        spell(port): [_holder(item) for item in {_HOLDER(item): item for item in correlation.listeners[port]}.values()]
        for port in correlation.unexpected
        if port in correlation.listeners
    }
