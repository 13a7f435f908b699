"""The verdict on one host: in spec, out of spec, or unknown."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.ports import NO_PORTS
from portspec.scan import AddressObservation, Failure, PortState, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.config import Specification
    from portspec.ports import PortSet


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
    """A verdict with its grounds: deviations by address and port, and the failure if something was not seen.

    `excepted` are deviations that do not count, since an exception is in force.
    """

    verdict: Verdict
    deviations: tuple[Deviation, ...] = ()
    failure: Failure | None = None
    excepted: tuple[Deviation, ...] = ()

    @property
    def conclusive(self) -> bool:
        """True if the verdict is not unknown."""
        return self.verdict is not Verdict.UNKNOWN


def judge(
    addresses: Sequence[AddressObservation],
    specification: Specification,
    failure: Failure | None = None,
    excepted: PortSet = NO_PORTS,
) -> Judgement:
    """Judge each address by itself, and the host by all of them; deviations of `excepted` ports do not count.

    A deviation on any address that was seen makes the host out of spec, also one seen before the address was cut off.
    Without one, an address that could not be seen, or not as a whole, or a `failure` from before the scan (a name that
    does not resolve), makes it unknown.
    """
    seen = [observation for observation in addresses if observation.is_usable]
    found = sorted(deviation for observation in seen for deviation in _deviations(observation, specification))
    deviations = tuple(item for item in found if item.port not in excepted)
    accepted = tuple(item for item in found if item.port in excepted)
    if not addresses and failure is None:
        failure = Failure(Reason.RESOLVE, "the host has no address")
    failures = ([failure] if failure else []) + [item.failure for item in addresses if item.failure]
    first = failures[0] if failures else None
    if deviations:
        return Judgement(Verdict.OUT_OF_SPEC, deviations, first, accepted)
    return Judgement(Verdict.UNKNOWN if first else Verdict.IN_SPEC, (), first, accepted)


def _deviations(observation: AddressObservation, specification: Specification) -> Iterator[Deviation]:
    address = observation.address
    for port in missing(observation, specification):
        yield Deviation(address, port, Kind.MISSING, observation.state(port))
    for port in unexpected(observation, specification):
        yield Deviation(address, port, Kind.UNEXPECTED, PortState.OPEN)


def missing(observation: AddressObservation, specification: Specification) -> PortSet:
    """Return the ports of an address that should be open and were seen not to be."""
    return (specification.expect & observation.scanned) - observation.accepting


def unexpected(observation: AddressObservation, specification: Specification) -> PortSet:
    """Return the ports of an address that are open and should not be."""
    return observation.accepting - specification.expect - specification.allow
