"""The ports of one address and their states, as arrays: an address may have all 65,535."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from portspec.ports import PortSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from portspec.scan.syn.arrays import U8, U16, Floats

# The states of a port, in ascending order: an answer never lowers a state (PortStates.record_answers).
# Not settled: not sent yet; sent, an answer may arrive; silent, to be sent again.
NOT_SENT, IN_FLIGHT, TO_RETRY = 0, 1, 2
# Settled. A SYN-ACK outweighs an RST, which outweighs an ICMP error: firewalls answer for others.
FILTERED, CLOSED, OPEN = 3, 4, 5

# Not a state: the kind of an ICMP error with which this machine says that it did not send a probe.
LOCAL_REJECTION = 0

EMPTY: U16 = np.zeros(0, np.uint16)


class PortStates:
    """The state of each port of an address, and what was sent to it. The arrays are indexed by port.

    Invariants: `in_flight` counts the ports whose state is IN_FLIGHT, `unsettled` those below FILTERED. `tries` is one
    more than the last try that was sent to a port, and `sent_at` the time of that, in seconds.
    """

    __slots__ = ("_restarted_at", "all", "in_flight", "sent_at", "state", "tries", "unsettled")

    def __init__(self, ports: U16) -> None:
        size = int(ports.max(initial=0)) + 1
        self.all = ports
        self.in_flight = 0
        self.unsettled = len(ports)
        self.state = np.zeros(size, np.uint8)
        self.tries = np.zeros(size, np.uint8)
        self.sent_at = np.zeros(size)
        self._restarted_at: U8 | None = None  # the first try after a change of the route

    def add(self, ports: U16) -> None:
        """Add ports, none of which are among them yet."""
        self.all = np.union1d(self.all, ports)
        self.unsettled += len(ports)
        if missing := int(self.all.max(initial=0)) + 1 - self.size:
            self.state = np.pad(self.state, (0, missing))
            self.tries = np.pad(self.tries, (0, missing))
            self.sent_at = np.pad(self.sent_at, (0, missing))
            self._restarted_at = None if self._restarted_at is None else np.pad(self._restarted_at, (0, missing))

    @property
    def size(self) -> int:
        """The length of the arrays."""
        return len(self.state)

    @property
    def settled(self) -> PortSet:
        """The ports whose state is known."""
        return port_set(np.flatnonzero(self.state >= FILTERED))

    def in_state(self, state: int) -> PortSet:
        """Return the ports in a state that is settled."""
        return port_set(np.flatnonzero(self.state == state))

    def without(self, ports: U16) -> U16:
        """Return all ports but some of them."""
        if not len(ports):
            return self.all
        is_other = np.ones(self.size, np.bool_)
        is_other[ports] = False
        found: U16 = self.all[is_other[self.all]]
        return found

    def unsettled_of(self, ports: U16) -> U16:
        """Return those of some ports that are not settled."""
        return ports[self.state[ports] <= TO_RETRY]

    def to_retry(self, ports: U16) -> U16:
        """Return those of some ports that are to be sent again."""
        found: U16 = ports[self.state[ports] == TO_RETRY]
        return found

    def mark_to_retry(self, ports: U16) -> None:
        """Record that ports which are not in flight are to be sent again."""
        self.state[ports] = TO_RETRY

    def mark_in_flight(self, ports: U16, attempt: int, at: Floats) -> None:
        """Record that a try was sent to ports which were not in flight, and when."""
        self.state[ports] = IN_FLIGHT
        self.tries[ports] = attempt + 1
        self.sent_at[ports] = at
        self.in_flight += len(ports)

    def mark_filtered(self, ports: U16) -> None:
        """Record that ports to retry are filtered."""
        self.state[ports] = FILTERED
        self.unsettled -= len(ports)

    def expire(self, ports: U16, attempt: int | None = None) -> U16:
        """Return those of some ports that are in flight, with that try if one is given; from now on they are not."""
        waiting = self.state[ports] == IN_FLIGHT
        silent: U16 = ports[waiting if attempt is None else waiting & (self.tries[ports] == attempt + 1)]
        self.state[silent] = TO_RETRY
        self.in_flight -= len(silent)
        return silent

    def record_answers(self, ports: U16, attempts: U8, kinds: U8) -> NDArray[np.intp]:
        """Record answers to tries; return the position of the first answer of each port that they settled.

        An answer to a try that was not sent is a forgery and is ignored.
        """
        made = np.flatnonzero(attempts < self.tries[ports])
        pending = made[self.state[ports[made]] <= TO_RETRY]
        settled = pending[_firsts(ports[pending])]
        self.in_flight -= int(np.count_nonzero(self.state[ports[settled]] == IN_FLIGHT))
        self.unsettled -= len(settled)
        np.maximum.at(self.state, ports[made], kinds[made])
        return settled

    def restart(self, ports: U16, attempt: int) -> None:
        """Count answers up to this try as answers to first probes: what an outage dropped is no loss."""
        if self._restarted_at is None:
            self._restarted_at = np.zeros(self.size, np.uint8)
        self._restarted_at[ports] = attempt

    def count_first(self, ports: U16, attempts: U8) -> int:
        """Return how many answers are to first probes, by port and try."""
        return int(np.count_nonzero(attempts <= (0 if self._restarted_at is None else self._restarted_at[ports])))


def _firsts(ports: U16) -> NDArray[np.intp]:
    """Return the position at which each port is first, by port: numpy.unique imports numpy.ma, a tenth of a start."""
    order = np.argsort(ports, kind="stable")
    found = ports[order]
    firsts: NDArray[np.intp] = order[np.concatenate([np.ones(len(ports[:1]), np.bool_), found[1:] != found[:-1]])]
    return firsts


@lru_cache(maxsize=64)  # most hosts of a round have the same ports
def port_array(ports: PortSet) -> U16:
    """Return a set of ports as an array, ascending. Others get the same one: nobody may change it."""
    ranges = [np.arange(first, last + 1, dtype=np.uint16) for first, last in ports.ranges]
    return np.concatenate(ranges) if ranges else EMPTY


def port_set(ports: NDArray[np.intp]) -> PortSet:
    """Return ascending ports as a set, without an object for each."""
    if not len(ports):
        return PortSet()
    ends = np.flatnonzero(np.diff(ports) > 1)
    firsts = ports[np.concatenate([[0], ends + 1])].tolist()
    lasts = ports[np.concatenate([ends, [len(ports) - 1]])].tolist()
    return PortSet.of_ranges(zip(firsts, lasts, strict=True))
