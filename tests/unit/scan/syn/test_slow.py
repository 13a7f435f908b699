"""Slow jobs and partial results of the SYN engine, in simulated time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from portspec.ports import NO_PORTS, PortSet
from portspec.scan.engine import SLOW_INTERVAL, SLOW_RATE
from portspec.scan.job import Failure, Reason, ScanJob
from tests.unit.scan.syn.network import Host, Simulation, TokenBucket, Truth

if TYPE_CHECKING:
    from collections.abc import Callable

FEW = PortSet.of_ranges([(1, 20)])
THOUSAND = PortSet.of_ranges([(1, 1000)])
LATE = Failure(Reason.TIMEOUT, "too late")


@pytest.mark.parametrize(
    ("host", "host_rate", "ports"),
    [
        (lambda: Host(limit=TokenBucket(1.0, 20.0), ports=dict.fromkeys((22, 80), Truth.OPEN)), None, THOUSAND),
        (lambda: Host(rtt=4.0), None, FEW),
        (Host, SLOW_RATE / 2, THOUSAND),
    ],
    ids=["it sends one RST a second", "its answers take four seconds", "host_rate is low"],
)
def test_job_that_waits_is_slow(host: Callable[[], Host], host_rate: float | None, ports: PortSet) -> None:
    """A job that sends few probes calls on_slow once, while most of it is still to be done."""
    told: list[float] = []
    with Simulation(host()) as simulation:
        job = ScanJob(("192.0.2.1",), ports, host_rate, on_slow=lambda: told.append(simulation.network.elapsed))
        future = simulation.submit(job)
        simulation.run(lambda: bool(told), within=10.0)
        assert not future.done()
        simulation.run(lambda: future.done() or simulation.network.elapsed > 30.0, within=31.0)
        future.cancel()
        simulation.engine.step()
    assert len(told) == 1
    assert told[0] >= SLOW_INTERVAL


def test_job_limited_by_the_common_rate_is_not_slow() -> None:
    """If all jobs together use the whole rate, none of them is slow."""
    told: list[str] = []
    addresses = [f"192.0.2.{number}" for number in range(1, 11)]
    with Simulation(*map(Host, addresses), rate=SLOW_RATE) as simulation:
        some = PortSet.of_ranges([(1, 50)])
        jobs = [ScanJob((address,), some, on_slow=lambda: told.append("")) for address in addresses]
        simulation.scan(*jobs, within=20.0)
    assert not told


def test_job_that_is_quick_or_busy_is_not_slow() -> None:
    """Neither a short job nor one that sends many probes for long is slow."""
    told: list[str] = []
    with Simulation(Host()) as simulation:
        simulation.scan(ScanJob(("192.0.2.1",), THOUSAND, on_slow=lambda: told.append("quick")))
        simulation.scan(
            ScanJob(("192.0.2.1",), THOUSAND, 2 * SLOW_RATE, on_slow=lambda: told.append("busy")), within=20.0
        )
    assert not told


def test_so_far_has_what_was_seen() -> None:
    """so_far() returns the ports that have answered, with the given failure."""
    ports = dict.fromkeys(range(1, 101), Truth.OPEN)
    with Simulation(Host(ports=ports)) as simulation:
        future = simulation.submit(ScanJob(("192.0.2.1",), THOUSAND, host_rate=200.0))
        simulation.run(lambda: simulation.network.elapsed > 2.0, within=3.0)
        asked = simulation.engine.so_far(future, LATE)
        simulation.engine.step()
        seen = asked.result(timeout=0)
        assert seen
        (item,) = seen.addresses
        assert item.failure == LATE
        assert 300 <= len(item.scanned) <= 500
        assert item.open == item.scanned & PortSet.of_ranges([(1, 100)])
        assert item.filtered == NO_PORTS
        future.cancel()
        simulation.engine.step()
        late = simulation.engine.so_far(future, LATE)
        simulation.engine.step()
        assert late.result(timeout=0) is None
