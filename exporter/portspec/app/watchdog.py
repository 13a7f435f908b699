"""The watchdog: pings the service manager as long as every part makes progress, so that it restarts one that hangs.

The event loop sends the pings, so they stop when it hangs. The other parts report heartbeats. The watchdog counts
checks and not seconds: the whole process may have been stopped, or the machine suspended, for any time between two.
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

CHECKS_PER_LIMIT: Final = 4  # sd_watchdog_enabled(3) recommends two; so one that is late, or missed, costs nothing
MIN_CHECKS: Final = 2  # without progress; after a stop of the process the first one may come before any part continues

_log = log.get("watchdog")


@dataclass(frozen=True, slots=True)
class Hang:
    """A part without progress, and for how many seconds at least."""

    part: str
    seconds: float


class Progress:
    """Finds the part that hangs, from heartbeats that are checked every `interval` seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: dict[str, tuple[float, int]] = {}  # the beat, and how many checks in a row have found it unchanged

    def check(self, heartbeats: Iterable[Heartbeat]) -> Hang | None:
        """Return the part that has been without progress for longer than it may; None if there is none."""
        last, self._last = self._last, {}
        hang = None
        for heartbeat in heartbeats:
            if heartbeat.beat is None:
                continue
            beat, checks = last.get(heartbeat.part, (None, 0))
            checks = checks + 1 if beat == heartbeat.beat else 0
            self._last[heartbeat.part] = heartbeat.beat, checks
            if hang is None and checks >= max(MIN_CHECKS, math.ceil(heartbeat.patience / self._interval)):
                hang = Hang(heartbeat.part, checks * self._interval)
        return hang


class Watched(Protocol):
    """What reports the heartbeats of one part, or of several."""

    def heartbeats(self) -> Iterable[Heartbeat]:
        """Return them; called once for each check."""
        ...


async def watch_progress(manager: ServiceManager, watched: Sequence[Watched], clock: Clock | None = None) -> None:
    """Ping the service manager while every part makes progress, until cancelled; return at once if it wants no pings.

    Logs when a part hangs, and when it continues after all.
    """
    if manager.watchdog is None:
        return
    clock = clock or SystemClock()
    interval = manager.watchdog / CHECKS_PER_LIMIT
    progress = Progress(interval)
    hung = ""
    while True:
        hang = progress.check(chain.from_iterable(one.heartbeats() for one in watched))
        if hang is None:
            manager.tell("WATCHDOG=1")
            if hung:
                _log.warning("the part makes progress again", part=hung)
        elif hang.part != hung:
            _log.error(
                "a part of portspec hangs: the service manager will restart it",
                part=hang.part,
                since=timestamp(time.time() - hang.seconds),
            )
        hung = hang.part if hang else ""
        await clock.sleep(interval)
