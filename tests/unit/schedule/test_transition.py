from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from portspec.schedule.transition import caught_up, prepare
from portspec.state.snapshot import HostState
from portspec.state.table import HostTable
from portspec.state.verdict import Verdict
from tests.unit.factories import MODEST, NOW, exception, result, seen, target

if TYPE_CHECKING:
    from portspec.inventory import Target

WEB = target("web1", expect=[22])
IN_SPEC = result(WEB, seen(is_open=[22]), at=NOW)
OUT_OF_SPEC = result(WEB, seen(is_open=[22, 80]), at=NOW + 60)

WAYS = (
    lambda host: target(host, expect=[22]),
    lambda host: target(host, expect=[22, 80]),
    lambda host: target(host, expect=[22], labels={"team": "web"}),
    lambda host: target(host, expect=[22], interval=1000.0),
    lambda host: target(host, expect=[22], exceptions=[exception(80, until=NOW + 9)]),
)


def states(*hosts: HostState) -> HostTable[HostState]:
    """Return the table of some states."""
    return HostTable(hosts)


def test_hosts_that_stay_keep_what_is_known_of_them() -> None:
    """Hosts stand in the new order; those that stay as they were are the same objects, and are not started."""
    first, second, third = target("first"), target("second"), target("third")
    before = states(
        HostState(first).after(result(first, seen())), HostState(second).after(result(second, seen())), HostState(third)
    )
    changed = target("second", expect=[22])
    found = prepare(before, [target("new"), changed, target("first")], NOW, {})
    assert list(found.hosts) == ["new", "second", "first"]
    assert found.hosts["first"] is before["first"]
    assert found.targets["first"] is before["first"].target
    assert (found.hosts["second"].target, found.hosts["second"].verdict) == (changed, Verdict.OUT_OF_SPEC)
    assert found.hosts["new"] == HostState(target("new"))
    assert found.started == (target("new"), changed)
    assert found.stopped == {"second", "third"}
    assert list(before) == ["first", "second", "third"]


def test_restored_states_are_for_new_hosts_alone() -> None:
    """A state from before is for a host that was not there; it is judged by its present target."""
    old = HostState(WEB).after(OUT_OF_SPEC)
    restored = {"web1": old, "web2": HostState(target("web2")).after(IN_SPEC), "gone": old}
    before = states(HostState(target("web2")))
    allowed = target("web1", expect=[22], allow=[80])
    found = prepare(before, [allowed, target("web2")], NOW, restored)
    assert list(found.hosts) == ["web1", "web2"]
    assert (found.hosts["web1"].target, found.hosts["web1"].verdict) == (allowed, Verdict.IN_SPEC)
    assert found.hosts["web2"] is before["web2"]
    assert prepare(before, [WEB], NOW, restored).hosts["web1"] is old


def test_hosts_that_an_exception_is_about_are_known() -> None:
    """They alone are looked through when an exception ends."""
    excepted = target("web2", expect=[22], exceptions=[exception(80, until=NOW + 9)])
    assert prepare(states(), [WEB, excepted], NOW, {}).watched == ("web2",)


def test_same_targets_change_nothing() -> None:
    """A reload of the same file costs nothing: the table is the same one."""
    before = states(*(HostState(target(f"host{number}")).after(IN_SPEC) for number in range(1000)))
    found = prepare(before, [target(f"host{number}") for number in range(1000)], NOW, {})
    assert found.hosts is before
    assert not found.started
    assert not found.stopped
    assert not found.changed
    assert all(found.targets[host] is before[host].target for host in before)


@st.composite
def other_targets(draw: st.DrawFn) -> list[Target]:
    """Draw targets for some of ten hosts, in any order."""
    hosts = draw(st.lists(st.integers(0, 9), unique=True))
    return [draw(st.sampled_from(WAYS))(f"host{number}") for number in hosts]


@MODEST
@given(first=other_targets(), second=other_targets(), data=st.data())
def test_transition_that_catches_up_is_that_from_the_present_states(
    first: list[Target], second: list[Target], data: st.DataObject
) -> None:
    """Whatever was scanned while it was prepared, it is as if it had been prepared afterwards."""
    ports = st.sampled_from([[22], [80], [22, 80]])

    def scanned(state: HostState) -> HostState:
        of = state.target
        return state.after(result(of, seen(is_open=data.draw(ports)), at=NOW)) if data.draw(st.booleans()) else state

    before = states(*map(scanned, map(HostState, first)))
    now = before.replacing_all(map(scanned, before.values()))
    late = caught_up(prepare(before, second, NOW, {}), now)
    fresh = prepare(now, second, NOW, {})
    assert late.hosts == fresh.hosts
    assert list(late.hosts) == list(fresh.hosts)
    assert set(late.changed) >= set(fresh.changed)
    assert set(late.deviating) >= set(fresh.deviating)
    assert (late.started, late.stopped, late.targets) == (fresh.started, fresh.stopped, fresh.targets)
