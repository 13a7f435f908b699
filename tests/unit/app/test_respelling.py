"""A host that conf.yml spells otherwise is the same host: what is known of it stays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from portspec.state.verdict import Verdict
from tests.unit.app.exporter import answering, engines, put, running, scan_while_prepared, until, write
from tests.unit.factories import ScriptedEngine

if TYPE_CHECKING:
    from pathlib import Path

    from portspec.app.service import Service
    from portspec.scan import Observation, ScanJob

FIRST: Final = "2001:DB8:0:0::1"  # addresses, so that nothing is looked up
SECOND: Final = "2001:db8::1"
OTHER: Final = "192.0.2.1"


async def log_of(service: Service) -> list[tuple[str, str, str]]:
    """Return host, ports and new state of every change, the oldest first."""
    rows = await service.changes(host=None, since=None, until=None, before_id=None, limit=100)
    return [(change.host, change.ports, change.after.value) for _, change in reversed(rows)]


@pytest.mark.parametrize("spellings", [(FIRST, SECOND), (SECOND, FIRST)])
def test_reload_that_respells_a_host_keeps_its_log_and_its_last_change(
    tmp_path: Path, spellings: tuple[str, str]
) -> None:
    """The change log goes on under the new spelling, nothing is told as a change, and the verdict never is unknown."""
    conf = tmp_path / "conf.yml"
    before, after = spellings
    write(conf, {before: [22], OTHER: [22]})
    is_open = [22]

    def answer(job: ScanJob) -> Observation:
        return answering(*is_open)(job)

    scanner = ScriptedEngine(answer)

    async def scenario() -> None:
        async with running(conf, engines(scanner)) as service:
            await until(lambda: service.snapshot.is_complete)
            is_open.append(80)
            assert service.scan_now(before)
            await until(lambda: service.find(before).last_change)
            known = service.find(before)
            write(conf, {after: [22], OTHER: [22]})
            assert await service.reload() is None
            assert service.find(after).host == after
            assert (service.find(before).last_change, service.find(before).verdict) == (
                known.last_change,
                known.verdict,
            )
            await until(lambda: service.find(after).latest is not known.latest)  # it is scanned as one that is new
            await until(lambda: service.store.flush(0.0))
            expected = [(after, "22", "open"), (OTHER, "22", "open"), (after, "80", "open")]
            assert sorted(await log_of(service)) == sorted(expected)
        async with running(conf, engines(scanner)) as service:
            assert service.find(before).last_change == known.last_change
            # The other host is scanned now, and may have changed already.
            assert sorted(row for row in await log_of(service) if row[0] == after) == [
                (after, "22", "open"),
                (after, "80", "open"),
            ]

    asyncio.run(scenario())


def test_scan_that_ends_while_a_reload_is_prepared_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing takes a while with many hosts: what was found of the old spelling meanwhile holds for the new one."""
    conf = tmp_path / "conf.yml"
    write(conf, {FIRST: [22], OTHER: [22]})
    prepared = scan_while_prepared(monkeypatch, FIRST, SECOND)

    async def scenario() -> None:
        async with running(conf, engines(ScriptedEngine(answering(22)))) as service:
            await until(lambda: service.snapshot.is_complete)
            write(conf, {SECOND: [22], OTHER: [22]})
            assert await service.reload() is None
            assert service.find(SECOND).verdict is Verdict.OUT_OF_SPEC
            assert len(prepared) == 3

    asyncio.run(scenario())


def test_discovered_host_that_is_respelt_keeps_what_is_known(tmp_path: Path) -> None:
    """The same holds for a host that a source of discovery names."""
    conf, found = tmp_path / "conf.yml", tmp_path / "found.json"
    put(found, f'[{{"targets": ["[{FIRST}]:9100"]}}]')
    write(conf, {OTHER: []}, discovery={"file_sd": [{"files": ["found.json"], "refresh": 1}]})
    scanner = ScriptedEngine(answering())

    async def scenario() -> None:
        async with running(conf, engines(scanner)) as service:
            await until(lambda: service.snapshot.is_complete)
            known = service.find(SECOND)
            put(found, f'[{{"targets": ["[{SECOND.upper()}]:9200"]}}]')
            assert await service.reload() is None
            assert service.find(SECOND).latest is known.latest

    asyncio.run(scenario())
