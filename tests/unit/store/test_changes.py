from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from portspec.scan import PortState
from portspec.state.changes import Change
from portspec.state.snapshot import HostState
from portspec.store import Store, StoreError
from tests.unit.factories import ADDRESS, NOW, result, seen
from tests.unit.store.scenes import DAY, DB, WEB, commit, logged_changes, opened, scan

if TYPE_CHECKING:
    from pathlib import Path


def test_log_has_opened_and_closed_ports(path: Path) -> None:
    """Each port that opens or closes is a row, the newest first, with its previous state."""
    with opened(path) as (store, _):
        web = scan(store, HostState(WEB), 22, at=NOW)
        web = scan(store, web, 22, 80, at=NOW + 1)
        scan(store, web, 80, at=NOW + 2)
        commit(store)
        closed, opened_late, opened_first = store.changes()
        assert closed == (3, Change(NOW + 2, "web1", ADDRESS, "22", PortState.OPEN, PortState.CLOSED, NOW + 2))
        assert opened_late == (2, Change(NOW + 1, "web1", ADDRESS, "80", PortState.CLOSED, PortState.OPEN, NOW + 1))
        assert opened_first == (1, Change(NOW, "web1", ADDRESS, "22", None, PortState.OPEN, NOW))


def test_first_seen_is_the_earliest_in_the_log(path: Path) -> None:
    """A reopened port has the time when it was first seen open on that address of that host."""
    with opened(path) as (store, _):
        state = HostState(WEB)
        for at, ports in enumerate([[22], [], [22], [22, 80]]):
            state = scan(store, state, *ports, at=NOW + at)
            commit(store)
        scan(store, HostState(DB), 22, at=NOW + 9)
    with opened(path) as (store, restored):  # and after a restart
        scan(store, restored["web1"], at=NOW + 10)
        commit(store)
        found = [(item.host, item.ports, item.after.value, item.first_seen - NOW) for _, item in store.changes()]
        assert found[::-1] == [
            ("web1", "22", "open", 0),
            ("web1", "22", "closed", 1),
            ("web1", "22", "open", 0),
            ("web1", "80", "open", 3),
            ("db1", "22", "open", 9),
            ("web1", "22", "closed", 1),
            ("web1", "80", "closed", 10),
        ]


def test_ports_that_change_together_share_a_row_and_first_seen(path: Path) -> None:
    """Thousands of scattered ports are one row; first_seen compares the complete list."""
    odd = range(1, 20_000, 2)
    with opened(path) as (store, _):
        state = HostState(WEB)
        for at, ports in enumerate([odd, [], odd, [], range(1, 19_000, 2)]):
            after = state.after(result(WEB, seen(scanned=range(1, 20_000), is_open=ports), at=NOW + at))
            store.put(state, after)
            state = after
        commit(store)
        opening = [item for _, item in store.changes() if item.after is PortState.OPEN]
        assert [item.first_seen - NOW for item in opening] == [4, 0, 0]
        assert opening[0].ports.startswith("1, 3, 5")


def test_changes_are_filtered_by_host_and_time(path: Path) -> None:
    """`since` is inclusive, `until` is exclusive, and both combine with a host."""
    with opened(path) as (store, _):
        web, db = HostState(WEB), HostState(DB)
        for at, port in enumerate([1, 2, 3]):
            web = scan(store, web, *range(1, port + 1), at=NOW + at)
            db = scan(store, db, *range(11, port + 11), at=NOW + at)
        commit(store)
        assert [ports for _, ports, _ in logged_changes(store)] == ["1", "11", "2", "12", "3", "13"]
        assert logged_changes(store, host="web1") == [("web1", port, "open") for port in "123"]
        assert [ports for _, ports, _ in logged_changes(store, since=NOW + 1)] == ["2", "12", "3", "13"]
        assert [ports for _, ports, _ in logged_changes(store, since=NOW + 1, until=NOW + 2)] == ["2", "12"]
        assert logged_changes(store, host="db1", until=NOW + 1) == [("db1", "11", "open")]
        assert logged_changes(store, host="nobody") == []


def test_pages_continue_at_before_id(path: Path) -> None:
    """With `before_id` each page starts where the previous one ended; the last one is empty."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), *range(1, 8))
        commit(store)
        pages, last = [], None
        while page := store.changes(before_id=last, limit=3):
            pages.append([number for number, _ in page])
            last = page[-1][0]
        assert pages == [[7, 6, 5], [4, 3, 2], [1]]
        assert store.changes(limit=0) == store.changes(limit=-1) == ()
        assert len(store.changes(before_id=10**30, limit=10**30)) == 7


def test_log_is_readable_from_any_thread_during_writes(path: Path) -> None:
    """Readers in other threads see complete scans and no error."""
    seen_by_threads: list[int] = []
    with opened(path) as (store, _):
        stop = threading.Event()

        def read() -> None:
            while True:
                is_last = stop.is_set()
                seen_by_threads.append(len(store.changes(limit=10_000)))
                if is_last:
                    return

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        state = HostState(WEB)
        for at in range(40):
            state = scan(store, state, *([22, 80] if at % 2 == 0 else []), at=NOW + at)
            commit(store)
        stop.set()
        for reader in readers:
            reader.join()
        assert store.status.errors == 0
    assert max(seen_by_threads) == 80
    assert not any(count % 2 for count in seen_by_threads)


def test_missing_file_is_an_error(path: Path) -> None:
    """changes() raises StoreError with the path and the reason if there is no file."""
    store = Store(str(path), history=DAY)
    with pytest.raises(StoreError, match="there is no such file") as caught:
        store.changes()
    assert str(path) in str(caught.value)
    assert not path.exists()
    store.close()
