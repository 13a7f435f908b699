# ruff: noqa: E501 - lines of /metrics
from __future__ import annotations

from dataclasses import replace

import pytest

from portspec.audit.admission import REASONS
from portspec.audit.fixes import Histogram
from portspec.audit.model import Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import AuditState, HostAudit
from portspec.config import VulnerabilityException
from portspec.metrics import AuditStatus, Exposition
from portspec.priorities import Priority
from portspec.scan import Reason
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.table import HostTable
from tests.unit.factories import NOW, result, seen, snapshot, target, window, with_targets
from tests.unit.metrics.scrape import (
    NASTY,
    OPENMETRICS,
    STATUS,
    TEXT,
    audited_zoo,
    body,
    host_lines,
    inspected,
    text,
    zoo,
)

EXPECTED = r"""
# TYPE port_open gauge
port_open{host="good",port="22"} 1.0
port_open{host="good",port="443"} 1.0
port_open{host="bad",port="22"} 1.0
port_open{host="bad",port="25"} 0.0
port_open{host="lost",port="22"} 0.0
port_open{host="good",port="80"} 1.0
port_open{host="bad",port="80"} 1.0
port_open{host="bad",port="8080"} 1.0
port_open{host="lost",port="23"} 1.0
# TYPE port_expected gauge
port_expected{host="good",port="22"} 1.0
port_expected{host="good",port="443"} 1.0
port_expected{host="bad",port="22"} 1.0
port_expected{host="bad",port="25"} 1.0
port_expected{host="lost",port="22"} 1.0
port_expected{host="never",port="80"} 1.0
port_expected{host="waiting",port="443"} 1.0
# TYPE port_deviation gauge
port_deviation{address="192.0.2.2",host="bad",kind="missing",port="25",severity="warning",state="filtered"} 1.0
port_deviation{address="192.0.2.2",host="bad",kind="unexpected",port="80",severity="warning",state="open"} 1.0
port_deviation{address="2001:db8::2",host="bad",kind="missing",port="25",severity="warning",state="closed"} 1.0
port_deviation{address="2001:db8::2",host="bad",kind="unexpected",port="80",severity="warning",state="open"} 1.0
port_deviation{address="2001:db8::2",host="bad",kind="unexpected",port="8080",severity="warning",state="open"} 1.0
port_deviation{address="192.0.2.3",host="lost",kind="missing",port="22",severity="warning",state="closed"} 1.0
port_deviation{address="192.0.2.3",host="lost",kind="unexpected",port="23",severity="critical",state="open"} 1.0
# TYPE port_deviation_since_timestamp_seconds gauge
port_deviation_since_timestamp_seconds{address="192.0.2.2",host="bad",kind="missing",port="25",severity="warning",state="filtered"} 1.700000000125e+09
port_deviation_since_timestamp_seconds{address="192.0.2.2",host="bad",kind="unexpected",port="80",severity="warning",state="open"} 1.700000000125e+09
port_deviation_since_timestamp_seconds{address="2001:db8::2",host="bad",kind="missing",port="25",severity="warning",state="closed"} 1.700000000125e+09
port_deviation_since_timestamp_seconds{address="2001:db8::2",host="bad",kind="unexpected",port="80",severity="warning",state="open"} 1.700000000125e+09
port_deviation_since_timestamp_seconds{address="2001:db8::2",host="bad",kind="unexpected",port="8080",severity="warning",state="open"} 1.700000000125e+09
port_deviation_since_timestamp_seconds{address="192.0.2.3",host="lost",kind="missing",port="22",severity="warning",state="closed"} 1.7e+09
port_deviation_since_timestamp_seconds{address="192.0.2.3",host="lost",kind="unexpected",port="23",severity="critical",state="open"} 1.7e+09
# TYPE port_deviations_overdue gauge
port_deviations_overdue{host="lost",kind="missing",owner="us"} 0.0
port_deviations_overdue{host="lost",kind="unexpected",owner="us"} 1.0
# TYPE port_exception_expiry_timestamp_seconds gauge
port_exception_expiry_timestamp_seconds{host="blind",port="23"} 1.7000036e+09
port_exception_expiry_timestamp_seconds{host="blind",port="8000-8010"} 1.7000036e+09
# TYPE port_out_of_spec gauge
port_out_of_spec{host="good"} 0.0
port_out_of_spec{host="bad"} 5.0
port_out_of_spec{host="lost"} 2.0
port_out_of_spec{host="blind"} 0.0
# TYPE port_host_up gauge
port_host_up{host="good"} 1.0
port_host_up{host="bad"} 1.0
port_host_up{host="lost"} 1.0
port_host_up{host="blind"} 0.0
# TYPE port_scan_success gauge
port_scan_success{host="good"} 1.0
port_scan_success{host="bad"} 1.0
port_scan_success{host="lost"} 0.0
port_scan_success{host="never"} 0.0
port_scan_success{host="blind"} 1.0
# TYPE port_scan_failure gauge
port_scan_failure{host="lost",reason="resolve"} 1.0
port_scan_failure{host="never",reason="local_limit"} 1.0
port_scan_failure{host="never",reason="no_route"} 1.0
# TYPE port_last_scan_timestamp_seconds gauge
port_last_scan_timestamp_seconds{host="good"} 1.7e+09
port_last_scan_timestamp_seconds{host="bad"} 1.700000000125e+09
port_last_scan_timestamp_seconds{host="lost"} 1.7e+09
port_last_scan_timestamp_seconds{host="blind"} 1.7e+09
# TYPE port_scan_duration_seconds gauge
port_scan_duration_seconds{host="good"} 2.5
port_scan_duration_seconds{host="bad"} 0.001
port_scan_duration_seconds{host="lost"} 1.5
port_scan_duration_seconds{host="blind"} 1.5
# TYPE port_last_change_timestamp_seconds gauge
port_last_change_timestamp_seconds{host="bad"} 1.700000000125e+09
# TYPE port_scan_interval_seconds gauge
port_scan_interval_seconds{host="good"} 60.0
port_scan_interval_seconds{host="bad"} 3600.0
port_scan_interval_seconds{host="lost"} 60.5
port_scan_interval_seconds{host="never"} 60.0
port_scan_interval_seconds{host="waiting"} 60.0
port_scan_interval_seconds{host="blind"} 60.0
# TYPE port_host_info gauge
port_host_info{host="good",nasty="quote \" backslash \\ newline \n and <b>&amp;</b>",site="here"} 1.0
port_host_info{host="bad",site="there"} 1.0
"""


