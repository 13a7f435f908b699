"""The page /metrics: the exporter's own families from prometheus_client, the host families from render.py."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from portspec.metrics import catalogue as m
from portspec.metrics.accept import weight_of, weighted
from portspec.metrics.block import CachedBlock, Deflated, Deflater
from portspec.metrics.exporter_families import (
    SinglePorts,
    exporter_families,
    http_families,
    probe_families,
)
from portspec.metrics.host_families import AUDITS, PORTS, PROBED
from portspec.metrics.render import Renderer
from portspec.state.table import HostTable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from prometheus_client.core import Metric as Family

    from portspec.metrics.catalogue import Metric
    from portspec.metrics.exporter_families import HttpStatus, ServiceStatus
    from portspec.state.snapshot import HostState, Snapshot

MANY_HOSTS = 10_000  # from which on a compressed page may be one that was written ahead
MAX_AHEAD_AGE = 15.0  # seconds; an older one is written anew

_OPENMETRICS_EOF = b"# EOF\n"


@dataclass(frozen=True, slots=True)
class Page:
    """What a scrape is answered with; `pieces` follow each other without anything between."""

    pieces: tuple[bytes, ...]
    content_type: str
    content_encoding: str | None

    @property
    def size(self) -> int:
        """The number of bytes of all pieces."""
        return sum(map(len, self.pieces))


#: The metrics that are written of all hosts: whoever asks for others only need not wait for these.
_OF_HOSTS = {
    *(part.metric.name for part in PORTS.parts),
    *(part.metric.name for part in AUDITS.parts),
    m.SERIES_DROPPED.name,
    m.PORT_SERVICE_NAME_INFO.name,
    m.PORT_SEVERITY_REASON_INFO.name,
}


@dataclass(frozen=True, slots=True)
class _Hosts:
    """What a page has of the hosts of a snapshot, and when it was written; compressed already if they are many."""

    families: Sequence[tuple[Metric, list[CachedBlock]]] = ()
    dropped: int = 0
    ports: Sequence[int] = ()
    deflated: Deflated | None = None
    at: float = 0.0


class Exposition:
    """Writes /metrics. `snapshot` gives the state as it is at the moment of the scrape; threads may write at a time.

    With MANY_HOSTS, a compressed page has the hosts as they were when write_ahead() has written them, some seconds ago:
    while scans finish, the lines of a second's hosts lie all over the page, which takes seconds to write.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        status: Callable[[], ServiceStatus],
        *,
        series_budget: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._snapshot = snapshot
        self._status = status
        self._clock = clock
        self._ports, self._audits = Renderer(PORTS, series_budget), Renderer(AUDITS, series_budget)
        self._single_ports = SinglePorts()
        self._deflater = Deflater()
        self._ahead: _Hosts | None = None
        self._turn = threading.Lock()
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)

    @property
    def series_budget(self) -> int:
        """The number of series of ports, vulnerabilities and listeners that a page may have."""
        return self._ports.series_budget

    @series_budget.setter
    def series_budget(self, budget: int) -> None:
        self._ports.series_budget = budget

    def write_ahead(self) -> None:
        """Write what has changed since the last page already, so that the next one need not."""
        with self._turn:
            self._write_hosts(self._clock(), self._snapshot())

    def write(
        self,
        accept: str = "",
        accept_encoding: str = "",
        names: Collection[str] = (),
        *,
        http: HttpStatus | None = None,
    ) -> Page:
        """Return the page for the header fields of a request; with `names`, only the samples of these names.

        `http` is the state of the server that is asked, if there is one.

        Text 0.0.4 or OpenMetrics 1.0.0, plain or gzip (RFC 9110, 12.5): invalid fields are ignored.
        """
        is_openmetrics, is_gzip = negotiated(accept, accept_encoding)
        if names and _OF_HOSTS.isdisjoint(names):
            blocks = self._around(self._snapshot(), _Hosts(), names, http, is_openmetrics=is_openmetrics)
            return _packed(blocks, Deflater(), is_openmetrics=is_openmetrics, is_gzip=is_gzip)
        hosts = self._ahead
        if is_gzip and not names and hosts and self._clock() - hosts.at <= MAX_AHEAD_AGE:
            snapshot = self._snapshot()
        else:
            with self._turn:
                at, snapshot = self._clock(), self._snapshot()
                hosts = self._write_hosts(at, snapshot)
                if not (is_gzip and not names and hosts.deflated):
                    own, *end = self._around(snapshot, hosts, names, http, is_openmetrics=is_openmetrics)
                    blocks = [own, *_blocks(hosts.families, names), *end]
                    return _packed(blocks, self._deflater, is_openmetrics=is_openmetrics, is_gzip=is_gzip)
        deflater = Deflater()
        own, *end = self._around(snapshot, hosts, names, http, is_openmetrics=is_openmetrics)
        page = deflater.deflate([own]) + (hosts.deflated or Deflated()) + deflater.deflate(end)
        return _page(page.file, is_openmetrics=is_openmetrics, is_gzip=True)

    def _write_hosts(self, at: float, snapshot: Snapshot) -> _Hosts:
        """Write the families of all hosts as they are at a time; compressed, and kept, if they are many."""
        families, dropped = self._ports.render(snapshot.hosts)
        self._audits.series_budget = self._ports.left  # ports come before what hosts report
        more, more_dropped = self._audits.render(snapshot.audits)
        found = dict(families)
        for metric, blocks in more:  # the samples of one that both have stand together
            found[metric] = [*found.get(metric, []), *blocks]
        ports = self._single_ports.of(snapshot.hosts)
        hosts = _Hosts(list(found.items()), dropped + more_dropped, ports, at=at)
        if len(snapshot.hosts) < MANY_HOSTS:
            self._ahead = None
            return hosts
        hosts = replace(hosts, deflated=self._deflater.deflate(_blocks(hosts.families, ())))
        # Without the families, whose text would stay in memory beside that of the next page.
        self._ahead = replace(hosts, families=())
        return hosts

    def _around(
        self,
        snapshot: Snapshot,
        hosts: _Hosts,
        names: Collection[str],
        http: HttpStatus | None,
        *,
        is_openmetrics: bool,
    ) -> list[CachedBlock]:
        """Write the exporter's own families, which come before the hosts, and what comes after these."""
        own = (*exporter_families(snapshot, self._status(), hosts.dropped, hosts.ports), *self._process.collect())
        if http:
            own = (*own, *http_families(http))
        return _around(own, names, is_openmetrics=is_openmetrics)


