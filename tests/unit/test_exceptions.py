from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.state import AuditState
from portspec.config import VulnerabilityException
from portspec.exceptions import in_force, is_outdated, next_end, outdated
from portspec.state.snapshot import HostState
from tests.unit.factories import MODEST, exception, target

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
def test_nothing_is_outdated_before_the_next_end(ends: list[float], now: float) -> None:
    """Until then a state that was judged now stays so, and at that moment it is outdated."""
    for state in states(ends, now):
        end = next_end([state], now)
        assert end == min((item for item in ends if item > now), default=math.inf)
        assert not is_outdated(state, math.nextafter(end, now))
        assert end == math.inf or is_outdated(state, end)