def test_families_of_hosts_are_exactly_these() -> None:
    """A snapshot with a host of every kind gives these lines, in this order."""
    assert host_lines(zoo()) == EXPECTED.strip().splitlines()


def of_host(lines: list[str], host: str) -> dict[str, str]:
    """Return the values of the families of one host that have no other label."""
    wanted = f'{{host="{host}"}} '
    return dict(line.split(wanted) for line in lines if wanted in line)


def test_host_that_never_reached_a_verdict_has_no_verdict() -> None:
    """Of a host that was never conclusive there is nothing that a scan could have found, but a failure."""
    lines = host_lines(zoo())
    assert of_host(lines, "never") == {
        "port_scan_success": "0.0",
        "port_scan_interval_seconds": "60.0",
    }
    assert not any(line.startswith('port_open{host="never"') for line in lines)


def test_host_that_was_never_scanned_has_only_what_the_configuration_says() -> None:
    """Before its first scan a host has its interval and its expected ports, nothing that could look like a result."""
    assert of_host(host_lines(zoo()), "waiting") == {"port_scan_interval_seconds": "60.0"}


def test_maintenance_is_one_family_of_scanned_and_of_audited_hosts() -> None:
    """While it lasts the series is 1, and there is none otherwise; a host has it before its first scan, too."""
    lasts, over = window(NOW - 1, NOW + 1), window(NOW - 2, NOW)
    hosts = [HostState(target(host, maintenance=[one]), judged_at=NOW) for host, one in (("db1", lasts), ("db2", over))]
    audits = [AuditState("mail1", judged_at=NOW, windows=(lasts,)), AuditState("mail2", judged_at=NOW, windows=(over,))]
    lines = host_lines(Snapshot(HostTable(hosts), HostTable(audits)))
    assert [line for line in lines if "port_maintenance" in line] == [
        "# TYPE port_maintenance gauge",
        'port_maintenance{host="db1"} 1.0',
        'port_maintenance{host="mail1"} 1.0',
    ]


