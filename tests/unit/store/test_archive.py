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
from tests.unit.store.scenes import DAY, PATIENCE, WEB, opened, scan, scanned, told

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
    """Give a connection to a new file."""
    with closing(connected(path)) as found:
        yield found


def connected(path: Path | str) -> sqlite3.Connection:
    """Open or make a file; what is written need not outlive the machine."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    schema.migrate(connection)
    return connection


def arrival(host: str = "web1", day: str = DAYS[0], payload: bytes = b"{}") -> IncomingAudit:
    """Make a report that comes in."""
    return IncomingAudit(host, day, NOW + DAYS.index(day) * DAY, payload)


def add(connection: sqlite3.Connection, *arrivals: IncomingAudit, now: float = NOW) -> list[Outcome]:
    """Add reports in a transaction, by an archive that knows of none before."""
    with transaction(connection):
        return Archive().add(connection, arrivals, now)


def finding(rng: random.Random) -> str:
    """Make up what `pkg audit` says of a package."""
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
    """Give the bytes of all reports and dictionaries as they are stored."""
    return sum(
        connection.execute(f"SELECT coalesce(sum(length({column})), 0) FROM {table}").fetchone()[0]  # noqa: S608 - of constants
        for table, column in (("audit", "payload"), ("dictionary", "content"))
    )


def verify_ratio(connection: sqlite3.Connection, arrivals: Sequence[IncomingAudit]) -> None:
    """Add reports, 32 at a time, and see that they take at most a tenth of their size, and can be read."""
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


def test_fleet_takes_a_tenth_of_its_size(connection: sqlite3.Connection) -> None:
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
def test_hosts_like_no_other_take_a_tenth_over_days(connection: sqlite3.Connection, hosts: int) -> None:
    """30 days of hosts of which none has a finding of another, and each one new finding a day."""
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
def test_payload_comes_back_byte_for_byte(payloads: list[bytes]) -> None:
    """Whatever a payload is, it is given back, by itself and in its place."""
    with closing(connected(":memory:")) as connection:
        arrivals = [arrival("web1", day, payload) for day, payload in zip(DAYS, payloads, strict=False)]
        assert add(connection, *arrivals) == [Outcome.ACCEPTED] * len(arrivals)
        found = [Archive().find(connection, "web1", item.day) for item in arrivals]
        assert found == [ArchivedAudit(number, i.host, i.day, i.at, i.payload) for number, i in enumerate(arrivals, 1)]
        last = Archive().latest(connection, "web1")
        assert last == (found[-1] if found else None)


def test_one_wins_for_each_host_and_day(connection: sqlite3.Connection) -> None:
    """The very same bytes are there already, others are refused, in the same batch, too, and the first one stays."""
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


def test_report_that_was_rolled_back_has_not_come(connection: sqlite3.Connection) -> None:
    """Nothing of a transaction that fails is there, and the same archive goes on."""
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


def test_last_report_is_that_of_the_last_day(connection: sqlite3.Connection) -> None:
    """A mail that was long on its way does not hide what the host reported since."""
    add(connection, *(arrival(day=DAYS[day], payload=str(day).encode()) for day in (1, 3, 2)), arrival("db1"))
    last = Archive().latest(connection, "web1")
    assert last is not None
    assert (last.day, last.payload, last.number) == (DAYS[3], b"3", 2)
    assert Archive().days(connection, "web1") == [DAYS[3], DAYS[2], DAYS[1]]
    assert archive.latest_numbers(connection) == {"web1": 2, "db1": 4}
    assert Archive().latest(connection, "db2") is None
    assert Archive().days(connection, "db2") == []


def numbers(found: Sequence[ArchivedAudit]) -> list[int]:
    """Give their numbers."""
    return [item.number for item in found]


def test_reports_are_read_in_the_order_in_which_they_came(connection: sqlite3.Connection) -> None:
    """A few at a time, each once, with the count of what is left, and what comes later is read later."""
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


def test_nothing_is_left_when_the_newest_are_forgotten(connection: sqlite3.Connection) -> None:
    """What was deleted meanwhile is not waited for."""
    add(connection, *(arrival(day=day) for day in DAYS[:5]))
    connection.execute("DELETE FROM audit WHERE id IN (2, 4, 5)")
    found, mark, left = Archive().read_after(connection, None, 10)
    assert (numbers(found), mark.number, left) == ([1, 3], 5, 0)


def test_large_reports_are_read_fewer_at_a_time(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are wanted, no more are in memory at once than their size allows."""
    monkeypatch.setattr(archive, "_MAX_READ_SIZE", 3000)
    add(connection, *(arrival(day=day, payload=bytes(2000)) for day in DAYS[:5]))
    found, mark, left = Archive().read_after(connection, None, 10)
    assert (numbers(found), left) == ([1, 2], 3)
    found, mark, left = Archive().read_after(connection, mark, 10)
    assert (numbers(found), left) == ([3, 4], 1)


