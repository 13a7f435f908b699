"""What the SYN engine sends at once, and the states of the ports that it sends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from portspec.ports import PortSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from portspec.scan.syn.address import SynAddressScan
    from portspec.scan.syn.packets import U16
    from portspec.scan.syn.reference_ports import ReferenceBatch

# The states of a port, in ascending order: an answer never lowers a state (np.maximum in SynAddressScan).
# Not settled: not sent yet; sent, an answer may arrive; silent, to be sent again.
NOT_SENT, IN_FLIGHT, TO_RETRY = 0, 1, 2
# Settled. A SYN-ACK outweighs an RST, which outweighs an ICMP error: firewalls answer for others.
FILTERED, CLOSED, OPEN = 3, 4, 5

# Not a state: the kind of an ICMP error with which this machine says that it did not send a probe.
LOCAL_REJECTION = 0

EMPTY: U16 = np.zeros(0, np.uint16)


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """Probes to one address: `ports` as try `attempt` (from 0), between the reference ports `before` and `after`."""

    scan: SynAddressScan
    ports: U16
    attempt: int
    before: U16
    after: U16

    @property
    def parts(self) -> tuple[U16, U16, U16]:
        """The ports in the order of sending."""
        return self.before, self.ports, self.after

    def __len__(self) -> int:
        return len(self.before) + len(self.ports) + len(self.after)


@dataclass(slots=True)
class OutstandingBatch:
    """Probes that were sent together, and the reference probes that were sent last before and first after them."""

    began_at: float
    sent_at: float
    ports: U16
    before: ReferenceBatch | None
    after: ReferenceBatch | None = None

    @property
    def is_proven(self) -> bool:
        """True if reference probes at both ends were answered."""
        return bool(self.before and self.before.was_answered and self.after and self.after.was_answered)


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
