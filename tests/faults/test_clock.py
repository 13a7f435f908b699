"""A real exporter whose wall clock jumps."""

from __future__ import annotations

import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.audits import configure, make, post, received, rejected
from tests.e2e.exporter import Exporter, exporter, until
from tests.faults.registry import fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLOCK: Final = (sys.executable, "-m", "tests.faults.program", "clock", "serve")
HOST: Final = "127.0.0.1"
AUDITED: Final = "web1.example.org"
YEAR: Final = 365 * 86_400.0
NEAR: Final = 3600.0  # seconds; the jumps are longer, or change nothing that is compared


def last_scan(running: Exporter) -> float:
    """Return when the host was scanned last, by the wall clock of the exporter."""
    return running.series()["port_last_scan_timestamp_seconds"][f'host="{HOST}"']


@fault("clock", "scans", "Rounds continue and no verdict changes, in whichever direction the clock jumps.")
@fault("clock", "metrics and pages", "Timestamps follow the wall clock with the next scan.")
@fault(
    "clock",
    "audits",
    "Audits are refused (reason `time`) while the clock is wrong, and taken afterwards.",
)
@fault("clock", "state file", "Results are written and read as always.")
@pytest.mark.parametrize("jump", [YEAR, -YEAR, 1.0, -1.0])
def test_clock_that_jumps_changes_no_verdict(tmp_path: Path, jump: float) -> None:
    """The clock jumps and is put right again: scans go on both times, and audits are taken by a clock that is right."""
    ahead = tmp_path / "ahead"
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        conf = configure(tmp_path / "conf.yml", [AUDITED], hosts={HOST: [port]}, scanports=[1], interval=1)
        with exporter(conf, program=CLOCK, environment={"FAULT_CLOCK": str(ahead)}) as running:
            running.wait_until_ready()

            def set_clock(seconds: float) -> None:
                ahead.write_text(str(seconds), encoding="utf-8")
                before = running.series()["portspec_scan_rounds_total"][""]
                running.process.send_signal(signal.SIGUSR1)
                until(lambda: running.series()["portspec_scan_rounds_total"][""] >= before + 2)
                until(lambda: abs(last_scan(running) - time.time() - seconds) < NEAR)

            set_clock(jump)
            now = make(AUDITED, time.time())
            is_accepted = abs(jump) < NEAR
            assert post(running.address, now.packed)[0] == (201 if is_accepted else 403)
            assert rejected(running) == ({} if is_accepted else {"time": 1.0})
            set_clock(0.0)
            until(lambda: post(running.address, now.packed)[0] in (200, 201))
            until(lambda: received(running) == 1.0)
            found = running.series()
            assert found["port_out_of_spec"] == {f'host="{HOST}"': 0.0}
            assert found["portspec_store_up"] == {"": 1.0}
            changes = running.json("/api/v1/changes?host=" + HOST)["changes"]
            assert [(row["ports"], row["to"]) for row in changes] == [(str(port), "open")]


@fault("clock", "start", "An exporter that starts with a right clock continues from states of a wrong one.")
@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_states_of_a_wrong_clock_are_replaced(tmp_path: Path, jump: float) -> None:
    """States that were written a year ahead or behind are there after the start, and the next scan replaces them."""
    ahead = tmp_path / "ahead"
    ahead.write_text(str(jump), encoding="utf-8")
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        conf = configure(tmp_path / "conf.yml", [AUDITED], hosts={HOST: [port]}, scanports=[1], interval=1)
        with exporter(conf, program=CLOCK, environment={"FAULT_CLOCK": str(ahead)}) as running:
            running.wait_until_ready()
            running.process.send_signal(signal.SIGUSR1)
            until(_is_near(running, jump))
            running.kill(signal.SIGTERM)
        with exporter(conf, log=tmp_path / "again.log") as running:
            until(_is_near(running, 0.0))
            assert running.series()["port_out_of_spec"] == {f'host="{HOST}"': 0.0}
            running.kill(signal.SIGTERM)
        with exporter(conf, log=tmp_path / "third.log") as running:  # the second one has written what it has seen
            until(_is_near(running, 0.0))


def _is_near(running: Exporter, seconds: float) -> Callable[[], bool]:
    """Return whether the last scan was made at a time so many seconds ahead."""
    return lambda: abs(last_scan(running) - time.time() - seconds) < NEAR
