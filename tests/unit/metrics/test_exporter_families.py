"""Names of services on /metrics: of the ports that alerts may be about, and of no more."""

from __future__ import annotations

from portspec.metrics.exporter_families import ServiceNames, named
from portspec.metrics.host_families import single_ports
from tests.unit.factories import result, seen, snapshot, target


def test_ports_that_deviate_have_their_service_named_once() -> None:
    """A port that deviates at several hosts is one name, and one that has none is left out."""
    every = [target(name, scan=[6379, 61_234]) for name in ("db1", "db2")]
    of = snapshot(*((one, [result(one, seen(is_open=[6379, 61_234]))]) for one in every))
    names = ServiceNames()
    assert names.of(of.hosts) == [(6379, "redis")]
    assert names.of(of.hosts) == [(6379, "redis")]  # as it is kept


def test_host_with_thousands_of_open_ports_has_none_of_them_named() -> None:
    """Where the ports of an address share a series nothing is looked up for each of them."""
    every = list(range(1, 40_001, 2))
    one = target("db1", scan=every)
    of = snapshot((one, [result(one, seen(scanned=one.config.ports, is_open=one.config.ports))]))
    (state,) = of.hosts.values()
    assert single_ports(state) == set()
    assert named([]) == []
