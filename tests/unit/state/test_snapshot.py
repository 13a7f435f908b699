from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import PortSet
from portspec.scan import Failure, Reason
from portspec.state.snapshot import MAX_KEPT_ADDRESSES, HostState, Snapshot
from portspec.state.table import HostTable
from portspec.state.verdict import Verdict
from tests.unit.factories import ADDRESS, MODEST, NOW, exception, result, seen, snapshot, target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.inventory import Target
    from portspec.scan import AddressObservation
    from portspec.state.snapshot import ScanResult

OTHER = "192.0.2.2"
WEB = target("web1", expect=[22])
IN_SPEC = result(WEB, seen(is_open=[22]), at=NOW)
OUT_OF_SPEC = result(WEB, seen(is_open=[22, 80]), at=NOW + 60)
UNKNOWN = result(WEB, seen(reason=Reason.NO_ROUTE), at=NOW + 120)


def test_host_is_unknown_before_its_first_scan() -> None:
    """A host that was never scanned is unknown and has no deviations."""
    state = HostState(WEB)
    assert (state.host, state.verdict, state.deviations) == ("web1", Verdict.UNKNOWN, ())
    assert (state.latest, state.conclusive, state.last_change) == (None, None, None)


def test_conclusive_scan_is_latest_and_conclusive() -> None:
    """A scan that reached a verdict is both the latest and the latest conclusive one."""
    state = HostState(WEB).after(OUT_OF_SPEC)
    assert state.latest is state.conclusive is OUT_OF_SPEC
    assert state.verdict is Verdict.OUT_OF_SPEC
    assert state.deviations == OUT_OF_SPEC.judgement.deviations


def test_unknown_keeps_the_last_conclusive_result() -> None:
    """A scan that reached no verdict makes the host unknown; its last conclusive result and its deviations stay."""
    state = HostState(WEB).after(OUT_OF_SPEC).after(UNKNOWN)
    assert state.verdict is Verdict.UNKNOWN
    assert state.latest is UNKNOWN
    assert state.conclusive is OUT_OF_SPEC
    assert state.deviations == OUT_OF_SPEC.judgement.deviations


def test_transition_leaves_the_state_before_it_alone() -> None:
    """A state is a value: after() gives another one."""
    before = HostState(WEB)
    before.after(IN_SPEC)
    assert before == HostState(WEB)


@pytest.mark.parametrize(
    ("scans", "last_change"),
    [
        ([IN_SPEC], None),
        ([UNKNOWN, IN_SPEC], None),
        ([IN_SPEC, dataclasses.replace(IN_SPEC, finished_at=NOW + 30)], None),
        ([IN_SPEC, OUT_OF_SPEC], NOW + 60),
        ([IN_SPEC, UNKNOWN], None),
        ([IN_SPEC, OUT_OF_SPEC, UNKNOWN], NOW + 60),
        ([IN_SPEC, OUT_OF_SPEC, UNKNOWN, dataclasses.replace(OUT_OF_SPEC, finished_at=NOW + 180)], NOW + 60),
        ([IN_SPEC, OUT_OF_SPEC, UNKNOWN, dataclasses.replace(IN_SPEC, finished_at=NOW + 180)], NOW + 180),
    ],
    ids=["first", "unknown first", "same again", "change", "unknown", "change, unknown", "as before", "and back"],
)
def test_last_change_is_when_the_set_of_open_ports_changed(scans: list[object], last_change: float | None) -> None:
    """Only a conclusive scan with other open ports than the conclusive one before it is a change."""
    state = HostState(WEB)
    for scan in scans:
        assert isinstance(scan, type(IN_SPEC))
        state = state.after(scan)
    assert state.last_change == last_change


def test_states_that_differ_only_in_what_is_closed_are_no_change() -> None:
    """A port that turns from closed to filtered does not change the set of open ports."""
    state = HostState(WEB).after(IN_SPEC)
    state = state.after(result(WEB, seen(is_open=[22], filtered=[80, 443]), at=NOW + 60))
    assert state.last_change is None


def partly_seen() -> tuple[HostState, HostState]:
    """Return a host of two addresses, both out of spec, before and after one of them could not be seen any more."""
    both = HostState(WEB).after(result(WEB, seen(ADDRESS), seen(OTHER, is_open=[22, 80])))
    return both, both.after(result(WEB, seen(ADDRESS), seen(OTHER, reason=Reason.NO_ROUTE), at=NOW + 60))


