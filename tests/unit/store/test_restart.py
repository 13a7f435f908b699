from __future__ import annotations

import dataclasses
import sqlite3
import stat
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.config import PortException
from portspec.ports import ALL_PORTS, PortSet
from portspec.scan import Reason
from portspec.state.snapshot import HostState
from portspec.state.verdict import Verdict
from portspec.store import Store, StoreStatus
from tests.unit.factories import NOW, result, seen, target
from tests.unit.store.scenes import DAY, DB, PATIENCE, WEB, commit, opened, scan, scanned

if TYPE_CHECKING:
    from tests.unit.store.scenes import Logs


def test_states_are_there_after_a_restart_with_their_times(path: Path) -> None:
    """A store gives what the one before it was last told of each host, with the true times."""
    with opened(path) as (store, restored):
        assert restored == {}
        web = scan(store, HostState(WEB), 22, at=NOW - 120)
        web = scan(store, web, 22, 80, at=NOW - 60)
        db = HostState(DB).after(result(DB, seen("192.0.2.2", reason=Reason.NO_ROUTE), at=NOW - 90))
        store.put(HostState(DB), db)
    with opened(path) as (_, restored):
        assert restored == {host.host: dataclasses.replace(host, judged_at=NOW) for host in (web, db)}
        assert restored["web1"].last_change == NOW - 60
        assert restored["db1"].verdict is Verdict.UNKNOWN


@given(
    spellings=st.lists(st.text("Ww", min_size=3, max_size=3), min_size=2, max_size=2),
    dots=st.tuples(*2 * [st.sampled_from(["", "."])]),
)
@settings(max_examples=15, deadline=None)
def test_host_is_the_same_however_it_is_spelled(spellings: list[str], dots: tuple[str, str]) -> None:
    """State, story, last change and change log are found by any spelling of the name, in the file and in memory."""
    before, after = (target(f"{name}.example.org{dot}") for name, dot in zip(spellings, dots, strict=True))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "portspec.db"
        with opened(path, [before]) as (store, _):
            state = scan(store, scan(store, HostState(before), 22, at=NOW - 9), 22, 80, at=NOW - 5)
            store.put(state, state, "told")
            commit(store)
            store.retain([after.host])
            assert store.restore([after])[after.host].latest == state.latest
        with opened(path, [after]) as (store, restored):
            assert (restored[after.host].last_change, restored[after.host].target) == (NOW - 5, after)
            assert store.notification_state(after.host) == store.notification_state(before.host) == "told"
            assert [change.ports for _, change in store.changes(host=after.host)] == ["80", "22"]
            scan(store, restored[after.host], 22, 80)
            commit(store)
            assert len(store.changes()) == 2
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT host FROM state").fetchall() == [("www.example.org",)]


def test_state_is_judged_by_the_configuration_of_the_day(path: Path) -> None:
    """Exceptions and specification are those at the restart: one that lapsed meanwhile counts no longer."""
    exception = PortException(("*",), PortSet.of([80]), until=NOW + DAY)
    excepted = dataclasses.replace(WEB, exceptions=(exception,))
    with opened(path, [excepted]) as (store, _):
        scan(store, HostState(excepted), 22, 80)
    with opened(path, [excepted]) as (_, restored):
        assert restored["web1"].verdict is Verdict.IN_SPEC
    with opened(path, [excepted], wall_clock=lambda: NOW + 2 * DAY) as (_, restored):
        assert restored["web1"].verdict is Verdict.OUT_OF_SPEC


def test_only_the_hosts_of_the_configuration_are_given(path: Path) -> None:
    """A host that has left conf.yml is not given; its state waits for its return."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        scan(store, HostState(DB), 22)
    with opened(path, [DB]) as (_, restored):
        assert list(restored) == ["db1"]
    with opened(path) as (_, restored):
        assert set(restored) == {"db1", "web1"}


def test_document_that_cannot_be_read_is_left_out_and_told(path: Path, logs: Logs) -> None:
    """One host's garbled document costs that host its state, and a line in the log."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        scan(store, HostState(DB), 22)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE state SET document = CAST(x'7bff22' AS TEXT) WHERE host = 'web1'")
    with opened(path) as (store, restored):
        assert list(restored) == ["db1"]
        assert store.status == StoreStatus(is_up=True, errors=1, pending=0, dropped=0)
    (event,) = logs.events
    assert (event["level"], event["hosts"], event["first"]) == ("error", 1, "web1")


