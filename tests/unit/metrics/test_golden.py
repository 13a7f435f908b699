from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from portspec.state.snapshot import Snapshot
from portspec.state.verdict import Kind
from tests.unit.factories import MODEST, NOW, target
from tests.unit.metrics.peer import Peer
from tests.unit.metrics.scrape import HOST_FAMILIES, OPENMETRICS, TEXT, audited_zoo, body, exposition
from tests.unit.metrics.worlds import snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.audit.model import Vulnerability
    from portspec.audit.state import AuditState, HostAudit
    from portspec.state.snapshot import HostState

    Key = tuple[str, frozenset[tuple[str, str]]]


def written_by_prometheus_client(of: Snapshot, accept: str) -> bytes:
    """Write the host families with prometheus_client."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Peer(lambda: tuple(of.hosts.values()), lambda: tuple(of.audits.values())))
    if accept == OPENMETRICS:
        written: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return written
    return generate_latest(registry)


@MODEST
@given(of=snapshots())
@example(audited_zoo())
def test_page_is_what_prometheus_client_writes(of: Snapshot) -> None:
    """Whatever the hosts are like, their families are byte for byte what prometheus_client writes, in both formats."""
    for accept in (TEXT, OPENMETRICS):
        page = exposition(of).write(accept, "", HOST_FAMILIES)
        assert body(page) == written_by_prometheus_client(of, accept)


def said_of(state: HostState) -> Iterator[tuple[str, dict[str, str], float]]:
    """Return what /metrics should say of a host, by the contract and without the code that says it."""
    expected = list(state.target.config.specification.expect)
    if state.target.config.interval:
        yield "port_scan_interval_seconds", {}, state.target.config.interval
    ends: dict[str, float] = {}
    for exception in state.target.exceptions:
        if state.judged_at < exception.until:
            for word in exception.ports.spellings():
                ends[word] = max(exception.until, ends.get(word, 0))
    for word, until in ends.items():
        yield "port_exception_expiry_timestamp_seconds", {"port": word}, until
    if any(item.begins <= state.judged_at < item.until for item in state.target.maintenance):
        yield "port_maintenance", {}, 1
    for port in expected:
        yield "port_expected", {"port": str(port)}, 1
    if state.target.config.labels:
        yield "port_host_info", dict(state.target.config.labels), 1
    if state.last_change is not None:
        yield "port_last_change_timestamp_seconds", {}, state.last_change
    if state.latest:
        yield "port_scan_success", {}, state.latest.judgement.verdict != "unknown"
        failures = {state.latest.judgement.failure, *(item.failure for item in state.latest.addresses)}
        for reason in {failure.reason.value for failure in failures if failure}:
            yield "port_scan_failure", {"reason": reason}, 1
    if state.conclusive:
        addresses = [item for item in state.conclusive.addresses if item.failure is None]
        found = {port for item in addresses for port in item.open if port not in item.unconfirmed}
        for port in found | set(expected):
            yield "port_open", {"port": str(port)}, port in found
        for item in state.conclusive.judgement.deviations:
            is_open = item.kind is Kind.UNEXPECTED
            labels = {"address": item.address, "port": str(item.port), "kind": str(item.kind), "state": str(item.state)}
            labels["severity"] = str(state.target.severities.of(item.port)) if is_open else "warning"
            yield "port_deviation", labels, 1
            dated = state.unexpected if is_open else state.missing
            yield (
                "port_deviation_since_timestamp_seconds",
                labels,
                next(at for at, ports in dated if item.port in ports),
            )
        yield from said_of_deadlines(state)
        yield "port_out_of_spec", {}, len(state.conclusive.judgement.deviations)
        yield "port_host_up", {}, any(item.answered for item in state.conclusive.addresses)
        yield "port_last_scan_timestamp_seconds", {}, state.conclusive.finished_at
        yield "port_scan_duration_seconds", {}, state.conclusive.duration


def said_of_deadlines(state: HostState) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield how many ports are past their deadline, of each kind that has one for any port."""
    limits = state.target.deadlines
    for kind, severities in (("missing", ["warning"]), ("unexpected", ["critical", "warning", "info"])):
        spans = {severity: (limits.kinds.get(kind), limits.severities.get(severity)) for severity in severities}
        of = {severity: [span for span in found if span is not None] for severity, found in spans.items()}
        late = set()
        for item in state.deviations:
            is_open = item.kind is Kind.UNEXPECTED
            found = of.get(str(state.target.severities.of(item.port)) if is_open else "warning")
            if item.kind == kind and found:
                dated = state.unexpected if is_open else state.missing
                since = next(at for at, ports in dated if item.port in ports)
                late |= {item.port} if since + min(found) <= state.judged_at else set()
        if any(of.values()):
            yield "port_deviations_overdue", {"owner": state.target.owner, "kind": kind}, len(late)