def test_address_that_could_not_be_seen_is_no_change() -> None:
    """Where one address deviates and the other could not be seen, the set of open ports was not seen to change."""
    _, after = partly_seen()
    assert after.last_change is None


def test_address_that_could_not_be_seen_keeps_its_deviations() -> None:
    """Deviations of an address stay until that address is seen again: unseen is not in spec."""
    before, after = partly_seen()
    assert after.deviations == before.deviations


def test_address_that_is_seen_again_replaces_what_was_kept() -> None:
    """Once the address is seen again its own state counts, and the change is one of that moment."""
    _, partly = partly_seen()
    again = partly.after(result(WEB, seen(ADDRESS), seen(OTHER, is_open=[22]), at=NOW + 120))
    assert {item.address for item in again.deviations} == {ADDRESS}
    assert again.last_change == NOW + 120


def test_deviations_of_an_unseen_address_are_kept_however_long() -> None:
    """Several scans in a row without the address change nothing of what is known of it."""
    before, state = partly_seen()
    for minute in range(2, 5):
        state = state.after(result(WEB, seen(ADDRESS), seen(OTHER, reason=Reason.NO_ROUTE), at=NOW + 60 * minute))
    assert state.deviations == before.deviations
    assert state.last_change is None


def test_address_that_did_not_resolve_keeps_its_deviations() -> None:
    """An address that a failed look-up left out is unseen like one without a route."""
    before, _ = partly_seen()
    failure = Failure(Reason.RESOLVE, "the look-up of its IPv6 addresses failed")
    after = before.after(result(WEB, seen(ADDRESS), at=NOW + 60, failure=failure))
    assert after.deviations == before.deviations
    assert after.last_change is None


def cut_off(address: str, *is_open: int, scanned: Iterable[int]) -> AddressObservation:
    """Make the observation of an address that fell silent after some of its ports were seen."""
    failure = Failure(Reason.CUT_OFF, "it stopped answering")
    return replace(seen(address, scanned=scanned, is_open=is_open, answered=True), failure=failure)


def test_ports_that_were_seen_before_an_address_was_cut_off_replace_what_was_known_of_them() -> None:
    """What was seen of some ports counts, what was known of the others stays; each deviation is told once."""
    before = HostState(WEB).after(result(WEB, seen(ADDRESS, is_open=[22, 80, 443]), at=NOW))
    assert [item.port for item in before.deviations] == [80, 443]
    after = before.after(result(WEB, cut_off(ADDRESS, 22, 443, scanned=[22, 80, 443]), at=NOW + 60))
    assert (after.verdict, [item.port for item in after.deviations]) == (Verdict.OUT_OF_SPEC, [443])
    partly = before.after(result(WEB, cut_off(ADDRESS, 22, 443, scanned=[22, 443]), at=NOW + 60))
    assert (partly.verdict, [item.port for item in partly.deviations]) == (Verdict.OUT_OF_SPEC, [80, 443])
    assert partly.conclusive is not None
    assert partly.conclusive.open_ports == PortSet.of([22, 80, 443])


def test_address_that_was_cut_off_without_a_deviation_is_unknown() -> None:
    """What was seen of it is in spec, and the rest is not known: unknown, and the verdict before stays the last one."""
    before = HostState(WEB).after(result(WEB, seen(ADDRESS, is_open=[22]), at=NOW))
    after = before.after(result(WEB, cut_off(ADDRESS, 22, scanned=[22]), at=NOW + 60))
    assert (after.verdict, after.conclusive, list(after.silenced)) == (Verdict.UNKNOWN, before.conclusive, [ADDRESS])
    assert before.silenced == {}


def test_part_of_an_address_that_was_seen_in_time_replaces_what_was_kept_of_it() -> None:
    """Of an address whose time was over the ports that were seen are as they are now, the others as they were."""
    web = target(expect=[22], scan=[80, 443])
    before = HostState(web).after(result(web, seen(is_open=[80, 443])))
    assert [item.port for item in before.deviations] == [22, 80, 443]
    late = Failure(Reason.TIMEOUT, "the scan was stopped after 60 s")
    after = before.after(result(web, replace(seen(scanned=[22, 80]), failure=late), at=NOW + 60))
    assert after.verdict is Verdict.OUT_OF_SPEC
    assert [item.port for item in after.deviations] == [22, 443]
    assert after.conclusive
    (kept,) = after.conclusive.addresses
    assert (set(kept.scanned), set(kept.open), kept.failure) == ({22, 80, 443}, {443}, None)