def test_file_is_for_its_owner_alone(path: Path) -> None:
    """The file, what SQLite makes beside it and its lock hold a map of the network: mode 0600."""
    with opened(path):
        files = list(path.parent.iterdir())
        assert {file.name for file in files} == {
            path.name,
            *(f"{path.name}{suffix}" for suffix in ("-wal", "-shm", ".lock")),
        }
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_closed_store_is_one_file(path: Path) -> None:
    """After close() everything is in the file itself; its lock stays, and says who held it last."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
    assert set(path.parent.iterdir()) == {path, path.with_name("portspec.db.lock")}


def test_host_with_every_port_open_is_small(path: Path) -> None:
    """The file of a host with 65,535 open ports, and of their change, is no larger than an empty one."""
    with opened(path):
        pass
    empty = path.stat().st_size
    with opened(path) as (store, _):
        store.put(HostState(WEB), HostState(WEB).after(result(WEB, seen(scanned=ALL_PORTS, is_open=ALL_PORTS))))
    assert path.stat().st_size == empty


def test_nothing_is_touched_before_open(path: Path) -> None:
    """A store that is made, and closed again, leaves no file and no thread."""
    before = threading.enumerate()
    store = Store(str(path), history=DAY)
    assert store.status == StoreStatus(is_up=False, errors=0, pending=0, dropped=0)
    store.close()
    store.close()
    assert list(path.parent.iterdir()) == []
    assert threading.enumerate() == before


def test_thread_lives_from_start_to_close(path: Path) -> None:
    """open() starts no thread, start() a daemon, and close() ends it."""
    before = set(threading.enumerate())
    store = Store(str(path), history=DAY)
    store.open([WEB])
    assert set(threading.enumerate()) == before
    store.start()
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    store.close()
    assert not thread.is_alive()
    assert not store.status.is_up


def test_close_writes_what_waits_also_without_a_thread(path: Path) -> None:
    """What was put before start() is written by close(); what is put after it is ignored."""
    store = Store(str(path), history=365 * DAY, wall_clock=lambda: NOW)
    store.open([WEB])
    web = scan(store, HostState(WEB), 22)
    assert not store.flush(PATIENCE)
    store.close()
    scan(store, web, 80)
    assert store.status.pending == 0
    with opened(path) as (_, restored):
        assert restored["web1"].latest == web.latest


def test_put_needs_no_flush(path: Path) -> None:
    """What was put is committed by itself, soon."""
    committed = threading.Event()

    def wall_clock() -> float:  # asked for when a batch is written and when there is something to forget
        committed.set()
        return NOW

    with opened(path, wall_clock=wall_clock) as (store, _):
        commit(store)
        committed.clear()
        scan(store, HostState(WEB), 22)
        assert committed.wait(PATIENCE)
        commit(store)
        assert store.status == StoreStatus(is_up=True, errors=0, pending=0, dropped=0)


def test_symbolic_link_to_the_file_is_followed(tmp_path: Path, path: Path) -> None:
    """The file may lie elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.symlink_to(elsewhere / "data.db")
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
    assert path.is_symlink()
    with opened(elsewhere / "data.db") as (_, restored):
        assert restored["web1"].latest == scanned(HostState(WEB), 22).latest


def test_names_with_odd_characters_are_no_trouble(tmp_path: Path) -> None:
    """A path is taken as it is, whatever it means in a URI."""
    path = tmp_path / "a b?mode=memory#%41&ü.db"
    with opened(path) as (store, _):
        scan(store, HostState(target("ü'\"host")), 22)
        commit(store)
        assert path.exists()
        assert [change.host for _, change in store.changes()] == ["ü'\"host"]


def test_host_that_comes_back_has_what_was_put_last(path: Path) -> None:
    """What waits to be written is newer than what the file has: by that a host that left and returns is known."""
    with opened(path) as (store, _):
        first = scan(store, HostState(WEB), 22)
        commit(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            second = scan(store, first, 22, 80, at=NOW + 60)
            assert not store.flush(PATIENCE)
            assert store.restore([WEB]) == {"web1": second}
            other.execute("ROLLBACK")


def test_host_that_left_is_not_kept_in_memory(path: Path) -> None:
    """The file is where it is known from, if it comes back."""
    with opened(path) as (store, _):
        state = scan(store, HostState(DB), 22)
        commit(store)
        store.retain(["web1"])
        scan(store, HostState(WEB), 22)
        commit(store)
        assert list(store._writer.known(["web1", "db1"])) == ["web1"]
        assert store.restore([DB])["db1"].conclusive == state.conclusive
