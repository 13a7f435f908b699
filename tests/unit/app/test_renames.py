"""A host that is renamed in conf.yml goes on with what is known of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.state.verdict import Verdict
from tests.unit.app.exporter import answering, engines, put, running, scan_while_prepared, until, write
from tests.unit.app.test_mailing import MAIL, Taken
from tests.unit.factories import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portspec.app.service import Service
    from portspec.scan import Observation, ScanJob
    from portspec.state.snapshot import HostState

OLD: Final = "127.0.0.1"
NEW: Final = "localhost"  # has the same address, without a name server
OTHER: Final = "192.0.2.1"
RENAMED: Final[dict[str, Any]] = {NEW: {"expect": [22], "renamed_from": OLD}, OTHER: [22]}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return the path of a conf.yml that has the host under its former name."""
    path = tmp_path / "conf.yml"
    write(path, {OLD: [22], OTHER: [22]})
    return path


class Ports:
    """An engine whose hosts have port 22 open, and those that a test adds."""

    def __init__(self) -> None:
        self.open = [22]
        self.engine = ScriptedEngine(self._answer)

    def _answer(self, job: ScanJob) -> Observation:
        return answering(*self.open)(job)

    async def open_one(self, service: Service, host: str = OLD) -> HostState:
        """Have port 80 opened, and the host scanned; returns what is known then."""
        await until(lambda: service.snapshot.is_complete)
        self.open.append(80)
        assert service.scan_now(host)
        await until(lambda: service.find(host).last_change)
        return service.find(host)


def times(state: HostState) -> tuple[object, ...]:
    """Return since when things are known of a host, and its verdict."""
    return state.opened, state.missing, state.unexpected, state.last_change, state.verdict


async def rows_of(service: Service, host: str) -> list[tuple[str, str, str]]:
    """Return host, ports and new state of each change of a host, the oldest first."""
    rows = await service.changes(host=host, since=None, until=None, before_id=None, limit=100)
    return [(change.host, change.ports, change.after.value) for _, change in reversed(rows)]


async def scanned_again(service: Service, known: HostState) -> None:
    """Wait until the host is scanned under its new name, and that is written."""
    await until(lambda: service.find(NEW).latest is not known.latest)
    await until(lambda: service.store.flush(0.0))


def test_host_that_a_reload_renames_keeps_its_times_its_log_and_its_verdicts(conf: Path) -> None:
    """It is never unknown, nothing is told as a change, and a restart finds the same under the new name."""
    ports = Ports()

    async def scenario() -> None:
        async with running(conf, engines(ports.engine)) as service:
            known = await ports.open_one(service)
            write(conf, RENAMED)
            assert await service.reload() is None
            assert list(service.snapshot.hosts) == [NEW, OTHER]
            assert (service.find(NEW).latest, times(service.find(NEW))) == (known.latest, times(known))
            await scanned_again(service, known)
            assert times(service.find(NEW)) == times(known)
            log = [(OLD, "22", "open"), (OLD, "80", "open")]
            assert await rows_of(service, NEW) == await rows_of(service, OLD) == log
            verdicts = await service.verdicts(NEW, limit=9)
            assert [item.verdict for item in verdicts] == [Verdict.OUT_OF_SPEC, Verdict.IN_SPEC]
        async with running(conf, engines(ports.engine)) as service:
            assert times(service.find(NEW)) == times(known)
            assert await rows_of(service, NEW) == log

    asyncio.run(scenario())


def test_host_that_is_renamed_while_the_exporter_does_not_run_keeps_its_times(conf: Path) -> None:
    """The next start finds it under its former name, and the one after that under its own."""
    ports = Ports()

    async def scenario() -> None:
        async with running(conf, engines(ports.engine)) as service:
            known = await ports.open_one(service)
        write(conf, RENAMED)
        async with running(conf, engines(ports.engine)) as service:
            assert times(service.find(NEW)) == times(known)
            await until(lambda: service.find(NEW).latest != known.latest)
            await until(lambda: service.store.flush(0.0))
            ports.open.remove(80)
            assert service.scan_now(NEW)
            await until(lambda: service.find(NEW).verdict is Verdict.IN_SPEC)
            changed = service.find(NEW)
        async with running(conf, engines(ports.engine)) as service:
            assert times(service.find(NEW)) == times(changed)
            assert (await rows_of(service, NEW))[-1] == (NEW, "80", "closed")

    asyncio.run(scenario())


def test_host_that_leaves_and_returns_under_another_name_keeps_its_times(conf: Path) -> None:
    """The state is in the file or about to be written when the second reload wants it."""
    ports = Ports()

    async def scenario() -> None:
        async with running(conf, engines(ports.engine)) as service:
            known = await ports.open_one(service)
            write(conf, {OTHER: [22]})
            assert await service.reload() is None
            write(conf, RENAMED)
            assert await service.reload() is None
            assert times(service.find(NEW)) == times(known)

    asyncio.run(scenario())


