"""Retention: deletes expired changes, verdicts, states and audits in small steps; tolerates a wrong system clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.store.schema import read_value, transaction, write_value

if TYPE_CHECKING:
    import sqlite3

INTERVAL: Final = 3600.0  # seconds of the monotonic clock between two runs
MAX_STATES: Final = (
    1 << 20
)  # hosts: those that left stay as long as _MIN_STATE_RETENTION, and lists may change each minute
MAX_ROWS: Final = 1000  # rows per table and transaction; writes wait for a few milliseconds

_MAX_ADVANCE = 86_400.0  # seconds by which the reference time may jump in one run
_MIN_STATE_RETENTION = 2 * 366 * 86_400.0  # seconds; a host that is scanned once a year keeps its state
_LAST_AUDIT_RETENTION: Final = 2 * 366 * 86_400.0  # seconds for which the last audit of a host outlives the others
_MIN_TIME = 1_600_000_000.0  # 2020-09-13, before the first portspec: an earlier time means that the clock was never set
_REFERENCE_KEY = "history_reference"

_DELETE_CHANGES: Final = "DELETE FROM change WHERE id IN (SELECT id FROM change WHERE at < ? LIMIT ?)"
#: The last verdict of a host stays as long as its state, so that its age is known.
_DELETE_VERDICTS: Final = """
    DELETE FROM verdict WHERE id IN (
        SELECT id FROM verdict AS old WHERE at < ? AND (
            EXISTS (SELECT 1 FROM verdict WHERE host = old.host AND id > old.id)
            OR NOT EXISTS (SELECT 1 FROM state WHERE host = old.host)
        ) LIMIT ?
    )
"""
_DELETE_STATES: Final = "DELETE FROM state WHERE host IN (SELECT host FROM state WHERE saved_at < ? LIMIT ?)"
_DELETE_EXCESS_STATES: Final = """
    DELETE FROM state WHERE host IN (SELECT host FROM state ORDER BY saved_at DESC LIMIT -1 OFFSET ?)
"""
_DELETE_AUDITS: Final = """
    DELETE FROM audit WHERE id IN (
        SELECT id FROM audit AS old WHERE received_at < :before AND (
            received_at < :silent_since OR EXISTS (SELECT 1 FROM audit WHERE host = old.host AND day > old.day)
        ) LIMIT :limit
    )
"""
_DELETE_REPLACED_AUDITS: Final = """
    DELETE FROM replaced_audit WHERE id IN (SELECT id FROM replaced_audit WHERE received_at < ? LIMIT ?)
"""
_DELETE_AUDIT_RESULTS: Final = """
    DELETE FROM audit_result WHERE host IN (
        SELECT host FROM audit_result WHERE NOT EXISTS (SELECT 1 FROM audit WHERE host = audit_result.host) LIMIT ?
    )
"""
_DELETE_DICTIONARIES: Final = """
    DELETE FROM dictionary WHERE id IN (
        SELECT id FROM dictionary AS old
        WHERE NOT EXISTS (SELECT 1 FROM audit WHERE dictionary = old.id)
            AND NOT EXISTS (SELECT 1 FROM replaced_audit WHERE dictionary = old.id)
            AND NOT EXISTS (SELECT 1 FROM audit_result WHERE dictionary = old.id)
            AND (kind = 'host' OR id < (SELECT max(id) FROM dictionary WHERE kind = old.kind))
        LIMIT ?
    )
"""


def advance_reference(reference: float | None, now: float, *, may_advance: bool) -> float | None:
    """Return the reference time that ages are counted from, derived from the previous one and the system clock.

    The reference follows the clock within a day. If the clock is further ahead, the reference advances one day per
    INTERVAL: it catches up with a pause of 60 days in 60 hours, and if the clock jumps ahead by years, there are 15
    days to correct it before a log of one year is deleted. It never goes back.

    Args:
        reference: The previous reference in Unix seconds; None if there is none.
        now: The time of the system clock in Unix seconds.
        may_advance: Whether it may advance by a day; true once per INTERVAL.

    Returns:
        The new reference; None while the clock has never been right.
    """
    if now < _MIN_TIME:
        return reference
    if reference is None:
        return now
    if now <= reference + _MAX_ADVANCE:
        return max(reference, now)
    return reference + _MAX_ADVANCE if may_advance else reference


def delete_expired(
    connection: sqlite3.Connection, history: float, now: float, *, audit_history: float, may_advance: bool
) -> bool:
    """Delete up to MAX_ROWS expired rows of each table, in one transaction.

    Args:
        connection: A connection that writes, outside of a transaction.
        history: How long to keep changes and verdicts, in seconds.
        now: The time of the system clock, in Unix seconds.
        audit_history: How long to keep audits, in seconds.
        may_advance: Whether the reference time may advance by a day; true in the first of several steps.

    Returns:
        Whether there may be more expired rows.
    """
    with transaction(connection):
        value = read_value(connection, _REFERENCE_KEY)
        before = None if value is None else float(value)
        reference = advance_reference(before, now, may_advance=may_advance)
        if reference is None:
            return False
        if reference != before:
            write_value(connection, _REFERENCE_KEY, reference)
        today = min(reference, now)
        changes = connection.execute(_DELETE_CHANGES, (today - history, MAX_ROWS))
        states = connection.execute(_DELETE_STATES, (today - max(history, _MIN_STATE_RETENTION), MAX_ROWS))
        verdicts = connection.execute(_DELETE_VERDICTS, (today - history, MAX_ROWS))
        has_more_audits = delete_expired_audits(connection, today - audit_history, MAX_ROWS)
    return has_more_audits or MAX_ROWS in (changes.rowcount, states.rowcount, verdicts.rowcount)


def delete_excess_states(connection: sqlite3.Connection) -> int:
    """Delete the states that were saved longest ago beyond MAX_STATES, in one transaction; return how many."""
    with transaction(connection):
        return connection.execute(_DELETE_EXCESS_STATES, (MAX_STATES,)).rowcount


def delete_expired_audits(connection: sqlite3.Connection, before: float, limit: int) -> bool:
    """Delete audits that were received before a Unix time, and results and dictionaries that nothing refers to.

    The last audit of each host is kept for two more years: a host that stops sending audits is not fixed. Its result is
    deleted with it. Deletes at most `limit` rows of each table; returns whether there may be more.
    """
    parameters = {"before": before, "silent_since": before - _LAST_AUDIT_RETENTION, "limit": limit}
    deleted = (
        connection.execute(_DELETE_AUDITS, parameters),
        connection.execute(_DELETE_REPLACED_AUDITS, (before, limit)),
        connection.execute(_DELETE_AUDIT_RESULTS, (limit,)),
        connection.execute(_DELETE_DICTIONARIES, (limit,)),
    )
    return limit in (cursor.rowcount for cursor in deleted)
