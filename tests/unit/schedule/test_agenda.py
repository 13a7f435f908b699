from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from portspec.scan import Reason
from portspec.schedule.agenda import RETRY_PAUSES, Agenda, ExtraScan, PlannedScan, pauses, retry_pause
from portspec.state.snapshot import HostState
from tests.unit.factories import ADDRESS, MODEST, result, seen, target

MINUTE, DAY = 60.0, 86_400.0
OTHER_ADDRESS = "192.0.2.2"
INTERVALS = st.floats(1.0, 366 * DAY)
RECHECKS = st.one_of(st.just(0.0), st.floats(1.0, 366 * DAY))
FAILURES = st.integers(1, 1000)


def state(*, interval: float = DAY, is_open: bool = False, is_seen: bool = True) -> HostState:
    """Make a host whose port 80 should be closed, on an address that was seen or not."""
    of = target(interval=interval)
    one = seen(is_open=[80] if is_open else []) if is_seen else seen(reason=Reason.NO_ROUTE)
    return HostState(of).after(result(of, one))


def test_pauses_between_tries_are_as_documented() -> None:
    """A host that could not be seen is tried again after 1, 2, 5, 15 and 30 minutes, then after twice as long each."""
    assert [retry_pause(number) / MINUTE for number in range(1, 9)] == [1, 2, 5, 15, 30, 60, 120, 240]


@MODEST
@given(failures=FAILURES)
def test_pauses_grow(failures: int) -> None:
    """Each pause is longer than the one before, at most three times as long, until it is longer than any interval."""
    first, second = retry_pause(failures), retry_pause(failures + 1)
    assert first < second <= 3 * first or first == second > 366 * DAY
    assert RETRY_PAUSES[0] <= first < math.inf


@MODEST
@given(interval=INTERVALS, failures=FAILURES, recheck=RECHECKS)
def test_rounds_are_soon_enough_where_the_interval_is_short(interval: float, failures: int, recheck: float) -> None:
    """Nothing is planned between the rounds that would not come before the next one; nothing else is left out."""
    unseen = pauses(state(interval=interval, is_seen=False), failures, recheck)
    deviates = pauses(state(interval=interval, is_open=True), 0, recheck)
    assert unseen == ({ExtraScan.RETRY: retry_pause(failures)} if retry_pause(failures) < interval else {})
    assert deviates == ({ExtraScan.RECHECK: recheck} if 0 < recheck < interval else {})


@MODEST
@given(interval=INTERVALS, recheck=RECHECKS)
def test_host_in_specification_waits_for_its_round(interval: float, recheck: float) -> None:
    """A host that was seen and is as it should be, or was never scanned, is looked at in its rounds alone."""
    assert pauses(state(interval=interval), 0, recheck) == {}
    assert pauses(HostState(target(interval=interval)), 0, recheck) == {}


def test_host_that_deviates_and_was_seen_in_part_is_looked_at_in_both_ways() -> None:
    """What deviates is looked at every `recheck`, and the rest is tried after a pause that grows."""
    of = target(interval=DAY)
    partly = HostState(of).after(
        result(of, seen(ADDRESS, is_open=[80]), seen(OTHER_ADDRESS, reason=Reason.NO_ROUTE))
    )  # fmt: skip
    assert pauses(partly, 3, 15 * MINUTE) == {ExtraScan.RECHECK: 15 * MINUTE, ExtraScan.RETRY: 5 * MINUTE}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.sampled_from(ExtraScan), st.integers(0, 20)),
        st.tuples(st.just("withdraw"), st.sampled_from("abc"), st.sampled_from(ExtraScan), st.just(0)),
        st.tuples(st.just("take"), st.just(""), st.just(ExtraScan.RETRY), st.integers(0, 20)),
    ),
    max_size=200,
)


@MODEST
@given(steps=STEPS)
def test_agenda_gives_what_was_planned_last_in_order(steps: list[tuple[str, str, ExtraScan, int]]) -> None:
    """Whatever is planned, planned anew, withdrawn and taken: it holds what a plain mapping would hold."""
    agenda = Agenda()
    plain: dict[tuple[str, ExtraScan], float] = {}
    for word, host, look, at in steps:
        if word == "put":
            agenda.put(PlannedScan(host, look, float(at), 1.0))
            plain[host, look] = float(at)
        elif word == "withdraw":
            agenda.withdraw(host, look)
            plain.pop((host, look), None)
        else:
            due = agenda.take(float(at))
            first = min(plain.values(), default=math.inf)
            if due is None:
                assert first > at
            else:
                assert plain.pop((due.host, due.look)) == due.at == first <= at
        assert len(agenda) == len(plain)
        assert min(agenda.at(name) for name in "abc") == min(plain.values(), default=math.inf)
        ahead = agenda.first()
        assert (ahead.at if ahead else math.inf) == min(plain.values(), default=math.inf)
