"""The directory of a file that is to be written, found without the symbolic links of other users."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINKS: Final = 40  # as the kernel (path_resolution(7))
ROOT_USER: Final = 0


class ForeignLinkError(PermissionError):
    """A path that leads through a symbolic link of another user."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.EACCES, f'"{name}" is a symbolic link of another user; name the file that it points to')


@dataclass(frozen=True, slots=True)
class OpenDirectoryEntry:
    """A name in a directory that is open; `status` is what has that name, never a symbolic link, None if nothing."""

    directory: int
    name: str
    status: os.stat_result | None

    @property
    def is_foreign(self) -> bool:
        """True if what is there is owned by neither this user nor root."""
        return self.status is not None and self.status.st_uid not in (ROOT_USER, os.geteuid())


@contextlib.contextmanager
def directory_of(path: str) -> Iterator[OpenDirectoryEntry]:
    """Open the directory of a file, which need not be there; symbolic links of this user and of root are followed.

    Each component is opened by itself, so that nobody can put a link in its place meanwhile. Raises OSError;
    ForeignLinkError where the path leads through a symbolic link of another user.
    """
    todo = _parts(path)
    directory = os.open("/" if path.startswith("/") else ".", os.O_PATH | os.O_DIRECTORY)
    links = 0
    try:
        while todo:
            name = todo.pop()
            try:
                entry = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
            except FileNotFoundError:
                if todo:
                    raise
                yield OpenDirectoryEntry(directory, name, None)
                return
            try:
                status = os.fstat(entry)
                if stat.S_ISLNK(status.st_mode):
                    if status.st_uid not in (ROOT_USER, os.geteuid()):
                        raise ForeignLinkError(name)
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    target = os.readlink("", dir_fd=entry)
                    todo += _parts(target)
                    if target.startswith("/"):
                        os.close(directory)
                        directory = os.open("/", os.O_PATH | os.O_DIRECTORY)
                elif todo or name == os.pardir:
                    directory, entry = entry, directory
                else:
                    yield OpenDirectoryEntry(directory, name, status)
                    return
            finally:
                os.close(entry)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    finally:
        os.close(directory)


def followed(path: str) -> str:
    """Return the path without symbolic links; unchanged but absolute if one of them is another user's. Never raises."""
    try:
        with contextlib.suppress(FileNotFoundError), directory_of(path):
            pass
        return os.path.realpath(path)
    except (OSError, ValueError):
        return os.path.abspath(path)  # noqa: PTH100 - pathlib raises here, too


def _parts(path: str) -> list[str]:
    """Return the components of a path, the last one first; a slash at the end is a directory's."""
    parts = [part for part in path.split("/") if part not in ("", os.curdir)]
    return parts[::-1] if parts and not path.endswith("/") else [os.curdir, *parts[::-1]]
