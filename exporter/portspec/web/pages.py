"""The HTML pages, from templates with escaping on.

Links are relative to the page, so that they work below any path of a reverse proxy.
"""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import replace
from functools import lru_cache
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import jinja2

from portspec import __version__
from portspec.audit.model import RANKS, Status
from portspec.exceptions import in_force
from portspec.ports import PortSet, spell
from portspec.services import name_of
from portspec.state.correlation import correlate
from portspec.state.document import moment
from portspec.state.verdict import Kind
from portspec.times import spell_duration
from portspec.web.overview import HostFilter, Row, Shown, overview

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from portspec.audit.payload import ListeningSocket
    from portspec.audit.state import AuditState
    from portspec.scan import AddressObservation
    from portspec.state.correlation import Correlation
    from portspec.state.snapshot import HostState, Snapshot
    from portspec.state.verdict import Deviation
    from portspec.store import Change

MAX_NAMED_PORTS: Final = 20  # unexpected ports of a host whose services and processes are named
MAX_NAMED_PROCESSES: Final = 5  # processes that are named of a port
MAX_LISTED: Final = 200  # deviations, and vulnerabilities, that the page of a host lists
MAX_PORTS_LENGTH: Final = 300  # characters of a list of ports
MAX_EXCEPTIONS: Final = 3  # that a row names
_NAMES: Final = {
    Shown.OUT_OF_SPEC: "out of spec",
    Shown.UNKNOWN: "unknown",
    Shown.WAITING: "not scanned yet",
    Shown.IN_SPEC: "in spec",
    Shown.UNSCANNED: "not scanned",
}
_AUDIT_CSS: Final = {
    Status.CLEAN: "good",
    Status.VULNERABLE: "bad",
    Status.FAILED: "bad",
    Status.STALE_DATABASE: "odd",
    Status.UNSUPPORTED: "odd",
    Status.NEVER: "odd",
}
_COLUMNS: Final = {
    "Host": "host",
    "Verdict": "worst",
    "Unexpected": None,
    "Missing": None,
    "Open": "open",
    "Expected": None,
    "Last scan": "last_scan",
    "Audit": "audit",
}


