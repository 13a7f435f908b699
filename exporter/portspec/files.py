"""Reading a file by its path, which others may have made something that is none: no pipe is waited for without end."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_CONFIG = "/etc/portspec/portspec.yml"
PATIENCE = 30.0  # seconds for all that a pipe gives: what fills it may ask for a passphrase first
_CHUNK = 1 << 16
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NAMES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class IrregularFileError(OSError):
    """What has the name of a file is something else: a pipe, a socket, a device."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EINVAL, f"it is {what}; put a regular file in its place")


def read(path: str | os.PathLike[str], most: int) -> bytes:
    """Return up to `most` bytes of a file, or of a pipe or a character device, as of `<(…)` in a shell.

    Raises OSError, whose strerror says what to do where it is none of these, or where a pipe does not end in
    PATIENCE seconds.
    """
    return _read(path, most, (stat.S_IFIFO, stat.S_IFCHR), lambda descriptor: _drained(descriptor, most))


def read_input(most: int) -> bytes:
    """Return up to `most` bytes of standard input. Raises OSError as read() does."""
    return _drained(0, most)


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Return up to `most` bytes of a regular file. Raises OSError, whose strerror says what to do where it is none."""
    return _read(path, most, (), lambda _: b"")


def require_regular(path: str | os.PathLike[str]) -> None:
    """See that a path is that of a regular file, for whoever opens it by itself. Raises OSError as read_regular()."""
    _refuse_other(os.stat(path).st_mode, ())  # noqa: PTH116 - as the others


def _read(
    path: str | os.PathLike[str], most: int, others: tuple[int, ...], read_other: Callable[[int], bytes]
) -> bytes:
    _refuse_other(os.stat(path).st_mode, others)  # noqa: PTH116 - first: to open a device may do something
    descriptor = os.open(path, _FLAGS)
    try:
        mode = os.fstat(descriptor).st_mode
        _refuse_other(mode, others)
        if not stat.S_ISREG(mode):
            return read_other(descriptor)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def _refuse_other(mode: int, others: tuple[int, ...]) -> None:
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if kind != stat.S_IFREG and kind not in others:
        raise IrregularFileError(_NAMES.get(kind, "no file"))


def _drained(descriptor: int, most: int) -> bytes:
    """Read what comes until the other end is closed. One that nobody has opened yet is waited for, too."""
    until = time.monotonic() + PATIENCE
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    data = bytearray()
    while len(data) < most:
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            why = f"it is a pipe that has not ended in {PATIENCE:g} s; write to it, or put a regular file in its place"
            raise TimeoutError(errno.ETIMEDOUT, why)
        try:
            piece = os.read(descriptor, min(_CHUNK, most - len(data)))
        except BlockingIOError:
            continue
        if not piece:
            break
        data += piece
    return bytes(data)
