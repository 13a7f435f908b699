from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import PortSet
from portspec.scan import AddressObservation, Failure, PortState, Reason
from portspec.state.changes import MAX_ROWS, MAX_SINGLE, Change, changes
from portspec.state.snapshot import HostState
from tests.unit.factories import ADDRESS, MODEST, NOW, result, seen, target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.inventory import Target
    from portspec.state.snapshot import ScanResult

OTHER = "192.0.2.2"
LATER = NOW + 60
WEB = target("web1", expect=[22], scan=[22, 80, 443])
OPEN, CLOSED, FILTERED = PortState.OPEN, PortState.CLOSED, PortState.FILTERED

Row = tuple[str, str, object, object]


def rows(found: Iterable[Change]) -> list[Row]:
    """Return what the changes say beside host and times."""
    return [(item.address, item.ports, item.before, item.after) for item in found]


def between(*scans: ScanResult, of: Target = WEB) -> list[Row]:
    """Return what the last of some scans changed."""
    before = after = HostState(of)
    for scan in scans:
        before, after = after, after.after(scan)
    return rows(changes(before, after))


def moved(old: AddressObservation, new: AddressObservation, of: Target = WEB) -> list[Row]:
    """Return what a scan of one address changed after another."""
    return between(result(of, old), result(of, new, at=LATER), of=of)


@pytest.mark.parametrize(
    ("port", "before", "after", "is_told"),
    [
        (80, CLOSED, OPEN, True),
        (80, FILTERED, OPEN, True),
        (80, OPEN, CLOSED, True),
        (80, OPEN, FILTERED, True),
        (80, CLOSED, FILTERED, False),
        (80, FILTERED, CLOSED, False),
        (80, OPEN, OPEN, False),
        (22, CLOSED, OPEN, True),
        (22, OPEN, FILTERED, True),
        (22, CLOSED, FILTERED, True),
        (22, FILTERED, CLOSED, True),
        (22, CLOSED, CLOSED, False),
    ],
)
def test_every_change_of_one_port(port: int, before: PortState, after: PortState, is_told: bool) -> None:  # noqa: FBT001
    """A port that opens or was open is told, and an expected one whatever it becomes; nothing that stays the same."""

    def shows(state: PortState) -> AddressObservation:
        return seen(is_open=[port] if state is OPEN else [], filtered=[port] if state is FILTERED else [])

    assert moved(shows(before), shows(after)) == ([(ADDRESS, str(port), before, after)] if is_told else [])


def test_change_has_host_and_time() -> None:
    """A row says when the scan ended that found it, and that the log has not seen it before."""
    before = HostState(WEB).after(result(WEB, seen()))
    after = before.after(result(WEB, seen(is_open=[80]), at=LATER))
    assert list(changes(before, after)) == [Change(LATER, "web1", ADDRESS, "80", CLOSED, OPEN, LATER)]


def test_change_that_a_recheck_saw_is_of_its_time() -> None:
    """A port that was found closed between two scans is told then, and once."""
    before = HostState(WEB).after(result(WEB, seen(is_open=[80])))
    after = before.after_recheck([seen()], LATER)
    assert list(changes(before, after)) == [Change(LATER, "web1", ADDRESS, "80", OPEN, CLOSED, LATER)]
    assert list(changes(after, after.after(result(WEB, seen(), at=LATER + 60)))) == []


def test_first_scan_tells_the_open_ports() -> None:
    """Of a host that was never seen the open ports are told, not what is closed, expected or not."""
    assert between(result(WEB, seen(is_open=[80, 443]))) == [
        (ADDRESS, "80", None, OPEN),
        (ADDRESS, "443", None, OPEN),
    ]


def test_new_address_tells_its_open_ports() -> None:
    """An address that the name did not have before is told like a new host; one that has left is not told."""
    first, second = result(WEB, seen(ADDRESS, is_open=[22])), result(WEB, seen(OTHER, is_open=[22, 80]), at=LATER)
    assert between(first, second) == [(OTHER, "22", None, OPEN), (OTHER, "80", None, OPEN)]


