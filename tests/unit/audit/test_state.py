from __future__ import annotations

import math
from dataclasses import replace

import pytest

from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.state import AuditState, HostAudit
from portspec.config import VulnerabilityException
from tests.unit.factories import NOW

CURL = Vulnerability("curl", "7.50.1", "CVE-2016-7167", Severity.HIGH, aliases=("GHSA-aaaa-bbbb-cccc", "DSA-3705-1"))
CURL_TOO = Vulnerability("curl", "7.50.1", "CVE-2016-8625", Severity.LOW)
OTHER_CURL = Vulnerability("curl", "8.0", "CVE-2016-8625", Severity.LOW)
UNNAMED = Vulnerability("gitlab-ce", "16.7.0", "Gitlab -- no CVE", title="Gitlab -- no CVE")
NAMELESS = Vulnerability("mailman", "2.1.34", "")


def state(
    *found: Vulnerability,
    status: Status = Status.VULNERABLE,
    reason: str = "",
    without: Status = Status.CLEAN,
    exceptions: tuple[VulnerabilityException, ...] = (),
) -> AuditState:
    """Make a host whose last audit found this."""
    audit = Audit(status, found, reason, without=without)
    return AuditState("web1", exceptions, HostAudit(NOW - 60, "pkg-audit", "1.20.9", audit, None), NOW)


def accepted(*ids: str, until: float = NOW + 60) -> VulnerabilityException:
    """Make an exception for these ids, which conf.yml gives in lower case."""
    return VulnerabilityException(("*",), ids, until)


def test_host_that_never_reported_is_never() -> None:
    """Without an audit nothing is known: there is no number, and no reason."""
    host = AuditState("web1", judged_at=NOW)
    assert (host.status, host.reason, host.is_counted) == (Status.NEVER, "", False)
    assert (host.vulnerabilities, host.excepted, host.vulnerable_packages) == ((), (), 0)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.NEVER])
def test_status_is_that_of_the_audit(status: Status) -> None:
    """Without exceptions a host is what its last audit came to, with its reason."""
    host = state(*([CURL] if status is Status.VULNERABLE else []), status=status, reason="why")
    assert (host.status, host.reason) == (status, "why")


@pytest.mark.parametrize("name", ["cve-2016-7167", "ghsa-aaaa-bbbb-cccc", "dsa-3705-1"])
def test_vulnerability_is_excepted_by_any_of_its_ids(name: str) -> None:
    """An id or an alias, in whatever case the tool has it, accepts the vulnerability, and no other one."""
    host = state(CURL, CURL_TOO, exceptions=(accepted(name),))
    assert (host.vulnerabilities, host.excepted) == ((CURL_TOO,), (CURL,))
    assert host.status is Status.VULNERABLE


def test_exception_for_one_cve_of_an_advisory_accepts_that_one() -> None:
    """The others are other flaws; the advisory by its own id is all of them."""
    one, two = (replace(CURL, id=name, aliases=(), advisories=("VID-1",)) for name in ("CVE-2021-1", "CVE-2021-2"))
    host = state(one, two, exceptions=(accepted("cve-2021-2"),))
    assert (host.vulnerabilities, host.excepted) == ((one,), (two,))
    assert state(one, two, exceptions=(accepted("vid-1"),)).excepted == (one, two)


def test_vulnerability_without_an_id_is_excepted_by_its_title() -> None:
    """Where a tool gives no id, the title is the id, also in an exception."""
    host = state(UNNAMED, exceptions=(accepted("gitlab -- no cve"),))
    assert (host.vulnerabilities, host.excepted) == ((), (UNNAMED,))


def test_part_of_an_id_is_no_id() -> None:
    """CVE-2016-716 is another vulnerability than CVE-2016-7167; what has no id at all cannot be accepted."""
    host = state(CURL, NAMELESS, exceptions=(accepted("cve-2016-716", "cve-2016-71670", "cve", "mailman"),))
    assert host.vulnerabilities == (CURL, NAMELESS)


def test_host_whose_vulnerabilities_are_all_excepted_is_clean() -> None:
    """What is accepted does not count, and shows as excepted."""
    host = state(CURL, CURL_TOO, exceptions=(accepted("cve-2016-7167"), accepted("cve-2016-8625")))
    assert (host.status, host.is_counted, host.vulnerable_packages) == (Status.CLEAN, True, 0)
    assert host.excepted == (CURL, CURL_TOO)


