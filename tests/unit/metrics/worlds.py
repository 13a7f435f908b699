"""Hosts of every kind and what may happen to them, made by hypothesis."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.payload import Kernel, ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.config import PortException, VulnerabilityException
from portspec.deadlines import NO_DEADLINES, Deadlines
from portspec.ports import PortSet
from portspec.scan import Failure, Reason
from portspec.state.snapshot import Snapshot
from portspec.state.table import HostTable
from tests.unit.factories import NOW, result, seen, snapshot, target, window
from tests.unit.metrics.scrape import NASTY, inspected

if TYPE_CHECKING:
    from collections.abc import Collection

    from portspec.inventory import Target
    from portspec.state.snapshot import ScanResult

# No surrogates: UTF-8 has none.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text('"\\\n{},= é', max_size=6),
    st.sampled_from([NASTY, "", "😀", "x" * 1000, "\\n", '\\"', "\r\n", "a\u2028b", "\x00"]),
)
HOSTS = st.lists(TEXTS, unique=True, max_size=6)
LABEL_NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,5}", fullmatch=True).filter(
    lambda name: name != "host" and not name.startswith("__")
)
VALUES = st.one_of(
    st.floats(),
    st.floats(1.6e9, 2e9),
    st.integers(-(2**63), 2**63),
    st.sampled_from([0, -0.0, 1, 1e10, 1e-300, 5e-324, 1e6, 999999.0, 1e16, 1e22, NOW, 0.1, 123456789]),
)
_PORTS = st.sampled_from([22, 25, 80, 443, 8080])
_LIMITS = st.sampled_from([1.0, 60.0, NOW - 100.0, NOW - 97.0])
DEADLINES = st.just(NO_DEADLINES) | st.builds(
    Deadlines,
    st.dictionaries(st.sampled_from(["fix_now", "plan", "rest"]), _LIMITS),
    st.dictionaries(st.sampled_from(["critical", "high", "unknown", "warning", "info"]), _LIMITS),
    st.dictionaries(st.sampled_from(["missing", "unexpected"]), _LIMITS),
)
PORT_SETS = st.lists(_PORTS, unique=True, max_size=5)


@st.composite
def targets(draw: st.DrawFn, host: str) -> Target:
    """Make a target for a host, with exceptions in force and lapsed, and maintenance that lasts or does not."""
    labels = draw(st.dictionaries(LABEL_NAMES, TEXTS, max_size=3))
    exceptions = [
        PortException(("*",), PortSet.of(draw(PORT_SETS)), until=NOW + draw(st.sampled_from([-1, 1, 2.5])))
        for _ in range(draw(st.integers(0, 2)))
    ]
    made = target(
        host, expect=draw(PORT_SETS), allow=draw(PORT_SETS), scan=[22, 80], interval=draw(VALUES), labels=labels
    )
    begins = draw(st.sampled_from([None, NOW - 1, NOW + 1]))
    maintenance = () if begins is None else (window(begins, begins + draw(st.sampled_from([1, 2]))),)
    owner, deadlines = draw(TEXTS), draw(DEADLINES)
    return replace(made, exceptions=tuple(exceptions), maintenance=maintenance, owner=owner, deadlines=deadlines)


@st.composite
def results(draw: st.DrawFn, of: Target) -> ScanResult:
    """Make a scan of a target, of up to three addresses; some of them, or the name, could not be seen."""
    addresses = []
    for address in draw(st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]), unique=True, max_size=3)):
        reason = draw(st.one_of(st.none(), st.none(), st.sampled_from(Reason)))
        opened = draw(PORT_SETS)
        silent = [port for port in draw(PORT_SETS) if port not in opened]
        doubted = [port for port in draw(PORT_SETS) if port in opened]
        addresses.append(
            seen(
                address,
                scanned=of.config.ports | PortSet.of(opened),
                is_open=opened,
                filtered=silent,
                unconfirmed=doubted,
                reason=reason,
            )
        )
    failure = None if addresses else Failure(Reason.RESOLVE, "does not resolve")
    return result(of, *addresses, at=draw(VALUES), duration=draw(VALUES), failure=failure)


_IDS = st.sampled_from(["CVE-2026-0001", "cve-2026-0002", "GHSA-ab", NASTY])
_VULNERABILITIES = st.builds(
    Vulnerability,
    st.sampled_from(["curl", "openssl", NASTY]) | TEXTS,
    st.sampled_from(["1.0", ""]) | TEXTS,
    _IDS | TEXTS,
    st.sampled_from(Severity),
    aliases=st.lists(_IDS, max_size=2).map(tuple),
)
_LISTENERS = st.builds(
    ListeningSocket,
    st.sampled_from(["tcp", "tcp", "udp"]),
    st.sampled_from(["0.0.0.0", "::", "*", "192.0.2.1", "127.0.0.1", "::1", "fe80::1%eth0", "::ffff:127.0.0.1"]),  # noqa: S104 - of a report
    _PORTS,
    st.none() | st.sampled_from(["nginx", ""]) | TEXTS,
    st.none() | TEXTS,
    libraries=st.none() | st.just(()),
    replaced=st.lists(TEXTS, max_size=2).map(tuple),
)


@st.composite
def host_audits(draw: st.DrawFn) -> HostAudit:
    """Make what a report says: any status of a run, with up to five vulnerabilities and eight listeners."""
    status = draw(st.sampled_from([status for status in Status if status is not Status.NEVER]))
    found = () if status is Status.CLEAN else tuple(draw(st.lists(_VULNERABILITIES, max_size=5)))
    without = draw(st.sampled_from([Status.CLEAN, Status.FAILED, Status.STALE_DATABASE]))
    audit = Audit(status, found, draw(st.sampled_from(["", "the database is old"])), without=without)
    listeners = draw(st.none() | st.lists(_LISTENERS, max_size=8).map(tuple))
    kernel = draw(st.none() | st.builds(Kernel, TEXTS, st.none() | TEXTS))
    since = draw(st.sampled_from([(), tuple(range(100, 100 - len(found), -1))]))
    return HostAudit(draw(VALUES), "pkg-audit", draw(st.none() | TEXTS), audit, listeners, kernel, since)


@st.composite
def audit_states(draw: st.DrawFn, host: str) -> AuditState:
    """Make a host of the roster, with exceptions in force and lapsed, and perhaps a report."""
    exceptions = tuple(
        VulnerabilityException(
            ("*",),
            tuple(name.lower() for name in draw(st.lists(_IDS, min_size=1, max_size=2))),
            until=NOW + draw(st.sampled_from([-1, 0, 1])),
        )
        for _ in range(draw(st.integers(0, 2)))
    )
    state = AuditState(host, exceptions, draw(st.none() | host_audits()), NOW)
    return replace(state, owner=draw(TEXTS), deadlines=draw(DEADLINES)).with_due_times()


@st.composite
def rosters(draw: st.DrawFn, hosts: Collection[str]) -> HostTable[AuditState]:
    """Make a roster of some of the hosts and of others."""
    own = draw(st.lists(st.sampled_from(sorted(hosts)), unique=True)) if hosts else []
    names = dict.fromkeys([*own, *draw(st.lists(TEXTS, unique=True, max_size=3))])
    return HostTable([draw(audit_states(name)) for name in names])


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Make a snapshot of hosts that were scanned up to three times, and of a roster."""
    of = Snapshot.of([draw(targets(host)) for host in draw(HOSTS)])
    for host in of.hosts:
        for _ in range(draw(st.integers(0, 3))):
            of = of.after(host, draw(results(of.hosts[host].target)), probes_sent=0)
    return replace(of, audits=draw(rosters(of.hosts)))


