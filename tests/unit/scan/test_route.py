"""When silence counts, with a fake kernel."""

from __future__ import annotations

import errno
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan import Failure, Reason
from portspec.scan.netlink import Neighbour, Route
from portspec.scan.route import MAX_RESOLUTION_TIME, MAX_RESTARTS, RECHECK_INTERVAL, RouteCache, RouteStatus
from tests.unit.factories import MODEST
from tests.unit.scan.kernel import ADDRESS, GATEWAY, KNOWN, ROUTE, Kernel, link

STATES: Final = st.builds(
    Kernel,
    st.sampled_from([ROUTE, Route("192.0.2.9", 2, GATEWAY), Route("192.0.2.10", 3, ADDRESS), errno.ENETUNREACH]),
    st.builds(link, is_up=st.booleans(), changes=st.sampled_from([4, 6])),
    st.sampled_from(Neighbour),
)


@MODEST
@given(states=st.lists(st.tuples(STATES, st.booleans()), min_size=1, max_size=40))
def test_silence_counts_only_if_the_route_held(states: list[tuple[Kernel, bool]]) -> None:
    """Silence counts only if link, route and next hop have held since the ports were probed.

    Ports are asked anew at most so often, and a decision of the kernel is waited for at most so long.
    """
    kernel = Kernel()
    way = RouteCache(kernel).track(ADDRESS, 0.0)
    taken, waited, times, now = Kernel(), 0, 0, 0.0
    for state, has_answered in states:
        now = max(now + RECHECK_INTERVAL, way.recheck_at)
        kernel.way, kernel.interface, kernel.next_hop = state.way, state.interface, state.next_hop
        said = way.check(now, has_answered=has_answered)
        if isinstance(said, Failure):
            assert said.reason is Reason.NO_ROUTE
            return
        assert state.interface.is_up
        assert isinstance(state.way, Route)
        assert state.way.source == ROUTE.source
        assert state.next_hop is not Neighbour.FAILED
        if said is RouteStatus.PENDING:
            waited += 1
            assert now < way.recheck_at <= now + RECHECK_INTERVAL
            assert waited <= max(MAX_RESOLUTION_TIME.values()) / RECHECK_INTERVAL + 1
            continue
        if said is RouteStatus.CHANGED:
            taken, waited, times = state, 0, times + 1
            assert times <= MAX_RESTARTS
            continue
        assert (state.way, state.interface.changes) == (taken.way, taken.interface.changes)
        assert state.next_hop is KNOWN or has_answered
        assert state.next_hop is not Neighbour.UNRESOLVED
        return


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"way": errno.ENETUNREACH}, "network is unreachable"),
        ({"way": errno.EINVAL}, "blackhole"),
        ({"interface": link(is_up=False)}, "eth0 is down"),
        ({"way": Route("192.0.2.10", 2, ADDRESS)}, "changed from 192.0.2.9 to 192.0.2.10"),
        ({"next_hop": Neighbour.FAILED}, "192.0.2.7 does not answer ARP on eth0: no probe was sent to it"),
        (
            {"next_hop": Neighbour.FAILED, "way": Route("192.0.2.9", 2, GATEWAY)},
            "the gateway 192.0.2.1 does not answer ARP on eth0: no probe was sent to 192.0.2.7",
        ),
        ({"next_hop": Neighbour.FAILED, "way": Route("192.0.2.9", 2, "fe80::1")}, "fe80::1 does not answer neighbour"),
    ],
)
def test_unusable_route_is_no_route(changed: dict[str, object], word: str) -> None:
    """If nothing can be sent or received, the reason is no_route, and the detail names the cause."""
    kernel = Kernel()
    way = RouteCache(kernel).track(ADDRESS, 0.0)
    for name, value in changed.items():
        setattr(kernel, name, value)
    said = way.check(1.0, has_answered=True)
    assert isinstance(said, Failure)
    assert said.reason is Reason.NO_ROUTE
    assert word in said.detail


def test_silence_counts_after_a_restart() -> None:
    """When a link is back, silent ports are probed again; then their silence counts."""
    kernel = Kernel()
    way = RouteCache(kernel).track(ADDRESS, 0.0)
    kernel.interface = link(changes=6)
    assert way.check(1.0, has_answered=False) is RouteStatus.CHANGED
    assert way.check(2.0, has_answered=False) is RouteStatus.STABLE


@pytest.mark.parametrize("state", [Neighbour.ABSENT, Neighbour.UNRESOLVED, Neighbour.FAILED])
def test_next_hop_that_was_resolved_meanwhile(state: Neighbour) -> None:
    """Probes to an unresolved next hop are mostly lost: ports are probed again, unless something answered."""
    kernel = Kernel(next_hop=state)
    way, other = (RouteCache(kernel).track(ADDRESS, 0.0) for _ in range(2))
    kernel.next_hop = KNOWN
    assert way.check(1.0, has_answered=False) is RouteStatus.CHANGED
    assert way.check(2.0, has_answered=False) is RouteStatus.STABLE
    assert other.check(1.0, has_answered=True) is RouteStatus.STABLE


def test_no_neighbour_look_up_without_neighbours() -> None:
    """Where packets need no link-layer address, none is looked up."""
    kernel = Kernel(interface=link(has_neighbours=False), next_hop=Neighbour.FAILED)
    assert RouteCache(kernel).track(ADDRESS, 0.0).check(1.0, has_answered=False) is RouteStatus.STABLE
    assert not [question for question in kernel.asked if question.startswith("neighbour")]


def test_link_and_gateway_are_looked_up_once() -> None:
    """A thousand silent addresses behind one gateway need one look-up of link and gateway."""
    kernel = Kernel(way=Route("192.0.2.9", 2, GATEWAY))
    routes = RouteCache(kernel)
    taken = [routes.track(f"198.51.100.{number % 250}", 0.0) for number in range(1000)]
    kernel.asked.clear()
    assert {way.check(1.0, has_answered=False) for way in taken} == {RouteStatus.STABLE}
    assert len(kernel.asked) == 1002
    kernel.interface = link(is_up=False)
    assert isinstance(taken[0].check(1.5, has_answered=False), Failure)
