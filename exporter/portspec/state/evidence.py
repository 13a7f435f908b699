"""What several looks at an address show together, and what is to be looked at again. Pure.

A deviation counts once it was seen often enough, and an open port once a connection came about. Where the address fell
silent meanwhile, or the time was over, what was not seen again counts no more.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING

from portspec.ports import NO_PORTS, PortSet
from portspec.scan import AddressObservation, Failure, Reason, ScanJob
from portspec.scan.job import IN_PART
from portspec.scan.middlebox import connect_timeout
from portspec.state.verdict import Kind, missing, unexpected
from portspec.times import spell_duration

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from portspec.config import Specification
    from portspec.inventory import Target
    from portspec.state.snapshot import ScanResult

_LONGEST_PORTS = 200  # characters
_LIVENESS_SAMPLE = 8  # ports that tell whether an address still answers
_MAX_REFERENCE_PORTS = 64  # ports that have answered and are asked once more beside those that are looked at again
MOST_REFUSALS = 5  # scans; what is unknown is scanned after 1, 2, 5, 15 and 30 minutes: about an hour
_MIN_PORTS_NOT_OPEN = 128  # ports that are not open: beside them a probe to an open one costs less than a hundredth


def new_deviations(
    item: AddressObservation,
    specification: Specification,
    kinds: Collection[Kind],
    before: AddressObservation | None,
) -> PortSet:
    """Return the ports of an address that deviate in one of these ways and did not do so before."""
    ports = NO_PORTS
    if Kind.MISSING in kinds:
        ports |= missing(item, specification) - (before.scanned - before.accepting if before else NO_PORTS)
    if Kind.UNEXPECTED in kinds:
        ports |= unexpected(item, specification) - (before.accepting if before else NO_PORTS)
    return ports


def sample(ports: PortSet) -> PortSet:
    """Return some of the ports: enough to tell whether an address still answers."""
    return PortSet.of(islice(ports, _LIVENESS_SAMPLE))


def answering(item: AddressObservation, but: PortSet) -> PortSet:
    """Return some ports of an address that have answered, others than those; open ones before closed ones."""
    closed = item.scanned - item.open - item.filtered - but
    return PortSet.of(islice(chain(sample(item.accepting - but), closed, item.open - but), _MAX_REFERENCE_PORTS))


def formerly_open(
    first: AddressObservation,
    item: AddressObservation,
    specification: Specification,
    shown: PortSet | None,
    job: ScanJob,
) -> ScanJob | None:
    """Return the job that asks, after all else, some ports that were open at `first` whether they still are.

    A ban may answer in the place of the address, with RST: what is refused then is no more closed than what is silent.
    None where there is no such port; where the last look at some ports, which has `shown` these open, tells; or where
    little could be hidden: few ports that are not open, and none among them that was.
    """
    known = specification.expect | specification.allow
    has_vanished = bool(first.open - known - item.accepting)
    if item.failure or not (has_vanished or len(item.scanned) - len(item.open) >= _MIN_PORTS_NOT_OPEN):
        return None
    asked = sample(first.open & specification.expect or first.open & known or first.open)
    if not asked or (shown and not (asked & known) - shown):
        return None
    return replace(job, addresses=(item.address,), ports=asked, first=NO_PORTS, patience=connect_timeout(item))


def still_open(
    item: AddressObservation, specification: Specification, again: AddressObservation, seconds: float
) -> AddressObservation:
    """Keep only the open ports where the address no longer takes what it took when its scan began.

    `again` is what formerly_open() gives shows, `seconds` are those that the scan took. One expected port that is gone
    is enough, or one that is silent beside others that answer; else each. Where all are silent, the address fell silent
    after the scan, in which silence is proven anyway.
    """
    lost = again.scanned - again.open
    is_all = not again.open
    has_refused = bool(lost - again.filtered)
    counts = has_refused if is_all else bool(lost & (specification.expect | again.filtered))
    if again.failure or not counts:
        return item
    detail = (
        f"{item.address} {'refuses' if has_refused else 'does not answer on'} {_named(lost)}, which "
        f"{'was' if len(lost) == 1 else 'were'} open earlier in this scan: ports that closed meanwhile may be open "
        "(is this scanner banned, or was a service stopped?)"
    )
    return replace(
        _without(item, item.scanned - item.accepting),
        failure=Failure(Reason.CUT_OFF, detail),
        pace=len(item.scanned) / max(seconds, 0.01),
        lost=lost if is_all else NO_PORTS,
    )


def merged(item: AddressObservation, ports: PortSet, again: AddressObservation) -> AddressObservation:
    """Put the newer state of some ports in the place of the older; silence does not undo that one was closed.

    Where the address fell silent, or the time was over, what is not seen again counts no more.
    """
    if item.failure or again.failure:
        closed = again.scanned - again.open - again.filtered
        is_silent = again.failure is not None and again.failure.reason is not Reason.TIMEOUT
        same = NO_PORTS if is_silent else (item.open & again.open) | (closed - item.open)
        return replace(_without(item, ports - same), failure=item.failure or again.failure)
    silent = again.filtered & ports & (item.open | item.filtered)
    times = [rtt for rtt in (item.rtt, again.rtt) if rtt is not None]
    return replace(
        item,
        open=(item.open - ports) | (again.open & ports),
        filtered=(item.filtered - ports) | silent,
        unconfirmed=(item.unconfirmed - ports) | (again.unconfirmed & ports),
        answered=item.answered or again.answered,
        rtt=min(times, default=None),
    )


def woken(scanned: Iterable[AddressObservation], seen: Iterable[AddressObservation]) -> tuple[str, ...]:
    """Return the addresses that answered nothing when all ports were scanned, and something afterwards."""
    silent = {item.address for item in scanned if not (item.answered or item.failure)}
    return tuple(item.address for item in seen if item.address in silent and item.answered)


def fickle(item: AddressObservation) -> AddressObservation:
    """Keep only the open ports of an address that is silent whenever all its ports are scanned, and then answers."""
    detail = (
        f"{item.address} answered nothing while its ports were scanned, twice, and something right afterwards: ports "
        "that were silent may be open (does it keep restarting?)"
    )
    kept = _without(item, item.scanned - item.accepting)
    return replace(kept, failure=item.failure or Failure(Reason.CUT_OFF, detail))


def _without(item: AddressObservation, ports: PortSet) -> AddressObservation:
    """Leave out what was seen of some ports."""
    return replace(
        item,
        scanned=item.scanned - ports,
        open=item.open - ports,
        filtered=item.filtered - ports,
        unconfirmed=item.unconfirmed - ports,
    )


def rechecked(item: AddressObservation, ports: PortSet, again: AddressObservation) -> AddressObservation:
    """Put the newer state of some ports in the place of the older if it is another one, and the address answered.

    Where none of the ports is open that went along and were, the answers may be those of a ban.
    """
    others = (item.accepting - ports) & again.scanned
    if again.failure or not again.answered or (others and not again.open):
        return item
    newer = merged(item, ports, again)
    is_same = (newer.open, newer.filtered, newer.unconfirmed) == (item.open, item.filtered, item.unconfirmed)
    return item if is_same else newer


def question(item: AddressObservation, known: PortSet, job: ScanJob) -> ScanJob | None:
    """Return the job that confirms the open ports of an address which are not known, if there are any.

    One port that has answered goes along, a known one if possible: where it does not answer either, no connection from
    here comes about.
    """
    doubtful = item.open - known
    if not (item.is_usable and doubtful):
        return None
    closed = item.scanned - item.open - item.filtered
    control = PortSet.of(islice(item.open & known or closed, 1))
    return replace(job, addresses=(item.address,), ports=doubtful | control, patience=connect_timeout(item))


def confirmed(
    item: AddressObservation, known: PortSet, connected: AddressObservation, again: AddressObservation | None
) -> AddressObservation:
    """Mark the open ports that no connection could be made to; if none could be tried, nothing is known of them.

    `again` tells what SYNs to some of the ports were answered with afterwards, where nothing was heard of connections.
    """
    address, doubtful = item.address, item.open - known
    failure = connected.failure
    if failure is None and again is not None:
        if not again.answered:
            failure = Failure(
                Reason.CUT_OFF,
                f"{address} stopped answering before connections could tell whether {_named(doubtful)} "
                f"{'is' if len(doubtful) == 1 else 'are'} open: is this scanner banned?",
            )
        elif connected.scanned - doubtful:
            failure = Failure(
                Reason.PERMISSION,
                f"SYNs to {address} are answered, but connections are not, not even to "
                f"{_named(connected.scanned - doubtful)}: does a packet filter of this machine drop incoming packets?",
            )
    if item.failure or (failure and failure.reason in IN_PART):
        return replace(_without(item, doubtful - connected.open), failure=item.failure or failure)
    return replace(item, unconfirmed=doubtful - connected.open, failure=failure)


def still_silent(item: AddressObservation, before: AddressObservation, expect: PortSet) -> AddressObservation:
    """Return an address that was cut off in its last scan, `before`, as still cut off if it is.

    It is while it does not answer; if it refused ports that had been open, also while none of them is open. An expected
    port that is refused in MOST_REFUSALS scans in a row counts as closed, and hence as missing.
    """
    lost = before.lost
    if item.failure or item.open or (item.answered and not lost & item.scanned):
        return item
    if item.answered and lost & expect and before.refusals >= MOST_REFUSALS:
        return item
    them = "it" if len(lost) == 1 else "them"
    detail = (
        f"{item.address} refuses {_named(lost)} since an earlier scan, which found {them} open, and has no open port: "
        "is this scanner banned, or was every service stopped?"
        if item.answered
        else f"{item.address} stopped answering during an earlier scan, and has not answered since: "
        "is this scanner banned?"
    )
    failure = Failure(Reason.CUT_OFF, detail)
    refusals = before.refusals + 1 if item.answered else before.refusals
    return AddressObservation(item.address, NO_PORTS, failure=failure, lost=lost, refusals=refusals)


def probably_open(target: Target, earlier: ScanResult | None) -> PortSet:
    """Return the ports that are asked first: those that should be open, may be, or were."""
    specification = target.config.specification
    was_open = earlier.open_ports if earlier else NO_PORTS
    some = (islice(ports, _MAX_REFERENCE_PORTS) for ports in (specification.expect, specification.allow, was_open))
    return PortSet.of(chain.from_iterable(some))


def _named(ports: PortSet) -> str:
    return f"port{'' if len(ports) == 1 else 's'} {shortened(ports)}"


def with_progress(
    seen: tuple[AddressObservation, ...], target: Target, seconds: float
) -> tuple[AddressObservation, ...]:
    """Describe how far a scan came that was stopped after so many seconds."""
    late = {item.address for item in seen if item.failure and item.failure.reason is Reason.TIMEOUT}
    if not late:
        return seen
    settled = sum(len(item.scanned) for item in seen)
    addresses = f"of {len(seen):,} addresses " if len(seen) > 1 else ""
    detail = (
        f"the scan was stopped after {spell_duration(seconds)}: {settled:,} of "
        f"{len(target.config.ports) * len(seen):,} ports {addresses}were scanned"
    )
    failure = Failure(Reason.TIMEOUT, detail)
    return tuple(replace(item, failure=failure) if item.address in late else item for item in seen)


def shortened(ports: PortSet) -> str:
    """Spell ports in a text that stays short when a machine answers on all of them."""
    spelled = str(ports)
    return spelled if len(spelled) <= _LONGEST_PORTS else f"{spelled[:_LONGEST_PORTS]}…"
