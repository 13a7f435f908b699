from __future__ import annotations

import contextlib
import sqlite3
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.state.snapshot import HostState
from portspec.store import Store, StoreError, outbox, schema, states
from portspec.store.faults import StoreFaultKind
from portspec.store.outbox import OutboxStatus, QueuedMail, QueuedNotification
from portspec.store.pending import PendingWrite, PendingWrites
from portspec.store.schema import MIGRATIONS, transaction
from portspec.store.states import StateCodec
from tests.unit.factories import MODEST, NOW, target
from tests.unit.scan.loopback import eventually
from tests.unit.store.scenes import DAY, DB, PATIENCE, WEB, commit, logged_changes, opened, scan, scanned
from tests.unit.store.test_pending import changed, everything

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.store.scenes import Logs


@pytest.fixture
def file(path: Path) -> Iterator[sqlite3.Connection]:
    """Return a connection to an empty file of the current version."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection)
        yield connection


def note(connection: sqlite3.Connection, *hosts: str) -> list[QueuedNotification]:
    """Insert a notification for each host, and return all."""
    connection.executemany(
        "INSERT INTO notification (at, host, document) VALUES (?, ?, 'x')", ((NOW, host) for host in hosts)
    )
    return outbox.read_notifications(connection)


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Query the file as another program does."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def tell(store: Store, before: HostState, after: HostState, story: str | None, notice: str | None = None) -> HostState:
    """Put a state with its notification documents, and return it."""
    store.put(before, after, story, notice)
    return after


def notifications(store: Store) -> list[tuple[str, str]]:
    """Return host and document of every notification."""
    return [(row.host, row.document) for row in store.transact(outbox.read_notifications)]


def test_mails_replace_their_notifications(file: sqlite3.Connection) -> None:
    """Mails are due at once and in order; only the notifications that they contain are removed."""
    first, second, third = note(file, "web1", "db1", "web2")
    assert (first.host, first.at, first.document) == ("web1", NOW, "x")
    outbox.enqueue(file, [first, second], [("a@b", b"one"), ("c@d", b"two")], NOW + 5)
    assert outbox.read_notifications(file) == [third]
    assert outbox.read_due(file, NOW + 5, 10) == [
        QueuedMail(1, NOW + 5, "a@b", b"one"),
        QueuedMail(2, NOW + 5, "c@d", b"two"),
    ]
    assert outbox.read_status(file) == OutboxStatus(1, 2, NOW + 5)


def test_oldest_due_mails_come_first(file: sqlite3.Connection) -> None:
    """The number of returned mails is limited, and postponed ones are not among them."""
    outbox.enqueue(file, [], [(f"{name}@b", b"x") for name in "abcd"], NOW)
    first, second, *_ = outbox.read_due(file, NOW, 10)
    outbox.postpone(file, QueuedMail(first.number, first.at, first.recipient, first.message, 3, 2), NOW + 60)
    assert [letter.recipient for letter in outbox.read_due(file, NOW + 59, 2)] == ["b@b", "c@b"]
    assert outbox.read_due(file, NOW - 1, 10) == []
    assert outbox.read_due(file, NOW + 60, 1) == [QueuedMail(1, NOW, "a@b", b"x", attempts=3, refusals=2)]
    assert outbox.read_status(file) == OutboxStatus(0, 4, NOW)
    outbox.remove(file, second)
    assert [letter.recipient for letter in outbox.read_due(file, NOW, 10)] == ["c@b", "d@b"]


def test_number_of_a_mail_is_never_reused(file: sqlite3.Connection) -> None:
    """A remembered number never refers to another mail."""
    for expected in (1, 2, 3):
        outbox.enqueue(file, [], [("a@b", b"x")], NOW)
        (letter,) = outbox.read_due(file, NOW, 10)
        assert letter.number == expected
        outbox.remove(file, letter)


ANY = st.one_of(st.text(st.characters(codec="utf-8")), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))


@given(spoilt=st.lists(st.tuples(*[ANY | st.binary()] * 3), min_size=1, max_size=4), as_text=st.booleans())
def test_rows_of_any_type_are_read_and_removed(spoilt: list[tuple[Any, Any, Any]], *, as_text: bool) -> None:
    """Values of any type from another program do not prevent rows from being read, counted, postponed and removed."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
        schema.migrate(file)
        form = "CAST(? AS TEXT)" if as_text else "?"  # of bytes a text that may be no UTF-8
        file.executemany(f"INSERT INTO notification (at, host, document) VALUES ({form}, {form}, {form})", spoilt)  # noqa: S608
        columns = "at, recipient, message, attempts, refusals, due"
        into_mail = f"INSERT INTO mail ({columns}) VALUES ({form}, {form}, {form}, ?, ?, ?)"  # noqa: S608
        file.executemany(into_mail, [(*row, row[2], row[1], row[0]) for row in spoilt])
        note(file, "web1")
        outbox.enqueue(file, [], [("a@b", b"x")], NOW)
        assert outbox.read_status(file).mails == len(spoilt) + 1
        found = outbox.read_notifications(file)
        assert [row.host for row in found][len(spoilt) :] == ["web1"]
        outbox.enqueue(file, found, [], NOW)
        file.execute("UPDATE mail SET due = 'x' WHERE id = 1")
        letters = outbox.read_due(file, 2e308, 10)
        assert letters[-1] == QueuedMail(len(spoilt) + 1, NOW, "a@b", b"x")
        for letter in letters:
            outbox.postpone(file, replace(letter, attempts=letter.attempts + 1, refusals=letter.refusals + 1), NOW)
            outbox.remove(file, letter)
        assert outbox.read_status(file) == OutboxStatus(0, 0, None)


