from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.state.snapshot import HostState
from portspec.store import (
    Archive,
    ArchivedAudit,
    ArchivePosition,
    IncomingAudit,
    Outcome,
    Store,
    StoreError,
    archive,
    archive_audit,
    retention,
    schema,
)
from portspec.store.compression import CompressionError
from portspec.store.faults import StoreFaultKind
from portspec.store.schema import MIGRATIONS, transaction
from portspec.store.states import StateCodec
from tests.unit.factories import MODEST, NOW
from tests.unit.store.scenes import DAY, PATIENCE, WEB, logged_changes, opened, scan, scanned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.unit.store.scenes import Logs

DAYS: Final = tuple(f"2023-11-{day:02}" for day in range(1, 31))
FINDING: Final = """{name} is vulnerable:
  {title}
  CVE: CVE-{year}-{number}
  WWW: https://vuxml.FreeBSD.org/freebsd/{uuid}.html

"""


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Return a connection to a new file."""
    with closing(connected(path)) as found:
        yield found


def connected(path: Path | str) -> sqlite3.Connection:
    """Open or create a file, without fsync."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    schema.migrate(connection)
    return connection


def arrival(host: str = "web1", day: str = DAYS[0], payload: bytes = b"{}") -> IncomingAudit:
    """Return an incoming audit."""
    return IncomingAudit(host, day, NOW + DAYS.index(day) * DAY, payload)


def add(connection: sqlite3.Connection, *arrivals: IncomingAudit, now: float = NOW) -> list[Outcome]:
    """Add audits in a transaction with a new Archive."""
    with transaction(connection):
        return Archive().add(connection, arrivals, now)


