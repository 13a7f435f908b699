from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portspec.scan import PortState
from portspec.state.changes import Change
from portspec.state.snapshot import HostState
from portspec.store.pending import PendingWrite, PendingWrites
from tests.unit.factories import MODEST, target
from tests.unit.store.scenes import DB, WEB, scanned

FIRST, SECOND = scanned(HostState(WEB), 22), scanned(HostState(WEB), 80)
OTHER = scanned(HostState(DB), 22)


def changed(state: HostState, *numbers: int) -> PendingWrite:
    """Return an entry with numbered changes."""
    return PendingWrite(
        state, [Change(number, state.host, "192.0.2.1", "22", None, PortState.OPEN, number) for number in numbers]
    )


def everything(pending: PendingWrites) -> list[PendingWrite]:
    """Return everything that is pending."""
    return pending.batch(10**9, 10**9)


def test_state_without_changes_replaces_the_last_one() -> None:
    """An unchanged host has one entry, with its newest state and the earlier changes."""
    pending = PendingWrites(10)
    for entry in (changed(FIRST, 1), PendingWrite(OTHER), PendingWrite(SECOND)):
        pending.add(entry)
    assert everything(pending) == [changed(SECOND, 1), PendingWrite(OTHER)]
    assert (len(pending), pending.changes) == (2, 1)


def test_changes_are_pending_in_order() -> None:
    """Each scan with changes is a separate entry with its own state."""
    pending = PendingWrites(10)
    entries = [changed(FIRST, 1), changed(OTHER, 2), changed(SECOND, 3)]
    for entry in entries:
        pending.add(entry)
    assert everything(pending) == entries


def test_oldest_changes_beyond_the_limit_are_dropped_and_counted() -> None:
    """The last state of a host stays without its changes."""
    pending = PendingWrites(3)
    for entry in (changed(FIRST, 1, 2), changed(OTHER, 3), changed(SECOND, 4, 5)):
        pending.add(entry)
    assert everything(pending) == [changed(OTHER, 3), changed(SECOND, 4, 5)]
    assert (pending.dropped, pending.changes) == (2, 3)
    pending.add(changed(FIRST, 6))
    assert everything(pending) == [PendingWrite(OTHER), changed(SECOND, 4, 5), changed(FIRST, 6)]
    assert (pending.dropped, pending.changes) == (3, 3)


def test_batch_is_limited_by_entries_and_changes() -> None:
    """A batch has at most so many entries, and none after those with so many changes."""
    pending = PendingWrites(100)
    entries = [changed(scanned(HostState(target(f"h{n}")), 22), n, n) for n in range(6)]
    for entry in entries:
        pending.add(entry)
    assert pending.batch(2, 100) == entries[:2]
    assert pending.batch(100, 3) == entries[:2]
    assert pending.batch(100, 1) == entries[:1]


@MODEST
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=60), st.integers(0, 8))
def test_every_host_keeps_its_last_state(puts: list[tuple[int, int, bool]], bound: int) -> None:
    """The last state of every host is written or pending, and every change is written, pending or counted."""
    pending = PendingWrites(bound)
    known: dict[str, HostState] = {}
    written: dict[str, HostState] = {}
    told = kept = 0
    for at, (host, changes, writes) in enumerate(puts):
        state = scanned(HostState(target(f"h{host}")), 22, at=at)
        pending.add(changed(state, *range(told, told + changes)))
        known[state.host], told = state, told + changes
        assert pending.changes <= bound
        assert len(pending) <= len(known) + pending.changes
        if writes:
            batch = pending.batch(2, 3)
            pending.remove(len(batch))
            written |= {entry.state.host: entry.state for entry in batch}
            kept += sum(len(entry.changes) for entry in batch)
    waiting = everything(pending)
    assert written | {entry.state.host: entry.state for entry in waiting} == known
    assert kept + pending.changes + pending.dropped == told
    assert {entry.state.host for entry in waiting} == {host for host in known if host in pending}
