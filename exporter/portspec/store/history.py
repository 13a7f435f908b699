"""Forgetting: what is older than the history to be kept, a little at a time, and not because a clock is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.store import archive
from portspec.store.schema import transaction

if TYPE_CHECKING:
    import sqlite3

EVERY: Final = 3600.0  # seconds of the monotonic clock
STEP: Final = 1000  # rows a transaction: a few milliseconds, for which writing has to wait

_MAX_ADVANCE = 86_400.0  # seconds
_LONGEST_INTERVAL = 2 * 366 * 86_400.0  # seconds, and as many again: a host that is scanned once a year stays known
_EARLIEST = 1_600_000_000.0  # 2020-09-13, before portspec was: a clock that says less was never set
_KEY = "history_reference"


def advanced(reference: float | None, now: float, *, may_advance: bool) -> float | None:
    """Give the time that history is counted back from, by the one that was used before and what the clock says.

    All are Unix seconds. It follows the clock for a day, and what is further ahead a day at a time, if `may_advance`,
    which is once in EVERY seconds: it takes 60 hours to catch up after a pause of 60 days, and under a clock that is
    years ahead there are 15 days to set it right before a log of a year is gone. It never goes back. None as long as
    the clock was never seen right.
    """
    if now < _EARLIEST:
        return reference
    if reference is None:
        return now
    if now <= reference + _MAX_ADVANCE:
        return max(reference, now)
    return reference + _MAX_ADVANCE if may_advance else reference


def forget(
    connection: sqlite3.Connection, history: float, now: float, *, report_history: float, may_advance: bool
) -> bool:
    """Delete some of the changes that are older than `history` seconds, and some of the states of hosts that are gone.

    The same of reports older than `report_history` seconds. Gives whether there may be more of any.

    `may_advance` in the first step of many.
    """
    with transaction(connection):
        row = connection.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
        before = None if row is None else float(row[0])
        reference = advanced(before, now, may_advance=may_advance)
        if reference is None:
            return False
        if reference != before:
            connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_KEY, reference))
        until = min(reference, now) - history
        changes = connection.execute(
            "DELETE FROM change WHERE id IN (SELECT id FROM change WHERE at < ? LIMIT ?)", (until, STEP)
        )
        unseen = min(reference, now) - max(history, _LONGEST_INTERVAL)
        states = connection.execute(
            "DELETE FROM state WHERE host IN (SELECT host FROM state WHERE saved_at < ? LIMIT ?)", (unseen, STEP)
        )
        are_more_reports = archive.forget(connection, min(reference, now) - report_history, STEP)
    return are_more_reports or STEP in (changes.rowcount, states.rowcount)
