"""Stories and notices as documents in the state file, also those of another version. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any, Final

from portspec.notify.notice import Acceptance, Gap, Holder, Line, News, Notice
from portspec.notify.story import NOTHING_NOTIFIED, Finding, Story
from portspec.ports import PortSet
from portspec.state.verdict import Kind, Verdict

_END_OF_TIME: Final = 253_402_300_800.0 - 86_400  # Unix seconds; a day less, for local time may be ahead


def encode_state(story: Story) -> str | None:
    """Write a story; None for one that says nothing."""
    if story == NOTHING_NOTIFIED:
        return None
    findings = [(item.address, item.kind.value, str(item.ports), item.since) for item in story.findings]
    plain = asdict(replace(story, findings=())) | {
        "findings": findings,
        "seen": [item.seen for item in story.findings],  # beside them: an older portspec reads the rest
    }
    return json.dumps(plain, separators=(",", ":"))


def decode_state(document: str | None) -> Story:
    """Read a story; what cannot be read is as good as none, so that more is told rather than less."""
    try:
        plain = json.loads(document or "null")
        if plain is None:
            return NOTHING_NOTIFIED
        found = plain["findings"]
        seen = plain.get("seen") or [0.0] * len(found)
        findings = tuple(
            Finding(_text(address), Kind(kind), ports_of(_text(ports)), _time(since), _time(at))
            for (address, kind, ports, since), at in zip(found, seen, strict=True)
        )
        return Story(
            told=Verdict(plain["told"]),
            told_at=_time(plain["told_at"]),
            findings=findings,
            unknown_scans=int(_time(plain["unknown_scans"])),
            unknown_at=_time(plain["unknown_at"]),
            unknown_since=_time(plain["unknown_since"]),
            expiring=tuple(map(_time, plain["expiring"])),
            since=_time(plain.get("since", 0.0)),
            reason=_text(plain.get("reason", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return NOTHING_NOTIFIED


def encode_notification(notice: Notice) -> str:
    """Write a notice."""
    return json.dumps(asdict(notice), separators=(",", ":"))


def decode_notification(document: str) -> Notice:
    """Read a notice; what an older portspec did not write is empty. Raises ValueError, whatever the document is."""
    try:
        plain = json.loads(document)
        gap = plain.get("gap")
        return Notice(
            host=_text(plain["host"]),
            news=News(plain["news"]),
            at=_time(plain["at"]),
            expected=_text(plain["expected"]),
            open=_text(plain["open"]),
            lines=tuple(map(_line, plain["lines"])),
            over=tuple(map(_line, plain["over"])),
            since=_time_if_any(plain["since"]),
            reason=_text(plain["reason"]),
            is_unknown=plain["is_unknown"] is True,
            expiring=tuple(map(_acceptance, plain["expiring"])),
            last_seen=_time_if_any(plain.get("last_seen")),
            until=_time_if_any(plain.get("until")),
            answers_nothing=plain.get("answers_nothing") is True,
            lapsed=tuple(map(_acceptance, plain.get("lapsed", ()))),
            accepted=tuple(map(_acceptance, plain.get("accepted", ()))),
            gap=None if gap is None else _gap(gap),
            holders=tuple(map(_holder, plain.get("holders", ()))),
            audited_at=_time_if_any(plain.get("audited_at")),
        )
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def ports_of(text: str) -> PortSet:
    """Read what str() of a PortSet writes. Raises ValueError."""
    if text == "all":
        return PortSet(((1, 65_535),))
    ranges = (word.strip().partition("-") for word in text.split(",") if word.strip() != "none")
    return PortSet.of_ranges((int(first), int(last or first)) for first, _, last in ranges)


def _line(plain: Any) -> Line:
    address, kind, state = (_text(plain[name]) for name in ("address", "kind", "state"))
    ports = _spelled(plain["ports"])
    opened, seen = (_time_if_any(plain.get(name)) for name in ("opened", "seen"))
    return Line(address, kind, state, ports, _time(plain["since"]), opened, seen, _text(plain.get("end", "")))


def _acceptance(plain: Any) -> Acceptance:
    ports, until, reason, owner = plain
    return Acceptance(_spelled(ports), _time(until), _text(reason), _text(owner))


def _holder(plain: Any) -> Holder:
    ports, who, is_older = plain
    return Holder(_spelled(ports), _text(who), is_older is True)


def _gap(plain: Any) -> Gap:
    since, until, reason = plain
    return Gap(_time(since), _time(until), _text(reason))


def _spelled(value: Any) -> str:
    """Take ports as they are spelled everywhere."""
    return str(ports_of(_text(value)))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")  # noqa: TRY004 - of a document
    return value


def _time(value: Any) -> float:
    """Take a number that a time may be: before the year 10000, or no date can be made of it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _END_OF_TIME:
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _time_if_any(value: Any) -> float | None:
    return None if value is None else _time(value)
