"""Vulnerabilities past their deadline: `portspec_audit_vulnerabilities_overdue`."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest

from portspec.audit.model import Audit, Severity, Status, Vulnerability
from portspec.audit.priority import Priorities
from portspec.audit.state import AuditState, HostAudit
from portspec.config import VulnerabilityException
from portspec.deadlines import Deadlines
from portspec.feeds import Feeds, Kev, KevEntry
from portspec.inventory import AuditedHost
from portspec.priorities import Priority, PriorityRule
from tests.unit.app.exporter import until
from tests.unit.factories import NOW
from tests.unit.reporting import HERE, Clock, Scene, running
from tests.unit.signed import AUDIT, DAY, VULNERABLE, WEB, packed
from tests.unit.signed import CURL as SOCKS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

BASH = Vulnerability("bash", "5", "CVE-2026-0001", Severity.CRITICAL)
CURL = Vulnerability("curl", "8", "CVE-2026-0002", Severity.LOW)
LIMITS = Deadlines({"plan": 3 * DAY, "fix_soon": DAY}, {"low": 10 * DAY})


def found(*items: Vulnerability, since: tuple[float, ...], limits: Deadlines = LIMITS, **more: Any) -> AuditState:
    """Make the state of a host, judged at NOW, whose vulnerabilities are known since some times."""
    host_audit = HostAudit(NOW, "x", None, Audit(Status.VULNERABLE, items), None, since=tuple(int(at) for at in since))
    return AuditState(WEB, host_audit=host_audit, judged_at=NOW, deadlines=limits, **more).with_due_times()


def overdue(state: AuditState) -> dict[str, int] | None:
    """Return how many of each class are past their deadline, without those of which there are none."""
    by_class = state.overdue_by_class
    return None if by_class is None else {of.value: number for of, number in by_class.items() if number}


def test_vulnerability_is_overdue_by_its_class_or_its_severity() -> None:
    """From the moment of its deadline on, and not before."""
    state = found(BASH, CURL, since=(NOW - 3 * DAY + 1, NOW - 11 * DAY))
    assert overdue(state) == {"rest": 1}
    assert overdue(state.judged(NOW + 1)) == {"rest": 1, "plan": 1}
    assert overdue(state.judged(NOW - 2 * DAY)) == {}
    assert [item.due for item in state.findings] == [NOW + 1, NOW - DAY]
    assert state.judged(NOW + 0.5) is state


def test_vulnerability_of_several_packages_counts_once() -> None:
    """In its most urgent class, from its earliest deadline on."""
    other = Vulnerability("libbash", "5", "CVE-2026-0001", Severity.LOW)
    state = found(BASH, other, since=(NOW, NOW - 10 * DAY))
    assert overdue(state) == {"plan": 1}


def test_class_by_exploitation_has_time_from_when_that_is_known() -> None:
    """Nobody could have met a deadline that began before."""
    added = datetime.fromtimestamp(NOW - DAY / 2, UTC).date()
    begins = datetime(added.year, added.month, added.day, tzinfo=UTC).timestamp()
    entry = KevEntry(added, is_ransomware=False)
    priorities = Priorities(feeds=Feeds(kev=Kev(NOW, {BASH.id: entry})))
    state = found(BASH, since=(NOW - 100 * DAY,), priorities=priorities)
    assert [item.priority for item in state.findings] == [Priority.FIX_SOON]
    assert [item.due for item in state.findings] == [begins + DAY]
    early = Priorities(feeds=Feeds(kev=Kev(NOW, {BASH.id: KevEntry(date(2020, 1, 1), is_ransomware=False)})))
    assert overdue(found(BASH, since=(NOW - 2 * DAY,), priorities=early)) == {"fix_soon": 1}
    other_reason = Priorities((PriorityRule(Priority.FIX_SOON, severity=frozenset({"critical"})),), priorities.feeds)
    assert overdue(found(BASH, since=(NOW - 100 * DAY,), priorities=other_reason)) == {"fix_soon": 1}


def test_accepted_vulnerability_is_not_overdue() -> None:
    """Until its exception ends."""
    accepted = VulnerabilityException(("*",), (CURL.id.lower(),), NOW + DAY)
    state = found(CURL, since=(NOW - 20 * DAY,), exceptions=(accepted,))
    assert overdue(state) == {}
    assert overdue(state.judged(NOW + DAY).with_due_times()) == {"rest": 1}


@pytest.mark.parametrize(
    "state",
    [
        AuditState(WEB, deadlines=LIMITS, judged_at=NOW),
        found(CURL, since=()),
        found(CURL, since=(NOW,), limits=Deadlines(kinds={"missing": DAY})),
        AuditState(WEB, (), HostAudit(NOW, "x", None, Audit(Status.FAILED), None), NOW, deadlines=LIMITS),
    ],
    ids=["no audit", "since when is not known", "no deadline of vulnerabilities", "failed"],
)
def test_number_is_not_told_where_it_is_not_known(state: AuditState) -> None:
    """No number is not zero."""
    assert overdue(state.with_due_times()) is None


def test_number_is_not_told_before_it_was_worked_out() -> None:
    """A host with other deadlines, or another audit, has not those of before."""
    state = found(CURL, since=(NOW - 20 * DAY,))
    entry = AuditedHost(WEB, deadlines=Deadlines({"rest": DAY}))
    assert overdue(state.under(entry, NOW)) is None
    assert overdue(state.under(entry, NOW).with_due_times()) == {"rest": 1}
    assert overdue(AuditState.of(entry, state.host_audit, NOW)) is None


def test_clean_host_has_nothing_overdue() -> None:
    """Which is known."""
    state = AuditState(WEB, (), HostAudit(NOW, "x", None, Audit(Status.CLEAN), None), NOW, deadlines=LIMITS)
    assert overdue(state.with_due_times()) == {}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on an event loop of its own."""
    asyncio.run(asyncio.wait_for(scenario(), 60.0))


