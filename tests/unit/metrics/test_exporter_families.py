"""What /metrics says of ports once for all hosts: of those that alerts may be about, and of no more."""

from __future__ import annotations

from portspec.metrics.exporter_families import SinglePorts, probe_families
from portspec.metrics.host_families import single_ports
from tests.unit.factories import result, seen, snapshot, target


def test_ports_that_deviate_are_named_once() -> None:
    """A port that deviates at several hosts is found once."""
    every = [target(name, scan=[6379, 61_234]) for name in ("db1", "db2")]
    of = snapshot(*((one, [result(one, seen(is_open=[6379, 61_234]))]) for one in every))
    ports = SinglePorts()
    assert ports.of(of.hosts) == [6379, 61_234]
    assert ports.of(of.hosts) == [6379, 61_234]  # as it is kept


def test_port_has_its_service_and_the_reason_why_it_should_not_be_open() -> None:
    """A port without a usual name, or without a known reason, is left out."""
    one = target("db1", scan=[6379, 61_234])
    of = snapshot((one, [result(one, seen(is_open=[6379, 61_234]))]))
    found = {family.name: family.samples for family in probe_families(of.hosts["db1"], 0.1, 0)}
    assert [sample.labels["service_name"] for sample in found["port_service_name_info"]] == ["redis"]
    (sample,) = found["port_severity_reason_info"]
    assert sample.labels["port"] == "6379"
    assert sample.labels["reason"].startswith("Redis is for trusted clients only")


def test_host_with_thousands_of_open_ports_has_none_of_them_named() -> None:
    """Where the ports of an address share a series nothing is looked up for each of them."""
    every = list(range(1, 40_001, 2))
    one = target("db1", scan=every)
    of = snapshot((one, [result(one, seen(scanned=one.config.ports, is_open=one.config.ports))]))
    (state,) = of.hosts.values()
    assert single_ports(state) == set()
