"""When /metrics is written in advance; the clock is the test's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from portspec.app.ahead import INTERVAL, MAX_REST, REST, render_ahead
from portspec.metrics.exposition import MAX_AHEAD_AGE
from portspec.state.snapshot import Snapshot
from tests.unit.factories import target

if TYPE_CHECKING:
    from portspec.metrics import Exposition


class Slow:
    """A clock, and what is written, which takes a time by that clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        """Return the time."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Note for how long; after the fourth time, end the test."""
        self.slept.append(seconds)
        if len(self.slept) == 4:
            raise EOFError

    def write_ahead(self) -> None:
        """Take a time."""
        self.time += self.seconds


@pytest.mark.parametrize(("seconds", "rest"), [(0.01, INTERVAL), (0.5, 0.5 * REST), (60.0, MAX_REST)])
def test_what_takes_longer_to_write_is_written_less_often(seconds: float, rest: float) -> None:
    """Writing takes a quarter of the time at most, unless that would let a page become too old."""
    slow = Slow(seconds)
    with pytest.raises(EOFError):
        asyncio.run(render_ahead(cast("Exposition", slow), lambda: Snapshot.of([target("web1")]), slow))
    assert slow.slept == [INTERVAL, rest, rest, rest]
    assert MAX_REST < MAX_AHEAD_AGE
