"""One report into the archive, by a process of its own: `portspec receive`, beside an exporter or without one."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from portspec.directories import followed
from portspec.store import archive, database
from portspec.store.archive import Archive
from portspec.store.schema import transaction
from portspec.store.trouble import Kind, StoreError, Trouble, trouble_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portspec.store.archive import Arrival, Outcome


def deposit(path: str, arrival: Arrival, now: float, is_good: Callable[[bytes], bool] = lambda _: True) -> Outcome:
    """Add a report that came in at `now`, in Unix seconds, to the archive in the file at `path`, and onto its disk.

    `is_good` tells of a payload whether its audit is to stay, see Archive.
    The file is made if it is not there. A lock is waited for, half a minute at most. Nothing of this process may have
    the file open, see database.open_for_writing(). Raises StoreError, and nothing was added.
    """
    with _writing(path) as connection:
        (outcome,) = Archive(is_good).add(connection, [arrival], now)
    return outcome


def note_refusal(path: str, reason: str) -> None:
    """Count a report that was refused, by a word; as deposit()."""
    with _writing(path) as connection:
        archive.count(connection, {reason: 1})


@contextmanager
def _writing(path: str) -> Iterator[sqlite3.Connection]:
    """Give a connection in a transaction, whose file has the name before and after it. Raises StoreError."""
    try:
        place = followed(path)  # as SQLite does for what is beside it
        before = database.identity(place)[0]
        with closing(database.open_for_deposit(place)) as connection:
            opened = before or database.identity(place)[0]
            with transaction(connection):
                yield connection
            _verify_place(place, opened)
    except (Trouble, sqlite3.Error, OSError, ValueError) as error:
        raise StoreError(path, trouble_of(error), "write") from error


def _verify_place(path: str, opened: tuple[int, int] | None) -> None:
    """Raise Trouble if the name leads to another file than was opened: one that was set aside, the report in it."""
    if database.identity(path)[0] != opened:
        raise Trouble(Kind.GONE, "it was removed or replaced")
