"""Faults of the state file: SQLite and system errors, classified by what the operator can do about them."""

from __future__ import annotations

import enum
import errno
import sqlite3

from portspec.errors import PortspecError


class StoreFaultKind(enum.Enum):
    """The kind of a fault; its value tells the operator what to do."""

    FULL = "free space on its file system, or raise the quota"
    NOT_WRITABLE = (
        "check that its directory exists, that the user who runs portspec may write to it, and that the file system is "
        "not mounted read-only; or set `state` in conf.yml to another file"
    )
    LOCKED = "stop the process that keeps it locked (`fuser FILE` shows it)"
    HELD = "stop one of the two exporters, or set `state` in the conf.yml of one to another file"
    CORRUPT = "check the system log for a failing disk"
    FOREIGN = "set `state` in conf.yml to another file, or move this one away"
    NEWER = "run the version of portspec that wrote it or a newer one, or move the file away"
    ABSENT = "start the exporter, which creates it, or set `state` in conf.yml to the right file"
    GONE = "do not move or remove the file while portspec runs"
    OTHER = "check the system log for the cause"


class StoreFault(Exception):  # noqa: N818 - classified errors of others
    """The file cannot be used. Raised within this package only; callers get a StoreError."""

    def __init__(self, kind: StoreFaultKind, why: str) -> None:
        self.kind = kind
        self.why = why
        super().__init__(why)


class StoreError(PortspecError):
    """The file at `path` cannot be read or written."""

    def __init__(self, path: str, fault: StoreFault, what: str = "read") -> None:
        self.path = path
        self.kind = fault.kind
        self.why = fault.why
        super().__init__(f"cannot {what} {path}: {fault.why}; {fault.kind.value}")


#: Result codes of SQLite (https://www.sqlite.org/rescode.html); an extended code has the primary one in its low byte.
_KINDS_BY_SQLITE_CODE = {
    sqlite3.SQLITE_PERM: StoreFaultKind.NOT_WRITABLE,
    sqlite3.SQLITE_BUSY: StoreFaultKind.LOCKED,
    sqlite3.SQLITE_LOCKED: StoreFaultKind.LOCKED,
    sqlite3.SQLITE_READONLY: StoreFaultKind.NOT_WRITABLE,
    sqlite3.SQLITE_CORRUPT: StoreFaultKind.CORRUPT,
    sqlite3.SQLITE_FULL: StoreFaultKind.FULL,
    sqlite3.SQLITE_CANTOPEN: StoreFaultKind.NOT_WRITABLE,
    sqlite3.SQLITE_NOTADB: StoreFaultKind.CORRUPT,
}
_PRIMARY_CODE_MASK = 0xFF
_KINDS_BY_ERRNO = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), StoreFaultKind.FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR), StoreFaultKind.NOT_WRITABLE),
}


def classify_error(error: Exception) -> StoreFault:
    """Return the fault that an exception means for the file."""
    if isinstance(error, StoreFault):
        return error
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0)  # not set if the sqlite3 module itself raised the error
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:
            return StoreFault(StoreFaultKind.FULL, "no space for the -shm file beside it")
        return StoreFault(
            _KINDS_BY_SQLITE_CODE.get(code & _PRIMARY_CODE_MASK, StoreFaultKind.OTHER), str(error).lower()
        )
    if isinstance(error, OSError):
        why = (error.strerror or str(error)).lower()
        return StoreFault(_KINDS_BY_ERRNO.get(error.errno or 0, StoreFaultKind.OTHER), why)
    return StoreFault(StoreFaultKind.OTHER, f"{type(error).__name__}: {error}")
