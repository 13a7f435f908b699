from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portspec.config import Specification
from portspec.ports import PortSet
from portspec.scan import AddressObservation, Failure, PortState, Reason
from portspec.state.verdict import Deviation, Kind, Verdict, judge
from tests.unit.factories import MODEST, seen

PORTS = st.sets(st.integers(1, 12), max_size=12)
STATES = st.dictionaries(st.integers(1, 12), st.sampled_from(PortState), max_size=12)
FAILURES = st.none() | st.builds(Failure, st.sampled_from(Reason), st.just("why"))


def observation(
    address: str, states: dict[int, PortState], reason: Reason | None, doubted: set[int]
) -> AddressObservation:
    """Make an observation of single ports' states; those that are open and doubted took no connection."""
    by_state = {state: [port for port, found in states.items() if found is state] for state in PortState}
    return seen(
        address,
        scanned=states,
        is_open=by_state[PortState.OPEN],
        filtered=by_state[PortState.FILTERED],
        unconfirmed=doubted.intersection(by_state[PortState.OPEN]),
        reason=reason,
    )


@MODEST
@given(
    expect=PORTS,
    allow=PORTS,
    shown=st.lists(st.tuples(STATES, st.none() | st.sampled_from(Reason)), max_size=4),
    before=FAILURES,
    doubted=PORTS,
    accepted=PORTS,
)
def test_judge_agrees_with_a_naive_oracle(
    expect: set[int],
    allow: set[int],
    shown: list[tuple[dict[int, PortState], Reason | None]],
    before: Failure | None,
    doubted: set[int],
    accepted: set[int],
) -> None:
    """For any addresses, states and exceptions, judge says what going through the ports one by one says."""
    deviations = []
    blind = before is not None or not shown
    for place, (states, reason) in enumerate(shown):
        if reason:
            blind = True
            continue
        for port, state in sorted(states.items()):
            if port in expect:
                if state is not PortState.OPEN:
                    deviations.append(Deviation(f"192.0.2.{place}", port, Kind.MISSING, state))
            elif state is PortState.OPEN and port not in allow and port not in doubted:
                deviations.append(Deviation(f"192.0.2.{place}", port, Kind.UNEXPECTED, state))

    addresses = [observation(f"192.0.2.{place}", *one, doubted - expect) for place, one in enumerate(shown)]
    specification = Specification(PortSet.of(expect), PortSet.of(allow))
    judgement = judge(addresses, specification, before, PortSet.of(accepted))

    assert judgement.excepted == tuple(item for item in deviations if item.port in accepted)
    deviations = [item for item in deviations if item.port not in accepted]
    assert judgement.deviations == tuple(deviations)
    if deviations:
        assert judgement.verdict is Verdict.OUT_OF_SPEC
    else:
        assert judgement.verdict is (Verdict.UNKNOWN if blind else Verdict.IN_SPEC)
    assert (judgement.failure is not None) == blind
    assert judgement.conclusive == (judgement.verdict is not Verdict.UNKNOWN)
