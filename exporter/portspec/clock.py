"""The monotonic clock, which tests replace by one that they drive, and limits of time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

#: Calls something after so many seconds, unless what it gives is cancelled before.
Later = Callable[[float, Callable[[], object]], asyncio.TimerHandle]
_MAIN_PART = 0.9


class Clock(Protocol):
    """A monotonic clock that one can wait on."""

    def now(self) -> float:
        """Return the time in seconds, from no particular beginning."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so long."""
        ...


class SystemClock:
    """The monotonic clock of the system: it does not jump when somebody sets the time."""

    def now(self) -> float:
        """Return time.monotonic()."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(seconds)


class TimeLimit:
    """So many seconds from begin() on, then `over` is done; `nearly_over` is when nine tenths of them have passed.

    For one event loop, which `later` is of by default. close() ends it.
    """

    def __init__(self, seconds: float, *, later: Later | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.seconds = seconds
        self.over: asyncio.Future[None] = loop.create_future()
        self.nearly_over: asyncio.Future[None] = loop.create_future()
        self._later = later or loop.call_later
        self._timers: list[asyncio.TimerHandle] = []

    def begin(self) -> None:
        """Let the time run, unless it does already."""
        if not self._timers:
            ends = ((self.nearly_over, _MAIN_PART * self.seconds), (self.over, self.seconds))
            self._timers = [self._later(seconds, partial(end.set_result, None)) for end, seconds in ends]

    def close(self) -> None:
        """Let it have no end any more."""
        for timer in self._timers:
            timer.cancel()
