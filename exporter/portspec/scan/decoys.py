"""Whether an address answers for ports that are not there: a SYN proxy, a tarpit, a firewall in its place. Pure.

What tells is a port that must be shut. A scan has some of these anyway, all ports that it covers and the specification
neither expects nor allows: an address that is seen to be shut on most of them does not answer everything, and is asked
nothing more. Where that is not seen, ports drawn at random decide.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from portspec.ports import MAX_PORT, PortSet
from portspec.scan.job import AddressObservation, Failure, Reason
from portspec.services import name_of

if TYPE_CHECKING:
    import random

DECOYS: Final = 4
LOWEST: Final = 1024  # below are the ports of services
MANY: Final = 16  # open ports of an address that should be shut: more than a host has by mistake
LEAST_SCANNED: Final = 100  # ports, before more than half of them open is no host of its own any more
_DRAWS = 64


def draw(but: PortSet, rng: random.Random) -> PortSet:
    """Draw DECOYS ports, none of `but` and none of a known service; no ports where nearly all are of `but`."""
    drawn = rng.sample(range(LOWEST, MAX_PORT + 1), _DRAWS)
    found = PortSet.of(islice((port for port in drawn if port not in but and name_of(port) is None), DECOYS))
    return found if len(found) == DECOYS else PortSet()


def is_doubtful(item: AddressObservation, known: PortSet) -> bool:
    """Tell whether an address may be one that answers everything: it has ports open, and was seen shut on too few.

    `known` are the ports that it is expected or allowed to have open. Where these are most of all ports there is no
    doubt.
    """
    if item.failure or not item.open or covers_most(known):
        return False
    strange = item.open - known
    if not strange:  # what most hosts come to, hence quick
        return item.scanned <= known
    return len(strange) >= MANY or 2 * len(strange) > len(item.scanned - known)


def covers_most(known: PortSet) -> bool:
    """Tell whether a specification lets most of all ports be open."""
    return 2 * len(known) > MAX_PORT


def answers_everything(
    item: AddressObservation, known: PortSet, decoys: AddressObservation | None = None
) -> Failure | None:
    """Give the failure, with the evidence, if an address answers everything.

    `item` is what its scan saw, and `decoys` what it showed on ports drawn at random, without ports where none could be
    drawn. It answers everything if most of these are open, or more than half of what was scanned and is not known.
    """
    parts = []
    is_so = False
    if decoys and decoys.scanned:
        is_so = 2 * len(decoys.open) > len(decoys.scanned)
        parts.append(f"{len(decoys.open)} of {len(decoys.scanned)} ports drawn at random answered")
    scanned, opened = item.scanned - known, item.open - known
    is_so = is_so or (len(scanned) >= LEAST_SCANNED and 2 * len(opened) > len(scanned))
    parts.append(f"{len(item.open):,} of {len(item.scanned):,} scanned{'' if parts else ' ports answered'}")
    if not is_so:
        return None
    return Failure(
        Reason.ANSWERS_EVERYTHING,
        f"{item.address}: {', and '.join(parts)}: a firewall or a proxy (SYN proxy, tarpit) answers in its place",
    )


def of_cut_off(item: AddressObservation, known: PortSet) -> Failure | None:
    """Give the failure of an address that was cut off if it answered everything until then; nobody can be asked now."""
    if item.failure is None or not item.is_usable or covers_most(known):
        return None
    return answers_everything(item, known)


def without_disguise(
    item: AddressObservation, known: PortSet, decoys: AddressObservation | None, connected: AddressObservation
) -> AddressObservation | None:
    """Give what is true of an address that seems to answer everything, by the connections to its open ports.

    `connected` is what the open ports of its scan showed then, and those of `decoys`. None if no connection stayed up,
    or too many did: they do not tell true ports from others.
    """
    opened = item.open & connected.open
    if connected.failure or not opened:
        return None
    found = replace(item, open=opened, filtered=item.filtered | (item.open & connected.filtered), unconfirmed=PortSet())
    drawn = replace(decoys, open=decoys.open & connected.open) if decoys else None
    return None if answers_everything(found, known, drawn) else found


def unseen(item: AddressObservation, failure: Failure) -> AddressObservation:
    """Give the observation of an address that answers everything: none of its answers tells anything of a port."""
    return AddressObservation(item.address, PortSet(), answered=item.answered, rtt=item.rtt, failure=failure)
