"""When the service manager is pinged, at a datagram socket of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from portspec.app.servicemanager import ServiceManager
from portspec.app.watchdog import CHECKS_PER_LIMIT, DEFAULT_LIMIT, Hang, Progress, Watchdog
from portspec.heartbeat import Heartbeat
from tests.faults.registry import fault
from tests.unit.app.exporter import engines, prepared, until, write
from tests.unit.factories import ManualClock, settle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 60.0  # seconds
INTERVAL = LIMIT / CHECKS_PER_LIMIT


class Part:
    """A part that reports what the test says."""

    def __init__(self, name: str = "scans", *, is_vital: bool = True) -> None:
        self.name = name
        self.is_vital = is_vital
        self.beat: float | None = 0

    def heartbeats(self) -> list[Heartbeat]:
        """Report it."""
        return [Heartbeat(self.name, self.beat, is_vital=self.is_vital)]


class Manager:
    """A socket that receives what the service manager is told, and the environment that names it."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self._sock = sock
        usec = str(int(LIMIT * 1e6))
        self.environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": usec, "WATCHDOG_PID": str(os.getpid())}

    def pings(self) -> int:
        """Return how often it was pinged since the last call."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                count += self._sock.recv(65536) == b"WATCHDOG=1"
        return count


@pytest.fixture
def manager() -> Iterator[Manager]:
    """Return a service manager that waits for pings."""
    name = secrets.token_hex(8)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(0.0)
        yield Manager(sock, f"@{name}")


@pytest.mark.parametrize(
    ("environment", "limit"),
    [
        ({"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": str(os.getpid())}, 90.0),
        ({"WATCHDOG_USEC": "500000"}, 0.5),
        ({}, None),
        ({"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "1min"}, None),
        ({"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": ""}, None),
    ],
)
def test_limit_is_that_of_this_process(environment: dict[str, str], limit: float | None) -> None:
    """The limit is in microseconds; without one, with one for another process, or with an invalid one nobody pings."""
    assert ServiceManager({"NOTIFY_SOCKET": "@manager", **environment}).watchdog == limit


def test_without_a_socket_there_is_no_watchdog() -> None:
    """A limit that a child process inherited without the socket is ignored."""
    assert ServiceManager({"WATCHDOG_USEC": "90000000"}).watchdog is None


def test_part_without_progress_in_two_checks_hangs() -> None:
    """The first check that finds a beat unchanged proves nothing; the second one does, and says for how long."""
    progress = Progress(INTERVAL)
    found = [progress.check([Heartbeat("scans", 7)]) for _ in range(4)]
    assert found == [(), (), (Hang("scans", 2 * INTERVAL),), (Hang("scans", 3 * INTERVAL),)]
    assert progress.check([Heartbeat("scans", 8)]) == ()


def test_part_that_has_nothing_to_do_does_not_hang() -> None:
    """A part without a beat makes no progress for as long as it likes, and begins anew afterwards."""
    progress = Progress(INTERVAL)
    beats = [7, 7, None, None, None, 7, 7, None]
    assert not any(progress.check([Heartbeat("scans", beat)]) for beat in beats)


def test_slow_progress_is_progress() -> None:
    """A part that makes one step in two checks, for ever, does not hang."""
    progress = Progress(INTERVAL)
    assert not any(progress.check([Heartbeat("scans", number // 2)]) for number in range(1000))


def test_patience_is_in_seconds_whatever_the_interval() -> None:
    """A part with patience hangs after so many seconds of checks; others do not wait for it."""
    progress = Progress(INTERVAL)
    beats = [Heartbeat("scans", 1, patience=600.0), Heartbeat("syn engine", None)]
    found = [progress.check(beats) for _ in range(42)]
    assert found[:40] == [()] * 40
    assert found[40] == (Hang("scans", 600.0),)
    patient = Progress(INTERVAL)
    beats[1] = Heartbeat("syn engine", 1)
    found = [patient.check(beats) for _ in range(3)]
    assert found == [(), (), (Hang("syn engine", 2 * INTERVAL),)]


def test_pings_stop_while_a_part_hangs(manager: Manager) -> None:
    """Each check pings; without progress there are no pings, one line says which part since when; then they go on."""
    clock, one, other = ManualClock(), Part(), Part("syn engine")
    other.beat = None

    async def scenario() -> None:
        watching = asyncio.create_task(Watchdog(ServiceManager(manager.environment), [one, other], clock).run())
        await settle()
        assert manager.pings() == 1
        for step in range(1, 9):
            one.beat = step
            await clock.advance(INTERVAL)
            assert manager.pings() == 1
        assert logs == []
        await clock.advance(INTERVAL)
        assert manager.pings() == 1  # one check proves nothing
        await clock.advance(10 * INTERVAL)
        assert manager.pings() == 0
        (line,) = logs
        assert (line["log_level"], line["part"]) == ("error", "scans")
        assert "hangs" in line["event"]
        assert line["since"].endswith("Z")
        one.beat = 9
        await clock.advance(INTERVAL)
        assert manager.pings() == 1
        assert (logs[1]["log_level"], logs[1]["part"]) == ("warning", "scans")
        watching.cancel()

    with capture_logs() as logs:
        asyncio.run(scenario())


@fault("part that hangs", "state file", "A hang of the disk restarts nothing: scans continue.")
def test_part_that_is_not_vital_keeps_no_ping_back(manager: Manager) -> None:
    """A hang that a restart does not help is logged, but the pings go on."""
    clock, part = ManualClock(), Part("state file", is_vital=False)

    async def scenario() -> None:
        dog = Watchdog(ServiceManager(manager.environment), [part], clock)
        watching = asyncio.create_task(dog.run())
        await clock.advance(5 * INTERVAL)
        assert manager.pings() == 6
        assert [(hang.part, hang.is_vital) for hang in dog.hangs] == [("state file", False)]
        assert [(line["log_level"], line["part"]) for line in logs] == [("error", "state file")]
        watching.cancel()

    with capture_logs() as logs:
        asyncio.run(scenario())


@fault(
    "part that hangs",
    "scans",
    "Without systemd, the log names the part after a minute, and `portspec_part_up` is 0.",
)
def test_hang_is_found_without_a_service_manager() -> None:
    """Where nobody wants pings, hangs are known after half of the default limit, and over with the next progress."""
    clock, part = ManualClock(), Part()

    async def scenario() -> None:
        dog = Watchdog(ServiceManager({}), [part], clock)
        watching = asyncio.create_task(dog.run())
        await clock.advance(DEFAULT_LIMIT / 2)
        assert [hang.part for hang in dog.hangs] == ["scans"]
        part.beat = 1
        await clock.advance(DEFAULT_LIMIT / CHECKS_PER_LIMIT)
        assert dog.hangs == ()
        watching.cancel()

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert "/-/healthy is 503" in logs[0]["event"]


@fault("stop", "whole exporter", "A stop of less than the limit of the watchdog costs no restart.")
def test_stop_of_the_process_shorter_than_the_limit_costs_nothing(manager: Manager) -> None:
    """After a pause, in which no part could make progress, the first check pings, however long the pause was."""
    clock, part = ManualClock(), Part()

    async def scenario() -> None:
        watching = asyncio.create_task(Watchdog(ServiceManager(manager.environment), [part], clock).run())
        for beat in range(4):
            part.beat = beat
            await clock.advance(INTERVAL)
        manager.pings()
        await clock.freeze(0.9 * LIMIT)
        assert manager.pings() == 1
        part.beat = 5
        await clock.advance(INTERVAL)
        assert manager.pings() == 1
        watching.cancel()

    asyncio.run(scenario())


def test_service_that_scans_pings(tmp_path: Path, manager: Manager) -> None:
    """A whole exporter pings when it runs, and an idle one goes on."""
    conf = tmp_path / "conf.yml"
    write(conf, {"192.0.2.1": [22]})
    manager.environment["WATCHDOG_USEC"] = "40000"

    async def scenario() -> None:
        async with prepared(conf, engines(), manager=ServiceManager(manager.environment)) as service:
            assert manager.pings() == 0
            running = asyncio.create_task(service.run())
            pings = 0

            def is_pinged() -> bool:
                nonlocal pings
                pings += manager.pings()
                return pings >= 5

            await until(is_pinged)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(scenario())
