"""The probes that are waited for. No clock, no socket of its own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from portspec.scan.connect.lane import Lane, Target

    Flight = dict[int, tuple[Lane, Target, float, socket.socket]]  # by descriptor; the time is when it was sent


class Flights:
    """Probes in flight: a queue for each patience of jobs, in the order of sending, hence of expiry.

    In one queue for all, a probe that is waited for long would hold up all that were sent after it. Connections that
    have come about and are to stay up for a while are `held`, in a queue for each hold. Times in seconds.
    """

    __slots__ = ("hasty", "held", "others")

    def __init__(self) -> None:
        self.hasty: Flight = {}  # of jobs without a patience of their own: nearly all
        self.others: dict[float, Flight] = {}
        self.held: dict[float, Flight] = {}

    def __len__(self) -> int:
        return len(self.hasty) + sum(map(len, (*self.others.values(), *self.held.values())))

    def of(self, patience: float) -> Flight:
        """Give the queue of jobs with such a patience."""
        return self.others.setdefault(patience, {}) if patience else self.hasty

    def home(self, fd: int) -> Flight:
        """Give the queue in which a descriptor is; one in which it is not if there is none."""
        if fd in self.hasty:
            return self.hasty
        return next((flight for flight in (*self.others.values(), *self.held.values()) if fd in flight), self.hasty)

    def hold(self, fd: int, seconds: float, now: float) -> None:
        """Hold a connection that has come about, for so many seconds from now on."""
        lane, target, _, sock = self.home(fd).pop(fd)
        self.held.setdefault(seconds, {})[fd] = (lane, target, now, sock)

    def is_held(self, fd: int) -> bool:
        """Tell whether a descriptor is that of a connection which is held."""
        return any(fd in flight for flight in self.held.values())

    def expiries(self, timeout: float) -> list[float]:
        """Give when the first of each queue was waited for long enough, a probe at least for the timeout, or held."""
        waits = [(0.0, self.hasty), *self.others.items()]
        ends = [_first_sent(flight) + max(timeout, patience) for patience, flight in waits if flight]
        return ends + [_first_sent(flight) + seconds for seconds, flight in self.held.items() if flight]

    def expired(self, timeout: float, now: float) -> Iterator[tuple[int, Lane, Target, float]]:
        """Give each probe that was waited for long enough, and when it was sent; take it out before the next."""
        for patience, flight in ((0.0, self.hasty), *self.others.items()):
            while flight and _first_sent(flight) + max(timeout, patience) <= now:
                fd = next(iter(flight))
                lane, target, sent_at, _ = flight[fd]
                yield fd, lane, target, sent_at
        for patience in [patience for patience, flight in self.others.items() if not flight]:
            del self.others[patience]

    def stayed(self, now: float) -> Iterator[tuple[int, Lane, Target]]:
        """Give each connection that was held for long enough; it is to be taken out before the next."""
        for seconds, flight in self.held.items():
            while flight and _first_sent(flight) + seconds <= now:
                fd = next(iter(flight))
                lane, target, _, _ = flight[fd]
                yield fd, lane, target
        for seconds in [seconds for seconds, flight in self.held.items() if not flight]:
            del self.held[seconds]

    def of_lane(self, lane: Lane) -> list[int]:
        """Give the descriptors of one lane and of its controls."""
        flights = (self.hasty, *self.others.values(), *self.held.values())
        return [fd for flight in flights for fd, (owner, *_) in flight.items() if owner is lane or owner.main is lane]

    def all(self) -> list[int]:
        """Give all descriptors."""
        return list(itertools.chain(self.hasty, *self.others.values(), *self.held.values()))


def _first_sent(flight: Flight) -> float:
    return next(iter(flight.values()))[2]