def finding(rng: random.Random) -> str:
    """Generate the output of `pkg audit` for a package."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(8)]
    return FINDING.format(
        name=f"{words[0]}-{rng.randint(0, 9)}.{rng.randint(0, 30)}",
        title=f"{words[1]} -- {' '.join(words[2:])}",
        year=rng.randint(2010, 2026),
        number=rng.randint(1000, 59999),
        uuid=f"{rng.getrandbits(128):032x}",
    )


def size_of(connection: sqlite3.Connection) -> int:
    """Return the stored size of all audits and dictionaries in bytes."""
    return sum(
        connection.execute(f"SELECT coalesce(sum(length({column})), 0) FROM {table}").fetchone()[0]  # noqa: S608 - of constants
        for table, column in (("audit", "payload"), ("dictionary", "content"))
    )


def verify_ratio(connection: sqlite3.Connection, arrivals: Sequence[IncomingAudit]) -> None:
    """Add audits, 32 at a time, and check that they take at most a tenth of their size and are readable."""
    held = Archive()
    for start in range(0, len(arrivals), 32):
        with transaction(connection):
            held.add(connection, arrivals[start : start + 32], NOW)
    raw = sum(len(item.payload) for item in arrivals)
    assert raw / len(arrivals) > 40_000
    assert size_of(connection) * 10 <= raw
    found, _, left = Archive().read_after(connection, None, len(arrivals))
    assert left == 0
    assert [IncomingAudit(item.host, item.day, item.at, item.payload) for item in found] == list(arrivals)


def test_audits_of_a_fleet_compress_to_a_tenth(connection: sqlite3.Connection) -> None:
    """300 hosts, each with 240 of 600 findings and some words of its own, on one day."""
    rng = random.Random(1)  # noqa: S311 - repeatable
    known = [finding(rng) for _ in range(600)]
    arrivals = []
    for number in range(300):
        text = "".join(known[place] for place in sorted(rng.sample(range(600), 240)))
        payload = f"{number} {rng.getrandbits(128):032x}\n{text}".encode()
        arrivals.append(arrival(f"host{number}", payload=payload))
    verify_ratio(connection, arrivals)


@pytest.mark.parametrize("hosts", [1, 20])
def test_audits_of_dissimilar_hosts_compress_to_a_tenth(connection: sqlite3.Connection, hosts: int) -> None:
    """30 days of hosts that share no finding, and have one new finding per day."""
    rng = random.Random(hosts)  # noqa: S311 - repeatable
    found = [[finding(rng) for _ in range(240)] for _ in range(hosts)]
    arrivals = []
    for day in DAYS:
        for number, findings in enumerate(found):
            findings[rng.randrange(240)] = finding(rng)
            payload = f"{day} {rng.getrandbits(128):032x}\n{''.join(findings)}".encode()
            arrivals.append(arrival(f"host{number}", day, payload))
    verify_ratio(connection, arrivals)


@MODEST
@given(st.lists(st.binary(max_size=3000), max_size=len(DAYS)))
def test_payload_is_returned_unchanged(payloads: list[bytes]) -> None:
    """Any payload is returned byte for byte."""
    with closing(connected(":memory:")) as connection:
        arrivals = [arrival("web1", day, payload) for day, payload in zip(DAYS, payloads, strict=False)]
        assert add(connection, *arrivals) == [Outcome.ACCEPTED] * len(arrivals)
        found = [Archive().find(connection, "web1", item.day) for item in arrivals]
        assert found == [ArchivedAudit(number, i.host, i.day, i.at, i.payload) for number, i in enumerate(arrivals, 1)]
        last = Archive().latest(connection, "web1")
        assert last == (found[-1] if found else None)


def test_first_audit_of_a_host_and_day_wins(connection: sqlite3.Connection) -> None:
    """Identical payloads are reported as such, others are rejected, also within one batch."""
    first, other = arrival(payload=b"first"), arrival(payload=b"other")
    assert add(connection, first, first, other) == [Outcome.ACCEPTED, Outcome.IDENTICAL, Outcome.CONFLICT]
    assert add(connection, other, first) == [Outcome.CONFLICT, Outcome.IDENTICAL]
    assert (
        add(connection, arrival("db1", payload=b"other"), arrival(day=DAYS[1], payload=b"other"))
        == [Outcome.ACCEPTED] * 2
    )
    found = Archive().find(connection, "web1", DAYS[0])
    assert found is not None
    assert found.payload == b"first"
    assert archive.read_counts(connection) == {"accepted": 3}


def test_rolled_back_audit_is_not_archived(connection: sqlite3.Connection) -> None:
    """A failed transaction leaves nothing, and the same Archive still works."""
    held, item = Archive(), arrival(payload=random.Random(1).randbytes(5000))  # noqa: S311 - repeatable

    def fail() -> None:
        with transaction(connection):
            held.add(connection, [item, replace(item, day=DAYS[1])], NOW)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert Archive().latest(connection, "web1") is None
    assert archive.read_counts(connection) == {}
    assert size_of(connection) == 0
    with transaction(connection):
        assert held.add(connection, [item], NOW) == [Outcome.ACCEPTED]
    assert Archive().latest(connection, "web1") is not None


def test_latest_audit_is_that_of_the_latest_day(connection: sqlite3.Connection) -> None:
    """A delayed mail does not hide a later audit."""
    add(connection, *(arrival(day=DAYS[day], payload=str(day).encode()) for day in (1, 3, 2)), arrival("db1"))
    last = Archive().latest(connection, "web1")
    assert last is not None
    assert (last.day, last.payload, last.number) == (DAYS[3], b"3", 2)
    assert Archive().days(connection, "web1") == [DAYS[3], DAYS[2], DAYS[1]]
    assert archive.latest_numbers(connection) == {"web1": 2, "db1": 4}
    assert Archive().latest(connection, "db2") is None
    assert Archive().days(connection, "db2") == []


def numbers(found: Sequence[ArchivedAudit]) -> list[int]:
    """Return their numbers."""
    return [item.number for item in found]


def test_audits_are_read_in_the_order_of_arrival(connection: sqlite3.Connection) -> None:
    """Reads return a few at a time, each once, with the number of remaining ones; later audits are read later."""
    add(connection, *(arrival(day=day) for day in DAYS[:5]))
    held = Archive()
    found, mark, left = held.read_after(connection, None, 2)
    assert (numbers(found), mark.number, left) == ([1, 2], 2, 3)
    assert held.read_after(connection, mark, 0) == ([], mark, 3)
    found, mark, left = held.read_after(connection, mark, 3)
    assert (numbers(found), left) == ([3, 4, 5], 0)
    assert held.read_after(connection, mark, 3) == ([], mark, 0)
    add(connection, arrival("db1"))
    found, mark, left = held.read_after(connection, mark, 3)
    assert (numbers(found), left) == ([6], 0)


def test_nothing_remains_when_the_newest_audits_are_deleted(connection: sqlite3.Connection) -> None:
    """Deleted audits do not count as remaining."""
    add(connection, *(arrival(day=day) for day in DAYS[:5]))
    connection.execute("DELETE FROM audit WHERE id IN (2, 4, 5)")
    found, mark, left = Archive().read_after(connection, None, 10)
    assert (numbers(found), mark.number, left) == ([1, 3], 5, 0)


def test_fewer_large_audits_are_read_at_a_time(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of the payloads limits how many audits are read at once."""
    monkeypatch.setattr(archive, "_MAX_READ_SIZE", 3000)
    add(connection, *(arrival(day=day, payload=bytes(2000)) for day in DAYS[:5]))
    found, mark, left = Archive().read_after(connection, None, 10)
    assert (numbers(found), left) == ([1, 2], 3)
    found, mark, left = Archive().read_after(connection, mark, 10)
    assert (numbers(found), left) == ([3, 4], 1)


