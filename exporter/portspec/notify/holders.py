"""Who listens on the ports that a notice is about, by the host's last audit. Pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from portspec.notify.encoding import ports_of
from portspec.notify.notice import Holder
from portspec.ports import PortSet
from portspec.state.correlation import correlate
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.audit.payload import ListeningSocket
    from portspec.audit.state import AuditState
    from portspec.notify.notice import Notice
    from portspec.state.correlation import Correlation
    from portspec.state.snapshot import HostState

MAX_NAMES: Final = 5  # processes that are named of a port


def add_listeners(notice: Notice, state: HostState, audit: AuditState | None) -> Notice:
    """Add to a notice who listens on its unexpected ports; the same where no audit tells, or the host is unknown."""
    lines = [line for line in notice.lines if line.kind == Kind.UNEXPECTED]
    if notice.is_unknown or not lines or audit is None or audit.host_audit is None:
        return notice
    correlation = correlate(state, audit)
    if correlation is None:
        return notice
    at = audit.host_audit.at
    ports = PortSet.of_ranges(chain.from_iterable(ports_of(line.ports).ranges for line in lines))
    return replace(notice, audited_at=at, holders=tuple(_holders(ports, correlation, state.open_since(at))))


def _holders(ports: PortSet, correlation: Correlation, were_open: PortSet) -> Iterator[Holder]:
    held = PortSet.of(port for port in correlation.listeners if port in ports)
    found: dict[tuple[str, bool], list[int]] = {}
    for port in held:
        found.setdefault((_names(correlation.listeners[port]), port not in were_open), []).append(port)
    for (who, is_older), numbers in found.items():
        yield Holder(str(PortSet.of(numbers)), who, is_older)
    for rest, is_older in ((ports & correlation.unheld, False), (ports & correlation.newer, True)):
        if rest:
            yield Holder(str(rest), "", is_older)


def _names(listeners: Iterable[ListeningSocket]) -> str:
    names = sorted({item.spelled for item in listeners})
    more = [f"{len(names) - MAX_NAMES:,} more"] if len(names) > MAX_NAMES else []
    return ", ".join(names[:MAX_NAMES] + more)
