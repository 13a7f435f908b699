"""What the scans of a host say of its audit: the view from outside. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from portspec.audit.reach import SeenAddress
from portspec.ports import NO_PORTS

if TYPE_CHECKING:
    from portspec.audit.priority import Priorities
    from portspec.audit.reach import OutsideView
    from portspec.audit.state import AuditState
    from portspec.scan import AddressObservation
    from portspec.state.snapshot import HostState


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
