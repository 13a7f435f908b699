"""The maintenance that somebody asks for while the exporter runs, which the state file keeps."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.config import MaintenanceWindow
from portspec.errors import NoThreadError
from portspec.maintenance import requested_of
from portspec.store import StoreError, read_maintenance, write_maintenance
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from portspec.store import Store

LOOK_INTERVAL: Final = 30.0  # seconds between two looks at the state file, which another exporter may write

_log = log.get("maintenance")


class Maintenance:
    """The times of maintenance that were asked for: at most one of each host, by its canonical name.

    One of a former name of a host is that of the host. The state file has them, and what it has counts: another
    exporter may hold it, or may have held it until now.

    Args:
        store: The state file.
        apply: Has the hosts judged by `windows`; called after each change.
        wall_clock: Returns Unix seconds.
    """

    def __init__(
        self, store: Store, apply: Callable[[], Awaitable[None]], wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._apply = apply
        self._wall_clock = wall_clock
        self._turn = asyncio.Lock()
        self._is_applied = True
        self.windows: Mapping[str, MaintenanceWindow] = {}

    def restore(self) -> None:
        """Read what the state file has, at the start of the exporter; blocks."""
        try:
            self.windows = self._read() or {}
        except StoreError as error:
            _log.warning("the maintenance that was asked for cannot be read", file=error.path, why=error.why)

    async def begin(self, hosts: Collection[str], until: float, reason: str, owner: str) -> None:
        """Begin maintenance of hosts, by canonical name, or go on with it until another Unix time.

        Raises StoreError if the state file cannot be written, and NoThreadError; nothing begins then.
        """
        now = self._wall_clock()

        def begun(windows: Mapping[str, MaintenanceWindow]) -> dict[str, MaintenanceWindow]:
            found = dict(windows)
            for host in hosts:
                before = requested_of(windows, self._names(host))
                for name in self._names(host):
                    found.pop(name, None)
                since = before.begins if before and before.begins <= now < before.until else now
                found[host] = MaintenanceWindow((host,), since, until, reason, owner)
            return found

        await self._change(begun, now)
        for host in hosts:
            _log.info("maintenance begins", host=host, seconds=round(until - now), reason=reason, owner=owner)

    async def end(self, hosts: Collection[str]) -> None:
        """End the maintenance of hosts, by canonical name. Raises StoreError and NoThreadError; nothing ends then."""
        ended = {name for host in hosts for name in self._names(host)}
        await self._change(
            lambda windows: {host: item for host, item in windows.items() if host not in ended}, self._wall_clock()
        )
        for host in hosts:
            _log.info("maintenance is ended", host=host)

    def window_of(self, host: str) -> MaintenanceWindow | None:
        """Return the maintenance that was asked for of a host, by canonical name; None without."""
        return requested_of(self.windows, self._names(host))

    async def run(self) -> None:
        """Keep up with the state file until cancelled: another exporter may write it, or it may be a new one."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_INTERVAL)

    async def look(self) -> None:
        """Take over what the state file has; write into it what it has lost, as a file that is new."""
        async with self._turn:
            try:
                found = await in_daemon_thread(self._read)
                if found is not None:
                    await self._go_on_with(found)
                elif self.windows:
                    windows = self.windows
                    await in_daemon_thread(lambda: self._store.transact(lambda file: write_maintenance(file, windows)))
            except (StoreError, NoThreadError):  # logged already; the next look makes up for it
                pass

    async def _change(
        self, change: Callable[[Mapping[str, MaintenanceWindow]], dict[str, MaintenanceWindow]], now: float
    ) -> None:
        """Change what the file has in one transaction, leave out what is over at a Unix time, and go on with it."""

        def changed(file: sqlite3.Connection) -> dict[str, MaintenanceWindow]:
            known = _read(file, self._store.path)
            found = change(self.windows if known is None else known)
            found = {host: item for host, item in found.items() if now < item.until}
            write_maintenance(file, found)
            return found

        async with self._turn:
            found = await in_daemon_thread(lambda: self._store.transact(changed))
            await self._go_on_with(found)

    async def _go_on_with(self, windows: Mapping[str, MaintenanceWindow]) -> None:
        if windows == self.windows and self._is_applied:
            return
        self.windows, self._is_applied = windows, False
        await self._apply()
        self._is_applied = True

    def _names(self, host: str) -> tuple[str, ...]:
        return (host, *self._store.former_names.get(host, ()))

    def _read(self) -> dict[str, MaintenanceWindow] | None:
        return self._store.read(lambda file: _read(file, self._store.path))


def _read(file: sqlite3.Connection, path: str) -> dict[str, MaintenanceWindow] | None:
    """Return what a file has; a document that is not valid counts as none, and is logged."""
    try:
        return read_maintenance(file)
    except ValueError as error:
        _log.error("the state file has invalid maintenance, which is ignored", file=path, why=str(error))
        return None