def negotiated(accept: str, accept_encoding: str) -> tuple[bool, bool]:
    """Return whether a page is OpenMetrics and whether it is compressed, for the header fields of a request."""
    return _wants_openmetrics(accept), _accepts_gzip(accept_encoding)


def probe_page(state: HostState, *, duration: float, series_budget: int, accept: str, accept_encoding: str) -> Page:
    """Return the page of one probe, which took `duration` seconds; see Exposition.write."""
    is_openmetrics, is_gzip = negotiated(accept, accept_encoding)
    families, dropped = Renderer(PROBED, series_budget).render(HostTable([state]))
    own, *end = _around(probe_families(state, duration, dropped), (), is_openmetrics=is_openmetrics)
    return _packed([own, *_blocks(families, ()), *end], Deflater(), is_openmetrics=is_openmetrics, is_gzip=is_gzip)


def _blocks(families: Iterable[tuple[Metric, list[CachedBlock]]], names: Collection[str]) -> Iterator[CachedBlock]:
    for metric, samples in families:
        if not names or metric.name in names:
            head = f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
            yield CachedBlock(head.encode())
            yield from samples


def _packed(blocks: list[CachedBlock], deflater: Deflater, *, is_openmetrics: bool, is_gzip: bool) -> Page:
    pieces = deflater.deflate(blocks).file if is_gzip else tuple(block.text for block in blocks)
    return _page(pieces, is_openmetrics=is_openmetrics, is_gzip=is_gzip)


def _page(pieces: tuple[bytes, ...], *, is_openmetrics: bool, is_gzip: bool) -> Page:
    content_type = openmetrics.CONTENT_TYPE_LATEST if is_openmetrics else CONTENT_TYPE_PLAIN_0_0_4
    return Page(pieces, content_type, "gzip" if is_gzip else None)


def _around(own: Iterable[Family], names: Collection[str], *, is_openmetrics: bool) -> list[CachedBlock]:
    """Write families of prometheus_client, which begin a page, and what ends it."""
    registry = CollectorRegistry(auto_describe=True)  # or it would not know the names that it may be restricted to
    registry.register(_Families(tuple(own)))
    chosen = registry.restricted_registry(names) if names else registry
    if is_openmetrics:
        # typed nowhere in prometheus_client 0.26
        text: bytes = openmetrics.generate_latest(chosen)  # type: ignore[no-untyped-call]
        return [CachedBlock(text.removesuffix(_OPENMETRICS_EOF)), CachedBlock(_OPENMETRICS_EOF)]
    return [CachedBlock(generate_latest(chosen))]


@dataclass(frozen=True, slots=True, eq=False)
class _Families:
    """Families that are there already, as the collector that a registry asks for them."""

    families: Iterable[Family]

    def collect(self) -> Iterable[Family]:
        return self.families


def _wants_openmetrics(accept: str) -> bool:
    """Choose by an Accept header (RFC 9110, 12.5.1): the greater weight, of equal ones the first; the text if none."""
    # prometheus_client has choose_encoder() for that, which in 0.23 to 0.26 ignores weights, even q=0, raises TypeError
    # for a version such as "abc", and returns what writes a whole registry: host families would not know the format.
    best = (0.0, False)
    for media, parameters in weighted(accept):
        if media == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
            is_openmetrics = True
        elif media in ("text/plain", "text/*", "*/*"):
            is_openmetrics = False
        else:
            continue
        if (weight := weight_of(parameters)) > best[0]:
            best = (weight, is_openmetrics)
    return best[1]


def _accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header (RFC 9110, 12.5.3) asks for gzip."""
    weights = {coding: weight_of(parameters) for coding, parameters in weighted(accept_encoding)}
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0
