"""The statements of the mail outbox: notices of what is to be told, and the mails that tell it.

What another program wrote into these tables may be of any type, and no UTF-8: a row is read all the same, so that it
holds no other up and can be removed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

_NOTICES = "SELECT id, CAST(at AS REAL), CAST(host AS BLOB), CAST(document AS BLOB) FROM notification ORDER BY id"
_COUNTS = "min(max(CAST({0} AS INTEGER), 0), 1000000)"  # which can be counted up
_DUE = f"""
    SELECT id, CAST(at AS REAL), CAST(recipient AS BLOB), CAST(message AS BLOB),
        {_COUNTS.format("attempts")}, {_COUNTS.format("refusals")}
    FROM mail WHERE due <= ? OR due > ? ORDER BY id LIMIT ?
"""  # noqa: S608 - of constants; a text is more than any number


@dataclass(frozen=True, slots=True)
class NoticeRow:
    """Something to tell of a host, put at a Unix time, as a document that the store does not read."""

    number: int
    at: float
    host: str
    document: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail to one address, made at a Unix time; how often it was tried, and refused for good."""

    number: int
    at: float
    recipient: str
    message: bytes
    attempts: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many notices and mails wait, and when the next mail is due, as a Unix time; None without one."""

    notices: int
    mails: int
    due: float | None


def read_notices(connection: sqlite3.Connection) -> list[NoticeRow]:
    """Give all notices, the oldest first."""
    rows = connection.execute(_NOTICES)
    return [NoticeRow(number, at, _text(host), _text(document)) for number, at, host, document in rows]


def post(
    connection: sqlite3.Connection, notices: Sequence[NoticeRow], mails: Iterable[tuple[str, bytes]], now: float
) -> None:
    """Put mails, each with its recipient, in the place of the notices that they tell."""
    connection.executemany(
        "INSERT INTO mail (at, recipient, message, due) VALUES (?, ?, ?, ?)",
        ((now, recipient, message, now) for recipient, message in mails),
    )
    connection.executemany("DELETE FROM notification WHERE id = ?", ((notice.number,) for notice in notices))


def read_due(connection: sqlite3.Connection, now: float, limit: int, longest: float = math.inf) -> list[Letter]:
    """Give mails that are due, the oldest first; none waits for more than `longest` seconds, whatever the clock did."""
    rows = connection.execute(_DUE, (now, now + longest, limit))
    return [Letter(number, at, _text(recipient), *rest) for number, at, recipient, *rest in rows]


def remove(connection: sqlite3.Connection, letter: Letter) -> None:
    """Forget a mail, and no other that has its number in a file that was made anew: it was taken, or is given up."""
    connection.execute("DELETE FROM mail WHERE id = ? AND CAST(message AS BLOB) = ?", (letter.number, letter.message))


def postpone(connection: sqlite3.Connection, letter: Letter, due: float) -> None:
    """Keep a mail, with its present counts, until a Unix time."""
    connection.execute(
        "UPDATE mail SET attempts = ?, refusals = ?, due = ? WHERE id = ?",
        (letter.attempts, letter.refusals, due, letter.number),
    )


def clear(connection: sqlite3.Connection) -> int:
    """Forget all notices and mails; gives how many mails there were."""
    connection.execute("DELETE FROM notification")
    return connection.execute("DELETE FROM mail").rowcount


def waiting(connection: sqlite3.Connection) -> Waiting:
    """Count what waits."""
    (notices,) = connection.execute("SELECT count(*) FROM notification").fetchone()
    mails, due = connection.execute("SELECT count(*), min(CAST(due AS REAL)) FROM mail").fetchone()
    return Waiting(notices, mails, due)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
