"""The lock of a state file: one exporter at a time writes to it, and others can read which one that is.

The lock is flock(2) on a file of its own, PATH.lock. It is not taken on the state file itself: closing any descriptor
of that file would drop the locks that SQLite has on it (https://www.sqlite.org/howtocorrupt.html, 2.2). The kernel
releases it when the process ends, however it ends, so a lock file that is left behind locks nothing.
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

from portspec.store.trouble import Kind, Trouble

SUFFIX: Final = ".lock"
_MODE = 0o600
_MAX_SIZE = 65_536  # bytes
_TRIES, _PAUSE = 5, 0.02  # seconds: somebody may hold it for the moment of a look, or not have written who it is


@dataclass(frozen=True, slots=True)
class Holder:
    """The exporter that holds a state file, or held it last.

    `host` is the name of its machine or container, `config` the real path of its conf.yml, `since` in Unix seconds,
    and `shard` such as "0/3", or empty if it is the only one.
    """

    pid: int
    host: str
    config: str
    since: float
    shard: str = ""

    @property
    def fields(self) -> dict[str, str | int]:
        """What a line of the log says of it."""
        shard = {"shard": self.shard} if self.shard else {}
        return {"pid": self.pid, "on": self.host, "config": self.config, "since": self._began, **shard}

    @property
    def _began(self) -> str:
        return datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def __str__(self) -> str:
        """Say who it is, for a message."""
        return f"process {self.pid} on {self.host}, running with {self.config} since {self._began}"


class HeldTrouble(Trouble):
    """Another exporter has the lock; `holder` is None if it cannot be read who that is."""

    def __init__(self, holder: Holder | None) -> None:
        self.holder = holder
        super().__init__(Kind.HELD, f"another exporter holds it: {holder or 'it does not say which'}")


class Lock:
    """The lock of the state file at `path`, which must be a real path; for one thread at a time."""

    def __init__(self, path: str, holder: Holder) -> None:
        self._state = path
        self._path = f"{path}{SUFFIX}"
        self._holder = holder
        self._descriptor: int | None = None
        self._is_written = False

    def acquire(self) -> None:
        """Take the lock, or see that the lock taken earlier still is the one that others look at.

        Raises HeldTrouble if another process has it, and OSError or Trouble if the lock file cannot be made.
        """
        if self._descriptor is not None:
            if _is_at(self._descriptor, self._path):
                self._write(self._descriptor)
                return
            self.release()
        for _ in range(_TRIES):
            descriptor = self._opened()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, self._path):  # nobody has removed it meanwhile
                    self._descriptor = descriptor
                    self._write(descriptor)
                    return
            except BlockingIOError:
                time.sleep(_PAUSE)
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        raise HeldTrouble(last_holder(self._state))

    def release(self) -> None:
        """Give the lock back; may be called again. The file stays: to remove it would part those who wait for it."""
        descriptor, self._descriptor, self._is_written = self._descriptor, None, False
        if descriptor is not None:
            os.close(descriptor)

    def _opened(self) -> int:
        try:
            descriptor = open_regular(self._path, os.O_RDWR | os.O_CREAT, _MODE)
        except PermissionError as error:
            if os.access(self._path, os.F_OK):
                why = f"its lock file {self._path} belongs to another user: remove it if that user runs no exporter"
                raise Trouble(Kind.NOT_WRITABLE, why) from error
            raise
        if os.geteuid() == 0:  # as SQLite does with its -wal: root must lock out nobody who owns the state file
            with suppress(OSError):
                state = Path(self._state)
                owner = (state if state.exists() else state.parent).stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor

    def _write(self, descriptor: int) -> None:
        """Write down who holds it, once; while the disk is full, nobody can tell."""
        if not self._is_written:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(self._holder)).encode(), 0)
                self._is_written = True


def open_regular(path: str, flags: int, mode: int = _MODE) -> int:
    """Open a file beside the state file or conf.yml; raises OSError, also where a link or a pipe has its name.

    Whoever may write to the directory could have put it there for this user, who may be root, to follow or wait for.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return descriptor


def last_holder(path: str) -> Holder | None:
    """Read who holds the lock of the state file at a path, or held it last; None if there is nothing to read."""
    for _ in range(_TRIES):
        try:
            with os.fdopen(open_regular(f"{os.path.realpath(path)}{SUFFIX}", os.O_RDONLY), "rb") as file:
                plain = json.loads(file.read(_MAX_SIZE))
            return Holder(
                int(plain["pid"]),
                str(plain["host"]),
                str(plain["config"]),
                _time(plain["since"]),
                str(plain["shard"]),
            )
        except OSError:
            return None
        except (ValueError, OverflowError, LookupError, TypeError, RecursionError):
            time.sleep(_PAUSE)
    return None


def present_holder(path: str) -> Holder | None:
    """Read who holds the lock of the state file at a path now; None if nobody does, or it cannot be told."""
    try:
        descriptor = open_regular(f"{os.path.realpath(path)}{SUFFIX}", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return last_holder(path)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _time(seconds: float) -> float:
    datetime.fromtimestamp(seconds, UTC)  # or ValueError, OverflowError
    return float(seconds)


def _is_at(descriptor: int, path: str) -> bool:
    """Tell whether a path leads to the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), Path(path).stat())
    except OSError:
        return False