def many(count: int = 300) -> Snapshot:
    """Make a snapshot of more hosts than go into one chunk, each with a deviation."""
    every = [target(f"host{number}", expect=[22, 80], labels={"site": "here"}) for number in range(count)]
    return snapshot(*((of, [result(of, seen(is_open=[22, 443]))]) for of in every))


def rescanned(of: Snapshot, host: str, *opened: int, at: float = NOW + 60) -> Snapshot:
    """Return the snapshot after a host was found with these ports open."""
    return of.after(host, result(of.hosts[host].target, seen(is_open=opened), at=at), probes_sent=0)


def audited(count: int, found: int = 3) -> Snapshot:
    """Make the roster of many() hosts: each has so many vulnerabilities, and two listeners."""
    vulnerabilities = [Vulnerability("curl", "8.1", f"CVE-2026-{number:04}", Severity.LOW) for number in range(found)]
    listeners = (ListeningSocket("tcp", "192.0.2.1", 443, "nginx", "www"), ListeningSocket("tcp", "192.0.2.1", 22))
    host_audit = inspected(Status.VULNERABLE, *vulnerabilities, listeners=listeners)
    states = (AuditState(f"host{number}", (), host_audit, NOW) for number in range(count))
    return replace(many(count), audits=HostTable(states))
