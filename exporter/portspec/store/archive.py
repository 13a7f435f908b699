"""The archive of incoming audits: one per host and day, compressed as received, and the result of each host's last one.

In the exporter the methods of Archive run in the thread of the writer. `portspec receive` is a process of its own and
uses archive_audit() and count_rejection().
"""

from __future__ import annotations

import enum
import math
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from portspec import log
from portspec.directories import followed
from portspec.store import database
from portspec.store.compression import AUDIT_RESULTS, AUDITS, Compressed, CompressionError, DictionaryCompressor
from portspec.store.faults import StoreError, StoreFault, StoreFaultKind, classify_error
from portspec.store.fixes import add_fixes
from portspec.store.schema import read_value, transaction, write_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from portspec.audit.fixes import FixCount

MIN_VERSION: Final = 3  # of the schema; a file of an earlier version has no archive
MAX_REPLACED: Final = 10  # audits per host and day that any other may replace, and then that many good ones are tried
MAX_HOST_SIZE: Final = 256 << 20  # compressed bytes per host; a usual host takes 1 MB a year

_SMALL_AUDIT: Final = 64 << 10  # compressed bytes below which the quota is not checked
_MAX_READ_SIZE: Final = 64 << 20  # bytes of payloads after which read_after() stops
_POSITION_KEY = "audit_mark"
_ARCHIVE_KEY = "archive"
_COLUMNS = "id, host, day, at, dictionary, is_sample, payload"
_SELECT_DAY: Final = f"SELECT {_COLUMNS} FROM audit WHERE host = ? AND day = ?"  # noqa: S608 - of constants
_SELECT_LATEST: Final = f"SELECT {_COLUMNS} FROM audit WHERE host = ? AND at <= ? ORDER BY day DESC"  # noqa: S608 - the same
_SELECT_AFTER: Final = f"SELECT {_COLUMNS} FROM audit WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - the same
_SELECT_REPLACED: Final = f"SELECT {_COLUMNS} FROM replaced_audit WHERE host = ? AND day = ?"  # noqa: S608 - the same
_INSERT_AUDIT: Final = """
    INSERT INTO audit (host, day, at, received_at, dictionary, is_sample, payload) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_REPLACED: Final = """
    INSERT INTO replaced_audit (id, host, day, at, received_at, dictionary, is_sample, payload)
    SELECT id, host, day, at, received_at, dictionary, is_sample, payload FROM audit WHERE id = ?
"""
_SELECT_HOST_SIZE: Final = """
    SELECT (SELECT coalesce(sum(length(payload)), 0) FROM audit WHERE host = :host)
        + (SELECT coalesce(sum(length(payload)), 0) FROM replaced_audit WHERE host = :host)
"""
# An audit of an earlier day may arrive after that of a later one, and the audit of a result may be deleted by now.
_UPSERT_RESULT: Final = """
    INSERT INTO audit_result (host, audit_id, dictionary, is_sample, document) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (host) DO UPDATE SET audit_id = excluded.audit_id, dictionary = excluded.dictionary,
        is_sample = excluded.is_sample, document = excluded.document
    WHERE (coalesce((SELECT day FROM audit WHERE id = excluded.audit_id), ''), excluded.audit_id)
        >= (coalesce((SELECT day FROM audit WHERE id = audit_result.audit_id), ''), audit_result.audit_id)
        OR (SELECT at FROM audit WHERE id = audit_result.audit_id) > ?
"""
_ADD_COUNT: Final = """
    INSERT INTO audit_count (outcome, count) VALUES (?, ?)
    ON CONFLICT (outcome) DO UPDATE SET count = count + excluded.count
