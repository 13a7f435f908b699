"""The verdict on one host: in spec, out of spec, or unknown."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.scan import AddressObservation, Failure, PortState, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.config import Specification


class Verdict(enum.StrEnum):
    """Three values: what could not be seen is neither in nor out of specification."""

    IN_SPEC = "in_spec"
    OUT_OF_SPEC = "out_of_spec"
    UNKNOWN = "unknown"


class Kind(enum.StrEnum):
    """How a port deviates."""

    MISSING = "missing"
    UNEXPECTED = "unexpected"


@dataclass(frozen=True, slots=True, order=True)
class Deviation:
    """One port of one address that is not as specified, and the state it was found in."""

    address: str
    port: int
    kind: Kind
    state: PortState


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its grounds: deviations by address and port, and the failure if something was not seen."""

    verdict: Verdict
    deviations: tuple[Deviation, ...] = ()
    failure: Failure | None = None

    @property
    def conclusive(self) -> bool:
        """True if the verdict is not unknown."""
        return self.verdict is not Verdict.UNKNOWN


def judge(
    addresses: Sequence[AddressObservation], specification: Specification, failure: Failure | None = None
) -> Judgement:
    """Judge each address by itself, and the host by all of them.

    A deviation on any address that was seen makes the host out of spec. Without one, an address that
    could not be seen, or a `failure` from before the scan (a name that does not resolve), makes it unknown.
    """
    seen = [observation for observation in addresses if observation.failure is None]
    deviations = tuple(deviation for observation in seen for deviation in _deviations(observation, specification))
    if not addresses and failure is None:
        failure = Failure(Reason.RESOLVE, "the host has no address")
    failures = ([failure] if failure else []) + [item.failure for item in addresses if item.failure]
    first = failures[0] if failures else None
    if deviations:
        return Judgement(Verdict.OUT_OF_SPEC, deviations, first)
    return Judgement(Verdict.UNKNOWN if first else Verdict.IN_SPEC, (), first)


def _deviations(observation: AddressObservation, specification: Specification) -> Iterator[Deviation]:
    address = observation.address
    for port in specification.expect | observation.accepting:
        if port not in observation.scanned:
            continue
        state = observation.state(port)
        if port in specification.expect:
            if state is not PortState.OPEN:
                yield Deviation(address, port, Kind.MISSING, state)
        elif port not in specification.allow:
            yield Deviation(address, port, Kind.UNEXPECTED, state)
