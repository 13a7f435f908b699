from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.cli.estimate import Estimate, Pace, estimate
from portspec.config import Config, ScanConfig
from portspec.ports import ALL_PORTS, PortSet

PACE = Pace("syn", 100_000, 4096, 1024)
CONFIG = Config("conf.yml", (), parallelscans=10, scan=ScanConfig(timeout=0.9, retries=2))
THREE = PortSet.of([22, 80, 81])


def test_names_of_one_address_take_as_long_as_one() -> None:
    """Two hundred names on an address are estimated as one, with the ports of all of them."""
    one = estimate(CONFIG, [(["192.0.2.1"], THREE)], PACE)
    assert (one.addresses, one.probes, one.best) == (1, 3, 3 / 100_000)
    assert one.worst == pytest.approx(2.7)
    assert estimate(CONFIG, [(["192.0.2.1"], THREE)] * 200, PACE) == one
    others = [(["192.0.2.1"], THREE), (["192.0.2.1"], PortSet.of([443]))]
    assert estimate(CONFIG, others, PACE).probes == 4


def test_silent_hosts_wait_for_places() -> None:
    """A hundred silent hosts of which ten are scanned at a time take ten times as long as one."""
    hosts = [([f"192.0.2.{number}"], THREE) for number in range(100)]
    assert estimate(CONFIG, hosts, PACE).worst == pytest.approx(27.0)


def test_host_rate_holds_for_all_addresses_of_a_host() -> None:
    """A host of two addresses takes as long as its probes at host_rate do."""
    slow = dataclasses.replace(CONFIG, scan=dataclasses.replace(CONFIG.scan, host_rate=10.0))
    found = estimate(slow, [(["192.0.2.1", "2001:db8::1"], THREE)], PACE)
    assert found.best == pytest.approx(0.6)
    assert found.worst == pytest.approx(2.7)


def test_all_ports_are_asked_a_window_at_a_time() -> None:
    """The ports of a silent address are waited for a window after the other, each as often as it is tried."""
    found = estimate(CONFIG, [(["192.0.2.1"], ALL_PORTS)], PACE)
    assert found.worst == pytest.approx(64 * 3 * 0.9)


def test_nothing_takes_no_time() -> None:
    """Without hosts, or with none that resolve, there is nothing to do."""
    assert estimate(CONFIG, [], PACE) == estimate(CONFIG, [([], THREE)], PACE) == Estimate(0, 0, 0.0, 0.0)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=3, unique=True),
            st.sets(st.integers(1, 50), min_size=1).map(PortSet.of),
        ),
        max_size=8,
    )
)
def test_probes_are_one_for_each_port_of_each_address(hosts: list[tuple[list[str], PortSet]]) -> None:
    """Whichever hosts share whichever addresses, each port of an address is counted once."""
    found = estimate(CONFIG, hosts, PACE)
    pairs = {(address, port) for addresses, ports in hosts for address in addresses for port in ports}
    assert (found.addresses, found.probes) == (len({address for address, _ in pairs}), len(pairs))
    assert found.best <= found.worst
