"""Decide when recipients are notified about a host, and about what. Pure.

`decide` compares what recipients know of a host (`NotificationState`) with its present state. They are notified

* when the host goes out of specification, when its deviations change, and when it is in specification again,
* when its verdict has been unknown for `UNKNOWN_SCANS` scans and `UNKNOWN_FOR` seconds,
* again after `remind` seconds while a problem persists,
* `EXPIRES_SOON` seconds before an exception ends that covers a deviation.

They are not notified while maintenance of the host lasts. At its end they are notified of what then deviates from the
specification or cannot be judged, known or not, and of what they know and is no longer so.

Deviations are compared by address, port and kind: a missing port that drops probes instead of refusing them is no
change. The addresses of a host name count as one.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from portspec.exceptions import in_force
from portspec.exposure import highest
from portspec.maintenance import lasting
from portspec.notify.encoding import ports_of
from portspec.notify.notification import (
    MAX_SPLIT,
    AcceptedPorts,
    DeviationEnd,
    DeviationLine,
    Event,
    KnownDeviation,
    ListeningProcesses,
    Notification,
    NotificationState,
    UnknownPeriod,
)
from portspec.ports import NO_PORTS, PortSet
from portspec.scan import Reason
from portspec.state.correlation import correlate
from portspec.state.verdict import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.audit.payload import ListeningSocket
    from portspec.audit.state import AuditState
    from portspec.config import PortException
    from portspec.state.correlation import Correlation
    from portspec.state.snapshot import HostState, ScanResult
    from portspec.state.verdict import Deviation

UNKNOWN_SCANS: Final = 2  # consecutive scans: a single failure, for example of name resolution, is often transient
UNKNOWN_FOR: Final = 300.0  # seconds, if the interval is longer than that: the first retries come soon after a failure
EXPIRES_SOON: Final = 3 * 86_400.0  # seconds before the end of an exception that covers a deviation
MAX_PROCESSES: Final = 5  # processes of a port that are named

#: The state of a host that Alertmanager has notified about so far: one more scan without a verdict is enough.
WATCHED_BY_OTHERS: Final = NotificationState(unknown_scans=UNKNOWN_SCANS - 1)


def decide(
    known: NotificationState, host: HostState, now: float, remind: float
) -> tuple[NotificationState, Notification | None]:
    """Return what recipients know from now on, and the notification that tells them, if one is needed.

    Args:
        known: What recipients know of the host.
        host: The present state of the host.
        now: Unix seconds.
        remind: Seconds between reminders; 0 disables them.
    """
    latest = host.latest
    if latest is None:
        return known, None
    failure = None if latest.judgement.conclusive else latest.judgement.failure
    if failure and failure.reason is Reason.CANARY and not host.target.config.is_canary:
        return known, None  # one mail about the canary replaces one about each host
    if window := lasting(host.target.maintenance, now):
        return _withhold(replace(known, maintenance=window.until), host, latest, now), None
    state, notification = _decide(known, host, latest, now, remind)
    if not known.maintenance:
        return state, notification
    if notification:
        notification = replace(notification, maintenance=min(known.maintenance, now))
    return replace(state, maintenance=0.0), notification


def _decide(
    known: NotificationState, host: HostState, latest: ScanResult, now: float, remind: float
) -> tuple[NotificationState, Notification | None]:
    if not latest.judgement.conclusive:
        return _decide_unknown(known, host, latest, now, remind)
    deviations = _deviations((*known.deviations, *known.withheld), host, latest, now)
    if event := _event(known, deviations, host, now, remind):
        return _notify_verdict(known, host, event, deviations, now)
    return _decide_expiring(replace(_with_verdict(known), deviations=deviations), host, now)


def _withhold(known: NotificationState, host: HostState, latest: ScanResult, now: float) -> NotificationState:
    """Return what recipients know of a host under maintenance, with what they are to know at its end if it is so then.

    That is since when deviations are there, and the scans without a verdict.
    """
    if not latest.judgement.conclusive:
        return _count_unknown(known, latest)
    found = _deviations((*known.deviations, *known.withheld), host, latest, now)
    # who knows that it could not be scanned is to learn from when to when
    counted = known if known.verdict is Verdict.UNKNOWN else _with_verdict(known)
    return replace(counted, withheld=found)


def _event(
    known: NotificationState, deviations: tuple[KnownDeviation, ...], host: HostState, now: float, remind: float
) -> Event | None:
    """Return the event of a scan that reached a verdict, if it is one."""
    if not deviations:
        return None if known.verdict is Verdict.IN_SPEC else Event.IN_SPEC
    if known.verdict is not Verdict.OUT_OF_SPEC:
        return Event.OUT_OF_SPEC
    if _extent(known.deviations, host) != _extent(deviations, host):
        return Event.DIFFERENT
    return Event.REMINDER if known.maintenance or _is_due(known, now, remind) else None


def _notify_verdict(
    known: NotificationState, host: HostState, event: Event, deviations: tuple[KnownDeviation, ...], now: float
) -> tuple[NotificationState, Notification]:
    resolved = tuple(_resolved(known.deviations, deviations, host))
    notification = _notification(host, event, deviations)
    expired = tuple(_expired(host, deviations, notification.at, now))
    notification = replace(
        notification,
        resolved=resolved,
        unknown_period=_unknown_period(known),
        expired=expired,
        accepted=tuple(_accepted(host, resolved, now)),
    )
    began = _began(known, deviations)
    state = replace(_with_verdict(known), notified_at=now, deviations=deviations, reason="")
    if deviations:
        return replace(state, verdict=Verdict.OUT_OF_SPEC, since=began), notification
    # what a change of conf.yml resolved ended now, not at the last scan
    ended = now if resolved and all(line.end != DeviationEnd.CHANGED for line in resolved) else notification.at
    return replace(state, verdict=Verdict.IN_SPEC, since=0.0), replace(notification, since=began or None, until=ended)


def _with_verdict(known: NotificationState) -> NotificationState:
    """Reset the count of scans without a verdict, and what was withheld."""
    return replace(known, unknown_scans=0, unknown_at=0.0, unknown_since=0.0, withheld=())


def _count_unknown(known: NotificationState, latest: ScanResult) -> NotificationState:
    """Count a scan without a verdict, once."""
    at = latest.finished_at
    if at == known.unknown_at:
        return known
    since = known.unknown_since or at
    return replace(known, unknown_scans=known.unknown_scans + 1, unknown_at=at, unknown_since=since)


def _decide_unknown(
    known: NotificationState, host: HostState, latest: ScanResult, now: float, remind: float
) -> tuple[NotificationState, Notification | None]:
    if latest.finished_at == known.unknown_at and not known.maintenance:
        return known, None
    known = _count_unknown(known, latest)
    since = known.unknown_since
    is_brief = 0 < known.unknown_at - since < UNKNOWN_FOR < host.target.config.interval
    is_new = known.verdict is not Verdict.UNKNOWN
    is_due = is_new or known.maintenance or _is_due(known, now, remind)
    if known.unknown_scans < UNKNOWN_SCANS or is_brief or not is_due:
        return known, None
    notification = _notification(host, Event.UNKNOWN if is_new else Event.REMINDER, known.deviations)
    failure = latest.judgement.failure
    known = replace(known, verdict=Verdict.UNKNOWN, notified_at=now, since=_began(known, known.deviations))
    known = replace(known, reason=failure.reason.value if failure else "")
    return known, replace(notification, since=since, is_unknown=True)


def _decide_expiring(
    known: NotificationState, host: HostState, now: float
) -> tuple[NotificationState, Notification | None]:
    """Notify of exceptions that end soon and cover a deviation, which counts from then on."""
    covered = PortSet.of(item.port for item in host.excepted)
    soon = [
        item
        for item in in_force(host.target.exceptions, now)
        if item.until - now < EXPIRES_SOON and item.ports & covered
    ]
    ends = tuple(sorted({item.until for item in soon}))
    is_known = set(ends) <= set(known.expiring)
    known = replace(known, expiring=ends)
    if is_known:
        return known, None
    notification = _notification(host, Event.EXPIRING, known.deviations)
    return known, replace(notification, expiring=tuple(_accepted_ports(soon, covered)), since=None)


def _accepted_ports(exceptions: Iterable[PortException], ports: PortSet) -> Iterator[AcceptedPorts]:
    """Yield which of the ports each exception accepts, in the order of their ends."""
    for item in sorted(exceptions, key=lambda item: item.until):
        if covered := item.ports & ports:
            yield AcceptedPorts(str(covered), item.until, item.reason, item.owner)


def _accepted(host: HostState, resolved: Iterable[DeviationLine], now: float) -> Iterator[AcceptedPorts]:
    """Yield the exceptions that cover resolved deviations."""
    if any(line.end == DeviationEnd.ACCEPTED for line in resolved):
        yield from _accepted_ports(
            in_force(host.target.exceptions, now), PortSet.of(item.port for item in host.excepted)
        )


def _expired(host: HostState, deviations: Iterable[KnownDeviation], at: float, now: float) -> Iterator[AcceptedPorts]:
    """Yield the exceptions that have ended and covered new deviations, for each port the last one."""
    new = _union(item.ports for item in deviations if item.since >= at)
    ended = [item for item in host.target.exceptions if item.until <= now]
    for item in sorted(ended, key=lambda item: item.until, reverse=True):
        yield from _accepted_ports([item], new)
        new = new - item.ports


def _began(known: NotificationState, deviations: Iterable[KnownDeviation]) -> float:
    """Return since when a host has not been in specification; 0 if unknown."""
    times = [*(item.since for item in deviations), *(item.since for item in known.deviations), known.unknown_since]
    return known.since or min(filter(None, times), default=0.0)


def _unknown_period(known: NotificationState) -> UnknownPeriod | None:
    """Return the failed scans of a host that recipients know as unknown."""
    if known.verdict is not Verdict.UNKNOWN or not known.unknown_since:
        return None
    return UnknownPeriod(known.unknown_since, known.unknown_at, known.reason)


def _is_due(known: NotificationState, now: float, remind: float) -> bool:
    return remind > 0 and not 0 <= now - known.notified_at < remind


def _deviations(
    known: Iterable[KnownDeviation], host: HostState, latest: ScanResult, now: float
) -> tuple[KnownDeviation, ...]:
    """Return the deviations of a host. Known ones keep their beginning, new ones begin with the latest scan.

    A deviation that an exception accepted at that time begins at the end of the exception.
    """
    found: dict[tuple[str, Kind], list[int]] = {}
    addresses: dict[tuple[str, Kind], set[str]] = {}
    for item in host.deviations:
        key = _address_key(host, item.address), item.kind
        found.setdefault(key, []).append(item.port)
        addresses.setdefault(key, set()).add(item.address)
    scanned = {item.address: item.scanned for item in latest.addresses if item.is_usable}
    at = latest.seen_at
    deviations: list[KnownDeviation] = []
    for (place, kind), numbers in found.items():
        ports = PortSet.of(numbers)
        joined = ", ".join(sorted(addresses[place, kind]))
        seen = _union(scanned.get(address, NO_PORTS) for address in addresses[place, kind])
        for old in known:
            if (_address_key(host, old.address), old.kind) == (place, kind) and (same := old.ports & ports):
                deviations.append(replace(old, address=joined, ports=same, seen=at if same <= seen else old.seen))
                ports = ports - same
        for ended in sorted(host.target.exceptions, key=lambda item: item.until, reverse=True):
            if at < ended.until <= now and (accepted := ports & ended.ports):
                deviations.append(KnownDeviation(joined, kind, accepted, ended.until, at))
                ports = ports - accepted
        if ports:
            deviations.append(KnownDeviation(joined, kind, ports, at, at))
    return tuple(deviations)


def _address_key(host: HostState, address: str) -> str:
    """Return the key by which addresses are compared: "" for all addresses of a name, which may change."""
    return "" if host.target.address is None else address


def _extent(deviations: Iterable[KnownDeviation], host: HostState) -> dict[tuple[str, Kind], PortSet]:
    """Return the deviations without their times and states, for comparison."""
    extent: dict[tuple[str, Kind], PortSet] = {}
    for item in deviations:
        key = _address_key(host, item.address), item.kind
        extent[key] = extent.get(key, NO_PORTS) | item.ports
    return extent


def _resolved(
    known: Iterable[KnownDeviation], deviations: Iterable[KnownDeviation], host: HostState
) -> Iterator[DeviationLine]:
    """Yield the known deviations that have ended, and how."""
    left = _extent(deviations, host)
    for item in known:
        if gone := item.ports - left.get((_address_key(host, item.address), item.kind), NO_PORTS):
            for end, ports in _ends(item, gone, host):
                if ports:
                    seen = item.seen or None
                    yield DeviationLine(
                        item.address, item.kind.value, "", str(ports), item.since, seen=seen, end=end.value
                    )


def _ends(deviation: KnownDeviation, gone: PortSet, host: HostState) -> Iterator[tuple[DeviationEnd, PortSet]]:
    """Split the ports of a deviation that no longer deviate by how the deviation ended."""
    place, kind = _address_key(host, deviation.address), deviation.kind
    addresses = host.conclusive.addresses if host.conclusive else ()
    seen = [item for item in addresses if item.is_usable and _address_key(host, item.address) == place]
    accepted = gone & PortSet.of(
        item.port for item in host.excepted if (_address_key(host, item.address), item.kind) == (place, kind)
    )
    yield DeviationEnd.ACCEPTED, accepted
    rest = gone - accepted
    if kind is Kind.UNEXPECTED:
        specified = rest & _union(item.accepting for item in seen)
    else:
        specified = rest - host.target.config.specification.expect
    yield DeviationEnd.SPECIFIED, specified
    rest = rest - specified
    scanned = _union(item.scanned for item in seen)
    yield DeviationEnd.CHANGED, rest & scanned
    yield DeviationEnd.UNSCANNED, rest - scanned


def _notification(host: HostState, event: Event, deviations: Iterable[KnownDeviation]) -> Notification:
    latest = host.latest
    failure = latest.judgement.failure if latest else None
    seen = host.conclusive or (latest if latest and any(item.is_usable for item in latest.addresses) else None)
    lines = tuple(_lines(host, deviations))
    return Notification(
        host=host.host,
        event=event,
        at=latest.seen_at if latest else 0.0,
        expected=str(host.target.config.specification.expect),
        open=str(seen.open_ports) if seen else "",
        lines=lines,
        since=min((line.since for line in lines), default=None),
        reason=f"{failure.reason.value}: {failure.detail}" if failure else "",
        last_seen=host.conclusive.seen_at if host.conclusive else None,
        answers_nothing=bool(host.conclusive) and not failure and not (latest and latest.is_up),
    )


def _lines(host: HostState, deviations: Iterable[KnownDeviation]) -> Iterator[DeviationLine]:
    found: dict[tuple[str, Kind, str, str], list[int]] = {}
    for (address, kind, port_state), items in _by_grounds(host).items():
        severities = [host.severity_of(item) for item in items]
        if len(items) > MAX_SPLIT:
            severities = [highest(severities)] * len(items)
        for item, severity in zip(items, severities, strict=True):
            shown = severity.value if kind is Kind.UNEXPECTED else ""
            found.setdefault((address, kind, port_state, shown), []).append(item.port)
    ports = {key: PortSet.of(numbers) for key, numbers in found.items()}
    for deviation in deviations:
        for (address, kind, port_state, shown), those in ports.items():
            belongs = (_address_key(host, address), kind) == (_address_key(host, deviation.address), deviation.kind)
            if belongs and (same := those & deviation.ports):
                for opened, part in _by_opening(host, deviation, same):
                    yield DeviationLine(
                        address, kind.value, port_state, str(part), deviation.since, opened, severity=shown
                    )


def _by_grounds(host: HostState) -> dict[tuple[str, Kind, str], list[Deviation]]:
    """Return the deviations of a host by address, kind and state."""
    found: dict[tuple[str, Kind, str], list[Deviation]] = {}
    for item in host.deviations:
        found.setdefault((item.address, item.kind, item.state.value), []).append(item)
    return found


def _by_opening(host: HostState, deviation: KnownDeviation, ports: PortSet) -> Iterator[tuple[float | None, PortSet]]:
    """Split ports by when they were opened, if that was before they deviated, for example under an exception."""
    if deviation.kind is Kind.UNEXPECTED:
        for began, opened in host.opened:
            if began < deviation.since and (same := ports & opened):
                yield began, same
                ports = ports - same
    if ports:
        yield None, ports


def _union(sets: Iterable[PortSet]) -> PortSet:
    return PortSet.of_ranges(chain.from_iterable(ports.ranges for ports in sets))


def add_listeners(notification: Notification, host: HostState, audit: AuditState | None) -> Notification:
    """Return the notification with the processes that listen on its unexpected ports.

    Return it unchanged if the audit of the host names no listeners, or the verdict is unknown.
    """
    lines = [line for line in notification.lines if line.kind == Kind.UNEXPECTED]
    if notification.is_unknown or not lines or audit is None or audit.host_audit is None:
        return notification
    correlation = correlate(host, audit)
    if correlation is None:
        return notification
    at = audit.host_audit.at
    ports = _union(ports_of(line.ports) for line in lines)
    return replace(notification, audited_at=at, listeners=tuple(_listeners(ports, correlation, host.open_since(at))))


def _listeners(ports: PortSet, correlation: Correlation, were_open: PortSet) -> Iterator[ListeningProcesses]:
    held = PortSet.of(port for port in correlation.listeners if port in ports)
    found: dict[tuple[str, bool], list[int]] = {}
    for port in held:
        found.setdefault((_process_names(correlation.listeners[port]), port not in were_open), []).append(port)
    for (names, is_older), numbers in found.items():
        yield ListeningProcesses(str(PortSet.of(numbers)), names, is_older)
    for rest, is_older in ((ports & correlation.unheld, False), (ports & correlation.newer, True)):
        if rest:
            yield ListeningProcesses(str(rest), "", is_older)


def _process_names(listeners: Iterable[ListeningSocket]) -> str:
    names = sorted({item.spelled for item in listeners})
    more = [f"{len(names) - MAX_PROCESSES:,} more"] if len(names) > MAX_PROCESSES else []
    return ", ".join(names[:MAX_PROCESSES] + more)
