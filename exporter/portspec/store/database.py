"""Opening the file: looked at before SQLite touches it, created, checked, set aside if it is corrupt."""

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
from portspec.store.trouble import Kind, Trouble, trouble_of

#: Seconds that a lock of somebody else is waited for, by the writer, by a reader, and by a process for one deposit.
WRITE_PATIENCE: Final = 1.0
READ_PATIENCE: Final = 1.0
DEPOSIT_PATIENCE: Final = 30.0

_COMPANIONS: Final = ("-wal", "-shm")
_CHECK_SECONDS = 2.0  # for the check at opening; a file that is too large for it is found out in running
_CHECK_STEPS = 20_000  # of SQLite's virtual machine, a few milliseconds
_PAUSE = 0.005  # seconds between two tries to switch a new file to a -wal
_MAX_WAL = 16 << 20  # bytes that the -wal file keeps after a large batch

# The header of a file (https://www.sqlite.org/fileformat.html#the_database_header)
_HEADER_SIZE = 100
_MAGIC = b"SQLite format 3\0"
_SCHEMA_COOKIE, _USER_VERSION, _APPLICATION_ID = 40, 60, 68

Identity = tuple[tuple[int, int] | None, ...]


def open_for_writing(path: str, *, is_suspect: bool = False) -> sqlite3.Connection:
    """Open or create the file (mode 0600), check it and bring it to the present version.

    A file that `is_suspect` has to show that it is sound in the time that there is for the check.

    Takes a few seconds at most. Raises Trouble; Kind.CORRUPT means that it may be set aside. No other connection of
    this process may be open to the file: closing the descriptor that reads the header drops their locks
    (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        connection = _made(path, WRITE_PATIENCE)
        try:
            schema.verify(connection)
            _check(connection, is_suspect=is_suspect)
            _prepare(connection, WRITE_PATIENCE)
            with schema.transaction(connection):  # refused where nothing may be written
                pass
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError, ValueError) as error:
        raise trouble_of(error) from error
    return connection


def refuse_foreign(path: str) -> None:
    """Raise Trouble if a file is that of another program or of a newer portspec; what else is wrong comes later.

    See open_for_writing() for what may not be open.
    """
    try:
        _look(path)
    except Trouble as trouble:
        if trouble.kind in (Kind.FOREIGN, Kind.NEWER):
            raise
    except (OSError, ValueError):
        pass


def open_for_deposit(path: str) -> sqlite3.Connection:
    """Open or create the file for one transaction, beside a process that has it open; it is not checked.

    As open_for_writing(), which see for what may not be open. Raises Trouble.
    """
    try:
        connection = _made(path, DEPOSIT_PATIENCE)
        try:
            schema.verify(connection)
            _prepare(connection, DEPOSIT_PATIENCE)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError, ValueError) as error:
        raise trouble_of(error) from error
    return connection


def open_for_reading(path: str) -> sqlite3.Connection:
    """Open the file read-only, also where nothing may be created beside it. Raises Trouble."""
    try:
        return _verified(_connect(path, "mode=ro", READ_PATIENCE))
    except sqlite3.OperationalError as error:
        trouble = trouble_of(error)
        if trouble.kind is Kind.NOT_WRITABLE and not Path(path).exists():
            raise Trouble(Kind.ABSENT, "there is no such file") from error
        if trouble.kind is not Kind.NOT_WRITABLE or _size(f"{path}-wal"):
            raise trouble from error
        # SQLite wants to make a -shm file and may not. Without a -wal everything is in the file itself, and nobody
        # can write to it now.
        try:
            return _verified(_connect(path, "mode=ro&immutable=1", READ_PATIENCE))
        except (sqlite3.Error, OSError) as again:
            raise trouble_of(again) from again
    except (sqlite3.Error, OSError, ValueError) as error:
        raise trouble_of(error) from error


def identity(path: str) -> Identity:
    """Tell the file and its -wal from others of the same name: device and inode of each, None if it is not there."""
    return tuple(_inode(f"{path}{suffix}") for suffix in ("", "-wal"))


def set_aside(path: str, now: float) -> str:
    """Rename a corrupt file and what belongs to it, as of `now` in Unix seconds; give the new name.

    Nothing had that name before. Raises OSError if it is refused.
    """
    name = _unused(f"{path}.corrupt", now)
    Path(path).rename(name)
    for suffix in _COMPANIONS:
        if os.path.lexists(f"{path}{suffix}"):
            Path(f"{path}{suffix}").rename(f"{name}{suffix}")
    return name


def set_wal_aside(path: str, was: Identity, now: float) -> None:
    """See that the -wal of a file that was `was` is not taken for that of the file which has its name now.

    Raises OSError if it is refused.
    """
    if was[1] and was[1] == identity(path)[1] and _size(f"{path}-wal"):
        Path(f"{path}-wal").rename(_unused(f"{path}.replaced", now) + "-wal")


def _unused(stem: str, now: float) -> str:
    """Give a name with the time that neither a file nor anything beside one has."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    name, number = f"{stem}-{stamp}", 1
    while any(os.path.lexists(f"{name}{suffix}") for suffix in ("", *_COMPANIONS)):
        number += 1
        name = f"{stem}-{stamp}-{number}"
    return name