def test_each_address_is_compared_with_itself() -> None:
    """What opens on one address and closes on the other is two rows, in the order of the addresses."""
    first = result(WEB, seen(ADDRESS, is_open=[22]), seen(OTHER, is_open=[22, 80]))
    second = result(WEB, seen(ADDRESS, is_open=[22, 80]), seen(OTHER, is_open=[22]), at=LATER)
    assert between(first, second) == [(ADDRESS, "80", CLOSED, OPEN), (OTHER, "80", OPEN, CLOSED)]


@pytest.mark.parametrize(
    "unknown",
    [
        result(WEB, seen(reason=Reason.NO_ROUTE), at=LATER),
        result(WEB, at=LATER, failure=Failure(Reason.RESOLVE, "does not resolve")),
    ],
    ids=["no route", "no address"],
)
def test_scan_without_a_verdict_changes_nothing(unknown: ScanResult) -> None:
    """What could not be seen has not changed, and the next conclusive scan is compared with the last such one."""
    old = result(WEB, seen(is_open=[22, 80]))
    assert between(old, unknown) == []
    assert between(old, unknown, dataclasses.replace(old, finished_at=LATER + 60)) == []
    assert between(old, unknown, result(WEB, seen(is_open=[22]), at=LATER + 60)) == [(ADDRESS, "80", OPEN, CLOSED)]


def test_address_that_could_not_be_seen_has_not_changed() -> None:
    """Beside an address that could not be seen the others are told, and it is compared when it is seen again."""
    first = result(WEB, seen(ADDRESS, is_open=[22]), seen(OTHER, is_open=[22, 80]))
    partial = result(WEB, seen(ADDRESS, is_open=[22, 443]), seen(OTHER, reason=Reason.NO_ROUTE), at=LATER)
    whole = result(WEB, seen(ADDRESS, is_open=[22, 443]), seen(OTHER, is_open=[22]), at=LATER + 60)
    assert between(first, partial) == [(ADDRESS, "443", CLOSED, OPEN)]
    assert between(first, partial, whole) == [(OTHER, "80", OPEN, CLOSED)]


def test_address_that_was_never_seen_is_new() -> None:
    """An address that could not be seen in the first scan is told like a new one when it is."""
    partial = result(WEB, seen(ADDRESS, is_open=[22, 443]), seen(OTHER, reason=Reason.NO_ROUTE))
    whole = result(WEB, seen(ADDRESS, is_open=[22, 443]), seen(OTHER, is_open=[80]), at=LATER)
    assert between(partial, whole) == [(OTHER, "80", None, OPEN)]


def test_what_an_address_showed_before_it_failed_is_not_told() -> None:
    """Ports that were found on an address before its scan had to be given up are nothing to compare with."""
    given_up = dataclasses.replace(seen(OTHER, is_open=[8080]), failure=Failure(Reason.LOCAL_LIMIT, "no descriptor"))
    first = result(WEB, seen(ADDRESS), seen(OTHER))
    assert between(first, result(WEB, seen(ADDRESS), given_up, at=LATER)) == []


def test_ports_that_only_one_scan_looked_at_are_not_compared() -> None:
    """A port that is no longer scanned has not closed; one that is scanned for the first time is told if it is open."""
    narrow, wide = seen(scanned=[22, 80], is_open=[80]), seen(scanned=[22, 443, 8080], is_open=[443])
    assert moved(narrow, wide) == [(ADDRESS, "443", None, OPEN)]
    assert moved(seen(scanned=[80]), seen(scanned=[22, 80])) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (seen(), seen(is_open=[80], unconfirmed=[80]), []),
        (seen(is_open=[80], unconfirmed=[80]), seen(), []),
        (seen(is_open=[80], unconfirmed=[80]), seen(is_open=[80]), [(ADDRESS, "80", FILTERED, OPEN)]),
        (seen(is_open=[80]), seen(is_open=[80], unconfirmed=[80]), [(ADDRESS, "80", OPEN, FILTERED)]),
    ],
    ids=["comes", "goes", "is confirmed", "was confirmed"],
)
def test_unconfirmed_port_is_filtered(before: AddressObservation, after: AddressObservation, told: list[Row]) -> None:
    """A port that answers SYNs and takes no connection is no open one, and told as filtered."""
    assert moved(before, after) == told


