"""What to fix first: the class of each vulnerability, and why."""

from __future__ import annotations

from datetime import date
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit.model import Severity, Vulnerability
from portspec.audit.priority import Priorities
from portspec.audit.reach import NOTHING_KNOWN, Exposures, Reach, exposures
from portspec.feeds import Feeds, Kev, KevEntry
from portspec.feeds.epss import read_epss
from portspec.priorities import Priority, PriorityRule
from tests.unit.audit.test_reach import NGINX, OPEN

CVE = "CVE-2026-0001"
KEV = Kev(0.0, MappingProxyType({CVE: KevEntry(date(2026, 1, 2), is_ransomware=False)}))
EPSS = read_epss(
    b"#model_version:v1,score_date:2026-11-28T12:00:00Z\ncve,epss,percentile\nCVE-2026-0002,0.25,0.9\n"
    b"CVE-2026-0003,0.09,0.5\n"
)
PRIORITIES = Priorities(feeds=Feeds(KEV, EPSS))
SEEN = exposures((NGINX,), OPEN)


def judged(
    package: str, name: str, severity: Severity = Severity.LOW, *aliases: str, exposed: Exposures = SEEN
) -> tuple[str, str]:
    """Return the class of a vulnerability, and why it is in it."""
    (found,) = PRIORITIES.findings([Vulnerability(package, "1", name, severity, aliases)], exposed)
    return found.priority.value, found.why


STEPS = "/usr/sbin/nginx, nginx, port 443, open at 192.0.2.1"


@pytest.mark.parametrize(
    ("package", "name", "severity", "expected"),
    [
        ("nginx", CVE, Severity.LOW, ("fix_now", f"exploited (in KEV since 2026-01-02); reachable: {STEPS}")),
        (
            "vim", CVE, Severity.LOW,
            ("fix_soon", "exploited (in KEV since 2026-01-02); installed: it owns nothing of what listens"),
        ),
        ("nginx", "CVE-2026-0002", Severity.LOW, ("fix_soon", f"EPSS 0.25; reachable: {STEPS}")),
        ("nginx", "CVE-2026-0003", Severity.CRITICAL, ("fix_soon", f"critical severity; reachable: {STEPS}")),
        ("nginx", "CVE-2026-0003", Severity.LOW, ("plan", f"reachable: {STEPS}")),
        ("vim", "CVE-2026-0002", Severity.HIGH, ("plan", "high severity; installed: it owns nothing of what listens")),
        ("vim", "x", Severity.UNKNOWN, ("plan", "unknown severity; installed: it owns nothing of what listens")),
        (
            "vim", "CVE-2026-0002", Severity.MEDIUM,
            ("rest", "not known to be exploited; installed: it owns nothing of what listens"),
        ),
    ],
)  # fmt: skip
def test_first_rule_that_holds_decides(package: str, name: str, severity: Severity, expected: tuple[str, str]) -> None:
    """By the rules of portspec; the reason is one sentence with each step of the proof."""
    assert judged(package, name, severity) == expected


def test_vulnerability_is_exploited_by_any_of_its_names() -> None:
    """The tool may call it by the id of an advisory."""
    assert judged("nginx", "GHSA-aaaa-bbbb-cccc", Severity.LOW, CVE)[0] == "fix_now"
    assert judged("nginx", "GHSA-aaaa-bbbb-cccc", Severity.LOW, "CVE-2026-0002")[0] == "fix_soon"


def test_what_is_not_known_to_be_reachable_is_not_called_so() -> None:
    """Nor called unreachable: the reason says that it is not known, and why."""
    assert judged("nginx", CVE, exposed=NOTHING_KNOWN) == (
        "fix_soon",
        "exploited (in KEV since 2026-01-02); whether it is reachable is unknown: the host has sent no audit",
    )


def test_tool_may_tell_itself() -> None:
    """As grype does; without any list."""
    item = Vulnerability("nginx", "1", "CVE-2026-0009", Severity.LOW, epss=0.5, is_exploited=True)
    (found,) = Priorities().findings([item], SEEN)
    assert (found.priority, found.why) == (Priority.FIX_NOW, f"exploited, by the audit tool; reachable: {STEPS}")


def test_rules_of_conf_yml_replace_those_of_portspec() -> None:
    """In their order; what no rule names is of the last class."""
    rules = (
        PriorityRule(Priority.REST, reach=frozenset({"installed"})),
        PriorityRule(Priority.FIX_NOW, reach=frozenset({"reachable", "unknown"}), exploited=False),
    )
    priorities = Priorities(rules, Feeds(KEV))
    (unlisted,) = Priorities(rules).findings([Vulnerability("nginx", "1", "x")], SEEN)
    assert unlisted.priority == "rest"  # without a catalogue it is not known to be not exploited
    for package, name, expected in (("vim", CVE, "rest"), ("nginx", "x", "fix_now"), ("nginx", CVE, "rest")):
        (found,) = priorities.findings([Vulnerability(package, "1", name)], SEEN)
        assert found.priority == expected


NAMES = st.sampled_from([CVE, "CVE-2026-0002", "CVE-2026-0003", "GHSA-x"])
FOUND = st.builds(
    Vulnerability,
    st.sampled_from(["nginx", "vim", "openssl"]),
    st.just("1"),
    NAMES,
    st.sampled_from(Severity),
    st.lists(NAMES, max_size=2).map(tuple),
)


@given(st.lists(FOUND, max_size=8))
def test_findings_are_those_that_were_found_the_most_urgent_first(found: list[Vulnerability]) -> None:
    """None is lost, and the numbers are those of the findings, each vulnerability once in its most urgent class."""
    findings = PRIORITIES.findings(found, SEEN)
    assert sorted(item.vulnerability for item in findings) == sorted(found)
    ranks = [list(Priority).index(item.priority) for item in findings]
    assert ranks == sorted(ranks)
    assert all(item.why for item in findings)
    assert all((item.priority is Priority.FIX_NOW) <= (item.exposure.reach is Reach.REACHABLE) for item in findings)
    counts = PRIORITIES.count(found, SEEN)
    assert sum(counts.values()) == len({item.key for item in found})
    assert (counts[Priority.FIX_NOW] > 0) == any(item.priority is Priority.FIX_NOW for item in findings)


RULES = st.lists(
    st.builds(
        PriorityRule,
        st.sampled_from(Priority),
        st.none() | st.booleans(),
        st.none() | st.sampled_from([frozenset({"reachable"}), frozenset({"installed", "unknown"})]),
        st.none() | st.sampled_from([0.1, 0.2, 0.3]),
    ),
    max_size=3,
).map(tuple)


@given(found=st.lists(FOUND, max_size=4), rules=RULES, others=RULES, is_judged=st.booleans())
def test_what_is_not_called_changed_has_the_same_class(
    found: list[Vulnerability], rules: tuple[PriorityRule, ...], others: tuple[PriorityRule, ...], *, is_judged: bool
) -> None:
    """By whatever rules, and whether the earlier ones were ever asked."""
    before, after = Priorities(rules, Feeds(KEV, EPSS)), Priorities(others, Feeds(KEV, EPSS))
    if is_judged:
        before.count(found, SEEN)
    changed = set(map(id, after.changed_from(before, found)))
    same = [item for item in found if id(item) not in changed]
    for exposed in (SEEN, NOTHING_KNOWN, exposures((), ())):
        assert before.ranks(same, exposed) == after.ranks(same, exposed)
    assert before.changed_from(before, found) == []
    if is_judged and rules == others:
        assert not changed
