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
from portspec.store import Restored, Store, StoreStatus
from portspec.store.schema import host_key
from tests.unit.factories import NOW, result, seen, target
from tests.unit.store.scenes import DAY, DB, PATIENCE, WEB, commit, opened, scan, scanned

if TYPE_CHECKING:
    from tests.unit.store.scenes import Logs


def test_states_survive_a_restart_with_their_times(path: Path) -> None:
    """A store returns what the previous one was given last, with the original times."""
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
def test_all_spellings_of_a_host_are_equal(spellings: list[str], dots: tuple[str, str]) -> None:
    """State, notification state, last change and log are found by any spelling, in the file and in memory."""
    before, after = (target(f"{name}.example.org{dot}") for name, dot in zip(spellings, dots, strict=True))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "portspec.db"
        with opened(path, [before]) as (store, _):
            state = scan(store, scan(store, HostState(before), 22, at=NOW - 9), 22, 80, at=NOW - 5)
            store.put(state, state, "told")
            commit(store)
            store.retain([host_key(after.host)])
            assert store.restore([after]).states[after.host].latest == state.latest
        with opened(path, [after]) as (store, restored):
            assert (restored[after.host].last_change, restored[after.host].target) == (NOW - 5, after)
            assert store.notification_state(after.host) == store.notification_state(before.host) == "told"
            assert [change.ports for _, change in store.changes(host=after.host)] == ["80", "22"]
            scan(store, restored[after.host], 22, 80)
            commit(store)
            assert len(store.changes()) == 2
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT host FROM state").fetchall() == [("www.example.org",)]


def test_restored_state_is_judged_by_the_current_configuration(path: Path) -> None:
    """Exceptions and specification are those at the restart; an expired exception no longer counts."""
    exception = PortException(("*",), PortSet.of([80]), until=NOW + DAY)
    excepted = dataclasses.replace(WEB, exceptions=(exception,))
    with opened(path, [excepted]) as (store, _):
        scan(store, HostState(excepted), 22, 80)
    with opened(path, [excepted]) as (_, restored):
        assert restored["web1"].verdict is Verdict.IN_SPEC
    with opened(path, [excepted], wall_clock=lambda: NOW + 2 * DAY) as (_, restored):
        assert restored["web1"].verdict is Verdict.OUT_OF_SPEC


def test_only_configured_hosts_are_restored(path: Path) -> None:
    """The state of a host that left conf.yml is kept until it returns."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        scan(store, HostState(DB), 22)
    with opened(path, [DB]) as (_, restored):
        assert list(restored) == ["db1"]
    with opened(path) as (_, restored):
        assert set(restored) == {"db1", "web1"}


def test_invalid_document_is_skipped_and_logged(path: Path, logs: Logs) -> None:
    """An invalid document affects that host only."""
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


def test_files_have_mode_0600(path: Path) -> None:
    """The file, its -wal and -shm and its lock file contain a map of the network."""
    with opened(path):
        files = list(path.parent.iterdir())
        assert {file.name for file in files} == {
            path.name,
            *(f"{path.name}{suffix}" for suffix in ("-wal", "-shm", ".lock")),
        }
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_closed_store_is_one_file(path: Path) -> None:
    """After close() there is no -wal; the lock file stays and names the last holder."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
    assert set(path.parent.iterdir()) == {path, path.with_name("portspec.db.lock")}


def test_host_with_every_port_open_is_small(path: Path) -> None:
    """A file with 65,535 open ports and their change is no larger than an empty one."""
    with opened(path):
        pass
    empty = path.stat().st_size
    with opened(path) as (store, _):
        store.put(HostState(WEB), HostState(WEB).after(result(WEB, seen(scanned=ALL_PORTS, is_open=ALL_PORTS))))
    assert path.stat().st_size == empty


def test_nothing_is_created_before_open(path: Path) -> None:
    """A store that is constructed and closed leaves no file and no thread."""
    before = threading.enumerate()
    store = Store(str(path), history=DAY)
    assert store.status == StoreStatus(is_up=False, errors=0, pending=0, dropped=0)
    store.close()
    store.close()
    assert list(path.parent.iterdir()) == []
    assert threading.enumerate() == before


def test_thread_runs_from_start_to_close(path: Path) -> None:
    """open() starts no thread, start() a daemon thread, and close() stops it."""
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


def test_close_writes_pending_states_without_a_thread(path: Path) -> None:
    """States put before start() are written by close(); later ones are ignored."""
    store = Store(str(path), history=365 * DAY, wall_clock=lambda: NOW)
    store.open([WEB])
    web = scan(store, HostState(WEB), 22)
    assert not store.flush(PATIENCE)
    store.close()
    scan(store, web, 80)
    assert store.status.pending == 0
    with opened(path) as (_, restored):
        assert restored["web1"].latest == web.latest


def test_put_is_committed_without_flush(path: Path) -> None:
    """It is committed soon."""
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
    """The file may be elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.symlink_to(elsewhere / "data.db")
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
    assert path.is_symlink()
    with opened(elsewhere / "data.db") as (_, restored):
        assert restored["web1"].latest == scanned(HostState(WEB), 22).latest


def test_names_with_special_characters_work(tmp_path: Path) -> None:
    """A path is used literally, whatever it means in a URI."""
    path = tmp_path / "a b?mode=memory#%41&ü.db"
    with opened(path) as (store, _):
        scan(store, HostState(target("ü'\"host")), 22)
        commit(store)
        assert path.exists()
        assert [change.host for _, change in store.changes()] == ["ü'\"host"]


def test_returning_host_has_the_state_put_last(path: Path) -> None:
    """A pending state is newer than the one in the file."""
    with opened(path) as (store, _):
        first = scan(store, HostState(WEB), 22)
        commit(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            second = scan(store, first, 22, 80, at=NOW + 60)
            assert not store.flush(PATIENCE)
            assert store.restore([WEB]) == Restored({"web1": second})
            other.execute("ROLLBACK")


def test_removed_host_is_not_kept_in_memory(path: Path) -> None:
    """Its state is read from the file if it returns."""
    with opened(path) as (store, _):
        state = scan(store, HostState(DB), 22)
        commit(store)
        store.retain(["web1"])
        scan(store, HostState(WEB), 22)
        commit(store)
        assert list(store._writer.known(["web1", "db1"])) == ["web1"]
        assert store.restore([DB]).states["db1"].conclusive == state.conclusive
