"""What every form of the report is written from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.report import phrases
from portspec.report.facts import STATUSES
from portspec.report.fleet import Machine, Need, machines
from portspec.report.names import displayed
from portspec.report.summary import Summary, summary_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from portspec.state.snapshot import Snapshot

TITLE = "portspec: report of all machines"
NO_MACHINES = "There are no machines: conf.yml names no hosts to scan, and none that have to report."
NO_NEED = "No machine needs attention."


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """How the report is made.

    `domain` is a regular expression of what is taken off the ends of names, `max_age` the seconds after which a
    machine's own report is late.
    """

    domain: str | None = None
    max_age: float = 26 * 3600.0


@dataclass(frozen=True, slots=True)
class Contents:
    """Machines in the order of the report, their names as they are shown, the summary, and the time of it all."""

    fleet: Sequence[Machine]
    names: Mapping[str, str]
    summary: Summary
    now: float

    @classmethod
    def of(cls, snapshot: Snapshot, settings: ReportSettings, now: float) -> Contents:
        """Gather what is known at a Unix time."""
        fleet = machines(snapshot, now, settings.max_age)
        names = displayed([machine.host for machine in fleet], settings.domain)
        return cls(fleet, names, summary_of(fleet, settings.max_age), now)

    @property
    def pressing(self) -> Sequence[Machine]:
        """The machines that need attention, which are the first ones."""
        return [machine for machine in self.fleet if machine.need is not Need.NONE]


def summary_lines(summary: Summary) -> Iterator[tuple[str, str]]:
    """Give the summary in words: lines with their labels."""
    yield "Machines", f"{summary.machines:,}, of which {summary.attention:,} need attention"
    verdicts = (
        (summary.out_of_spec, "out of specification"),
        (summary.unknown, "unknown"),
        (summary.in_spec, "in specification"),
        (summary.waiting, "not scanned yet"),
        (summary.unscanned, "that only report"),
    )
    yield "Ports", ", ".join(f"{count:,} {words}" for count, words in verdicts)
    if not any(summary.audits.values()):
        yield "Audits", "no machine has to report"
        return
    yield "Audits", ", ".join(f"{count:,} {STATUSES[status]}" for status, count in summary.audits.items())
    found = sum(summary.vulnerabilities.values())
    counts = phrases.severities(tuple(summary.vulnerabilities.values()))
    on = phrases.counted(summary.vulnerable, "machine")
    yield "Vulnerabilities", f"{found:,} on {on} ({counts})" if found else "none"
    yield "Late reports", f"{summary.late:,} older than {phrases.duration(summary.max_age)}"