def test_host_that_was_cut_off_is_asked_slower_and_then_slowly_faster() -> None:
    """Half the pace after each time it was cut off, a quarter more after each scan that was not, and then no limit."""
    fine = result(WEB, seen(ADDRESS, is_open=[22]), at=NOW)

    def cut(pace: float | None, *, answered: bool = True) -> ScanResult:
        return result(WEB, replace(cut_off(ADDRESS, scanned=[22]), pace=pace, answered=answered), at=NOW)

    state = HostState(WEB).after(fine)
    assert state.pace is None
    assert state.after(cut(50_000.0)).pace == state.after(cut(None)).pace == 1000.0
    state = state.after(cut(600.0))
    assert state.pace == 300.0
    state = state.after(cut(5000.0))
    assert state.pace == 150.0
    assert state.after(cut(None, answered=False)).pace == 150.0  # it answers nothing since: nothing new
    assert state.after(result(WEB, seen(ADDRESS, reason=Reason.NO_ROUTE), at=NOW)).pace == 150.0
    for _ in range(3):
        state = state.after(fine)
    assert state.pace == pytest.approx(150.0 * 1.25**3)
    for _ in range(9):
        state = state.after(fine)
    assert state.pace is None
    for _ in range(30):
        state = state.after(cut(None))
    assert state.pace == 10.0


def test_address_that_has_left_the_name_is_gone() -> None:
    """An address that the name does not have any more takes its deviations with it."""
    before, _ = partly_seen()
    after = before.after(result(WEB, seen(ADDRESS), at=NOW + 60))
    assert {item.address for item in after.deviations} == {ADDRESS}


def test_address_that_has_left_the_name_is_gone_though_another_is_unseen() -> None:
    """What could not be seen of one address keeps nothing of another that the name does not have any more."""
    third = "192.0.2.3"
    before = HostState(WEB).after(
        result(WEB, seen(ADDRESS), seen(OTHER, is_open=[22, 80]), seen(third, is_open=[22, 443]))
    )
    after = before.after(result(WEB, seen(ADDRESS), seen(OTHER, reason=Reason.NO_ROUTE), at=NOW + 60))
    assert {item.address for item in after.deviations} == {ADDRESS, OTHER}


def test_open_ports_are_those_of_all_addresses() -> None:
    """A port is open if it is open on at least one address; ports ascend and stand once."""
    scan = result(WEB, seen(ADDRESS, is_open=[443, 22]), seen(OTHER, is_open=[80, 22]))
    assert scan.open_ports == PortSet.of([22, 80, 443])


def test_host_is_up_if_any_address_answered() -> None:
    """One answer from one address is enough to be up; silence everywhere is not."""
    silent, loud = seen(ADDRESS, answered=False), seen(OTHER, answered=True)
    assert result(WEB, silent, loud).is_up
    assert not result(WEB, silent, silent).is_up
    assert not result(WEB).is_up


def test_snapshot_is_complete_once_every_host_was_scanned() -> None:
    """A snapshot is complete when each host has a latest scan, a conclusive one or not."""
    hosts = [WEB, target("web2")]
    made = Snapshot.of(hosts)
    assert not made.is_complete
    made = made.after("web1", UNKNOWN, probes_sent=1)
    assert not made.is_complete
    assert made.after("web2", IN_SPEC, probes_sent=2).is_complete


def test_snapshot_after_a_scan_leaves_the_one_before_it_alone() -> None:
    """Whoever holds a snapshot keeps seeing the same hosts, whatever is scanned meanwhile."""
    before = Snapshot.of([WEB, target("web2")])
    after = before.after("web1", IN_SPEC, probes_sent=7)
    assert (before.hosts["web1"].latest, before.probes_sent) == (None, 0)
    assert (after.hosts["web1"].latest, after.probes_sent) == (IN_SPEC, 7)
    assert after.hosts["web2"] is before.hosts["web2"]


