"""What an audit shows to be fixed, through the documents that are stored of one audit after the other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit import document as encoding
from portspec.audit import fixes as module
from portspec.audit.document import Decoder
from portspec.audit.fixes import BUCKETS, FixCount, Histogram, counted, histograms
from portspec.audit.model import Audit, Scope, Severity, Status, Vulnerability
from portspec.audit.priority import DEFAULT_PRIORITIES
from portspec.audit.result import count_fixes, result_of
from portspec.audit.state import HostAudit
from portspec.priorities import Priority
from tests.unit.factories import MODEST

DAY: Final = 86_400.0
SYSTEM: Final = (Scope.SYSTEM,)


def of(name: str, *aliases: str, package: str = "curl", version: str = "1", **values: Any) -> Vulnerability:
    """Make a vulnerability."""
    return Vulnerability(package, version, name, aliases=aliases, **values)


def audited(
    at: float, *found: Vulnerability, status: Status | None = None, tool: str = "x", **values: Any
) -> HostAudit:
    """Make an audit, vulnerable or clean by what it found; `values` are those of Audit."""
    status = status or (Status.VULNERABLE if found else Status.CLEAN)
    return HostAudit(at, tool, None, Audit(status, found, **({"scopes": SYSTEM} | values)), ())


def fixed(*audits: HostAudit) -> list[list[tuple[str, float]]]:
    """Return what each audit shows to be fixed: ids and seconds."""
    document, found = "", []
    for host_audit in audits:
        result = result_of(host_audit, document, Decoder())
        found.append(sorted((fix.vulnerabilities[0].id, fix.seconds) for fix in result.fixes))
        if result.replaces(math.inf):
            document = result.document
    return found


A: Final = of("CVE-1")


def test_what_an_audit_no_longer_names_is_fixed_once() -> None:
    """The time is from the first audit that named it, and the next audits do not count it again."""
    assert fixed(audited(1, A), audited(3, A), audited(7.5), audited(9)) == [[], [], [("CVE-1", 6.5)], []]
    assert fixed(audited(1, A), audited(2), audited(3, A), audited(7))[-1] == [("CVE-1", 4)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (A, of("CVE-1", version="2")),
        (of("GHSA-1", "CVE-1"), of("CVE-1", "GHSA-1")),
        (of("DSA-1"), of("CVE-1", advisories=("DSA-1",))),
        (of("CVE-1", advisories=("DSA-1",)), of("DSA-1")),
        (of("a title", title="a title"), of("a title", title="a title", version="2")),
    ],
)
def test_other_version_or_id_is_no_fix(before: Vulnerability, after: Vulnerability) -> None:
    """It is the same vulnerability, which is fixed when the other one is gone, too."""
    assert fixed(audited(0, before), audited(1, after), audited(2)) == [[], [], [(after.id, 2)]]


def test_vulnerability_of_several_packages_is_fixed_with_the_last_of_them() -> None:
    """It counts once, since the first package had it, also when that one is gone long since."""
    wget = of("CVE-1", package="wget")
    assert fixed(audited(0, A), audited(5, A, wget), audited(10, wget), audited(15, wget), audited(20)) == [
        [], [], [], [], [("CVE-1", 20)]
    ]  # fmt: skip
    assert fixed(audited(0, A, wget), audited(10)) == [[], [("CVE-1", 10)]]


def test_package_with_another_name_is_no_fix() -> None:
    """The next version of a kernel is another package, with the same vulnerabilities, and maybe with other ids."""
    old, new = of("CVE-1", package="linux-6.1.0-18"), of("GHSA-1", "CVE-1", package="linux-6.1.0-20")
    assert fixed(audited(0, old), audited(5, new), audited(9, new), audited(10)) == [[], [], [], [("GHSA-1", 10)]]


def test_title_is_no_name_in_other_packages() -> None:
    """Two packages with vulnerabilities of the same title, and without ids, have two."""
    found = [of("overflow", title="overflow", package=package) for package in ("curl", "wget")]
    assert fixed(audited(0, *found), audited(1, found[1]), audited(2)) == [
        [],
        [("overflow", 1)],
        [("overflow", 2)],
    ]


def test_vulnerability_without_a_name_is_never_fixed() -> None:
    """Nothing tells whether the next audit has it still."""
    assert fixed(audited(0, of("")), audited(1, of("")), audited(2)) == [[], [], []]


@pytest.mark.parametrize(
    "after",
    [
        audited(2, tool="y"),
        audited(2, scopes=()),
        audited(2, scopes=(Scope.LANGUAGES,)),
        audited(2, of("CVE-2"), tool="y"),
    ],
)
def test_audit_that_looked_elsewhere_shows_nothing_to_be_fixed(after: HostAudit) -> None:
    """Another tool, or one that looked at less, may not know; and what is forgotten so is not counted later."""
    again = replace(after, at=3, tool="x", audit=replace(after.audit, scopes=(Scope.SYSTEM, Scope.LANGUAGES)))
    assert fixed(audited(0, A), after, again) == [[], [], []]


def test_audit_that_looked_at_more_shows_what_is_fixed() -> None:
    """As when a host begins to have its applications audited."""
    assert fixed(audited(0, A), audited(1, scopes=(Scope.SYSTEM, Scope.LANGUAGES)))[-1] == [("CVE-1", 1)]


@pytest.mark.parametrize(
    "between",
    [
        audited(2, status=Status.FAILED),
        audited(2, status=Status.FAILED, tool="", scopes=()),  # portspec could not read it
        audited(2, status=Status.STALE_DATABASE),
        audited(2, of("CVE-2"), without=Status.FAILED),  # a repository could not be reached
        audited(2, of("CVE-2"), without=Status.STALE_DATABASE),
        audited(2, of("CVE-2"), status=Status.FAILED, tool="y"),
    ],
)
def test_audit_that_proves_nothing_shows_nothing_to_be_fixed(between: HostAudit) -> None:
    """What it does not name is remembered, with the tool and the scopes that are to be compared, and counts once."""
    later = replace(between, at=3)
    assert fixed(audited(0, A), between, later, audited(4), audited(5))[1:] == [
        [],
        [],
        [("CVE-1", 4), *((item.id, 2) for item in between.audit.vulnerabilities if between.tool == "x")],
        [],
    ]
    assert fixed(audited(0, A), between, later, audited(4, A), audited(5))[-1] == [("CVE-1", 5)]
    assert fixed(audited(0, A), between, audited(4, tool="y"))[-1] == [
        (item.id, 2) for item in between.audit.vulnerabilities if between.tool == "y"
    ]


@pytest.mark.parametrize("at", [-1.0, 0.0])
def test_audit_that_is_not_newer_shows_nothing_to_be_fixed(at: float) -> None:
    """An audit that was long on its way, or is read once more, is not what came after."""
    assert fixed(audited(0, A), audited(at)) == [[], []]


def test_audit_of_an_earlier_day_does_not_open_again_what_is_fixed() -> None:
    """It does not take the place of the later one, unless that came while the clock was ahead."""
    assert fixed(audited(0, A), audited(2), audited(1, A), audited(3)) == [[], [("CVE-1", 2)], [], []]
    result = result_of(audited(1, A), result_of(audited(9), "", Decoder()).document, Decoder())
    assert (result.replaces(9), result.replaces(8)) == (False, True)


def test_document_of_another_version_shows_nothing_to_be_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be decoded; an audit of an earlier day does not take its place, though."""
    document = result_of(audited(5, A), "", Decoder()).document
    monkeypatch.setattr(encoding, "VERSION", encoding.VERSION + 1)
    result = result_of(audited(6), document, Decoder())
    assert (result.before, result.before_at, result.fixes, result.replaces(9)) == (None, 5, [], True)
    assert not result_of(audited(4), document, Decoder()).replaces(9)
    assert result_of(audited(4), "garbled", Decoder()).replaces(9)


