"""How much work an input makes, counted instead of timed, so that it is the same on a busy machine."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

    from tests.fuzz.harness import Harness


@dataclass(frozen=True, slots=True)
class Effort:
    """Function calls of one thread, those of C functions included, and the peak of memory in bytes."""

    calls: int
    memory: int


class ExcessError(AssertionError):
    """An input that costs more than its harness allows."""


def measured(harness: Harness, data: bytes) -> Effort:
    """Run a harness twice, first to fill caches, and return the effort of the second time. Raises what it raises."""
    harness.run(data)
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    tracemalloc.start()
    try:
        sys.setprofile(count)
        try:
            harness.run(data)
        finally:
            sys.setprofile(before)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return Effort(calls, peak)


def check_effort(harness: Harness, data: bytes) -> Effort:
    """Return the effort of an input. Raises ExcessError if it is above the limits, and what the harness raises."""
    effort = measured(harness, data)
    size = len(data)
    if effort.calls > harness.calls.of(size):
        raise ExcessError(f"{size:,} bytes make {effort.calls:,} calls; the limit is {harness.calls.of(size):,}")
    if effort.memory > harness.memory.of(size):
        raise ExcessError(f"{size:,} bytes take {effort.memory:,} bytes; the limit is {harness.memory.of(size):,}")
    return effort