def test_clear_removes_everything(file: sqlite3.Connection) -> None:
    """Notifications and mails are removed, and the mails are counted."""
    outbox.enqueue(file, note(file, "web1"), [("a@b", b"x"), ("c@d", b"y")], NOW)
    note(file, "db1")
    assert outbox.clear(file) == 2
    assert outbox.read_status(file) == OutboxStatus(0, 0, None)
    assert outbox.clear(file) == 0


def test_notification_state_survives_a_restart(path: Path) -> None:
    """It is stored with the host's state, and restored if the host is in conf.yml."""
    with opened(path) as (store, _):
        tell(store, HostState(WEB), scanned(HostState(WEB), 22), "told")
        scan(store, HostState(DB), 22)
        assert (store.notification_state("web1"), store.notification_state("db1")) == ("told", None)
    with opened(path) as (store, _):
        assert (
            store.notification_state("web1"),
            store.notification_state("db1"),
            store.notification_state("nobody"),
        ) == ("told", None, None)
    with opened(path, [DB]) as (store, _):
        assert store.notification_state("web1") is None
        store.restore([WEB])
        assert store.notification_state("web1") == "told"


def test_notification_state_belongs_to_the_last_state(path: Path) -> None:
    """It is replaced with each state, and removed by a state without one."""
    with opened(path) as (store, _):
        web = tell(store, HostState(WEB), scanned(HostState(WEB), 22), "first")
        web = tell(store, web, scanned(web, 22, 80, at=NOW + 1), "second")
        commit(store)
        assert rows(path, "SELECT notification_state FROM state") == [("second",)]
        web = scan(store, web, 22, 80, at=NOW + 2)
        assert store.notification_state("web1") is None
        commit(store)
        assert rows(path, "SELECT notification_state FROM state") == [(None,)]


@pytest.mark.usefixtures("no_lock_timeout")
def test_restoring_does_not_override_a_put_notification_state(path: Path) -> None:
    """What was put last counts, even if the file still has an earlier one."""
    with opened(path) as (store, _):
        tell(store, HostState(WEB), scanned(HostState(WEB), 22), "old")
    other = sqlite3.connect(path, isolation_level=None)
    with opened(path) as (store, restored), contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        tell(store, restored["web1"], scanned(restored["web1"], 22, at=NOW + 1), "new")
        assert not store.flush(PATIENCE)
        store.restore([WEB])
        assert store.notification_state("web1") == "new"


def test_notification_state_of_a_removed_host_is_in_the_file(path: Path) -> None:
    """It is used when the host returns, and takes no memory meanwhile."""
    with opened(path) as (store, _):
        tell(store, HostState(DB), scanned(HostState(DB), 22), "told")
        commit(store)
        store.retain(["web1"])
        scan(store, HostState(WEB), 22)
        commit(store)
        assert store.notification_state("db1") is None
        store.restore([DB])
        assert store.notification_state("db1") == "told"


