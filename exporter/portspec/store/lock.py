"""The lock of a state file: one exporter at a time writes to it, and other processes can read which one.

The lock is flock(2) on a separate file, PATH.lock. A lock on the state file itself would not work: closing any
descriptor of that file drops the locks that SQLite has on it (https://www.sqlite.org/howtocorrupt.html, 2.2). The
kernel releases the lock when the process ends for any reason, so a stale lock file locks nothing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from portspec.store.faults import StoreFault, StoreFaultKind

SUFFIX: Final = ".lock"
_MODE = 0o600
_MAX_SIZE = 65_536  # bytes
#: Another process may hold the lock for a moment to test it, or may not have written its identity yet.
_ATTEMPTS, _RETRY_INTERVAL = 5, 0.02  # seconds


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The exporter that holds the lock of a state file, or held it last.

    Attributes:
        pid: Its process id.
        host: The name of its machine or container.
        config: The real path of its conf.yml.
        since: When it started, in Unix seconds.
        shard: Its shard, such as "0/3"; empty if it runs without shards.
    """

    pid: int
    host: str
    config: str
    since: float
    shard: str = ""

    @property
    def fields(self) -> dict[str, str | int]:
        """The fields of a log line about it."""
        shard = {"shard": self.shard} if self.shard else {}
        return {"pid": self.pid, "on": self.host, "config": self.config, "since": self._started_at, **shard}

    @property
    def _started_at(self) -> str:
        return datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def __str__(self) -> str:
        """Return a description for messages."""
        return f"process {self.pid} on {self.host}, running with {self.config} since {self._started_at}"


class LockHeldFault(StoreFault):
    """Another exporter has the lock; `holder` is None if the lock file does not say which."""

    def __init__(self, holder: LockHolder | None) -> None:
        self.holder = holder
        super().__init__(StoreFaultKind.HELD, f"another exporter holds it: {holder or 'unknown'}")


class StateFileLock:
    """The lock of the state file at `path`, which must be a real path; not thread-safe."""

    def __init__(self, path: str, holder: LockHolder) -> None:
        self._state_path = path
        self._lock_path = f"{path}{SUFFIX}"
        self._holder = holder
        self._descriptor: int | None = None
        self._is_written = False

    def acquire(self) -> None:
        """Take the lock, or check that the lock file was not replaced since it was taken.

        Raises:
            LockHeldFault: Another process has the lock.
            OSError, StoreFault: The lock file cannot be created.
        """
        if self._descriptor is not None:
            if _is_at(self._descriptor, self._lock_path):
                self._write(self._descriptor)
                return
            self.release()
        for _ in range(_ATTEMPTS):
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, self._lock_path):  # it was not removed in the meantime
                    self._descriptor = descriptor
                    self._write(descriptor)
                    return
            except BlockingIOError:
                time.sleep(_RETRY_INTERVAL)
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        raise LockHeldFault(last_lock_holder(self._state_path))

    def release(self) -> None:
        """Release the lock; may be called again.

        The lock file stays: if it was removed, two processes could lock two different files.
        """
        descriptor, self._descriptor, self._is_written = self._descriptor, None, False
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        try:
            descriptor = open_regular(self._lock_path, os.O_RDWR | os.O_CREAT, _MODE)
        except PermissionError as error:
            if os.access(self._lock_path, os.F_OK):
                why = (
                    f"its lock file {self._lock_path} belongs to another user; remove it if that user runs no exporter"
                )
                raise StoreFault(StoreFaultKind.NOT_WRITABLE, why) from error
            raise
        if os.geteuid() == 0:  # as SQLite does with -wal: do not lock out the owner of the state file
            with suppress(OSError):
                state = Path(self._state_path)
                owner = (state if state.exists() else state.parent).stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor

    def _write(self, descriptor: int) -> None:
        """Write the holder into the lock file, once. Failures are ignored: the disk may be full."""
        if not self._is_written:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(self._holder)).encode(), 0)
                self._is_written = True


def open_regular(path: str, flags: int, mode: int = _MODE) -> int:
    """Open a file beside the state file or conf.yml. Raises OSError if it is a symbolic link or not a regular file.

    A user who may write to the directory could place a link or a pipe there, and this process may run as root.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return descriptor


def last_lock_holder(path: str) -> LockHolder | None:
    """Return who holds the lock of the state file at a path, or held it last; None if the lock file does not say."""
    for _ in range(_ATTEMPTS):
        try:
            with os.fdopen(open_regular(f"{os.path.realpath(path)}{SUFFIX}", os.O_RDONLY), "rb") as file:
                plain = json.loads(file.read(_MAX_SIZE))
            return LockHolder(
                int(plain["pid"]),
                str(plain["host"]),
                str(plain["config"]),
                _time(plain["since"]),
                str(plain["shard"]),
            )
        except OSError:
            return None
        except (ValueError, OverflowError, LookupError, TypeError, RecursionError):
            time.sleep(_RETRY_INTERVAL)
    return None


def current_lock_holder(path: str) -> LockHolder | None:
    """Return who holds the lock of the state file at a path now; None if it is free or cannot be read."""
    try:
        descriptor = open_regular(f"{os.path.realpath(path)}{SUFFIX}", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return last_lock_holder(path)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _time(seconds: float) -> float:
    datetime.fromtimestamp(seconds, UTC)  # raises ValueError or OverflowError
    return float(seconds)


def _is_at(descriptor: int, path: str) -> bool:
    """Return whether a path leads to an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), Path(path).stat())
    except OSError:
        return False
