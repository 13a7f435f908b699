"""The rate limit of the web config file: a token bucket, as golang.org/x/time/rate has it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.access.model import RateLimit


class TokenBucket:
    """Full at the start; one place comes back each interval."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float] = time.monotonic) -> None:
        raise NotImplementedError

    def allow(self) -> bool:
        """Take a place if there is one."""
        raise NotImplementedError

    def retry_after(self) -> float:
        """Return in how many seconds there is a place; 0 if there is one."""
        raise NotImplementedError