def test_notification_state_of_an_invalid_state_is_kept(path: Path) -> None:
    """An invalid document loses the host's state, but not its notification state."""
    with opened(path) as (store, _):
        tell(store, HostState(WEB), scanned(HostState(WEB), 22), "told")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE state SET document = 'garbage'")
    with opened(path) as (store, restored):
        assert restored == {}
        assert store.notification_state("web1") == "told"


def test_notification_states_are_dropped_with_a_lost_file(path: Path) -> None:
    """The queued mails are lost with the file, so that the notifications must be sent again."""
    with opened(path) as (store, _):
        tell(store, HostState(WEB), scanned(HostState(WEB), 22), "told")
        commit(store)
        path.unlink()
        scan(store, HostState(DB), 22)
        commit(store)
        assert store.notification_state("web1") is None
    with opened(path) as (store, _):
        assert store.notification_state("web1") is None


def test_notification_states_stay_with_the_file(path: Path) -> None:
    """Those restored from the file are written again with the states."""
    with opened(path) as (store, _):
        tell(store, HostState(WEB), scanned(HostState(WEB), 22), "told")
    with opened(path) as (store, _):
        scan(store, HostState(DB), 22)
        commit(store)
    with opened(path) as (store, _):
        assert store.notification_state("web1") == "told"