@pytest.mark.parametrize("name", ["hosts", "rounds"])
def test_snapshot_cannot_be_changed(name: str) -> None:
    """A snapshot's fields cannot be set, and its table of hosts takes no items."""
    made = snapshot((WEB, [IN_SPEC]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, None)
    with pytest.raises(TypeError):
        made.hosts["web1"] = HostState(WEB)  # type: ignore[index]


def test_scan_of_a_host_that_is_not_there_is_an_error() -> None:
    """A result of a host that the snapshot does not hold raises KeyError."""
    with pytest.raises(KeyError):
        Snapshot.of([WEB]).after("elsewhere", IN_SPEC, probes_sent=0)


@MODEST
@given(count=st.integers(1, 400), changed=st.lists(st.integers(0, 399), max_size=20))
def test_table_is_a_dictionary_that_is_cheap_to_copy(count: int, changed: list[int]) -> None:
    """After any replacements a table equals the dictionary with the same ones, in the order of the configuration."""
    states = [HostState(target(f"host{number}")) for number in range(count)]
    table, model = HostTable(states), {state.host: state for state in states}
    for number in changed:
        state = HostState(target(f"host{number % count}"), latest=IN_SPEC)
        table, model[state.host] = table.replacing(state), state
    assert list(table.items()) == list(model.items())
    assert len(table) == count
    assert "elsewhere" not in table


def test_first_scan_of_a_part_is_no_change_when_all_is_seen() -> None:
    """An address that could not be seen in the first scan has not changed when it is seen in the second."""
    state = HostState(WEB).after(result(WEB, seen(ADDRESS), seen(OTHER, reason=Reason.NO_ROUTE)))
    assert state.verdict is Verdict.OUT_OF_SPEC
    state = state.after(result(WEB, seen(ADDRESS), seen(OTHER, is_open=[22, 80]), at=NOW + 60))
    assert state.last_change is None


def test_change_beside_an_address_that_was_never_seen_is_one() -> None:
    """What both scans saw is compared, whatever else they could not see."""
    state = HostState(WEB).after(result(WEB, seen(ADDRESS), seen(OTHER, reason=Reason.NO_ROUTE)))
    state = state.after(result(WEB, seen(ADDRESS, is_open=[80]), seen(OTHER, reason=Reason.NO_ROUTE), at=NOW + 60))
    assert state.last_change == NOW + 60


def test_open_ports_leave_out_what_could_not_be_seen() -> None:
    """What a scan found on an address before it had to give it up is not counted as open."""
    given_up = dataclasses.replace(seen(OTHER, is_open=[8080]), failure=Failure(Reason.NO_ROUTE, "gone"))
    scan = result(WEB, seen(ADDRESS, is_open=[22]), given_up)
    assert scan.open_ports == PortSet.of([22])


def test_address_that_a_failed_look_up_had_hidden_is_no_change() -> None:
    """An address that is first seen once its family resolves again had its ports open before, for all that is known."""
    failure = Failure(Reason.RESOLVE, "the look-up of its IPv6 addresses failed")
    state = HostState(WEB).after(result(WEB, seen(ADDRESS), failure=failure))
    assert state.after(result(WEB, seen(ADDRESS), seen(OTHER, is_open=[22, 80]), at=NOW + 60)).last_change is None


DOUBTED = result(WEB, seen(is_open=[22, 80], unconfirmed=[80]), at=NOW + 60)


def test_open_ports_leave_out_what_is_unconfirmed() -> None:
    """A port that takes no connection is not open, unless it takes one on another address."""
    assert DOUBTED.open_ports == PortSet.of([22])
    both = result(WEB, seen(ADDRESS, is_open=[22, 80], unconfirmed=[80]), seen(OTHER, is_open=[80]))
    assert both.open_ports == PortSet.of([22, 80])


@pytest.mark.parametrize(
    ("before", "after", "last_change"),
    [
        (IN_SPEC, DOUBTED, None),
        (DOUBTED, dataclasses.replace(IN_SPEC, finished_at=NOW + 120), None),
        (DOUBTED, dataclasses.replace(OUT_OF_SPEC, finished_at=NOW + 120), NOW + 120),
        (dataclasses.replace(OUT_OF_SPEC, finished_at=NOW), DOUBTED, NOW + 60),
    ],
    ids=["comes", "goes", "is confirmed", "was confirmed"],
)
def test_only_what_takes_connections_can_change(
    before: ScanResult, after: ScanResult, last_change: float | None
) -> None:
    """That an unconfirmed port comes or goes is no change; that it begins or ends to take connections is one."""
    state = HostState(WEB).after(before).after(after)
    assert state.last_change == last_change
    assert state.verdict is after.judgement.verdict


@pytest.mark.parametrize(("unconfirmed", "last_change"), [([80], None), ([], NOW + 60)])
def test_only_what_takes_connections_can_change_beside_an_unseen_address(
    unconfirmed: list[int], last_change: float | None
) -> None:
    """The same holds where another address could not be seen."""
    unseen = seen(OTHER, reason=Reason.NO_ROUTE)
    state = HostState(WEB).after(result(WEB, seen(ADDRESS), unseen))
    state = state.after(result(WEB, seen(ADDRESS, is_open=[80], unconfirmed=unconfirmed), unseen, at=NOW + 60))
    assert state.last_change == last_change


def test_snapshot_has_the_totals_of_the_engines() -> None:
    """Probes and dropped answers are as of the last scan; who drops no answers need not say so."""
    made = Snapshot.of([WEB]).after("web1", IN_SPEC, probes_sent=7, answers_dropped=3)
    assert (made.probes_sent, made.answers_dropped) == (7, 3)
    assert snapshot((WEB, [IN_SPEC])).answers_dropped == 0


ACCEPTED = target("web1", expect=[22], exceptions=[exception(80, until=NOW + 300)])


def test_deviation_is_excepted_until_its_exception_lapses() -> None:
    """A deviation moves from `excepted` to `deviations` at the very moment, and the verdict with it."""
    state = HostState(ACCEPTED).after(result(ACCEPTED, seen(is_open=[22, 80])))
    assert (state.verdict, state.deviations, [item.port for item in state.excepted]) == (Verdict.IN_SPEC, (), [80])
    later = state.judged(ACCEPTED, NOW + 300)
    assert (later.verdict, [item.port for item in later.deviations]) == (Verdict.OUT_OF_SPEC, [80])
    assert (later.excepted, later.judged_at) == ((), NOW + 300)
    assert (later.target, later.last_change, later.conclusive and later.conclusive.finished_at) == (ACCEPTED, None, NOW)


def test_deviation_is_excepted_again_when_the_time_goes_back() -> None:
    """Judged at a time before the end of the exception the state is again what it was."""
    state = HostState(ACCEPTED).after(result(ACCEPTED, seen(is_open=[22, 80])))
    assert state.judged(ACCEPTED, NOW + 300).judged(ACCEPTED, NOW) == state


@pytest.mark.parametrize("moment", [NOW + 1, NOW + 299.9])
def test_state_that_is_judged_alike_is_the_same_object(moment: float) -> None:
    """While the same exceptions are in force nothing is made anew: who compares by identity sees no change."""
    state = HostState(ACCEPTED).after(result(ACCEPTED, seen(is_open=[22, 80])))
    assert state.judged(ACCEPTED, moment) is state
    other = HostState(WEB).after(OUT_OF_SPEC)
    assert other.judged(WEB, moment) is other
    assert HostState(WEB).judged(WEB, moment).target is WEB


def test_exception_that_hides_nothing_is_known_to_lapse() -> None:
    """A state knows at what time it was judged: what tells of exceptions in force changes when one ends."""
    state = HostState(ACCEPTED).after(result(ACCEPTED, seen(is_open=[22])))
    later = state.judged(ACCEPTED, NOW + 300)
    assert later is not state
    assert later == dataclasses.replace(state, judged_at=NOW + 300)


def test_exceptions_are_not_in_force_before_the_first_judgement() -> None:
    """An unscanned host knows its exceptions once it was judged."""
    state = HostState(ACCEPTED)
    assert state.judged(ACCEPTED, NOW).judged_at == NOW
    assert state.judged(ACCEPTED, NOW + 300) is state


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (target("web1", expect=[22, 80]), Verdict.IN_SPEC),
        (target("web1", expect=[22], allow=[80]), Verdict.IN_SPEC),
        (target("web1", expect=[22], labels={"team": "dba"}), Verdict.OUT_OF_SPEC),
        (ACCEPTED, Verdict.IN_SPEC),
    ],
    ids=["expect", "allow", "labels", "exceptions"],
)
def test_state_is_put_under_another_target(new: Target, verdict: Verdict) -> None:
    """What was observed stays, and is judged by what the configuration now says."""
    state = HostState(WEB).after(IN_SPEC).after(OUT_OF_SPEC)
    after = state.under(new, NOW + 60)
    assert (after.target, after.verdict, after.last_change) == (new, verdict, NOW + 60)
    assert after.latest is not None
    assert after.latest.addresses is OUT_OF_SPEC.addresses
    assert after.under(WEB, NOW + 60).latest == OUT_OF_SPEC


