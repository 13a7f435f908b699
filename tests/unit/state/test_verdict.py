from __future__ import annotations

import dataclasses

import pytest

from portspec.config import Specification
from portspec.ports import NO_PORTS, PortSet
from portspec.scan import Failure, PortState, Reason
from portspec.state.verdict import Deviation, Judgement, Kind, Verdict, judge
from tests.unit.factories import ADDRESS, seen

OTHER = "192.0.2.2"
PORT = 8080

EXPECTED, ALLOWED, BOTH, NEITHER = (
    Specification(expect=PortSet.of([PORT])),
    Specification(allow=PortSet.of([PORT])),
    Specification(expect=PortSet.of([PORT]), allow=PortSet.of([PORT])),
    Specification(),
)


@pytest.mark.parametrize(
    ("specification", "state", "kind"),
    [
        (EXPECTED, PortState.OPEN, None),
        (EXPECTED, PortState.CLOSED, Kind.MISSING),
        (EXPECTED, PortState.FILTERED, Kind.MISSING),
        (ALLOWED, PortState.OPEN, None),
        (ALLOWED, PortState.CLOSED, None),
        (ALLOWED, PortState.FILTERED, None),
        (BOTH, PortState.OPEN, None),
        (BOTH, PortState.CLOSED, Kind.MISSING),
        (BOTH, PortState.FILTERED, Kind.MISSING),
        (NEITHER, PortState.OPEN, Kind.UNEXPECTED),
        (NEITHER, PortState.CLOSED, None),
        (NEITHER, PortState.FILTERED, None),
    ],
)
def test_every_case_of_one_port(specification: Specification, state: PortState, kind: Kind | None) -> None:
    """A port deviates when it is expected and not open, or open and neither expected nor allowed; never otherwise."""
    observation = seen(
        scanned=[PORT],
        is_open=[PORT] if state is PortState.OPEN else [],
        filtered=[PORT] if state is PortState.FILTERED else [],
    )
    if kind is None:
        assert judge([observation], specification) == Judgement(Verdict.IN_SPEC)
    else:
        wanted = (Deviation(ADDRESS, PORT, kind, state),)
        assert judge([observation], specification) == Judgement(Verdict.OUT_OF_SPEC, wanted)


def test_dead_host_misses_its_expected_ports() -> None:
    """A host that answers nothing misses each port it expects, in state filtered, and is out of spec, not unknown."""
    dead = seen(scanned=[22, 80, 443], filtered=[22, 80, 443])
    judgement = judge([dead], Specification(expect=PortSet.of([22, 443])))
    assert judgement.verdict is Verdict.OUT_OF_SPEC
    assert judgement.deviations == (
        Deviation(ADDRESS, 22, Kind.MISSING, PortState.FILTERED),
        Deviation(ADDRESS, 443, Kind.MISSING, PortState.FILTERED),
    )


def test_dead_host_that_expects_nothing_is_in_spec() -> None:
    """A host that answers nothing, and of which nothing is expected, is in spec."""
    assert judge([seen(scanned=[22], filtered=[22])], Specification()).verdict is Verdict.IN_SPEC


def test_port_must_be_right_on_every_address() -> None:
    """A port that is open on one address and closed on the other is missing there, on that address alone."""
    addresses = [seen(ADDRESS, is_open=[22]), seen(OTHER)]
    judgement = judge(addresses, Specification(expect=PortSet.of([22])))
    assert judgement.deviations == (Deviation(OTHER, 22, Kind.MISSING, PortState.CLOSED),)


def test_port_that_was_not_scanned_says_nothing() -> None:
    """An expected port outside of what was scanned is no deviation."""
    assert judge([seen(scanned=[80])], EXPECTED).verdict is Verdict.IN_SPEC


def test_address_that_could_not_be_seen_makes_the_host_unknown() -> None:
    """All seen addresses are in spec and one could not be seen: unknown, for the reason of that address."""
    unseen = seen(OTHER, reason=Reason.NO_ROUTE)
    judgement = judge([seen(ADDRESS, is_open=[22]), unseen], Specification(expect=PortSet.of([22])))
    assert judgement == Judgement(Verdict.UNKNOWN, (), unseen.failure)
    assert not judgement.conclusive


def test_deviation_outweighs_an_address_that_could_not_be_seen() -> None:
    """One deviation is enough to be out of spec, and what could not be seen is still told."""
    unseen = seen(OTHER, reason=Reason.LOCAL_LIMIT)
    judgement = judge([unseen, seen(ADDRESS, is_open=[23])], Specification())
    assert judgement.verdict is Verdict.OUT_OF_SPEC
    assert judgement.deviations == (Deviation(ADDRESS, 23, Kind.UNEXPECTED, PortState.OPEN),)
    assert judgement.failure == unseen.failure
    assert judgement.conclusive


def test_name_that_resolved_in_part_is_not_in_spec() -> None:
    """A failure from before the scan makes a host unknown whose seen addresses are in spec."""
    failure = Failure(Reason.RESOLVE, "the look-up of its IPv6 addresses failed")
    assert judge([seen()], Specification(), failure) == Judgement(Verdict.UNKNOWN, (), failure)