def said_of_due_times(state: AuditState, found: list[Vulnerability]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield how many vulnerabilities are past their deadline; what several packages have counts once."""
    report, limits = state.host_audit, state.deadlines
    severities = {"critical", "high", "medium", "low", "negligible", "unknown"}
    if not report or (found and not report.since) or not (limits.classes or severities & limits.severities.keys()):
        return
    since = dict(zip(map(id, report.audit.vulnerabilities), report.since, strict=False))
    due: dict[object, float] = {}
    classes: dict[object, str] = {}
    for item in found:
        one, of = item.id or (item.package, item.version), class_of(str(item.severity))
        spans = (limits.classes.get(of), limits.severities.get(str(item.severity)))
        if any(span is not None for span in spans):
            due[one] = min([due.get(one, math.inf), *(since[id(item)] + span for span in spans if span is not None)])
            classes[one] = min(of, classes.get(one, of))
    late = [classes[one] for one, at in due.items() if at <= NOW]
    for of in ("fix_now", "fix_soon", "plan", "rest"):
        yield "portspec_audit_vulnerabilities_overdue", {"owner": state.owner, "class": of}, late.count(of)


def shortened(value: str) -> str:
    """Cut a label value to 128 bytes."""
    data = value.encode()
    return value if len(data) <= 128 else f"{data[:125].decode(errors='ignore')}…"


def said_of_restarts(report: HostAudit) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield what it says of processes, as far as any of them was looked into, and of the kernel."""
    listeners = report.listeners
    stale = {(i.process, i.user, i.details, i.replaced) for i in listeners or () if i.replaced}
    if stale or (listeners is not None and all(i.libraries is not None for i in listeners)):
        yield "portspec_audit_restart_needed", {"kind": "process"}, len(stale)
    if report.kernel:
        yield "portspec_audit_restart_needed", {"kind": "kernel"}, report.kernel.newer is not None


def said_of_times(report: HostAudit | None, found: list[Vulnerability]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield since when each of what counts is known, and the oldest of each class."""
    if report is None or not report.since:
        return
    kept = set(map(id, found))
    dated = [
        (item, at) for item, at in zip(report.audit.vulnerabilities, report.since, strict=True) if id(item) in kept
    ]
    oldest: dict[tuple[tuple[str, str], ...], int] = {}
    by_class: dict[str, int] = {}
    for item, at in dated:
        names = ("package", shortened(item.package)), ("version", shortened(item.version)), ("id", shortened(item.id))
        oldest[names] = min(at, oldest.get(names, at))
        name = class_of(str(item.severity))
        by_class[name] = min(at, by_class.get(name, at))
    for labels, at in oldest.items():
        yield "portspec_audit_vulnerability_since_timestamp_seconds", dict(labels), at
    for name, at in by_class.items():
        yield "portspec_audit_oldest_vulnerability_timestamp_seconds", {"class": name}, at


def class_of(severity: str) -> str:
    """Return the class of what nobody has seen from outside, and of which no list tells."""
    return "plan" if severity in {"critical", "high", "unknown"} else "rest"


def said_of_audit(state: AuditState) -> Iterator[tuple[str, dict[str, str], float]]:
    """Return what /metrics should say of a host of the roster, by the contract and without the code that says it."""
    report = state.host_audit
    accepted = {name for item in state.exceptions if item.until > NOW for name in item.ids}
    every = report.audit.vulnerabilities if report else ()
    found = [item for item in every if not accepted & {name.lower() for name in (item.id, *item.aliases)}]
    status = str(report.audit.status) if report else "never"
    if report and status == "vulnerable" and not found:
        status = report.audit.without.value
    yield "portspec_audit_timestamp_seconds", {}, report.at if report else 0
    for name in ("clean", "vulnerable", "failed", "stale_database", "unsupported", "never"):
        yield "portspec_audit_status", {"status": name}, name == status
    if report:
        yield from said_of_restarts(report)
    if found or status in {"clean", "stale_database", "vulnerable"}:
        yield "portspec_audit_vulnerable_packages", {}, len({(item.package, item.version) for item in found})
        severities = ("critical", "high", "medium", "low", "negligible", "unknown")
        by_id: dict[object, set[int]] = {}
        for item in found:
            by_id.setdefault(item.id or (item.package, item.version), set()).add(severities.index(item.severity))
        worst = [min(ranks) for ranks in by_id.values()]
        for rank, severity in enumerate(severities):
            yield "portspec_audit_vulnerabilities", {"severity": severity}, worst.count(rank)
        by_class = [min(class_of(severities[rank]) for rank in ranks) for ranks in by_id.values()]
        for name in ("fix_now", "fix_soon", "plan", "rest"):
            yield "portspec_audit_vulnerabilities_by_class", {"class": name}, by_class.count(name)
        yield from said_of_due_times(state, found)
    urgent = sorted(found, key=lambda item: class_of(str(item.severity)))
    every_one = {(item.package, item.version, item.id): item for item in reversed(urgent)}.values()
    series: set[tuple[str, ...]] = set()
    for one in every_one:
        labels = {"package": one.package, "version": one.version, "id": one.id, "severity": str(one.severity)}
        labels["fixed_version"] = ", ".join(one.fixed_in)
        labels["class"] = class_of(str(one.severity))
        short = {name: shortened(value) for name, value in labels.items()}
        series.add(tuple(short.values()))
        yield "portspec_audit_vulnerability", short, 1
    yield from said_of_times(report, found)
    left_out = len(every_one) - len(series)
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    sockets = [item for item in (report.listeners or () if report else ()) if item.address not in loopback]
    held = {
        (
            item.port,
            item.process or "",
            item.user or "",
            item.package or "",
            item.unit or "",
            item.container_name or (item.container or "")[:12],
        )
        for item in sockets
        if item.protocol == "tcp"
    }
    series = set()
    for port, *holder in held:
        names = ("process", "user", "package", "unit", "container")
        labels = {"port": str(port), **dict(zip(names, map(shortened, holder), strict=True))}
        series.add(tuple(labels.values()))
        yield "port_listener_info", labels, 1
    left_out += len(held) - len(series)
    if left_out:
        yield "portspec_audit_series_dropped", {}, left_out


def key(name: str, labels: dict[str, str]) -> Key:
    """Return what tells one series from another."""
    return name, frozenset((name, value) for name, value in labels.items())


@MODEST
@given(of=snapshots())
@example(audited_zoo())
def test_page_says_what_is_known_of_the_hosts(of: Snapshot) -> None:
    """Read by prometheus_client's parsers, the page has each sample that the contract asks for, once, and no other."""
    expected: dict[Key, float] = {}
    for state in of.hosts.values():
        for name, labels, value in said_of(state):
            expected[key(name, {"host": state.host, **labels})] = float(value)
    for audit in of.audits.values():
        for name, labels, value in said_of_audit(audit):
            expected[key(name, {"host": audit.host, **labels})] = float(value)
    for accept, parse in ((TEXT, parse_text), (OPENMETRICS, parse_openmetrics)):
        page = body(exposition(of).write(accept, "", HOST_FAMILIES)).decode()
        samples = [sample for family in parse(page) for sample in family.samples]
        found = {key(sample.name, sample.labels): sample.value for sample in samples}
        assert len(found) == len(samples)
        assert found.keys() == expected.keys()
        for one, value in expected.items():
            assert found[one] == value or (math.isnan(found[one]) and math.isnan(value)), one


@pytest.mark.parametrize("value", [1e10, 1e-300, 1_700_000_000, 1_700_000_000.125, 123456.0, 1234567.0, 2**53, 0.1])
def test_numbers_are_not_rounded(value: float) -> None:
    """A number comes back from the page as the very number it was."""
    page = body(exposition(Snapshot.of([target(interval=value)])).write(TEXT, "", ["port_scan_interval_seconds"]))
    ((sample,),) = [family.samples for family in parse_text(page.decode())]
    assert sample.value == value