def test_number_of_remembered_vulnerabilities_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose audits fail and name others each time does not make its document grow."""
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    failed = [audited(at, of(f"CVE-{at}"), status=Status.FAILED) for at in range(5)]
    assert fixed(*failed, audited(5))[-1] == [("CVE-2", 3), ("CVE-3", 2), ("CVE-4", 1)]


ITEMS = st.sets(st.tuples(st.sampled_from(["curl", "wget"]), st.sampled_from(["CVE-1", "CVE-2", "CVE-3"])))
STATUSES = st.sampled_from([Status.CLEAN, Status.VULNERABLE, Status.FAILED, Status.STALE_DATABASE])


@MODEST
@given(st.lists(st.tuples(STATUSES, ITEMS), max_size=8))
def test_each_closing_is_counted_once(audits: list[tuple[Status, set[tuple[str, str]]]]) -> None:
    """Over any audits of the same tool, what is closed and what is open are all that was ever opened."""
    found = fixed(
        *(
            audited(at, *(of(name, package=package) for package, name in sorted(items)), status=status)
            for at, (status, items) in enumerate(audits)
        )
    )
    is_open: dict[str, int] = {}
    opened = 0
    for at, (status, items) in enumerate(audits):
        names = {name for _, name in items}
        closed = is_open.keys() - names if status in (Status.CLEAN, Status.VULNERABLE) else set()
        assert found[at] == sorted((name, at - is_open[name]) for name in closed)
        opened += len(names - is_open.keys())
        is_open = {name: since for name, since in is_open.items() if name not in closed}
        is_open = dict.fromkeys(names, at) | is_open
    assert sum(map(len, found)) + len(is_open) == opened


def classes(*audits: HostAudit) -> list[FixCount]:
    """Return how the fixes of the last audit are counted, without anything that is known from outside."""
    document = ""
    for host_audit in audits:
        result = result_of(host_audit, document, Decoder())
        document = result.document
    return count_fixes(result, DEFAULT_PRIORITIES, ())


def test_class_is_that_of_the_audit_before() -> None:
    """Of several packages the most urgent one; what an audit that failed did not name has its class, too."""
    low = of("CVE-1", package="wget", severity=Severity.LOW)
    high = of("CVE-1", severity=Severity.HIGH)
    assert classes(audited(0, low), audited(9)) == [FixCount("rest", DAY, 1, 9)]
    assert classes(audited(0, low, high), audited(9)) == [FixCount("plan", DAY, 1, 9)]
    failed = audited(1, status=Status.FAILED)
    assert classes(audited(0, low, of("CVE-2", severity=Severity.LOW)), failed, audited(3)) == [
        FixCount("rest", DAY, 2, 6)
    ]
    assert classes(audited(0, low)) == classes(audited(0, low), audited(1, low)) == []


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0, DAY), (DAY, DAY), (DAY + 1, 2 * DAY), (365 * DAY, 365 * DAY), (365 * DAY + 1, math.inf)],
)
def test_time_is_in_the_bucket_whose_bound_it_does_not_exceed(seconds: float, bucket: float) -> None:
    """Bounds are inclusive, as those of Prometheus; what took longer than a year is in the last bucket."""
    (count,) = counted([(Priority.PLAN, seconds)])
    assert count == FixCount("plan", bucket, 1, seconds)
    assert histograms([count])[Priority.PLAN].counts[BUCKETS.index(bucket)] == 1


def test_histograms_are_of_all_classes_and_lose_nothing() -> None:
    """A bound of another version counts for the next one; a class that nobody knows is left out."""
    rows = [FixCount("rest", 5.5 * DAY, 2, 10.0), FixCount("rest", 7 * DAY, 1, 3.0), FixCount("whenever", DAY, 1, 1.0)]
    found = histograms(rows)
    assert list(found) == list(Priority)
    assert found[Priority.REST] == Histogram((0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0), 13.0)
    assert {found[priority] for priority in Priority if priority is not Priority.REST} == {Histogram()}
