"""What scans, lists and rules add to the audits of hosts in the running exporter."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import date
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from portspec.audit.priority import Priorities
from portspec.audit.reach import Reach
from portspec.config import VulnerabilityException
from portspec.feeds import Feeds, Kev, KevEntry
from portspec.priorities import Priority, PriorityRule
from portspec.state.outside import outside_view
from portspec.state.snapshot import HostState
from portspec.state.table import HostTable
from tests.unit.app.exporter import until
from tests.unit.factories import NOW, result, seen, target
from tests.unit.reporting import HERE, Clock, Scene, prepared, running
from tests.unit.signed import AUDIT, CURL, DB, VULNERABLE, WEB, accept, payload, rostered, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from portspec.audit.state import AuditState

CURLD = {
    "protocol": "tcp", "address": "::", "port": 443, "process": "curld", "user": "www",
    "executable": "/usr/sbin/curld", "package": "curl", "version": "8.1", "libraries": [],
}  # fmt: skip
SSHD = CURLD | {"port": 22, "process": "sshd", "executable": "/usr/sbin/sshd", "package": "openssh-server"}
PAYLOAD = signed(payload(output=VULNERABLE, listeners=[CURLD, SSHD]))
LISTED = Priorities(feeds=Feeds(Kev(NOW, MappingProxyType({CURL: KevEntry(date(2026, 1, 2), is_ransomware=False)}))))


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on an event loop of its own."""
    asyncio.run(asyncio.wait_for(scenario(), 60.0))


def scanned(*is_open: int, host: str = WEB, state: HostState | None = None) -> HostState:
    """Return a host after a scan that found these ports open."""
    of = state.target if state else target(host)
    return (state or HostState(of)).after(result(of, seen(is_open=is_open)))


def found(scene: Scene, host: str = WEB) -> AuditState:
    """Return what is known of a host."""
    return scene.audits.states[host]


def classes(scene: Scene) -> list[Priority]:
    """Return the classes of what a host has."""
    return [item.priority for item in found(scene).findings] if WEB in scene.audits.states else []


def reaches(scene: Scene) -> set[Reach]:
    """Return how far from the network that is."""
    return {item.exposure.reach for item in found(scene).findings} if WEB in scene.audits.states else set()


def test_each_scan_and_each_list_counts_soon(path: Path) -> None:
    """Not scanned, open, closed, exploited, exploited and open: the class follows, without another audit."""

    async def scenario() -> None:
        async with running(path, Clock()) as scene:
            await scene.audits.take(PAYLOAD, HERE)
            await until(lambda: reaches(scene) == {Reach.UNKNOWN})
            scene.hosts = HostTable([scanned(443)])
            await until(lambda: reaches(scene) == {Reach.REACHABLE})
            assert classes(scene) == [Priority.PLAN]
            scene.hosts = HostTable([scanned(22, state=scene.hosts[WEB])])
            await until(lambda: reaches(scene) == {Reach.LISTENING})
            scene.audits.prioritize(LISTED)
            await until(lambda: classes(scene) == [Priority.FIX_SOON])
            scene.hosts = HostTable([scanned(22, 443, state=scene.hosts[WEB])])
            await until(lambda: classes(scene) == [Priority.FIX_NOW])
            scene.audits.prioritize(Priorities((PriorityRule(Priority.REST),)))
            await until(lambda: classes(scene) == [Priority.REST])

    run(scenario)


def test_scan_that_sees_the_same_changes_nothing(path: Path) -> None:
    """The state is the same object, so that nothing is rendered again."""

    async def scenario() -> None:
        async with running(path, Clock(), WEB, DB) as scene:
            await scene.audits.take(PAYLOAD, HERE)
            scene.hosts = HostTable([scanned(443), scanned(host=DB)])
            await until(lambda: reaches(scene) == {Reach.REACHABLE})
            before, table = found(scene), scene.audits.states
            scene.hosts = HostTable([scanned(443, state=scene.hosts[WEB]), scanned(22, host=DB)])
            await until(lambda: scene.audits.states is not table)
            assert found(scene) is before

    run(scenario)


def test_what_is_known_from_outside_is_there_with_the_first_state(path: Path) -> None:
    """A restart shows no class that is too low for a moment."""

    async def scenario() -> None:
        async with running(path, Clock()) as scene:
            await scene.audits.take(PAYLOAD, HERE)
            await until(lambda: reaches(scene) == {Reach.UNKNOWN})
            await scene.read()
        async with prepared(path, Clock(), {}) as again:
            again.hosts = HostTable([scanned(443)])
            again.audits.prioritize(LISTED)
            again.audits.apply(AUDIT, rostered(WEB))
            await again.audits.restore()
            assert classes(again) == [Priority.FIX_NOW]

    run(scenario)


def test_reload_keeps_what_is_known_from_outside(path: Path) -> None:
    """Other exceptions, and a host that leaves the roster and is back."""

    async def scenario() -> None:
        async with running(path, Clock()) as scene:
            await scene.audits.take(PAYLOAD, HERE)
            scene.hosts = HostTable([scanned(443)])
            await until(lambda: reaches(scene) == {Reach.REACHABLE})
            exception = VulnerabilityException(("*",), ("cve-2026-9999",), NOW + 60)
            roster = rostered(WEB)
            scene.audits.apply(AUDIT, {name: replace(entry, exceptions=(exception,)) for name, entry in roster.items()})
            assert (found(scene).exceptions, reaches(scene)) == ((exception,), {Reach.REACHABLE})
            scene.audits.apply(AUDIT, {})
            assert not scene.audits.states
            scene.audits.apply(AUDIT, roster)
            await until(lambda: reaches(scene) == {Reach.REACHABLE})

    run(scenario)


def test_excepted_vulnerability_has_no_class(path: Path) -> None:
    """It does not count."""

    async def scenario() -> None:
        roster = {WEB: replace(rostered(WEB)[WEB], exceptions=(accept(CURL, until=NOW + 60),))}
        async with running(path, Clock(), roster=roster) as scene:
            await scene.audits.take(PAYLOAD, HERE)
            await until(lambda: bool(scene.audits.states) and bool(found(scene).excepted))
            assert (found(scene).findings, sum(found(scene).by_class.values())) == ([], 0)

    run(scenario)


def test_view_is_of_the_addresses_that_could_be_scanned() -> None:
    """Of the last conclusive scan; of a host without one there is none."""
    of = target(WEB)
    assert outside_view(None) == outside_view(HostState(of)) == ()
    (view,) = outside_view(scanned(22, 443))
    assert (list(view.open), list(view.settled)) == ([22, 443], [22, 80, 443])
