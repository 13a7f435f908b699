"""The report as plain text, for terminals and mails: at most 100 columns, but for words that are longer."""

from __future__ import annotations

import textwrap
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from portspec.errors import printable
from portspec.report import phrases
from portspec.report.contents import NO_MACHINES, NO_NEED, TITLE, summary_lines
from portspec.report.facts import facts, needs
from portspec.report.sockets import MAX_SOCKETS, sockets
from portspec.state.correlation import correlate
from portspec.state.document import accepting, exception_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.audit.model import Vulnerability
    from portspec.audit.state import AuditState
    from portspec.report.contents import Contents
    from portspec.report.fleet import Machine

COLUMNS: Final = 100
_LABEL: Final = 17  # columns of a label and the space behind it
_FACT: Final = 30  # the same, in a section: "Reachable but nobody listens"


def write_text(contents: Contents) -> Iterator[str]:
    """Write the text, line by line."""
    yield f"{TITLE}\n{phrases.time(contents.now)}\n\n"
    yield from head(contents)
    if not contents.fleet:
        return
    yield f"\n\n{_underlined('All machines', '=')}"
    for machine in contents.fleet:
        yield from _section(machine, contents)


def head(contents: Contents, limit: int | None = None) -> Iterator[str]:
    """Write the summary and the machines that need attention, at most `limit` of them and how many more."""
    if not contents.fleet:
        yield f"{NO_MACHINES}\n"
        return
    for label, text in summary_lines(contents.summary):
        yield _labelled(label, (text,), _LABEL)
    yield f"\n{_underlined('Machines that need attention', '=')}\n"
    pressing = contents.pressing
    if not pressing:
        yield f"{NO_NEED}\n"
    for machine in pressing[:limit]:
        yield _line(contents.names[machine.host], "")
        yield from _bullets(machine, contents.now)
    if limit is not None and len(pressing) > limit:
        yield f"and {phrases.counted(len(pressing) - limit, 'more machine')}\n"


def _bullets(machine: Machine, now: float) -> Iterator[str]:
    for why in needs(machine, now):
        yield _line(why, "    ", "  - ")


def _section(machine: Machine, contents: Contents) -> Iterator[str]:
    yield f"\n{_underlined(contents.names[machine.host], '-')}"
    correlation = correlate(machine.state, machine.audit)
    for fact in facts(machine, correlation, contents.now):
        yield _labelled(fact.label, fact.lines, _FACT)
    if machine.vulnerabilities:
        yield "Vulnerabilities:\n"
        yield from map(_finding, machine.vulnerabilities)
    if machine.audit:
        yield from _accepted(machine.audit, machine.excepted)
        yield from _sockets(machine.audit)


@lru_cache(maxsize=20_000)  # many machines have the same
def _finding(item: Vulnerability) -> str:
    fixed_in = f", fixed in {', '.join(item.fixed_in)}" if item.fixed_in else ""
    told_by = f" ({', '.join(item.advisories)})" if item.advisories else ""
    first = f"{item.severity}: {item.package} {item.version}: {item.id or 'without an id'}{told_by}{fixed_in}"
    where = f"in {', '.join(item.paths)}" if item.paths else ""
    more = [text for text in (item.title, where, item.link) if text and text != item.id]
    return _line(first, "    ", "  ") + "".join([_line(text, "    ") for text in more])


def _accepted(audit: AuditState, excepted: Sequence[Vulnerability]) -> Iterator[str]:
    if not excepted:
        return
    yield "Accepted vulnerabilities:\n"
    by_id = accepting(audit)
    for item in excepted:
        yield _finding(item)
        yield _line(f"{phrases.acceptance(exception_for(item, by_id))}", "    ")


def _sockets(audit: AuditState) -> Iterator[str]:
    found = sockets((audit.host_audit and audit.host_audit.listeners) or ())
    if not found:
        return
    yield "Listening sockets, by the machine's report:\n"
    for item in found[:MAX_SOCKETS]:
        who = phrases.programs(((item.process, item.user),)) if item.process or item.user else "not told"
        yield _line(f"{item.port} on {item.addresses}: {who}", "    ", "  ")
    if len(found) > MAX_SOCKETS:
        yield f"  and {len(found) - MAX_SOCKETS:,} more\n"


def _underlined(title: str, mark: str) -> str:
    shown = _shown(title)
    return f"{shown}\n{mark * min(len(shown), COLUMNS)}\n"


def _labelled(label: str, lines: Iterable[str], width: int) -> str:
    first, rest = label.ljust(width), " " * width
    return "".join(_line(line, rest, rest if number else first) for number, line in enumerate(lines))


def _line(text: str, indent: str, first: str | None = None) -> str:
    """Give a line, or several of them, indented."""
    shown = _shown(text)
    begin = indent if first is None else first
    if len(begin) + len(shown) <= COLUMNS:
        return f"{begin}{shown}\n"
    wrapped = textwrap.wrap(
        shown,
        COLUMNS,
        initial_indent=begin,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapped) + "\n"


def _shown(text: str) -> str:
    return printable(text)
