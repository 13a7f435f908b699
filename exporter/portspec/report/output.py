"""Write a report to a file, which is replaced at once or not at all, or to a pipe or a device."""

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

    from portspec.directories import OpenDirectoryEntry

_OWN_DESCRIPTOR = re.compile(r"/dev/(?:stdout|stderr|fd/([0-9]{1,9}))|/proc/self/fd/([0-9]{1,9})", re.ASCII)


def write_output(path: str, pieces: Iterable[bytes]) -> None:
    """Write to the path that a user named: replace a file, write to a pipe or a device.

    /dev/stdout and the like are the open file of this process.

    Raises:
        OSError: also for a named pipe without a reader, and for a pipe or a device of another user.
    """
    if match := _OWN_DESCRIPTOR.fullmatch(path):
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
    """Replace the file at `path`; it keeps its mode, and a new one has `mode`.

    Symbolic links of other users are not followed; only a regular file is replaced.

    Raises:
        OSError: the file is unchanged then.
    """
    with directory_of(path) as place:
        _replace(place, pieces, mode)


def _replace(place: OpenDirectoryEntry, pieces: Iterable[bytes], mode: int | None) -> None:
    """Replace a file; with mode None the mode of a new one depends on the umask."""
    before = place.status
    if before and not stat.S_ISREG(before.st_mode):
        number = errno.EISDIR if stat.S_ISDIR(before.st_mode) else errno.EEXIST
        raise OSError(number, "is a directory" if number == errno.EISDIR else "exists and is not a regular file")
    new = f".{place.name}.{secrets.token_hex(4)}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(new, flags, 0o666 if mode is None else 0o600, dir_fd=place.directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(pieces)
            if before:  # a file of another user does not stay writable
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode) & (0o644 if place.is_foreign else 0o777))
            elif mode is not None:
                os.fchmod(descriptor, mode)
        os.rename(new, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=place.directory)
        raise


def _write_through(place: OpenDirectoryEntry, pieces: Iterable[bytes]) -> None:
    """Write to a pipe or a device."""
    if place.is_foreign:
        raise PermissionError(errno.EACCES, "is a pipe or device of another user")
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
    try:
        descriptor = os.open(place.name, flags, dir_fd=place.directory)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "is a pipe without a reader") from None
        raise
    with os.fdopen(descriptor, "wb") as output:
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISFIFO(kind) or stat.S_ISCHR(kind)):
            raise OSError(errno.EEXIST, "was replaced meanwhile")
        os.set_blocking(descriptor, True)
        output.writelines(pieces)
