"""The bytes of /metrics: the host families from the Snapshot, the exporter's own from prometheus_client."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from portspec import __version__
from portspec.metrics import catalogue as m
from portspec.ports import spell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric as Family

    from portspec.snapshot import HostState, Snapshot


class Exposition:
    """Writes metrics. `snapshot` gives the state as it is at the moment of the scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot], *, engine: str, config_loaded_at: float) -> None:
        self._snapshot = snapshot
        self._engine = engine
        self._config_loaded_at = config_loaded_at
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def write(self, accept: str) -> tuple[bytes, str]:
        """Give the body and the content type for an Accept header (text 0.0.4 or OpenMetrics 1.0.0)."""
        if _wants_openmetrics(accept):
            # typed nowhere in prometheus_client 0.26
            body: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return body, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Family]:
        """Give every family that has samples; called by the registry."""
        snapshot = self._snapshot()
        yield from _own(snapshot, self._engine, self._config_loaded_at)
        for family in _host_families(snapshot):
            if family.samples:
                yield family


def _wants_openmetrics(accept: str) -> bool:
    """Read an Accept header (RFC 9110, 12.5.1): the first format that we have decides, the text format without any."""
    for accepted in accept.split(","):
        media, *parameters = (word.strip().lower() for word in accepted.split(";"))
        versions = [word.removeprefix("version=") for word in parameters if word.startswith("version=")]
        if media == "application/openmetrics-text" and versions in ([], ["1.0.0"]):
            return True
        if media in ("text/plain", "text/*", "*/*"):
            return False
    return False


def _gauge(metric: m.Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)


def _own(snapshot: Snapshot, engine: str, config_loaded_at: float) -> Iterator[Family]:
    build = _gauge(m.BUILD_INFO)
    build.add_metric((__version__, platform.python_version()), 1)
    yield build
    engine_info = _gauge(m.ENGINE_INFO)
    engine_info.add_metric((engine,), 1)
    yield engine_info
    for metric, value in (
        (m.HOSTS, len(snapshot.hosts)),
        (m.READY, snapshot.is_complete),
        (m.CONFIG_SUCCESSFUL, 1),
        (m.CONFIG_TIMESTAMP, config_loaded_at),
    ):
        yield GaugeMetricFamily(metric.name, metric.help, value=float(value))
    for metric, total in (
        (m.SCAN_ROUNDS, snapshot.rounds),
        (m.SCAN_OVERRUNS, snapshot.overruns),
        (m.PROBES_SENT, snapshot.probes_sent),
        (m.ANSWERS_DROPPED, snapshot.answers_dropped),
    ):
        yield CounterMetricFamily(metric.name, metric.help, value=total)


def _host_families(snapshot: Snapshot) -> Iterator[Family]:
    states = tuple(snapshot.hosts.values())
    conclusive = [(state, state.conclusive) for state in states if state.conclusive]
    latest = [(state, state.latest) for state in states if state.latest]

    yield _port_open(states)
    yield _port_expected(states)
    yield _port_deviation(states)

    family = _gauge(m.PORT_OUT_OF_SPEC)
    for state, _ in conclusive:
        family.add_metric((state.host,), len(state.deviations))
    yield family
    family = _gauge(m.PORT_HOST_UP)
    for state, result in conclusive:
        family.add_metric((state.host,), result.is_up)
    yield family
    family = _gauge(m.PORT_SCAN_SUCCESS)
    for state, result in latest:
        family.add_metric((state.host,), result.judgement.conclusive)
    yield family
    yield _port_scan_failure(states)
    family = _gauge(m.PORT_LAST_SCAN)
    for state, result in conclusive:
        family.add_metric((state.host,), result.finished_at)
    yield family
    family = _gauge(m.PORT_SCAN_DURATION)
    for state, result in conclusive:
        family.add_metric((state.host,), result.duration)
    yield family
    family = _gauge(m.PORT_LAST_CHANGE)
    for state in states:
        if state.last_change is not None:
            family.add_metric((state.host,), state.last_change)
    yield family
    family = _gauge(m.PORT_SCAN_INTERVAL)
    for state in states:
        family.add_metric((state.host,), state.target.config.interval)
    yield family
    yield _port_host_info(states)


def _port_open(states: tuple[HostState, ...]) -> Family:
    family = _gauge(m.PORT_OPEN)
    for state in states:
        if state.conclusive:
            found = set(state.conclusive.open_ports)
            for port in sorted(found.union(state.target.config.specification.expect)):
                family.add_metric((state.host, spell(port)), port in found)
    return family


def _port_expected(states: tuple[HostState, ...]) -> Family:
    family = _gauge(m.PORT_EXPECTED)
    for state in states:
        for port in state.target.config.specification.expect:
            family.add_metric((state.host, spell(port)), 1)
    return family


def _port_deviation(states: tuple[HostState, ...]) -> Family:
    family = _gauge(m.PORT_DEVIATION)
    for state in states:
        for item in state.deviations:
            family.add_metric((state.host, item.address, spell(item.port), item.kind.value, item.state.value), 1)
    return family


def _port_scan_failure(states: tuple[HostState, ...]) -> Family:
    family = _gauge(m.PORT_SCAN_FAILURE)
    for state in states:
        if state.latest:
            judgement = state.latest.judgement
            reasons = {item.failure.reason for item in state.latest.addresses if item.failure}
            if judgement.failure:
                reasons.add(judgement.failure.reason)
            for reason in sorted(reasons):
                family.add_metric((state.host, reason.value), 1)
    return family


def _port_host_info(states: tuple[HostState, ...]) -> Family:
    names = sorted({name for state in states for name in state.target.config.labels})
    family = GaugeMetricFamily(m.PORT_HOST_INFO.name, m.PORT_HOST_INFO.help, labels=("host", *names))
    for state in states:
        labels = state.target.config.labels
        if labels:
            family.add_metric((state.host, *(labels.get(name, "") for name in names)), 1)
    return family
