"""The words that every format of the report shares: titles, numbers, times, ports and programs. Pure.

Texts that come from hosts are passed on unchanged; each format makes them safe.
"""

from __future__ import annotations

from itertools import islice, starmap
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Severity, Status
from portspec.exceptions import last_day
from portspec.priorities import Priority
from portspec.times import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from portspec.audit.payload import ListeningSocket
    from portspec.audit.priority import Finding
    from portspec.config import PortException, VulnerabilityException
    from portspec.ports import PortSet
    from portspec.report.model import Summary

Processes = tuple[tuple[str | None, str | None, str], ...]  # process, user and what it is part of, each once

TITLE: Final = "portspec: report of all machines"
NO_MACHINES: Final = "No machines: conf.yml names no hosts to scan and no hosts to audit."
NO_NEED: Final = "No machine needs attention."
LISTENING_SOCKETS: Final = "Listening sockets, according to the audit"
STATUSES: Final[Mapping[Status, str]] = {
    Status.CLEAN: "clean",
    Status.VULNERABLE: "vulnerable",
    Status.FAILED: "failed",
    Status.STALE_DATABASE: "stale database",
    Status.UNSUPPORTED: "unsupported",
    Status.NEVER: "never received",
}

MAX_RANGES: Final = 100  # ports and ranges that are listed one by one
MAX_PROCESSES: Final = 5
MAX_LINES: Final = 100  # under one label
_UNITS: Final = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_MIN_DAYS: Final = 2 * 86_400  # seconds from which on a duration is in days; "26 hours" says more than "1 day"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 machine", "1,200 machines"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def time(seconds: float) -> str:
    """Format Unix seconds in UTC: "2026-11-22 05:21:45 UTC"."""
    return f"{moment(seconds).replace(microsecond=0, tzinfo=None)} UTC"


def duration(seconds: float) -> str:
    """Format a duration in its largest unit: "26 hours". A negative one is "0 seconds"."""
    whole = max(0, int(min(seconds, 1e12)))
    for size, noun in _UNITS:
        if whole >= (_MIN_DAYS if noun == "day" else size):
            return count(whole // size, noun)
    return "0 seconds"


def time_ago(seconds: float, now: float) -> str:
    """Format a Unix time, and how long ago it was."""
    return f"{time(seconds)} ({duration(now - seconds)} ago)"


def severities(counts: Sequence[int]) -> str:
    """Format numbers of vulnerabilities, worst first: "1 critical, 2 high"."""
    return ", ".join(f"{number:,} {severity}" for severity, number in zip(Severity, counts, strict=True) if number)


def classes(counts: Iterable[int]) -> str:
    """Format numbers of vulnerabilities by class, of the first classes: "1 fix now, 2 fix soon"."""
    return ", ".join(f"{number:,} {item.words}" for item, number in zip(Priority, counts, strict=False) if number)


def ports(found: PortSet) -> str:
    """Format ports as conf.yml spells them; at most MAX_RANGES, then how many there are in total."""
    words = found.spellings()
    if len(words) <= MAX_RANGES:
        return ", ".join(words) or "none"
    return f"{', '.join(words[:MAX_RANGES])} and more ({len(found):,} ports in total)"


def distinct_processes(listeners: Iterable[ListeningSocket]) -> Processes:
    """Return each process, its user and what it is part of once."""
    return tuple(dict.fromkeys((item.process, item.user, item.details) for item in listeners))


def processes(found: Processes) -> str:
    """Name the processes that listen: "nginx (user root; package nginx 1.22.1-9, nginx.service)"."""
    named = ", ".join(starmap(_process, found[:MAX_PROCESSES]))
    return f"{named} and {len(found) - MAX_PROCESSES:,} more" if len(found) > MAX_PROCESSES else named


def _process(process: str | None, user: str | None, details: str) -> str:
    known = "; ".join(filter(None, (f"user {user}" if user else "", details)))
    return f"{process or 'unknown process'} ({known})" if known else process or "unknown process"


def acceptance(exception: PortException | VulnerabilityException | None) -> str:
    """Say until when something is accepted, why and by whom."""
    if exception is None:
        return "accepted"
    owner = f"owner: {exception.owner}" if exception.owner else ""
    return "; ".join(
        filter(None, (f"until {last_day(exception.until) or time(exception.until)}", exception.reason, owner))
    )


def finding(item: Finding, now: float) -> str:
    """Say why a vulnerability is in its class, unless that is the last one, and when it is due; "" for neither."""
    why = "" if item.priority is Priority.REST else item.why
    return "; ".join(filter(None, (why, due(item.due, now))))


def due(at: float | None, now: float) -> str:
    """Say when something is to be fixed, a Unix time, or that it is overdue; "" without a deadline."""
    if at is None:
        return ""
    return f"due {time(at)}" if now < at else f"overdue since {time(at)}"


def limit_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield at most MAX_LINES lines, then how many more there are."""
    rest = iter(lines)
    yield from islice(rest, MAX_LINES)
    if more := sum(1 for _ in rest):
        yield f"and {count(more, 'more line')}"


def summary_lines(summary: Summary) -> Iterator[tuple[str, str]]:
    """Yield label and text of each line of the summary."""
    yield "Machines", f"{summary.machines:,}, of which {summary.attention:,} need attention"
    verdicts = (
        (summary.out_of_spec, "out of specification"),
        (summary.unknown, "unknown"),
        (summary.in_spec, "in specification"),
        (summary.waiting, "not scanned yet"),
        (summary.unscanned, "not scanned (audit only)"),
    )
    yield "Ports", ", ".join(f"{number:,} {words}" for number, words in verdicts)
    if not any(summary.audits.values()):
        yield "Audits", "not required of any machine"
        return
    yield "Audits", ", ".join(f"{number:,} {STATUSES[status]}" for status, number in summary.audits.items())
    found = sum(summary.vulnerabilities.values())
    by_severity = severities(tuple(summary.vulnerabilities.values()))
    yield "Vulnerabilities", f"{found:,} on {count(summary.vulnerable, 'machine')} ({by_severity})" if found else "none"
    if found:
        yield "By class", classes(summary.classes.values())
    yield "Late audits", f"{summary.late:,} older than {duration(summary.max_age)}"
