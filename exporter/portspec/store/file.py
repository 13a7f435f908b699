"""The file as the store holds it: opened when needed, watched, set aside if corrupt, its troubles told once."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from portspec import log
from portspec.directories import followed
from portspec.store import database
from portspec.store.lock import HeldTrouble, Lock
from portspec.store.trouble import Kind, StoreError, Trouble, trouble_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portspec.store.lock import Holder

_MAX_SET_ASIDE = 10  # files in the life of a process: a disk that garbles everything is not to be filled with them

_log = log.get("store")


class File:
    """The SQLite file at a path, with one connection that writes; for one thread at a time, reading() for any."""

    def __init__(self, path: str, wall_clock: Callable[[], float], holder: Holder) -> None:
        self.path = followed(path)  # as SQLite does for the files beside it
        self._lock = Lock(self.path, holder)
        self.errors = 0
        self.is_up = False
        self._wall_clock = wall_clock
        self._connection: sqlite3.Connection | None = None
        self._identity: database.Identity = ()
        self._trouble: Trouble | None = None
        self._told: set[Kind] = set()  # since it was last up
        self._set_aside = 0
        self._opening = threading.Lock()  # no reader may be at the file while it is opened for writing

    @property
    def trouble(self) -> Trouble:
        """What is wrong with it, as long as it is not up."""
        return self._trouble or Trouble(Kind.OTHER, "it was not opened yet")

    @property
    def is_held(self) -> bool:
        """True while another exporter holds it, as far as the last try told."""
        return self._trouble is not None and self._trouble.kind is Kind.HELD

    @property
    def is_open(self) -> bool:
        """True while there is a connection that writes; the next one may be to another file."""
        return self._connection is not None

    def opened(self, *, is_suspect: bool = False) -> sqlite3.Connection:
        """Give the connection that writes; if the file is suspect, a new one to a file that was checked.

        Raises Trouble, and OSError.
        """
        if is_suspect:
            self.close()  # for it would look at what it has in memory
        if self._connection is None:
            with self._opening:
                database.refuse_foreign(self.path)  # beside which nothing is made
            self._lock.acquire()  # before the file is opened: nobody but its holder may set it aside
            with self._opening:
                self._connection = database.open_for_writing(self.path, is_suspect=is_suspect)
                self._identity = database.identity(self.path)
        return self._connection

    def verify_place(self, *, is_after_commit: bool = False) -> None:
        """Raise Trouble if the name leads to another file than is open, or to none: SQLite would not notice.

        After a commit only the file itself counts: a -wal that was removed is written back when the file is closed.
        The lock is looked at, too, since another exporter would get it if its file were removed.
        """
        self._lock.acquire()
        for was, found in zip(self._identity, database.identity(self.path), strict=True):
            if was not in (None, found):
                raise Trouble(Kind.GONE, "it was removed or replaced")
            if is_after_commit:
                break

    def failed(self, error: Exception) -> bool:
        """Take note of an error, and tell it in the log unless that was done; give whether to try again at once."""
        trouble = trouble_of(error)
        self.errors += 1
        self.is_up = False
        self._trouble = Trouble(trouble.kind, trouble.why)  # without the traceback, which holds on to what it passed
        if trouble.kind is Kind.GONE:
            self._leave()
        elif trouble.kind not in (Kind.FULL, Kind.LOCKED):  # which leave the connection as it was
            self.close()
        if trouble.kind is Kind.CORRUPT and self._has_set_aside(trouble):
            return True
        if isinstance(trouble, HeldTrouble):
            self._tell_holder(trouble.holder)
        elif trouble.kind not in self._told:
            self._told.add(trouble.kind)
            is_expected = isinstance(error, Trouble | sqlite3.Error | OSError)
            _log.error(
                "the state cannot be written: scanning goes on, and what is found is kept in memory until it can",
                file=self.path,
                why=trouble.why,
                todo=trouble.kind.value,
                **({} if is_expected else {"exc_info": error}),
            )
        return trouble.kind is Kind.GONE

    def _tell_holder(self, holder: Holder | None) -> None:
        """Tell in the log which exporter holds the file, once."""
        if Kind.HELD not in self._told:
            self._told.add(Kind.HELD)
            _log.error(
                "another exporter holds the state file: scanning goes on, and nothing is written or mailed here until "
                "that one ends",
                file=self.path,
                **(holder.fields if holder else {}),
                todo=Kind.HELD.value,
            )

    def succeeded(self, dropped: int = 0) -> None:
        """Take note that all was written, but for so many changes ever, and tell it in the log after a trouble."""
        if Kind.HELD in self._told:
            _log.info("the state file is free: it is written from now on", file=self.path)
        elif self._told:
            _log.info("the state is written again", file=self.path, changes_dropped=dropped)
        self._told.clear()
        self._trouble = None
        self.is_up = True

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that reads. Raises StoreError, also for what goes wrong while it is used."""
        try:
            self._refuse_unreadable()
            with self._opening, closing(database.open_for_reading(self.path)) as connection:
                yield connection
        except (Trouble, sqlite3.Error, OSError, ValueError) as error:
            raise StoreError(self.path, trouble_of(error)) from error

    def close(self) -> None:
        """Write the -wal back into the file if it can be, and close it; may be called again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def release(self) -> None:
        """Close it, and let another exporter have it; may be called again."""
        self.close()
        self._lock.release()

    def _leave(self) -> None:
        """Close a file that has another name now, or none: what is in its -wal belongs there, not into the next file.

        SQLite itself would leave the -wal to whatever file has the name.
        """
        with self._opening:
            if self._connection is not None:
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.close()
            with suppress(OSError, ValueError, OverflowError):
                database.set_wal_aside(self.path, self._identity, self._wall_clock())

    def _refuse_unreadable(self) -> None:
        """Raise Trouble about a file that is known not to be ours: opening it may make files beside it."""
        trouble = self._trouble
        if trouble and trouble.kind in (Kind.FOREIGN, Kind.NEWER):
            raise Trouble(trouble.kind, trouble.why)

    def _has_set_aside(self, trouble: Trouble) -> bool:
        if self._set_aside >= _MAX_SET_ASIDE:
            return False
        try:
            with self._opening:
                name = database.set_aside(self.path, self._wall_clock())
        except (OSError, ValueError, OverflowError):  # the latter two of a clock that is far off
            return False
        self._set_aside += 1
        _log.error(
            "the state file is corrupt: it was set aside, and a fresh one is begun",
            file=self.path,
            set_aside=name,
            why=trouble.why,
            todo=trouble.kind.value,
        )
        return True