def test_new_archive_is_read_from_the_start(tmp_path: Path) -> None:
    """A position in another file is ignored, even if the numbers match."""
    with closing(connected(tmp_path / "1.db")) as old, closing(connected(tmp_path / "2.db")) as new:
        for file in (old, new):
            add(file, *(arrival(day=day) for day in DAYS[:3]))
        _, mark, _ = Archive().read_after(old, None, 3)
        found, _, left = Archive().read_after(new, mark, 2)
        assert (numbers(found), left) == ([1, 2], 1)
        Archive().save_results(new, [("web1", 3, "of the old one")], mark)
        assert Archive().read_position(new) is None
        assert list(Archive().results(new)) == []


def test_restored_archive_is_read_from_the_start(path: Path, tmp_path: Path) -> None:
    """A position beyond the end of a restored backup is ignored; it would hide later audits."""
    with closing(connected(path)) as connection:
        add(connection, arrival())
        with closing(sqlite3.connect(tmp_path / "backup.db", isolation_level=None)) as backup:
            connection.backup(backup)
            add(connection, arrival(day=DAYS[1]))
            _, mark, _ = Archive().read_after(connection, None, 2)
            found, _, _ = Archive().read_after(backup, mark, 2)
            assert numbers(found) == [1]


def test_results_are_saved_with_the_position(connection: sqlite3.Connection) -> None:
    """Results are returned with the numbers of their audits, and the position is saved."""
    add(connection, arrival("web1"), arrival("db1"), arrival("web1", DAYS[1]))
    held = Archive()
    assert held.read_position(connection) is None
    _, mark, _ = held.read_after(connection, None, 2)
    held.save_results(connection, [("web1", 1, '{"ä": "\ud800"}'), ("db1", 2, "")], mark)
    assert Archive().read_position(connection) == mark
    assert list(Archive().results(connection)) == [("db1", 2, ""), ("web1", 1, '{"ä": "\ud800"}')]
    _, mark, _ = held.read_after(connection, mark, 2)
    held.save_results(connection, [("web1", 3, "new")], mark)
    assert held.read_position(connection) == mark
    assert list(held.results(connection)) == [("db1", 2, ""), ("web1", 3, "new")]


