"""A real exporter that is stopped for a while, and one whose threads end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.exporter import PATIENCE, PROGRAM, Exporter, exporter, until, write
from tests.faults.registry import fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

THREADS: Final = (sys.executable, "-m", "tests.faults.program", "threads", "serve")
HOST: Final = "127.0.0.1"


@pytest.fixture
def open_port() -> Iterator[int]:
    """Return a port that is open."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def rounds(running: Exporter) -> float:
    """Return the number of rounds that are complete."""
    return running.series()["portspec_scan_rounds_total"][""]


def wait_for_rounds(running: Exporter, more: int = 2) -> None:
    """Wait until so many more rounds are complete."""
    goal = rounds(running) + more
    until(lambda: rounds(running) >= goal)


@fault("stop", "scans", "No verdict changes, and rounds that were missed are not made up for.")
@fault("stop", "metrics and pages", "`/metrics` and `/-/healthy` answer at once after the process is continued.")
def test_stop_of_the_process_changes_no_verdict(tmp_path: Path, open_port: int) -> None:
    """Stopped in the middle of scans, several times, the exporter reports no change, and goes on."""
    conf = write(tmp_path / "conf.yml", {HOST: [open_port]}, interval=1, scanports=[1])
    with exporter(conf) as running:
        running.wait_until_ready()
        for _ in range(3):
            os.kill(running.process.pid, signal.SIGSTOP)
            with pytest.raises(TimeoutError):  # after two seconds
                _ask_briefly(running.address)
            os.kill(running.process.pid, signal.SIGCONT)
            assert running.get("/-/healthy").status == 200
            wait_for_rounds(running)
        found = running.series()
        assert found["port_out_of_spec"] == {f'host="{HOST}"': 0.0}
        assert _changes(running) == [(str(open_port), "open")]
        assert set(found["portspec_part_restarts_total"].values()) == {0.0}


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.partition(":")
    return host, int(port)


def _ask_briefly(address: str) -> None:
    """Ask for the health, and wait two seconds for the answer."""
    with socket.create_connection(_split(address), timeout=2.0) as connection:
        connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        connection.recv(1)


@fault("part that ends", "scans", "The thread of an engine is restarted, and its hosts are scanned again soon.")
def test_thread_of_the_engine_that_ends_is_replaced(tmp_path: Path, open_port: int) -> None:
    """The host is never out of spec meanwhile, and later scans work; the log says what happened, in one line."""
    conf = write(tmp_path / "conf.yml", {HOST: [open_port]}, interval=1, scanports=[1])
    with exporter(conf, program=THREADS) as running:
        running.wait_until_ready()
        running.process.send_signal(signal.SIGUSR1)
        restarts = 'part="connect engine"'
        until(lambda: running.series()["portspec_part_restarts_total"][restarts] == 1.0)
        wait_for_rounds(running)
        found = until(lambda: _all_up(running))
        assert found["port_out_of_spec"] == {f'host="{HOST}"': 0.0}
        assert found["port_scan_success"] == {f'host="{HOST}"': 1.0}
        assert _changes(running) == [(str(open_port), "open")]
        assert running.log.read_text().count("a part of portspec failed; restarting it") == 1


@fault("part that ends", "state file", "The thread that writes is restarted within seconds, and writes what waits.")
def test_thread_of_the_state_file_that_ends_is_replaced(tmp_path: Path, open_port: int) -> None:
    """A port that opens afterwards is in the change log, also of the next process."""
    with socket.socket() as later:
        later.bind((HOST, 0))
        port = later.getsockname()[1]
        conf = write(tmp_path / "conf.yml", {HOST: {"expect": [open_port, port]}}, interval=1, scanports=[1])
        with exporter(conf, program=THREADS) as running:
            running.wait_until_ready()
            running.process.send_signal(signal.SIGUSR2)
            until(lambda: running.series()["portspec_part_restarts_total"]['part="state file"'] == 1.0)
            later.listen()
            until(lambda: (str(port), "open") in _changes(running))
            until(lambda: _all_up(running))
            running.kill()
        with exporter(conf, log=tmp_path / "again.log", program=PROGRAM) as running:
            assert {(str(open_port), "open"), (str(port), "open")} <= set(_changes(running))


def _changes(running: Exporter) -> list[tuple[str, str]]:
    """Return the ports of the change log and their new state; none while it cannot be read."""
    answer = running.get("/api/v1/changes")
    rows = running.json("/api/v1/changes")["changes"] if answer.status == 200 else ()
    return [(row["ports"], row["to"]) for row in rows]


def _all_up(running: Exporter) -> dict[str, dict[str, float]] | None:
    """Return the metrics once every part runs and the state file is written."""
    found = running.series()
    is_up = set(found["portspec_part_up"].values()) == {1.0} and found["portspec_store_up"] == {"": 1.0}
    return found if is_up else None


@fault(
    "part that ends",
    "whole exporter",
    "An engine that fails again and again ends the exporter, with exit code 70 and one line.",
)
def test_exporter_ends_where_a_thread_ends_again_and_again(tmp_path: Path, open_port: int) -> None:
    """The last line of the log names the part and the cause."""
    conf = write(tmp_path / "conf.yml", {HOST: [open_port]}, interval=1, scanports=[1])
    with exporter(conf, program=(*THREADS[:3], "mortal", "serve")) as running:
        running.wait_until_ready()
        running.process.send_signal(signal.SIGUSR1)
        assert running.process.wait(PATIENCE) == 70
        last = json.loads(running.log.read_text().splitlines()[-1])
        assert (last["level"], "exception" in last) == ("error", False)
        assert last["event"].startswith("the part connect engine failed 6 times in a row, the last time with: ")