def test_notification_state_is_not_written_before_its_notification(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is put while the file is created anew gets both in one transaction."""
    with opened(path) as (store, _):
        web = tell(store, HostState(WEB), scanned(HostState(WEB), 22), "old")
        commit(store)
        writer = store._writer
        open_it = writer._file.open
        write: Any = states.write_states
        written: list[tuple[set[str | None], list[Any]]] = []

        def opened_slowly(**options: bool) -> sqlite3.Connection:
            if not writer._file.is_open:
                tell(store, web, scanned(web, 22, 80, at=NOW + 1), "new", "notice")
            return open_it(**options)

        def watched(connection: sqlite3.Connection, documents: Any, *others: Any) -> None:
            queued = others[2]
            written.append(({story for host, _, story in documents if host == "web1"}, list(queued)))
            write(connection, documents, *others)

        monkeypatch.setattr(writer._file, "open", opened_slowly)
        monkeypatch.setattr("portspec.store.pending.write_states", watched)
        path.unlink()
        scan(store, HostState(DB), 22)
        commit(store)
        commit(store)
        assert [notices for stories, notices in written if "new" in stories] == [[("web1", "notice")]]


def test_notifications_are_written_in_order(path: Path) -> None:
    """Each has its host and the time of writing."""
    with opened(path, wall_clock=lambda: NOW + 7) as (store, _):
        web = tell(store, HostState(WEB), scanned(HostState(WEB), 22, 80), "s1", "n1")
        tell(store, HostState(DB), scanned(HostState(DB), 22), "s2", "n2")
        tell(store, web, scanned(web, 22, at=NOW + 1), None, "n3")
        commit(store)
        assert notifications(store) == [("web1", "n1"), ("db1", "n2"), ("web1", "n3")]
        assert {row.at for row in store.transact(outbox.read_notifications)} == {NOW + 7}


@pytest.mark.parametrize("table", ["state", "notification"])
def test_state_and_notification_are_written_atomically(path: Path, table: str) -> None:
    """Neither the state nor the notification is written without the other."""
    with opened(path) as (store, _), contextlib.closing(sqlite3.connect(path)) as other:
        web = tell(store, HostState(WEB), scanned(HostState(WEB), 22), "before")
        commit(store)
        other.execute(f"CREATE TRIGGER refuse BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'refused'); END")
        tell(store, web, scanned(web, 22, 80, at=NOW + 1), "after", "notice")
        assert not store.flush(PATIENCE)
        assert rows(path, "SELECT notification_state FROM state") == [("before",)]
        assert rows(path, "SELECT * FROM notification") == []
        assert logged_changes(store) == [("web1", "22", "open")]
        other.execute("DROP TRIGGER refuse")
        commit(store)
        assert rows(path, "SELECT notification_state FROM state") == [("after",)]
        assert notifications(store) == [("web1", "notice")]


def test_notification_of_an_unwritable_state_is_kept(path: Path, logs: Logs) -> None:
    """An error in a host's state does not prevent its notification."""
    with opened(path) as (store, _):
        odd = HostState(DB, last_change=float("nan"))
        tell(store, odd, odd, "told", "notice")
        commit(store)
        assert notifications(store) == [("db1", "notice")]
        assert logs.levels == ["error"]


def test_notifications_in_a_full_queue_are_not_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit only scans without a notification are dropped."""
    monkeypatch.setattr("portspec.store.writer.MAX_QUEUED", 5)
    with opened(path) as (store, _):
        with store._writer._condition:  # as if the thread were held up
            state = tell(store, HostState(WEB), scanned(HostState(WEB), 22, 80), "story", "notice")
            for at in range(1, 10):
                state = tell(store, state, scanned(state, 22, 80, at=NOW + at), "story")
        commit(store)
        assert notifications(store) == [("web1", "notice")]


def test_job_runs_in_a_transaction(path: Path) -> None:
    """Its writes are committed when transact() returns the result."""
    with opened(path) as (store, _):
        store.transact(lambda connection: outbox.enqueue(connection, [], [("a@b", b"x")], NOW))
        assert rows(path, "SELECT recipient FROM mail") == [("a@b",)]
        assert store.transact(outbox.read_status) == OutboxStatus(0, 1, NOW)


def test_job_sees_what_was_put_before(path: Path) -> None:
    """Everything put earlier is written when a job starts, without a flush, in the writer's thread."""
    names: list[str] = []

    def job(connection: sqlite3.Connection) -> list[tuple[str, str]]:
        names.append(threading.current_thread().name)
        return connection.execute("SELECT host, notification_state FROM state ORDER BY host").fetchall()

    with opened(path) as (store, _):
        for number in range(20):
            tell(store, HostState(WEB), scanned(HostState(WEB), 22, at=NOW + number), f"story {number}")
            assert store.transact(job) == [("web1", f"story {number}")]
    assert set(names) == {"portspec-store"}


def test_failed_job_changes_nothing(path: Path, logs: Logs) -> None:
    """The caller gets the error, the transaction is rolled back, and the file stays in use."""

    def job(connection: sqlite3.Connection) -> None:
        outbox.enqueue(connection, [], [("a@b", b"x")], NOW)
        raise KeyError("of the job")

    with opened(path) as (store, _):
        with pytest.raises(KeyError, match="of the job"):
            store.transact(job)
        assert store.status.is_up
        assert store.transact(outbox.read_status) == OutboxStatus(0, 0, None)
    assert logs.events == []


def test_jobs_of_several_threads_all_run(path: Path) -> None:
    """Each caller gets its own result."""
    answers: list[int] = []
    with opened(path) as (store, _):

        def ask(number: int) -> None:
            def job(connection: sqlite3.Connection) -> int:
                outbox.enqueue(connection, [], [("a@b", b"x")], NOW)
                return number

            answers.append(store.transact(job) - number)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answers == [0] * 20
        assert store.transact(outbox.read_status).mails == 20


@pytest.mark.usefixtures("no_lock_timeout")
def test_job_fails_while_the_file_cannot_be_written(path: Path, logs: Logs) -> None:
    """It fails while the file is locked, at once if that is known, and works afterwards."""
    with opened(path) as (store, _):
        web = scan(store, HostState(WEB), 22)
        commit(store)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="database is locked"):
                store.transact(outbox.read_status)
            assert not store.status.is_up
            calls: list[object] = []
            with pytest.raises(StoreError):
                store.transact(calls.append)
            assert calls == []
            other.execute("ROLLBACK")
        scan(store, web, 22, 80, at=NOW + 1)
        commit(store)
        assert store.transact(outbox.read_status) == OutboxStatus(0, 0, None)
        assert logs.levels == ["error", "info"]


@pytest.mark.usefixtures("no_lock_timeout")
def test_job_on_a_faulty_file_gets_the_reason(path: Path) -> None:
    """Later callers get the fault and what to do about it, too."""
    with opened(path) as (store, _):
        commit(store)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            scan(store, HostState(WEB), 22)
            assert not store.flush(PATIENCE)
            with pytest.raises(StoreError, match="database is locked") as caught:
                store.transact(outbox.read_status)
            assert caught.value.kind is StoreFaultKind.LOCKED


