"""The families of the exporter itself, from its status, as prometheus_client has them."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from portspec import __version__
from portspec.audit.fixes import BUCKETS, Histogram
from portspec.exposure import reason_of
from portspec.metrics import catalogue as m
from portspec.metrics.host_families import single_ports
from portspec.ports import spell
from portspec.priorities import Priority
from portspec.services import name_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric as Family

    from portspec.inventory import Shard
    from portspec.inventory.discovery import SourceStats
    from portspec.notify import MailStatus
    from portspec.report import ReportFileStatus
    from portspec.state.snapshot import HostState, Snapshot
    from portspec.state.table import HostTable
    from portspec.store import StoreStatus

    Samples = Iterable[tuple[Sequence[str], float]]


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """How the intake of reports does.

    `received` and `rejected` count audits; the latter has every reason of audit.admission.REASONS, from 0, so that the
    first refusal is an increase. A report is late after `max_age` seconds. The tool's output of `unread` accepted ones
    is still to be read. `time_to_fix` are the seconds that vulnerabilities took to be fixed; a class that is not in it
    has none yet.
    """

    received: int
    rejected: Mapping[str, int]
    max_age: float
    unread: int
    time_to_fix: Mapping[Priority, Histogram] | None = None


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """How a list about vulnerabilities is: when it was made, a Unix time, or 0 if there is none; failed attempts."""

    at: float
    entries: int
    failures: int


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The state of the exporter itself; `config_loaded_at` is in Unix seconds.

    `mail` is None without `sendemail` in conf.yml, `audit` without an `audit` block, and `reportfile` until the first
    attempt to write it. `canary_seen` is None without canaries and until the first check. `restarts` counts those of
    each part, and `failing` has the parts that hang or wait for their restart.
    """

    engine: str
    config_loaded_at: float
    config_is_good: bool
    is_ready: bool
    shard: Shard
    store: StoreStatus
    sources: tuple[SourceStats, ...] = ()
    mail: MailStatus | None = None
    audit: AuditStatus | None = None
    reportfile: ReportFileStatus | None = None
    feeds: Mapping[str, FeedStatus] = field(default_factory=dict)
    canary_seen: bool | None = None
    restarts: Mapping[str, int] = field(default_factory=dict)
    failing: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HttpStatus:
    """The open connections of the HTTP server by group of listeners, and those that it closed, by reason.

    `refused` are requests, by reason.
    """

    open: Mapping[str, int]
    closed: Mapping[str, int]
    refused: Mapping[str, int]


def http_families(status: HttpStatus) -> Iterator[Family]:
    """Yield the families of the HTTP server."""
    yield _family(m.HTTP_CONNECTIONS, [((listener,), count) for listener, count in status.open.items()])
    yield _family(m.HTTP_CONNECTIONS_CLOSED, [((reason,), count) for reason, count in status.closed.items()])
    yield _family(m.HTTP_REQUESTS_REFUSED, [((reason,), count) for reason, count in status.refused.items()])


