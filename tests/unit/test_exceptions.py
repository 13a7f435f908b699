from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.state import AuditState
from portspec.config import VulnerabilityException
from portspec.exceptions import excepted_ports, in_force, is_outdated, next_edge, outdated
from portspec.ports import ALL_PORTS, NO_PORTS, PortSet
from portspec.state.snapshot import HostState
from tests.unit.factories import MODEST, NOW, exception, target

TIMES = st.integers(0, 20).map(float)
ENDS = st.lists(TIMES, max_size=4)


def states(ends: list[float], judged_at: float) -> tuple[HostState, AuditState]:
    """Make a scanned host and a reporting one with exceptions of these ends."""
    of = target(exceptions=[exception(80, until=end) for end in ends])
    accepted = tuple(VulnerabilityException(("*",), ("cve-2024-1",), end) for end in ends)
    return HostState(of, judged_at=judged_at), AuditState("web1", accepted, None, judged_at)


@MODEST
@given(ends=ENDS, judged_at=st.one_of(TIMES, st.just(math.inf)), now=TIMES)
def test_state_is_outdated_if_other_exceptions_are_in_force_than_it_knows(
    ends: list[float], judged_at: float, now: float
) -> None:
    """The same holds for ports and for audits, and whether the clock went forward or was set back."""
    for state in states(ends, judged_at):
        differs = in_force(state.exceptions, judged_at) != in_force(state.exceptions, now)
        assert is_outdated(state, now) is differs
        assert list(outdated([state], now)) == ([state] if differs else [])


@MODEST
@given(ends=ENDS, now=TIMES)
def test_nothing_is_outdated_before_the_next_edge(ends: list[float], now: float) -> None:
    """Until then a state that was judged now stays so, and at that moment it is outdated."""
    for state in states(ends, now):
        end = next_edge([state], now)
        assert end == min((item for item in ends if item > now), default=math.inf)
        assert not is_outdated(state, math.nextafter(end, now))
        assert end == math.inf or is_outdated(state, end)


@pytest.mark.parametrize(
    ("now", "is_in_force"),
    [
        (NOW - 86400, True),
        (math.nextafter(NOW, 0.0), True),
        (NOW, False),
        (math.nextafter(NOW, math.inf), False),
        (math.inf, False),
    ],
)
def test_exception_lapses_at_its_very_moment(now: float, is_in_force: bool) -> None:  # noqa: FBT001
    """It is in force until the moment before `until`, and not at that moment any more."""
    one = exception(80, until=NOW)
    assert in_force([one], now) == ((one,) if is_in_force else ())
    assert excepted_ports([one], now) == (PortSet.of([80]) if is_in_force else NO_PORTS)


def test_exceptions_in_force_keep_their_order() -> None:
    """Those that lapsed are left out, the others stay as they stand in the file."""
    first, lapsed, last = exception(1, until=NOW + 2), exception(2, until=NOW - 1), exception(3, until=NOW + 1)
    assert in_force([first, lapsed, last], NOW) == (first, last)


def test_ports_are_those_of_all_exceptions_in_force() -> None:
    """Ports that overlap count once; without an exception there are none."""
    some = [exception(22, 80, until=NOW + 1), exception(80, 443, until=NOW + 2), exception(8080, until=NOW)]
    assert excepted_ports(some, NOW) == PortSet.of([22, 80, 443])
    assert excepted_ports([], NOW) == NO_PORTS
    assert excepted_ports([*some, exception(*ALL_PORTS, until=NOW + 1)], NOW) == ALL_PORTS


@MODEST
@given(st.lists(st.tuples(st.sets(st.integers(1, 20), max_size=5), st.integers(-3, 3)), max_size=6), st.integers(-4, 4))
def test_ports_agree_with_plain_sets(some: list[tuple[set[int], int]], now: int) -> None:
    """For any exceptions and any time the ports are the union of those that end later."""
    exceptions = [exception(*ports, until=float(until)) for ports, until in some]
    wanted = set().union(*(ports for ports, until in some if now < until))
    assert set(excepted_ports(exceptions, float(now))) == wanted
