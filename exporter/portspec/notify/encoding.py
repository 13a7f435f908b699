"""Notifications and what recipients know, as JSON documents in the state file. Pure.

Other versions of portspec read and write the same file: keys stay, new keys are optional, unknown keys are ignored.
"""

from __future__ import annotations

import json
from typing import Any, Final

from portspec.notify.notification import (
    NOTHING_NOTIFIED,
    AcceptedPorts,
    DeviationLine,
    Event,
    KnownDeviation,
    ListeningProcesses,
    Notification,
    NotificationState,
    UnknownPeriod,
)
from portspec.ports import PortSet
from portspec.state.verdict import Kind, Verdict

_MAX_TIME: Final = 253_402_300_800.0 - 86_400  # Unix seconds: the year 10000, less a day, since local time may be ahead


def encode_state(state: NotificationState) -> str | None:
    """Return what recipients know as JSON; None if there was no notification."""
    if state == NOTHING_NOTIFIED:
        return None
    return _dump(
        {
            "told": state.verdict,
            "told_at": state.notified_at,
            "unknown_scans": state.unknown_scans,
            "unknown_at": state.unknown_at,
            "unknown_since": state.unknown_since,
            "expiring": state.expiring,
            "since": state.since,
            "reason": state.reason,
            "findings": [(item.address, item.kind, str(item.ports), item.since) for item in state.deviations],
            "seen": [item.seen for item in state.deviations],  # not in `findings`: older versions expect four values
        }
    )


def decode_state(document: str | None) -> NotificationState:
    """Read what recipients know. An invalid document counts as none: recipients are then notified again."""
    try:
        plain = json.loads(document or "null")
        if plain is None:
            return NOTHING_NOTIFIED
        found = plain["findings"]
        seen = plain.get("seen") or [0.0] * len(found)
        deviations = tuple(
            KnownDeviation(_text(address), Kind(kind), ports_of(_text(ports)), _time(since), _time(at))
            for (address, kind, ports, since), at in zip(found, seen, strict=True)
        )
        return NotificationState(
            verdict=Verdict(plain["told"]),
            notified_at=_time(plain["told_at"]),
            deviations=deviations,
            unknown_scans=int(_time(plain["unknown_scans"])),
            unknown_at=_time(plain["unknown_at"]),
            unknown_since=_time(plain["unknown_since"]),
            expiring=tuple(map(_time, plain["expiring"])),
            since=_time(plain.get("since", 0.0)),
            reason=_text(plain.get("reason", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return NOTHING_NOTIFIED


def encode_notification(notification: Notification) -> str:
    """Return a notification as JSON."""
    return _dump(
        {
            "host": notification.host,
            "news": notification.event,
            "at": notification.at,
            "expected": notification.expected,
            "open": notification.open,
            "lines": list(map(_plain_line, notification.lines)),
            "over": list(map(_plain_line, notification.resolved)),
            "since": notification.since,
            "reason": notification.reason,
            "is_unknown": notification.is_unknown,
            "expiring": notification.expiring,
            "last_seen": notification.last_seen,
            "until": notification.until,
            "answers_nothing": notification.answers_nothing,
            "lapsed": notification.expired,
            "accepted": notification.accepted,
            "gap": notification.unknown_period,
            "holders": notification.listeners,
            "audited_at": notification.audited_at,
        }
    )


def decode_notification(document: str) -> Notification:
    """Read a notification. What an older version did not write is empty.

    Raises:
        ValueError: The document is invalid, in whatever way.
    """
    try:
        plain = json.loads(document)
        period = plain.get("gap")
        return Notification(
            host=_text(plain["host"]),
            event=Event(plain["news"]),
            at=_time(plain["at"]),
            expected=_text(plain["expected"]),
            open=_text(plain["open"]),
            lines=tuple(map(_line, plain["lines"])),
            resolved=tuple(map(_line, plain["over"])),
            since=_time_if_any(plain["since"]),
            reason=_text(plain["reason"]),
            is_unknown=plain["is_unknown"] is True,
            expiring=tuple(map(_accepted_ports, plain["expiring"])),
            last_seen=_time_if_any(plain.get("last_seen")),
            until=_time_if_any(plain.get("until")),
            answers_nothing=plain.get("answers_nothing") is True,
            expired=tuple(map(_accepted_ports, plain.get("lapsed", ()))),
            accepted=tuple(map(_accepted_ports, plain.get("accepted", ()))),
            unknown_period=None if period is None else _unknown_period(period),
            listeners=tuple(map(_listening_processes, plain.get("holders", ()))),
            audited_at=_time_if_any(plain.get("audited_at")),
        )
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def ports_of(text: str) -> PortSet:
    """Parse what str() of a PortSet returns. Raises ValueError."""
    if text == "all":
        return PortSet(((1, 65_535),))
    ranges = (word.strip().partition("-") for word in text.split(",") if word.strip() != "none")
    return PortSet.of_ranges((int(first), int(last or first)) for first, _, last in ranges)


def _dump(plain: dict[str, Any]) -> str:
    return json.dumps(plain, separators=(",", ":"))


def _plain_line(line: DeviationLine) -> dict[str, Any]:
    return {name: getattr(line, name) for name in DeviationLine.__slots__}


def _line(plain: Any) -> DeviationLine:
    address, kind, state = (_text(plain[name]) for name in ("address", "kind", "state"))
    ports = _ports_text(plain["ports"])
    opened, seen = (_time_if_any(plain.get(name)) for name in ("opened", "seen"))
    return DeviationLine(address, kind, state, ports, _time(plain["since"]), opened, seen, _text(plain.get("end", "")))


def _accepted_ports(plain: Any) -> AcceptedPorts:
    ports, until, reason, owner = plain
    return AcceptedPorts(_ports_text(ports), _time(until), _text(reason), _text(owner))


def _listening_processes(plain: Any) -> ListeningProcesses:
    ports, names, is_older = plain
    return ListeningProcesses(_ports_text(ports), _text(names), is_older is True)


def _unknown_period(plain: Any) -> UnknownPeriod:
    since, until, reason = plain
    return UnknownPeriod(_time(since), _time(until), _text(reason))


def _ports_text(value: Any) -> str:
    """Return ports in the form that str() of a PortSet has."""
    return str(ports_of(_text(value)))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")  # noqa: TRY004 - the value of a document
    return value


def _time(value: Any) -> float:
    """Check that a number is a time from which a date can be made: before the year 10000."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_TIME:
        raise ValueError(f"{value!r} is not a time")
    return float(value)


def _time_if_any(value: Any) -> float | None:
    return None if value is None else _time(value)