def test_deadline_passes_without_another_audit(tmp_path: Path) -> None:
    """While the exporter runs, and while it does not; another configuration counts at once."""
    path, clock = tmp_path / "portspec.db", Clock()
    limits = Deadlines(dict.fromkeys(map(str, Priority), 2 * DAY))
    roster = {WEB: AuditedHost(WEB, owner="web", deadlines=limits)}

    async def scenario() -> None:
        async with running(path, clock, roster=roster) as scene:

            async def become(number: int) -> None:
                await until(lambda: sum((overdue(scene.audits.states[WEB]) or {"": -1}).values()) == number)

            await scene.audits.take(packed(at=clock.now, output=VULNERABLE), HERE)
            await scene.become(web1=Status.VULNERABLE)
            number = len(scene.audits.states[WEB].vulnerabilities)
            assert overdue(scene.audits.states[WEB]) == {}
            clock.now += 2 * DAY
            await become(number)
            clock.now -= DAY
            await until(lambda: overdue(scene.audits.states[WEB]) == {})
            longer = Deadlines(dict.fromkeys(map(str, Priority), DAY))
            scene.audits.apply(AUDIT, {WEB: AuditedHost(WEB, deadlines=longer)})
            await become(number)
            await scene.read()
        clock.now = NOW + 5 * DAY
        async with running(path, clock, roster=roster) as scene:
            await until(lambda: bool(overdue(scene.audits.states[WEB])))
            assert scene.audits.states[WEB].owner == "web"

    run(scenario)


def test_list_of_exploited_vulnerabilities_changes_deadlines_at_once(tmp_path: Path) -> None:
    """Of a host whose audit and scan are as before."""
    clock = Clock()
    roster = {WEB: AuditedHost(WEB, deadlines=Deadlines({"fix_soon": DAY}))}

    async def become(scene: Scene, late: dict[str, int]) -> None:
        await until(lambda: overdue(scene.audits.states[WEB]) == late)

    async def scenario() -> None:
        async with running(tmp_path / "portspec.db", clock, roster=roster) as scene:
            await scene.audits.take(packed(at=clock.now, output=VULNERABLE), HERE)
            await scene.become(web1=Status.VULNERABLE)
            clock.now += 9 * DAY
            await until(lambda: overdue(scene.audits.states[WEB]) == {})
            for added, late in ((date(2020, 1, 1), {"fix_soon": 1}), (date(2033, 1, 1), {})) * 2:
                entries = {SOCKS: KevEntry(added, is_ransomware=False)}
                scene.audits.prioritize(Priorities(feeds=Feeds(kev=Kev(NOW, entries))))
                await become(scene, late)

    run(scenario)
