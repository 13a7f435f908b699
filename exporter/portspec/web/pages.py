"""The HTML pages, from templates with escaping on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import jinja2

from portspec import __version__
from portspec.audit.model import Status
from portspec.ports import PortSet, spell
from portspec.state.correlation import correlate
from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.audit.payload import ListeningSocket
    from portspec.audit.state import AuditState
    from portspec.state.correlation import Correlation
    from portspec.state.snapshot import HostState, Snapshot

MAX_NAMED_PORTS = 20  # unexpected ports of a host whose processes are named
MAX_NAMED_PROCESSES = 5  # processes that are named of a port
_AUDIT_CSS = {
    Status.CLEAN: "in_spec",
    Status.VULNERABLE: "out_of_spec",
    Status.FAILED: "out_of_spec",
    Status.STALE_DATABASE: "unknown",
    Status.UNSUPPORTED: "unknown",
    Status.NEVER: "waiting",
}
_VERDICT_ORDER = {Verdict.OUT_OF_SPEC: 0, Verdict.UNKNOWN: 1, Verdict.IN_SPEC: 2}


class Pages:
    """Renders pages from a Snapshot."""

    def __init__(self) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("portspec.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["time"] = _time
        self._environment.filters["ports"] = lambda ports: str(PortSet.of(ports)) if ports else "-"

    def index(self, snapshot: Snapshot) -> str:
        """Return the table of all hosts, those that need attention first."""
        states = sorted(snapshot.hosts.values(), key=lambda state: (_VERDICT_ORDER[state.verdict], state.host))
        counts = {verdict: sum(state.verdict is verdict for state in states) for verdict in Verdict}
        return self._environment.get_template("index.html").render(
            version=__version__,
            rows=[_row(state, snapshot.audits.get(state.host)) for state in states],
            unscanned=[_audit(audit) for host, audit in snapshot.audits.items() if host not in snapshot.hosts],
            has_audits=bool(snapshot.audits),
            counts=counts,
        )


def _row(state: HostState, audit: AuditState | None) -> dict[str, object]:
    failure = state.latest.judgement.failure if state.latest else None
    return {
        "state": state,
        "verdict": state.verdict.value.replace("_", " ") if state.latest else "not scanned yet",
        "css": state.verdict.value if state.latest else "waiting",
        "missing": {item.port for item in state.deviations if item.kind is Kind.MISSING},
        "unexpected": {item.port for item in state.deviations if item.kind is Kind.UNEXPECTED},
        "failure": failure.detail if failure else "",
        "audit": audit and _audit(audit),
        "listeners": _who_listens(correlate(state, audit)),
    }


def _audit(audit: AuditState) -> dict[str, object]:
    """Return what the template shows of an audit; there may be many findings, so they are gone through once."""
    status, vulnerabilities = audit.status, audit.vulnerabilities
    return {
        "host": audit.host,
        "css": _AUDIT_CSS[status],
        "status": status.value.replace("_", " "),
        "vulnerabilities": sum(audit.by_severity.values()),
        "packages": len({(item.package, item.version) for item in vulnerabilities}),
        "reason": audit.reason,
        "at": audit.host_audit.at if audit.host_audit else None,
    }


def _who_listens(correlation: Correlation | None) -> list[tuple[str, str]]:
    """Return the processes on the unexpected ports of a host, the first few."""
    if correlation is None:
        return []
    held = [port for port in correlation.unexpected if port in correlation.listeners]
    return [(spell(port), _names(correlation.listeners[port])) for port in held[:MAX_NAMED_PORTS]]


def _names(listeners: Iterable[ListeningSocket]) -> str:
    names = sorted({item.spelled for item in listeners})
    more = [f"{len(names) - MAX_NAMED_PROCESSES:,} more"] if len(names) > MAX_NAMED_PROCESSES else []
    return ", ".join(names[:MAX_NAMED_PROCESSES] + more)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