def test_unknown_keeps_the_series_of_the_last_conclusive_scan() -> None:
    """When a scan fails only port_scan_success and port_scan_failure tell; nothing that was found is taken back."""
    of = target("db1", expect=[22])
    scans = [result(of, seen(is_open=[80]), at=NOW), result(of, seen(reason=Reason.NO_ROUTE), at=NOW + 60)]
    before, after = (set(host_lines(snapshot((of, scans[:count])))) for count in (1, 2))
    assert 'port_host_up{host="db1"} 1.0' in before & after
    assert before - after == {'port_scan_success{host="db1"} 1.0'}
    assert after - before == {
        'port_scan_success{host="db1"} 0.0',
        "# TYPE port_scan_failure gauge",
        'port_scan_failure{host="db1",reason="no_route"} 1.0',
    }


def test_deviation_beside_an_unseen_address_shows_both() -> None:
    """A host out of spec with an address that could not be seen has its deviations and the reason."""
    of = target("db1", expect=[22])
    lines = host_lines(snapshot((of, [result(of, seen(), seen("::1", reason=Reason.NO_ROUTE))])))
    assert 'port_out_of_spec{host="db1"} 1.0' in lines
    assert 'port_scan_success{host="db1"} 1.0' in lines
    assert 'port_scan_failure{host="db1",reason="no_route"} 1.0' in lines


def test_host_back_in_spec_has_no_deviations() -> None:
    """A deviation that is over leaves no series behind."""
    of = target("db1", expect=[22])
    lines = host_lines(snapshot((of, [result(of, seen(), at=NOW), result(of, seen(is_open=[22]), at=NOW + 60)])))
    assert 'port_out_of_spec{host="db1"} 0.0' in lines
    assert not any("port_deviation" in line for line in lines)


def test_unconfirmed_ports_have_no_series() -> None:
    """A port that answers SYNs and takes no connection is nowhere: neither open nor a deviation; the host is up."""
    of = target("db1", expect=[22])
    lines = host_lines(snapshot((of, [result(of, seen(is_open=[22, 80, 443], unconfirmed=[80, 443]))])))
    assert [line for line in lines if line.startswith("port_open{")] == ['port_open{host="db1",port="22"} 1.0']
    assert not any("port_deviation" in line for line in lines)
    assert {'port_out_of_spec{host="db1"} 0.0', 'port_host_up{host="db1"} 1.0'} <= set(lines)


def test_port_that_is_confirmed_on_one_address_is_open() -> None:
    """A port is open that takes connections on at least one address, though it takes none on another."""
    of = target("db1")
    doubted, confirmed = seen(is_open=[80], unconfirmed=[80]), seen("192.0.2.2", is_open=[80])
    lines = host_lines(snapshot((of, [result(of, doubted, confirmed)])))
    assert 'port_open{host="db1",port="80"} 1.0' in lines
    assert [line.split(",")[0] for line in lines if line.startswith("port_deviation{")] == [
        'port_deviation{address="192.0.2.2"'
    ]


