"""What the scans of a host say of its audit: the view from outside. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from portspec.audit.reach import SeenAddress
from portspec.deadlines import NO_DEADLINES, Deadlines
from portspec.exceptions import in_force
from portspec.ports import NO_PORTS

if TYPE_CHECKING:
    from portspec.audit.priority import Priorities
    from portspec.audit.reach import OutsideView
    from portspec.audit.state import AuditState, HostAudit
    from portspec.config import VulnerabilityException
    from portspec.scan import AddressObservation
    from portspec.state.snapshot import HostState, ScanResult


def outside_view(state: HostState | None) -> OutsideView:
    """Return what the last conclusive scan saw of each address; nothing without one."""
    if state is None or state.conclusive is None:
        return ()
    return tuple(map(_seen, state.conclusive.addresses))


def _seen(item: AddressObservation) -> SeenAddress:
    if not item.is_usable:
        return SeenAddress(item.address, NO_PORTS, NO_PORTS)
    settled = item.scanned if item.failure is None else item.open | item.filtered
    return SeenAddress(item.address, settled - item.unconfirmed, item.accepting)


def seen_from_outside(audit: AuditState, state: HostState | None, priorities: Priorities) -> AuditState:
    """Return the state of an audit with what the scans saw, and with priorities; the same object if none differs."""
    view = outside_view(state)
    if view == audit.view and priorities is audit.priorities:
        return audit
    return replace(audit, view=view, priorities=priorities)


class Basis(NamedTuple):
    """What the view and the due times of a host are made from."""

    result: ScanResult | None
    host_audit: HostAudit | None = None
    deadlines: Deadlines = NO_DEADLINES
    excepted: tuple[VulnerabilityException, ...] = ()

    @classmethod
    def of(cls, state: AuditState, host: HostState | None) -> Basis:
        """Return it of the state of an audit and of the host, if that is scanned."""
        result = host.conclusive if host else None
        if not state.deadlines.has_vulnerabilities:
            return cls(result)
        return cls(result, state.host_audit, state.deadlines, in_force(state.exceptions, state.judged_at))

    def is_same(self, other: Basis | None) -> bool:
        """Return whether all of it is as before; results and audits are not compared, which would take long."""
        return (
            other is not None
            and self.result is other.result
            and self.host_audit is other.host_audit
            and (self.deadlines, self.excepted) == (other.deadlines, other.excepted)
        )