def test_archive_that_is_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    """A mark of another file counts for nothing, though the numbers are the same."""
    with closing(connected(tmp_path / "1.db")) as old, closing(connected(tmp_path / "2.db")) as new:
        for file in (old, new):
            add(file, *(arrival(day=day) for day in DAYS[:3]))
        _, mark, _ = Archive().read_after(old, None, 3)
        found, _, left = Archive().read_after(new, mark, 2)
        assert (numbers(found), left) == ([1, 2], 1)
        Archive().save_results(new, [("web1", 3, "of the old one")], mark)
        assert Archive().read_position(new) is None
        assert list(Archive().results(new)) == []


def test_archive_that_was_set_back_is_read_from_its_beginning(path: Path, tmp_path: Path) -> None:
    """A mark of what a backup does not have yet would hide what comes."""
    with closing(connected(path)) as connection:
        add(connection, arrival())
        with closing(sqlite3.connect(tmp_path / "backup.db", isolation_level=None)) as backup:
            connection.backup(backup)
            add(connection, arrival(day=DAYS[1]))
            _, mark, _ = Archive().read_after(connection, None, 2)
            found, _, _ = Archive().read_after(backup, mark, 2)
            assert numbers(found) == [1]


def test_documents_are_kept_with_the_mark(connection: sqlite3.Connection) -> None:
    """What reports came to is there with the numbers of the reports, and up to where they were read."""
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
def test_document_of_an_earlier_day_does_not_replace_a_later_one(
    connection: sqlite3.Connection, puts: tuple[int, int], kept: int
) -> None:
    """The day counts, not in which order reports came in or were read; one that is forgotten is the earliest."""
    add(connection, *(arrival(day=DAYS[day]) for day in (1, 2, 0)))
    _, mark, _ = Archive().read_after(connection, None, 9)
    for place, number in enumerate(puts):
        Archive().save_results(connection, [("web1", number, f"{place}")], mark)
    ((_, number, document),) = Archive().results(connection)
    assert (number, document) == (kept, str(max(place for place in (0, 1) if puts[place] == kept)))


def test_documents_of_a_fleet_are_small(connection: sqlite3.Connection) -> None:
    """What hosts have in common is stored once."""
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


def garble(connection: sqlite3.Connection, number: int) -> None:
    """Overwrite the middle of what is stored of a report."""
    (blob,) = connection.execute("SELECT payload FROM audit WHERE id = ?", (number,)).fetchone()
    garbled = blob[:8] + bytes(byte ^ 0xFF for byte in blob[8:12]) + blob[12:]
    connection.execute("UPDATE audit SET payload = ? WHERE id = ?", (garbled, number))


def test_garbled_report_does_not_stop_the_others(connection: sqlite3.Connection, logs: Logs) -> None:
    """It is told once and left out; the last report is the last that can be read; asked for itself it is an error."""
    add(connection, *(arrival(day=day, payload=f"report of {day}, ".encode() * 9) for day in DAYS[:4]))
    for number in (2, 4):
        garble(connection, number)
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


