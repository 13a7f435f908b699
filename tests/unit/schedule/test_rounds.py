"""What a round does for all of its hosts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import pairwise

from portspec.schedule.rounds import STEPS_PER_TURN, ascending_times, in_slices, shuffle


def test_every_order_is_as_probable() -> None:
    """Of 6,000 shuffles of three items, each of the six orders comes about a thousand times."""
    rng = random.Random(1)  # noqa: S311 - repeatable
    orders = Counter[str]()
    for _ in range(6000):
        items = list("abc")
        for _ in shuffle(items, rng):
            pass
        orders["".join(items)] += 1
    assert len(orders) == 6
    assert all(850 < count < 1150 for count in orders.values())  # by five standard deviations


def test_times_are_those_of_sorted_uniform_ones() -> None:
    """Times ascend, and are where sorted uniform times are on average; without a span all are the begin."""
    rng = random.Random(1)  # noqa: S311 - repeatable
    sums = [0.0] * 4
    for _ in range(4000):
        times = list(ascending_times(4, 100.0, 10.0, rng))
        assert all(before <= after for before, after in pairwise([100.0, *times, 110.0]))
        sums = [total + time for total, time in zip(sums, times, strict=True)]
    assert all(abs(total / 4000 - expected) < 0.2 for total, expected in zip(sums, (102, 104, 106, 108), strict=True))
    assert list(ascending_times(3, 5.0, 0.0, rng)) == [5.0] * 3


def test_many_steps_let_others_have_turns() -> None:
    """After a slice of steps the event loop does something else; few steps are taken at once."""

    async def scenario(count: int) -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await in_slices(range(count))
        task.cancel()
        return turns

    assert asyncio.run(scenario(STEPS_PER_TURN - 1)) == 0
    assert asyncio.run(scenario(5 * STEPS_PER_TURN)) == 5