def _look(path: str) -> bool:
    """Tell whether there is a file; Trouble if it can be told from outside that it must not be opened."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise Trouble(Kind.FOREIGN, "it is a directory" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if not status.st_size:
        if not _size(f"{path}-wal"):
            return True
        if not _size(path):  # if it has become larger, another process is making it just now
            raise Trouble(Kind.CORRUPT, "it is empty, and its -wal is not")  # which SQLite would delete
    with Path(path).open("rb") as file:
        _look_at_header(file.read(_HEADER_SIZE))
    return True


def _look_at_header(header: bytes) -> None:
    if len(header) < _HEADER_SIZE or not header.startswith(_MAGIC):
        raise Trouble(Kind.CORRUPT, "it is no database")
    cookie, version, application_id = (
        int.from_bytes(header[offset : offset + 4], signed=True)
        for offset in (_SCHEMA_COOKIE, _USER_VERSION, _APPLICATION_ID)
    )
    # without either, it is a file whose making is in its -wal or was interrupted
    if application_id != schema.APPLICATION_ID and (application_id or cookie):
        raise Trouble(Kind.FOREIGN, "it is the database of another program")
    if application_id:
        schema.refuse_newer(version)


def _made(path: str, patience: float) -> sqlite3.Connection:
    """Connect to a file that is ours by its looks, or to one that is made."""
    _refuse_links(path)
    if not _look(path):
        with suppress(FileExistsError):  # another process has made it meanwhile
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    return _connect(path, "mode=rw", patience)


def _refuse_links(path: str) -> None:
    """Raise Trouble where the path leads through a symbolic link of another user."""
    try:
        with directory_of(path):
            pass
    except ForeignLinkError as error:
        raise Trouble(Kind.FOREIGN, str(error.strerror)) from None


def _prepare(connection: sqlite3.Connection, patience: float) -> None:
    """Have what is committed be on the disk, and the file be of the present version."""
    until = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself while another process does the same to a new file
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_PAUSE)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_MAX_WAL}")
    schema.migrate(connection)


def _connect(path: str, parameters: str, patience: float) -> sqlite3.Connection:
    # in absolute form with an empty authority, or "//" at the beginning of a path would begin one
    uri = f"file://{quote(os.fsencode(path))}?{parameters}"
    connection = sqlite3.connect(uri, uri=True, timeout=patience, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda data: data.decode(errors="replace")  # a garbled text is one row's trouble
    return connection


def _verified(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Give a connection to a file that is ours."""
    try:
        schema.show_as_current(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, *, is_suspect: bool) -> None:
    """Look for corruption as long as there is time; Trouble if some is found."""
    until = time.monotonic() + _CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > until, _CHECK_STEPS)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        if is_suspect:
            raise Trouble(Kind.CORRUPT, "a part of it cannot be read") from None
        return
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        raise Trouble(Kind.CORRUPT, " ".join(str(found).lower().split()))


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