def test_report_that_is_sent_again_takes_the_place_of_a_garbled_one(connection: sqlite3.Connection) -> None:
    """Nobody can say whether it is the same, and it is read again."""
    item = arrival(payload=b"the report of the day " * 9)
    add(connection, item)
    garble(connection, 1)
    _, mark, _ = Archive().read_after(connection, None, 10)
    assert add(connection, item) == [Outcome.ACCEPTED]
    found, _, _ = Archive().read_after(connection, mark, 10)
    assert [(one.number, one.payload) for one in found] == [(2, item.payload)]


def test_garbled_dictionary_costs_what_was_packed_with_it_alone(connection: sqlite3.Connection, logs: Logs) -> None:
    """Reports that need it are left out, later ones do with another."""
    text = random.Random(1).randbytes(5000)  # noqa: S311 - repeatable
    add(connection, *(arrival(day=day, payload=day.encode() + text) for day in DAYS[:4]))
    connection.execute("UPDATE dictionary SET content = zeroblob(100)")
    add(connection, *(arrival(day=day, payload=day.encode() + text) for day in DAYS[4:8]))
    found, _, left = Archive().read_after(connection, None, 20)
    assert ([item.day for item in found], left) == ([DAYS[0], *DAYS[4:8]], 0)
    assert [item.payload for item in found] == [item.day.encode() + text for item in found]
    assert set(logs.levels) == {"error"}


def test_garbled_document_does_not_stop_the_others(connection: sqlite3.Connection, logs: Logs) -> None:
    """It is told once and left out."""
    _, mark, _ = Archive().read_after(connection, None, 0)
    Archive().save_results(connection, [(f"host{number}", number, f"{number}") for number in range(3)], mark)
    connection.execute("UPDATE audit_result SET document = 'text' WHERE host = 'host1'")
    held = Archive()
    for _ in range(2):
        assert list(held.results(connection)) == [("host0", 0, "0"), ("host2", 2, "2")]
    assert [(event["level"], event["host"]) for event in logs.events] == [("error", "host1")]


def test_totals_are_those_of_all_who_count(connection: sqlite3.Connection) -> None:
    """Refusals are counted beside what was accepted, by reason."""
    archive.add_counts(connection, {"signature": 2, "roster": 1})
    archive.add_counts(connection, {})
    archive.add_counts(connection, {"signature": 1})
    add(connection, arrival(), arrival(), arrival(payload=b"other"))
    assert archive.read_counts(connection) == {"signature": 3, "roster": 1, "accepted": 1}


def forget(connection: sqlite3.Connection, before: float, limit: int = 1000) -> int:
    """Forget all there is to forget; give the number of steps."""
    steps = 1
    while retention.delete_expired_audits(connection, before, limit):
        steps += 1
    return steps


def test_old_reports_are_forgotten_but_for_the_last_of_each_host(connection: sqlite3.Connection) -> None:
    """A host that fell silent keeps its last report and its document for two years more, one that reports does not."""
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


def test_report_of_an_earlier_day_is_forgotten_though_it_came_last(connection: sqlite3.Connection) -> None:
    """The last report is the one of the last day."""
    add(connection, arrival(day=DAYS[1]))
    add(connection, arrival(day=DAYS[0]), now=NOW + 1)
    forget(connection, NOW + 2)
    assert Archive().days(connection, "web1") == [DAYS[1]]


def test_dictionaries_go_with_the_last_that_needs_them(connection: sqlite3.Connection) -> None:
    """What is left can be read, nothing is left that nobody reads, and what comes is packed with the newest."""
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


def test_much_is_forgotten_in_small_steps(connection: sqlite3.Connection) -> None:
    """A step deletes a few rows, and says whether there may be more."""
    add(connection, *(arrival(day=day) for day in DAYS))
    assert forget(connection, NOW + 1, limit=10) == 3
    assert Archive().days(connection, "web1") == [DAYS[-1]]


def reports(path: Path, now: float, *, hours: int = 0, days: float = 90) -> list[str]:
    """Give the days of the reports that are left after so many hours of a store under a clock that stands at `now`."""
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