def exporter_families(
    snapshot: Snapshot, status: ServiceStatus, series_dropped: int, ports: Iterable[int]
) -> Iterator[Family]:
    """Yield the families of the exporter itself, and those of all hosts together."""
    shard = status.shard
    yield _family(m.BUILD_INFO, [((__version__, platform.python_version()), 1)])
    yield _family(m.ENGINE_INFO, [((status.engine,), 1)])
    yield _family(m.SHARD_INFO, [((str(shard.index), str(shard.count)), 1)])
    for metric, value in (
        (m.HOSTS, len(snapshot.hosts)),
        (m.READY, status.is_ready),
        (m.SERIES_DROPPED, series_dropped),
        (m.CONFIG_SUCCESSFUL, status.config_is_good),
        (m.CONFIG_TIMESTAMP, status.config_loaded_at),
        (m.SCAN_ROUNDS, snapshot.rounds),
        (m.SCAN_OVERRUNS, snapshot.overruns),
        (m.SCAN_RETRIES, snapshot.retries),
        (m.RECHECKS, snapshot.rechecks),
        (m.PROBES_SENT, snapshot.probes_sent),
        (m.ANSWERS_DROPPED, snapshot.answers_dropped),
        (m.STORE_UP, status.store.is_up),
        (m.STORE_HELD, status.store.is_held),
        (m.STORE_ERRORS, status.store.errors),
        (m.STORE_PENDING, status.store.pending),
        (m.STORE_DROPPED, status.store.dropped),
    ):
        yield _family(metric, [((), value)])
    yield from _of_ports(ports)
    if status.canary_seen is not None:
        yield _family(m.CANARY_SEEN, [((), status.canary_seen)])
    if restarts := status.restarts:
        yield _family(m.PART_RESTARTS, [((part,), count) for part, count in restarts.items()])
        parts = sorted(restarts.keys() | status.failing)
        yield _family(m.PART_UP, [((part,), part not in status.failing) for part in parts])
    if report := status.reportfile:
        yield _family(m.REPORTFILE_UP, [((), report.is_up)])
        yield _family(m.REPORTFILE_SUCCESS, [((), report.last_success)])
    if mail := status.mail:
        yield _family(m.MAIL_OUTBOX, [((), mail.waiting)])
        yield _family(m.MAILS_SENT, [((), mail.sent)])
        yield _family(m.MAILS_GIVEN_UP, [((), mail.given_up)])
        yield _family(m.MAILS_FAILED, [((reason,), count) for reason, count in mail.failed.items()])
    if audit := status.audit:
        yield _family(m.AUDIT_RECEIVED, [((), audit.received)])
        yield _family(m.AUDIT_REJECTED, [((reason,), count) for reason, count in audit.rejected.items()])
        yield _family(m.AUDIT_MAX_AGE, [((), audit.max_age)])
        yield _family(m.AUDIT_UNREAD, [((), audit.unread)])
        if audit.time_to_fix is not None:
            yield _time_to_fix(audit.time_to_fix)
    if feeds := status.feeds:
        yield _family(m.FEED_TIMESTAMP, [((name,), feed.at) for name, feed in feeds.items()])
        yield _family(m.FEED_ENTRIES, [((name,), feed.entries) for name, feed in feeds.items()])
        yield _family(m.FEED_FAILURES, [((name,), feed.failures) for name, feed in feeds.items()])
    if sources := status.sources:
        yield _family(m.DISCOVERED_HOSTS, [((source.name,), source.hosts) for source in sources])
        yield _family(m.DISCOVERY_REFRESHES, [((source.name,), source.refreshes) for source in sources])
        yield _family(m.DISCOVERY_FAILURES, [((source.name,), source.failures) for source in sources])
        yield _family(m.DISCOVERY_REFUSED, [((source.name,), source.targets_refused) for source in sources])
        answered = [((source.name,), source.last_success) for source in sources if source.last_success is not None]
        yield _family(m.DISCOVERY_SUCCESS, answered)


def probe_families(state: HostState, duration: float, series_dropped: int) -> Iterator[Family]:
    """Yield the families of one probe, which took `duration` seconds."""
    is_success = state.latest is not None and state.latest.judgement.conclusive
    for metric, value in (
        (m.PROBE_SUCCESS, is_success),
        (m.PROBE_DURATION, duration),
        (m.SERIES_DROPPED, series_dropped),
    ):
        yield _family(metric, [((), value)])
    yield from _of_ports(sorted(single_ports(state)))


def _of_ports(ports: Iterable[int]) -> Iterator[Family]:
    """Yield what is to be said of ports, once for each: the name of its service, and why it should not be open."""
    for metric, word_of in ((m.PORT_SERVICE_NAME_INFO, _name), (m.PORT_SEVERITY_REASON_INFO, reason_of)):
        if samples := [((spell(port), word), 1) for port in ports if (word := word_of(port))]:
            yield _family(metric, samples)


def _time_to_fix(times: Mapping[Priority, Histogram]) -> Family:
    metric, bounds = m.AUDIT_TIME_TO_FIX, tuple(map(floatToGoString, BUCKETS))
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for priority in Priority:
        histogram = times.get(priority, Histogram())
        family.add_metric([priority], list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family


def _family(metric: m.Metric, samples: Samples) -> Family:
    kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family


class SinglePorts:
    """Finds the ports of one table of hosts after the other. Not for two threads at a time."""

    def __init__(self) -> None:
        self._chunks: list[tuple[tuple[HostState, ...], frozenset[int]]] = []

    def of(self, hosts: HostTable[HostState]) -> list[int]:
        """Return each port that deviates or has an exception at any host, sorted."""
        known = self._chunks
        self._chunks = [
            known[place] if place < len(known) and known[place][0] is states else (states, _ports(states))
            for place, states in enumerate(hosts.chunks)
        ]
        return sorted(_union(ports for _, ports in self._chunks))


def _ports(states: Iterable[HostState]) -> frozenset[int]:
    return _union(map(single_ports, states))


def _union(sets: Iterable[Collection[int]]) -> frozenset[int]:
    return frozenset[int]().union(*sets)


@cache  # the system reads a file for each
def _name(port: int) -> str | None:
    return name_of(port)
