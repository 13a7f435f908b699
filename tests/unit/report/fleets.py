"""Machines for reports: one of every kind, and what they are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.config import PortException, VulnerabilityException
from portspec.ports import PortSet
from portspec.report import ReportSettings
from portspec.scan import Failure, Reason
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.table import HostTable
from tests.unit.factories import NOW, result, seen, target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.inventory import Target
    from portspec.scan import AddressObservation

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
SETTINGS: Final = ReportSettings(domain=r"\.example\.org", max_age=26 * HOUR)
TRACKER: Final = "https://security-tracker.debian.org/tracker/"


def vulnerability(
    name: str = "CVE-2023-0001",
    severity: Severity = Severity.HIGH,
    *,
    package: str = "openssl",
    version: str = "3.0.11-1~deb12u1",
    fixed_in: Iterable[str] = ("3.0.11-1~deb12u2",),
    title: str = "a certificate with a long chain takes for ever",
    url: str | None = None,
    advisories: Iterable[str] = (),
    paths: Iterable[str] = (),
) -> Vulnerability:
    """Make a vulnerability."""
    link = f"{TRACKER}{name}" if url is None else url
    more = tuple(advisories), tuple(paths)
    return Vulnerability(package, version, name, severity, (), tuple(fixed_in), title, link, *more)


def audited(
    host: str,
    *found: Vulnerability,
    status: Status | None = None,
    reason: str = "",
    age: float = 3 * HOUR,
    tool: str = "debsecan",
    tool_version: str | None = "0.4.20.1",
    database_age: float | None = 5 * HOUR,
    listeners: Iterable[ListeningSocket] | None = (),
    exceptions: Iterable[VulnerabilityException] = (),
) -> AuditState:
    """Make the audit of a host that reported `age` seconds ago."""
    audit = Audit(
        status or (Status.VULNERABLE if found else Status.CLEAN),
        found,
        reason,
        None if database_age is None else NOW - database_age,
    )
    host_audit = HostAudit(NOW - age, tool, tool_version, audit, None if listeners is None else tuple(listeners))
    return AuditState(host, tuple(exceptions), host_audit, NOW)


def never(host: str) -> AuditState:
    """Make the audit of a host that has to report, and did not yet."""
    return AuditState(host, judged_at=NOW)


def accept(*ids: str, until: float = NOW + 30 * DAY, reason: str = "", owner: str = "") -> VulnerabilityException:
    """Make an exception for vulnerabilities, by ids in lower case."""
    return VulnerabilityException(("*",), ids, until, reason, owner)


def scanned(
    of: Target, *addresses: AddressObservation, age: float = 300.0, failure: Failure | None = None
) -> HostState:
    """Make the state of a host whose last scan ended `age` seconds ago, its ports as they were for a month."""
    state = HostState(of).after(result(of, *addresses, at=NOW - age, failure=failure))
    opened, unexpected = (
        tuple((NOW - 30 * DAY, ports) for _, ports in dated) for dated in (state.opened, state.unexpected)
    )
    return replace(state, judged_at=NOW, opened=opened, unexpected=unexpected)


def snapshot_of(hosts: Iterable[HostState] = (), audits: Iterable[AuditState] = ()) -> Snapshot:
    """Make a snapshot."""
    return Snapshot(hosts=HostTable(hosts), audits=HostTable(audits))


def listener(
    port: int,
    process: str | None = None,
    user: str | None = None,
    *,
    address: str = "0.0.0.0",  # noqa: S104 - what a report says
    protocol: str = "tcp",
) -> ListeningSocket:
    """Make a listening socket."""
    return ListeningSocket(protocol, address, port, process, user)


SSHD: Final = (listener(22, "sshd", "root"), listener(22, "sshd", "root", address="::"))
RESOLVER: Final = listener(53, "systemd-resolved", "systemd-resolve", address="127.0.0.53", protocol="udp")


def fleet() -> Snapshot:
    """Make a machine of every kind, none of them first by name that is first in the report."""
    hosts, audits = zip(*_machines(), strict=True)
    return snapshot_of(filter(None, hosts), filter(None, audits))


def _machines() -> Iterable[tuple[HostState | None, AuditState | None]]:
    yield (
        scanned(target("app1.example.org", expect=[22, 443]), seen(is_open=[22, 443], rtt=0.002)),
        audited("app1.example.org", listeners=[*SSHD, listener(443, "nginx", "root"), RESOLVER]),
    )
    yield _both_views()
    yield _unexpected()
    yield _accepted()
    yield (
        scanned(
            target("web2.example.org", expect=[22, 443], allow=[80]), seen("192.0.2.7", is_open=[22], filtered=[443])
        ),
        audited("web2.example.org", tool="pkg-audit", tool_version="1.21.3", listeners=SSHD),
    )
    yield (
        scanned(target("192.0.2.130", expect=[22], address="192.0.2.130"), seen("192.0.2.130", is_open=[22])),
        audited(
            "192.0.2.130",
            status=Status.FAILED,
            reason='no output, expected the summary of debsecan (exit status 1, standard error ends with "timed out")',
            database_age=None,
            listeners=None,
        ),
    )
    yield (
        scanned(
            target("2001:db8::25", expect=[25], scan=[22, 25]), seen("2001:db8::25", scanned=[22, 25], is_open=[25])
        ),
        audited(
            "2001:db8::25",
            status=Status.STALE_DATABASE,
            reason="the database is of 2023-10-01, 44 days old; update it",
            database_age=44 * DAY,
            listeners=[listener(25, "sendmail", "root", address="*")],
            tool="portaudit",
            tool_version=None,
        ),
    )
    yield (
        None,
        audited(
            "laptop7.example.org",
            status=Status.UNSUPPORTED,
            reason='"winget" is not a tool whose output is known',
            tool="winget",
            tool_version=None,
            database_age=None,
            listeners=None,
        ),
    )
    yield (
        scanned(target("dns1.example.org", expect=[53], scan=[53]), seen("192.0.2.53", scanned=[53], is_open=[53])),
        audited("dns1.example.org", age=50 * HOUR, listeners=None),
    )
    yield None, never("laptop10.example.org")
    away = Failure(Reason.RESOLVE, "gone.example.org does not resolve: no such name")
    yield scanned(target("gone.example.org", expect=[22]), failure=away), None
    yield HostState(target("new.example.org", expect=[22])), None


def _both_views() -> tuple[HostState, AuditState]:
    """Make one with an unexpected port and vulnerable packages."""
    host = "shop.example.org"
    state = scanned(
        target(host, expect=[22, 443], scan=[22, 25, 80, 443, 3306, 6379, 8080]),
        seen("192.0.2.80", scanned=[22, 25, 80, 443, 3306, 6379, 8080], is_open=[22, 443, 6379, 8080], filtered=[3306]),
        seen("2001:db8::80", scanned=[22, 25, 80, 443, 3306, 6379, 8080], is_open=[22, 6379]),
    )
    audit = audited(
        host,
        vulnerability("CVE-2022-0543", Severity.CRITICAL, package="redis-server", version="5:7.0.15-1~deb12u1",
                      fixed_in=["5:7.0.15-1~deb12u2", "5:7.2.4-1"], title="Lua scripts leave their sandbox"),
        vulnerability(advisories=["DSA-5532-1"], paths=["usr/lib/x86_64-linux-gnu/libssl.so.3"]),
        vulnerability("CVE-2023-4039", Severity.LOW, package="gcc-12-base", version="12.2.0-14", fixed_in=[],
                      title="the stack protector does not protect all that it could on this architecture, which "
                            "a title of more than a hundred characters tells at length"),
        listeners=[
            *SSHD,
            listener(443, "nginx", "root"),
            listener(443, "nginx", "www-data"),
            listener(6379, "redis-server", "redis"),
            listener(6379, "redis-server", "redis", address="::"),
            listener(3306, "mariadbd", "mysql"),
            listener(5432, "postgres", "postgres", address="127.0.0.1"),
            listener(68, None, "root", protocol="udp"),
        ],
    )  # fmt: skip
    return state, audit


def _unexpected() -> tuple[HostState, None]:
    """Make one with an unexpected port, an accepted one, and a later scan that failed."""
    host = "db1.example.org"
    exception = PortException((host,), PortSet.of([9000]), NOW + 20 * DAY, "a trial of the new back-end", "Ada")
    of = target(host, expect=[22, 5432], scan=[22, 5432, 8080, 9000], exceptions=[exception])
    state = scanned(
        of,
        seen("192.0.2.40", scanned=of.config.ports, is_open=[22, 5432, 8080, 9000]),
        seen("192.0.2.41", reason=Reason.NO_ROUTE),
        age=HOUR,
    )
    return replace(
        state.after(result(of, seen("192.0.2.40", reason=Reason.NO_ROUTE), at=NOW - 60)), judged_at=NOW
    ), None


def _accepted() -> tuple[HostState, AuditState]:
    """Make a vulnerable one that has accepted vulnerabilities, too."""
    host = "web1.example.org"
    state = scanned(target(host, expect=[22, 443]), seen("192.0.2.6", is_open=[22, 443]))
    audit = audited(
        host,
        vulnerability("CVE-2023-5678", Severity.MEDIUM),
        vulnerability("CVE-2023-7104", Severity.HIGH, package="libsqlite3-0", version="3.40.1-2", fixed_in=[],
                      title="a session extension reads behind a buffer"),
        listeners=[*SSHD, listener(443, "nginx", "root")],
        exceptions=[accept("cve-2023-7104", reason="the extension is not used", owner="Grace")],
    )  # fmt: skip
    return state, audit
