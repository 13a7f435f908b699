"""Hosts that are scanned, and what recipients are notified of; every state goes through its JSON document."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from portspec.notify.decision import decide
from portspec.notify.encoding import decode_state, encode_state
from portspec.notify.notification import (
    NOTHING_NOTIFIED,
    DeviationEnd,
    DeviationLine,
    Notification,
)
from portspec.scan import Reason
from portspec.state.snapshot import HostState
from tests.unit.factories import ADDRESS, result, seen, target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.inventory import Target
    from portspec.scan import AddressObservation

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
WEB = target("web1", expect=[22])
OTHER_ADDRESS = "192.0.2.2"


class Host:
    """A host that is scanned, and what recipients know; their state is encoded and decoded each time."""

    def __init__(self, of: Target = WEB, *, remind: float = DAY) -> None:
        self.state = HostState(of)
        self.known = NOTHING_NOTIFIED
        self.remind = remind

    def told(self, at: float) -> Notification | None:
        """Return the notification about the present state, if one is needed."""
        known, notification = decide(self.known, self.state, at, self.remind)
        self.known = decode_state(encode_state(known))
        assert self.known == known
        return notification

    def scan(self, *is_open: int, at: float, filtered: Iterable[int] = ()) -> Notification | None:
        """Scan it, and return the notification."""
        return self.scan_all(seen(is_open=is_open, filtered=filtered), at=at)

    def scan_all(self, *addresses: AddressObservation, at: float) -> Notification | None:
        """Scan several addresses, and return the notification."""
        self.state = self.state.after(result(self.state.target, *addresses, at=at))
        return self.told(at)

    def fail(self, at: float) -> Notification | None:
        """Let a scan fail, and return the notification."""
        return self.scan_all(seen(reason=Reason.NO_ROUTE), at=at)

    def reload(self, at: float, of: Target) -> Notification | None:
        """Change the configuration, and return the notification."""
        self.state = self.state.under(of, at)
        return self.told(at)


def unexpected(port: str, since: float, address: str = ADDRESS, severity: str = "warning") -> DeviationLine:
    """Return the line of an open port."""
    return DeviationLine(address, "unexpected", "open", port, since, severity=severity)


def missing(port: str, since: float, state: str = "closed") -> DeviationLine:
    """Return the line of a port that is not open."""
    return DeviationLine(ADDRESS, "missing", state, port, since)


def resolved(line: DeviationLine, *, seen: float, end: DeviationEnd = DeviationEnd.CHANGED) -> DeviationLine:
    """Return the line of a deviation that has ended: when it was last seen, and how it ended."""
    return replace(line, state="", seen=seen, end=end, severity="")
