"""Silence in the connect engine when a fake kernel reports a lost route."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from portspec.ports import NO_PORTS, PortSet
from portspec.scan import Reason, ScanJob
from portspec.scan.connect import ConnectEngine
from portspec.scan.netlink import Link, Neighbour, Netlink
from tests.unit.scan.kernel import LINK, Kernel
from tests.unit.scan.loopback import PATIENCE, listeners, own_address, ports_of, silent_ports

if TYPE_CHECKING:
    from portspec.scan import Observation

TIMEOUT, RETRIES = 0.05, 1


class Passing(Kernel):
    """A kernel that says one thing after the other of link and neighbour, and the last one from then on."""

    def __init__(self, *states: tuple[Link, Neighbour]) -> None:
        super().__init__()
        self.states = list(states)

    def link(self, index: int) -> Link:
        """Return the next one."""
        if len(self.asked) > 1:
            self.interface, self.next_hop = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return super().link(index)


def scan(kernel: Kernel | None, *, with_open: bool = False) -> tuple[Observation, PortSet, PortSet]:
    """Scan silent ports, and one open one if wanted; return the observation, the silent ports and the open ones."""
    address = own_address()
    engine = ConnectEngine(timeout=TIMEOUT, retries=RETRIES, network=kernel)
    with silent_ports(address, 3) as silent, listeners(address, int(with_open)) as opened:
        try:
            job = ScanJob((address,), silent | ports_of(opened))
            return engine.submit(job).result(timeout=PATIENCE), silent, ports_of(opened)
        finally:
            engine.close()


def test_silence_over_a_lost_link_is_no_route() -> None:
    """If the link is down when silence would count, the reason is no_route; earlier answers stay."""
    observation, _, opened = scan(Passing((replace(LINK, is_up=False), Neighbour.KNOWN)), with_open=True)
    (seen,) = observation.addresses
    assert seen.failure is not None
    assert seen.failure.reason is Reason.NO_ROUTE
    assert "eth0 is down" in seen.failure.detail
    assert (seen.scanned, seen.open, seen.filtered) == (opened, opened, NO_PORTS)


def test_silent_ports_are_probed_again_after_an_outage() -> None:
    """If the link was lost and is back, each silent port gets all its tries again."""
    observation, silent, opened = scan(Passing((replace(LINK, changes=6), Neighbour.KNOWN)), with_open=True)
    (seen,) = observation.addresses
    assert (seen.failure, seen.open, seen.filtered) == (None, opened, silent)
    asked = 2 * (1 + RETRIES) * len(silent) + len(opened)
    # Controls go along before and after the last tries, each time, and where nothing was heard for long.
    assert asked + 4 * len(opened) <= observation.probes <= asked + 8 * len(opened)


@pytest.mark.parametrize("end", [Neighbour.FAILED, Neighbour.ABSENT])
def test_neighbour_resolution_is_awaited(end: Neighbour) -> None:
    """The engine waits for the kernel to resolve the next hop; no_route if it does not answer."""
    observation, _, _ = scan(Passing((LINK, Neighbour.UNRESOLVED), (LINK, Neighbour.UNRESOLVED), (LINK, end)))
    (seen,) = observation.addresses
    assert seen.failure is not None
    assert (seen.failure.reason, seen.scanned) == (Reason.NO_ROUTE, NO_PORTS)
    assert "does not answer ARP" in seen.failure.detail
    assert observation.probes == (1 + RETRIES) * 3


def test_silence_counts_without_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sandbox without netlink the engine scans as usual."""

    def forbidden(_: Netlink) -> None:
        raise PermissionError(1, "operation not permitted")

    monkeypatch.setattr(Netlink, "__init__", forbidden)
    observation, silent, _ = scan(None)
    assert observation.addresses[0].filtered == silent
