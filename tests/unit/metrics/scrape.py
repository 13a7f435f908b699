"""A snapshot's metrics, as Prometheus would get them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portspec.audit.fixes import Histogram
from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.config import PortException, VulnerabilityException
from portspec.deadlines import Deadlines
from portspec.inventory import Shard
from portspec.inventory.discovery import SourceStats
from portspec.metrics import AuditStatus, Exposition, FeedStatus, ServiceStatus
from portspec.metrics.host_families import AUDITS, PORTS
from portspec.notify import MailStatus
from portspec.ports import PortSet
from portspec.priorities import Priority
from portspec.report import ReportFileStatus
from portspec.scan import Failure, Reason
from portspec.state.table import HostTable
from portspec.store import StoreStatus
from tests.unit.factories import NOW, result, seen, snapshot, target

if TYPE_CHECKING:
    from portspec.metrics.exposition import Page
    from portspec.state.snapshot import Snapshot

TEXT: Final = ""
OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
PROMETHEUS: Final = (  # as sent by Prometheus 3
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
HOST_FAMILIES: Final = frozenset(
    [*(part.metric.name for part in PORTS.parts), *(part.metric.name for part in AUDITS.parts)]
)
UNLIMITED: Final = 10**9  # series
STATUS: Final = ServiceStatus(
    engine="scripted",
    config_loaded_at=NOW,
    config_is_good=True,
    is_ready=True,
    shard=Shard(1, 3),
    store=StoreStatus(is_up=True, errors=2, pending=3, dropped=4),
    sources=(
        SourceStats("file_sd", hosts=5, refreshes=6, failures=7, targets_refused=8, last_success=NOW),
        SourceStats("dns", hosts=0, refreshes=1, failures=1, targets_refused=0, last_success=None),
    ),
    mail=MailStatus(waiting=9, sent=10, given_up=11, failed={"timeout": 12, "refused": 0}),
    audit=AuditStatus(
        received=13,
        rejected={"signature": 14, "time": 0},
        max_age=93_600.0,
        unread=15,
        time_to_fix={Priority.PLAN: Histogram((1, 0, 0, 4, 0, 0, 0, 0, 0, 0, 2), 7e7)},
    ),
    reportfile=ReportFileStatus(is_up=True, last_success=NOW),
    feeds={"kev": FeedStatus(NOW, 1500, 2), "epss": FeedStatus(0.0, 0, 3)},
    canary_seen=False,
    restarts={"mailer": 2, "scheduler": 0},
    failing=frozenset({"mailer"}),
)

NASTY: Final = 'quote " backslash \\ newline \n and <b>&amp;</b>'


def exposition(of: Snapshot, series_budget: int = UNLIMITED) -> Exposition:
    """Make the exposition of one snapshot."""
    return Exposition(lambda: of, lambda: STATUS, series_budget=series_budget)


def body(page: Page) -> bytes:
    """Return all bytes of a page."""
    return b"".join(page.pieces)


def text(of: Snapshot, accept: str = TEXT) -> str:
    """Write the metrics of one snapshot."""
    return body(exposition(of).write(accept)).decode("utf-8")


def host_lines(of: Snapshot) -> list[str]:
    """Return the lines of the families about hosts, without HELP."""
    lines = body(exposition(of).write(TEXT, "", HOST_FAMILIES)).decode().splitlines()
    return [line for line in lines if not line.startswith("# HELP")]


def zoo() -> Snapshot:
    """Make a snapshot with a host of every kind."""
    good = target("good", expect=[22, 443], allow=[80], interval=60.0, labels={"site": "here", "nasty": NASTY})
    bad = target("bad", expect=[22, 25], interval=3600.0, labels={"site": "there"})
    limits = Deadlines(severities={"critical": 30.0}, kinds={"missing": 7200.0})
    lost = target("lost", expect=[22], interval=60.5, address=None, owner="us", deadlines=limits)
    never = target("never", expect=[80])
    waiting = target("waiting", expect=[443])
    exceptions = (
        PortException(("bl*",), PortSet.of_ranges([(8000, 8010), (23, 23)]), until=NOW + 3600),
        PortException(("blind",), PortSet.of([22]), until=NOW - 1),
    )
    blind = replace(target("blind"), exceptions=exceptions)
    return snapshot(
        (good, [result(good, seen("192.0.2.1", is_open=[443, 22, 80], rtt=0.1), at=NOW, duration=2.5)]),
        (
            bad,
            [
                result(bad, seen("192.0.2.2", is_open=[22]), at=NOW - 60),
                result(
                    bad,
                    seen("192.0.2.2", scanned=bad.config.ports, is_open=[22, 80], filtered=[25]),
                    seen("2001:db8::2", scanned=bad.config.ports, is_open=[22, 80, 8080]),
                    at=NOW + 0.125,
                    duration=0.001,
                ),
            ],
        ),
        (
            lost,
            [
                result(lost, seen("192.0.2.3", is_open=[23]), at=NOW),
                result(lost, at=NOW + 60, failure=Failure(Reason.RESOLVE, "does not resolve")),
            ],
        ),
        (never, [result(never, seen("192.0.2.4", reason=Reason.NO_ROUTE), seen("::4", reason=Reason.LOCAL_LIMIT))]),
        (waiting, []),
        (blind, [result(blind, seen("192.0.2.6", filtered=[22, 80, 443]), at=NOW)]),
        probes_sent=123456,
        answers_dropped=78,
    )


def inspected(
    status: Status,
    *found: Vulnerability,
    at: float = NOW,
    reason: str = "",
    listeners: tuple[ListeningSocket, ...] | None = None,
) -> HostAudit:
    """Make what one report said of its host; a vulnerable one with a reason has an old database."""
    without = Status.STALE_DATABASE if reason else Status.CLEAN
    return HostAudit(at, "pkg-audit", "2.1.2", Audit(status, found, reason, without=without), listeners)


def audited_zoo() -> Snapshot:
    """Make the snapshot of the zoo with a host of the roster of every kind, some of them of the zoo."""
    openssl = Vulnerability("openssl", "3.0.1,1", "CVE-2026-0001", Severity.CRITICAL, aliases=("GHSA-abcd",))
    curl = Vulnerability("curl", "8.1", "CVE-2026-0002", Severity.HIGH)
    old_curl = Vulnerability("curl", "7.9", "CVE-2026-0002", Severity.HIGH)
    xz = Vulnerability("xz", "", "xz -- something", aliases=("vid-1",))
    strange = Vulnerability(NASTY, "\u00e9\U0001f600\\", NASTY, Severity.LOW)
    exceptions = (
        VulnerabilityException(("*",), ("ghsa-abcd",), until=NOW + 3600),
        VulnerabilityException(("*",), ("cve-2026-0002",), until=NOW - 1),
    )
    sockets = (
        ListeningSocket("tcp", "0.0.0.0", 443, "nginx", "www"),  # noqa: S104 - of a report
        ListeningSocket("tcp", "::", 443, "nginx", "www"),
        ListeningSocket("tcp", "*", 443, "haproxy", "root"),
        ListeningSocket("tcp", "192.0.2.1", 22, NASTY, None),
        ListeningSocket("tcp", "192.0.2.1", 8080),
        ListeningSocket("tcp", "127.0.0.1", 5432, "postgres", "postgres"),
        ListeningSocket("tcp", "::1", 5432, "postgres", "postgres"),
        ListeningSocket("udp", "0.0.0.0", 53, "named", "bind"),  # noqa: S104 - of a report
    )
    host_audits = {
        "good": inspected(Status.CLEAN, listeners=sockets),
        "bad": inspected(Status.VULNERABLE, openssl, curl, old_curl, xz, at=NOW - 0.5, listeners=()),
        "excused": inspected(Status.VULNERABLE, openssl),
        "excused and stale": inspected(Status.VULNERABLE, openssl, reason="the database is of 2023-01-01"),
        "old": replace(inspected(Status.VULNERABLE, curl, xz, old_curl), since=(30, 20, 10)),
        "stale": inspected(Status.STALE_DATABASE, reason="the database is of 2023-01-01"),
        "failed": inspected(Status.FAILED, reason="no output"),
        "cut off": inspected(Status.FAILED, strange, reason="the output was cut off"),
        "strange": inspected(Status.UNSUPPORTED, reason="the tool is not known"),
        "greedy": inspected(Status.VULNERABLE, replace(xz, id=128 * "x" + "1"), replace(xz, id=128 * "x" + "2")),
        NASTY: None,
    }
    limits = Deadlines({"plan": NOW - 15.0}, {"high": NOW - 5.0})
    states = [AuditState(host, exceptions, found, NOW) for host, found in host_audits.items()]
    due = (replace(state, owner="us", deadlines=limits).with_due_times() for state in states if state.host == "old")
    return replace(zoo(), audits=HostTable([*(state for state in states if state.host != "old"), *due]))