class Pages:
    """Renders pages; `wall_clock` gives Unix seconds."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        loader = jinja2.PackageLoader("portspec.web")
        self._environment = jinja2.Environment(
            loader=loader,
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(time=_time, rfc3339=_rfc3339, relative=_relative, clock=_clock, quoted=_quoted)
        style = loader.get_source(self._environment, "page.css")[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self._environment.globals.update(version=__version__, style=style, is_kiosk=False)
        #: What a browser may do with a page: show it with its own style, and send its forms back (CSP 3).
        self.security_policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'self'; "
            "frame-ancestors 'none'"
        )

    def index(self, snapshot: Snapshot, by: HostFilter) -> str:
        """Return the page of all hosts, filtered and sorted."""
        now = self._wall_clock()
        found = overview(snapshot, by)
        page = min(by.page, found.pages)
        has_audits = bool(found.audits)
        return self._environment.get_template("index.html").render(
            root="./",
            now=now,
            by=by,
            is_kiosk=by.is_kiosk,
            rows=[_row(row, now, "./", by) for row in found.rows],
            total=found.total,
            matching=found.matching,
            totals=list(_totals(found.verdicts, found.audits, by)),
            verdict_names=[(shown.value, name) for shown, name in _NAMES.items()],
            audit_names=[(status.value, status.value.replace("_", " ")) for status in Status],
            has_audits=has_audits,
            columns=[_column(name, order, by) for name, order in _COLUMNS.items() if name != "Audit" or has_audits],
            page=page,
            pages=found.pages,
            previous_url=_url(replace(by, page=page - 1)) if page > 1 else "",
            next_url=_url(replace(by, page=page + 1)) if page < found.pages else "",
        )

    def host(
        self,
        state: HostState | None,
        audit: AuditState | None,
        changes: Sequence[Change] | None,
        *,
        changes_error: str = "",
        is_asked: bool = False,
    ) -> str:
        """Return the page of a host; `changes` is None where the change log cannot be read.

        `is_asked` tells that a scan has just been asked for. One of state and audit is there.
        """
        now = self._wall_clock()
        host = state.host if state else audit.host if audit else ""
        details = _details(state, audit, now) if state else {}
        found = audit.vulnerabilities if audit else ()
        vulnerabilities = sorted(found, key=lambda item: (RANKS[item.severity], item.package))
        return self._environment.get_template("host.html").render(
            root="../",
            now=now,
            row=_row(Row(host, state, audit), now, "../", HostFilter()),
            is_scanned=state is not None,
            is_asked=is_asked,
            scan_url=f"{_quoted(host)}/scan",
            json_url=f"../api/v1/hosts/{_quoted(host)}",
            changes=changes,
            changes_error=changes_error,
            vulnerabilities=[
                {
                    "severity": item.severity.value,
                    "id": item.id,
                    "package": item.package,
                    "version": item.version,
                    "fixed_version": ", ".join(item.fixed_in),
                }
                for item in vulnerabilities[:MAX_LISTED]
            ],
            more_vulnerabilities=max(0, len(vulnerabilities) - MAX_LISTED),
            **details,
        )

    def changes(self, rows: Sequence[Change], *, host: str, next_before: int | None) -> str:
        """Return the page of changes, newest first, by day (UTC); `host` is the one that they are of, "" for all.

        `next_before` is the number before which the changes of the next part are, None if these are the last.
        """
        names = {"host": host, "before": "" if next_before is None else str(next_before)}
        query = urlencode({name: value for name, value in names.items() if value}, errors="replace")
        days = groupby(rows, key=lambda row: moment(row.at).strftime("%Y-%m-%d"))
        return self._environment.get_template("changes.html").render(
            root="./",
            now=self._wall_clock(),
            host=host,
            days=[(day, list(found)) for day, found in days],
            next_url=f"./changes?{query}" if next_before is not None else "",
        )

    def problem(self, title: str, message: str, root: str) -> str:
        """Return a page that says what is wrong with a request; `root` is the way to the first page."""
        return self._environment.get_template("problem.html").render(
            root=root, now=self._wall_clock(), title=title, message=message
        )


def _row(row: Row, now: float, root: str, by: HostFilter) -> dict[str, Any]:
    """Return what templates show of a host."""
    state, audit = row.state, row.audit
    failure = state.latest.judgement.failure if state and state.latest else None
    deviations = state.deviations if state else ()
    unexpected = PortSet.of(item.port for item in deviations if item.kind is Kind.UNEXPECTED)
    conclusive = state.conclusive if state else None
    return {
        "host": row.host,
        "url": f"{root}hosts/{_quoted(row.host)}",
        "labels": row.labels,
        "label_url": lambda name, value: root + _query(replace(by, labels=((name, value),), page=1)),
        "shown": row.shown.value,
        "verdict": _NAMES[row.shown],
        "failure": failure.detail if failure else "",
        "unexpected": _named(unexpected),
        "since": _since(state, unexpected) if state else None,
        "missing": _named(PortSet.of(item.port for item in deviations if item.kind is Kind.MISSING)),
        "open": _ports(conclusive.open_ports) if conclusive else "",
        "expected": _ports(state.target.config.specification.expect) if state else "",
        "exceptions": list(islice(_exceptions(state, now), MAX_EXCEPTIONS)) if state else [],
        "last_scan": conclusive.finished_at if conclusive else None,
        "next_scan": state.next_scan if state else None,
        "audit": audit and _audit(audit),
        "listeners": _who_listens(correlate(state, audit)),
    }


def _details(state: HostState, audit: AuditState | None, now: float) -> dict[str, Any]:
    """Return what the page of a scanned host has beside its row."""
    correlation = correlate(state, audit)
    shown = state.conclusive or state.latest
    excepted = set(state.excepted)
    every = sorted({*state.deviations, *excepted})
    deviations = [_deviation(item, state, correlation, is_excepted=item in excepted) for item in every[:MAX_LISTED]]
    return {
        "allowed": _ports(state.target.config.specification.allow),
        "duration": spell_duration(shown.duration) if shown else "",
        "last_change": state.last_change,
        "addresses": [_address(item) for item in shown.addresses] if shown else [],
        "deviations": deviations,
        "more_deviations": max(0, len(every) - MAX_LISTED),
        "exceptions": [
            {"ports": _ports(item.ports), "until": item.until, "reason": item.reason, "owner": item.owner}
            for item in in_force(state.exceptions, now)
        ],
    }


def _address(item: AddressObservation) -> dict[str, Any]:
    return {
        "address": item.address,
        "open": _ports(item.accepting),
        "closed": item.closed,
        "filtered": len(item.filtered),
        "failure": item.failure.detail if item.failure else "",
        "rtt": f"{item.rtt * 1000:.1f} ms" if item.rtt is not None else "",
    }


def _deviation(
    item: Deviation, state: HostState, correlation: Correlation | None, *, is_excepted: bool
) -> dict[str, Any]:
    listeners = correlation.listeners.get(item.port, ()) if correlation else ()
    return {
        "port": _named(PortSet.of([item.port])),
        "address": item.address,
        "kind": item.kind.value,
        "state": item.state.value,
        "is_excepted": is_excepted,
        "since": _since(state, PortSet.of([item.port])) if item.kind is Kind.UNEXPECTED else None,
        "held_by": _names(listeners) if listeners else "",
    }


def _since(state: HostState, ports: PortSet) -> float | None:
    """Return since when the first of some open ports has been open in each scan; None if that is not known."""
    return min((began for began, opened in state.opened if opened & ports), default=None)


def _exceptions(state: HostState, now: float) -> Iterator[tuple[str, float]]:
    """Yield the ports that an exception in force accepts now, and when it ends."""
    accepted = PortSet.of(item.port for item in state.excepted)
    for item in in_force(state.exceptions, now):
        if covered := item.ports & accepted:
            yield f"{_named(covered)} accepted", item.until


def _audit(audit: AuditState) -> dict[str, object]:
    """Return what templates show of an audit; there may be many findings, so they are gone through once."""
    status, vulnerabilities, by_severity = audit.status, audit.vulnerabilities, audit.by_severity
    named = ", ".join(f"{count} {severity.value}" for severity, count in by_severity.items() if count)
    return {
        "css": _AUDIT_CSS[status],
        "status": status.value.replace("_", " "),
        "vulnerabilities": sum(by_severity.values()),
        "severities": named,
        "packages": len({(item.package, item.version) for item in vulnerabilities}),
        "reason": audit.reason,
        "at": audit.host_audit.at if audit.host_audit else None,
    }


def _totals(verdicts: Mapping[Shown, int], audits: Mapping[Status, int], by: HostFilter) -> Iterator[dict[str, object]]:
    """Yield the numbers above the table, each with the filter that it counts; what is zero is left out."""
    for shown, name in _NAMES.items():
        if count := verdicts.get(shown, 0):
            url = _url(replace(by, shown=shown, audit=None, page=1))
            yield {"css": f"verdict {shown}", "count": count, "name": name, "url": url, "is_current": by.shown is shown}
    for status in Status:
        if (count := audits.get(status, 0)) and status is not Status.CLEAN:
            url = _url(replace(by, shown=None, audit=status, page=1))
            name = f"with audit {status.value.replace('_', ' ')}"
            css = _AUDIT_CSS[status]
            yield {"css": css, "count": count, "name": name, "url": url, "is_current": by.audit is status}


def _column(name: str, order: str | None, by: HostFilter) -> dict[str, str]:
    if order is None:
        return {"name": name, "url": "", "sorted": ""}
    is_sorted = by.order == order
    direction = ("descending" if by.is_descending else "ascending") if is_sorted else ""
    return {"name": name, "url": _url(by.sorted_by(order)), "sorted": direction}


def _url(by: HostFilter) -> str:
    return f"./{_query(by)}"


def _query(by: HostFilter) -> str:
    query = by.query()
    return f"?{query}" if query else ""


def _quoted(host: str) -> str:
    return quote(host, safe=":", errors="replace")


def _ports(ports: PortSet) -> str:
    """Spell ports in a line that stays short when a machine answers on all of them; "" for none."""
    text = str(ports) if ports else ""
    if len(text) <= MAX_PORTS_LENGTH:
        return text
    return f"{text[:MAX_PORTS_LENGTH].rpartition(', ')[0]}, … ({len(ports):,} ports)"


def _named(ports: PortSet) -> str:
    """Spell ports with their services, if they are few; "" for none."""
    if len(ports) > MAX_NAMED_PORTS:
        return _ports(ports)
    return ", ".join(f"{spell(port)} ({name})" if (name := _service(port)) else spell(port) for port in ports)


_service = lru_cache(maxsize=4096)(name_of)  # which reads services(5) each time


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
    return moment(seconds).strftime("%Y-%m-%d %H:%M:%S UTC")


def _clock(seconds: float) -> str:
    return moment(seconds).strftime("%H:%M:%S")


def _rfc3339(seconds: float) -> str:
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def _relative(seconds: float, now: float) -> str:
    """Spell a time from now: "4 min ago", "in 2 h", "now"."""
    distance = abs(now - seconds)
    for unit, size in _UNITS:
        if distance >= size:
            text = f"{int(distance // size)} {unit}"
            return f"{text} ago" if seconds < now else f"in {text}"
    return "now"
