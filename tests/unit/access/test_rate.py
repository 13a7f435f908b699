"""The token bucket of the rate limit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.access.model import RateLimit
from portspec.access.rate import TokenBucket


class Time:
    """A clock that a test drives."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def test_burst_then_one_each_interval() -> None:
    """As many as `burst` pass at once, then one for each interval; pauses fill the bucket, but not over its edge."""
    clock = Time()
    bucket = TokenBucket(RateLimit(0.5, 3), clock)
    assert [bucket.allow() for _ in range(4)] == [True, True, True, False]
    clock.now += 0.25
    assert not bucket.allow()
    assert bucket.retry_after() == pytest.approx(0.25)
    clock.now += 0.25
    assert bucket.retry_after() == 0
    assert [bucket.allow(), bucket.allow()] == [True, False]
    clock.now += 3600
    assert [bucket.allow() for _ in range(4)] == [True, True, True, False]


@settings(deadline=None)
@given(st.floats(1e-3, 10), st.integers(1, 20), st.lists(st.floats(0, 30), min_size=1, max_size=50))
def test_no_more_than_the_rate(interval: float, burst: int, pauses: list[float]) -> None:
    """In any time, at most burst and one for each interval of it pass, and the rest at least is not lost."""
    clock = Time()
    bucket = TokenBucket(RateLimit(interval, burst), clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        passed += bucket.allow()
    assert passed <= burst + sum(pauses) / interval + 1e-6
    clock.now += bucket.retry_after() + 1e-6
    assert bucket.allow()
