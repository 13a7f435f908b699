"""The end of exceptions, of ports and of vulnerabilities: which states were judged by others than are in force. Pure.

Each state tells by its own `judged_at` whose exceptions it knows, so that nothing is missed when whoever looks for
such states is interrupted, or when the clock is set forward or back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Ending(Protocol):
    """An exception: it is in force before `until`, in Unix seconds."""

    @property
    def until(self) -> float:
        """Its end, in Unix seconds."""
        ...


class Judged(Protocol):
    """A state that was judged by the exceptions in force at `judged_at`, in Unix seconds."""

    @property
    def exceptions(self) -> Sequence[Ending]:
        """The exceptions that are about it, in force or not."""
        ...

    @property
    def judged_at(self) -> float:
        """The time whose exceptions it knows, in Unix seconds."""
        ...


E = TypeVar("E", bound=Ending)
S = TypeVar("S", bound=Judged)


def in_force(exceptions: Iterable[E], now: float) -> tuple[E, ...]:
    """Give the exceptions that have not ended at `now`, in Unix seconds."""
    return tuple(item for item in exceptions if now < item.until)


def are_others(exceptions: Sequence[Ending], then: float, now: float) -> bool:
    """Tell whether other ones of some exceptions are in force at `now` than were at `then`, both in Unix seconds."""
    earlier, later = min(then, now), max(then, now)
    return any(earlier < item.until <= later for item in exceptions)


def is_outdated(state: Judged, now: float) -> bool:
    """Tell whether other exceptions are in force at `now`, in Unix seconds, than those that a state was judged by."""
    return are_others(state.exceptions, state.judged_at, now)


def outdated(states: Iterable[S], now: float) -> Iterator[S]:
    """Give the states that are to be judged anew at `now`, in Unix seconds."""
    return (state for state in states if state.exceptions and is_outdated(state, now))


def next_end(states: Iterable[Judged], now: float) -> float:
    """Give the Unix time at which the next exception in force at `now` ends; infinity if there is none."""
    return min((item.until for state in states for item in state.exceptions if now < item.until), default=math.inf)
