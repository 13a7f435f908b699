"""Opens the SQLite file: checks it before SQLite touches it, creates it, and renames a corrupt one."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from portspec.directories import ForeignLinkError, directory_of
from portspec.store import schema
from portspec.store.faults import StoreFault, StoreFaultKind, classify_error

#: How long to wait for the lock of another process, in seconds: for the writer, for a reader, and for one insert by
#: another process.
WRITE_LOCK_TIMEOUT: Final = 1.0
READ_LOCK_TIMEOUT: Final = 1.0
INSERT_LOCK_TIMEOUT: Final = 30.0

_COMPANION_SUFFIXES: Final = ("-wal", "-shm")
_CHECK_TIMEOUT = 2.0  # seconds; corruption that it does not reach is found when the page is used
_CHECK_STEPS = 20_000  # instructions of SQLite's virtual machine between two looks at the clock
_WAL_RETRY_INTERVAL = 0.005  # seconds
_MAX_WAL_SIZE = 16 << 20  # bytes to which the -wal file is truncated after a checkpoint

# The header of a file (https://www.sqlite.org/fileformat.html#the_database_header)
_HEADER_SIZE = 100
_MAGIC = b"SQLite format 3\0"
_SCHEMA_COOKIE_OFFSET, _USER_VERSION_OFFSET, _APPLICATION_ID_OFFSET = 40, 60, 68

#: Device and inode of the file and of its -wal, each None if it does not exist.
FileIdentity = tuple[tuple[int, int] | None, ...]


def open_for_writing(path: str, *, is_suspect: bool = False) -> sqlite3.Connection:
    """Open or create the file (mode 0600), check it and migrate it.

    This takes a few seconds at most, except for a migration. No other connection of this process may be open to the
    file: closing the descriptor that reads the header drops their locks
    (https://www.sqlite.org/howtocorrupt.html, 2.2).

    Args:
        path: The path of the file.
        is_suspect: Treat the file as corrupt unless the check completes in time.

    Raises:
        StoreFault: StoreFaultKind.CORRUPT means that the file may be renamed.
    """
    try:
        connection = _open_or_create(path, WRITE_LOCK_TIMEOUT)
        try:
            schema.verify(connection)
            _check(connection, is_suspect=is_suspect)
            _configure_and_migrate(connection, WRITE_LOCK_TIMEOUT)
            with schema.transaction(connection):  # fails if the file is read-only
                pass
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError, ValueError) as error:
        raise classify_error(error) from error
    return connection


def verify_owner(path: str) -> None:
    """Raise StoreFault if a file belongs to another program or to a newer portspec; ignore other faults.

    No other connection of this process may be open, see open_for_writing().
    """
    try:
        _check_file(path)
    except StoreFault as fault:
        if fault.kind in (StoreFaultKind.FOREIGN, StoreFaultKind.NEWER):
            raise
    except (OSError, ValueError):
        pass


def open_for_insert(path: str) -> sqlite3.Connection:
    """Open or create the file for one transaction while another process may have it open; skip the check.

    No other connection of this process may be open, see open_for_writing(). Raises StoreFault.
    """
    try:
        connection = _open_or_create(path, INSERT_LOCK_TIMEOUT)
        try:
            schema.verify(connection)
            _configure_and_migrate(connection, INSERT_LOCK_TIMEOUT)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError, ValueError) as error:
        raise classify_error(error) from error
    return connection


def open_for_reading(path: str) -> sqlite3.Connection:
    """Open the file read-only, even if nothing may be created beside it. Raises StoreFault."""
    try:
        return _verified_for_reading(_connect(path, "mode=ro", READ_LOCK_TIMEOUT))
    except sqlite3.OperationalError as error:
        fault = classify_error(error)
        if fault.kind is StoreFaultKind.NOT_WRITABLE and not Path(path).exists():
            raise StoreFault(StoreFaultKind.ABSENT, "there is no such file") from error
        if fault.kind is not StoreFaultKind.NOT_WRITABLE or _size(f"{path}-wal"):
            raise fault from error
        # SQLite cannot create a -shm file. Without a -wal everything is in the file itself, and no process can write
        # to it now.
        try:
            return _verified_for_reading(_connect(path, "mode=ro&immutable=1", READ_LOCK_TIMEOUT))
        except (sqlite3.Error, OSError) as again:
            raise classify_error(again) from again
    except (sqlite3.Error, OSError, ValueError) as error:
        raise classify_error(error) from error


def file_identity(path: str) -> FileIdentity:
    """Return what distinguishes the file and its -wal from others with the same name."""
    return tuple(_inode(f"{path}{suffix}") for suffix in ("", "-wal"))


def rename_corrupt(path: str, now: float) -> str:
    """Rename a corrupt file and its -wal and -shm to an unused name with the time `now` (Unix seconds).

    Returns the new name. Raises OSError if renaming fails.
    """
    name = _unused_name(f"{path}.corrupt", now)
    Path(path).rename(name)
    for suffix in _COMPANION_SUFFIXES:
        if os.path.lexists(f"{path}{suffix}"):
            Path(f"{path}{suffix}").rename(f"{name}{suffix}")
    return name


def rename_stale_wal(path: str, was: FileIdentity, now: float) -> None:
    """Rename the -wal of a file that was `was`, so that SQLite does not apply it to the file with that name now.

    Raises OSError if renaming fails.
    """
    if was[1] and was[1] == file_identity(path)[1] and _size(f"{path}-wal"):
        Path(f"{path}-wal").rename(_unused_name(f"{path}.replaced", now) + "-wal")


def _unused_name(stem: str, now: float) -> str:
    """Return a name with the time `now` for which neither a file nor a companion exists."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    name, number = f"{stem}-{stamp}", 1
    while any(os.path.lexists(f"{name}{suffix}") for suffix in ("", *_COMPANION_SUFFIXES)):
        number += 1
        name = f"{stem}-{stamp}-{number}"
    return name


def _check_file(path: str) -> bool:
    """Return whether the file exists. Raises StoreFault if its type, size or header show that it must not be opened."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise StoreFault(
            StoreFaultKind.FOREIGN, "it is a directory" if stat.S_ISDIR(status.st_mode) else "it is not a regular file"
        )
    if not status.st_size:
        if not _size(f"{path}-wal"):
            return True
        if not _size(path):  # otherwise another process is creating it
            raise StoreFault(StoreFaultKind.CORRUPT, "it is empty, but its -wal is not")  # SQLite would delete the -wal
    with Path(path).open("rb") as file:
        _check_header(file.read(_HEADER_SIZE))
    return True


def _check_header(header: bytes) -> None:
    if len(header) < _HEADER_SIZE or not header.startswith(_MAGIC):
        raise StoreFault(StoreFaultKind.CORRUPT, "it is not a database")
    cookie, version, application_id = (
        int.from_bytes(header[offset : offset + 4], signed=True)
        for offset in (_SCHEMA_COOKIE_OFFSET, _USER_VERSION_OFFSET, _APPLICATION_ID_OFFSET)
    )
    # if both are 0, the tables are still in the -wal, or creating them was interrupted
    if application_id != schema.APPLICATION_ID and (application_id or cookie):
        raise StoreFault(StoreFaultKind.FOREIGN, "it is the database of another program")
    if application_id:
        schema.verify_version(version)


def _open_or_create(path: str, patience: float) -> sqlite3.Connection:
    """Connect to the file if its header is acceptable; create it if it does not exist."""
    _verify_links(path)
    if not _check_file(path):
        with suppress(FileExistsError):  # another process created it in the meantime
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    return _connect(path, "mode=rw", patience)


def _verify_links(path: str) -> None:
    """Raise StoreFault if the path leads through a symbolic link of another user."""
    try:
        with directory_of(path):
            pass
    except ForeignLinkError as error:
        raise StoreFault(StoreFaultKind.FOREIGN, str(error.strerror)) from None


def _configure_and_migrate(connection: sqlite3.Connection, patience: float) -> None:
    """Make commits durable, and migrate the file to the current version."""
    until = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite's timeout does not apply while another process switches a new file to WAL
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_WAL_RETRY_INTERVAL)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_MAX_WAL_SIZE}")
    schema.migrate(connection)


def _connect(path: str, parameters: str, patience: float) -> sqlite3.Connection:
    # an empty authority, because a path that starts with "//" would start with one
    uri = f"file://{quote(os.fsencode(path))}?{parameters}"
    connection = sqlite3.connect(uri, uri=True, timeout=patience, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda data: data.decode(errors="replace")  # invalid UTF-8 affects only its row
    return connection


def _verified_for_reading(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Return a connection, ready to read this or an older version. Raises StoreFault if the file is not ours."""
    try:
        schema.create_views_for_older_version(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, *, is_suspect: bool) -> None:
    """Raise StoreFault if the file is corrupt, as far as it can be checked within _CHECK_TIMEOUT."""
    until = time.monotonic() + _CHECK_TIMEOUT
    connection.set_progress_handler(lambda: time.monotonic() > until, _CHECK_STEPS)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        if is_suspect:
            raise StoreFault(StoreFaultKind.CORRUPT, "part of it cannot be read") from None
        return
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        raise StoreFault(StoreFaultKind.CORRUPT, " ".join(str(found).lower().split()))


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
