"""A real exporter that the system gives too little: file descriptors, memory."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import signal
import socket
from typing import TYPE_CHECKING, Any, Final

from tests.e2e.exporter import PROGRAM, Exporter, exporter, until, write
from tests.faults.registry import fault

if TYPE_CHECKING:
    from pathlib import Path

HOST: Final = "127.0.0.1"
FEW: Final = 32  # descriptors; an idle exporter has some 20
NONE: Final = 3  # below the number of any descriptor that could be opened
LITTLE: Final = 100_000_000  # bytes of addresses, of which every process has more: nothing can be allocated
MANY: Final = 50  # lines; a few each minute
WAITS: Final = "cannot accept connections"


def events(running: Exporter, beginning: str) -> list[dict[str, Any]]:
    """Return the log lines of an event, by its beginning; others write there, too."""
    lines = [line for line in running.log.read_text().splitlines() if line.startswith("{")]
    return [entry for entry in map(json.loads, lines) if entry["event"].startswith(beginning)]


def ask_in_vain(running: Exporter, path: str) -> None:
    """Ask for a page and wait a second; whether it is answered does not matter."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(running.address, timeout=1.0)
        with contextlib.closing(connection):
            connection.request("GET", path)
            connection.getresponse().read()


@contextlib.contextmanager
def limited(running: Exporter, kind: int, limit: int) -> Any:
    """Lower a limit of a process for a while."""
    soft, hard = resource.prlimit(running.process.pid, kind)
    resource.prlimit(running.process.pid, kind, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(running.process.pid, kind, (soft, hard))


@fault("no descriptors", "start", "With a limit of 32 the exporter works, slowly; one line says what to raise.")
@fault("no descriptors", "metrics and pages", "Probes leave descriptors for the clients, however low the limit is.")
def test_exporter_with_few_descriptors_works(tmp_path: Path) -> None:
    """Every port is told right, each page is served while scans run, and the report and the state are written."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        ports = [1, "60000-60200"]
        report = tmp_path / "report.html"
        conf = write(tmp_path / "conf.yml", {HOST: [port]}, interval=1, scanports=ports, reportfile=str(report))
        with exporter(conf, program=("prlimit", f"--nofile={FEW}:{FEW}", *PROGRAM)) as running:
            running.wait_until_ready()
            for path in ("/", "/metrics", "/api/v1/hosts", "/api/v1/changes"):
                assert running.get(path).status == 200, path
            found = running.series()
            assert found["port_scan_success"] == {f'host="{HOST}"': 1.0}
            assert found["port_open"][f'host="{HOST}",port="{port}"'] == 1.0
            assert found["portspec_store_up"] == found["portspec_reportfile_up"] == {"": 1.0}
            assert [entry["limit"] for entry in events(running, "few files may be open")] == [FEW]
            assert events(running, WAITS) == []


@fault(
    "no descriptors",
    "scans",
    "Hosts are unknown (reason `local_limit`) meanwhile, and are scanned soon after.",
)
@fault(
    "no descriptors",
    "metrics and pages",
    "Clients wait until there are descriptors again; a few log lines a minute.",
)
@fault("no descriptors", "reload", "The reload fails; the previous configuration stays in force.")
def test_exporter_without_descriptors_recovers(tmp_path: Path) -> None:
    """Verdicts become unknown and not closed, a reload changes nothing, and all is well when the limit is lifted."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        conf = write(tmp_path / "conf.yml", {HOST: [port]}, interval=1, scanports=[1])
        with exporter(conf) as running:
            running.wait_until_ready()
            with limited(running, resource.RLIMIT_NOFILE, NONE):
                until(lambda: [entry for entry in events(running, "host scanned") if entry["verdict"] == "unknown"])
                running.process.send_signal(signal.SIGHUP)
                until(lambda: events(running, "reload failed"))
                ask_in_vain(running, "/metrics")
                until(lambda: events(running, WAITS))
            until(lambda: running.series()["port_scan_success"] == {f'host="{HOST}"': 1.0})
            assert running.series()["port_out_of_spec"] == {f'host="{HOST}"': 0.0}
            unknown = [entry for entry in events(running, "host scanned") if entry["verdict"] != "in_spec"]
            assert {(entry["verdict"], entry["reason"]) for entry in unknown} == {("unknown", "local_limit")}
            assert len(events(running, WAITS)) < MANY
            assert [row["to"] for row in running.json("/api/v1/changes")["changes"]] == ["open"]
            until(lambda: running.series()["portspec_store_up"] == {"": 1.0})


@fault(
    "memory short",
    "whole exporter",
    "The exporter may answer nobody meanwhile, and continues afterwards.",
)
@fault("memory short", "scans", "No port is reported as closed for want of memory.")
def test_exporter_without_memory_recovers(tmp_path: Path) -> None:
    """What cannot be done fails; when there is memory again every part runs, and no verdict has changed."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        conf = write(tmp_path / "conf.yml", {HOST: [port], "localhost": []}, interval=1, scanports=[1])
        with exporter(conf) as running:
            running.wait_until_ready()
            address = running.address
            with limited(running, resource.RLIMIT_AS, LITTLE):
                for path in ("/metrics", "/", "/api/v1/changes"):
                    ask_in_vain(running, path)
            assert running.address == address  # it is alive
            until(lambda: set(running.series()["portspec_part_up"].values()) == {1.0}, patience=60.0)
            before = running.series()["portspec_scan_rounds_total"][""]
            until(lambda: running.series()["portspec_scan_rounds_total"][""] > before + 1, patience=60.0)
            found = running.series()
            assert set(found["port_out_of_spec"].values()) == {0.0}
            assert found["port_scan_success"][f'host="{HOST}"'] == 1.0
            assert {row["to"] for row in running.json("/api/v1/changes")["changes"] if row["ports"] == str(port)} == {
                "open"
            }
