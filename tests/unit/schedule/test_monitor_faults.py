"""What a fault in the monitor, or in what is told of one host, does to the scans of the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.faults.registry import fault
from tests.unit.factories import settle
from tests.unit.schedule.test_monitor import Scene, hosts

if TYPE_CHECKING:
    from portspec.state.snapshot import HostState


@fault("part that ends", "scans", "An error while the result of one host is processed concerns that host alone.")
def test_error_about_one_host_ends_no_other_scan() -> None:
    """It is logged with the host, and all others are scanned round after round."""
    scene = Scene(*hosts(3))

    def tell(before: HostState, after: HostState) -> None:
        if after.host == "host1":
            raise ValueError("a fault")
        scene.told.append((before, after))

    scene.monitor._on_state = tell
    with capture_logs() as logs:
        scene.run(250.0)
    assert [len(scene.times(f"host{number}")) for number in range(3)] == [3, 3, 3]
    assert {after.host for _, after in scene.told} == {"host0", "host2"}
    failed = [line for line in logs if line["log_level"] == "error"]
    assert {(line["event"], line["host"]) for line in failed} == {("processing a scan failed", "host1")}


@fault("part that ends", "whole exporter", "A scheduler that is restarted begins a round of every interval at once.")
def test_monitor_that_has_failed_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error in the middle of a round nothing counts as being scanned, and every place is free."""
    scene = Scene(*hosts(4), places=1, seconds={"host0": 10.0})

    async def scenario() -> None:
        first = asyncio.create_task(scene.monitor.run())
        await settle()
        assert len(scene.examiner.began) == 1
        with monkeypatch.context() as faulty:
            faulty.setattr(scene.monitor, "_is_due", lambda _: 1 / 0)
            await scene.clock.advance(20.0)
        with pytest.raises(ExceptionGroup):
            await first
        assert scene.monitor.under_way == {}
        began = len(scene.examiner.began)
        async with scene.running():
            await scene.clock.advance(20.0)
            assert {host for host, _ in scene.examiner.began[began:]} == {f"host{number}" for number in range(4)}
            assert scene.monitor.snapshot.is_complete
            assert all(heartbeat.beat is None for heartbeat in scene.monitor.heartbeats())

    asyncio.run(scenario())