def test_unknown_stays_unknown_under_another_target() -> None:
    """A specification makes no host known that could not be seen; the last conclusive result is judged anew."""
    state = HostState(WEB).after(OUT_OF_SPEC).after(UNKNOWN)
    after = state.under(target("web1", expect=[22, 80]), NOW + 120)
    assert (after.verdict, after.deviations) == (Verdict.UNKNOWN, ())
    assert after.latest is UNKNOWN


def test_address_that_could_not_be_seen_keeps_what_is_excepted() -> None:
    """Accepted deviations of an unseen address stay accepted, and count from the end of the exception on."""
    both = result(ACCEPTED, seen(ADDRESS, is_open=[22, 80]), seen(OTHER, is_open=[22, 80, 443]))
    partly = result(ACCEPTED, seen(ADDRESS, is_open=[22, 443]), seen(OTHER, reason=Reason.NO_ROUTE), at=NOW + 60)
    state = HostState(ACCEPTED).after(both).after(partly)
    assert [(item.address, item.port) for item in state.deviations] == [(ADDRESS, 443), (OTHER, 443)]
    assert [(item.address, item.port) for item in state.excepted] == [(OTHER, 80)]
    later = state.judged(ACCEPTED, NOW + 300)
    assert [(item.address, item.port) for item in later.deviations] == [(ADDRESS, 443), (OTHER, 80), (OTHER, 443)]


