"""The host families as prometheus_client's own objects: what the renderer is compared with, in tests and benchmarks."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.core import GaugeMetricFamily

from portspec.metrics.host_families import AUDITS, PORTS
from portspec.state.table import OfHost

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from portspec.audit.state import AuditState
    from portspec.metrics.host_families import Families
    from portspec.state.snapshot import HostState

S = TypeVar("S", bound=OfHost)


def families(of: Families[S], states: Collection[S]) -> Iterator[GaugeMetricFamily]:
    """Return each family that has samples of these hosts; consecutive parts of one metric are one family."""
    made: dict[str, GaugeMetricFamily] = {}
    for part in of.parts:
        metric = part.metric
        family = made.setdefault(metric.name, GaugeMetricFamily(metric.name, metric.help))
        for state in states:
            for labels, value in part.samples(state):
                family.add_sample(metric.name, dict(labels), value)
    return (family for family in made.values() if family.samples)


class Peer:
    """A collector of the families of the hosts that `states`, and `audits`, give at the moment it is asked."""

    def __init__(
        self, states: Callable[[], Collection[HostState]], audits: Callable[[], Collection[AuditState]] = tuple
    ) -> None:
        self._states = states
        self._audits = audits

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return the families."""
        made: dict[str, GaugeMetricFamily] = {}
        for family in chain(families(PORTS, self._states()), families(AUDITS, self._audits())):
            made.setdefault(family.name, GaugeMetricFamily(family.name, family.documentation)).samples += family.samples
        return made.values()
