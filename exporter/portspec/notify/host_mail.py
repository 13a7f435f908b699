"""The content of a mail about one host, including the advice and the links to runbooks. Pure."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from portspec.errors import printable
from portspec.exposure import PortSeverity, exposures
from portspec.notify.content import Content, Item, Links, Section, Tone
from portspec.notify.encoding import ports_of
from portspec.notify.notification import MAX_SPLIT, DeviationEnd, Event
from portspec.notify.wording import (
    counted,
    cut,
    end_of,
    format_day,
    format_end,
    format_failure,
    format_span,
    format_time,
    named,
    shortened,
    subject,
    summary,
    was_unknown,
)
from portspec.ports import PortSet
from portspec.scan import Reason
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.notify.notification import AcceptedPorts, DeviationLine, Notification

MAX_LINES: Final = 50  # lines of ports in a mail, so that it stays readable
_MAX_LISTENERS: Final = 5  # of a line
_MAX_REASONS: Final = 5  # of a line
_STATES: Final = {
    "closed": "closed: it refuses connections",
    "filtered": "filtered: no answer, or a firewall refuses",
    "open": "answers, but accepts no connection",
}
_MAX_HOST: Final = 60  # characters
_FAILURE_ADVICE: Final = {
    Reason.RESOLVE: "Check whether the name is correct in conf.yml and in the DNS, and whether the machine that runs "
    "portspec reaches its name servers: `getent hosts {host}`.",
    Reason.DENIED: "{host} was discovered, and an address of it is within `deny`. Find out who wrote it into the list "
    "or the DNS. If the address may be scanned, name the host under `hosts`, or change `deny`.",
    Reason.NO_ROUTE: "Check whether the host is switched on, and whether the machine that runs portspec has a route to "
    "it.",
    Reason.LOCAL_LIMIT: "The fault is on the machine that runs portspec: raise its limit of open files or of tasks, or "
    "lower `parallelscans`. The log says which limit it is.",
    Reason.PERMISSION: "The fault is on the machine that runs portspec: its own packet filter rejects the probes. "
    "Allow them.",
    Reason.TIMEOUT: "Exempt the machine that runs portspec from the limits of {host}, raise `max_duration` under "
    "`scan`, or scan fewer ports.",
    Reason.CUT_OFF: "Check whether {host} or a firewall in front of it bans the address of portspec (Fail2ban, a limit "
    "of connections), and exempt it. The host may also have gone down during the scan.",
    Reason.ANSWERS_EVERYTHING: "A firewall or a proxy in front of {host} accepts every connection. Exempt the address "
    "of portspec there, or scan from behind it.",
    Reason.CANARY: "Check the network of the machine that runs portspec first: not even the canaries are reachable.",
    Reason.INTERNAL: "This is a fault of portspec, not of {host}. Keep the traceback in its log for a bug report.",
}
_RUNBOOKS: Final = {Reason.CUT_OFF: "PortspecScannerCutOff", Reason.CANARY: "PortspecCanaryUnseen"}
_TONES: Final = {Event.IN_SPEC: Tone.GOOD, Event.UNKNOWN: Tone.UNKNOWN, Event.EXPIRING: Tone.NEUTRAL}


def host_content(notification: Notification, links: Links, now: float) -> Content:
    """Return the content of a mail about one host. `now` is in Unix seconds."""
    return Content(
        subject=subject(notification.host, summary(notification, now)),
        tone=_TONES.get(notification.event, Tone.UNKNOWN if notification.is_unknown else Tone.BAD),
        headline=f"{printable(notification.host)}{_headline(notification, now)}",
        paragraphs=tuple(_paragraphs(notification)),
        sections=tuple(_sections(notification)),
        advice=tuple(advice(notification)),
        links=(*links.host(notification.host), *links.runbooks(runbooks(notification))),
        facts=tuple(_facts(notification)),
    )


def _headline(notification: Notification, now: float) -> str:
    """Return the headline after the host name."""
    if notification.event is Event.IN_SPEC:
        after = "" if notification.since is None or notification.until is None else f", after {_took(notification)}"
        return (
            f" is seen again{after}: it is in specification."
            if was_unknown(notification)
            else f" is in specification again{after}."
        )
    if notification.event is Event.EXPIRING:
        return f": {_expiring(notification, now)}. What it accepts counts as a deviation from then on."
    still = " still" if notification.event is Event.REMINDER else ""
    lasting = _lasting(notification.since, notification.at) if still and notification.since is not None else ""
    if notification.is_unknown or notification.event is Event.UNKNOWN:
        why = format_failure(notification.reason)
        return f"{still} cannot be scanned{lasting}: {why}. Whether it is in specification is unknown."
    if notification.answers_nothing:
        return f"{still} answers nothing{lasting}: no scanned port is open or refuses connections."
    if still:
        return f" is still out of specification{lasting}. Nothing has changed since the last mail."
    change = " with other deviations than before" if notification.event is Event.DIFFERENT else ""
    return f" is out of specification{change}."


def _expiring(notification: Notification, now: float) -> str:
    if not notification.expiring:
        return "an exception ends soon"
    first = notification.expiring[0]
    return f"an exception {'ends' if now < first.until else 'ended'} on {format_day(end_of(first), now)}"


def _took(notification: Notification) -> str:
    return format_span((notification.until or 0.0) - (notification.since or 0.0))


def _paragraphs(notification: Notification) -> Iterator[str]:
    if notification.is_unknown:
        if notification.since is not None:
            began = f"{format_time(notification.since)}{_lasting(notification.since, notification.at)}"
            yield f"Scans have failed since {began}: {printable(notification.reason)}."
        yield _last_seen(notification)
    elif notification.reason:
        failure = f"{format_failure(notification.reason)} ({printable(notification.reason)})"
        yield f"It could not be scanned completely: {failure}."
    if notification.unknown_period:
        since, until = format_time(notification.unknown_period.since), format_time(notification.unknown_period.until)
        when = f"at {since}" if since == until else f"from {since} to {until}"
        yield f"It could not be scanned {when}: {format_failure(notification.unknown_period.reason)}."
    if notification.maintenance is not None:
        yield f"Maintenance ended {format_time(notification.maintenance)}. No mail was sent while it lasted."
    for item in notification.expired:
        yield f"An exception for {named(item.ports)} has ended: {format_end(item)}."


def _last_seen(notification: Notification) -> str:
    if notification.last_seen is None and not notification.open:
        return "No scan of it has succeeded so far: nothing is known about its ports."
    if notification.last_seen is None:  # or an older version, which did not record it, reached a verdict
        return "What is known about its ports may be incomplete."
    verdict = "out of specification" if notification.lines else "in specification"
    return f"When it was last seen, {format_time(notification.last_seen)}, it was {verdict}."


def _sections(notification: Notification) -> Iterator[Section]:
    yield from _section("Exceptions that end", [_expiry(item) for item in notification.expiring])
    lines = sorted(notification.lines, key=lambda line: (line.since < notification.at, _rank(line.severity)))
    budget = MAX_LINES
    for kind, title in (
        (Kind.UNEXPECTED, "Open when last seen, not expected" if notification.is_unknown else "Open, not expected"),
        (Kind.MISSING, "Missing when last seen" if notification.is_unknown else "Missing (expected, but not open)"),
    ):
        found = [line for line in lines if line.kind == kind]
        items = _shown([_deviation(notification, line) for line in found[:budget]], len(found))
        yield from _section(title, items)
        budget = max(0, budget - len(found))
    resolved = _shown(
        [_resolved(notification, line) for line in notification.resolved[:budget]], len(notification.resolved)
    )
    yield from _section("What was wrong" if notification.event is Event.IN_SPEC else "Resolved", resolved)


def _section(title: str, items: Sequence[Item]) -> Iterator[Section]:
    if items:
        yield Section(title, tuple(items))


def _shown(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    """Append the number of lines that are not shown."""
    more = [Item(f"and {counted(count - len(items), 'more line')}")] if count > len(items) else []
    return (*items, *more)


def _deviation(notification: Notification, line: DeviationLine) -> Item:
    if line.kind == Kind.MISSING:
        state = "no answer" if notification.answers_nothing else _STATES.get(line.state, printable(line.state))
        text = f"{named(line.ports)} on {printable(line.address)}: {state}"
    else:
        text = f"{named(line.ports)} on {printable(line.address)}"
    is_new = (
        notification.event is Event.DIFFERENT and line.since >= notification.at and not notification.answers_nothing
    )
    details = (*_severity(line), *_times(notification, line), *_listeners(notification, line))
    return Item(f"{text}, new" if is_new else text, details)


def _rank(severity: str) -> int:
    """Return the place of a severity, the highest first; that of an older version is the last."""
    words = list(PortSeverity)
    return words.index(PortSeverity(severity)) if severity in words else len(words)


def _severity(line: DeviationLine) -> Iterator[str]:
    """Yield the severity of ports that should not be open, and why, the most severe first."""
    if line.kind != Kind.UNEXPECTED or not line.severity:
        return
    mine = ports_of(line.ports)
    yield f"{'highest severity' if len(mine) > MAX_SPLIT else 'severity'}: {line.severity}"
    reasons: dict[str, list[int]] = {}
    for port, found in sorted(exposures().items(), key=lambda item: (_rank(item[1].severity), item[0])):
        if port in mine:
            reasons.setdefault(found.reason, []).append(port)
    for why, ports in islice(reasons.items(), _MAX_REASONS):
        yield why if len(ports) == len(mine) else f"{PortSet.of(ports)}: {why}"
    if len(reasons) > _MAX_REASONS:
        yield f"and {counted(len(reasons) - _MAX_REASONS, 'more reason')}"


def _times(notification: Notification, line: DeviationLine) -> Iterator[str]:
    if notification.is_unknown:  # whether it persists is unknown
        yield f"first seen {format_time(line.since)}"
        return
    if line.opened is not None:
        yield f"open since {format_time(line.opened)}{_lasting(line.opened, notification.at)}"
    if line.since >= notification.at and line.opened is None:
        yield f"first seen {format_time(line.since)}"
    elif line.since < notification.at:
        yield f"since {format_time(line.since)}{_lasting(line.since, notification.at)}"


def _lasting(since: float, at: float) -> str:
    return f", for {format_span(at - since)}" if at - since >= 1 else ""


def _listeners(notification: Notification, line: DeviationLine) -> Iterator[str]:
    """Yield the processes that listen on the ports of a line, according to the last audit."""
    if notification.audited_at is None or line.kind != Kind.UNEXPECTED:
        return
    at = format_time(notification.audited_at)
    audit = f"according to the audit of {at}"
    mine = ports_of(line.ports)
    found = [(same, item) for item in notification.listeners if (same := ports_of(item.ports) & mine)]
    for ports, item in found[:_MAX_LISTENERS]:
        where = "" if ports == mine else f"{shortened(str(ports))}: "
        if item.names and not item.is_older:
            yield f"{where}{printable(item.names)} listens there {audit}"
        elif item.names:
            yield f"{where}{printable(item.names)} listened there {audit}, before the port was seen open"
        elif item.is_older:
            yield f"{where}opened after the last audit, of {at}, so the process is unknown"
        else:
            yield f"{where}nothing listens there {audit}, though it was open: something else may answer"
    if len(found) > _MAX_LISTENERS:
        yield f"and {counted(len(found) - _MAX_LISTENERS, 'more program')}"


def _resolved(notification: Notification, line: DeviationLine) -> Item:
    """Return how a deviation ended, when it began, and between which scans it ended."""
    is_open = line.kind == Kind.UNEXPECTED
    began = f"began {format_time(line.since)}"
    last = [] if line.seen is None else [f"last seen so {format_time(line.seen)}"]
    match line.end:
        case DeviationEnd.ACCEPTED:
            how = f"still {'open' if is_open else 'missing'}, but an exception accepts it"
            details = [began, *_acceptance(notification.accepted, line)]
        case DeviationEnd.SPECIFIED:
            how = "still open, and expected or allowed now" if is_open else "no longer expected"
            details = [began]
        case DeviationEnd.UNSCANNED:
            how = f"no longer scanned, so it is unknown whether it is still {'open' if is_open else 'missing'}"
            details = [began, *last]
        case _ if is_open and notification.answers_nothing:
            how = "no longer answers, like the whole host"
            details = [began, *last]
        case _:
            how = "no longer open" if is_open else "open again"
            details = [began, _ended(notification, line)]
    return Item(f"{named(line.ports)} on {printable(line.address)}: {how}", tuple(details))


def _ended(notification: Notification, line: DeviationLine) -> str:
    """Return when a deviation ended: between the last scan that found it and this one."""
    after = format_span(notification.at - line.since)
    if line.seen is None or line.seen >= notification.at:
        return f"ended by {format_time(notification.at)}, after {after}"
    return f"ended between {format_time(line.seen)} and {format_time(notification.at)}, after {after}"


def _acceptance(accepted: Iterable[AcceptedPorts], line: DeviationLine) -> Iterator[str]:
    ports = ports_of(line.ports)
    for item in accepted:
        if same := ports_of(item.ports) & ports:
            where = "" if same == ports else f"{shortened(str(same))} "
            yield f"{where}accepted {format_end(item)}"


def _expiry(item: AcceptedPorts) -> Item:
    return Item(f"{named(item.ports)}: {format_end(item)}", (f"ends {format_time(item.until)}",))


def _facts(notification: Notification) -> Iterator[tuple[str, str]]:
    if notification.event is Event.IN_SPEC and notification.since is not None and notification.until is not None:
        label = "Unknown" if was_unknown(notification) else "Trouble"
        yield label, f"from {format_time(notification.since)} to {format_time(notification.until)}"
    yield "Expected ports", printable(shortened(notification.expected))
    if notification.is_unknown:
        yield "Open ports when last seen", printable(shortened(notification.open)) or "never seen"
        yield "Last try", format_time(notification.at)
    else:
        is_silent = notification.answers_nothing and notification.event is not Event.IN_SPEC
        yield "Open ports", "none: the host answers nothing" if is_silent else printable(shortened(notification.open))
        yield "Scanned", format_time(notification.at)


def advice(notification: Notification) -> Iterator[str]:
    """Yield sentences about what to do."""
    host = cut(notification.host, _MAX_HOST)
    if notification.event is Event.IN_SPEC:
        yield "Nothing."
    elif notification.event is Event.EXPIRING:
        yield (
            f"Before it ends, close the port, add it to `expect` or `allow` of {host} in conf.yml, or give the "
            "exception a later `until`."
        )
    elif notification.is_unknown:
        reason = _reason(notification)
        yield _FAILURE_ADVICE[reason].format(host=host) if reason else "The log of portspec has details."
    elif notification.answers_nothing:
        yield f"Check whether {host} runs and its network is up; other hosts of that network may have the same problem."
        yield "If it is gone for good, remove it from conf.yml."
    else:
        yield from _of_ports(notification, host)


def _of_ports(notification: Notification, host: str) -> Iterator[str]:
    kinds = {line.kind for line in notification.lines}
    states = {line.state for line in notification.lines if line.kind == Kind.MISSING}
    if Kind.UNEXPECTED in kinds:
        yield (
            f"Close the port, or add it to `expect` or `allow` of {host} in conf.yml, or accept it for a time under "
            "`exceptions`."
        )
        yield "If nobody knows what it is, treat the host as compromised."
    if "closed" in states:
        yield "Start the service of the port that is closed, or check whether it listens on the right address."
    if states - {"closed"}:
        yield f"Check whether a firewall between portspec and {host} drops packets."
    if Kind.MISSING in kinds:
        yield "If it is gone for good, remove the port from `expect`."


def runbooks(notification: Notification) -> Iterator[str]:
    """Yield the sections of the runbooks about a notification, the most important first."""
    kinds = {line.kind for line in notification.lines}
    if notification.event is Event.IN_SPEC:
        return
    if notification.event is Event.EXPIRING:
        yield "PortspecExceptionExpiring"
    elif notification.is_unknown:
        reason = _reason(notification)
        yield _RUNBOOKS.get(reason, "PortspecHostUnknown") if reason else "PortspecHostUnknown"
    elif notification.answers_nothing:
        yield "PortspecHostDown"
    else:
        if Kind.UNEXPECTED in kinds:
            yield "PortspecUnexpectedPortOpen"
        if Kind.MISSING in kinds:
            yield "PortspecExpectedPortMissing"


def _reason(notification: Notification) -> Reason | None:
    """Return the reason of a failed scan; None for one that only a newer version knows."""
    try:
        return Reason(notification.reason.partition(": ")[0])
    except ValueError:
        return None