"""

_NO_FIXES: Final[Mapping[int, Sequence[FixCount]]] = MappingProxyType({})
_log = log.get("store")


@dataclass(frozen=True, slots=True)
class IncomingAudit:
    """An admitted audit.

    Attributes:
        host: The canonical name of the host.
        day: The day in UTC, such as "2026-11-22".
        at: When the audit was made, in Unix seconds.
        payload: The audit as the host sent it.
    """

    host: str
    day: str
    at: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class ArchivedAudit:
    """An audit in the archive; numbers increase in the order of arrival."""

    number: int
    host: str
    day: str
    at: float
    payload: bytes


class Outcome(enum.StrEnum):
    """The outcome of adding an audit."""

    ACCEPTED = "accepted"
    REPLACED = "replaced"  # it replaced an audit of its day whose audit tool failed
    IDENTICAL = "identical"  # the archive has the same bytes
    CONFLICT = "conflict"  # the archive has another audit of that host and day
    QUOTA_EXCEEDED = "quota_exceeded"  # the host has too many bytes in the archive


@dataclass(frozen=True, slots=True)
class ArchivePosition:
    """How far a reader has read: the archive (a file may be created anew), and the number of the last audit."""

    archive: str
    number: int


class _Row(NamedTuple):
    """A row of `audit` or `replaced_audit`."""

    number: int
    host: str
    day: str
    at: float
    dictionary: int | None
    is_sample: bool
    blob: bytes

    @property
    def compressed(self) -> Compressed:
        return Compressed(self.dictionary, self.is_sample, self.blob)


class Archive:
    """Adds and reads audits and their results through any connection; not thread-safe.

    It caches compression dictionaries. A corrupt row is logged once and skipped.

    Args:
        is_good: Returns whether a payload's audit succeeded, so that no other of its day may replace it; by default
            every audit is good.
    """

    def __init__(self, is_good: Callable[[bytes], bool] = lambda _: True) -> None:
        self._is_good = is_good
        self._payloads = DictionaryCompressor(AUDITS)
        self._results = DictionaryCompressor(AUDIT_RESULTS)
        self._logged: set[str | int] = set()  # hosts of corrupt results, numbers of corrupt audits

    def add(self, connection: sqlite3.Connection, audits: Sequence[IncomingAudit], now: float) -> list[Outcome]:
        """Add audits that were received at `now` (Unix seconds), count the accepted ones, and return each outcome.

        Call it in a transaction that holds the write lock, so that one audit wins per host and day.

        Raises:
            CompressionError: A payload has more than compression.MAX_SIZE bytes.
        """
        outcomes = [self._add(connection, audit, now) for audit in audits]
        if accepted := outcomes.count(Outcome.ACCEPTED) + outcomes.count(Outcome.REPLACED):
            add_counts(connection, {Outcome.ACCEPTED: accepted})
        return outcomes

    def latest(self, connection: sqlite3.Connection, host: str, until: float = math.inf) -> ArchivedAudit | None:
        """Return a host's audit of the latest day, of those that are readable and were made until a Unix time."""
        rows = connection.execute(_SELECT_LATEST, (host, until))
        return next(filter(None, (self._read_or_log(connection, _Row(*row)) for row in rows)), None)

    def find(self, connection: sqlite3.Connection, host: str, day: str) -> ArchivedAudit | None:
        """Return the audit of a host and day, if there is one. Raises CompressionError if it is corrupt."""
        row = connection.execute(_SELECT_DAY, (host, day)).fetchone()
        return self._read(connection, _Row(*row)) if row else None

    def days(self, connection: sqlite3.Connection, host: str) -> list[str]:
        """Return the days for which there is an audit of a host, the newest first."""
        return [day for (day,) in connection.execute("SELECT day FROM audit WHERE host = ? ORDER BY day DESC", (host,))]

    def read_after(
        self, connection: sqlite3.Connection, position: ArchivePosition | None, limit: int
    ) -> tuple[list[ArchivedAudit], ArchivePosition, int]:
        """Return the audits after a position, in the order of arrival.

        Without a position it starts with the first audit; likewise if the position belongs to another archive, or to
        this one before it was restored from a backup.

        Returns:
            At most `limit` audits, fewer if they are large; the position after them; and the number of audits that
            remain, including some that are deleted by now.
        """
        archive = _archive_id(connection)
        row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
        newest: int = row[0] if row else 0
        last = position.number if position and position.archive == archive and position.number <= newest else 0
        found: list[ArchivedAudit] = []
        rows = size = 0
        for row in connection.execute(_SELECT_AFTER, (last, limit)):
            rows, last = rows + 1, row[0]
            if audit := self._read_or_log(connection, _Row(*row)):
                found.append(audit)
                size += len(audit.payload)
            if size >= _MAX_READ_SIZE:
                break
        else:
            last = last if rows >= limit else max(last, newest)
        return found, ArchivePosition(archive, last), max(0, newest - last)

    def save_results(
        self,
        connection: sqlite3.Connection,
        results: Iterable[tuple[str, int, str]],
        position: ArchivePosition,
        until: float = math.inf,
        fixes: Mapping[int, Sequence[FixCount]] = _NO_FIXES,
    ) -> None:
        """Save the results of audits and the position up to which audits were read.

        The result of an earlier day does not replace that of a later one, unless the latter was made after `until`.
        What a result shows to be fixed is added to the totals only if that result is saved.

        Args:
            connection: A connection in a transaction.
            results: Host, number of the audit, and the result as a document.
            position: The position; if it belongs to another archive, nothing is saved.
            until: The end of valid times in Unix seconds; an audit made later was accepted while the clock was ahead.
            fixes: What the results show to be fixed, by the number of the audit.
        """
        if position.archive != _archive_id(connection):
            return
        for host, number, document in results:
            try:
                compressed = self._results.compress(connection, document.encode("utf-8", "surrogatepass"))
            except CompressionError as error:
                _log.error("cannot save the result of an audit", host=host, why=str(error))
                continue
            if connection.execute(_UPSERT_RESULT, (host, number, *compressed, until)).rowcount:
                add_fixes(connection, fixes.get(number, ()))
            if compressed.is_sample:
                self._results.update_dictionary(connection)
        write_value(connection, _POSITION_KEY, str(position.number))

    def results(self, connection: sqlite3.Connection) -> Iterator[tuple[str, int, str]]:
        """Return each host, the number of its last audit that was read, and the result; corrupt ones are skipped."""
        for host, number, *compressed in connection.execute(
            "SELECT host, audit_id, dictionary, is_sample, document FROM audit_result ORDER BY host"
        ):
            try:
                document = self._results.decompress(connection, Compressed(*compressed)).decode(
                    "utf-8", "surrogatepass"
                )
            except ValueError as error:
                self._log_once(host, "the result of an audit is corrupt", host=host, why=str(error))
            else:
                yield host, number, document

    def first_result(self, connection: sqlite3.Connection, hosts: Iterable[str]) -> str | None:
        """Return the result of the last audit that was read, of the first of some hosts that has one.

        None if there is none, or if it is corrupt.
        """
        rows = (
            connection.execute("SELECT dictionary, is_sample, document FROM audit_result WHERE host = ?", (host,))
            for host in hosts
        )
        row = next(filter(None, (found.fetchone() for found in rows)), None)
        try:
            data = self._results.decompress(connection, Compressed(*row)) if row else b""
            return data.decode("utf-8", "surrogatepass") or None
        except ValueError:  # results() tells of it
            return None

    def read_position(self, connection: sqlite3.Connection) -> ArchivePosition | None:
        """Return the position that was saved last."""
        number = read_value(connection, _POSITION_KEY)
        return ArchivePosition(_archive_id(connection), int(number)) if number and number.isdecimal() else None

    def _add(self, connection: sqlite3.Connection, audit: IncomingAudit, now: float) -> Outcome:
        host, day, payload = audit.host, audit.day, audit.payload
        replaced: _Row | None = None
        if found := connection.execute(_SELECT_DAY, (host, day)).fetchone():
            row = _Row(*found)
            if known := self._read_or_log(connection, row):
                if known.payload == payload or self._was_replaced(connection, audit):
                    return Outcome.IDENTICAL
                if not self._may_replace(connection, known, audit):
                    return Outcome.CONFLICT
                replaced = row
            else:
                connection.execute("DELETE FROM audit WHERE id = ?", (row.number,))  # it is corrupt
        compressed = self._payloads.compress(connection, payload)
        if compressed.is_sample and (row := connection.execute(_SELECT_LATEST, (host, math.inf)).fetchone()):
            compressed = self._payloads.compress_like(connection, payload, _Row(*row).compressed) or compressed
        if len(compressed.blob) >= _SMALL_AUDIT:
            (size,) = connection.execute(_SELECT_HOST_SIZE, {"host": host}).fetchone()
            if size + len(compressed.blob) > MAX_HOST_SIZE:
                return Outcome.QUOTA_EXCEEDED
        if replaced:
            connection.execute(_INSERT_REPLACED, (replaced.number,))
            connection.execute("DELETE FROM audit WHERE id = ?", (replaced.number,))
        connection.execute(_INSERT_AUDIT, (host, day, audit.at, now, *compressed))
        if compressed.is_sample:
            self._payloads.update_dictionary(connection)
        return Outcome.REPLACED if replaced else Outcome.ACCEPTED

    def _was_replaced(self, connection: sqlite3.Connection, audit: IncomingAudit) -> bool:
        """Return whether the same payload is among the replaced audits of its day."""
        rows = connection.execute(_SELECT_REPLACED, (audit.host, audit.day)).fetchall()
        found = (self._read_or_log(connection, _Row(*row)) for row in rows)
        return any(item is not None and item.payload == audit.payload for item in found)

    def _may_replace(self, connection: sqlite3.Connection, known: ArchivedAudit, audit: IncomingAudit) -> bool:
        """Return whether an audit may replace another of its day: one that failed and was made before it.

        Whether the known audit is good is determined once and stored with it. That may take seconds, so it is limited
        to a few audits per day.
        """
        if audit.at < known.at:
            return False
        (is_good,) = connection.execute("SELECT is_good FROM audit WHERE id = ?", (known.number,)).fetchone()
        if is_good is None:
            is_good = int(self._is_good(known.payload))
            connection.execute("UPDATE audit SET is_good = ? WHERE id = ?", (is_good, known.number))
        if is_good > 0:
            return False
        (count,) = connection.execute(
            "SELECT count(*) FROM replaced_audit WHERE host = ? AND day = ?", (audit.host, audit.day)
        ).fetchone()
        if count < MAX_REPLACED:
            return True
        if is_good <= -MAX_REPLACED:
            return False
        if self._is_good(audit.payload):
            return True
        connection.execute("UPDATE audit SET is_good = is_good - 1 WHERE id = ?", (known.number,))
        return False

    def _read(self, connection: sqlite3.Connection, row: _Row) -> ArchivedAudit:
        return ArchivedAudit(
            row.number, row.host, row.day, row.at, self._payloads.decompress(connection, row.compressed)
        )

    def _read_or_log(self, connection: sqlite3.Connection, row: _Row) -> ArchivedAudit | None:
        try:
            return self._read(connection, row)
        except CompressionError as error:
            self._log_once(
                row.number,
                "an audit in the archive is corrupt; skipping it",
                host=row.host,
                day=row.day,
                why=str(error),
            )
            return None

    def _log_once(self, key: str | int, event: str, **values: str) -> None:
        if key not in self._logged:
            self._logged.add(key)
            _log.error(event, **values)


