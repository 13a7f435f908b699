from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from portspec.state.snapshot import HostState
from portspec.store import retention, schema, states, writer
from tests.faults.registry import fault
from tests.unit.factories import MODEST, NOW, target
from tests.unit.store.scenes import DAY, DB, PATIENCE, WEB, commit, logged_changes, opened, scan

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

YEARS = 3650 * DAY


def fill(path: Path, at: float, *ports: int) -> None:
    """Log that ports of web1 opened at a time, with a correct clock."""
    with opened(path, wall_clock=lambda: at) as (store, restored):
        scan(store, restored.get("web1", HostState(WEB)), *ports, at=at)


def kept(path: Path, now: float, *, hours: int = 0, days: float = 365) -> list[str]:
    """Return the ports in the log after a store ran for some hours with a clock stopped at `now`."""
    with opened(path, history=days * DAY, wall_clock=lambda: now) as (store, _):
        for hour in range(hours + 1):
            if hour:
                store._writer._next_retention = 0.0
            scan(store, HostState(target("clock")), at=now)  # so that there is something to commit
            commit(store)
        return [ports for _, ports, _ in logged_changes(store, limit=10_000)]


def test_expired_changes_are_deleted(path: Path) -> None:
    """They are deleted at the start and every hour; the last states stay, even of rarely scanned hosts."""
    fill(path, NOW, 22)
    fill(path, NOW + 2 * DAY, 22, 80)
    with opened(path, wall_clock=lambda: NOW) as (store, _):
        scan(store, HostState(DB), 443)
    assert kept(path, NOW + 2 * DAY, days=1, hours=2) == ["80"]
    with opened(path) as (_, restored):
        assert sorted(restored) == ["db1", "web1"]


def test_state_without_a_scan_for_two_years_is_deleted(path: Path) -> None:
    """A host that is scanned once a year keeps its state."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection)
        connection.execute(
            "INSERT INTO state (host, saved_at, document) VALUES ('db1', ?, '{}'), ('web1', ?, '{}')",
            (NOW, NOW + 2 * DAY),
        )
        retention.delete_expired(connection, DAY, NOW + 733 * DAY, audit_history=DAY, may_advance=True)
        assert connection.execute("SELECT host FROM state").fetchall() == [("web1",)]


def test_id_of_a_deleted_change_is_not_reused(path: Path) -> None:
    """Ids only increase, so that paging stays correct."""
    fill(path, NOW, 22)
    assert kept(path, NOW + 2 * DAY, hours=3, days=1) == []
    with opened(path, wall_clock=lambda: NOW + 2 * DAY) as (store, restored):
        scan(store, restored.get("web1", HostState(WEB)), 22, 80, at=NOW + 2 * DAY)
        commit(store)
        assert min(number for number, _ in store.changes()) == 2


def test_many_changes_are_deleted_in_small_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletion takes several transactions of a few rows each, and then ends."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), *range(1, 96))
    fill(path, NOW + DAY, 22)
    steps: list[bool] = []
    has_ended = threading.Event()
    forget = retention.delete_expired

    def counted(*arguments: Any, **options: Any) -> bool:
        steps.append(forget(*arguments, **options))
        if not steps[-1]:
            has_ended.set()
        return steps[-1]

    monkeypatch.setattr(retention, "MAX_ROWS", 10)
    monkeypatch.setattr(retention, "delete_expired", counted)
    with opened(path, history=DAY / 2, wall_clock=lambda: NOW + DAY) as (store, _):
        assert has_ended.wait(PATIENCE)
        assert [state for _, _, state in logged_changes(store)] == ["closed"]
    assert steps == [True] * 9 + [False]


def test_clock_a_day_ahead_deletes_at_most_a_day_too_much(path: Path) -> None:
    """With a history of ten days and a clock one day ahead, the last nine days stay."""
    for day in range(11):
        fill(path, NOW + day * DAY, *range(1, day + 2))
    assert kept(path, NOW + 11 * DAY, hours=5, days=10)[-9:] == [str(port) for port in range(3, 12)]


@fault(
    "clock",
    "state file",
    "A clock that is years ahead deletes at most a day of history for each hour that it lasts.",
)
def test_clock_years_ahead_does_not_delete_the_log(path: Path) -> None:
    """With a clock ten years ahead, restarts delete nothing, and at most one day is lost per hour."""
    for day in range(10):
        fill(path, NOW + day * DAY, *range(1, day + 2))
    for _ in range(5):
        assert len(kept(path, NOW + YEARS, days=10)) == 10
    assert len(kept(path, NOW + YEARS, days=10, hours=5)) == 6
    assert len(kept(path, NOW + 9 * DAY, days=10, hours=5)) == 6


@fault("clock", "state file", "A clock in 1970 deletes nothing, and may be set later.")
def test_unset_clock_deletes_nothing(path: Path) -> None:
    """With a clock in 1970 nothing is deleted, and a clock that is set later is followed at once."""
    with opened(path, wall_clock=lambda: 1000.0) as (store, _):
        scan(store, HostState(WEB), 22, at=1000.0)
    assert kept(path, 1000.0, hours=3, days=1 / 1000) == ["22"]
    assert kept(path, NOW, days=1) == []


@MODEST
@given(st.lists(st.tuples(st.floats(0, 4e9), st.booleans()), max_size=40))
def test_reference_time_never_goes_back_or_jumps_more_than_a_day(readings: list[tuple[float, bool]]) -> None:
    """It advances at most one day, and towards a later time only if it may."""
    reference: float | None = None
    for now, may_advance in readings:
        found = retention.advance_reference(reference, now, may_advance=may_advance)
        if reference is not None:
            assert found is not None
            assert reference <= found <= reference + DAY
            assert may_advance or found in (reference, now)
        reference = found


def test_hosts_that_come_and_go_do_not_fill_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more hosts than MAX_STATES, the ones that left longest ago are deleted, once enough have left."""
    monkeypatch.setattr(retention, "MAX_STATES", 5)
    monkeypatch.setattr(writer, "LEFT_HOSTS", 4)
    now = NOW
    with opened(path, targets=(), wall_clock=lambda: now) as (store, _):
        for minute in range(6):
            now = NOW + 60 * minute
            names = [f"host{minute}-{number}" for number in range(2)]
            for name in names:
                scan(store, HostState(target(name)), 22, at=now)
            store.retain(names)
            commit(store)
    with closing(sqlite3.connect(path)) as connection:
        hosts = {host for (host,) in connection.execute("SELECT host FROM state")}
    assert {"host5-0", "host5-1", "host4-0", "host4-1"} <= hosts
    assert len(hosts) <= 5 + 4


def test_host_that_changes_all_the_time_does_not_fill_the_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log keeps the newest changes of a host; those of other hosts are not touched."""
    monkeypatch.setattr(states, "MAX_CHANGES_OF_HOST", 3)
    with opened(path) as (store, _):
        scan(store, HostState(DB), 443)
        state = HostState(WEB)
        for minute in range(10):
            state = scan(store, state, *([22] if minute % 2 else []), at=NOW + 60 * minute)
            commit(store)
        found = logged_changes(store)
    assert [ports for host, ports, _ in found if host == "db1"] == ["443"]
    assert [change for _, *change in found if _ == "web1"] == [["22", "open"], ["22", "closed"], ["22", "open"]]
