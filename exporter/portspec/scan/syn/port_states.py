"""Ports and their states as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from portspec.ports import PortSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U16 = NDArray[np.uint16]

# The states of a port, in ascending order: an answer never lowers a state (np.maximum in SynAddressScan).
# Not settled: not sent yet; sent, an answer may arrive; silent, to be sent again.
NOT_SENT, IN_FLIGHT, TO_RETRY = 0, 1, 2
# Settled. A SYN-ACK outweighs an RST, which outweighs an ICMP error: firewalls answer for others.
FILTERED, CLOSED, OPEN = 3, 4, 5

# Not a state: the kind of an ICMP error with which this machine says that it did not send a probe.
LOCAL_REJECTION = 0

EMPTY: U16 = np.zeros(0, np.uint16)


def port_array(ports: PortSet) -> U16:
    """Return a set of ports as an array, ascending."""
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
