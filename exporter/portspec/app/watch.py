"""Whether conf.yml is another one than was read last, whether others can change it, and what of it takes effect."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from portspec import files, log
from portspec.config.trust import complaints
from portspec.config.yaml_document import MAX_BYTES
from portspec.errors import NoThreadError
from portspec.store import exporter_state_file, is_same_file
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portspec.config import Config

_log = log.get("app")


class WatchedFile:
    """A file, and the checksum that it had when it was read. look() and has_changed() may raise NoThreadError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known = checksum(path)

    async def look(self) -> None:
        """Take the file as it is now for the one that is read."""
        self._known = await in_daemon_thread(lambda: checksum(self._path))

    def forget(self) -> None:
        """Take the file for changed, since it could not be read."""
        self._known = None

    async def has_changed(self) -> bool:
        """Return whether it has changed since the last look()."""
        return await in_daemon_thread(lambda: checksum(self._path)) != self._known

    async def watch(self, interval: float, on_change: Callable[[], Awaitable[None]]) -> None:
        """Check the file every `interval` seconds until cancelled, and call `on_change` when it has changed."""
        while True:
            await asyncio.sleep(interval)
            try:
                is_changed = await self.has_changed()
            except NoThreadError:  # the next look will tell
                continue
            if is_changed:
                await on_change()


def checksum(path: str) -> bytes | None:
    """Return a checksum of a file; None if it cannot be read, or is none: a pipe is read once, if at all."""
    try:
        return hashlib.sha256(files.read_regular(path, MAX_BYTES + 1)).digest()
    except OSError:
        return None


def warn_of_others(config: Config, state_file: str) -> None:
    """Log which files of an exporter others can change, and which secrets they can read."""
    for complaint in complaints(config, state_file):
        _log.warning("insecure configuration file", problem=complaint)


def warn_of_restart(begun_by: Config, config: Config, state_file: str) -> None:
    """Log what of another configuration takes effect at the next start only; blocks."""
    now, then = begun_by.scan.engine, config.scan.engine
    if now != then:
        _log.warning("scan.engine takes effect at the next start", now=now, then=then)
    path = exporter_state_file(config)
    if not is_same_file(path, state_file):
        _log.warning("state takes effect at the next start", now=state_file, then=path)
