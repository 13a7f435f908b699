"""Exceptions of conf.yml: which are in force, what they accept, and which states were judged by others. Pure.

The time is an argument everywhere. Each state has the time whose exceptions it knows (`judged_at`), so that no end is
missed when the task that looks for such states is interrupted, or when the clock is set forward or back. The beginning
and the end of maintenance are noticed in the same way: a state has the times of all of them (`edges`).
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from portspec.ports import PortSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

SECONDS_A_DAY: Final = 86_400


class Ending(Protocol):
    """An exception: it is in force before `until`, in Unix seconds."""

    @property
    def until(self) -> float:
        """Its end, in Unix seconds."""
        ...


class PortEnding(Ending, Protocol):
    """An exception for ports."""

    @property
    def ports(self) -> PortSet:
        """The ports whose deviations it accepts."""
        ...


class Judged(Protocol):
    """A state that was judged by what was in force at `judged_at`, in Unix seconds."""

    @property
    def edges(self) -> Sequence[float]:
        """The Unix times from which it is judged by something else: the ends of its exceptions, and its maintenance."""
        ...

    @property
    def judged_at(self) -> float:
        """The time whose exceptions it knows, in Unix seconds."""
        ...


E = TypeVar("E", bound=Ending)
S = TypeVar("S", bound=Judged)


def in_force(exceptions: Iterable[E], now: float) -> tuple[E, ...]:
    """Return the exceptions that have not ended at `now`, in Unix seconds."""
    return tuple(item for item in exceptions if now < item.until)


def are_others(edges: Iterable[float], then: float, now: float) -> bool:
    """Return whether something else is in force at `now` than was at `then`; all are in Unix seconds."""
    earlier, later = min(then, now), max(then, now)
    return any(earlier < edge <= later for edge in edges)


def is_outdated(state: Judged, now: float) -> bool:
    """Return whether something else is in force at `now`, in Unix seconds, than what a state was judged by."""
    return are_others(state.edges, state.judged_at, now)


def outdated(states: Iterable[S], now: float) -> Iterator[S]:
    """Return the states that are to be judged anew at `now`, in Unix seconds."""
    return (state for state in states if is_outdated(state, now))


def next_edge(states: Iterable[Judged], now: float) -> float:
    """Return the Unix time after `now` from which a state is judged by something else; infinity if there is none."""
    return min((edge for state in states for edge in state.edges if now < edge), default=math.inf)


def excepted_ports(exceptions: Iterable[PortEnding], now: float) -> PortSet:
    """Return the ports whose deviations are accepted at `now`, in Unix seconds."""
    return PortSet.of_ranges(chain.from_iterable(item.ports.ranges for item in in_force(exceptions, now)))


def last_day(until: float) -> date | None:
    """Return the last day (UTC) on which an exception that ends at `until` (Unix seconds) holds, as conf.yml spells it.

    None for one that does not end with a day.
    """
    if until % SECONDS_A_DAY:
        return None
    return datetime.fromtimestamp(until - SECONDS_A_DAY, UTC).date()