def test_store_forgets_reports_by_its_guarded_clock(path: Path) -> None:
    """Reports go after their own time, not that of changes, and not because a clock is ahead by years."""
    with closing(connected(path)) as connection:
        for number, day in enumerate(DAYS):
            add(connection, arrival(day=day), now=NOW + number * DAY)
    last = NOW + 29 * DAY
    assert len(reports(path, last + 1, days=40)) == 30
    assert len(reports(path, last + 3650 * DAY, days=29.5)) == 30
    assert reports(path, last + 1, days=9.5) == [*reversed(DAYS[-10:])]
    with opened(path, wall_clock=lambda: last) as (store, _):
        store.audit_history = 4.5 * DAY
        assert store.audit_history == 4.5 * DAY
        store.transact(lambda _: None)  # what the thread does at its start is over
        store._writer._next_retention = 0.0
        scan(store, HostState(WEB), at=last)
        store.close(PATIENCE)  # what is put is committed before anything is forgotten
        assert store.audit_days("web1") == [*reversed(DAYS[-5:])]


def test_store_reads_without_being_opened(path: Path) -> None:
    """Commands read the archive beside an exporter or without one."""
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


def test_garbled_report_that_is_asked_for_is_an_error(path: Path) -> None:
    """Who asks for a report is not told that there is none; the file is not taken for corrupt because of it."""
    with opened(path) as (store, _):
        store.transact(lambda file: Archive().add(file, [arrival(payload=b"the report " * 9)], NOW))
        store.transact(lambda file: garble(file, 1))
        with pytest.raises(StoreError, match=f"the audit of web1 of {DAYS[0]} is corrupt") as caught:
            store.find_audit("web1", DAYS[0])
        assert caught.value.kind is StoreFaultKind.CORRUPT
        with pytest.raises(CompressionError):
            store.transact(lambda file: Archive().find(file, "web1", DAYS[0]))
        assert store.status.is_up
        assert store.find_audit("web1") is None


def test_missing_file_is_named(path: Path) -> None:
    """Without a file there is an error that says so, and none is made."""
    reader = Store(str(path), history=DAY)
    for ask in (lambda: reader.find_audit("web1"), lambda: reader.audit_days("web1"), reader.audit_results):
        with pytest.raises(
            StoreError, match=f"cannot read {path}: there is no such file; start the exporter"
        ) as caught:
            ask()
        assert caught.value.kind is StoreFaultKind.ABSENT
    assert list(path.parent.iterdir()) == []


def of_version_2(path: Path) -> None:
    """Make a file as the version before wrote it, with a host's state, a change, a notice and a mail."""
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


@pytest.mark.parametrize("way", ["store", "deposit"])
def test_file_of_the_version_before_is_brought_up_to_date(path: Path, way: str) -> None:
    """Everything in it stays, and it has an archive, whether the exporter opens it first or a deposit."""
    of_version_2(path)
    if way == "deposit":
        assert archive_audit(str(path), arrival(), NOW) is Outcome.ACCEPTED
    with opened(path) as (store, restored):
        assert restored["web1"].latest == scanned(HostState(WEB), 22).latest
        assert told(store) == [("web1", "22", "open")]
        outcomes = store.transact(lambda file: Archive().add(file, [arrival()], NOW))
        assert outcomes == [Outcome.IDENTICAL if way == "deposit" else Outcome.ACCEPTED]
        assert store.transact(lambda file: file.execute("SELECT host FROM notification").fetchall()) == [("web1",)]
        assert store.transact(lambda file: file.execute("SELECT recipient FROM mail").fetchall()) == [("a@b",)]
        assert store.audit_days("web1") == [DAYS[0]]


def test_file_of_the_version_before_has_no_reports_for_a_reader(path: Path) -> None:
    """Who only reads does not bring a file up to date, and finds nothing in it."""
    of_version_2(path)
    before = path.read_bytes()
    reader = Store(str(path), history=DAY)
    assert reader.find_audit("web1") is None
    assert reader.find_audit("web1", DAYS[0]) is None
    assert reader.audit_days("web1") == []
    assert reader.latest_audits() == {}
    assert reader.audit_results() == {}
    assert path.read_bytes() == before


def test_each_file_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Archives are told apart, also those that a migration begins."""
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
