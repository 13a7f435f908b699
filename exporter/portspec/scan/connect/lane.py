"""The state of the jobs in progress: which ports wait, which are settled."""

from __future__ import annotations

import socket
from collections import deque
from itertools import chain, repeat
from typing import TYPE_CHECKING, NamedTuple

from portspec.ports import PortSet
from portspec.scan.job import AddressObservation, Failure
from portspec.scan.life import pace
from portspec.scan.loss import AddressLoss
from portspec.scan.order import shuffled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.scan.connect.control import Controls
    from portspec.scan.loss import PathLoss
    from portspec.scan.way import Way
    from portspec.scan.work import Work

Target = tuple[str, int]


class Try(NamedTuple):
    """A probe that was not answered, and when it was sent, in seconds of the engine's clock."""

    target: Target
    sent_at: float


UNSETTLED, OPEN, CLOSED, FILTERED = range(4)
MAX_ADDRESS_WINDOW = 512  # more is not faster (docs/performance.md), and less polite


class Lane:
    """One address of a job: which ports wait, and what the others showed.

    With `ports` and `main` it is a lane of controls of another one.
    """

    __slots__ = (
        "address", "again", "answered", "attempts", "controls", "doubtful", "failure", "family", "fresh",
        "had_scouts", "heard_at", "in_flight", "is_fresh", "loss", "main", "most_in_flight", "patience",
        "probes_when_heard", "rtt", "scouts", "states", "unsettled", "way", "work",
    )  # fmt: skip

    def __init__(
        self,
        work: Work[Lane],
        address: str,
        path_loss: PathLoss,
        *,
        ports: PortSet | None = None,
        main: Lane | None = None,
    ) -> None:
        self.work = work
        self.address = address
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.main = main
        ports = work.job.ports if ports is None else ports
        first = work.job.first & ports
        order = chain(first, shuffled(ports - first if first else ports, f"{work.job.seed}/{address}"))
        self.fresh: Iterator[Target] = zip(repeat(address), order)
        self.had_scouts = False
        self.scouts: dict[int, int] = {}  # as `attempts`, apart: that one answers late does not mean that one was lost
        self.is_fresh = True  # while there are ports that were not asked yet
        self.again: deque[Target] = deque()
        self.attempts: dict[int, int] = {}  # of the ports that are silent so far
        self.doubtful: list[Try] = []  # silent on every try so far; the last of them
        self.states = bytearray(65536)
        self.unsettled = len(ports)
        self.in_flight = 0
        self.most_in_flight = MAX_ADDRESS_WINDOW
        self.patience = work.job.patience
        self.answered = False
        self.heard_at = work.started
        self.probes_when_heard = 0
        self.rtt = float("inf")
        self.failure: Failure | None = None
        self.loss = AddressLoss(path_loss)
        self.way: Way | None = None
        self.controls: Controls  # not for a lane of controls

    @property
    def has_more(self) -> bool:
        """True if there are ports to ask, for the first time or again."""
        return self.unsettled > self.in_flight + len(self.doubtful)

    @property
    def wants_scouts(self) -> bool:
        """True if nothing was heard so far: it may be that answers take long."""
        return bool(self.again) and not self.answered and not self.had_scouts

    def scout(self, retries: int, tries: int) -> Target | None:
        """Take a silent port whose next try, which is waited for longer, stands for as many `tries` that are left."""
        self.had_scouts = True
        if not self.again:
            return None
        target = self.again.popleft()
        made = self.attempts.pop(target[1], 0)
        self.scouts[target[1]] = max(made, min(retries, made + tries - 1))
        return target

    def is_at_last_tries(self, retries: int) -> bool:
        """Tell whether the silence of what is sent next would count after `retries` of them."""
        if self.is_fresh:
            return not retries
        return not self.again or self.attempts.get(self.again[0][1], 0) >= retries

    def hear(self, at: float) -> None:
        """Note that the address answered."""
        self.answered = True
        self.heard_at = at
        self.probes_when_heard = self.work.probes

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
        self.is_fresh = True
        self.unsettled += len(ports)

    def next(self) -> Target | None:
        """Take the next target: every port once, then those that stayed silent."""
        target = next(self.fresh, None)
        if target is None:
            self.is_fresh = False
            if self.again:
                return self.again.popleft()
        return target

    def observation(self, failure: Failure | None = None) -> AddressObservation:
        """Give what is known now, with a failure in place of none if it is not all."""
        failure = self.failure or failure
        ports = self.work.job.ports
        states = self.states
        return AddressObservation(
            address=self.address,
            scanned=PortSet.of(port for port in ports if states[port] != UNSETTLED) if failure else ports,
            open=PortSet.of(port for port in ports if states[port] == OPEN),
            filtered=PortSet.of(port for port in ports if states[port] == FILTERED),
            answered=self.answered,
            rtt=self.rtt if self.answered and self.rtt != float("inf") else None,
            failure=failure,
            pace=pace(failure, self.heard_at - self.work.started, self.probes_when_heard),
        )
