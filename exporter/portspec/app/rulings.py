"""Keeps the change log up with what conf.yml rules, whoever has changed it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.config.rulings import rules_of
from portspec.errors import NoThreadError
from portspec.store import StoreError, log_rules, read_rules
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from portspec.config import Config
    from portspec.config.rulings import ExemptionKey, Rules
    from portspec.store import Store

PAUSE: Final = 60.0  # seconds after the state file could not be written

_log = log.get("app")


class RulingLog:
    """Writes each configuration that comes into force into the log of a store; `wall_clock` gives Unix seconds."""

    def __init__(self, store: Store, wall_clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self._config: Config | None = None  # which is not in the log yet
        self._by = ""
        self._is_new = asyncio.Event()
        self._exception_times: Mapping[ExemptionKey, float | None] = {}

    @property
    def exception_times(self) -> Mapping[ExemptionKey, float | None]:
        """Since when conf.yml has each exception, as far as the state file could be read; None if not known."""
        return self._exception_times

    def note(self, config: Config, by: str = "") -> None:
        """Note that a configuration is in force, and who changed it, as far as that is known."""
        self._config, self._by = config, by
        self._is_new.set()

    async def run(self) -> None:
        """Write what was noted until cancelled; while the state file cannot be written, later."""
        while True:
            await self._is_new.wait()
            self._is_new.clear()
            try:
                await self._write()
            except (StoreError, NoThreadError):  # logged already
                await asyncio.sleep(PAUSE)
                self._is_new.set()

    async def _write(self) -> None:
        config, by, now = self._config, self._by, self._wall_clock()
        if config is None:
            return

        def write(file: sqlite3.Connection) -> tuple[int, Rules | None]:
            return log_rules(file, rules_of(config), now, by), read_rules(file)

        rows, rules = await in_daemon_thread(lambda: self._store.transact(write))
        self._exception_times = {item.key: item.since for item in rules.exemptions} if rules else {}
        if rows:
            _log.info("the specification has changed", changes=rows, **({"by": by} if by else {}))
