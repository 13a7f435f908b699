"""The state of the jobs in progress: which ports wait, which are settled."""

from __future__ import annotations

import socket
from collections import deque
from itertools import chain, repeat
from typing import TYPE_CHECKING

from portspec.ports import PortSet
from portspec.scan.job import AddressObservation, Failure
from portspec.scan.loss import AddressLoss
from portspec.scan.order import shuffled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.scan.loss import PathLoss
    from portspec.scan.way import Way
    from portspec.scan.work import Work

Target = tuple[str, int]

UNSETTLED, OPEN, CLOSED, FILTERED = range(4)


class Lane:
    """One address of a job: which ports wait, and what the others showed."""

    __slots__ = (
        "address", "again", "answered", "attempts", "doubtful", "failure", "family",
        "fresh", "in_flight", "loss", "rtt", "states", "unsettled", "way", "work",
    )  # fmt: skip

    def __init__(self, work: Work[Lane], address: str, path_loss: PathLoss) -> None:
        self.work = work
        self.address = address
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.fresh: Iterator[Target] = zip(repeat(address), shuffled(work.job.ports, f"{work.job.seed}/{address}"))
        self.again: deque[Target] = deque()
        self.attempts: dict[int, int] = {}  # of the ports that are silent so far
        self.doubtful: list[Target] = []  # silent on every try so far
        self.states = bytearray(65536)
        self.unsettled = len(work.job.ports)
        self.in_flight = 0
        self.answered = False
        self.rtt = float("inf")
        self.failure: Failure | None = None
        self.loss = AddressLoss(path_loss)
        self.way: Way | None = None

    @property
    def has_asked_again(self) -> bool:
        """True while no port waits for the answer to its first probe, or to be asked again."""
        return len(self.attempts) == self.unsettled and not self.again

    @property
    def is_doubtful(self) -> bool:
        """True if there is silence to be believed, and nothing else to be done first."""
        return bool(self.doubtful) and self.unsettled == len(self.doubtful)

    def add_ports(self, ports: PortSet) -> None:
        """Scan more ports, none of which the job has yet."""
        seed = f"{self.work.job.seed}/{self.address}"
        self.fresh = chain(self.fresh, zip(repeat(self.address), shuffled(ports, seed)))
        self.unsettled += len(ports)

    def next(self) -> Target | None:
        """Take the next target: every port once, then those that stayed silent."""
        target = next(self.fresh, None)
        if target is None and self.again:
            return self.again.popleft()
        return target

    def observation(self) -> AddressObservation:
        """Give what is known now."""
        ports = self.work.job.ports
        states = self.states
        return AddressObservation(
            address=self.address,
            scanned=PortSet.of(port for port in ports if states[port] != UNSETTLED) if self.failure else ports,
            open=PortSet.of(port for port in ports if states[port] == OPEN),
            filtered=PortSet.of(port for port in ports if states[port] == FILTERED),
            answered=self.answered,
            rtt=self.rtt if self.answered and self.rtt != float("inf") else None,
            failure=self.failure,
        )
