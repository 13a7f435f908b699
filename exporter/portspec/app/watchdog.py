"""The watchdog: finds the part that hangs, so that it is restarted.

It pings the service manager as long as every part makes progress, and /-/healthy reports the part that does not. The
event loop does both, so both stop when it hangs; loopguard.py is for that. The other parts report heartbeats. The
watchdog counts checks and not seconds: the whole process may have been stopped, or the machine suspended, for any time
between two.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from portspec import log
from portspec.clock import SystemClock
from portspec.state.document import timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.app.servicemanager import ServiceManager
    from portspec.clock import Clock
    from portspec.heartbeat import Heartbeat

DEFAULT_LIMIT: Final = 120.0  # seconds, without a service manager that says it; as in deploy/systemd
CHECKS_PER_LIMIT: Final = 4  # sd_watchdog_enabled(3) recommends two; so one that is late, or missed, costs nothing
MIN_CHECKS: Final = 2  # without progress; after a stop of the process the first one may come before any part continues

_log = log.get("watchdog")


@dataclass(frozen=True, slots=True)
class Hang:
    """A part without progress, and for how many seconds at least; a restart helps if it is vital."""

    part: str
    seconds: float
    is_vital: bool = True


class Progress:
    """Finds the parts that hang, from heartbeats that are checked every `interval` seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: dict[str, tuple[float, int]] = {}  # the beat, and how many checks in a row have found it unchanged

    def check(self, heartbeats: Iterable[Heartbeat]) -> tuple[Hang, ...]:
        """Return the parts that have been without progress for longer than they may."""
        last, self._last = self._last, {}
        hangs = []
        for heartbeat in heartbeats:
            if heartbeat.beat is None:
                continue
            beat, checks = last.get(heartbeat.part, (None, 0))
            checks = checks + 1 if beat == heartbeat.beat else 0
            self._last[heartbeat.part] = heartbeat.beat, checks
            if checks >= max(MIN_CHECKS, math.ceil(heartbeat.patience / self._interval)):
                hangs.append(Hang(heartbeat.part, checks * self._interval, heartbeat.is_vital))
        return tuple(hangs)


class Watched(Protocol):
    """What reports the heartbeats of one part, or of several."""

    def heartbeats(self) -> Iterable[Heartbeat]:
        """Return them; called once for each check."""
        ...


class Watchdog:
    """Checks parts until cancelled, and pings the service manager while each vital one makes progress.

    `hangs` are the parts that hang at the moment. A hang is logged when it begins and when it ends.
    """

    def __init__(self, manager: ServiceManager, watched: Sequence[Watched], clock: Clock | None = None) -> None:
        self._manager = manager
        self._watched = watched
        self._clock = clock or SystemClock()
        self._interval = (manager.watchdog or DEFAULT_LIMIT) / CHECKS_PER_LIMIT
        self._progress = Progress(self._interval)
        self.hangs: tuple[Hang, ...] = ()

    async def run(self) -> None:
        """Check and ping."""
        while True:
            before, self.hangs = (
                self.hangs,
                self._progress.check(chain.from_iterable(one.heartbeats() for one in self._watched)),
            )
            if self._manager.watchdog is not None and not any(hang.is_vital for hang in self.hangs):
                self._manager.tell("WATCHDOG=1")
            self._tell(before)
            await self._clock.sleep(self._interval)

    def _tell(self, before: Sequence[Hang]) -> None:
        """Log the hangs that have begun, and those that have ended."""
        known, now = {hang.part for hang in before}, {hang.part for hang in self.hangs}
        for part in sorted(known - now):
            _log.warning("the part makes progress again", part=part)
        for hang in self.hangs:
            if hang.part not in known:
                _log.error(
                    f"a part of portspec hangs: {self._consequence(hang)}",
                    part=hang.part,
                    since=timestamp(time.time() - hang.seconds),
                )

    def _consequence(self, hang: Hang) -> str:
        if not hang.is_vital:
            return "the exporter goes on without it"
        if self._manager.watchdog is None:
            return "/-/healthy is 503 until it continues"
        return "the service manager will restart it"