def test_exporter_tells_of_itself() -> None:
    """The exporter's own families: hosts, probes, rounds, engine, configuration, shard, store, discovery, reports."""
    lines = text(zoo()).splitlines()
    for line in (
        "portspec_hosts 6.0",
        "portspec_first_round_complete 1.0",
        "portspec_series_dropped 0.0",
        "portspec_probes_sent_total 123456.0",
        "portspec_answers_dropped_total 78.0",
        "portspec_scan_rounds_total 0.0",
        "portspec_scan_overruns_total 0.0",
        'portspec_engine_info{engine="scripted"} 1.0',
        "portspec_config_last_reload_successful 1.0",
        'portspec_shard_info{shard="1",shards="3"} 1.0',
        "portspec_store_up 1.0",
        "portspec_store_held 0.0",
        "portspec_store_errors_total 2.0",
        "portspec_store_pending 3.0",
        "portspec_store_changes_dropped_total 4.0",
        'portspec_discovered_hosts{source="file_sd"} 5.0',
        'portspec_discovery_refreshes_total{source="file_sd"} 6.0',
        'portspec_discovery_failures_total{source="file_sd"} 7.0',
        'portspec_discovery_targets_refused{source="file_sd"} 8.0',
        'portspec_discovery_last_success_timestamp_seconds{source="file_sd"} 1.7e+09',
        "portspec_config_last_reload_success_timestamp_seconds 1.7e+09",
        "portspec_audits_received_total 13.0",
        'portspec_audits_rejected_total{reason="signature"} 14.0',
        'portspec_audits_rejected_total{reason="time"} 0.0',
        "portspec_audit_max_age_seconds 93600.0",
        "portspec_audits_unread 15.0",
        'portspec_audit_time_to_fix_seconds_bucket{class="plan",le="604800.0"} 5.0',
        'portspec_audit_time_to_fix_seconds_count{class="plan"} 7.0',
    ):
        assert line in lines


def test_snapshot_without_hosts_can_be_written() -> None:
    """Without any host there are only the exporter's own families."""
    assert host_lines(snapshot()) == []
    assert "portspec_hosts 0.0" in text(snapshot())


def deviations_of(count: int) -> list[str]:
    """Return the ports' labels of the deviations of a host with so many unexpected ports, none of them neighbours."""
    of = target("db1")
    ports = range(1001, 1001 + 2 * count, 2)
    lines = host_lines(snapshot((of, [result(of, seen(scanned=ports, is_open=ports))])))
    assert f'port_out_of_spec{{host="db1"}} {count}.0' in lines
    return [line.split('port="')[1].split('"')[0] for line in lines if line.startswith("port_deviation{")]


def test_a_hundred_deviations_have_a_series_each() -> None:
    """Up to a hundred ports of one address, kind and state are told one by one."""
    assert deviations_of(100) == [str(port) for port in range(1001, 1201, 2)]


def test_more_than_a_hundred_deviations_are_one_series() -> None:
    """Beyond that there is one series with the ports in its label, cut after a whole port, with an ellipsis."""
    (label,) = deviations_of(101)
    *ports, ellipsis = label.split(",")
    assert ellipsis == "…"
    assert ports == [str(port) for port in range(1001, 1001 + 2 * len(ports), 2)]
    assert 115 <= len(label.encode()) <= 128


def test_addresses_kinds_and_states_are_series_of_their_own() -> None:
    """Many deviations are put together for each address, kind and state, and few beside them stay single."""
    many = range(1, 201)
    of = target("db1", expect=many, scan=[443])
    addresses = (
        seen("192.0.2.1", scanned=of.config.ports, filtered=range(1, 151), is_open=[443]),
        seen("192.0.2.2", scanned=of.config.ports, is_open=range(3, 201)),
    )
    lines = host_lines(snapshot((of, [result(of, *addresses)])))
    assert [line for line in lines if line.startswith("port_deviation{")] == [
        'port_deviation{address="192.0.2.1",host="db1",kind="missing",port="1-150",severity="warning",state="filtered"} 1.0',
        *(
            f'port_deviation{{address="192.0.2.1",host="db1",kind="missing",port="{port}",severity="warning",state="closed"}} 1.0'
            for port in range(151, 201)
        ),
        'port_deviation{address="192.0.2.1",host="db1",kind="unexpected",port="443",severity="warning",state="open"} 1.0',
        'port_deviation{address="192.0.2.2",host="db1",kind="missing",port="1",severity="warning",state="closed"} 1.0',
        'port_deviation{address="192.0.2.2",host="db1",kind="missing",port="2",severity="warning",state="closed"} 1.0',
    ]


def test_expected_port_that_was_not_looked_at_yet_is_neither_open_nor_closed() -> None:
    """After a reload that expects one more port, that port has no port_open until the next scan."""
    before = target("db1", expect=[22])
    made = snapshot((before, [result(before, seen(scanned=[22], is_open=[22]))]))
    lines = host_lines(with_targets(made, [target("db1", expect=[22, 8443])], NOW))
    assert [line for line in lines if line.startswith("port_open{")] == ['port_open{host="db1",port="22"} 1.0']
    assert 'port_expected{host="db1",port="8443"} 1.0' in lines


