"""Ports that deviate for longer than `deadlines` allow: `port_deviations_overdue`."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from portspec.deadlines import Deadlines
from portspec.exceptions import is_outdated
from portspec.exposure import PortSeverities, PortSeverity
from portspec.ports import PortSet
from portspec.state.snapshot import HostState
from portspec.state.verdict import Kind
from portspec.store.states import StateCodec
from tests.unit.factories import NOW, exception, result, seen, target

DAY = 86_400.0
LIMITS = Deadlines(severities={"critical": DAY}, kinds={"unexpected": 3 * DAY, "missing": 2 * DAY})


def ports(*members: int) -> PortSet:
    """Make a set of ports."""
    return PortSet.of(members)


def test_port_is_overdue_by_its_own_time_and_severity() -> None:
    """6379 is critical and has a day, 80 has three; what began later is due later."""
    of = target("web1", expect=[22], scan=[22, 80, 81, 6379], deadlines=LIMITS)
    state = HostState(of).after(result(of, seen(scanned=of.config.ports, is_open=[22, 80, 6379]), at=NOW))
    assert state.overdue == {Kind.MISSING: ports(), Kind.UNEXPECTED: ports()}
    later = state.after(result(of, seen(scanned=of.config.ports, is_open=[80, 81, 6379]), at=NOW + DAY))
    assert later.overdue == {Kind.MISSING: ports(), Kind.UNEXPECTED: ports(6379)}
    assert later.judged(of, NOW + 3 * DAY - 1).overdue == {Kind.MISSING: ports(), Kind.UNEXPECTED: ports(6379)}
    assert later.judged(of, NOW + 3 * DAY).overdue == {Kind.MISSING: ports(22), Kind.UNEXPECTED: ports(80, 6379)}
    assert later.judged(of, NOW + 4 * DAY).overdue == {Kind.MISSING: ports(22), Kind.UNEXPECTED: ports(80, 81, 6379)}
    assert [later.due_at(item) for item in later.deviations] == [
        NOW + 3 * DAY,
        NOW + 3 * DAY,
        NOW + 4 * DAY,
        NOW + DAY,
    ]


def test_accepted_port_is_not_overdue_and_is_once_the_exception_ends() -> None:
    """At once, if it deviates for long enough by then."""
    of = target("web1", scan=[80], deadlines=LIMITS, exceptions=[exception(80, until=NOW + 5 * DAY)])
    state = HostState(of).after(result(of, seen(scanned=[80], is_open=[80]), at=NOW))
    assert not state.judged(of, NOW + 4 * DAY).overdue[Kind.UNEXPECTED]
    assert state.judged(of, NOW + 5 * DAY).overdue[Kind.UNEXPECTED] == ports(80)


def test_nothing_is_overdue_without_deadlines_or_a_verdict() -> None:
    """Neither before the first scan."""
    of = target("web1", scan=[80])
    assert HostState(of).after(result(of, seen(scanned=[80], is_open=[80]), at=NOW)).overdue == {}
    assert HostState(replace(of, deadlines=LIMITS)).overdue == {}


def test_time_goes_on_through_a_restart() -> None:
    """It is that of the first scan which found the port."""
    of = target("web1", scan=[80], deadlines=LIMITS)
    state = HostState(of).after(result(of, seen(scanned=[80], is_open=[80]), at=NOW))
    codec = StateCodec()
    assert codec.decode(codec.encode(state), of, NOW + 3 * DAY).overdue[Kind.UNEXPECTED] == ports(80)


@given(
    is_open=st.sets(st.sampled_from([22, 80, 81, 6379, 8443])),
    limits=st.builds(
        Deadlines,
        severities=st.dictionaries(st.sampled_from(["critical", "warning", "info"]), st.integers(1, 5).map(float)),
        kinds=st.dictionaries(st.sampled_from(["missing", "unexpected"]), st.integers(1, 5).map(float)),
    ),
    then=st.integers(0, 6),
    now=st.integers(0, 6),
)
def test_state_is_outdated_whenever_something_else_is_overdue(
    is_open: set[int], limits: Deadlines, then: int, now: int
) -> None:
    """Whether the clock goes on or is set back, no deadline passes unseen; and each port is judged by itself."""
    severities = PortSeverities.of_rules([(ports(8443), PortSeverity.INFO)])
    of = replace(target("web1", expect=[22], scan=[22, 80, 81, 6379, 8443], deadlines=limits), severities=severities)
    scan = result(of, seen(scanned=of.config.ports, is_open=is_open), at=NOW)
    state = replace(HostState(of).after(scan), judged_at=NOW + then)
    after = replace(state, judged_at=NOW + now)
    if state.overdue != after.overdue:
        assert is_outdated(state, NOW + now)
        assert state.judged(of, NOW + now).overdue == after.overdue
    late = {(item.kind, item.port) for item in after.deviations if (after.due_at(item) or 9e9) <= NOW + now}
    assert {(kind, port) for kind, found in after.overdue.items() for port in found} == late