def test_scan_that_ends_while_a_rename_is_prepared_is_not_lost(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing takes a while with many hosts: what was found under the former name meanwhile holds for the new one."""
    prepared = scan_while_prepared(monkeypatch, OLD, OLD)

    async def scenario() -> None:
        async with running(conf, engines(ScriptedEngine(answering(22)))) as service:
            await until(lambda: service.snapshot.is_complete)
            write(conf, RENAMED)
            assert await service.reload() is None
            assert service.find(NEW).verdict is Verdict.OUT_OF_SPEC
            assert len(prepared) == 3

    asyncio.run(scenario())


def test_name_that_was_scanned_before_keeps_its_own_state(conf: Path) -> None:
    """A host that returns to an earlier name goes on with what is known under that one."""
    ports = Ports()

    async def scenario() -> None:
        async with running(conf, engines(ports.engine)) as service:
            await until(lambda: service.snapshot.is_complete)
            before = service.find(OLD)
            write(conf, RENAMED)
            assert await service.reload() is None
            await until(lambda: service.find(NEW).latest is not before.latest)
            known = await ports.open_one(service, NEW)
            write(conf, {OLD: {"expect": [22], "renamed_from": NEW}, OTHER: [22]})
            assert await service.reload() is None
            assert service.find(OLD).verdict is Verdict.IN_SPEC
            assert service.find(OLD).latest != known.latest

    asyncio.run(scenario())


def test_discovered_host_that_is_renamed_keeps_its_times(tmp_path: Path, conf: Path) -> None:
    """The label __portspec_renamed_from says so; a host of conf.yml that is still there loses nothing to it."""
    names = f"{OLD}, {OTHER}"
    put(tmp_path / "found.json", f'[{{"targets": ["{NEW}:9100"], "labels": {{"__portspec_renamed_from": "{names}"}}}}]')
    ports = Ports()

    async def scenario() -> None:
        async with running(conf, engines(ports.engine)) as service:
            known = await ports.open_one(service)
            sources = {"file_sd": [{"files": ["found.json"], "expect": [22]}]}
            write(conf, {OTHER: [22]}, discovery=sources, deny=[])
            assert await service.reload() is None
            assert list(service.snapshot.hosts) == [OTHER, NEW]
            assert times(service.find(NEW)) == times(known)
            assert service.find(NEW).target.renamed_from == (OLD,)

    asyncio.run(scenario())


@pytest.mark.parametrize("is_running", [True, False])
def test_recipients_are_not_told_again_of_a_host_that_is_renamed(
    conf: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_running: bool,  # noqa: FBT001 - a value of the test
) -> None:
    """They know what deviates, and learn of its end under the new name."""
    taken = Taken()
    monkeypatch.setattr("portspec.notify.mailer.Session", taken)
    monkeypatch.setattr("portspec.notify.mailer.POLL_INTERVAL", 0.0)
    mail = {**MAIL, "alertemail": ["a@example.org"]}
    write(conf, {OLD: [22]}, **mail)
    ports = Ports()
    ports.open.append(80)

    async def told(count: int) -> None:
        await until(lambda: len(taken) == count)

    known: list[HostState] = []

    async def goes_on(service: Service) -> None:
        await until(lambda: service.find(NEW).latest != known[0].latest)
        assert service.store.flush(10)
        ports.open.remove(80)
        assert service.scan_now(NEW)
        await told(2)
        assert [alert for _, alert in taken] == [f"PortSpec Alert [{OLD}]", f"PortSpec Alert [{NEW}]"]

    def rename() -> None:
        write(conf, {NEW: RENAMED[NEW]}, **mail)

    async def scenario(act: Callable[[Service], Any]) -> None:
        async with running(conf, engines(ports.engine)) as service:
            await act(service)

    async def first(service: Service) -> None:
        await told(1)
        known.append(service.find(OLD))
        rename()
        if is_running:
            assert await service.reload() is None
            await goes_on(service)

    asyncio.run(scenario(first))
    if not is_running:
        asyncio.run(scenario(goes_on))


def test_maintenance_that_was_asked_for_goes_on_under_the_new_name(conf: Path) -> None:
    """It lasts as long as it was to, and ends under the new name."""

    async def scenario() -> None:
        async with running(conf) as service:
            await service.maintenance.begin([OLD], 4e9, "move", "ops")
            write(conf, RENAMED)
            assert await service.reload() is None
            lasts = service.find(NEW).maintenance
            assert lasts
            assert (lasts.until, lasts.reason, service.maintenance.window_of(NEW)) == (4e9, "move", lasts)
            await service.maintenance.end([NEW])
            assert service.find(NEW).maintenance is None
            assert service.maintenance.windows == {}

    asyncio.run(scenario())