OPENSSL = Vulnerability("openssl", "3.0.1,1", "CVE-2026-0001", Severity.CRITICAL, aliases=("GHSA-abcd",))
CURL = Vulnerability("curl", "8.1", "CVE-2026-0002", Severity.HIGH)
OLD_CURL = Vulnerability("curl", "7.9", "CVE-2026-0002", Severity.HIGH)
EXPECTED_OF_BAD = r"""
# TYPE portspec_audit_timestamp_seconds gauge
portspec_audit_timestamp_seconds{host="bad \"1\""} 1.6999999995e+09
# TYPE portspec_audit_status gauge
portspec_audit_status{host="bad \"1\"",status="clean"} 0.0
portspec_audit_status{host="bad \"1\"",status="vulnerable"} 1.0
portspec_audit_status{host="bad \"1\"",status="failed"} 0.0
portspec_audit_status{host="bad \"1\"",status="stale_database"} 0.0
portspec_audit_status{host="bad \"1\"",status="unsupported"} 0.0
portspec_audit_status{host="bad \"1\"",status="never"} 0.0
# TYPE portspec_audit_vulnerable_packages gauge
portspec_audit_vulnerable_packages{host="bad \"1\""} 4.0
# TYPE portspec_audit_vulnerabilities gauge
portspec_audit_vulnerabilities{host="bad \"1\"",severity="critical"} 1.0
portspec_audit_vulnerabilities{host="bad \"1\"",severity="high"} 1.0
portspec_audit_vulnerabilities{host="bad \"1\"",severity="medium"} 0.0
portspec_audit_vulnerabilities{host="bad \"1\"",severity="low"} 0.0
portspec_audit_vulnerabilities{host="bad \"1\"",severity="negligible"} 0.0
portspec_audit_vulnerabilities{host="bad \"1\"",severity="unknown"} 1.0
# TYPE portspec_audit_vulnerabilities_by_class gauge
portspec_audit_vulnerabilities_by_class{class="fix_now",host="bad \"1\""} 0.0
portspec_audit_vulnerabilities_by_class{class="fix_soon",host="bad \"1\""} 0.0
portspec_audit_vulnerabilities_by_class{class="plan",host="bad \"1\""} 3.0
portspec_audit_vulnerabilities_by_class{class="rest",host="bad \"1\""} 0.0
# TYPE portspec_audit_vulnerability gauge
portspec_audit_vulnerability{class="plan",fixed_version="",host="bad \"1\"",id="CVE-2026-0001",package="openssl",severity="critical",version="3.0.1,1"} 1.0
portspec_audit_vulnerability{class="plan",fixed_version="",host="bad \"1\"",id="CVE-2026-0002",package="curl",severity="high",version="8.1"} 1.0
portspec_audit_vulnerability{class="plan",fixed_version="",host="bad \"1\"",id="CVE-2026-0002",package="curl",severity="high",version="7.9"} 1.0
portspec_audit_vulnerability{class="plan",fixed_version="",host="bad \"1\"",id="é\\😀",package="a \" and \\ and \n",severity="unknown",version=""} 1.0
# TYPE port_listener_info gauge
port_listener_info{container="",host="bad \"1\"",package="",port="22",process="",unit="",user=""} 1.0
port_listener_info{container="",host="bad \"1\"",package="",port="443",process="haproxy",unit="",user="root"} 1.0
port_listener_info{container="",host="bad \"1\"",package="",port="443",process="quote \" backslash \\ newline \n and <b>&amp;</b>",unit="",user=""} 1.0
"""


def reporting(host_audit: HostAudit | None, *exceptions: VulnerabilityException, host: str = "db1") -> Snapshot:
    """Make the snapshot of a host that is on the roster and not scanned, judged at NOW."""
    return Snapshot(audits=HostTable([AuditState(host, exceptions, host_audit, NOW)]))


def accepted(*ids: str, until: float) -> VulnerabilityException:
    """Make an exception for vulnerabilities of these ids, in lower case."""
    return VulnerabilityException(("*",), ids, until)


