"""The rate limit of the web config file: a token bucket, as golang.org/x/time/rate has it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.access.model import RateLimit


class TokenBucket:
    """Limits the requests of all clients together: `burst` at once, then one each `interval` seconds."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._places = float(limit.burst)
        self._at = clock()

    def allow(self) -> bool:
        """Take a place if there is one; returns whether there was."""
        self._refill()
        if self._places < 1:
            return False
        self._places -= 1
        return True

    def retry_after(self) -> float:
        """Return in how many seconds there is a place; 0 if there is one."""
        self._refill()
        return max(0.0, (1 - self._places) * self._limit.interval)

    def _refill(self) -> None:
        now = self._clock()
        gained = (now - self._at) / self._limit.interval
        self._places = min(float(self._limit.burst), self._places + max(0.0, gained))
        self._at = now