def add_counts(connection: sqlite3.Connection, outcomes: Mapping[str, int]) -> None:
    """Add to the totals of accepted audits and of rejected ones by reason."""
    connection.executemany(_ADD_COUNT, ((str(outcome), number) for outcome, number in outcomes.items()))


def read_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the totals of all processes that use this file."""
    return dict(connection.execute("SELECT outcome, count FROM audit_count"))


def latest_numbers(connection: sqlite3.Connection, until: float = math.inf) -> dict[str, int]:
    """Return the number of each host's audit of the latest day, of those that were made until a Unix time."""
    rows = connection.execute("SELECT host, id, max(day) FROM audit WHERE at <= ? GROUP BY host", (until,))
    return {host: number for host, number, _ in rows}


def archive_audit(
    path: str, audit: IncomingAudit, now: float, is_good: Callable[[bytes], bool] = lambda _: True
) -> Outcome:
    """Add one audit to the archive in the file at `path`, in a process other than the exporter.

    The file is created if it does not exist. When this returns, the audit is on disk. Nothing else in this process may
    have the file open, see database.open_for_writing().

    Args:
        path: The path of the state file.
        audit: The audit.
        now: When it was received, in Unix seconds.
        is_good: See Archive.

    Raises:
        StoreError: Nothing was added, for example because a lock was not released within half a minute.
    """
    with _open_transaction(path) as connection:
        (outcome,) = Archive(is_good).add(connection, [audit], now)
    return outcome