def test_families_of_audits_are_exactly_these() -> None:
    """A host of the roster gives these lines: of listeners those of TCP, not on loopback, each process once."""
    listeners = (
        ListeningSocket("tcp", "0.0.0.0", 443, NASTY),  # noqa: S104 - of a report
        ListeningSocket("tcp", "::", 443, NASTY),
        ListeningSocket("tcp", "*", 443, "haproxy", "root"),
        ListeningSocket("tcp", "192.0.2.1", 22),
        ListeningSocket("tcp", "127.0.0.1", 5432, "postgres", "postgres"),
        ListeningSocket("tcp", "::1", 5432, "postgres", "postgres"),
        ListeningSocket("udp", "0.0.0.0", 53, "named", "bind"),  # noqa: S104 - of a report
    )
    strange = Vulnerability('a " and \\ and \n', "", "é\\😀")
    found = inspected(Status.VULNERABLE, OPENSSL, CURL, OLD_CURL, strange, at=NOW - 0.5, listeners=listeners)
    assert host_lines(reporting(found, host='bad "1"')) == EXPECTED_OF_BAD.strip().splitlines()


def test_audits_come_after_ports() -> None:
    """Hosts of the roster take nothing from what is said of those that are scanned, the same ones or others."""
    ports, lines = host_lines(zoo()), host_lines(audited_zoo())
    assert lines[: len(ports)] == ports
    assert lines[len(ports)] == "# TYPE portspec_audit_timestamp_seconds gauge"


def values(of: Snapshot, name: str) -> dict[str, str]:
    """Return the values of a family of the one host there is, by its other label."""
    lines = [line for line in host_lines(of) if line.startswith(f"{name}{{")]
    return {line.split('"')[3] if "," in line else "": line.rpartition(" ")[2] for line in lines}


@pytest.mark.parametrize(
    ("host_audit", "status", "is_counted"),
    [
        (None, "never", False),
        (inspected(Status.CLEAN), "clean", True),
        (inspected(Status.VULNERABLE, CURL), "vulnerable", True),
        (inspected(Status.FAILED, reason="no output"), "failed", False),
        (inspected(Status.FAILED, CURL, reason="cut off"), "failed", True),
        (inspected(Status.STALE_DATABASE, reason="old"), "stale_database", True),
        (inspected(Status.UNSUPPORTED, reason="unknown tool"), "unsupported", False),
    ],
)
def test_numbers_are_absent_where_nothing_is_known(
    host_audit: HostAudit | None, status: str, *, is_counted: bool
) -> None:
    """Each status is 1 for itself and 0 for all others; where packages are unknown, no number says that there are 0."""
    of = reporting(host_audit)
    found = values(of, "portspec_audit_status")
    assert found == {one.value: "1.0" if one == status else "0.0" for one in Status}
    number = len(host_audit.audit.vulnerabilities) if host_audit else 0
    assert values(of, "portspec_audit_vulnerable_packages") == ({"": f"{number}.0"} if is_counted else {})
    assert len(values(of, "portspec_audit_vulnerabilities")) == (len(Severity) if is_counted else 0)
    assert values(of, "portspec_audit_timestamp_seconds") == {"": "1.7e+09" if host_audit else "0.0"}


@pytest.mark.parametrize(
    ("exception", "status", "ids"),
    [
        (accepted("cve-2026-0001", until=NOW + 1), "vulnerable", ["CVE-2026-0002"]),
        (accepted("ghsa-abcd", until=NOW + 1), "vulnerable", ["CVE-2026-0002"]),
        (accepted("ghsa-abcd", "cve-2026-0002", until=NOW + 1), "clean", []),
        (accepted("cve-2026-0001", "cve-2026-0002", until=NOW), "vulnerable", ["CVE-2026-0001", "CVE-2026-0002"]),
        (accepted("cve-2026-000", until=NOW + 1), "vulnerable", ["CVE-2026-0001", "CVE-2026-0002"]),
    ],
    ids=["by id", "by alias", "all of them", "lapsed", "of another id"],
)
def test_excepted_vulnerabilities_do_not_count(exception: VulnerabilityException, status: str, ids: list[str]) -> None:
    """While an exception is in force its vulnerabilities have no series, and are in no number and no status."""
    of = reporting(inspected(Status.VULNERABLE, OPENSSL, CURL), exception)
    lines = host_lines(of)
    assert [
        line.split('id="')[1].split('"')[0] for line in lines if line.startswith("portspec_audit_vulnerability{")
    ] == ids
    assert values(of, "portspec_audit_vulnerable_packages") == {"": f"{len(ids)}.0"}
    assert sum(map(float, values(of, "portspec_audit_vulnerabilities").values())) == len(ids)
    assert values(of, "portspec_audit_status")[status] == "1.0"