def test_deviation_of_a_first_scan_that_was_excepted_shows_when_it_counts() -> None:
    """A host that turns out of spec when an exception lapses says by which deviations, though it was unknown before."""
    partly = result(ACCEPTED, seen(ADDRESS, is_open=[22, 80]), seen(OTHER, reason=Reason.NO_ROUTE))
    state = HostState(ACCEPTED).after(partly)
    assert (state.verdict, state.deviations) == (Verdict.UNKNOWN, ())
    later = state.judged(ACCEPTED, NOW + 300)
    assert later.verdict is Verdict.OUT_OF_SPEC
    assert [item.port for item in later.deviations] == [80]


@MODEST
@given(count=st.integers(1, 400), changed=st.integers(0, 399))
def test_chunks_without_the_changed_host_are_the_same(count: int, changed: int) -> None:
    """Of a table's chunks only the one with the replaced host is another in the next table, at the place it names."""
    before = HostTable(HostState(target(f"host{number}")) for number in range(count))
    state = HostState(target(f"host{changed % count}"), latest=IN_SPEC)
    after = before.replacing(state)
    number, place = after.places[state.host]
    assert after.chunks[number][place] is state
    assert after.places is before.places
    for other, (old, new) in enumerate(zip(before.chunks, after.chunks, strict=True)):
        assert (old is new) == (other != number)
    assert [one.host for chunk in after.chunks for one in chunk] == list(after)
    others = [HostState(target(host), latest=IN_SPEC) for host in before if int(host[4:]) % 3 == changed % 3]
    one_by_one = before
    for one in others:
        one_by_one = one_by_one.replacing(one)
    assert before.replacing_all(others).chunks == one_by_one.chunks


def test_table_of_the_same_states_is_the_same() -> None:
    """What has not changed is shared: the metrics of a chunk are rendered again only if it is another one."""
    states = [HostState(target(f"host{number}")) for number in range(1100)]
    before = HostTable(states)
    assert before.holding(list(states)) is before
    shorter = before.holding(states[:-1])
    assert [new is old for new, old in zip(shorter.chunks, before.chunks, strict=True)] == [True, True, False]
    grown = before.holding([*states, HostState(target("new"))])
    assert grown.chunks[0] is before.chunks[0]
    assert grown.chunks[2] == (*before.chunks[2], grown["new"])
    assert list(before.holding(states[1:])) == [state.host for state in states[1:]]
    assert list(before.holding([])) == []


def test_recheck_changes_what_was_seen_and_no_time_of_the_scan() -> None:
    """A port that was closed is a change of that time; the scan stays of its own time and duration."""
    state = HostState(WEB).after(result(WEB, seen(is_open=[22, 80])))
    after = state.after_recheck([seen(is_open=[22])], NOW + 900)
    assert after.latest is after.conclusive
    assert after.conclusive is not None
    assert (after.verdict, after.last_change, after.judged_at) == (Verdict.IN_SPEC, NOW + 900, NOW + 900)
    assert (after.conclusive.finished_at, after.conclusive.duration) == (NOW, 1.5)
    assert (after.conclusive.rechecked_at, after.conclusive.seen_at) == (NOW + 900, NOW + 900)


