"""What changed between two scans of a host: the rows of the change log, and of the history of verdicts. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.ports import NO_PORTS, PortSet, spell
from portspec.scan import AddressObservation, PortState
from portspec.state.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from portspec.config.rulings import Ruling
    from portspec.state.snapshot import HostState

NOT_SCANNED = "not_scanned"  # why a host was unknown while nobody looked
MAX_SINGLE = 100  # ports of one address that changed alike and get a row each; more share one row
MAX_ROWS = 1000  # rows of single ports for each scan of a host; then the ports that changed alike share one


@dataclass(frozen=True, slots=True)
class Change:
    """Ports of one address that were found in another state than before, at a time in Unix seconds.

    `ports` is one port, or many as conf.yml spells them ("1-21, 23"). `before` is None when they were not looked at
    before. `first_seen` is when the log first has these ports of this address in the state `after`.

    Or a change of conf.yml: `after` is a ruling about ports, or ids of vulnerabilities, of a host, a CIDR or a pattern
    of hosts. It has no address, and `note` says until when, why, and who.
    """

    at: float
    host: str
    address: str
    ports: str
    before: PortState | None
    after: PortState | Ruling
    first_seen: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class DatedVerdict:
    """A verdict of a host and since when it holds, in Unix seconds; `reason` says why it is unknown, else ""."""

    at: float
    host: str
    verdict: Verdict
    reason: str = ""


def dated_verdicts(before: HostState, after: HostState) -> Iterator[DatedVerdict]:
    """Return the verdict of a state, with the time at which it was reached; none before the first scan.

    Where the verdict before it had become too old to count by then, as while the exporter did not run, the host was
    unknown in between: NOT_SCANNED.
    """
    if after.latest is None:
        return
    failure = after.latest.judgement.failure
    at = after.judged_at if math.isfinite(after.judged_at) else after.latest.seen_at
    if before.overdue_at is not None and before.overdue_at < min(at, after.latest.finished_at):
        yield DatedVerdict(before.overdue_at, after.host, Verdict.UNKNOWN, NOT_SCANNED)
    yield DatedVerdict(at, after.host, after.verdict, failure.reason.value if failure else "")


def changes(before: HostState, after: HostState) -> Iterator[Change]:
    """Return what the latest conclusive scan changed: ports that opened, ports that were open, expected ports.

    Closed ports that become filtered, or the other way round, are no change unless they are expected. Only what both
    scans could see is compared; of an address that is new, the open ports are told. `first_seen` is `at`. There are at
    most MAX_ROWS rows of single ports, and a few for each address.
    """
    new = after.conclusive
    if new is None or (before.conclusive and before.conclusive.seen_at == new.seen_at):
        return
    earlier = {item.address: item for item in before.conclusive.addresses} if before.conclusive else {}
    expected = after.target.config.specification.expect
    rows = 0
    for item in new.addresses:
        if item.failure is None:
            old = earlier.get(item.address)
            found = _changed(None if old is None or old.failure else old, item, expected)
            for (was, is_now), ports in found.items():
                spellings = _spell(ports, min(MAX_SINGLE, MAX_ROWS - rows))
                rows += len(spellings)
                for spelled in spellings:
                    yield Change(new.seen_at, after.host, item.address, spelled, was, is_now, new.seen_at)


def _changed(
    old: AddressObservation | None, new: AddressObservation, expected: PortSet
) -> dict[tuple[PortState | None, PortState], list[int]]:
    """Group the ports that changed by what they were and are."""
    groups: dict[tuple[PortState | None, PortState], list[int]] = {}
    was_open = old.accepting if old else NO_PORTS
    for port in was_open | new.accepting | expected:
        if port in new.scanned:
            was = _state(old, port) if old and port in old.scanned else None
            is_now = _state(new, port)
            if was is not is_now and (was is not None or is_now is PortState.OPEN):
                groups.setdefault((was, is_now), []).append(port)
    return groups


def _state(observation: AddressObservation, port: int) -> PortState:
    """Return the state of a port; an open one that could not be confirmed is somebody else's answer."""
    return PortState.FILTERED if port in observation.unconfirmed else observation.state(port)


def _spell(ports: list[int], most: int) -> list[str]:
    return [spell(port) for port in ports] if len(ports) <= most else [str(PortSet.of(ports))]
