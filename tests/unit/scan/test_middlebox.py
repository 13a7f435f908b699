"""Whether a middlebox answers for an address."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import ALL_PORTS, NO_PORTS, PortSet
from portspec.scan import AddressObservation, Failure, Reason
from portspec.scan.middlebox import (
    _LOWEST_RANDOM_PORT,
    MIN_SCANNED,
    RANDOM_PORTS,
    covers_most,
    cut_off_failure,
    draw_ports,
    middlebox_failure,
    needs_random_ports,
    ports_by_connection,
    unseen,
)
from portspec.services import name_of
from tests.unit.factories import ADDRESS, MODEST, seen

PORT = st.integers(1, 65535)
PORTS = st.lists(st.tuples(PORT, PORT), max_size=20).map(
    lambda pairs: PortSet.of_ranges((min(pair), max(pair)) for pair in pairs)
)
SSH = PortSet.of([22])


def observation(scanned: PortSet, is_open: PortSet) -> AddressObservation:
    """Return an observation of some ports, of which some are open and the others closed."""
    return AddressObservation(ADDRESS, scanned, is_open & scanned, answered=True)


@MODEST
@given(but=PORTS, seed=st.integers())
def test_drawn_ports_should_be_closed(but: PortSet, seed: int) -> None:
    """Four ports are drawn or none; none is scanned, expected, allowed, low, or of a known service."""
    drawn = draw_ports(but, random.Random(seed))  # noqa: S311
    assert len(drawn) in {0, RANDOM_PORTS}
    assert not drawn & but
    assert all(port >= _LOWEST_RANDOM_PORT and name_of(port) is None for port in drawn)
    assert len(but) > 30_000 or drawn


def test_ports_are_drawn_anew_each_time() -> None:
    """Two scans draw different ports."""
    rng = random.Random(1)  # noqa: S311
    assert len({draw_ports(SSH, rng) for _ in range(100)}) == 100


def test_nothing_is_drawn_where_everything_is_scanned() -> None:
    """If no port is left, none is drawn."""
    assert draw_ports(ALL_PORTS, random.Random(1)) == NO_PORTS  # noqa: S311


@pytest.mark.parametrize(
    ("item", "known", "is_middlebox"),
    [
        (seen(is_open=[22], scanned=[22, 80]), SSH, False),
        (seen(scanned=[22, 80]), SSH, False),
        (seen(is_open=[22], scanned=[22]), SSH, True),
        (seen(is_open=[22, 80], scanned=[22, 80]), SSH, True),
        (seen(is_open=[22, 80], scanned=range(1, 101)), SSH, False),
        (seen(is_open=range(1, 18), scanned=range(1, 101)), SSH, True),
        (seen(is_open=range(1, 101), scanned=range(1, 101)), PortSet(((1, 40_000),)), False),
        (seen(reason=Reason.NO_ROUTE), SSH, False),
    ],
    ids=["shut", "nothing open", "only known", "all open", "few open", "many open", "may be open", "unseen"],
)
def test_random_ports_are_needed_only_for_unexpected_open_ports(
    item: AddressObservation, known: PortSet, *, is_middlebox: bool
) -> None:
    """Random ports are needed only if many ports are open, or most of those that should be closed."""
    assert needs_random_ports(item, known) is is_middlebox


@MODEST
@given(scanned=PORTS, known=PORTS, seed=st.integers())
def test_address_with_every_port_open_is_found(scanned: PortSet, known: PortSet, seed: int) -> None:
    """An address with every port open is found, unless the specification lets most ports be open.

    It is not found only where nearly all ports are known or scanned, and hardly any of the scanned ones should be shut.
    """
    everything = observation(scanned, scanned)
    if covers_most(known) or not scanned:
        assert not needs_random_ports(everything, known)
        return
    assert needs_random_ports(everything, known)
    drawn = draw_ports(scanned | known, random.Random(seed))  # noqa: S311
    found = middlebox_failure(everything, known, observation(drawn, drawn))
    assert bool(found) is (bool(drawn) or len(scanned - known) >= MIN_SCANNED)


@MODEST
@given(scanned=PORTS, known=PORTS, is_open=PORTS, seed=st.integers())
def test_host_that_is_closed_on_random_ports_is_a_host(
    scanned: PortSet, known: PortSet, is_open: PortSet, seed: int
) -> None:
    """An address is a host if the random ports and half of those that should be closed are closed."""
    drawn = draw_ports(scanned | known, random.Random(seed))  # noqa: S311
    item = observation(scanned, is_open)
    found = middlebox_failure(item, known, observation(drawn, NO_PORTS))
    assert (found is None) or 2 * len(item.open - known) > len(scanned - known) >= MIN_SCANNED


def test_failure_has_the_evidence() -> None:
    """The detail says how many of the random and of the scanned ports answered."""
    item = seen(scanned=range(1, 1001), is_open=range(1, 999))
    drawn = [2001, 3001, 4001, 5001]
    assert middlebox_failure(item, SSH, seen(scanned=drawn, is_open=drawn)) == Failure(
        Reason.ANSWERS_EVERYTHING,
        "192.0.2.1: 4 of 4 ports drawn at random answered, and 998 of 1,000 scanned: "
        "a firewall or a proxy (SYN proxy, tarpit) answers in its place",
    )
    failure = middlebox_failure(item, SSH)
    assert failure is not None
    assert failure.detail.startswith("192.0.2.1: 998 of 1,000 scanned ports answered: a firewall")


@pytest.mark.parametrize(("answering", "is_middlebox"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_most_of_the_drawn_ports_must_answer(answering: int, *, is_middlebox: bool) -> None:
    """One or two random ports that happen to be open mean nothing."""
    drawn = [2001, 3001, 4001, 5001]
    on_random = seen(scanned=drawn, is_open=drawn[:answering])
    assert bool(middlebox_failure(seen(is_open=[22], scanned=[22]), SSH, on_random)) is is_middlebox


def test_connections_show_the_open_ports() -> None:
    """Ports whose connection stays up are open, those that reset it closed, the others filtered."""
    item = seen(scanned=range(1, 201), is_open=range(1, 201), rtt=0.1)
    drawn = [2001, 3001, 4001, 5001]
    connected = seen(scanned=[*range(1, 201), *drawn], is_open=[22, 80], filtered=[81, 3001])
    found = ports_by_connection(item, SSH, seen(scanned=drawn, is_open=drawn), connected)
    assert found is not None
    assert (found.scanned, found.open, found.filtered) == (item.scanned, PortSet.of([22, 80]), PortSet.of([81]))
    assert (found.closed, found.rtt, found.failure) == (197, 0.1, None)


@pytest.mark.parametrize(
    "connected",
    [
        seen(scanned=[22, 80, 2001, 3001, 4001, 5001], is_open=[22, 2001, 3001, 4001]),
        seen(scanned=[22, 80, 2001, 3001, 4001, 5001]),
        seen(reason=Reason.LOCAL_LIMIT),
    ],
    ids=["stay up everywhere", "stay up nowhere", "none made"],
)
def test_connections_that_show_nothing(connected: AddressObservation) -> None:
    """If connections stay up on ports that cannot be open, or on none, nothing is known."""
    drawn = [2001, 3001, 4001, 5001]
    item = seen(scanned=[22, 80], is_open=[22, 80])
    assert ports_by_connection(item, SSH, seen(scanned=drawn, is_open=drawn), connected) is None


def test_unseen_address_has_no_ports() -> None:
    """What a middlebox answered is dropped, except that something answered."""
    item = seen(scanned=range(1, 1001), is_open=range(1, 1001), rtt=0.1)
    failure = Failure(Reason.ANSWERS_EVERYTHING, "why")
    assert unseen(item, failure) == dataclasses.replace(item, scanned=NO_PORTS, open=NO_PORTS, failure=failure)


@pytest.mark.parametrize(
    ("reason", "known", "is_middlebox"),
    [
        (Reason.CUT_OFF, SSH, True),
        (Reason.NO_ROUTE, SSH, False),
        (None, SSH, False),
        (Reason.CUT_OFF, PortSet(((1, 40_000),)), False),
    ],
    ids=["cut off", "unseen", "seen", "may be open"],
)
def test_cut_off_address_with_every_port_open(reason: Reason | None, known: PortSet, *, is_middlebox: bool) -> None:
    """What was seen of an address before it was cut off counts, unless all of it was open."""
    failure = Failure(reason, "why") if reason else None
    item = dataclasses.replace(seen(scanned=range(1, 1001), is_open=range(1, 1001)), failure=failure)
    assert bool(cut_off_failure(item, known)) is is_middlebox