@pytest.mark.parametrize(
    ("puts", "kept"), [((2, 1), 2), ((1, 2), 2), ((1, 3), 1), ((9, 1), 1), ((1, 9), 1), ((1, 1), 1)]
)
def test_result_of_an_earlier_day_does_not_replace_a_later_one(
    connection: sqlite3.Connection, puts: tuple[int, int], kept: int
) -> None:
    """The day decides, not the order of arrival or reading; a deleted audit counts as the earliest."""
    add(connection, *(arrival(day=DAYS[day]) for day in (1, 2, 0)))
    _, mark, _ = Archive().read_after(connection, None, 9)
    for place, number in enumerate(puts):
        Archive().save_results(connection, [("web1", number, f"{place}")], mark)
    ((_, number, document),) = Archive().results(connection)
    assert (number, document) == (kept, str(max(place for place in (0, 1) if puts[place] == kept)))


def test_results_of_a_fleet_compress_well(connection: sqlite3.Connection) -> None:
    """Text that results share is stored once."""
    rng = random.Random(1)  # noqa: S311 - repeatable
    known = [finding(rng) for _ in range(300)]
    documents = [(f"host{number}", number, "".join(rng.sample(known, 100))) for number in range(100)]
    _, mark, _ = Archive().read_after(connection, None, 1)
    with transaction(connection):
        Archive().save_results(connection, documents, mark)
    (size,) = connection.execute(
        "SELECT (SELECT sum(length(document)) FROM audit_result) + (SELECT sum(length(content)) FROM dictionary)"
    ).fetchone()
    assert size * 5 < sum(len(document) for _, _, document in documents)
    assert sorted(Archive().results(connection)) == sorted(documents)


def corrupt(connection: sqlite3.Connection, number: int) -> None:
    """Overwrite the middle of a stored audit."""
    (blob,) = connection.execute("SELECT payload FROM audit WHERE id = ?", (number,)).fetchone()
    damaged = blob[:8] + bytes(byte ^ 0xFF for byte in blob[8:12]) + blob[12:]
    connection.execute("UPDATE audit SET payload = ? WHERE id = ?", (damaged, number))


def test_corrupt_audit_does_not_affect_others(connection: sqlite3.Connection, logs: Logs) -> None:
    """It is logged once and skipped; the latest audit is the latest readable one; requesting it is an error."""
    add(connection, *(arrival(day=day, payload=f"audit of {day}, ".encode() * 9) for day in DAYS[:4]))
    for number in (2, 4):
        corrupt(connection, number)
    held = Archive()
    for _ in range(2):
        found, mark, left = held.read_after(connection, None, 10)
        assert (numbers(found), mark.number, left) == ([1, 3], 4, 0)
        last = held.latest(connection, "web1")
        assert last is not None
        assert last.number == 3
    assert [(event["level"], event["host"], event["day"]) for event in logs.events] == [
        ("error", "web1", DAYS[1]),
        ("error", "web1", DAYS[3]),
    ]
    with pytest.raises(CompressionError):
        held.find(connection, "web1", DAYS[1])


def test_resent_audit_replaces_a_corrupt_one(connection: sqlite3.Connection) -> None:
    """It may differ from the corrupt one, so it is read again."""
    item = arrival(payload=b"the audit of the day " * 9)
    add(connection, item)
    corrupt(connection, 1)
    _, mark, _ = Archive().read_after(connection, None, 10)
    assert add(connection, item) == [Outcome.ACCEPTED]
    found, _, _ = Archive().read_after(connection, mark, 10)
    assert [(one.number, one.payload) for one in found] == [(2, item.payload)]