@pytest.mark.parametrize("without", [Status.STALE_DATABASE, Status.FAILED])
def test_doubtful_output_is_no_clean_one_when_all_is_excepted(without: Status) -> None:
    """Nothing but what is accepted, in a database that is too old, say, is as little as nothing found in it."""
    host = state(CURL, reason="why", without=without, exceptions=(accepted("cve-2016-7167"),))
    assert (host.status, host.reason) == (without, "why")
    assert host.is_counted == (without is Status.STALE_DATABASE)


@pytest.mark.parametrize("status", [Status.FAILED, Status.UNSUPPORTED])
def test_failed_audit_stays_failed_when_all_is_excepted(status: Status) -> None:
    """An exception does not make an output readable; there is nothing left whose number means anything."""
    host = state(CURL, status=status, reason="why", exceptions=(accepted("cve-2016-7167"),))
    assert (host.status, host.reason, host.is_counted) == (status, "why", False)


@pytest.mark.parametrize(
    ("found", "status", "is_counted"),
    [
        ((), Status.CLEAN, True),
        ((), Status.STALE_DATABASE, True),
        ((CURL,), Status.VULNERABLE, True),
        ((), Status.FAILED, False),
        ((CURL,), Status.FAILED, True),
        ((), Status.UNSUPPORTED, False),
    ],
)
def test_numbers_of_a_failed_audit_do_not_count(
    found: tuple[Vulnerability, ...],
    status: Status,
    is_counted: bool,  # noqa: FBT001 - a value of the test
) -> None:
    """None found by a run that failed is not none; some found are at least some."""
    assert state(*found, status=status).is_counted is is_counted


def test_packages_are_counted_once_in_each_version() -> None:
    """Two vulnerabilities of a package are one package, in two versions two; what is excepted is none."""
    host = state(CURL, CURL_TOO, OTHER_CURL)
    assert host.vulnerable_packages == 2
    assert state(CURL, CURL_TOO, UNNAMED, exceptions=(accepted("gitlab -- no cve"),)).vulnerable_packages == 1


def test_every_severity_has_a_number() -> None:
    """The number of each severity is there, the worst first, zeros included.

    What is excepted does not count, and what two packages have counts once.
    """
    host = state(CURL, CURL_TOO, OTHER_CURL, UNNAMED, exceptions=(accepted("cve-2016-7167"),))
    assert list(host.by_severity.items()) == [
        (Severity.CRITICAL, 0),
        (Severity.HIGH, 0),
        (Severity.MEDIUM, 0),
        (Severity.LOW, 1),
        (Severity.NEGLIGIBLE, 0),
        (Severity.UNKNOWN, 1),
    ]


def test_exception_is_in_force_before_its_end() -> None:
    """At the moment at which an exception ends its vulnerability counts."""
    host = state(CURL, exceptions=(accepted("cve-2016-7167", until=NOW + 60),))
    assert host.judged(NOW + 59.9).status is Status.CLEAN
    assert host.judged(NOW + 60).status is Status.VULNERABLE
    assert host.judged(NOW + 60).vulnerabilities == (CURL,)


def test_of_two_exceptions_the_longer_holds() -> None:
    """A vulnerability is accepted as long as any exception for it is in force."""
    host = state(CURL, exceptions=(accepted("cve-2016-7167", until=NOW + 60), accepted("dsa-3705-1", until=NOW + 90)))
    assert host.judged(NOW + 60).status is Status.CLEAN
    assert host.judged(NOW + 90).status is Status.VULNERABLE


def test_clock_that_is_set_back_puts_an_exception_in_force_again() -> None:
    """The wall clock counts, in whatever direction it goes."""
    late = state(CURL, exceptions=(accepted("cve-2016-7167"),)).judged(NOW + 3600)
    assert late.status is Status.VULNERABLE
    assert late.judged(NOW).status is Status.CLEAN


def test_state_is_the_same_object_while_nothing_ends() -> None:
    """Judging anew at a time at which the same exceptions are in force makes nothing new to show."""
    exceptions = (accepted("cve-2016-7167", until=NOW + 60), accepted("cve-2016-8625", until=NOW - 60))
    host = state(CURL, exceptions=exceptions)
    assert host.judged(NOW + 59) is host
    assert host.judged(NOW + 60) is not host
    assert host.judged(NOW + 60).judged_at == NOW + 60
    assert state(CURL).judged(math.inf) == state(CURL)


def test_no_exception_is_in_force_before_it_is_judged() -> None:
    """A state without a time accepts nothing."""
    host_audit = state(CURL).host_audit
    assert AuditState("web1", (accepted("cve-2016-7167"),), host_audit).vulnerabilities == (CURL,)
