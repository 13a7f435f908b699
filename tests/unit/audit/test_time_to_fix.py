"""How long vulnerabilities took to be fixed in the running exporter: each is counted once, whatever comes between."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any, Final

import pytest

import portspec.audit.service as module
from portspec.audit import document as encoding
from portspec.audit.model import Audit, Scope, Status, Vulnerability
from portspec.priorities import Priority
from portspec.state.table import HostTable
from portspec.store import Archive, IncomingAudit, StoreError
from tests.unit.app.exporter import until
from tests.unit.audit.test_outside import CURLD, LISTED, scanned
from tests.unit.factories import NOW
from tests.unit.reporting import HERE, Clock, Scene, in_file, prepared, running
from tests.unit.signed import CLEAN, CURL, DAY, DB, VULNERABLE, WEB, accept, packed, payload, rostered, signed
from tests.unit.store.scenes import opened
from tests.unit.store.test_faults import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from portspec.audit.model import ToolRun

A: Final = ["curl", "CVE-1"]
TOTALS: Final = "SELECT class, sum(count), sum(sum) FROM time_to_fix GROUP BY class"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have outputs of tools say what they come to, as said() has it."""

    def read(run: ToolRun) -> Audit:
        told = json.loads(run.output)
        found = tuple(Vulnerability(package, "1", name, aliases=tuple(ids)) for package, name, *ids in told["found"])
        return Audit(Status(told["status"]), found, scopes=tuple(map(Scope, told["scopes"])))

    monkeypatch.setattr(module, "parse", read)


def said(*found: list[str], status: Status | None = None, scopes: tuple[Scope, ...] = (Scope.SYSTEM,)) -> str:
    """Write an output that names some vulnerabilities: of each the package, the id and the aliases."""
    status = status or (Status.VULNERABLE if found else Status.CLEAN)
    return json.dumps({"status": status, "found": found, "scopes": scopes})


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on an event loop of its own."""
    asyncio.run(asyncio.wait_for(scenario(), 60.0))


async def take(scene: Scene, output: str, tool: str = "pkg-audit") -> None:
    """Have a host send an audit of now, and wait until it is read."""
    body = json.loads(payload(at=scene.clock(), output=output))
    body["tool"]["name"] = tool
    await scene.audits.take(signed(json.dumps(body).encode()), HERE)
    await scene.read()


def in_memory(scene: Scene) -> list[tuple[str, int, float]]:
    """Return what the exporter tells: class, number and seconds of what was fixed."""
    times = (scene.audits.time_to_fix or {}).items()
    return sorted((priority.value, sum(item.counts), item.sum) for priority, item in times if sum(item.counts))


@pytest.mark.usefixtures("scripted")
def test_fix_is_counted_once_and_for_ever(path: Path, clock: Clock) -> None:
    """Across audits that change ids or fail, restarts, and the same audits read twice."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await take(scene, said(A, ["wget", "CVE-2"]))
            assert [sum(item.counts) for item in (scene.audits.time_to_fix or {}).values()] == [0] * len(Priority)
        for output in (said(["curl", "GHSA-1", "CVE-1"], ["wget", "CVE-2"]), said(status=Status.FAILED)):
            clock.now += DAY
            async with running(path, clock) as scene:
                await take(scene, output)
                assert in_file(path, TOTALS) == []
        clock.now += DAY
        async with running(path, clock) as scene:
            await take(scene, said(["wget", "CVE-2"]))
            await until(lambda: in_memory(scene) == [("plan", 1, 3 * DAY)])
        in_file(path, "UPDATE meta SET value = '0' WHERE key = 'audit_mark'")
        async with prepared(path, clock, rostered(WEB)) as scene:
            assert in_memory(scene) == [("plan", 1, 3 * DAY)]
            async with scene.running():
                await scene.read()
            assert in_memory(scene) == in_file(path, TOTALS) == [("plan", 1, 3 * DAY)]
        clock.now += 20 * DAY
        async with running(path, clock) as scene:
            await take(scene, said())
            await until(lambda: in_memory(scene) == [("plan", 2, 26 * DAY)])
            assert (scene.audits.time_to_fix or {})[Priority.PLAN].counts == (0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0)

    run(scenario)


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    ("output", "tool"), [(said(), "trivy"), (said(scopes=()), "pkg-audit"), (said(status=Status.FAILED), "pkg-audit")]
)
def test_audit_that_may_not_have_looked_counts_nothing(path: Path, clock: Clock, output: str, tool: str) -> None:
    """By another tool, of fewer scopes, or failed."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await take(scene, said(A))
            clock.now += DAY
            await take(scene, output, tool)
            assert in_file(path, TOTALS) == []

    run(scenario)


@pytest.mark.usefixtures("scripted", "logs")
def test_exporter_that_is_killed_before_the_result_is_saved_counts_it_once(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is in the transaction of the result: both are there, or the audit is read again."""
    save, attempts = Archive.save_results, 0

    def killed(*arguments: Any) -> None:
        nonlocal attempts
        save(*arguments)
        attempts += 1
        raise ZeroDivisionError

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await take(scene, said(A))
            clock.now += DAY
            with monkeypatch.context() as patched:
                patched.setattr(Archive, "save_results", killed)
                await scene.audits.take(packed(at=clock.now, output=said()), HERE)
                await until(lambda: attempts > 2)
                assert in_file(path, TOTALS) == []
                assert in_memory(scene) == []
        async with running(path, clock) as scene:
            await until(lambda: in_memory(scene) == [("plan", 1, DAY)])
            assert in_file(path, TOTALS) == [("plan", 1, DAY)]

    run(scenario)


