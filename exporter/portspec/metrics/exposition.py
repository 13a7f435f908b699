"""The page /metrics: the exporter's own families from prometheus_client, the host families from render.py."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from portspec.metrics.accept import weight_of, weighted
from portspec.metrics.block import CachedBlock, Gzip
from portspec.metrics.exporter_families import (
    ServiceNames,
    exporter_families,
    http_families,
    probe_families,
)
from portspec.metrics.host_families import AUDITS, PORTS
from portspec.metrics.render import Renderer
from portspec.state.snapshot import HostTable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from prometheus_client.core import Metric as Family

    from portspec.metrics.catalogue import Metric
    from portspec.metrics.exporter_families import HttpStatus, ServiceStatus
    from portspec.state.snapshot import HostState, Snapshot

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


class Exposition:
    """Writes /metrics. `snapshot` gives the state as it is at the moment of the scrape; threads may write at a time."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], status: Callable[[], ServiceStatus], *, series_budget: int = 100_000
    ) -> None:
        self._snapshot = snapshot
        self._status = status
        self._ports, self._audits = Renderer(PORTS, series_budget), Renderer(AUDITS, series_budget)
        self._service_names = ServiceNames()
        self._gzip = Gzip()
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
            self._render(self._snapshot())

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
        with self._turn:
            snapshot = self._snapshot()
            families, dropped = self._render(snapshot)
            services = self._service_names.of(snapshot.hosts)
            own = (*exporter_families(snapshot, self._status(), dropped, services), *self._process.collect())
            if http:
                own = (*own, *http_families(http))
            return _page(own, families, names, accept, accept_encoding, self._gzip)

    def _render(self, snapshot: Snapshot) -> tuple[list[tuple[Metric, list[CachedBlock]]], int]:
        """Return the families of all hosts and the number of series left out; ports come before what hosts report."""
        families, dropped = self._ports.render(snapshot.hosts)
        self._audits.series_budget = self._ports.left
        more, more_dropped = self._audits.render(snapshot.audits)
        found = dict(families)
        for metric, blocks in more:  # the samples of one that both have stand together
            found[metric] = [*found.get(metric, []), *blocks]
        return list(found.items()), dropped + more_dropped


def negotiated(accept: str, accept_encoding: str) -> tuple[bool, bool]:
    """Return whether a page is OpenMetrics and whether it is compressed, for the header fields of a request."""
    return _wants_openmetrics(accept), _accepts_gzip(accept_encoding)


def probe_page(state: HostState, *, duration: float, series_budget: int, accept: str, accept_encoding: str) -> Page:
    """Return the page of one probe, which took `duration` seconds; see Exposition.write."""
    families, dropped = Renderer(PORTS, series_budget).render(HostTable([state]))
    return _page(probe_families(state, duration, dropped), families, (), accept, accept_encoding, Gzip())


def _page(
    own: Iterable[Family],
    families: Iterable[tuple[Metric, list[CachedBlock]]],
    names: Collection[str],
    accept: str,
    accept_encoding: str,
    gzip: Gzip,
) -> Page:
    is_openmetrics, is_gzip = negotiated(accept, accept_encoding)
    blocks = [CachedBlock(_own_text(own, names, is_openmetrics=is_openmetrics))]
    for metric, samples in families:
        if not names or metric.name in names:
            head = f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
            blocks += [CachedBlock(head.encode()), *samples]
    if is_openmetrics:
        blocks.append(CachedBlock(_OPENMETRICS_EOF))
    pieces = gzip.file(blocks) if is_gzip else [block.text for block in blocks]
    content_type = openmetrics.CONTENT_TYPE_LATEST if is_openmetrics else CONTENT_TYPE_PLAIN_0_0_4
    return Page(tuple(pieces), content_type, "gzip" if is_gzip else None)


def _own_text(own: Iterable[Family], names: Collection[str], *, is_openmetrics: bool) -> bytes:
    registry = CollectorRegistry(auto_describe=True)  # or it would not know the names that it may be restricted to
    registry.register(_Families(tuple(own)))
    chosen = registry.restricted_registry(names) if names else registry
    if is_openmetrics:
        # typed nowhere in prometheus_client 0.26
        text: bytes = openmetrics.generate_latest(chosen)  # type: ignore[no-untyped-call]
        return text.removesuffix(_OPENMETRICS_EOF)
    return generate_latest(chosen)


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
