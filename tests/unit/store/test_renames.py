"""A host that was renamed goes on with what the state file has under its former name."""

from __future__ import annotations

import dataclasses
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from portspec.state.changes import DatedVerdict
from portspec.state.snapshot import HostState
from portspec.state.verdict import Verdict
from portspec.store import Restored, Store
from tests.unit.factories import MODEST, NOW, target
from tests.unit.store.scenes import DAY, DB, PATIENCE, Logs, commit, logged_changes, opened, scan, scanned

OLD: Final = target("old1", expect=[22])
OLDER: Final = target("older1", expect=[22])
NEW: Final = target("new1", expect=[22], renamed_from=["old1", "older1"])


def known_as(path: Path, *names: str) -> dict[str, HostState]:
    """Make a file with a state under each name: ports 22 and then 80 opened, the later the later in this order."""
    states: dict[str, HostState] = {}
    targets = [target(name, expect=[22]) for name in names]
    with opened(path, targets) as (store, _):
        for place, of in enumerate(targets):
            at = NOW - 900 + 100 * place
            after = scan(store, scan(store, HostState(of), 22, at=at), 22, 80, at=at + 50)
            store.put(after, after, f"told of {of.host}")
            states[of.host] = after
    return states


def test_state_under_the_former_name_is_restored(path: Path) -> None:
    """Scans, first and last times and what recipients know are those of the former name; the target is the present."""
    known = known_as(path, "old1")["old1"]
    with opened(path, [NEW]) as (store, restored):
        assert restored == {"new1": dataclasses.replace(known, target=NEW, judged_at=NOW)}
        found = restored["new1"]
        assert (found.last_change, found.opened, found.unexpected) == (
            known.last_change,
            known.opened,
            known.unexpected,
        )
        assert store.notification_state("new1") == "told of old1"


def test_state_under_the_former_name_is_judged_by_the_present_target(path: Path) -> None:
    """What deviated from the specification of the former name may be allowed now."""
    known_as(path, "old1")
    allowing = target("new1", expect=[22], allow=[80], renamed_from=["old1"])
    with opened(path, [allowing]) as (_, restored):
        assert restored["new1"].verdict is Verdict.IN_SPEC


