"""What a round does for all of its hosts: in steps, so that with many hosts the event loop does not stand still."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, MutableSequence

T = TypeVar("T")

STEPS_PER_TURN: Final = 2000  # a millisecond or two


async def in_slices(steps: Iterable[object]) -> None:
    """Take all steps, a slice in each turn of the event loop; few steps in this one."""
    for number, _ in enumerate(steps, 1):
        if number % STEPS_PER_TURN == 0:
            await asyncio.sleep(0)


def shuffle(items: MutableSequence[T], rng: random.Random) -> Iterator[None]:
    """Shuffle in place, an exchange at each step (Fisher and Yates)."""
    for last in range(len(items) - 1, 0, -1):
        other = rng.randrange(last + 1)
        items[last], items[other] = items[other], items[last]
        yield


def ascending_times(count: int, begin: float, span: float, rng: random.Random) -> Iterator[float]:
    """Yield so many random times of a span in seconds, in ascending order, each when it is asked for.

    They are distributed as uniform ones that are sorted: of n that are left, the first is at 1 - U^(1/n) of what is
    left of the span.
    """
    passed = 0.0
    for left in range(count, 0, -1):
        passed += (1.0 - passed) * (1.0 - rng.random() ** (1.0 / left))
        yield begin + span * passed
