"""Since when a host has a vulnerability: across audits, tools that change their ids, failures and restarts."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.audit import document as encoding
from portspec.audit.document import Decoder, decode_first_seen, encode
from portspec.audit.model import Audit, Status, Vulnerability
from portspec.audit.since import first_seen
from portspec.audit.state import AuditState, HostAudit
from portspec.config import VulnerabilityException
from portspec.inventory import AuditedHost
from portspec.metrics.host_families import AUDITS
from portspec.metrics.render import render_host
from tests.unit.app.exporter import until
from tests.unit.factories import NOW
from tests.unit.reporting import HERE, Clock, running
from tests.unit.signed import AUDIT, CLEAN, DAY, DB, VULNERABLE, WEB, packed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from portspec.audit.since import FirstSeen
    from tests.unit.reporting import Scene


def times(*audits: tuple[Status, list[Vulnerability]]) -> list[dict[str, float]]:
    """Return since when each vulnerability is known after each audit, of which there is one a second."""
    known: tuple[FirstSeen, ...] = ()
    found = []
    for at, (status, vulnerabilities) in enumerate(audits):
        known = first_seen(Audit(status, tuple(vulnerabilities)), at, known)
        found.append(dict(zip((item.id for item in vulnerabilities), (item.at for item in known), strict=False)))
    return found


def of(name: str, *aliases: str, package: str = "curl", version: str = "1", dsa: str = "") -> Vulnerability:
    """Make a vulnerability."""
    return Vulnerability(package, version, name, aliases=aliases, advisories=(dsa,) if dsa else ())


FOUND: Final = Status.VULNERABLE
NONE: Final[tuple[Status, list[Vulnerability]]] = (Status.CLEAN, [])
A = of("CVE-1")


def test_vulnerability_is_known_since_the_audit_that_named_it_first() -> None:
    """Another version of the package has it still; one that was gone is new when it is back."""
    assert times((FOUND, [A]), (FOUND, [of("CVE-1", version="2"), of("CVE-2")])) == [
        {"CVE-1": 0},
        {"CVE-1": 0, "CVE-2": 1},
    ]
    assert times((FOUND, [A]), NONE, (FOUND, [A]))[-1] == {"CVE-1": 2}
    assert times((FOUND, [A]), (FOUND, [of("CVE-1", package="wget")]))[-1] == {"CVE-1": 1}


@pytest.mark.parametrize(
    "between",
    [
        (Status.FAILED, []),
        (Status.FAILED, [of("CVE-2")]),
        (Status.UNSUPPORTED, []),
        (Status.STALE_DATABASE, []),
    ],
)
def test_what_an_audit_that_failed_does_not_name_is_remembered(between: tuple[Status, list[Vulnerability]]) -> None:
    """Until one that did not fail does not name it, either."""
    assert times((FOUND, [A]), between, between, (FOUND, [A]))[-1] == {"CVE-1": 0}
    assert times((FOUND, [A]), between, NONE, (FOUND, [A]))[-1] == {"CVE-1": 3}


def test_what_an_audit_that_did_not_look_everywhere_does_not_name_is_remembered() -> None:
    """It found something, and would not be clean without it."""
    known = first_seen(Audit(FOUND, (A, of("CVE-2"))), 0, ())
    known = first_seen(Audit(FOUND, (A,), "an old database", without=Status.STALE_DATABASE), 1, known)
    assert [item.at for item in first_seen(Audit(FOUND, (A, of("CVE-2"))), 2, known)] == [0, 0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (of("GHSA-1", "CVE-1"), of("CVE-1", "GHSA-1")),
        (of("GHSA-1"), of("CVE-1", "GHSA-1")),
        (of("GHSA-1", "CVE-1"), of("CVE-1")),
        (of("DSA-1"), of("CVE-1", dsa="DSA-1")),  # a tool that tells advisories, and one that tells CVEs
        (of("CVE-1", dsa="DSA-1"), of("DSA-1")),
    ],
)
def test_tool_that_changes_its_ids_finds_nothing_new(before: Vulnerability, after: Vulnerability) -> None:
    """As when a host changes its tool, or the tool its database."""
    assert times((FOUND, [before]), (FOUND, [after]))[-1] == {after.id: 0}


def test_other_vulnerability_of_the_same_advisory_is_new() -> None:
    """One advisory may tell of several, and of more than it did before."""
    assert times((FOUND, [of("CVE-1", dsa="DSA-1")]), (FOUND, [of("CVE-2", dsa="DSA-1")]))[-1] == {"CVE-2": 1}


NAMES = st.sampled_from(["CVE-1", "CVE-2", "CVE-3"])
STATUSES = st.sampled_from([Status.CLEAN, Status.VULNERABLE, Status.FAILED, Status.STALE_DATABASE])


@given(st.lists(st.tuples(STATUSES, st.sets(NAMES)), max_size=8))
def test_time_is_that_of_the_first_audit_of_the_last_unbroken_row(audits: list[tuple[Status, set[str]]]) -> None:
    """Audits that failed do not break it."""
    found = times(*((status, [of(name) for name in sorted(names)]) for status, names in audits))
    since: dict[str, int] = {}
    for at, (status, names) in enumerate(audits):
        if status in (Status.CLEAN, Status.VULNERABLE):
            since = {name: first for name, first in since.items() if name in names}
        for name in names:
            since.setdefault(name, at)
        assert found[at] == {name: since[name] for name in names}


def test_document_has_the_times_and_another_version_of_it_has_them_too() -> None:
    """An upgrade that reads all outputs again loses none."""
    audit = Audit(FOUND, (A, of("CVE-2")))
    known = first_seen(audit, NOW, first_seen(Audit(FOUND, (A,)), NOW - 60, ()))
    document = encode(HostAudit(NOW, "x", None, audit, None), known)
    decoded = Decoder().decode(document)
    assert decoded
    assert list(decoded.since) == [NOW - 60, NOW]
    other = json.dumps(json.loads(document) | {"version": 99, "vulnerabilities": 1})
    assert Decoder().decode(other) is None
    assert decode_first_seen(other) == known
    assert decode_first_seen("{}") == decode_first_seen("[]") == decode_first_seen("") == ()


def lines(state: AuditState, name: str) -> list[str]:
    """Return the lines of a host in a family."""
    return next(render_host(part, state)[0] for part in AUDITS.parts if part.metric.name == name)


def test_metrics_tell_since_when() -> None:
    """Of each vulnerability that counts, and the oldest of each class; without times there are none."""
    found = HostAudit(NOW, "x", None, Audit(FOUND, (A, of("CVE-2"), of("CVE-3"))), None, since=(30, 20, 10))
    accepted = VulnerabilityException(("*",), ("cve-3",), NOW + 60)
    state = AuditState("web1", (accepted,), found, NOW)
    name = "portspec_audit_vulnerability_since_timestamp_seconds"
    assert lines(state, name) == [
        f'{name}{{host="web1",id="CVE-1",package="curl",version="1"}} 30.0\n',
        f'{name}{{host="web1",id="CVE-2",package="curl",version="1"}} 20.0\n',
    ]
    name = "portspec_audit_oldest_vulnerability_timestamp_seconds"
    assert lines(state, name) == [f'{name}{{class="plan",host="web1"}} 20.0\n']
    undated = AuditState("web1", (), HostAudit(NOW, "x", None, Audit(FOUND, (A,)), None), NOW)
    assert lines(undated, name) == []
    assert [item.since for item in state.findings] == [30, 20]


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on an event loop of its own."""
    asyncio.run(asyncio.wait_for(scenario(), 60.0))


