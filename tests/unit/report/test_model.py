from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Severity, Status
from portspec.report import Need, ReportSettings
from portspec.report.model import anchor, display_names, list_machines
from portspec.scan import Reason
from portspec.state.snapshot import HostState, Snapshot
from portspec.state.verdict import Verdict
from tests.unit.factories import MODEST, NOW, result, seen, target
from tests.unit.report.fleets import DAY, HOUR, accept, audited, fleet, never, scanned, snapshot_of, vulnerability
from tests.unit.report.test_json import document

MAX_AGE = ReportSettings().max_age


def order(of: Snapshot) -> list[str]:
    """Return the machines' names in the order of the report."""
    return [machine.host for machine in list_machines(of, NOW, MAX_AGE)]


def needs(of: Snapshot) -> dict[str, Need]:
    """Return why each machine needs attention."""
    return {machine.host: machine.need for machine in list_machines(of, NOW, MAX_AGE)}


def summary(of: Snapshot) -> dict[str, Any]:
    """Return the numbers of the report in JSON."""
    return dict(document(of)["summary"])


def test_most_pressing_machines_come_first() -> None:
    """Each machine is ranked by the worst that is known of it, from both sides; what is in order comes last."""
    assert list(needs(fleet()).items()) == [
        ("shop.example.org", Need.UNEXPECTED_AND_VULNERABLE),
        ("db1.example.org", Need.UNEXPECTED),
        ("web1.example.org", Need.VULNERABLE),
        ("web2.example.org", Need.MISSING),
        ("192.0.2.130", Need.AUDIT_FAILED),
        ("2001:db8::25", Need.AUDIT_FAILED),
        ("laptop7.example.org", Need.AUDIT_FAILED),
        ("dns1.example.org", Need.AUDIT_LATE),
        ("laptop10.example.org", Need.AUDIT_LATE),
        ("gone.example.org", Need.UNKNOWN),
        ("new.example.org", Need.UNKNOWN),
        ("app1.example.org", Need.NONE),
    ]


def test_vulnerable_machines_stand_by_how_bad_it_is() -> None:
    """Worse vulnerabilities come before more of them, and more before fewer, with an unexpected port or without."""
    one = [
        audited("a", vulnerability("1", Severity.LOW), vulnerability("2", Severity.LOW)),
        audited("b", vulnerability("1", Severity.HIGH)),
        audited("c", vulnerability("1", Severity.HIGH), vulnerability("2", Severity.LOW)),
        audited("d", *(vulnerability(str(number), Severity.MEDIUM) for number in range(9))),
        audited("e", vulnerability("1", Severity.CRITICAL)),
        audited("f", vulnerability("1", Severity.UNKNOWN)),
        audited("g", vulnerability("1", Severity.LOW), vulnerability("2", Severity.LOW)),
    ]
    assert order(snapshot_of(audits=one)) == ["e", "c", "b", "d", "a", "g", "f"]
    hosts = [scanned(target(name), seen(is_open=[80])) for name in "ad"]
    assert order(snapshot_of(hosts, one)) == ["d", "a", "e", "c", "b", "g", "f"]


def test_names_stand_by_their_numbers() -> None:
    """What is alike stands by name, a number in it by its value."""
    names = ["web10", "192.0.2.10", "web9", "192.0.2.9", "db1", "2001:db8::1", "web09"]
    hosts = [scanned(target(name, expect=[22]), seen(is_open=[22])) for name in names]
    assert order(snapshot_of(hosts)) == ["192.0.2.9", "192.0.2.10", "2001:db8::1", "db1", "web09", "web9", "web10"]


def test_a_machine_of_both_sides_is_one() -> None:
    """A machine that is scanned and reports stands once; one that does only one of it stands, too."""
    of = snapshot_of(
        [scanned(target(name, expect=[22]), seen(is_open=[22])) for name in ("both", "scanned")],
        [audited("both"), audited("reports")],
    )
    assert order(of) == ["both", "reports", "scanned"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.STALE_DATABASE, Status.UNSUPPORTED])
def test_audit_that_tells_nothing_needs_attention(status: Status) -> None:
    """An audit that failed, or is of an old database, or of an unknown tool, is not in order."""
    assert needs(snapshot_of(audits=[audited("a", status=status, reason="why")])) == {"a": Need.AUDIT_FAILED}


