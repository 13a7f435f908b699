"""By when what was found is to be fixed."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.deadlines import NO_DEADLINES, DeadlineRule, Deadlines, DueTimes, deadlines_of
from portspec.exposure import PortSeverity
from portspec.priorities import Priority

DAY = 86_400.0
TIMES = st.integers(0, 20).map(float)
DUE = st.lists(st.tuples(st.sampled_from(Priority), TIMES), max_size=20)


@pytest.mark.parametrize(
    ("priority", "severity", "exploited_since", "due"),
    [
        (Priority.FIX_NOW, "low", None, 2 * DAY),
        (Priority.FIX_NOW, "critical", None, 1 * DAY),  # the shorter of both
        (Priority.FIX_SOON, "high", None, 5 * DAY),
        (Priority.FIX_NOW, "low", 10 * DAY, 12 * DAY),  # exploited only later
        (Priority.FIX_NOW, "critical", 10 * DAY, 1 * DAY),  # the severity does not depend on it
        (Priority.FIX_NOW, "low", -10 * DAY, 2 * DAY),
        (Priority.PLAN, "low", None, None),
    ],
)
def test_shorter_limit_of_class_and_severity_counts(
    priority: Priority, severity: str, exploited_since: float | None, due: float | None
) -> None:
    """From when it was first seen; that of a class not from before it was known to be exploited."""
    limits = Deadlines({"fix_now": 2 * DAY}, {"critical": DAY, "high": 5 * DAY})
    assert limits.of_vulnerability(priority, severity, 0.0, exploited_since) == due


def test_port_has_the_shorter_limit_of_its_kind_and_its_severity() -> None:
    """A severity that only vulnerabilities have is none of a port."""
    limits = Deadlines(severities={"critical": DAY, "high": 1.0}, kinds={"unexpected": 2 * DAY})
    assert limits.of_port("unexpected", PortSeverity.CRITICAL) == DAY
    assert limits.of_port("unexpected", PortSeverity.INFO) == 2 * DAY
    assert limits.of_port("missing", PortSeverity.WARNING) is None
    assert (limits.has_ports, limits.has_vulnerabilities) == (True, True)
    assert not Deadlines(severities={"high": 1.0}).has_ports
    assert not Deadlines(severities={"warning": 1.0}).has_vulnerabilities


def test_first_rule_that_applies_to_the_labels_decides() -> None:
    """Alone; a host for which none applies has no deadlines."""
    one, other = Deadlines({"fix_now": 1.0}), Deadlines({"plan": 2.0})
    rules = (DeadlineRule(one, {"env": "test", "team": "web"}), DeadlineRule(other, {"env": "test"}))
    assert deadlines_of(rules, {"env": "test", "team": "web", "site": "x"}) is one
    assert deadlines_of(rules, {"env": "test"}) is other
    assert deadlines_of(rules, {"team": "web"}) is NO_DEADLINES
    assert deadlines_of((*rules, DeadlineRule(one)), {}) is one


@given(due=DUE, now=TIMES)
def test_number_of_overdue_ones_is_that_of_those_due_by_now(due: list[tuple[Priority, float]], now: float) -> None:
    """Of each class."""
    found = DueTimes(due)
    for priority in Priority:
        assert found.overdue(priority, now) == sum(of is priority and at <= now for of, at in due)


@given(due=DUE, times=st.lists(TIMES, min_size=2, max_size=10))
def test_no_number_changes_unless_an_edge_tells(due: list[tuple[Priority, float]], times: list[float]) -> None:
    """Whether the clock goes on or is set back, what was found at one time holds while no edge of it lies between."""
    found = DueTimes(due)
    for then, now in pairwise(times):
        first, last = min(then, now), max(then, now)
        if not any(first < edge <= last for edge in found.edges(then)):
            assert [found.overdue(item, then) for item in Priority] == [found.overdue(item, now) for item in Priority]


def test_due_times_are_equal_if_they_tell_the_same() -> None:
    """In whatever order they are given."""
    one, other = (Priority.PLAN, 3.0), (Priority.FIX_NOW, 1.0)
    assert DueTimes([one, other]) == DueTimes([other, one])
    assert hash(DueTimes([one, other])) == hash(DueTimes([other, one]))
    assert DueTimes([one]) != DueTimes([one, one])
    assert DueTimes().overdue(Priority.PLAN, math.inf) == 0