def test_failure_from_before_the_scan_is_told_first() -> None:
    """Of several failures the one from before the scan stands in the judgement."""
    failure = Failure(Reason.RESOLVE, "half of it")
    assert judge([seen(reason=Reason.NO_ROUTE)], Specification(), failure).failure is failure


def test_host_without_an_address_is_unknown() -> None:
    """Where there is no address there is no verdict, whatever is expected: unknown, reason resolve."""
    for specification in (Specification(), EXPECTED, ALLOWED):
        judgement = judge([], specification)
        assert judgement.verdict is Verdict.UNKNOWN
        assert judgement.failure is not None
        assert judgement.failure.reason is Reason.RESOLVE


def test_address_that_was_seen_in_part_proves_nothing() -> None:
    """Of an address whose scan failed half-way neither open nor closed ports count."""
    in_part = dataclasses.replace(seen(is_open=[80]), failure=Failure(Reason.LOCAL_LIMIT, "no descriptor"))
    judgement = judge([in_part], Specification(expect=PortSet.of([22])))
    assert judgement == Judgement(Verdict.UNKNOWN, (), in_part.failure)


def test_unknown_address_is_never_missing_ports() -> None:
    """An address that could not be seen adds no deviation, though ports are expected of it."""
    judgement = judge([seen(reason=Reason.PERMISSION)], EXPECTED)
    assert (judgement.verdict, judgement.deviations) == (Verdict.UNKNOWN, ())
    assert seen(reason=Reason.PERMISSION).scanned == NO_PORTS


def test_unconfirmed_port_is_not_unexpected() -> None:
    """A port that answers SYNs and takes no connection is no deviation, and nothing that could not be seen."""
    assert judge([seen(is_open=[80], unconfirmed=[80])], Specification()) == Judgement(Verdict.IN_SPEC)


def test_unconfirmed_port_excuses_no_other() -> None:
    """Beside an unconfirmed port another one that takes connections, and a missing one, are deviations as ever."""
    observation = seen(is_open=[80, 443], unconfirmed=[80])
    assert judge([observation], Specification(expect=PortSet.of([22]))).deviations == (
        Deviation(ADDRESS, 22, Kind.MISSING, PortState.CLOSED),
        Deviation(ADDRESS, 443, Kind.UNEXPECTED, PortState.OPEN),
    )


def test_unconfirmed_port_counts_where_it_is_confirmed() -> None:
    """A port that takes connections on one address alone is a deviation of that address alone."""
    addresses = [seen(ADDRESS, is_open=[80], unconfirmed=[80]), seen(OTHER, is_open=[80])]
    assert judge(addresses, Specification()).deviations == (Deviation(OTHER, 80, Kind.UNEXPECTED, PortState.OPEN),)


def test_excepted_deviation_does_not_count() -> None:
    """A deviation of an accepted port is told apart from the others; without others the host is in spec."""
    observation, specification = seen(is_open=[80], filtered=[443]), Specification(expect=PortSet.of([22, 443]))
    unexpected = Deviation(ADDRESS, 80, Kind.UNEXPECTED, PortState.OPEN)
    closed = Deviation(ADDRESS, 22, Kind.MISSING, PortState.CLOSED)
    silent = Deviation(ADDRESS, 443, Kind.MISSING, PortState.FILTERED)
    assert judge([observation], specification, None, PortSet.of([22, 80, 443])) == Judgement(
        Verdict.IN_SPEC, (), None, (closed, unexpected, silent)
    )
    assert judge([observation], specification, None, PortSet.of([80, 443])) == Judgement(
        Verdict.OUT_OF_SPEC, (closed,), None, (unexpected, silent)
    )


def test_exception_of_a_port_that_does_not_deviate_is_nothing() -> None:
    """What is as it should be is not told as accepted."""
    judgement = judge([seen(is_open=[22])], Specification(expect=PortSet.of([22])), None, PortSet.of([22, 80]))
    assert judgement == Judgement(Verdict.IN_SPEC)


def test_exception_is_for_every_address() -> None:
    """A port is accepted on all addresses of the host."""
    judgement = judge([seen(OTHER, is_open=[80]), seen(ADDRESS, is_open=[80])], NEITHER, None, PortSet.of([80]))
    assert judgement.verdict is Verdict.IN_SPEC
    assert [item.address for item in judgement.excepted] == [ADDRESS, OTHER]


def test_exception_does_not_make_up_for_what_could_not_be_seen() -> None:
    """A host whose deviations are all accepted, and of which not everything could be seen, is unknown."""
    unseen = seen(OTHER, reason=Reason.NO_ROUTE)
    judgement = judge([seen(ADDRESS, is_open=[80]), unseen], NEITHER, None, PortSet.of([80]))
    assert (judgement.verdict, judgement.failure) == (Verdict.UNKNOWN, unseen.failure)
    assert [item.port for item in judgement.excepted] == [80]


def test_address_that_could_not_be_seen_has_nothing_excepted() -> None:
    """Where nothing is concluded nothing is accepted either."""
    judgement = judge([seen(reason=Reason.NO_ROUTE)], EXPECTED, None, PortSet.of([PORT]))
    assert (judgement.verdict, judgement.excepted) == (Verdict.UNKNOWN, ())
