"""What can be wrong with the file: errors of SQLite and of the system become one of a few kinds, with what to do."""

from __future__ import annotations

import enum
import errno
import sqlite3

from portspec.errors import PortspecError

_RIGHTS = (
    "see that its directory exists, that the user who runs portspec may write in it, and that the file system is not "
    "mounted read-only; or name another file as `state` in conf.yml"
)


class Kind(enum.Enum):
    """What is wrong; the value says what to do about it."""

    FULL = "free space on its file system, or raise the quota"
    NOT_WRITABLE = _RIGHTS
    LOCKED = "end the process that holds it open and locked (`fuser FILE` names it)"
    HELD = "end one of the two exporters, or name another file as `state` in the conf.yml of one"
    CORRUPT = "look for a failing disk in the log of the system"
    FOREIGN = "name another file as `state` in conf.yml, or move this one away"
    NEWER = "run a portspec as new as the one that wrote it, or move the file away"
    ABSENT = "start the exporter, which makes it, or name the right file as `state` in conf.yml"
    GONE = "leave the file to portspec while it runs"
    OTHER = "look for the cause in the log of the system"


class Trouble(Exception):  # noqa: N818 - within the package; what leaves it is a StoreError
    """The file cannot be used: `kind`, and `why` in a few words."""

    def __init__(self, kind: Kind, why: str) -> None:
        self.kind = kind
        self.why = why
        super().__init__(why)


class StoreError(PortspecError):
    """The file at `path` cannot be read, or written, and `why`."""

    def __init__(self, path: str, trouble: Trouble, what: str = "read") -> None:
        self.path = path
        self.kind = trouble.kind
        self.why = trouble.why
        super().__init__(f"cannot {what} {path}: {trouble.why}; {trouble.kind.value}")


#: Result codes of SQLite (https://www.sqlite.org/rescode.html); an extended code has the primary one in its low byte.
_OF_SQLITE = {
    sqlite3.SQLITE_PERM: Kind.NOT_WRITABLE,
    sqlite3.SQLITE_BUSY: Kind.LOCKED,
    sqlite3.SQLITE_LOCKED: Kind.LOCKED,
    sqlite3.SQLITE_READONLY: Kind.NOT_WRITABLE,
    sqlite3.SQLITE_CORRUPT: Kind.CORRUPT,
    sqlite3.SQLITE_FULL: Kind.FULL,
    sqlite3.SQLITE_CANTOPEN: Kind.NOT_WRITABLE,
    sqlite3.SQLITE_NOTADB: Kind.CORRUPT,
}
_PRIMARY = 0xFF
_OF_SYSTEM = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), Kind.FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR), Kind.NOT_WRITABLE),
}


def trouble_of(error: Exception) -> Trouble:
    """Tell what an exception means for the file."""
    if isinstance(error, Trouble):
        return error
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0)  # absent where the sqlite3 module itself refuses
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:
            return Trouble(Kind.FULL, "no space for the -shm file beside it")
        return Trouble(_OF_SQLITE.get(code & _PRIMARY, Kind.OTHER), str(error).lower())
    if isinstance(error, OSError):
        why = (error.strerror or str(error)).lower()
        return Trouble(_OF_SYSTEM.get(error.errno or 0, Kind.OTHER), why)
    return Trouble(Kind.OTHER, f"{type(error).__name__}: {error}")
