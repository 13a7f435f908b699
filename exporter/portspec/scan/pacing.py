"""The rate of probes."""

from __future__ import annotations

import math
import threading

UNLIMITED = 1 << 30


class Pacer:
    """A rate limit: at most `rate` probes in any second, spread evenly, without catching up after a pause.

    A generic cell rate algorithm (ITU-T I.371) whose bucket holds a hundredth of the rate: what an idle second left
    unsent is lost, so that no burst follows a pause. All times are seconds of one monotonic clock, passed in by the
    caller. A rate of None means no limit. Engines may share one, and any thread may use it. `passed` counts the probes
    that have passed; it stays 0 without a rate.
    """

    __slots__ = ("_burst", "_full_at", "_interval", "_lock", "passed", "rate")

    def __init__(self, rate: float | None) -> None:
        self.passed = 0
        self._full_at = -math.inf
        self._lock = threading.Lock()
        self.keep_to(rate)

    def keep_to(self, rate: float | None) -> None:
        """Change the rate from now on."""
        with self._lock:
            self.rate = rate
            self._burst = 1 if rate is None else max(1, int(rate / 100))
            # A full bucket and a second's refill together must not exceed the rate.
            self._interval = 0.0 if rate is None else 1.0 / max(rate - (self._burst - 1), 1.0)

    def allowance(self, now: float) -> int:
        """Return how many probes may be sent now."""
        interval = self._interval
        if not interval:
            return UNLIMITED
        rounding = 4 * math.ulp(now)  # else next_at() could be a time at which no probe is allowed yet
        missing = max(0.0, self._full_at - now - rounding) / interval
        return max(0, math.floor(self._burst - missing + 1e-9))

    def take(self, most: int, now: float) -> int:
        """Reserve up to `most` probes to send now; return how many."""
        if not self._interval:
            return most
        with self._lock:
            probes = min(most, self.allowance(now))
            self._full_at = max(self._full_at, now) + probes * self._interval
            self.passed += probes
        return probes

    def put_back(self, probes: int) -> None:
        """Return reserved probes that were not sent."""
        if self._interval:
            with self._lock:
                self._full_at -= probes * self._interval
                self.passed -= probes

    def next_at(self, now: float) -> float:
        """Return the time from which at least one probe may be sent; `now` if one may be sent already."""
        if not self._interval:
            return now
        return max(now, self._full_at - (self._burst - 1) * self._interval)
