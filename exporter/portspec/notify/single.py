"""The mail about one host: what is wrong, since when, who listens, what was wrong before, what to do. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.errors import printable
from portspec.notify.advice import advice, runbooks
from portspec.notify.content import Content, Item, Links, Section, Tone
from portspec.notify.encoding import ports_of
from portspec.notify.notice import End, News
from portspec.notify.subject import gist, subject, was_unseen
from portspec.notify.wording import (
    counted,
    end_of,
    named,
    shortened,
    spell_day,
    spell_end,
    spell_span,
    spell_time,
    spell_unseen,
)
from portspec.state.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.notify.notice import Acceptance, Line, Notice

MAX_LINES: Final = 50  # of ports in a mail: it is to be read
_MAX_HOLDERS: Final = 5  # of a line
_STATES: Final = {
    "closed": "closed: it refuses connections",
    "filtered": "filtered: no answer, or a firewall refuses",
    "open": "answers, but takes no connection",
}
_TONES: Final = {News.IN_SPEC: Tone.GOOD, News.UNKNOWN: Tone.UNKNOWN, News.EXPIRING: Tone.NEUTRAL}


def single(notice: Notice, links: Links, now: float) -> Content:
    """Give what a mail says of one host; `now` is in Unix seconds."""
    return Content(
        subject=subject(notice.host, gist(notice, now)),
        tone=_TONES.get(notice.news, Tone.UNKNOWN if notice.is_unknown else Tone.BAD),
        headline=f"{printable(notice.host)}{_headline(notice, now)}",
        paragraphs=tuple(_paragraphs(notice)),
        sections=tuple(_sections(notice)),
        advice=tuple(advice(notice)),
        links=(*links.host(notice.host), *links.runbooks(runbooks(notice))),
        facts=tuple(_facts(notice)),
    )


def _headline(notice: Notice, now: float) -> str:
    """Say what has happened, after the name of the host."""
    if notice.news is News.IN_SPEC:
        after = "" if notice.since is None or notice.until is None else f", after {_took(notice)}"
        return (
            f" is seen again{after}: it is in specification."
            if was_unseen(notice)
            else f" is in specification again{after}."
        )
    if notice.news is News.EXPIRING:
        return f": {_expiring(notice, now)}. What it accepts counts from then on."
    still = " still" if notice.news is News.REMINDER else ""
    lasting = _lasting(notice.since, notice.at) if still and notice.since is not None else ""
    if notice.is_unknown or notice.news is News.UNKNOWN:
        why = spell_unseen(notice.reason)
        return f"{still} cannot be scanned{lasting}: {why}. Nobody knows whether it is in specification."
    if notice.answers_nothing:
        return f"{still} answers nothing{lasting}: no port that portspec asks is open or refuses."
    if still:
        return f" is still out of specification{lasting}. Nothing has changed since the last mail."
    return f" is out of specification{' in another way than before' if notice.news is News.DIFFERENT else ''}."


def _expiring(notice: Notice, now: float) -> str:
    if not notice.expiring:
        return "an exception ends soon"
    first = notice.expiring[0]
    return f"an exception {'ends' if now < first.until else 'ended'} on {spell_day(end_of(first), now)}"


def _took(notice: Notice) -> str:
    return spell_span((notice.until or 0.0) - (notice.since or 0.0))


def _paragraphs(notice: Notice) -> Iterator[str]:
    if notice.is_unknown:
        if notice.since is not None:
            lasting = _lasting(notice.since, notice.at)
            yield f"Scans have failed since {spell_time(notice.since)}{lasting}: {printable(notice.reason)}."
        yield _last_seen(notice)
    elif notice.reason:
        yield f"Not all of it could be seen: {spell_unseen(notice.reason)} ({printable(notice.reason)})."
    if notice.gap:
        since, until = spell_time(notice.gap.since), spell_time(notice.gap.until)
        when = f"at {since}" if since == until else f"from {since} to {until}"
        yield f"It could not be scanned {when}: {spell_unseen(notice.gap.reason)}."
    for item in notice.lapsed:
        yield f"An exception for {named(item.ports)} has ended: {spell_end(item)}."


def _last_seen(notice: Notice) -> str:
    if notice.last_seen is None and not notice.open:
        return "portspec has never seen it: nothing is known of its ports."
    if notice.last_seen is None:  # or an older portspec, which did not note it, has seen all of it
        return "What is known of its ports may be only a part."
    verdict = "out of specification" if notice.lines else "in specification"
    return f"When it was last seen, {spell_time(notice.last_seen)}, it was {verdict}."


def _sections(notice: Notice) -> Iterator[Section]:
    yield from _section("Exceptions that end", [_expiry(item) for item in notice.expiring])
    lines = sorted(notice.lines, key=lambda line: line.since < notice.at)
    budget = MAX_LINES
    for kind, title in (
        (Kind.UNEXPECTED, "Open when last seen, not expected" if notice.is_unknown else "Open, not expected"),
        (Kind.MISSING, "Missing when last seen" if notice.is_unknown else "Missing (expected, but not open)"),
    ):
        found = [line for line in lines if line.kind == kind]
        items = _shown([_deviation(notice, line) for line in found[:budget]], len(found))
        yield from _section(title, items)
        budget = max(0, budget - len(found))
    over = _shown([_over(notice, line) for line in notice.over[:budget]], len(notice.over))
    yield from _section("What was wrong" if notice.news is News.IN_SPEC else "No longer so", over)


def _section(title: str, items: Sequence[Item]) -> Iterator[Section]:
    if items:
        yield Section(title, tuple(items))


def _shown(items: Sequence[Item], count: int) -> tuple[Item, ...]:
    """Say how many more there are than those that are shown."""
    more = [Item(f"and {counted(count - len(items), 'more line')}")] if count > len(items) else []
    return (*items, *more)


def _deviation(notice: Notice, line: Line) -> Item:
    if line.kind == Kind.MISSING:
        state = "no answer" if notice.answers_nothing else _STATES.get(line.state, printable(line.state))
        text = f"{named(line.ports)} on {printable(line.address)}: {state}"
    else:
        text = f"{named(line.ports)} on {printable(line.address)}"
    is_new = notice.news is News.DIFFERENT and line.since >= notice.at and not notice.answers_nothing
    return Item(f"{text}, new" if is_new else text, (*_times(notice, line), *_who(notice, line)))


def _times(notice: Notice, line: Line) -> Iterator[str]:
    if notice.is_unknown:  # whether it has lasted nobody knows
        yield f"first seen {spell_time(line.since)}"
        return
    if line.opened is not None:
        yield f"open since {spell_time(line.opened)}{_lasting(line.opened, notice.at)}"
    if line.since >= notice.at and line.opened is None:
        yield f"first seen {spell_time(line.since)}"
    elif line.since < notice.at:
        yield f"since {spell_time(line.since)}{_lasting(line.since, notice.at)}"


def _lasting(since: float, at: float) -> str:
    return f", for {spell_span(at - since)}" if at - since >= 1 else ""


def _who(notice: Notice, line: Line) -> Iterator[str]:
    """Say who listens on the ports of a line, as far as the last audit tells."""
    if notice.audited_at is None or line.kind != Kind.UNEXPECTED:
        return
    at = spell_time(notice.audited_at)
    mine = ports_of(line.ports)
    found = [(same, item) for item in notice.holders if (same := ports_of(item.ports) & mine)]
    for ports, item in found[:_MAX_HOLDERS]:
        where = "" if ports == mine else f"{shortened(str(ports))}: "
        if item.who and not item.is_older:
            yield f"{where}{printable(item.who)} listens there, by the audit of {at}"
        elif item.who:
            yield f"{where}{printable(item.who)} listened there by the audit of {at}, before the port was seen open"
        elif item.is_older:
            yield f"{where}opened after the last audit, of {at}, so nobody knows who listens there"
        else:
            yield f"{where}nothing listens there by the audit of {at}, though it was open: something else may answer"
    if len(found) > _MAX_HOLDERS:
        yield f"and {counted(len(found) - _MAX_HOLDERS, 'more program')}"


def _over(notice: Notice, line: Line) -> Item:
    """Say how a deviation ended, when it began, and between which scans it ended."""
    is_open = line.kind == Kind.UNEXPECTED
    began = f"began {spell_time(line.since)}"
    last = [] if line.seen is None else [f"last seen so {spell_time(line.seen)}"]
    match line.end:
        case End.ACCEPTED:
            how = f"still {'open' if is_open else 'missing'}, but an exception accepts it"
            details = [began, *_acceptance(notice.accepted, line)]
        case End.SPECIFIED:
            how = "still open, and expected or allowed by now" if is_open else "no longer expected"
            details = [began]
        case End.UNSCANNED:
            how = f"no longer scanned, so nobody knows whether it is still {'open' if is_open else 'missing'}"
            details = [began, *last]
        case _ if is_open and notice.answers_nothing:
            how = "no longer answers, as nothing of the host does"
            details = [began, *last]
        case _:
            how = "no longer open" if is_open else "open again"
            details = [began, _ended(notice, line)]
    return Item(f"{named(line.ports)} on {printable(line.address)}: {how}", tuple(details))


def _ended(notice: Notice, line: Line) -> str:
    """Say when a deviation ended: between the last scan that saw it and this one."""
    after = spell_span(notice.at - line.since)
    if line.seen is None or line.seen >= notice.at:
        return f"ended by {spell_time(notice.at)}, after {after}"
    return f"ended between {spell_time(line.seen)} and {spell_time(notice.at)}, after {after}"


def _acceptance(accepted: Iterable[Acceptance], line: Line) -> Iterator[str]:
    ports = ports_of(line.ports)
    for item in accepted:
        if same := ports_of(item.ports) & ports:
            where = "" if same == ports else f"{shortened(str(same))} "
            yield f"{where}accepted {spell_end(item)}"


def _expiry(item: Acceptance) -> Item:
    return Item(f"{named(item.ports)}: {spell_end(item)}", (f"ends {spell_time(item.until)}",))


def _facts(notice: Notice) -> Iterator[tuple[str, str]]:
    if notice.news is News.IN_SPEC and notice.since is not None and notice.until is not None:
        label = "Unknown" if was_unseen(notice) else "Trouble"
        yield label, f"from {spell_time(notice.since)} to {spell_time(notice.until)}"
    yield "Expected ports", printable(shortened(notice.expected))
    if notice.is_unknown:
        yield "Open ports when last seen", printable(shortened(notice.open)) or "never seen"
        yield "Last try", spell_time(notice.at)
    else:
        is_silent = notice.answers_nothing and notice.news is not News.IN_SPEC
        yield "Open ports", "none: the host answers nothing" if is_silent else printable(shortened(notice.open))
        yield "Scanned", spell_time(notice.at)
