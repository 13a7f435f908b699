"""The exporter where no more threads are to be had, as with a low limit of processes."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.registry import fault
from tests.unit.cli.run import Server, run
from tests.unit.scan.loopback import eventually, own_address

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Configure

PROGRAM: Final = [sys.executable, "-m", "tests.unit.cli.threadless"]
WANT: Final = (
    "no thread can be started: raise TasksMax= of the systemd unit, the pids limit of the container, or the user's "
    "limit of processes (ulimit -u)"
)


@fault("no threads", "start", "The exporter ends with exit code 2 and one line that says what to raise.")
@pytest.mark.parametrize("engine", ["auto", "connect"])
def test_start_without_threads_is_one_line(configure: Configure, engine: str) -> None:
    """Where no thread can be started, the exporter ends with exit 2 and one line that says what to raise."""
    conf = configure({own_address(): []}, scan={"engine": engine})
    done = run("-j", "-c", conf, "--web.listen-address", "127.0.0.1:0", program=[*PROGRAM, "now"])
    entries = [json.loads(line) for line in done.out.splitlines()]
    assert [entry["event"] for entry in entries if entry["level"] != "info"] == [WANT]
    assert (done.code, done.err) == (2, "")


@pytest.mark.parametrize("command", ["scan", "check", "learn"])
def test_commands_without_threads_tell_it(configure: Configure, command: str) -> None:
    """A command that can start no thread has no traceback, and says what to raise where it needed one."""
    conf = configure({"localhost": []})
    arguments = ["localhost"] if command == "learn" else ["-c", conf]
    done = run(command, *arguments, program=[*PROGRAM, "now"])
    assert done.code in ((0,) if command == "check" else (2, 3))
    assert "Traceback" not in done.err + done.out
    assert WANT in " ".join((done.err + done.out).split())


@fault(
    "no threads",
    "metrics and pages",
    "`/metrics` and the pages are served; what has to be read from the disk is 503; hosts with names are unknown.",
)
def test_exporter_serves_its_pages_without_further_threads(configure: Configure) -> None:
    """Pages that are only written from what is known are served; what must be read is 503, with what to raise.

    Hosts whose names cannot be looked up are unknown. The log tells of it once.
    """
    address = own_address()
    with Server(Path(configure({address: [], "localhost": []}, interval=1)), program=[*PROGRAM, "later"]) as server:
        server.wait_for("round finished")
        server.process.send_signal(signal.SIGUSR1)
        server.wait_for("no more threads")
        for path in ("/metrics", "/", "/api/v1/hosts", f"/api/v1/hosts/{address}", "/sd/targets"):
            assert server.get(path)[0] == 200, path
        status, page = server.get(f"/probe?target={address}")
        assert (status, "probe_success 1.0" in page) == (200, True)
        status, page = server.get("/api/v1/changes")
        assert (status, json.loads(page)["detail"]) == (503, f"temporarily unavailable: {WANT}")
        unknown = 'port_scan_failure{host="localhost",reason="local_limit"} 1.0'
        eventually(lambda: unknown in server.get("/metrics")[1], "a host that cannot be looked up")
        assert f'port_scan_success{{host="{address}"}} 1.0' in server.get("/metrics")[1]
        assert [entry["why"] for entry in server.events("cannot start threads; portspec is degraded")] == [WANT]
        assert not [entry for entry in server.log if "exception" in entry]
        assert server.stop(signal.SIGTERM) == 0