def test_corrupt_dictionary_affects_only_its_audits(connection: sqlite3.Connection, logs: Logs) -> None:
    """Audits that need it are skipped, later ones use another."""
    text = random.Random(1).randbytes(5000)  # noqa: S311 - repeatable
    add(connection, *(arrival(day=day, payload=day.encode() + text) for day in DAYS[:4]))
    connection.execute("UPDATE dictionary SET content = zeroblob(100)")
    add(connection, *(arrival(day=day, payload=day.encode() + text) for day in DAYS[4:8]))
    found, _, left = Archive().read_after(connection, None, 20)
    assert ([item.day for item in found], left) == ([DAYS[0], *DAYS[4:8]], 0)
    assert [item.payload for item in found] == [item.day.encode() + text for item in found]
    assert set(logs.levels) == {"error"}


def test_corrupt_result_does_not_affect_others(connection: sqlite3.Connection, logs: Logs) -> None:
    """It is logged once and skipped."""
    _, mark, _ = Archive().read_after(connection, None, 0)
    Archive().save_results(connection, [(f"host{number}", number, f"{number}") for number in range(3)], mark)
    connection.execute("UPDATE audit_result SET document = 'text' WHERE host = 'host1'")
    held = Archive()
    for _ in range(2):
        assert list(held.results(connection)) == [("host0", 0, "0"), ("host2", 2, "2")]
    assert [(event["level"], event["host"]) for event in logs.events] == [("error", "host1")]


def test_totals_include_rejections(connection: sqlite3.Connection) -> None:
    """Rejections are counted by reason, beside accepted audits."""
    archive.add_counts(connection, {"signature": 2, "roster": 1})
    archive.add_counts(connection, {})
    archive.add_counts(connection, {"signature": 1})
    add(connection, arrival(), arrival(), arrival(payload=b"other"))
    assert archive.read_counts(connection) == {"signature": 3, "roster": 1, "accepted": 1}


def forget(connection: sqlite3.Connection, before: float, limit: int = 1000) -> int:
    """Delete everything that is expired; return the number of steps."""
    steps = 1
    while retention.delete_expired_audits(connection, before, limit):
        steps += 1
    return steps


def test_expired_audits_are_deleted_except_the_last_of_each_host(connection: sqlite3.Connection) -> None:
    """A silent host keeps its last audit and result for two more years; other hosts do not."""
    for number, day in enumerate(DAYS[:4]):
        add(connection, arrival(day=day), *([arrival("db1", day)] if number < 2 else []), now=NOW + number * DAY)
    _, mark, _ = Archive().read_after(connection, None, 100)
    Archive().save_results(connection, [("db1", 4, "db"), ("web1", 6, "web")], mark)
    forget(connection, NOW + 2.5 * DAY)
    assert (Archive().days(connection, "web1"), Archive().days(connection, "db1")) == ([DAYS[3]], [DAYS[1]])
    assert len(list(Archive().results(connection))) == 2
    forget(connection, NOW + 732 * DAY)
    assert Archive().days(connection, "db1") == [DAYS[1]]
    forget(connection, NOW + 734 * DAY)
    assert (Archive().days(connection, "web1"), Archive().days(connection, "db1")) == ([DAYS[3]], [])
    assert list(Archive().results(connection)) == [("web1", 6, "web")]


def test_audit_of_an_earlier_day_is_deleted_though_it_arrived_last(connection: sqlite3.Connection) -> None:
    """The last audit is the one of the latest day."""
    add(connection, arrival(day=DAYS[1]))
    add(connection, arrival(day=DAYS[0]), now=NOW + 1)
    forget(connection, NOW + 2)
    assert Archive().days(connection, "web1") == [DAYS[1]]


