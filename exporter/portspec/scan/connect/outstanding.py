"""Probes that wait for an answer. No clock, and no socket of its own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from portspec.scan.connect.address import ConnectAddressScan, Endpoint

    # By descriptor; the time is when the probe was sent.
    ProbeQueue = dict[int, tuple[ConnectAddressScan, Endpoint, float, socket.socket]]


class OutstandingProbes:
    """One queue for each timeout, in the order of sending and hence of expiry. Times in seconds.

    With a single queue, a probe with a long timeout would delay the expiry of all that were sent after it. Connections
    that have been established and must stay up for a while are `held`, in one queue for each duration.
    """

    __slots__ = ("default", "held", "patient")

    def __init__(self) -> None:
        self.default: ProbeQueue = {}  # with the engine's timeout: nearly all
        self.patient: dict[float, ProbeQueue] = {}  # with a longer one, by it
        self.held: dict[float, ProbeQueue] = {}

    def __len__(self) -> int:
        return len(self.default) + sum(map(len, (*self.patient.values(), *self.held.values())))

    def queue_for(self, patience: float) -> ProbeQueue:
        """Return the queue of probes with a minimum timeout; 0 stands for the engine's."""
        return self.patient.setdefault(patience, {}) if patience else self.default

    def queue_of(self, fd: int) -> ProbeQueue:
        """Return the queue that holds a descriptor; one that does not if none does."""
        if fd in self.default:
            return self.default
        return next((queue for queue in (*self.patient.values(), *self.held.values()) if fd in queue), self.default)

    def hold(self, fd: int, seconds: float, now: float) -> None:
        """Hold a connection that was established, for so many seconds from now on."""
        scan, target, _, sock = self.queue_of(fd).pop(fd)
        self.held.setdefault(seconds, {})[fd] = (scan, target, now, sock)

    def is_held(self, fd: int) -> bool:
        """Return whether a descriptor belongs to a held connection."""
        return any(fd in queue for queue in self.held.values())

    def expiries(self, timeout: float) -> list[float]:
        """Return when the first entry of each queue expires; `timeout` is the engine's."""
        waits = [(0.0, self.default), *self.patient.items()]
        ends = [_first_sent(queue) + max(timeout, patience) for patience, queue in waits if queue]
        return ends + [_first_sent(queue) + seconds for seconds, queue in self.held.items() if queue]

    def expired(self, timeout: float, now: float) -> Iterator[tuple[int, ConnectAddressScan, Endpoint, float]]:
        """Yield each probe that has expired, and when it was sent; the caller removes it before the next."""
        for patience, queue in ((0.0, self.default), *self.patient.items()):
            while queue and _first_sent(queue) + max(timeout, patience) <= now:
                fd = next(iter(queue))
                scan, target, sent_at, _ = queue[fd]
                yield fd, scan, target, sent_at
        for patience in [patience for patience, queue in self.patient.items() if not queue]:
            del self.patient[patience]

    def held_long_enough(self, now: float) -> Iterator[tuple[int, ConnectAddressScan, Endpoint]]:
        """Yield each connection whose time is over; the caller removes it before the next."""
        for seconds, queue in self.held.items():
            while queue and _first_sent(queue) + seconds <= now:
                fd = next(iter(queue))
                scan, target, _, _ = queue[fd]
                yield fd, scan, target
        for seconds in [seconds for seconds, queue in self.held.items() if not queue]:
            del self.held[seconds]

    def of_scan(self, scan: ConnectAddressScan) -> list[int]:
        """Return the descriptors of the scan of an address and of its reference probes."""
        queues = (self.default, *self.patient.values(), *self.held.values())
        return [fd for queue in queues for fd, (owner, *_) in queue.items() if owner is scan or owner.parent is scan]

    def all(self) -> list[int]:
        """Return all descriptors."""
        return list(itertools.chain(self.default, *self.patient.values(), *self.held.values()))


def _first_sent(queue: ProbeQueue) -> float:
    return next(iter(queue.values()))[2]