def test_port_is_open_since_the_first_scan_of_those_that_saw_it_so() -> None:
    """What was closed meanwhile, by a scan or a recheck, and opened again is open since then only."""
    of = target("web1")
    state = HostState(of)
    for at, is_open in ((0, [22, 80, 443]), (10, [22, 80]), (20, [22, 80, 443])):
        state = state.after(result(of, seen(is_open=is_open), at=NOW + at))
    assert [list(state.open_since(NOW + at)) for at in (-1, 0, 10, 20)] == [[], [22, 80], [22, 80], [22, 80, 443]]
    same = state.after(result(of, seen(is_open=[22, 80, 443]), at=NOW + 30))
    assert same.opened is state.opened
    state = state.after_recheck([seen(is_open=[22, 443])], NOW + 40).after_recheck([seen(is_open=[22, 80])], NOW + 50)
    assert [list(state.open_since(NOW + at)) for at in (0, 40, 50)] == [[22], [22], [22, 80]]


def test_port_is_missing_since_the_first_scan_of_those_that_saw_it_so() -> None:
    """What was open meanwhile, by a scan or a recheck, is missing since then only, be it accepted or not."""
    of = target("web1", expect=[22, 80])
    state = HostState(of)
    for at, is_open in ((0, [22]), (10, []), (20, [80]), (30, [])):
        state = state.after(result(of, seen(is_open=is_open), at=NOW + at))
    assert listed(state.missing) == {NOW + 10: [22], NOW + 30: [80]}
    same = state.after(result(of, seen(is_open=[]), at=NOW + 40))
    assert same.missing is state.missing
    accepted = target("web1", expect=[22, 80], exceptions=[exception(22, until=NOW + 900)])
    state = state.judged(accepted, NOW + 50)
    assert listed(state.missing) == {NOW + 10: [22], NOW + 30: [80]}
    state = state.after_recheck([seen(is_open=[80])], NOW + 60).after_recheck([seen(is_open=[])], NOW + 70)
    assert listed(state.missing) == {NOW + 10: [22], NOW + 70: [80]}


def test_port_is_missing_since_it_is_expected() -> None:
    """A port that was shut all the time is missing from the change of the configuration on, until it is undone."""
    state = HostState(WEB).after(result(WEB, seen(is_open=[22])))
    assert state.missing == ()
    more = state.under(target("web1", expect=[22, 443]), NOW + 60)
    assert listed(more.missing) == {NOW + 60: [443]}
    assert more.under(WEB, NOW + 90).missing == ()


def test_port_of_an_address_that_was_not_seen_stays_missing() -> None:
    """A scan that cannot look changes nothing of since when."""
    of = target("web1", expect=[22, 80])
    state = HostState(of).after(result(of, seen(is_open=[22])))
    state = state.after(result(of, seen(reason=Reason.NO_ROUTE), at=NOW + 60))
    assert listed(state.missing) == {NOW: [80]}


def listed(groups: tuple[tuple[float, PortSet], ...]) -> dict[float, list[int]]:
    """Return the ports by time."""
    return {at: list(ports) for at, ports in groups}


def test_recheck_that_saw_the_same_is_the_same_state() -> None:
    """Nothing has to be written or told of a look that found nothing new."""
    state = HostState(WEB).after(result(WEB, seen(is_open=[22, 80])))
    assert state.after_recheck([seen(is_open=[22, 80])], NOW + 900) is state


def test_recheck_clears_no_host_of_which_an_address_was_not_seen() -> None:
    """Without its deviation a host is unknown whose other address could not be seen, as after a scan."""
    unseen = seen(OTHER, reason=Reason.NO_ROUTE)
    state = HostState(WEB).after(result(WEB, seen(is_open=[22, 80]), unseen))
    assert state.verdict is Verdict.OUT_OF_SPEC
    after = state.after_recheck([seen(is_open=[22]), unseen], NOW + 900)
    assert after.verdict is Verdict.UNKNOWN
    assert after.conclusive is state.conclusive


