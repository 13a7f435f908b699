"""The statements of the archive: the reports of hosts as they came, one a host and day, and what they came to."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec import log
from portspec.store import meta
from portspec.store.packing import DOCUMENTS, PAYLOADS, Packed, Packer, PackingError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

VERSION: Final = 3  # of the schema: a file of an earlier one has no archive
MAX_REPLACED: Final = 10  # reports of a host and day that any other may replace, and then so many are looked at
MAX_OF_HOST: Final = 256 << 20  # bytes that the reports of one host take as they are kept; usual ones take 1 MB a year,
_LARGE: Final = 64 << 10  # and those of fewer bytes than this are not added up

_MAX_READ: Final = 64 << 20  # bytes of payloads, from which on no more are read at once
_LONGEST_SILENCE: Final = 2 * 366 * 86_400.0  # seconds for which the last report of a host outlives the others
_MARK = "audit_mark"
_REPORT = "id, host, day, at, dictionary, is_sample, payload"
_OF_DAY: Final = f"SELECT {_REPORT} FROM audit WHERE host = ? AND day = ?"  # noqa: S608 - of constants
_LAST: Final = f"SELECT {_REPORT} FROM audit WHERE host = ? AND at <= ? ORDER BY day DESC"  # noqa: S608 - the same
_NEWER: Final = f"SELECT {_REPORT} FROM audit WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - the same
_PUT_REPORT: Final = """
    INSERT INTO audit (host, day, at, received_at, dictionary, is_sample, payload) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_REPLACED: Final = f"SELECT {_REPORT} FROM replaced_audit WHERE host = ? AND day = ?"  # noqa: S608 - of constants
_SET_ASIDE: Final = """
    INSERT INTO replaced_audit (id, host, day, at, received_at, dictionary, is_sample, payload)
    SELECT id, host, day, at, received_at, dictionary, is_sample, payload FROM audit WHERE id = ?
"""
_SIZE_OF_HOST: Final = """
    SELECT (SELECT coalesce(sum(length(payload)), 0) FROM audit WHERE host = :host)
        + (SELECT coalesce(sum(length(payload)), 0) FROM replaced_audit WHERE host = :host)
"""
# a report of an earlier day may come after that of a later one; the report itself may be forgotten by now
_PUT_DOCUMENT: Final = """
    INSERT INTO audit_result (host, audit_id, dictionary, is_sample, document) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (host) DO UPDATE SET audit_id = excluded.audit_id, dictionary = excluded.dictionary,
        is_sample = excluded.is_sample, document = excluded.document
    WHERE (coalesce((SELECT day FROM audit WHERE id = excluded.audit_id), ''), excluded.audit_id)
        >= (coalesce((SELECT day FROM audit WHERE id = audit_result.audit_id), ''), audit_result.audit_id)
        OR (SELECT at FROM audit WHERE id = audit_result.audit_id) > ?
"""
_COUNT: Final = """
    INSERT INTO audit_count (outcome, count) VALUES (?, ?)
    ON CONFLICT (outcome) DO UPDATE SET count = count + excluded.count
"""
_FORGET_REPORTS: Final = """
    DELETE FROM audit WHERE id IN (
        SELECT id FROM audit AS old WHERE received_at < :before AND (
            received_at < :silent_since OR EXISTS (SELECT 1 FROM audit WHERE host = old.host AND day > old.day)
        ) LIMIT :limit
    )
"""
_FORGET_REPLACED: Final = """
    DELETE FROM replaced_audit WHERE id IN (SELECT id FROM replaced_audit WHERE received_at < ? LIMIT ?)
"""
_FORGET_DOCUMENTS: Final = """
    DELETE FROM audit_result WHERE host IN (
        SELECT host FROM audit_result WHERE NOT EXISTS (SELECT 1 FROM audit WHERE host = audit_result.host) LIMIT ?
    )
"""
_FORGET_DICTIONARIES: Final = """
    DELETE FROM dictionary WHERE id IN (
        SELECT id FROM dictionary AS old
        WHERE NOT EXISTS (SELECT 1 FROM audit WHERE dictionary = old.id)
            AND NOT EXISTS (SELECT 1 FROM replaced_audit WHERE dictionary = old.id)
            AND NOT EXISTS (SELECT 1 FROM audit_result WHERE dictionary = old.id)
            AND (kind = 'host' OR id < (SELECT max(id) FROM dictionary WHERE kind = old.kind))
        LIMIT ?
    )
"""

