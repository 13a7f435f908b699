"""The state of one address in the connect engine: which ports wait, and what the others showed.

A port is in one of these places until it is settled (`states` is OPEN, CLOSED or FILTERED):

    unsent ──► in flight ──answer──► settled OPEN or CLOSED
                 │   ▲
              silent │ resent
                 ▼   │
             retry_queue           while it has been tried at most `retries` times
                 │
                 ▼
             suspected_filtered    silent on every try; the last one counts only if liveness.py can prove it

Invariants: `unsettled` == unsent ports + in_flight + len(retry_queue) + len(suspected_filtered). `attempts` counts the
silent tries of ports that are not settled; while a patient probe to a port is out, its count is in `patient_attempts`
instead. The engine's hot loop (engine.ConnectEngine._collect) changes these fields directly.
"""

from __future__ import annotations

import random
import socket
from collections import deque
from itertools import chain, repeat
from typing import TYPE_CHECKING, NamedTuple

from portspec.ports import PortSet
from portspec.scan.failures import rate_until_cut_off
from portspec.scan.job import AddressObservation, Failure
from portspec.scan.loss import AddressLoss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.scan.engine import ActiveJob
    from portspec.scan.loss import PathLoss
    from portspec.scan.route import TrackedRoute

Endpoint = tuple[str, int]

UNSETTLED, OPEN, CLOSED, FILTERED = range(4)
MAX_ADDRESS_WINDOW = 512  # more is not faster (docs/performance.md), and less polite

# Python 3.13 imports a module at the first seed that is a string. Later there may be no descriptor left for it.
random.Random("")  # noqa: S311 - not a secret


class SilentTry(NamedTuple):
    """A probe that was not answered, and when it was sent, in seconds of the engine's clock."""

    target: Endpoint
    sent_at: float


class ConnectAddressScan:
    """The scan of one address of a job.

    With `ports` and `parent` it is a set of reference probes to the address that `parent` scans.
    """

    __slots__ = (
        "active_job", "address", "answered", "attempts", "failure", "family", "had_patient_probes", "has_unsent",
        "in_flight", "last_answer_at", "loss", "parent", "patience", "patient_attempts",
        "probes_at_last_answer", "retry_queue", "route", "rtt", "states", "suspected_filtered", "unsent", "unsettled",
        "window",
    )  # fmt: skip

    def __init__(
        self,
        active_job: ActiveJob[ConnectAddressScan],
        address: str,
        path_loss: PathLoss,
        *,
        ports: PortSet | None = None,
        parent: ConnectAddressScan | None = None,
    ) -> None:
        job = active_job.job
        self.active_job = active_job
        self.address = address
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.parent = parent
        ports = job.ports if ports is None else ports
        first = job.first & ports
        order = chain(first, shuffled(ports - first if first else ports, f"{job.seed}/{address}"))
        self.unsent: Iterator[Endpoint] = zip(repeat(address), order)
        self.has_unsent = True
        self.retry_queue: deque[Endpoint] = deque()
        self.attempts: dict[int, int] = {}  # tries of the ports that are silent so far
        self.had_patient_probes = False
        self.patient_attempts: dict[int, int] = {}  # the same of ports that got a patient probe
        self.suspected_filtered: list[SilentTry] = []  # silent on every try so far; the last of them
        self.states = bytearray(65536)
        self.unsettled = len(ports)
        self.in_flight = 0
        self.window = MAX_ADDRESS_WINDOW
        self.patience = job.patience
        self.answered = False
        self.last_answer_at = active_job.started
        self.probes_at_last_answer = 0
        self.rtt = float("inf")
        self.failure: Failure | None = None
        self.loss = AddressLoss(path_loss)
        self.route: TrackedRoute | None = None

    @property
    def has_more(self) -> bool:
        """True if there are ports to probe, for the first time or again."""
        return self.unsettled > self.in_flight + len(self.suspected_filtered)

    @property
    def wants_patient_probes(self) -> bool:
        """True if nothing has answered so far: it may be that answers take longer than the timeout."""
        return bool(self.retry_queue) and not self.answered and not self.had_patient_probes

    def take_patient_target(self, retries: int, tries: int) -> Endpoint | None:
        """Take a silent port for a patient probe, which counts as `tries` of the tries that are left."""
        self.had_patient_probes = True
        if not self.retry_queue:
            return None
        target = self.retry_queue.popleft()
        made = self.attempts.pop(target[1], 0)
        self.patient_attempts[target[1]] = max(made, min(retries, made + tries - 1))
        return target

    def was_lost_before(self, port: int, is_prompt: bool) -> bool:  # noqa: FBT001 - called for each probe
        """Return whether an answer, within the engine's timeout or later, shows that an earlier probe was lost.

        A late answer to a patient probe does not: the first one may have been answered as late. Nor do tries that were
        made while the route was interrupted, whose number is 0 again.
        """
        return bool(self.attempts.get(port)) or (is_prompt and port in self.patient_attempts)

    def is_at_last_tries(self, retries: int) -> bool:
        """Return whether the next probe is the last of 1 + `retries`, so that its silence would count."""
        if self.has_unsent:
            return not retries
        return not self.retry_queue or self.attempts.get(self.retry_queue[0][1], 0) >= retries

    def record_answer(self, at: float) -> None:
        """Record that the address answered."""
        self.answered = True
        self.last_answer_at = at
        self.probes_at_last_answer = self.active_job.probes

    @property
    def has_retried_all(self) -> bool:
        """True while no port waits for the answer to its first probe, or to be retried."""
        patient = sum(self.states[port] == UNSETTLED for port in self.patient_attempts)  # others were answered
        return len(self.attempts) + patient == self.unsettled and not self.retry_queue

    @property
    def has_only_suspects(self) -> bool:
        """True if every port that is not settled is suspected to be filtered, so that their silence can be judged."""
        return bool(self.suspected_filtered) and self.unsettled == len(self.suspected_filtered)

    def add_ports(self, ports: PortSet) -> None:
        """Scan more ports, none of which the job has yet."""
        seed = f"{self.active_job.job.seed}/{self.address}"
        self.unsent = chain(self.unsent, zip(repeat(self.address), shuffled(ports, seed)))
        self.has_unsent = True
        self.unsettled += len(ports)

    def next(self) -> Endpoint | None:
        """Take the next target: every port once, then those that stayed silent."""
        target = next(self.unsent, None)
        if target is None:
            self.has_unsent = False
            if self.retry_queue:
                return self.retry_queue.popleft()
        return target

    def observation(self, failure: Failure | None = None) -> AddressObservation:
        """Return what is known now; `failure` is that of an address which is not complete and has none."""
        failure = self.failure or failure
        ports = self.active_job.job.ports
        states = self.states
        return AddressObservation(
            address=self.address,
            scanned=PortSet.of(port for port in ports if states[port] != UNSETTLED) if failure else ports,
            open=PortSet.of(port for port in ports if states[port] == OPEN),
            filtered=PortSet.of(port for port in ports if states[port] == FILTERED),
            answered=self.answered,
            rtt=self.rtt if self.answered and self.rtt != float("inf") else None,
            failure=failure,
            pace=rate_until_cut_off(failure, self.last_answer_at - self.active_job.started, self.probes_at_last_answer),
        )


def shuffled(ports: PortSet, seed: int | str) -> list[int]:
    """Return every port once, in an order that the seed alone decides.

    Ascending ports trip port-scan detectors, and a burst on neighbouring services loads one machine at once.
    """
    order = list(ports)
    random.Random(seed).shuffle(order)  # noqa: S311 - not a secret
    return order