@pytest.mark.usefixtures("no_lock_timeout")
def test_store_recovers_after_a_failed_job(path: Path, logs: Logs) -> None:
    """The file is retried although nothing is put."""
    with opened(path, retry=0.01) as (store, _):
        scan(store, HostState(WEB), 22)
        commit(store)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError):
                store.transact(outbox.read_status)
            other.execute("ROLLBACK")
        logs.wait("info")
        assert store.transact(outbox.read_status) == OutboxStatus(0, 0, None)


def test_job_after_a_removal_runs_on_the_new_file(path: Path) -> None:
    """A job does not run on a file without a name."""
    with opened(path) as (store, _):
        scan(store, HostState(WEB), 22)
        commit(store)
        path.unlink()
        store.transact(lambda connection: outbox.enqueue(connection, [], [("a@b", b"x")], NOW))
        assert rows(path, "SELECT recipient FROM mail") == [("a@b",)]
        assert rows(path, "SELECT host FROM state") == [("web1",)]


def test_job_fails_if_its_file_is_removed(path: Path) -> None:
    """A commit to a file without a name does not count."""

    def job(connection: sqlite3.Connection) -> None:
        outbox.enqueue(connection, [], [("a@b", b"x")], NOW)
        path.unlink()

    with opened(path) as (store, _):
        commit(store)
        with pytest.raises(StoreError, match="removed or replaced"):
            store.transact(job)


def test_job_fails_unless_the_store_runs(path: Path) -> None:
    """transact() raises StoreError before start() and after close()."""
    store = Store(str(path), history=DAY)
    store.open([WEB])
    with pytest.raises(StoreError):
        store.transact(outbox.read_status)
    store.start()
    assert store.transact(outbox.read_status) == OutboxStatus(0, 0, None)
    store.close()
    with pytest.raises(StoreError, match="it is closed"):
        store.transact(outbox.read_status)


def test_queued_jobs_run_before_the_store_closes(path: Path) -> None:
    """Callers before close() get a result."""
    answers: list[OutboxStatus] = []
    with opened(path) as (store, _):
        commit(store)
        begun, go_on = threading.Event(), threading.Event()

        def hold(_: sqlite3.Connection) -> None:
            begun.set()
            assert go_on.wait(PATIENCE)

        threads = [threading.Thread(target=store.transact, args=(hold,))]
        threads[0].start()
        assert begun.wait(PATIENCE)
        threads.append(threading.Thread(target=lambda: answers.append(store.transact(outbox.read_status))))
        threads[1].start()
        eventually(lambda: bool(store._writer._jobs), "the second has asked")
        threads.append(threading.Thread(target=store.close))
        threads[2].start()
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert answers == [OutboxStatus(0, 0, None)]


def first_version(path: Path) -> HostState:
    """Create a file of schema version 1 with the state of a host, and return that state."""
    state = scanned(HostState(WEB), 22, 80)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection, MIGRATIONS[:1])
        connection.execute(
            "INSERT INTO state (host, saved_at, document) VALUES ('web1', ?, ?)", (NOW, StateCodec().encode(state))
        )
        connection.execute(
            "INSERT INTO change (at, host, address, ports, became, first_seen) VALUES (?, 'web1', 'x', 80, 'open', ?)",
            (NOW, NOW),
        )
    assert rows(path, "PRAGMA user_version") == [(1,)]
    return state