_log = log.get("store")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A report that was admitted: `host` is canonical, `day` in UTC ("2026-11-22"), `at` when it was made (Unix)."""

    host: str
    day: str
    at: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class Archived:
    """A report in the archive; a later one to come in has a greater number."""

    number: int
    host: str
    day: str
    at: float
    payload: bytes


class Outcome(enum.StrEnum):
    """What became of an arrival.

    It is new; or it took the place of one of its day whose audit failed; or the archive has the very same bytes, or
    others of that host and day; or there is no room for more of that host.
    """

    ACCEPTED = "accepted"
    REPLACED = "replaced"
    SAME = "same"
    OTHER = "other"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where somebody has read: which archive, since a file may be begun anew, and the number of a report."""

    archive: str
    number: int


class _Row(NamedTuple):
    """A row of reports."""

    number: int
    host: str
    day: str
    at: float
    dictionary: int | None
    is_sample: bool
    blob: bytes

    @property
    def packed(self) -> Packed:
        return Packed(self.dictionary, self.is_sample, self.blob)


class Archive:
    """Adds and reads reports and what they came to, by any connection; for one thread at a time.

    It holds what they are compressed with. What is garbled is told in the log once, and does not stop the others.
    `is_good` tells of a payload whether its audit is to stay: by default all are.
    """

    def __init__(self, is_good: Callable[[bytes], bool] = lambda _: True) -> None:
        self._is_good = is_good
        self._payloads = Packer(PAYLOADS)
        self._documents = Packer(DOCUMENTS)
        self._told: set[str | int] = set()  # hosts and numbers

    def add(self, connection: sqlite3.Connection, arrivals: Sequence[Arrival], now: float) -> list[Outcome]:
        """Add reports that came in at `now`, in Unix seconds, count the accepted ones, and give what became of each.

        To be called in a transaction that holds the lock for writing: so one wins for each host and day. Raises
        PackingError for a payload of more than packing.MAX_SIZE.
        """
        outcomes = [self._added(connection, arrival, now) for arrival in arrivals]
        if accepted := outcomes.count(Outcome.ACCEPTED) + outcomes.count(Outcome.REPLACED):
            count(connection, {Outcome.ACCEPTED: accepted})
        return outcomes

    def last(self, connection: sqlite3.Connection, host: str, until: float = math.inf) -> Archived | None:
        """Give the report of the last day of a host, of those that can be read and were made until a Unix time."""
        rows = connection.execute(_LAST, (host, until))
        return next(filter(None, (self._readable(connection, _Row(*row)) for row in rows)), None)

    def of_day(self, connection: sqlite3.Connection, host: str, day: str) -> Archived | None:
        """Give the report of a host and day, if there is one. Raises PackingError if it is garbled."""
        row = connection.execute(_OF_DAY, (host, day)).fetchone()
        return self._archived(connection, _Row(*row)) if row else None

    def days(self, connection: sqlite3.Connection, host: str) -> list[str]:
        """Give the days of which there is a report of a host, the newest first."""
        return [day for (day,) in connection.execute("SELECT day FROM audit WHERE host = ? ORDER BY day DESC", (host,))]

    def newer(self, connection: sqlite3.Connection, mark: Mark | None, limit: int) -> tuple[list[Archived], Mark, int]:
        """Give the reports after a mark, in the order in which they came: `limit` at most, and fewer if they are large.

        Then the mark up to where they are, and how many are left after it, counting some that are forgotten by now. A
        mark of another archive, or of this one before it was set back, is no mark: it begins with the first report.
        """
        identity = _identity(connection)
        row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
        newest: int = row[0] if row else 0
        last = mark.number if mark and mark.archive == identity and mark.number <= newest else 0
        found: list[Archived] = []
        rows = size = 0
        for row in connection.execute(_NEWER, (last, limit)):
            rows, last = rows + 1, row[0]
            if item := self._readable(connection, _Row(*row)):
                found.append(item)
                size += len(item.payload)
            if size >= _MAX_READ:
                break
        else:
            last = last if rows >= limit else max(last, newest)
        return found, Mark(identity, last), max(0, newest - last)

    def put_documents(
        self,
        connection: sqlite3.Connection,
        documents: Iterable[tuple[str, int, str]],
        mark: Mark,
        until: float = math.inf,
    ) -> None:
        """Put what reports came to, each with its host and the number of the report, and up to where they were read.

        The document of an earlier day does not replace that of a later one, but for one that was made after `until`,
        in Unix seconds: it came while our clock was ahead. Nothing is put into another archive than
        that of the mark.
        """
        if mark.archive != _identity(connection):
            return
        for host, number, document in documents:
            try:
                packed = self._documents.pack(connection, document.encode("utf-8", "surrogatepass"))
            except PackingError as error:
                _log.error("what a report comes to cannot be kept", host=host, why=str(error))
                continue
            connection.execute(_PUT_DOCUMENT, (host, number, *packed, until))
            if packed.is_sample:
                self._documents.learn(connection)
        meta.write(connection, _MARK, str(mark.number))

    def documents(self, connection: sqlite3.Connection) -> Iterator[tuple[str, int, str]]:
        """Give each host, the number of the report that was read last, and its document, but for those garbled."""
        for host, number, *packed in connection.execute(
            "SELECT host, audit_id, dictionary, is_sample, document FROM audit_result ORDER BY host"
        ):
            try:
                document = self._documents.unpack(connection, Packed(*packed)).decode("utf-8", "surrogatepass")
            except ValueError as error:
                self._tell(host, "what a report came to is garbled in the archive", host=host, why=str(error))
            else:
                yield host, number, document

    def mark(self, connection: sqlite3.Connection) -> Mark | None:
        """Give the mark that was put last."""
        number = meta.read(connection, _MARK)
        return Mark(_identity(connection), int(number)) if number and number.isdecimal() else None

    def _added(self, connection: sqlite3.Connection, arrival: Arrival, now: float) -> Outcome:
        host, day, payload = arrival.host, arrival.day, arrival.payload
        replaced: _Row | None = None
        if found := connection.execute(_OF_DAY, (host, day)).fetchone():
            row = _Row(*found)
            if known := self._readable(connection, row):
                if known.payload == payload or self._was_replaced(connection, arrival):
                    return Outcome.SAME
                if not self._may_replace(connection, known, arrival):
                    return Outcome.OTHER
                replaced = row
            else:
                connection.execute("DELETE FROM audit WHERE id = ?", (row.number,))  # nobody can say what it was
        packed = self._payloads.pack(connection, payload)
        if packed.is_sample and (row := connection.execute(_LAST, (host, math.inf)).fetchone()):
            packed = self._payloads.pack_like(connection, payload, _Row(*row).packed) or packed
        if len(packed.blob) >= _LARGE:
            (size,) = connection.execute(_SIZE_OF_HOST, {"host": host}).fetchone()
            if size + len(packed.blob) > MAX_OF_HOST:
                return Outcome.FULL
        if replaced:
            connection.execute(_SET_ASIDE, (replaced.number,))
            connection.execute("DELETE FROM audit WHERE id = ?", (replaced.number,))
        connection.execute(_PUT_REPORT, (host, day, arrival.at, now, *packed))
        if packed.is_sample:
            self._payloads.learn(connection)
        return Outcome.REPLACED if replaced else Outcome.ACCEPTED

    def _was_replaced(self, connection: sqlite3.Connection, arrival: Arrival) -> bool:
        """Tell whether the very same report is one of those of its day that others have replaced."""
        rows = connection.execute(_REPLACED, (arrival.host, arrival.day)).fetchall()
        found = (self._readable(connection, _Row(*row)) for row in rows)
        return any(item is not None and item.payload == arrival.payload for item in found)

    def _may_replace(self, connection: sqlite3.Connection, known: Archived, arrival: Arrival) -> bool:
        """Tell whether a report may take the place of another of its day: one that failed, and was made before it.

        Whether the audit of the other is good is looked up once, and kept with it. To look takes seconds at worst, so
        it is done for a few reports a day.
        """
        if arrival.at < known.at:
            return False
        (is_good,) = connection.execute("SELECT is_good FROM audit WHERE id = ?", (known.number,)).fetchone()
        if is_good is None:
            is_good = int(self._is_good(known.payload))
            connection.execute("UPDATE audit SET is_good = ? WHERE id = ?", (is_good, known.number))
        if is_good > 0:
            return False
        (count,) = connection.execute(
            "SELECT count(*) FROM replaced_audit WHERE host = ? AND day = ?", (arrival.host, arrival.day)
        ).fetchone()
        if count < MAX_REPLACED:
            return True
        if is_good <= -MAX_REPLACED:
            return False
        if self._is_good(arrival.payload):
            return True
        connection.execute("UPDATE audit SET is_good = is_good - 1 WHERE id = ?", (known.number,))
        return False

    def _archived(self, connection: sqlite3.Connection, row: _Row) -> Archived:
        return Archived(row.number, row.host, row.day, row.at, self._payloads.unpack(connection, row.packed))

    def _readable(self, connection: sqlite3.Connection, row: _Row) -> Archived | None:
        try:
            return self._archived(connection, row)
        except PackingError as error:
            self._tell(
                row.number,
                "a report in the archive is garbled: it is left out",
                host=row.host,
                day=row.day,
                why=str(error),
            )
            return None

    def _tell(self, what: str | int, event: str, **values: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.error(event, **values)


def count(connection: sqlite3.Connection, outcomes: Mapping[str, int]) -> None:
    """Add to the totals of what became of reports: those accepted, and those refused by reason."""
    connection.executemany(_COUNT, ((str(outcome), number) for outcome, number in outcomes.items()))


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Give the totals, of all processes that count in this file."""
    return dict(connection.execute("SELECT outcome, count FROM audit_count"))


def last_numbers(connection: sqlite3.Connection, until: float = math.inf) -> dict[str, int]:
    """Give the number of each host's report of the last day, of those that were made until a Unix time."""
    rows = connection.execute("SELECT host, id, max(day) FROM audit WHERE at <= ? GROUP BY host", (until,))
    return {host: number for host, number, _ in rows}


def forget(connection: sqlite3.Connection, before: float, limit: int) -> bool:
    """Delete some of the reports that came in before a Unix time, and what nothing refers to any more.

    The last report of each host stays for two years more: a host that is silent has not come into order. Then its
    document goes, too. Of what there is each, `limit` at most are deleted; gives whether there may be more.
    """
    reports = connection.execute(
        _FORGET_REPORTS, {"before": before, "silent_since": before - _LONGEST_SILENCE, "limit": limit}
    )
    replaced = connection.execute(_FORGET_REPLACED, (before, limit))
    documents = connection.execute(_FORGET_DOCUMENTS, (limit,))
    dictionaries = connection.execute(_FORGET_DICTIONARIES, (limit,))
    return limit in (reports.rowcount, replaced.rowcount, documents.rowcount, dictionaries.rowcount)


def _identity(connection: sqlite3.Connection) -> str:
    """Give the random name of the archive in a file."""
    return meta.read(connection, "archive") or ""
