"""file_sd: files of target groups, watched by their time, size and inode."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from portspec import log
from portspec.config.discovery import has_wildcard
from portspec.config.yaml_document import MAX_BYTES
from portspec.errors import NoThreadError
from portspec.inventory.discovery.hosts import Answer, find_hosts
from portspec.inventory.discovery.targetgroups import ListError, read_json, read_yaml
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from portspec.config.model import FileSource, SourceEntry

T = TypeVar("T")
Stamps = dict[str, tuple[int, ...]]

POLL_INTERVAL = 5.0  # seconds between two looks at whether a file changed

_log = log.get("inventory.discovery")


class FileClient:
    """Reads the files of one source, in a thread of which there is one at a time: a disk may hang, too.

    A named file that is missing is a failure. One that a pattern found and that is gone takes its hosts along.
    """

    poll = POLL_INTERVAL

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._last = _Reading()
        self._is_busy = False

    async def ask(self) -> Mapping[str, Answer]:
        """Read every file; the answers are by path."""
        source = self._source
        try:
            async with asyncio.timeout(source.timeout):
                reading = await self._beside(partial(_read, source.patterns, source.entry, self._last.matched))
        except TimeoutError:
            return self._all_fail(f"no answer from the disk within {source.timeout:g} s")
        except NoThreadError as error:
            return self._all_fail(str(error))
        for pattern in reading.unmatched - self._last.unmatched:
            _log.warning("no file matches; the list is empty until one does", source=source.name, pattern=pattern)
        self._last = reading
        return reading.answers

    async def is_changed(self) -> bool:
        """Return whether a file came, went or changed since ask()."""
        try:
            async with asyncio.timeout(self._source.timeout):
                return await self._beside(partial(_stamps, self._source.patterns)) != self._last.stamps
        except (TimeoutError, NoThreadError):
            return False  # the next ask() will tell

    def _all_fail(self, why: str) -> Mapping[str, Answer]:
        return dict.fromkeys(self._last.answers or self._source.patterns, Answer(failure=why))

    async def _beside(self, work: Callable[[], T]) -> T:
        if self._is_busy:
            raise TimeoutError
        future = in_daemon_thread(work, self._free)
        self._is_busy = True
        return await future

    def _free(self) -> None:
        self._is_busy = False


@dataclass(slots=True)
class _Reading:
    """One look at all files; `matched` are the paths by pattern."""

    stamps: Stamps = field(default_factory=dict)
    matched: dict[str, list[str]] = field(default_factory=dict)
    unmatched: set[str] = field(default_factory=set)
    answers: dict[str, Answer] = field(default_factory=dict)


def _read(patterns: Sequence[str], entry: SourceEntry, before: Mapping[str, list[str]]) -> _Reading:
    """Read all files; where a directory cannot be listed those that it had `before` fail."""
    reading = _Reading(_stamps(patterns))  # first: what changes while it is read is read again
    for pattern in patterns:
        try:
            paths = _matching(pattern)
        except OSError as error:
            paths = before.get(pattern, [])
            failure = Answer(failure=f"the directory cannot be listed: {_why(error)}")
            reading.answers = dict.fromkeys(paths or [pattern], failure) | reading.answers
        else:
            for path in paths:
                is_gone = path != pattern and not os.path.lexists(path)
                if path not in reading.answers and not is_gone:
                    reading.answers[path] = _read_file(path, entry)
            if not paths:
                reading.unmatched.add(pattern)
        reading.matched[pattern] = paths
    return reading


def _read_file(path: str, entry: SourceEntry) -> Answer:
    try:
        with open(path, "rb", opener=_open_regular) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        return Answer(failure=f"cannot be read: {_why(error)}")
    if len(data) > MAX_BYTES:
        return Answer(failure=f"is larger than {MAX_BYTES // 2**20} MiB")
    try:
        groups = read_json(data) if path.lower().endswith(".json") else read_yaml(data)
    except ListError as error:
        return Answer(failure=str(error))
    return find_hosts(groups, entry)


def _open_regular(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe, and only what has an end of its own."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def _matching(pattern: str) -> list[str]:
    """Return the paths that a pattern stands for, sorted; OSError if its directory cannot be listed."""
    folder, name = os.path.split(pattern)
    if not has_wildcard(name):
        return [pattern]
    names = os.listdir(folder or ".")  # noqa: PTH208 - names are all that is needed
    is_shown = name.startswith(".")
    return [
        str(Path(folder) / each)
        for each in sorted(names)
        if fnmatchcase(each, name) and (is_shown or not each.startswith("."))
    ]


def _stamps(patterns: Sequence[str]) -> Stamps:
    """Return what tells that a file is another one than before: by path, or an error by path or pattern."""
    stamps: Stamps = {}
    for pattern in patterns:
        try:
            paths = _matching(pattern)
        except OSError as error:
            stamps[pattern] = (error.errno or 0,)
            continue
        for path in paths:
            try:
                found = os.stat(path)  # noqa: PTH116 - many, every few seconds
            except OSError as error:
                stamps[path] = (error.errno or 0,)
            else:
                stamps[path] = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)
    return stamps


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