def test_file_of_version_1_is_migrated(path: Path) -> None:
    """States and changes stay, there are no notification states, and notifications can be written."""
    state = first_version(path)
    with opened(path) as (store, restored):
        assert restored["web1"].latest == state.latest
        assert store.notification_state("web1") is None
        assert logged_changes(store) == [("web1", "80", "open")]
        tell(store, restored["web1"], scanned(restored["web1"], 22, 80, at=NOW + 1), "told", "notice")
        commit(store)
        assert notifications(store) == [("web1", "notice")]
    assert rows(path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    with opened(path) as (store, _):
        assert store.notification_state("web1") == "told"


@pytest.mark.usefixtures("no_lock_timeout")
def test_file_of_version_1_is_read_while_it_cannot_be_migrated(path: Path, logs: Logs) -> None:
    """Its states are returned, and it is migrated once it can be written."""
    state = first_version(path)
    with contextlib.ExitStack() as stack:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store, restored = stack.enter_context(opened(path))
            assert restored["web1"].latest == state.latest
            assert store.notification_state("web1") is None
            with pytest.raises(StoreError):
                store.transact(outbox.read_status)
            tell(store, restored["web1"], scanned(restored["web1"], 22, at=NOW + 1), "told", "notice")
            assert not store.flush(PATIENCE)
            other.execute("ROLLBACK")
        commit(store)
        assert notifications(store) == [("web1", "notice")]
        assert logs.levels == ["error", "info"]


def noted(entry: PendingWrite, story: str | None, notice: str | None) -> PendingWrite:
    """Return an entry with notification documents."""
    return PendingWrite(entry.state, entry.changes, story, notice)


FIRST, SECOND, OTHER = scanned(HostState(WEB), 22), scanned(HostState(WEB), 80), scanned(HostState(DB), 22)


def test_state_without_changes_keeps_the_pending_notification() -> None:
    """It replaces the last state and notification state, and the notification stays."""
    pending = PendingWrites(10)
    pending.add(noted(changed(FIRST, 1), "first", "notice"))
    pending.add(PendingWrite(SECOND, notification_state="second"))
    assert everything(pending) == [noted(changed(SECOND, 1), "second", "notice")]


def test_notifications_of_a_host_are_separate_entries() -> None:
    """Two notifications of one host are two entries in order, each with its own state."""
    pending = PendingWrites(10)
    entries = [
        PendingWrite(FIRST, (), "s1", "n1"),
        PendingWrite(OTHER, (), "s2", "n2"),
        PendingWrite(SECOND, (), "s3", "n3"),
    ]
    for entry in entries:
        pending.add(entry)
    assert everything(pending) == entries


def test_notification_of_dropped_changes_stays() -> None:
    """Dropping the oldest changes does not drop their notification."""
    pending = PendingWrites(2)
    pending.add(noted(changed(FIRST, 1), "s1", "n1"))
    pending.add(changed(SECOND, 2, 3))
    pending.add(changed(OTHER, 4))
    assert [entry.notification for entry in everything(pending) if entry.notification] == ["n1"]


puts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans()), max_size=60)


@MODEST
@given(puts, st.integers(0, 6))
def test_every_notification_is_written_once(puts: list[tuple[int, int, bool, bool]], bound: int) -> None:
    """Each notification is written or pending once, in order per host, and each host keeps its last state."""
    pending = PendingWrites(bound)
    expected: dict[str, list[str]] = {}
    stories: dict[str, str] = {}
    written: list[PendingWrite] = []
    number = 0
    for at, (host, count, is_news, writes) in enumerate(puts):
        state = scanned(HostState(target(f"h{host}")), 22, at=at)
        stories[state.host] = f"story {at}"
        if is_news:
            expected.setdefault(state.host, []).append(f"notice {at}")
        notice = f"notice {at}" if is_news else None
        pending.add(noted(changed(state, *range(number, number + count)), stories[state.host], notice))
        number += count
        if writes:
            batch = pending.batch(2, 3)
            pending.remove(len(batch))
            written += batch
    written += everything(pending)
    found: dict[str, list[str]] = {}
    for entry in written:
        if entry.notification is not None:
            found.setdefault(entry.state.host, []).append(entry.notification)
    assert {host: sorted(told) for host, told in found.items()} == {
        host: sorted(told) for host, told in expected.items()
    }
    assert {entry.state.host: entry.notification_state for entry in written} == stories
    assert found == expected


def test_failed_exchange_is_rolled_back(file: sqlite3.Connection) -> None:
    """Notifications are not replaced by some of their mails."""
    (notice,) = note(file, "web1")
    with pytest.raises(sqlite3.ProgrammingError), transaction(file):
        outbox.enqueue(file, [notice], [("a@b", object())], NOW)  # type: ignore[list-item]
    assert outbox.read_notifications(file) == [notice]
    assert outbox.read_status(file).mails == 0