def test_recheck_keeps_what_deviates_on_an_address_that_is_not_seen_now() -> None:
    """A deviation of an address that was seen before, and not in the last scan, ends when that address shows it."""
    state = HostState(WEB).after(result(WEB, seen(is_open=[22, 80]), seen(OTHER, is_open=[22, 443])))
    state = state.after(result(WEB, seen(is_open=[22, 80]), seen(OTHER, reason=Reason.NO_ROUTE), at=NOW + 60))
    assert {item.port for item in state.deviations} == {80, 443}
    after = state.after_recheck([seen(is_open=[22, 80]), seen(OTHER, is_open=[22])], NOW + 900)
    assert {item.port for item in after.deviations} == {80}
    assert after.latest is not None
    assert after.latest.addresses[1].failure is not None


@pytest.mark.parametrize("is_seen", [True, False])
def test_scan_brings_what_is_kept_to_its_own_time(is_seen: bool) -> None:  # noqa: FBT001
    """An exception that ended before a scan does not count for what earlier scans found, whatever the scan saw."""
    both = result(ACCEPTED, seen(is_open=[22]), seen(OTHER, is_open=[22, 80]))
    state = HostState(ACCEPTED).after(both)
    assert state.verdict is Verdict.IN_SPEC
    first = seen(is_open=[80]) if is_seen else seen(reason=Reason.NO_ROUTE)
    state = state.after(result(ACCEPTED, first, seen(OTHER, reason=Reason.NO_ROUTE), at=NOW + 300))
    assert (OTHER, 80) in {(item.address, item.port) for item in state.deviations}
    assert state.excepted == ()
    assert state.judged_at == NOW + 300


def test_scan_that_suffices_once_conf_yml_has_changed_is_judged_by_the_exceptions_of_now() -> None:
    """An unknown host that a reload finds out of spec is told so, also where an exception has ended since the scan."""
    exceptions = [exception(443, until=NOW + 5)]
    before = target(allow=[80], exceptions=exceptions)
    scan = result(before, seen(ADDRESS, is_open=[80]), seen(OTHER, reason=Reason.NO_ROUTE))
    state = HostState(before).after(scan).judged(before, NOW + 10)
    assert state.verdict is Verdict.UNKNOWN
    after = state.under(target(exceptions=exceptions), NOW + 20)
    assert after.verdict is Verdict.OUT_OF_SPEC
    assert after.judged_at == NOW + 20


@pytest.mark.parametrize("reason", [Reason.RESOLVE, Reason.DENIED])
def test_name_whose_addresses_change_each_time_does_not_make_its_state_grow(reason: Reason) -> None:
    """Of addresses that a name may still have, a number is kept; first those that deviate, and of these the newest."""
    failure = Failure(reason, "has 70 addresses, of which 64 are scanned (scan: max_addresses)")
    state = HostState(WEB)
    for scan in range(20):
        answers = [seen(f"10.{scan}.0.{number}", is_open=[22, 80] if number < 2 else [22]) for number in range(1, 65)]
        state = state.after(result(WEB, *answers, at=NOW + 60 * scan, failure=failure))
        assert state.conclusive is not None
        assert len(state.conclusive.addresses) <= 64 + MAX_KEPT_ADDRESSES
    assert {item.address for item in state.deviations} == {f"10.{scan}.0.1" for scan in range(20)}
    kept = [item.address for item in state.conclusive.addresses] if state.conclusive else []
    assert "10.18.0.64" in kept
    assert "10.1.0.64" not in kept


def test_addresses_with_scattered_ports_are_kept_as_far_as_memory_goes() -> None:
    """Of addresses with tens of thousands of ranges of ports fewer are kept than of ordinary ones."""
    failure = Failure(Reason.RESOLVE, "the lookup of its IPv6 addresses failed")
    ports = range(1, 65536)
    scattered = [
        seen(f"10.0.0.{number}", scanned=ports, is_open=[22], filtered=range(101, 40_000, 2)) for number in range(9)
    ]
    before = HostState(WEB).after(result(WEB, *scattered, seen(OTHER, is_open=[22, 80]), at=NOW))
    after = before.after(result(WEB, seen(ADDRESS, is_open=[22, 80]), at=NOW + 60, failure=failure))
    assert after.conclusive is not None
    assert [item.address for item in after.conclusive.addresses] == [ADDRESS, OTHER, "10.0.0.0", "10.0.0.1", "10.0.0.2"]