@pytest.mark.usefixtures("scripted")
def test_audits_that_waited_are_counted_as_if_read_one_by_one(path: Path, clock: Clock) -> None:
    """Also if they came in another order: an audit of an earlier day neither closes nor opens anything."""
    days = {0: said(A), 2: said(), 1: said(A), 5: said(["wget", "CVE-2"]), 3: said(A), 7: said()}
    waiting = [
        IncomingAudit(WEB, f"2023-11-{14 + day}", NOW + day * DAY, payload(at=NOW + day * DAY, output=output))
        for day, output in days.items()
    ]
    expected = [("plan", 2, 4 * DAY)]  # curl from 0 to 2, wget from 5 to 7
    clock.now += 9 * DAY

    async def scenario() -> None:
        with opened(path, (), wall_clock=clock) as (store, _):
            store.transact(lambda file: Archive().add(file, waiting, clock.now))
        # A host off the roster, since of one that joins only the last audit is read.
        async with running(path, clock, DB) as scene:
            await scene.read()
            assert in_file(path, TOTALS) == expected
            await until(lambda: in_memory(scene) == expected)

    run(scenario)


@pytest.mark.usefixtures("scripted")
def test_audit_of_a_time_that_is_not_yet_counts_nothing(path: Path, clock: Clock) -> None:
    """It came while the clock was ahead, and is read when the clock is right."""
    ahead = NOW + 365 * DAY

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await take(scene, said(A))
            body = payload(at=ahead, output=said())
            audit = IncomingAudit(WEB, "2024-11-13", ahead, body)
            scene.store.transact(lambda file: Archive().add(file, [audit], ahead))
            await scene.read()
            clock.now += DAY
            await take(scene, said())
            assert in_file(path, TOTALS) == []

    run(scenario)


@pytest.mark.usefixtures("scripted")
def test_upgrade_that_reads_outputs_again_counts_nothing(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the audit that is read again names is counted when it is fixed, since the audit that named it first."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await take(scene, said(A, ["wget", "CVE-2"]))
        clock.now += DAY
        with opened(path, (), wall_clock=clock) as (store, _):  # an audit that is not read before the upgrade
            audit = IncomingAudit(WEB, "2023-11-15", clock.now, payload(at=clock.now, output=said(A)))
            store.transact(lambda file: Archive().add(file, [audit], clock.now))
        monkeypatch.setattr(encoding, "VERSION", encoding.VERSION + 1)
        async with running(path, clock) as scene:
            await scene.read()
            await scene.become(web1=Status.VULNERABLE)
            assert in_file(path, TOTALS) == []
            clock.now += DAY
            await take(scene, said())
            await until(lambda: in_memory(scene) == [("plan", 1, 2 * DAY)])

    run(scenario)


def test_class_is_by_what_is_known_now_and_exceptions_do_not_matter(path: Path, clock: Clock) -> None:
    """A vulnerability that is accepted, exploited and reachable is one to fix now, until it is fixed."""
    roster = rostered(WEB, exceptions=[accept(CURL, until=math.inf)])

    async def scenario() -> None:
        async with running(path, clock, roster=roster) as scene:
            scene.hosts = HostTable([scanned(443)])
            scene.audits.prioritize(LISTED)
            body = payload(at=clock.now, output=VULNERABLE, listeners=[CURLD])
            await scene.audits.take(signed(body), HERE)
            await scene.become(web1=Status.CLEAN)
            clock.now += DAY
            await take(scene, CLEAN)
            await until(lambda: in_memory(scene) == [("fix_now", 1, DAY)])

    run(scenario)


@pytest.mark.usefixtures("scripted", "logs", "no_lock_timeout")
def test_counts_are_there_again_with_the_file(path: Path, clock: Clock) -> None:
    """While the file cannot be had the exporter begins with none, as with its other counters."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await take(scene, said(A))
            clock.now += DAY
            await take(scene, said())
        with locked(path, "immediate"):
            async with prepared(path, clock, rostered(WEB)) as scene:
                assert in_memory(scene) == []
                assert scene.statuses() == {WEB: Status.CLEAN}
                with pytest.raises(StoreError):
                    scene.store.transact(lambda _: None)
        async with running(path, clock) as scene:
            await until(lambda: in_memory(scene) == [("plan", 1, DAY)])

    run(scenario)
