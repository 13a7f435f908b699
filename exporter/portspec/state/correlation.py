"""Both views of a host in one: what is reachable from here, and what its report says that listens there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.audit.reach import is_loopback
from portspec.ports import NO_PORTS, PortSet
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.audit.payload import ListeningSocket
    from portspec.audit.state import AuditState
    from portspec.state.snapshot import HostState


@dataclass(frozen=True, slots=True)
class Correlation:
    """What the two views say together, of TCP and of the ports that are scanned.

    `listeners` are those on other than loopback addresses, by port; on these, too, of a host that is scanned at one.
    `unreachable` are ports on which something listens, but which are not open from here. `unheld` are open from here,
    though by the report nothing listens: they were seen open before it was made, too, and ever since. `newer` are those
    of which that is not known: as a rule they were opened after the report, which may be a day older than the scan.
    """

    listeners: Mapping[int, tuple[ListeningSocket, ...]]
    unexpected: PortSet = NO_PORTS
    unreachable: PortSet = NO_PORTS
    unheld: PortSet = NO_PORTS
    newer: PortSet = NO_PORTS


def correlate(state: HostState | None, audit: AuditState | None) -> Correlation | None:
    """Join the views of a host; None if its report does not tell of listeners. Without a scan there are no ports."""
    if audit is None or audit.host_audit is None or audit.host_audit.listeners is None:
        return None
    addresses = state.conclusive.addresses if state and state.conclusive else ()
    is_local = any(is_loopback(item.address) for item in addresses)  # the machine that scans, as in `localhost`
    found: dict[int, list[ListeningSocket]] = {}
    for item in audit.host_audit.listeners:
        if item.protocol == "tcp" and item.port and (is_local or not is_loopback(item.address)):
            found.setdefault(item.port, []).append(item)
    by_port = {port: tuple(listeners) for port, listeners in found.items()}
    if state is None or state.conclusive is None:
        return Correlation(by_port)
    held, is_open = PortSet.of(by_port), state.conclusive.open_ports
    seen = [item.scanned for item in addresses if item.failure is None]
    scanned = PortSet.of_ranges(part for ports in seen for part in ports.ranges)
    were_open = state.open_since(audit.host_audit.at)
    return Correlation(
        by_port,
        unexpected=PortSet.of(item.port for item in state.deviations if item.kind is Kind.UNEXPECTED),
        unreachable=(held & scanned) - is_open,
        unheld=(is_open & were_open) - held,
        newer=is_open - were_open - held,
    )
