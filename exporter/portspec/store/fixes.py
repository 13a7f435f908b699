"""How long vulnerabilities took to be fixed, in the state file: their number and seconds by class and bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.audit.fixes import FixCount

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

_ADD: Final = """
    INSERT INTO time_to_fix (class, bucket, count, sum) VALUES (?, ?, ?, ?)
    ON CONFLICT (class, bucket) DO UPDATE SET count = count + excluded.count, sum = sum + excluded.sum
"""


def add_fixes(connection: sqlite3.Connection, counts: Iterable[FixCount]) -> None:
    """Add to the totals; in the transaction of the caller."""
    connection.executemany(_ADD, counts)


def read_fixes(connection: sqlite3.Connection) -> list[FixCount]:
    """Return the totals."""
    return [FixCount(*row) for row in connection.execute("SELECT class, bucket, count, sum FROM time_to_fix")]
