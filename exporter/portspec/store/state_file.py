"""The open state file: opens it on demand, detects its replacement, renames it if corrupt, logs each fault once."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from portspec import log
from portspec.directories import followed
from portspec.store import database
from portspec.store.faults import StoreError, StoreFault, StoreFaultKind, classify_error
from portspec.store.lock import LockHeldFault, StateFileLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portspec.store.lock import LockHolder

_MAX_RENAMED = 10  # corrupt files per process, so that a failing disk is not filled with them

_log = log.get("store")


class StateFile:
    """The SQLite file at a path, with one connection that writes. Not thread-safe, except for reading()."""

    def __init__(self, path: str, wall_clock: Callable[[], float], holder: LockHolder) -> None:
        self.path = followed(path)  # as SQLite does for -wal and -shm
        self._lock = StateFileLock(self.path, holder)
        self.errors = 0
        self.is_up = False
        self._wall_clock = wall_clock
        self._connection: sqlite3.Connection | None = None
        self._identity: database.FileIdentity = ()
        self._fault: StoreFault | None = None
        self._logged: set[StoreFaultKind] = set()  # kinds of faults logged since the last success
        self._rename_count = 0
        self._open_lock = threading.Lock()  # no reader may have the file open while it is opened for writing

    @property
    def fault(self) -> StoreFault:
        """The last fault while the file is not up."""
        return self._fault or StoreFault(StoreFaultKind.OTHER, "it is not open yet")

    @property
    def is_held(self) -> bool:
        """True if another exporter held the file at the last attempt."""
        return self._fault is not None and self._fault.kind is StoreFaultKind.HELD

    @property
    def is_open(self) -> bool:
        """True while there is a connection that writes; a later one may be to another file."""
        return self._connection is not None

    def open(self, *, is_suspect: bool = False) -> sqlite3.Connection:
        """Return the connection that writes; if the file is suspect, check it and return a new one.

        Raises StoreFault or OSError.
        """
        if is_suspect:
            self.close()  # its page cache would hide the corruption
        if self._connection is None:
            with self._open_lock:
                database.verify_owner(self.path)  # before anything is created beside the file
            self._lock.acquire()  # before opening: only the holder may rename the file
            with self._open_lock:
                self._connection = database.open_for_writing(self.path, is_suspect=is_suspect)
                self._identity = database.file_identity(self.path)
        return self._connection

    def verify_not_replaced(self, *, is_after_commit: bool = False) -> None:
        """Raise StoreFault if the open file was removed or replaced, which SQLite does not detect.

        After a commit only the file itself is checked: a removed -wal is written back when the file is closed. The
        lock is checked, too, because another exporter could take it if the lock file was removed.
        """
        self._lock.acquire()
        for was, found in zip(self._identity, database.file_identity(self.path), strict=True):
            if was not in (None, found):
                raise StoreFault(StoreFaultKind.GONE, "it was removed or replaced")
            if is_after_commit:
                break

    def failed(self, error: Exception) -> bool:
        """Record an error and log it, unless its kind is logged already; return whether to retry at once."""
        fault = classify_error(error)
        self.errors += 1
        self.is_up = False
        self._fault = StoreFault(fault.kind, fault.why)  # without the traceback, which keeps frames alive
        if fault.kind is StoreFaultKind.GONE:
            self._close_replaced()
        elif fault.kind not in (StoreFaultKind.FULL, StoreFaultKind.LOCKED):  # after which the connection still works
            self.close()
        if fault.kind is StoreFaultKind.CORRUPT and self._rename_corrupt(fault):
            return True
        if isinstance(fault, LockHeldFault):
            self._log_holder(fault.holder)
        elif fault.kind not in self._logged:
            self._logged.add(fault.kind)
            is_expected = isinstance(error, StoreFault | sqlite3.Error | OSError)
            _log.error(
                "cannot write the state file; results are kept in memory and scanning continues",
                file=self.path,
                why=fault.why,
                todo=fault.kind.value,
                **({} if is_expected else {"exc_info": error}),
            )
        return fault.kind is StoreFaultKind.GONE

    def _log_holder(self, holder: LockHolder | None) -> None:
        """Log which exporter holds the file, once."""
        if StoreFaultKind.HELD not in self._logged:
            self._logged.add(StoreFaultKind.HELD)
            _log.error(
                "another exporter holds the state file; scanning continues, but nothing is written or mailed until it "
                "stops",
                file=self.path,
                **(holder.fields if holder else {}),
                todo=StoreFaultKind.HELD.value,
            )

    def succeeded(self, dropped: int = 0) -> None:
        """Record that everything was written; log it after a fault, with the number of changes dropped so far."""
        if StoreFaultKind.HELD in self._logged:
            _log.info("the state file is no longer held by another exporter; writing to it", file=self.path)
        elif self._logged:
            _log.info("writing the state file works again", file=self.path, changes_dropped=dropped)
        self._logged.clear()
        self._fault = None
        self.is_up = True

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a read-only connection. Raises StoreError, also for errors while it is used."""
        try:
            self._verify_readable()
            with self._open_lock, closing(database.open_for_reading(self.path)) as connection:
                yield connection
        except (StoreFault, sqlite3.Error, OSError, ValueError) as error:
            raise StoreError(self.path, classify_error(error)) from error

    def close(self) -> None:
        """Close the file, with a checkpoint if possible; may be called again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def release(self) -> None:
        """Close the file and release the lock; may be called again."""
        self.close()
        self._lock.release()

    def _close_replaced(self) -> None:
        """Close a file that was renamed or removed, and keep its -wal from being applied to the next file.

        SQLite would leave the -wal to any file with that name.
        """
        with self._open_lock:
            if self._connection is not None:
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.close()
            with suppress(OSError, ValueError, OverflowError):
                database.rename_stale_wal(self.path, self._identity, self._wall_clock())

    def _verify_readable(self) -> None:
        """Raise StoreFault if the file is known not to be ours: opening it may create files beside it."""
        fault = self._fault
        if fault and fault.kind in (StoreFaultKind.FOREIGN, StoreFaultKind.NEWER):
            raise StoreFault(fault.kind, fault.why)

    def _rename_corrupt(self, fault: StoreFault) -> bool:
        if self._rename_count >= _MAX_RENAMED:
            return False
        try:
            with self._open_lock:
                name = database.rename_corrupt(self.path, self._wall_clock())
        except (OSError, ValueError, OverflowError):  # the latter two if the clock is far off
            return False
        self._rename_count += 1
        _log.error(
            "the state file is corrupt; renamed it and starting with a new one",
            file=self.path,
            renamed_to=name,
            why=fault.why,
            todo=fault.kind.value,
        )
        return True