def test_what_a_failed_audit_found_counts() -> None:
    """Vulnerabilities count whatever became of the rest of the audit."""
    of = snapshot_of(audits=[audited("a", vulnerability(), status=Status.FAILED, reason="cut off")])
    assert needs(of) == {"a": Need.VULNERABLE}


def test_accepted_vulnerabilities_need_no_attention() -> None:
    """A machine all of whose vulnerabilities are accepted is in order until the exception ends."""
    state = audited("a", vulnerability("CVE-2023-1"), exceptions=[accept("cve-2023-1", until=NOW + DAY)])
    assert needs(snapshot_of(audits=[state])) == {"a": Need.NONE}
    assert needs(snapshot_of(audits=[state.judged(NOW + DAY)])) == {"a": Need.VULNERABLE}


@pytest.mark.parametrize(
    ("age", "need"),
    [(26 * HOUR, Need.NONE), (26 * HOUR + 1, Need.AUDIT_LATE), (-600.0, Need.NONE), (9 * DAY, Need.AUDIT_LATE)],
)
def test_late_reports_need_attention(age: float, need: Need) -> None:
    """A report is late once it is older than allowed; one of a clock that is ahead is not."""
    assert needs(snapshot_of(audits=[audited("a", age=age)])) == {"a": need}
    assert summary(snapshot_of(audits=[audited("a", age=age)]))["late_reports"] == (need is Need.AUDIT_LATE)


def test_what_deviated_when_it_was_last_seen_counts() -> None:
    """A machine that cannot be seen now is ranked by what was seen last."""
    of = target("a")
    state = scanned(of, seen(is_open=[80])).after(result(of, seen(reason=Reason.NO_ROUTE), at=NOW))
    assert state.verdict is Verdict.UNKNOWN
    assert needs(snapshot_of([state])) == {"a": Need.UNEXPECTED}


def test_first_scan_and_first_report_are_waited_for_apart() -> None:
    """What was not scanned yet and what never reported are counted, and need attention."""
    found = summary(snapshot_of([HostState(target("a"))], [never("b")]))
    assert [found[name] for name in ("not_scanned_yet", "not_scanned", "unknown", "need_attention")] == [1, 1, 0, 2]
    assert found["audits"]["never"] == 1


@pytest.mark.parametrize(
    ("domain", "shown"),
    [
        (None, "web1.example.org"),
        (r"\.example\.org", "web1"),
        (r"\.example\.org$", "web1"),
        (r"(?i)\.EXAMPLE\.org", "web1"),
        (r"\.example|\.example\.org", "web1"),
        (r"\.example", "web1.example.org"),
        (r"example\.org", "web1."),
        (r"\.org|\.net", "web1.example"),
        (r"(\.[a-z]+)+", "web1"),
        (r"web1\.example\.org", "web1.example.org"),
        (r".*", "web1.example.org"),
        (r"", "web1.example.org"),
        (r"^\.example\.org", "web1.example.org"),
    ],
)
def test_domain_is_taken_off_the_end(domain: str | None, shown: str) -> None:
    """What the expression matches at the end of a name is not shown; where nothing would be left, the whole name is."""
    assert display_names(["web1.example.org"], domain) == {"web1.example.org": shown}


def test_names_stay_apart() -> None:
    """Names that would look the same without their domains are shown whole."""
    hosts = ["web1.example.org", "web1.example.net", "db1.example.org", "192.0.2.1"]
    assert list(display_names(hosts, r"\.example\.(org|net)").values()) == [*hosts[:2], "db1", "192.0.2.1"]


@MODEST
@given(st.lists(st.text(), unique=True))
def test_anchors_are_safe_and_apart(hosts: list[str]) -> None:
    """Whatever a host is called, its anchor has safe characters alone and is no other host's."""
    anchors = [anchor(host) for host in hosts]
    assert len(set(anchors)) == len(hosts)
    assert all(re.fullmatch(r"host-[A-Za-z0-9._-]*", each) for each in anchors)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("web1.example.org", "host-web1.example.org"),
        ("2001:db8::1", "host-2001_3adb8_3a_3a1"),
        ("a_b", "host-a_5fb"),
        ("é\udc80", "host-_c3_a9_ed_b2_80"),
    ],
)
def test_anchor_stays_the_same(host: str, expected: str) -> None:
    """An anchor can be kept as a bookmark: it depends on the host's name alone."""
    assert anchor(host) == expected