def test_unused_dictionaries_are_deleted(connection: sqlite3.Connection) -> None:
    """Remaining audits are readable, unused dictionaries are deleted, and new audits use the newest."""
    rng = random.Random(1)  # noqa: S311 - repeatable
    texts = [rng.randbytes(5000) for _ in range(len(DAYS))]
    for number, day in enumerate(DAYS):
        arrivals = [arrival("web1", day, texts[number]), arrival("db1", day, day.encode() + texts[0])]
        add(connection, *arrivals, now=NOW + number * DAY)
    (before,) = connection.execute("SELECT count(*) FROM dictionary").fetchone()
    forget(connection, NOW + 29.5 * DAY)
    (after,) = connection.execute("SELECT count(*) FROM dictionary").fetchone()
    assert (before, after) == (4, 1)
    for host, payload in (("web1", texts[-1]), ("db1", DAYS[-1].encode() + texts[0])):
        last = Archive().latest(connection, host)
        assert last is not None
        assert (last.day, last.payload) == (DAYS[-1], payload)
    size = size_of(connection)
    add(connection, arrival("new", payload=texts[0]))
    assert size_of(connection) < size + 100


def test_many_audits_are_deleted_in_small_steps(connection: sqlite3.Connection) -> None:
    """A step deletes a few rows and returns whether there may be more."""
    add(connection, *(arrival(day=day) for day in DAYS))
    assert forget(connection, NOW + 1, limit=10) == 3
    assert Archive().days(connection, "web1") == [DAYS[-1]]


def audit_days(path: Path, now: float, *, hours: int = 0, days: float = 90) -> list[str]:
    """Return the days of the audits that remain after a store ran for some hours with a clock stopped at `now`."""
    store = Store(str(path), history=365 * DAY, audit_history=days * DAY, wall_clock=lambda: now)
    store.open([])
    store.start()
    for hour in range(hours + 1):
        if hour:
            store._writer._next_retention = 0.0
        scan(store, HostState(WEB), at=now)  # so that there is something to commit
        assert store.flush(PATIENCE)
    store.close(PATIENCE)
    return store.audit_days("web1")


def test_store_deletes_audits_by_the_reference_time(path: Path) -> None:
    """Audits have their own retention, and a clock that is years ahead does not delete them."""
    with closing(connected(path)) as connection:
        for number, day in enumerate(DAYS):
            add(connection, arrival(day=day), now=NOW + number * DAY)
    last = NOW + 29 * DAY
    assert len(audit_days(path, last + 1, days=40)) == 30
    assert len(audit_days(path, last + 3650 * DAY, days=29.5)) == 30
    assert audit_days(path, last + 1, days=9.5) == [*reversed(DAYS[-10:])]
    with opened(path, wall_clock=lambda: last) as (store, _):
        store.audit_history = 4.5 * DAY
        assert store.audit_history == 4.5 * DAY
        store.transact(lambda _: None)  # what the thread does at its start is over
        store._writer._next_retention = 0.0
        scan(store, HostState(WEB), at=last)
        store.close(PATIENCE)  # what is put is committed before anything is forgotten
        assert store.audit_days("web1") == [*reversed(DAYS[-5:])]


def test_store_reads_audits_without_open(path: Path) -> None:
    """Commands read the archive with or without a running exporter."""
    with opened(path) as (store, _):
        held = Archive()
        store.transact(lambda file: held.add(file, [arrival(payload=b"1"), arrival(day=DAYS[1], payload=b"2")], NOW))
        _, mark, _ = store.transact(lambda file: held.read_after(file, None, 5))
        store.transact(lambda file: held.save_results(file, [("web1", 2, "found")], mark))
    reader = Store(str(path), history=DAY)
    last = ArchivedAudit(2, "web1", DAYS[1], NOW + DAY, b"2")
    assert reader.find_audit("web1") == last
    assert reader.find_audit("web1", DAYS[1]) == last
    assert reader.find_audit("web1", DAYS[2]) is None
    assert reader.find_audit("db1") is None
    assert reader.audit_days("web1") == [DAYS[1], DAYS[0]]
    assert reader.latest_audits() == {"web1": 2}
    assert reader.audit_results() == {"web1": (2, "found")}