def count_rejection(path: str, reason: str) -> None:
    """Count a rejected audit by its reason, in a process other than the exporter; see archive_audit()."""
    with _open_transaction(path) as connection:
        add_counts(connection, {reason: 1})


@contextmanager
def _open_transaction(path: str) -> Iterator[sqlite3.Connection]:
    """Yield a connection in a transaction on a file that is not replaced meanwhile. Raises StoreError."""
    try:
        real_path = followed(path)  # as SQLite does for -wal and -shm
        before = database.file_identity(real_path)[0]
        with closing(database.open_for_insert(real_path)) as connection:
            opened = before or database.file_identity(real_path)[0]
            with transaction(connection):
                yield connection
            _verify_not_replaced(real_path, opened)
    except (StoreFault, sqlite3.Error, OSError, ValueError) as error:
        raise StoreError(path, classify_error(error), "write") from error


def _verify_not_replaced(path: str, opened: tuple[int, int] | None) -> None:
    """Raise StoreFault if another file has the name now: the open one may have been renamed as corrupt."""
    if database.file_identity(path)[0] != opened:
        raise StoreFault(StoreFaultKind.GONE, "it was removed or replaced")


def _archive_id(connection: sqlite3.Connection) -> str:
    """Return the random id of the archive in a file."""
    return read_value(connection, _ARCHIVE_KEY) or ""