def test_times_survive_days_failures_restarts_and_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each audit is archived and read as ever, and what was known before it is carried on."""
    path, clock = tmp_path / "portspec.db", Clock()

    async def audited(output: str, expected: list[float]) -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(at=clock.now, output=output), HERE)
            await until(lambda: known(scene) == (clock.now, expected))
            await scene.read()

    def known(scene: Any) -> tuple[float, list[float]] | None:
        state = scene.audits.states.get(WEB)
        found = state.host_audit if state else None
        return found and (found.at, list(found.since))

    async def scenario() -> None:
        first = clock.now
        await audited(VULNERABLE, [first])
        clock.now += DAY
        await audited("nonsense", [])
        clock.now += DAY
        await audited(VULNERABLE, [first])
        monkeypatch.setattr(encoding, "VERSION", encoding.VERSION + 1)  # the output is read anew
        async with running(path, clock) as scene:
            await until(lambda: known(scene) == (clock.now, [first]))
        clock.now += DAY
        await audited(CLEAN, [])
        clock.now += DAY
        await audited(VULNERABLE, [clock.now])

    run(scenario)


@pytest.mark.parametrize("is_running", [True, False])
def test_times_survive_a_rename(
    tmp_path: Path,
    is_running: bool,  # noqa: FBT001 - a value of the test
) -> None:
    """The first audit under the new name goes on from the last one under the former name, which is none of the host."""
    path, clock = tmp_path / "portspec.db", Clock()
    renamed = {DB: AuditedHost(DB, renamed_from=("older.example.org", WEB))}
    first = clock.now

    async def audited(scene: Scene, host: str, expected: list[float]) -> None:
        await scene.audits.take(packed(host, at=clock.now, output=VULNERABLE), HERE)
        await until(lambda: known(scene, host) == (clock.now, expected))
        await scene.read()

    def known(scene: Scene, host: str) -> tuple[float, list[float]] | None:
        state = scene.audits.states.get(host)
        found = state.host_audit if state else None
        return (found.at, list(found.since)) if found else None

    async def goes_on(scene: Scene) -> None:
        await scene.become(db1=Status.NEVER)
        clock.now += DAY
        await audited(scene, DB, [first])
        assert list(scene.audits.states) == [DB]

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await audited(scene, WEB, [first])
            if is_running:
                scene.audits.apply(AUDIT, renamed)
                await goes_on(scene)
        if not is_running:
            async with running(path, clock, roster=renamed) as scene:
                await goes_on(scene)
        async with running(path, clock, roster=renamed) as scene:
            await until(lambda: known(scene, DB) == (clock.now, [first]))

    run(scenario)


def test_times_under_the_present_name_come_before_those_of_a_former_one(tmp_path: Path) -> None:
    """A host with audits of its own has nothing of another one, though conf.yml calls it a former name later."""
    path, clock = tmp_path / "portspec.db", Clock()

    async def scenario() -> None:
        async with running(path, clock, WEB, DB) as scene:
            await scene.audits.take(packed(WEB, at=clock.now, output=VULNERABLE), HERE)
            await scene.read()
            clock.now += DAY
            await scene.audits.take(packed(DB, at=clock.now, output=CLEAN), HERE)
            await scene.become(web1=Status.VULNERABLE, db1=Status.CLEAN)
            await scene.read()
        clock.now += DAY
        async with running(path, clock, roster={DB: AuditedHost(DB, renamed_from=(WEB,))}) as scene:
            await scene.audits.take(packed(DB, at=clock.now, output=VULNERABLE), HERE)
            await scene.become(db1=Status.VULNERABLE)
            found = scene.audits.states[DB].host_audit
            assert found
            assert list(found.since) == [clock.now]

    run(scenario)
