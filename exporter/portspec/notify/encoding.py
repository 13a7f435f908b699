"""Notifications and what recipients know, as JSON documents in the state file. Pure.

Other versions of portspec read and write the same file: keys stay, new keys are optional, unknown keys are ignored.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from portspec import documents
from portspec.documents import UnixTime
from portspec.notify.notification import NOTHING_NOTIFIED, Event, KnownDeviation, Notification, NotificationState
from portspec.ports import PortSet
from portspec.state.verdict import Kind, Verdict


class _Finding(Struct, array_like=True):
    address: str
    kind: Kind
    ports: str
    since: UnixTime
    seen: UnixTime


class _State(Struct):
    told: Verdict
    told_at: UnixTime
    unknown_scans: Annotated[int, Meta(ge=0)]
    unknown_at: UnixTime
    unknown_since: UnixTime
    expiring: tuple[UnixTime, ...]
    findings: tuple[tuple[str, Kind, str, UnixTime], ...]  # address, kind, ports, since
    since: UnixTime = 0.0
    reason: str = ""
    seen: tuple[UnixTime, ...] = ()  # not in `findings`: older versions expect four values
    withheld: tuple[_Finding, ...] = ()
    maintenance: UnixTime = 0.0


class _Ports(Struct):
    ports: str

    def __post_init__(self) -> None:
        self.ports = str(ports_of(self.ports))


class _Line(_Ports):
    address: str
    kind: str
    state: str
    since: UnixTime
    opened: UnixTime | None = None
    seen: UnixTime | None = None
    end: str = ""
    severity: str = ""


class _AcceptedPorts(_Ports, array_like=True):
    until: UnixTime
    reason: str
    owner: str


class _ListeningProcesses(_Ports, array_like=True):
    names: str
    is_older: bool


class _UnknownPeriod(Struct, array_like=True):
    since: UnixTime
    until: UnixTime
    reason: str


# The keys that are not named as the fields of a Notification.
_KEYS = {"event": "news", "resolved": "over", "expired": "lapsed", "unknown_period": "gap", "listeners": "holders"}


class _Notification(Struct, rename=_KEYS):
    host: str
    event: Event
    at: UnixTime
    expected: str
    open: str
    lines: tuple[_Line, ...]
    resolved: tuple[_Line, ...]
    since: UnixTime | None
    reason: str
    is_unknown: bool
    expiring: tuple[_AcceptedPorts, ...]
    last_seen: UnixTime | None = None
    until: UnixTime | None = None
    answers_nothing: bool = False
    expired: tuple[_AcceptedPorts, ...] = ()
    accepted: tuple[_AcceptedPorts, ...] = ()
    unknown_period: _UnknownPeriod | None = None
    listeners: tuple[_ListeningProcesses, ...] = ()
    audited_at: UnixTime | None = None
    maintenance: UnixTime | None = None


_LATEST: Final = 253_402_300_799.0 - 86_400  # what UnixTime allows

_STATE: Final = msgspec.json.Decoder(_State)
_NOTIFICATION: Final = msgspec.json.Decoder(_Notification)


def encode_state(state: NotificationState) -> str | None:
    """Return what recipients know as JSON; None if there was no notification."""
    if state == NOTHING_NOTIFIED:
        return None
    return documents.encode(
        _State(
            told=state.verdict,
            told_at=state.notified_at,
            unknown_scans=state.unknown_scans,
            unknown_at=state.unknown_at,
            unknown_since=state.unknown_since,
            expiring=state.expiring,
            findings=tuple((item.address, item.kind, str(item.ports), item.since) for item in state.deviations),
            since=state.since,
            reason=state.reason,
            seen=tuple(item.seen for item in state.deviations),
            withheld=tuple(
                _Finding(item.address, item.kind, str(item.ports), item.since, item.seen) for item in state.withheld
            ),
            maintenance=min(state.maintenance, _LATEST),
        )
    )


def decode_state(document: str | None) -> NotificationState:
    """Read what recipients know. An invalid document counts as none: recipients are then notified again."""
    try:
        stored = documents.decode(_STATE, document or "")
        seen = stored.seen or [0.0] * len(stored.findings)
        deviations = tuple(
            KnownDeviation(address, kind, ports_of(ports), since, at)
            for (address, kind, ports, since), at in zip(stored.findings, seen, strict=True)
        )
        withheld = tuple(
            KnownDeviation(item.address, item.kind, ports_of(item.ports), item.since, item.seen)
            for item in stored.withheld
        )
    except ValueError:
        return NOTHING_NOTIFIED
    return NotificationState(
        verdict=stored.told,
        notified_at=stored.told_at,
        deviations=deviations,
        unknown_scans=stored.unknown_scans,
        unknown_at=stored.unknown_at,
        unknown_since=stored.unknown_since,
        expiring=stored.expiring,
        since=stored.since,
        reason=stored.reason,
        withheld=withheld,
        maintenance=stored.maintenance,
    )


def encode_notification(notification: Notification) -> str:
    """Return a notification as JSON."""
    return documents.encode(msgspec.convert(notification, _Notification, from_attributes=True))


def decode_notification(document: str) -> Notification:
    """Read a notification. What an older version did not write is empty. Raises ValueError for an invalid document."""
    return msgspec.convert(documents.decode(_NOTIFICATION, document), Notification, from_attributes=True)


def ports_of(text: str) -> PortSet:
    """Parse what str() of a PortSet returns. Raises ValueError."""
    if text == "all":
        return PortSet(((1, 65_535),))
    ranges = (word.strip().partition("-") for word in text.split(",") if word.strip() != "none")
    return PortSet.of_ranges((int(first), int(last or first)) for first, _, last in ranges)
