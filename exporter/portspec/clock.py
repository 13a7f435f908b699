"""The monotonic clock, which tests replace by one that they drive."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock that one can wait on."""

    def now(self) -> float:
        """Give the time in seconds, from no particular beginning."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so long."""
        ...


class SystemClock:
    """The monotonic clock of the system: it does not jump when somebody sets the time."""

    def now(self) -> float:
        """Give time.monotonic()."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(seconds)
