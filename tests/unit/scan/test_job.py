from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import PortSet
from portspec.scan import AddressObservation, PortState
from tests.unit.factories import ADDRESS, MODEST

STATES = st.dictionaries(st.integers(1, 65535), st.sampled_from(PortState), max_size=50)


@MODEST
@given(states=STATES)
def test_every_scanned_port_is_in_one_state(states: dict[int, PortState]) -> None:
    """What is neither open nor filtered is closed, and the number of closed ports agrees with that."""
    observation = AddressObservation(
        ADDRESS,
        scanned=PortSet.of(states),
        open=PortSet.of(port for port, state in states.items() if state is PortState.OPEN),
        filtered=PortSet.of(port for port, state in states.items() if state is PortState.FILTERED),
    )
    assert {port: observation.state(port) for port in observation.scanned} == states
    assert observation.closed == sum(state is PortState.CLOSED for state in states.values())


@MODEST
@given(states=STATES, doubted=st.sets(st.integers(1, 65535)))
def test_unconfirmed_ports_are_open_and_do_not_accept(states: dict[int, PortState], doubted: set[int]) -> None:
    """Whatever is unconfirmed, the state of each port stays; accepting are the open ports without those."""
    is_open = {port for port, state in states.items() if state is PortState.OPEN}
    unconfirmed = is_open & (doubted | set(list(is_open)[::2]))
    observation = AddressObservation(
        ADDRESS, scanned=PortSet.of(states), open=PortSet.of(is_open), unconfirmed=PortSet.of(unconfirmed)
    )
    assert set(observation.accepting) == is_open - unconfirmed
    assert all(observation.state(port) is PortState.OPEN for port in is_open)
    assert observation.closed == len(states) - len(is_open)
