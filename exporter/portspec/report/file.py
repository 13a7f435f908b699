"""The report as a file: there whole, or as it was before."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from portspec.directories import directory_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.directories import Place

_OF_THIS_PROCESS = re.compile(r"/dev/(?:stdout|stderr|fd/([0-9]{1,9}))|/proc/self/fd/([0-9]{1,9})", re.ASCII)


def write_output(path: str, pieces: Iterable[bytes]) -> None:
    """Write what a user has named: a file as write_file() does, a pipe or a device as it is.

    /dev/stdout and its like are the open file of this process. Raises OSError, also for a named pipe that nobody
    reads, and for a pipe or a device of another user.
    """
    if match := _OF_THIS_PROCESS.fullmatch(path):
        number = match[1] or match[2] or ("2" if path.endswith("stderr") else "1")
        with os.fdopen(os.dup(int(number)), "wb") as output:
            output.writelines(pieces)
        return
    with directory_of(path) as place:
        if place.status and (stat.S_ISFIFO(place.status.st_mode) or stat.S_ISCHR(place.status.st_mode)):
            _write_through(place, pieces)
        else:
            _replace(place, pieces, None)


def write_file(path: str, pieces: Iterable[bytes], mode: int) -> None:
    """Write a file beside `path` and put it in its place, with the mode of the one before, else `mode`.

    No symbolic link of another user is followed, nor is anything written to that is no file. Raises OSError; the
    file is as it was then.
    """
    with directory_of(path) as place:
        _replace(place, pieces, mode)


def _replace(place: Place, pieces: Iterable[bytes], mode: int | None) -> None:
    """Put a file in its place; with mode None a new one has what the umask leaves."""
    before = place.status
    if before and not stat.S_ISREG(before.st_mode):
        number = errno.EISDIR if stat.S_ISDIR(before.st_mode) else errno.EEXIST
        raise OSError(number, "is a directory" if number == errno.EISDIR else "it is there and is no regular file")
    new = f".{place.name}.{secrets.token_hex(4)}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(new, flags, 0o666 if mode is None else 0o600, dir_fd=place.directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(pieces)
            if before:  # one that another user left lets nobody write
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode) & (0o644 if place.is_foreign else 0o777))
            elif mode is not None:
                os.fchmod(descriptor, mode)
        os.rename(new, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=place.directory)
        raise


def _write_through(place: Place, pieces: Iterable[bytes]) -> None:
    """Write to a pipe or a device."""
    if place.is_foreign:
        raise PermissionError(errno.EACCES, "it is a pipe or a device of another user")
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
    try:
        descriptor = os.open(place.name, flags, dir_fd=place.directory)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "it is a pipe that nobody reads") from None
        raise
    with os.fdopen(descriptor, "wb") as output:
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISFIFO(kind) or stat.S_ISCHR(kind)):
            raise OSError(errno.EEXIST, "it has become something else")
        os.set_blocking(descriptor, True)
        output.writelines(pieces)
