"""What the pages show of a host in one row. Pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from portspec.audit.model import Status
from portspec.exceptions import in_force
from portspec.exposure import PortSeverity
from portspec.ports import NO_PORTS, PortSet, spell
from portspec.priorities import Priority
from portspec.state.correlation import correlate
from portspec.state.verdict import Kind
from portspec.web.overview import Shown
from portspec.web.spelling import MAX_NAMED_PORTS, named_ports, port_list, process_names, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.audit.state import AuditState
    from portspec.state.correlation import Correlation
    from portspec.state.snapshot import HostState
    from portspec.web.overview import HostFilter, Row

MAX_EXCEPTIONS: Final = 3  # that a row names
_URGENT: Final = (Priority.FIX_NOW, Priority.FIX_SOON)
VERDICTS: Final = {
    Shown.OUT_OF_SPEC: "out of spec",
    Shown.UNKNOWN: "unknown",
    Shown.WAITING: "not scanned yet",
    Shown.IN_SPEC: "in spec",
    Shown.UNSCANNED: "not scanned",
}
AUDIT_CSS: Final = {
    Status.CLEAN: "good",
    Status.VULNERABLE: "bad",
    Status.FAILED: "bad",
    Status.STALE_DATABASE: "odd",
    Status.UNSUPPORTED: "odd",
    Status.NEVER: "odd",
}

#: What hosts with an audit are called, by its status.
AUDITED: Final = {
    Status.CLEAN: "clean",
    Status.VULNERABLE: "vulnerable",
    Status.FAILED: "with a failed audit",
    Status.STALE_DATABASE: "audited by an old database",
    Status.UNSUPPORTED: "that cannot be audited",
    Status.NEVER: "never audited",
}


def row_values(row: Row, now: float, root: str, by: HostFilter) -> dict[str, Any]:
    """Return what templates show of a host; `root` is the way to the page of all hosts."""
    state, audit = row.state, row.audit
    failure = state.latest.judgement.failure if state and state.latest else None
    deviations = state.deviations if state else ()
    unexpected, missing = (
        PortSet.of(item.port for item in deviations if item.kind is kind) for kind in (Kind.UNEXPECTED, Kind.MISSING)
    )
    conclusive = state.conclusive if state else None
    overdue = state.overdue if state else {}
    return {
        "host": row.host,
        "url": f"{root}hosts/{quoted(row.host)}",
        "labels": row.labels,
        "label_url": lambda name, value: f"{root}?{replace(by, labels=((name, value),), page=1).query()}",
        "shown": row.shown.value,
        "verdict": VERDICTS[row.shown],
        "failure": failure.detail if failure else "",
        "unexpected": named_ports(unexpected),
        "critical": named_ports(_critical(state)) if state else "",
        "since": state.deviates_since(Kind.UNEXPECTED, unexpected) if state else None,
        "overdue": named_ports(overdue.get(Kind.UNEXPECTED, NO_PORTS)),
        "missing": named_ports(missing),
        "missing_since": state.deviates_since(Kind.MISSING, missing) if state else None,
        "missing_overdue": named_ports(overdue.get(Kind.MISSING, NO_PORTS)),
        "open": port_list(conclusive.open_ports) if conclusive else "",
        "expected": port_list(state.target.config.specification.expect) if state else "",
        "accepted": list(islice(_accepted(state, now, Kind.UNEXPECTED), MAX_EXCEPTIONS)) if state else [],
        "accepted_missing": list(islice(_accepted(state, now, Kind.MISSING), MAX_EXCEPTIONS)) if state else [],
        "maintenance": (state.maintenance if state else None) or (audit.maintenance if audit else None),
        "last_scan": conclusive.finished_at if conclusive else None,
        "next_scan": state.next_scan if state else None,
        "is_overdue": bool(state and state.overdue_at is not None and state.overdue_at < now),
        "audit": audit and _audit(audit),
        "listeners": _who_listens(correlate(state, audit)),
    }


def _critical(state: HostState) -> PortSet:
    return PortSet.of(item.port for item in state.deviations if state.severity_of(item) is PortSeverity.CRITICAL)


def _accepted(state: HostState, now: float, kind: Kind) -> Iterator[tuple[str, float, str]]:
    """Yield the ports with a kind of deviation that an exception in force accepts now, when it ends, and its owner."""
    accepted = PortSet.of(item.port for item in state.excepted if item.kind is kind)
    for item in in_force(state.exceptions, now):
        if covered := item.ports & accepted:
            yield named_ports(covered), item.until, item.owner


def _audit(audit: AuditState) -> dict[str, object]:
    """Return what templates show of an audit; there may be many findings, so they are gone through once."""
    status, vulnerabilities, by_severity = audit.status, audit.vulnerabilities, audit.by_severity
    named = ", ".join(f"{count} {severity.value}" for severity, count in by_severity.items() if count)
    return {
        "css": AUDIT_CSS[status],
        "status": status.value.replace("_", " "),
        "vulnerabilities": sum(by_severity.values()),
        "severities": named,
        "urgent": ", ".join(
            f"{count} {item.words}" for item, count in audit.by_class.items() if count and item in _URGENT
        ),
        "overdue": ", ".join(
            f"{count} {item.words}" for item, count in (audit.overdue_by_class or {}).items() if count
        ),
        "packages": len({(item.package, item.version) for item in vulnerabilities}),
        "reason": audit.reason,
        "at": audit.host_audit.at if audit.host_audit else None,
    }


def _who_listens(correlation: Correlation | None) -> list[tuple[str, str]]:
    """Return the processes on the unexpected ports of a host, the first few."""
    if correlation is None:
        return []
    held = [port for port in correlation.unexpected if port in correlation.listeners]
    return [(spell(port), process_names(correlation.listeners[port])) for port in held[:MAX_NAMED_PORTS]]