def test_stale_database_shows_once_all_that_it_found_is_excepted() -> None:
    """A host that would be clean but for its old database is not clean."""
    found = inspected(Status.VULNERABLE, OPENSSL, reason="the database is of 2023-01-01")
    of = reporting(found, accepted("cve-2026-0001", until=NOW + 1))
    assert values(of, "portspec_audit_status")["stale_database"] == "1.0"


def test_vulnerability_that_an_audit_has_twice_is_one_series() -> None:
    """Two entries with the same package, version and id are one series, or Prometheus would refuse the page."""
    lines = host_lines(reporting(inspected(Status.VULNERABLE, CURL, replace(CURL, severity=Severity.LOW))))
    assert len([line for line in lines if line.startswith("portspec_audit_vulnerability{")]) == 1


TIME_TO_FIX = "portspec_audit_time_to_fix_seconds"


def own_lines(audit: AuditStatus | None, accept: str = TEXT) -> list[str]:
    """Return the lines of the exporter's own families about audits, without HELP and TYPE."""
    one = Exposition(Snapshot, lambda: replace(STATUS, audit=audit))
    lines = body(one.write(accept)).decode().splitlines()
    return [line for line in lines if line.startswith("portspec_audit")]


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_every_reason_is_counted_from_nought(accept: str) -> None:
    """Before any report came each counter is there with 0, so that the first refusal is an increase."""
    found = own_lines(AuditStatus(received=0, rejected=dict.fromkeys(REASONS, 0), max_age=93_600.0, unread=0), accept)
    assert [line for line in found if not line.startswith(TIME_TO_FIX)] == [
        "portspec_audits_received_total 0.0",
        *(f'portspec_audits_rejected_total{{reason="{reason}"}} 0.0' for reason in REASONS),
        "portspec_audit_max_age_seconds 93600.0",
        "portspec_audits_unread 0.0",
    ]


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_time_to_fix_is_a_histogram_of_every_class(accept: str) -> None:
    """Each class is there from the beginning; bounds are spelled as Prometheus spells them."""
    plan = Histogram((1, 0, 2, 3, 0, 0, 0, 0, 0, 0, 4), 1.5e8)
    status = AuditStatus(0, {}, 93_600.0, 0, {Priority.PLAN: plan})
    found = [line for line in own_lines(status, accept) if line.startswith(TIME_TO_FIX)]
    days = ["86400.0", "172800.0", "259200.0", "604800.0", "1.2096e+06", "2.592e+06", "5.184e+06", "7.776e+06"]
    bounds = [*days, "1.5552e+07", "3.1536e+07", "+Inf"]
    counts = {"fix_now": [0] * 11, "fix_soon": [0] * 11, "plan": [1, 1, 3, 6, 6, 6, 6, 6, 6, 6, 10], "rest": [0] * 11}
    samples = [
        f'{TIME_TO_FIX}_bucket{{class="{name}",le="{bound}"}} {count}.0'
        for name, every in counts.items()
        for bound, count in zip(bounds, every, strict=True)
    ]
    samples += [f'{TIME_TO_FIX}_count{{class="{name}"}} {every[-1]}.0' for name, every in counts.items()]
    samples += [f'{TIME_TO_FIX}_sum{{class="{name}"}} {"1.5e+08" if name == "plan" else "0.0"}' for name in counts]
    assert sorted(found) == sorted(samples)


def test_exporter_without_audits_says_nothing_of_them() -> None:
    """Without `audit` in conf.yml there is no family about reports."""
    assert own_lines(None) == []
