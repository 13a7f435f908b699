"""A whole exporter but for the network: a service on a conf.yml, with engines that follow a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from portspec.app.engines import Engines
from portspec.app.service import Service
from portspec.config import Config, load
from portspec.inventory import Shard
from portspec.ports import PortSet
from portspec.scan import Observation
from portspec.scan.pacing import Pacer
from portspec.schedule.monitor import Monitor
from tests.unit.factories import NOW, ScriptedEngine, all_closed, result, seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    import pytest

    from portspec.scan import ScanJob
    from portspec.schedule.transition import Transition

ALL = Shard()
PATIENCE = 30.0  # seconds


def write(path: Path, hosts: Mapping[str, Any], **keys: Any) -> None:
    """Write a configuration (JSON is YAML), with one interval that no test lives to see the end of."""
    path.write_text(json.dumps({"hosts": hosts, "scanports": [22, 80], "interval": "1d", **keys}), encoding="utf-8")


def put(path: Path, text: str) -> None:
    """Write what is no configuration."""
    path.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a configuration."""
    path.unlink()


def engines(scanner: ScriptedEngine | None = None, confirmer: ScriptedEngine | None = None) -> Engines:
    """Make engines of scripts; without one every port is closed."""
    return Engines(scanner or ScriptedEngine(all_closed), confirmer, Pacer(None), Config("conf.yml", ()))


def answering(*is_open: int) -> Callable[[ScanJob], Observation]:
    """Make the answer that these ports are open, as far as they are asked, and the others closed."""

    def answer(job: ScanJob) -> Observation:
        opened = PortSet.of(is_open) & job.ports
        found = tuple(seen(address, scanned=job.ports, is_open=opened) for address in job.addresses)
        return Observation(found, 0.25, len(job.ports))

    return answer


def scan_while_prepared(monkeypatch: pytest.MonkeyPatch, host: str, address: str) -> list[Transition]:
    """Have a scan of a host end while the first reload is prepared, which finds ports 22 and 80 of an address open.

    Returns the transitions that were prepared so far.
    """
    prepare = Monitor.prepare
    prepared: list[Transition] = []

    def scanned_meanwhile(monitor: Monitor, *parts: Any) -> Transition:
        prepared.append(prepare(monitor, *parts))
        if len(prepared) == 2:  # the first one is that of the start
            before = monitor.snapshot.hosts[host]
            found = result(before.target, seen(address, is_open=[22, 80]), at=NOW)
            monitor.snapshot = monitor.snapshot.with_state(before.after(found))
        return prepared[-1]

    monkeypatch.setattr(Monitor, "prepare", scanned_meanwhile)
    return prepared


@contextlib.asynccontextmanager
async def prepared(path: Path, of: Engines | None = None, shard: Shard = ALL, **parts: Any) -> AsyncIterator[Service]:
    """Make a service on a conf.yml and have it take up what is known, as before its first scan."""
    service = Service(load(path, {}), of or engines(), shard, **parts)
    try:
        service.open()
        await service.start()
        yield service
    finally:
        service.store.close()


@contextlib.asynccontextmanager
async def running(path: Path, of: Engines | None = None, shard: Shard = ALL, **parts: Any) -> AsyncIterator[Service]:
    """Run a service on a conf.yml; it has submitted its first scans, and taken up those that were answered."""
    async with prepared(path, of, shard, **parts) as service:
        task = asyncio.create_task(service.run())
        try:
            for _ in range(50):
                await asyncio.sleep(0)
            yield service
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(condition: Callable[[], object]) -> None:
    """Let everything run until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in threads, too
            await asyncio.sleep(0.001)  # a loop that spins would keep them from running


def metric(service: Service, name: str) -> list[str]:
    """Return the samples of a family on /metrics."""
    page = b"".join(service.exposition.write(names=[name]).pieces).decode()
    return [line for line in page.splitlines() if not line.startswith("#")]
