from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from portspec.scan import Reason
from portspec.state.changes import NOT_SCANNED, DatedVerdict
from portspec.state.snapshot import HostState
from portspec.state.verdict import Verdict
from portspec.store import Store, StoreError, states
from portspec.store.pending import PendingWrite, PendingWrites
from tests.unit.factories import NOW, result, seen, target
from tests.unit.store.scenes import DAY, DB, WEB, commit, opened, scan

if TYPE_CHECKING:
    from pathlib import Path


def test_each_verdict_is_stored_when_it_differs_from_the_one_before(path: Path) -> None:
    """Scans that find the same verdict add no row; the newest comes first, with the reason of an unknown one."""
    with opened(path) as (store, _):
        web = HostState(WEB)
        for at, ports in enumerate([[22], [22], [22, 80], [22, 80, 81]]):
            web = scan(store, web, *ports, at=NOW + at)
            commit(store)
        store.put(web, web.after(result(WEB, seen(reason=Reason.NO_ROUTE), at=NOW + 4)))
        scan(store, HostState(DB), at=NOW)
        commit(store)
        assert store.verdicts("web1") == (
            DatedVerdict(NOW + 4, "web1", Verdict.UNKNOWN, "no_route"),
            DatedVerdict(NOW + 2, "web1", Verdict.OUT_OF_SPEC),
            DatedVerdict(NOW, "web1", Verdict.IN_SPEC),
        )
        assert store.verdicts("web1", limit=1) == store.verdicts("web1")[:1]
        assert [item.at for item in store.verdicts("WEB1")] == [NOW + 4, NOW + 2, NOW]
        assert [item.verdict for item in store.verdicts("db1")] == [Verdict.OUT_OF_SPEC]
        assert store.verdicts("nobody") == ()


def test_verdict_that_held_before_a_restart_keeps_its_time(path: Path) -> None:
    """A scan after the restart that finds the same verdict adds no row."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
    with opened(path) as (store, restored):
        scan(store, restored["web1"], 22, at=NOW + 60)
        commit(store)
        assert store.verdicts("web1") == (DatedVerdict(NOW, "web1", Verdict.IN_SPEC),)


def test_old_verdicts_are_deleted_but_for_the_last_one_of_each_host(path: Path) -> None:
    """A host that is in spec for longer than the log is kept has been so since then."""
    with opened(path, history=10 * DAY) as (store, _):
        web = scan(store, HostState(WEB), 22, at=NOW - 30 * DAY)
        scan(store, HostState(DB), 22, at=NOW - 30 * DAY)
        commit(store)
        scan(store, web, at=NOW)
        commit(store)
    with opened(path, history=10 * DAY) as (store, _):
        scan(store, HostState(target("clock")), at=NOW)  # so that there is something to commit
        commit(store)
        assert [item.at for item in store.verdicts("web1")] == [NOW]
        assert [item.at for item in store.verdicts("db1")] == [NOW - 30 * DAY]


def test_host_whose_verdict_changes_all_the_time_does_not_fill_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest verdicts of a host are deleted beyond a limit."""
    monkeypatch.setattr(states, "MAX_VERDICTS_OF_HOST", 3)
    with opened(path) as (store, _):
        web = HostState(WEB)
        for at in range(8):
            web = scan(store, web, *[22][: at % 2], at=NOW + at)
            commit(store)
        assert [item.at - NOW for item in store.verdicts("web1")] == [7, 6, 5]


def test_verdicts_of_no_file_are_an_error(path: Path) -> None:
    """What cannot be read is not "no verdict"."""
    with pytest.raises(StoreError):
        Store(str(path), history=DAY).verdicts("web1")


def test_time_in_which_nobody_scanned_is_unknown(path: Path) -> None:
    """After a stop of the exporter for a day, the verdict counts until it is too old, and anew from the next scan."""
    with opened(path) as (store, _):
        web = scan(store, HostState(WEB), 22)
    with opened(path) as (store, restored):
        scan(store, restored["web1"], 22, at=NOW + DAY)
        commit(store)
        assert store.verdicts("web1") == (
            DatedVerdict(NOW + DAY, "web1", Verdict.IN_SPEC),
            DatedVerdict(web.overdue_at or 0.0, "web1", Verdict.UNKNOWN, NOT_SCANNED),
            DatedVerdict(NOW, "web1", Verdict.IN_SPEC),
        )


def test_verdicts_while_the_file_cannot_be_written_are_kept() -> None:
    """A state without changes replaces the pending one of its host, but not its verdicts."""
    pending = PendingWrites(max_changes=10)
    for at, verdict in enumerate([Verdict.IN_SPEC, Verdict.IN_SPEC, Verdict.UNKNOWN, Verdict.UNKNOWN, Verdict.IN_SPEC]):
        pending.add(PendingWrite(HostState(WEB), verdicts=(DatedVerdict(NOW + at, "web1", verdict),)))
    (entry,) = pending.batch(10, 10)
    assert [(item.at - NOW, item.verdict) for item in entry.verdicts] == [
        (0, Verdict.IN_SPEC),
        (2, Verdict.UNKNOWN),
        (4, Verdict.IN_SPEC),
    ]
