"""What the page of a host shows beside its row. Pure."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from portspec.exceptions import excepted_ports, in_force
from portspec.exposure import PortSeverity, reason_of
from portspec.ports import PortSet
from portspec.priorities import Priority
from portspec.state.correlation import correlate
from portspec.state.verdict import Kind
from portspec.times import spell_duration
from portspec.web.drawings import strip, timeline
from portspec.web.spelling import named_ports, port_list, process_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.audit.priority import Finding
    from portspec.audit.state import AuditState
    from portspec.scan import AddressObservation
    from portspec.state.changes import Change, DatedVerdict
    from portspec.state.correlation import Correlation
    from portspec.state.snapshot import HostState
    from portspec.state.verdict import Deviation

MAX_LISTED: Final = 200  # deviations, and vulnerabilities, that are listed
_SEVERITIES: Final = list(PortSeverity)  # the highest first


def scan_values(
    state: HostState,
    audit: AuditState | None,
    verdicts: Sequence[DatedVerdict],
    changes: Sequence[Change],
    now: float,
) -> dict[str, Any]:
    """Return what is shown of a scanned host; verdicts and changes are its own, the newest first."""
    correlation = correlate(state, audit)
    shown = state.conclusive or state.latest
    excepted = set(state.excepted)
    every = sorted({*state.deviations, *excepted}, key=lambda item: (_SEVERITIES.index(state.severity_of(item)), item))
    deviations = [_deviation(item, state, correlation, is_excepted=item in excepted) for item in every[:MAX_LISTED]]
    accepted = excepted_ports(state.exceptions, now)
    return {
        "allowed": port_list(state.target.config.specification.allow),
        "source": state.target.config.source,
        "entry": state.target.config.name,
        "duration": spell_duration(shown.duration) if shown else "",
        "last_change": state.last_change,
        "addresses": [_address(item, state, accepted) for item in shown.addresses] if shown else [],
        "deviations": deviations,
        "has_due_deviations": any(item["due"] is not None for item in deviations),
        "more_deviations": max(0, len(every) - MAX_LISTED),
        "exceptions": [
            {"ports": port_list(item.ports), "until": item.until, "reason": item.reason, "owner": item.owner}
            for item in in_force(state.exceptions, now)
        ],
        "timeline": timeline(verdicts, changes, valid_until=state.overdue_at, now=now),
    }


def vulnerability_values(audit: AuditState | None) -> dict[str, Any]:
    """Return what is shown of the vulnerabilities of a host, the most urgent first, and of what is to be restarted."""
    findings = audit.findings if audit else []
    rows = [_finding(item) for item in findings[:MAX_LISTED]]
    needs = audit.restarts if audit else None
    return {
        "vulnerabilities": rows,
        "has_due_vulnerabilities": any(row["due"] is not None for row in rows),
        "more_vulnerabilities": max(0, len(findings) - MAX_LISTED),
        "restarts": list(islice(needs.lines, MAX_LISTED)) if needs else [],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    item = finding.vulnerability
    return {
        "css": {Priority.FIX_NOW: "bad", Priority.FIX_SOON: "odd"}.get(finding.priority, ""),
        "class": finding.priority.words,
        "why": "" if finding.priority is Priority.REST else finding.why,
        "since": finding.since,
        "due": finding.due,
        "severity": item.severity.value,
        "id": item.id,
        "package": item.package,
        "version": item.version,
        "fixed_version": ", ".join(item.fixed_in),
    }


def _address(item: AddressObservation, state: HostState, accepted: PortSet) -> dict[str, Any]:
    cells, more = strip(item, state.target.config.specification, accepted)
    return {
        "address": item.address,
        "cells": cells,
        "more_cells": more,
        "closed": item.closed,
        "filtered": len(item.filtered),
        "failure": item.failure.detail if item.failure else "",
        "rtt": f"{item.rtt * 1000:.1f} ms" if item.rtt is not None else "",
    }


def _deviation(
    item: Deviation, state: HostState, correlation: Correlation | None, *, is_excepted: bool
) -> dict[str, Any]:
    port = PortSet.of([item.port])
    listeners = correlation.listeners.get(item.port, ()) if correlation else ()
    return {
        "port": named_ports(port),
        "number": item.port,
        "address": item.address,
        "kind": item.kind.value,
        "state": item.state.value,
        "severity": state.severity_of(item).value,
        "reason": reason_of(item.port) if item.kind is Kind.UNEXPECTED else None,
        "is_excepted": is_excepted,
        "since": state.deviates_since(item.kind, port),
        "due": None if is_excepted else state.due_at(item),
        "held_by": process_names(listeners) if listeners else "",
    }
