"""The mail outbox in the state file: queued notifications, and the mails rendered from them.

Another program may have stored values of any type in these tables, or invalid UTF-8. Such rows are read like the
others, so that they block nothing and can be removed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

_SELECT_NOTIFICATIONS = (
    "SELECT id, CAST(at AS REAL), CAST(host AS BLOB), CAST(document AS BLOB) FROM notification ORDER BY id"
)
_COUNTER = "min(max(CAST({0} AS INTEGER), 0), 1000000)"  # small enough to be incremented
_SELECT_DUE = f"""
    SELECT id, CAST(at AS REAL), CAST(recipient AS BLOB), CAST(message AS BLOB),
        {_COUNTER.format("attempts")}, {_COUNTER.format("refusals")}
    FROM mail WHERE due <= ? OR due > ? ORDER BY id LIMIT ?
"""  # noqa: S608 - of constants; SQLite sorts text after numbers


@dataclass(frozen=True, slots=True)
class QueuedNotification:
    """A notification about a host, queued at a Unix time; the store does not parse its document."""

    number: int
    at: float
    host: str
    document: str


@dataclass(frozen=True, slots=True)
class QueuedMail:
    """A mail to one address, queued at a Unix time, with its delivery attempts and permanent refusals so far."""

    number: int
    at: float
    recipient: str
    message: bytes
    attempts: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """The numbers of queued notifications and mails, and the Unix time when the next mail is due (None if none)."""

    notifications: int
    mails: int
    due: float | None


def read_notifications(connection: sqlite3.Connection) -> list[QueuedNotification]:
    """Return all notifications, the oldest first."""
    rows = connection.execute(_SELECT_NOTIFICATIONS)
    return [QueuedNotification(number, at, _text(host), _text(document)) for number, at, host, document in rows]


def enqueue(
    connection: sqlite3.Connection,
    notifications: Sequence[QueuedNotification],
    mails: Iterable[tuple[str, bytes]],
    now: float,
) -> None:
    """Replace notifications by the mails rendered from them, each with its recipient."""
    connection.executemany(
        "INSERT INTO mail (at, recipient, message, due) VALUES (?, ?, ?, ?)",
        ((now, recipient, message, now) for recipient, message in mails),
    )
    connection.executemany("DELETE FROM notification WHERE id = ?", ((item.number,) for item in notifications))


def read_due(connection: sqlite3.Connection, now: float, limit: int, longest: float = math.inf) -> list[QueuedMail]:
    """Return at most `limit` mails that are due, the oldest first.

    A mail that is due more than `longest` seconds after `now` is due at once: the clock was ahead when it was queued.
    """
    rows = connection.execute(_SELECT_DUE, (now, now + longest, limit))
    return [QueuedMail(number, at, _text(recipient), *rest) for number, at, recipient, *rest in rows]


def remove(connection: sqlite3.Connection, mail: QueuedMail) -> None:
    """Remove a mail that was delivered or given up.

    Compares the message, too: in a new state file, another mail may have its number.
    """
    connection.execute("DELETE FROM mail WHERE id = ? AND CAST(message AS BLOB) = ?", (mail.number, mail.message))


def postpone(connection: sqlite3.Connection, mail: QueuedMail, due: float) -> None:
    """Retry a mail at a Unix time; stores its counters."""
    connection.execute(
        "UPDATE mail SET attempts = ?, refusals = ?, due = ? WHERE id = ?",
        (mail.attempts, mail.refusals, due, mail.number),
    )


def clear(connection: sqlite3.Connection) -> int:
    """Remove all notifications and mails; return the number of mails."""
    connection.execute("DELETE FROM notification")
    return connection.execute("DELETE FROM mail").rowcount


def read_status(connection: sqlite3.Connection) -> OutboxStatus:
    """Return what is queued."""
    (notices,) = connection.execute("SELECT count(*) FROM notification").fetchone()
    mails, due = connection.execute("SELECT count(*), min(CAST(due AS REAL)) FROM mail").fetchone()
    return OutboxStatus(notices, mails, due)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
