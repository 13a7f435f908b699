"""The report as plain text for terminals, and its head as the body of the daily mail. Pure.

Lines have at most COLUMNS characters, unless a single word is longer.
"""

from __future__ import annotations

import textwrap
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from portspec.errors import printable
from portspec.report import wording
from portspec.report.model import FleetReport
from portspec.report.view import MAX_SOCKETS, attention_reasons, facts, socket_rows
from portspec.state.correlation import correlate
from portspec.state.document import accepting, exception_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from portspec.audit.model import Vulnerability
    from portspec.audit.priority import Finding
    from portspec.audit.state import AuditState
    from portspec.report.model import Machine, ReportSettings
    from portspec.report.worklist import Worklist
    from portspec.state.snapshot import Snapshot

COLUMNS: Final = 100
MAX_MACHINES_IN_MAIL: Final = 100
MAX_ITEMS_IN_MAIL: Final = 100  # of a worklist
MAX_ROWS_IN_MAIL: Final = 2000
_SUMMARY_LABEL_WIDTH: Final = 17
_FACT_LABEL_WIDTH: Final = 30


def write_text(report: FleetReport) -> Iterator[str]:
    """Yield the report line by line."""
    yield f"{wording.TITLE}\n{wording.time(report.now)}\n\n"
    yield from _head(report)
    if not report.machines:
        return
    yield f"\n\n{_underlined('All machines', '=')}"
    for machine in report.machines:
        yield from _section(machine, report)


def mail_report(snapshot: Snapshot, settings: ReportSettings, now: float) -> tuple[str, str]:
    """Return outcome, for the subject, and body of the daily mail at a Unix time."""
    report = FleetReport.of(snapshot, settings, now)
    lines = [*_head(report, MAX_MACHINES_IN_MAIL), "\n", f"As of {wording.time(now)}.\n"]
    return _outcome(report), "".join(lines)


def mail_worklists(by_title: Mapping[str, Worklist | None], now: float) -> tuple[str, str]:
    """Return outcome, for the subject, and body of the mail with some worklists at a Unix time.

    None is that of an owner without hosts, or whose hosts another shard has.
    """
    total = sum(found.total for found in by_title.values() if found)
    overdue = sum(found.overdue for found in by_title.values() if found)
    outcome = f"{wording.count(total, 'item')}, {overdue:,} overdue" if total else "nothing to do"
    if not total and None in by_title.values():
        outcome = "an owner has no hosts"
    body = "".join("".join(_worklist(title, found, now)) for title, found in by_title.items())
    return outcome, f"{body}As of {wording.time(now)}. The attached table has the first {MAX_ROWS_IN_MAIL:,} items.\n"


def _worklist(title: str, found: Worklist | None, now: float) -> Iterator[str]:
    yield _underlined(title, "=")
    items = found.items if found else ()
    if not items:
        yield "This exporter has no host of this owner.\n" if found is None else "Nothing to do.\n"
    for item in items[:MAX_ITEMS_IN_MAIL]:
        urgency = f" ({item.urgency.replace('_', ' ')})" if item.urgency else ""
        owner = f" ({item.owner})" if item.owner not in ("", title) else ""
        yield _line(f"{item.host}{owner}: {item.what}{urgency}: {item.action}", "    ", "  - ")
        if due := wording.due(item.due, now):
            yield _line(due, "    ")
        if item.why:
            yield _line(item.why, "    ")
    if found and found.total > MAX_ITEMS_IN_MAIL:
        yield f"and {wording.count(found.total - MAX_ITEMS_IN_MAIL, 'more item')}\n"
    yield "\n"


def _outcome(report: FleetReport) -> str:
    number = report.summary.attention
    if not number:
        return "no machine needs attention" if report.machines else "no machines"
    verb = "needs" if number == 1 else "need"
    return f"{number:,} of {wording.count(report.summary.machines, 'machine')} {verb} attention"