def test_same_result_is_no_change() -> None:
    """A state that was only judged anew has changed nothing."""
    before = HostState(WEB).after(result(WEB, seen(is_open=[80])))
    after = before.under(target("web1", expect=[443]), LATER)
    assert list(changes(before, after)) == []


def test_many_ports_that_changed_alike_share_a_row() -> None:
    """A machine that begins to answer on all of its ports is one row, and one more when it ends."""
    every = range(1, 65536)
    silent, loud = seen(scanned=every, filtered=every), seen(scanned=every, is_open=every)
    assert moved(silent, loud) == [(ADDRESS, "all", FILTERED, OPEN)]
    assert moved(loud, silent) == [(ADDRESS, "all", OPEN, FILTERED)]
    assert between(result(WEB, loud)) == [(ADDRESS, "all", None, OPEN)]


@pytest.mark.parametrize("more", [0, 1])
def test_few_ports_have_a_row_each(more: int) -> None:
    """Up to a hundred ports that changed alike are single rows; ports that changed otherwise count by themselves."""
    ports = range(1000, 1000 + MAX_SINGLE + more)
    found = moved(seen(scanned=ports, is_open=[22]), seen(scanned=[22, *ports], is_open=ports))
    assert (ADDRESS, "22", OPEN, CLOSED) in found
    opened = [spelled for _, spelled, _, state in found if state is OPEN]
    assert opened == (["1000-1100"] if more else [str(port) for port in ports])


STATES = st.dictionaries(st.integers(1, 10), st.sampled_from(PortState), max_size=10)


def observed(states: dict[int, PortState]) -> AddressObservation:
    """Make an observation of single ports' states."""
    by_state = {state: [port for port, one in states.items() if one is state] for state in PortState}
    return seen(scanned=states, is_open=by_state[OPEN], filtered=by_state[FILTERED])


@MODEST
@given(before=STATES, after=STATES, expect=st.sets(st.integers(1, 10)))
def test_changes_agree_with_a_naive_oracle(
    before: dict[int, PortState], after: dict[int, PortState], expect: set[int]
) -> None:
    """For any states, each port is told that going through them one by one tells, once."""
    wanted = set()
    for port, state in after.items():
        was = before.get(port)
        if (was is None and state is OPEN) or (
            was is not None and was is not state and (OPEN in (was, state) or port in expect)
        ):
            wanted.add((ADDRESS, str(port), was, state))
    found = moved(observed(before), observed(after), target("web1", expect=expect, scan=range(1, 11)))
    assert set(found) == wanted
    assert len(found) == len(wanted)
    assert all(len(PortSet.of([int(spelled)])) == 1 for _, spelled, _, _ in found)


def test_host_that_changes_everywhere_adds_a_bounded_number_of_rows() -> None:
    """Of a name with other addresses in each scan, on which many ports are open, most addresses have one row."""
    ports = range(1000, 1000 + MAX_SINGLE)
    addresses = [f"198.51.100.{number}" for number in range(64)]
    found = between(result(WEB, *(seen(address, scanned=ports, is_open=ports) for address in addresses)))
    assert len(found) == MAX_ROWS + len(addresses) - MAX_ROWS // MAX_SINGLE
    assert {address for address, *_ in found} == set(addresses)
    assert found[-1] == (addresses[-1], "1000-1099", None, OPEN)
