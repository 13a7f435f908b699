"""Notifications and what recipients know of a host, as values. `encoding` writes both as JSON."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from portspec.ports import PortSet


class Event(enum.StrEnum):
    """Why recipients are notified about a host."""

    OUT_OF_SPEC = "out_of_spec"
    DIFFERENT = "different"
    IN_SPEC = "in_spec"
    UNKNOWN = "unknown"
    REMINDER = "reminder"
    EXPIRING = "expiring"


class DeviationEnd(enum.StrEnum):
    """How a deviation ended that recipients know of.

    CHANGED: the port is in the expected state. ACCEPTED: an exception covers it. SPECIFIED: conf.yml specifies it now.
    UNSCANNED: its port, or its address, is no longer scanned.
    """

    CHANGED = "changed"
    ACCEPTED = "accepted"
    SPECIFIED = "specified"
    UNSCANNED = "unscanned"


@dataclass(frozen=True, slots=True)
class DeviationLine:
    """Ports of an address that deviate in the same way: a line of a mail. Times are Unix seconds.

    Attributes:
        kind: A `Kind`, as text.
        state: The state of the ports, as text.
        since: When a scan first found the deviation.
        opened: When the ports were opened, if that was before they deviated, for example under an exception.
        seen: When a scan last found the deviation; set once it is resolved.
        end: How it was resolved, a `DeviationEnd`; "" if unknown.
        severity: A `PortSeverity`, as text; "" if it is resolved, or an older version wrote the line.
    """

    address: str
    kind: str
    state: str
    ports: str
    since: float
    opened: float | None = None
    seen: float | None = None
    end: str = ""
    severity: str = ""


@dataclass(frozen=True, slots=True)
class AcceptedPorts:
    """Ports that an exception accepts until a Unix time, with its reason and its owner, "" if it has none."""

    ports: str
    until: float
    reason: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class ListeningProcesses:
    """The processes that listen on some ports according to the last audit of the host, "" if it names none.

    `is_older` is true if the audit was made before a scan found the ports open.
    """

    ports: str
    names: str
    is_older: bool


@dataclass(frozen=True, slots=True)
class UnknownPeriod:
    """Consecutive scans without a verdict: when the first and the last of them ended, and why the last one failed."""

    since: float
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class Notification:
    """What a mail says about a host. Times are Unix seconds.

    Attributes:
        at: The time that the notification describes.
        expected: The ports that conf.yml expects.
        open: The open ports, "" for a host that no scan has reached.
        lines: The present deviations.
        resolved: Deviations that recipients know of and that have ended.
        since: When the present problem began, or the one that has ended.
        reason: Why a scan failed: the reason and its detail.
        is_unknown: Whether the verdict is unknown; everything else is then as of `last_seen`.
        expiring: Exceptions that end soon.
        last_seen: When a scan last reached a verdict.
        until: When the host was in specification again.
        answers_nothing: Whether no probe of the scan was answered.
        expired: Exceptions that have ended and covered what deviates now.
        accepted: Exceptions that cover what is `resolved`.
        unknown_period: The failed scans before this one.
        maintenance: When maintenance ended that held notifications back; None if none did.
        listeners: The processes that listen on the ports, according to the audit of `audited_at`.
    """

    host: str
    event: Event
    at: float
    expected: str
    open: str
    lines: tuple[DeviationLine, ...] = ()
    resolved: tuple[DeviationLine, ...] = ()
    since: float | None = None
    reason: str = ""
    is_unknown: bool = False
    expiring: tuple[AcceptedPorts, ...] = ()
    last_seen: float | None = None
    until: float | None = None
    answers_nothing: bool = False
    expired: tuple[AcceptedPorts, ...] = ()
    accepted: tuple[AcceptedPorts, ...] = ()
    unknown_period: UnknownPeriod | None = None
    listeners: tuple[ListeningProcesses, ...] = ()
    audited_at: float | None = None
    maintenance: float | None = None


@dataclass(frozen=True, slots=True)
class KnownDeviation:
    """Ports of an address that deviate in the same way, as recipients know them. Times are Unix seconds.

    A host that is looked up by name may have several addresses: "192.0.2.1, 192.0.2.2". `seen` is when a scan last
    found the deviation, 0 if unknown.
    """

    address: str
    kind: Kind
    ports: PortSet
    since: float
    seen: float = 0.0


@dataclass(frozen=True, slots=True)
class NotificationState:
    """What recipients know of a host. Times are Unix seconds.

    Attributes:
        verdict: The verdict that they know. A host without any notification counts as in specification.
        notified_at: When they were last notified.
        deviations: The deviations that they know.
        unknown_scans: The number of consecutive scans without a verdict.
        unknown_at: When the last of these scans ended.
        unknown_since: When the first of these scans ended.
        expiring: The ends of the exceptions that they know of.
        since: When the host went out of specification or became unknown; 0 while it is in specification.
        reason: Why the host was unknown at the last notification.
        withheld: The deviations that they do not know, since the host was under maintenance.
        maintenance: The end of the maintenance of the host, as of its last scan; 0 without.
    """

    verdict: Verdict = Verdict.IN_SPEC
    notified_at: float = 0.0
    deviations: tuple[KnownDeviation, ...] = ()
    unknown_scans: int = 0
    unknown_at: float = 0.0
    unknown_since: float = 0.0
    expiring: tuple[float, ...] = ()
    since: float = 0.0
    reason: str = ""
    withheld: tuple[KnownDeviation, ...] = ()
    maintenance: float = 0.0


MAX_SPLIT: Final = 100  # deviations of an address, kind and state: more are one line, with the highest severity
NOTHING_NOTIFIED: Final = NotificationState()