def _head(report: FleetReport, limit: int | None = None) -> Iterator[str]:
    """Yield the summary and the machines that need attention: at most `limit`, then how many more there are."""
    if not report.machines:
        yield f"{wording.NO_MACHINES}\n"
        return
    for label, text in wording.summary_lines(report.summary):
        yield _labelled(label, (text,), _SUMMARY_LABEL_WIDTH)
    yield f"\n{_underlined('Machines that need attention', '=')}\n"
    urgent = report.needing_attention
    if not urgent:
        yield f"{wording.NO_NEED}\n"
    for machine in urgent[:limit]:
        yield _line(report.names[machine.host], "")
        yield from _bullets(machine, report.now)
    if limit is not None and len(urgent) > limit:
        yield f"and {wording.count(len(urgent) - limit, 'more machine')}\n"


def _bullets(machine: Machine, now: float) -> Iterator[str]:
    for why in attention_reasons(machine, now):
        yield _line(why, "    ", "  - ")


def _section(machine: Machine, report: FleetReport) -> Iterator[str]:
    yield f"\n{_underlined(report.names[machine.host], '-')}"
    correlation = correlate(machine.state, machine.audit)
    for fact in facts(machine, correlation, report.now):
        yield _labelled(fact.label, fact.lines, _FACT_LABEL_WIDTH)
    if machine.vulnerabilities:
        yield "Vulnerabilities:\n"
        yield from (_finding(item, report.now) for item in (machine.audit.findings if machine.audit else ()))
    if machine.audit:
        yield from _accepted(machine.audit, machine.excepted)
        yield from _sockets(machine.audit)


def _finding(finding: Finding, now: float) -> str:
    """Return the lines of a vulnerability: the class, why it is in it, and when it is due, if that says anything."""
    about = wording.finding(finding, now)
    first = _line(f"{finding.priority.words}: {about}", "    ", "  ") if about else ""
    return first + _vulnerability(finding.vulnerability)


@lru_cache(maxsize=20_000)  # many machines share a vulnerability
def _vulnerability(item: Vulnerability) -> str:
    fixed_in = f", fixed in {', '.join(item.fixed_in)}" if item.fixed_in else ""
    advisories = f" ({', '.join(item.advisories)})" if item.advisories else ""
    first = f"{item.severity}: {item.package} {item.version}: {item.id or 'without an id'}{advisories}{fixed_in}"
    where = f"in {', '.join(item.paths)}" if item.paths else ""
    more = [text for text in (item.title, where, item.link) if text and text != item.id]
    return _line(first, "    ", "  ") + "".join([_line(text, "    ") for text in more])


def _accepted(audit: AuditState, excepted: Sequence[Vulnerability]) -> Iterator[str]:
    if not excepted:
        return
    yield "Accepted vulnerabilities:\n"
    by_id = accepting(audit)
    for item in excepted:
        yield _vulnerability(item)
        yield _line(wording.acceptance(exception_for(item, by_id)), "    ")


def _sockets(audit: AuditState) -> Iterator[str]:
    found = socket_rows((audit.host_audit and audit.host_audit.listeners) or ())
    if not found:
        return
    yield f"{wording.LISTENING_SOCKETS}:\n"
    for item in found[:MAX_SOCKETS]:
        who = wording.processes(((item.process, item.user, item.details),))
        yield _line(f"{item.port} on {item.addresses}: {who}", "    ", "  ")
    if len(found) > MAX_SOCKETS:
        yield f"  and {len(found) - MAX_SOCKETS:,} more\n"


def _underlined(title: str, mark: str) -> str:
    shown = printable(title)
    return f"{shown}\n{mark * min(len(shown), COLUMNS)}\n"


def _labelled(label: str, lines: Iterable[str], width: int) -> str:
    first, rest = label.ljust(width), " " * width
    return "".join(_line(line, rest, rest if number else first) for number, line in enumerate(lines))


def _line(text: str, indent: str, first: str | None = None) -> str:
    """Return a text with its line break, wrapped to COLUMNS; `first` is the indent of its first line."""
    shown = printable(text)
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