@MODEST
@given(names=st.permutations(["new1", "old1", "older1"]), number=st.integers(0, 3))
def test_state_is_that_of_the_first_name_that_has_one(names: list[str], number: int) -> None:
    """The present name comes first, then the former ones in their order, whichever was written last."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "portspec.db"
        having = names[:number]
        known = known_as(path, *having)
        first = next((name for name in ("new1", "old1", "older1") if name in having), None)
        expected = {"new1": dataclasses.replace(known[first], target=NEW, judged_at=NOW)} if first else {}
        told = first and f"told of {first}"
        with opened(path, [NEW]) as (store, restored):
            assert (restored, store.notification_state("new1")) == (expected, told)
        with opened(path, [DB]) as (store, _):
            assert store.restore([NEW]) == Restored(expected, {} if first in (None, "new1") else {"new1": first})
            assert store.notification_state("new1") == told


def test_state_under_both_names_is_the_one_that_was_written_after_the_rename(path: Path) -> None:
    """After the first scan under the new name, the state of the former one stays in the file and counts no more."""
    known_as(path, "old1")
    with opened(path, [NEW]) as (store, restored):
        scan(store, restored["new1"], 22, at=NOW - 10)
    with opened(path, [NEW, OLD]) as (_, restored):
        assert {host: state.latest and state.latest.finished_at for host, state in restored.items()} == {
            "new1": NOW - 10,
            "old1": NOW - 850,
        }
        assert restored["new1"].last_change == NOW - 10


def test_invalid_state_of_the_present_name_is_not_replaced_by_an_older_one(path: Path, logs: Logs) -> None:
    """The host is unknown until its next scan, as the log says."""
    known_as(path, "old1", "new1")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE state SET document = '{}' WHERE host = 'new1'")
    with opened(path, [NEW]) as (_, restored):
        assert restored == {}
    assert [event["first"] for event in logs.events] == ["new1"]


def test_state_that_is_not_written_yet_is_taken_over(path: Path) -> None:
    """Neither a state that was put a moment ago is missed, nor one that the file does not take."""
    with opened(path, [OLD]) as (store, _):
        first = scan(store, HostState(OLD), 22)
        store.put(first, first, "told")
        found = store.restore([NEW])
        assert found == Restored({"new1": first.under(NEW, NOW)}, {"new1": "old1"})
        assert store.notification_state("new1") == "told"
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            second = scan(store, first, 22, 80, at=NOW + 60)
            assert store.restore([NEW]).states == {"new1": second.under(NEW, NOW)}
            assert store.notification_state("new1") is None
            other.execute("ROLLBACK")


def test_host_that_left_memory_is_found_under_its_former_name(path: Path) -> None:
    """What recipients know of it is read from the file, too."""
    with opened(path, [OLD]) as (store, _):
        state = scan(store, HostState(OLD), 22)
        store.put(state, state, "told")
        commit(store)
        store.retain([])
        scan(store, HostState(DB), 22)
        commit(store)
        assert store.notification_state("old1") is None
        assert store.restore([NEW]).states["new1"].conclusive == state.conclusive
        assert store.notification_state("new1") == "told"


def test_log_is_read_under_all_names_of_a_host(path: Path) -> None:
    """The rows of a former name keep it, pages go on across the rename, and no other host is touched."""
    known_as(path, "older1", "old1")
    with opened(path, [NEW, DB]) as (store, restored):
        scan(store, HostState(DB), 22)
        scan(store, restored["new1"], 22, 443, at=NOW)
        commit(store)
        assert logged_changes(store, host="NEW1") == [("new1", "80", "closed"), ("new1", "443", "open")]
        store.former_names = {"new1": ("old1", "older1")}
        rows = logged_changes(store, host="NEW1")
        assert rows == [
            *(("older1", "22", "open"), ("older1", "80", "open"), ("old1", "22", "open"), ("old1", "80", "open")),
            *(("new1", "80", "closed"), ("new1", "443", "open")),
        ]
        assert logged_changes(store, host="old1") == rows[2:4]
        paged, last = [], None
        while page := store.changes(host="new1", before_id=last, limit=2):
            paged += [(item.host, item.ports, item.after.value) for _, item in page]
            last = page[-1][0]
        assert paged[::-1] == rows


def test_change_was_first_seen_under_the_former_name(path: Path) -> None:
    """A port that opens again was first seen when it opened for the first time."""
    known_as(path, "old1")
    with opened(path, [NEW]) as (store, restored):
        scan(store, scan(store, restored["new1"], 22, at=NOW), 22, 80, at=NOW + 9)
        commit(store)
        ((_, again),) = store.changes(host="new1", limit=1)
        assert (again.ports, again.at, again.first_seen) == ("80", NOW + 9, NOW - 850)


def test_verdicts_go_on_across_a_rename(path: Path) -> None:
    """The first verdict under the new name is no row of its own if it is the last one of the former name."""
    with opened(path, [OLD]) as (store, _):
        scan(store, scan(store, HostState(OLD), at=NOW - 90), 22, at=NOW - 60)
    with opened(path, [NEW]) as (store, restored):
        scan(store, scan(store, restored["new1"], 22, at=NOW - 30), at=NOW)
        commit(store)
        assert [item.at for item in store.verdicts("new1")] == [NOW, NOW - 30]
        store.former_names = {"new1": ("old1",)}
        expected = (
            DatedVerdict(NOW, "new1", Verdict.OUT_OF_SPEC),
            DatedVerdict(NOW - 60, "new1", Verdict.IN_SPEC),
            DatedVerdict(NOW - 90, "new1", Verdict.OUT_OF_SPEC),
        )
        assert store.verdicts("New1") == expected
        assert store.verdicts("new1", limit=2) == expected[:2]
        assert [item.at for item in store.verdicts("old1")] == [NOW - 60, NOW - 90]


def test_renamed_host_changes_nothing_when_the_file_is_taken_over(path: Path) -> None:
    """The file of another exporter may have the former name only: no port has opened since, nobody is told again."""
    with opened(path, [OLD]) as (first, _):
        state = scan(first, HostState(OLD), 22, at=NOW - 60)
        first.put(state, state, "told")
        commit(first)
        second = Store(str(path), history=365 * DAY, wall_clock=lambda: NOW, retry=3600.0)
        known = second.open([NEW])["new1"]
        second.start()
        second.put(known, scanned(known, 22, at=NOW), "of its own")
        assert not second.flush(PATIENCE)
    try:
        assert second.flush(PATIENCE)
        assert logged_changes(second) == [("old1", "22", "open")]
        assert second.notification_state("new1") == "told"
    finally:
        second.close(PATIENCE)
    with opened(path, [NEW]) as (_, restored):
        assert restored["new1"].latest == scanned(known, 22, at=NOW).latest