def test_requesting_a_corrupt_audit_is_an_error(path: Path) -> None:
    """The caller gets an error instead of None, and the file is not treated as corrupt."""
    with opened(path) as (store, _):
        store.transact(lambda file: Archive().add(file, [arrival(payload=b"the audit " * 9)], NOW))
        store.transact(lambda file: corrupt(file, 1))
        with pytest.raises(StoreError, match=f"the audit of web1 of {DAYS[0]} is corrupt") as caught:
            store.find_audit("web1", DAYS[0])
        assert caught.value.kind is StoreFaultKind.CORRUPT
        with pytest.raises(CompressionError):
            store.transact(lambda file: Archive().find(file, "web1", DAYS[0]))
        assert store.status.is_up
        assert store.find_audit("web1") is None


def test_missing_file_is_an_error(path: Path) -> None:
    """The error names the missing file, and none is created."""
    reader = Store(str(path), history=DAY)
    for ask in (lambda: reader.find_audit("web1"), lambda: reader.audit_days("web1"), reader.audit_results):
        with pytest.raises(
            StoreError, match=f"cannot read {path}: there is no such file; start the exporter"
        ) as caught:
            ask()
        assert caught.value.kind is StoreFaultKind.ABSENT
    assert list(path.parent.iterdir()) == []


def of_version_2(path: Path) -> None:
    """Create a file of schema version 2 with a host's state, a change, a notification and a mail."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        schema.migrate(connection, MIGRATIONS[:2])
        connection.execute("INSERT INTO notice (at, host, document) VALUES (1, 'web1', '{}')")
        connection.execute("INSERT INTO mail (at, recipient, message, due) VALUES (1, 'a@b', x'00', 1)")
        state = StateCodec().encode(scanned(HostState(WEB), 22))
        connection.execute("INSERT INTO state (host, saved_at, document) VALUES ('web1', ?, ?)", (NOW, state))
        connection.execute(
            """INSERT INTO change (at, host, address, ports, was, became, first_seen)
            VALUES (?, 'web1', '192.0.2.1', '22', NULL, 'open', ?)""",
            (NOW, NOW),
        )


@pytest.mark.parametrize("opener", ["store", "receive"])
def test_file_of_version_2_is_migrated(path: Path, opener: str) -> None:
    """Everything in it stays, and it gets an archive, whether the exporter or `portspec receive` opens it first."""
    of_version_2(path)
    if opener == "receive":
        assert archive_audit(str(path), arrival(), NOW) is Outcome.ACCEPTED
    with opened(path) as (store, restored):
        assert restored["web1"].latest == scanned(HostState(WEB), 22).latest
        assert logged_changes(store) == [("web1", "22", "open")]
        outcomes = store.transact(lambda file: Archive().add(file, [arrival()], NOW))
        assert outcomes == [Outcome.IDENTICAL if opener == "receive" else Outcome.ACCEPTED]
        assert store.transact(lambda file: file.execute("SELECT host FROM notification").fetchall()) == [("web1",)]
        assert store.transact(lambda file: file.execute("SELECT recipient FROM mail").fetchall()) == [("a@b",)]
        assert store.audit_days("web1") == [DAYS[0]]


def test_reader_finds_no_audits_in_a_file_of_version_2(path: Path) -> None:
    """A reader does not migrate a file, and finds no audits in it."""
    of_version_2(path)
    before = path.read_bytes()
    reader = Store(str(path), history=DAY)
    assert reader.find_audit("web1") is None
    assert reader.find_audit("web1", DAYS[0]) is None
    assert reader.audit_days("web1") == []
    assert reader.latest_audits() == {}
    assert reader.audit_results() == {}
    assert path.read_bytes() == before


def test_each_archive_has_its_own_id(tmp_path: Path) -> None:
    """Archives have different ids, also those created by a migration."""
    names = set()
    for number in range(3):
        path = tmp_path / f"{number}.db"
        of_version_2(path)
        with closing(connected(path)) as connection:
            _, mark, _ = Archive().read_after(connection, ArchivePosition("", 7), 1)
            assert mark.number == 0
            names.add(mark.archive)
    assert len(names) == 3
    assert {len(name) for name in names} == {32}
