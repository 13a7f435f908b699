"""What the page /status shows: the exporter itself, its parts, queues and threads, and what went wrong lately. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.web.health import Fact, health

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.inventory.discovery import SourceStats
    from portspec.metrics import HttpStatus, ServiceStatus
    from portspec.state.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The page.

    Attributes:
        facts: How each part that is in use does.
        loaded_at: When conf.yml was loaded, in Unix seconds.
        parts: The name of each part that ever ran, how often it was restarted, and whether it fails now.
        counts: What they count, and numbers.
        sources: The sources of discovery.
        threads: The names of the threads of the process.
        problems: The latest warnings and errors of the log, the newest first.
    """

    facts: tuple[Fact, ...]
    loaded_at: float
    parts: tuple[tuple[str, int, bool], ...]
    counts: tuple[tuple[str, int], ...]
    sources: tuple[SourceStats, ...]
    threads: tuple[str, ...]
    problems: tuple[str, ...]


def status_report(
    status: ServiceStatus,
    snapshot: Snapshot,
    http: HttpStatus,
    *,
    threads: Sequence[str],
    problems: Sequence[str],
) -> StatusReport:
    """Return what the page shows."""
    parts = sorted(status.restarts.keys() | status.failing)
    return StatusReport(
        facts=health(status),
        loaded_at=status.config_loaded_at,
        parts=tuple((part, status.restarts.get(part, 0), part in status.failing) for part in parts),
        counts=tuple(_counts(status, snapshot, http)),
        sources=status.sources,
        threads=tuple(sorted(threads)),
        problems=tuple(problems),
    )


def _counts(status: ServiceStatus, snapshot: Snapshot, http: HttpStatus) -> Iterator[tuple[str, int]]:
    yield "hosts", len(snapshot.hosts)
    yield "rounds of scans", snapshot.rounds
    yield "rounds that began late", snapshot.overruns
    yield "scans that were repeated", snapshot.retries
    yield "rechecks of ports", snapshot.rechecks
    yield "probes sent", snapshot.probes_sent
    yield "answers dropped by the kernel", snapshot.answers_dropped
    yield "scans to be written to the state file", status.store.pending
    yield "changes that were lost", status.store.dropped
    yield "errors of the state file", status.store.errors
    if mail := status.mail:
        yield "mails sent", mail.sent
        yield "mails waiting", mail.waiting
        yield "mails given up", mail.given_up
        yield "attempts to send mail that failed", sum(mail.failed.values())
    if audit := status.audit:
        yield "audits received", audit.received
        yield "audits rejected", sum(audit.rejected.values())
        yield "audits to be read", audit.unread
    yield "open connections", sum(http.open.values())
    yield "connections closed for a limit", sum(http.closed.values())
    yield "requests refused", sum(http.refused.values())
