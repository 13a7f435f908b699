from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import portspec.app
from portspec import __version__
from portspec.cli import main
from tests.unit.cli.run import Server, run
from tests.unit.factories import logging_restored
from tests.unit.scan.loopback import eventually, listeners, own_address, ports_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.config import Config
    from tests.unit.cli.conftest import Configure

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("command", [("serve",), ()], ids=["serve", "default"])
def test_exporter_scans_and_serves(configure: Configure, command: Sequence[str]) -> None:
    """The exporter logs where it listens, scans at once, and serves metrics, page and readiness."""
    address = own_address()
    with listeners(address) as opened:
        (port,) = ports_of(opened)
        with Server(Path(configure({address: [port, 1]})), command=command) as server:
            server.wait_for("round finished")
            status, metrics = server.get("/metrics")
            assert status == 200
            assert f'port_open{{host="{address}",port="{port}"}} 1.0' in metrics
            assert f'port_out_of_spec{{host="{address}"}} 1.0' in metrics
            assert "out of spec" in server.get("/")[1]
            assert server.get("/-/ready") == (200, "portspec is ready.\n")
            assert server.stop(signal.SIGTERM) == 0


def test_exporter_tells_how_it_was_started(configure: Configure) -> None:
    """The log begins with the engine, then version, file, number of hosts; its last line says that it has stopped."""
    conf = configure({own_address(): [], own_address(): []}, parallelscans=7, scan={"engine": "connect"})
    with Server(Path(conf)) as server:
        started = server.wait_for("portspec started")
        server.wait_for("round finished")
        server.stop(signal.SIGTERM)
        server.wait_for("portspec stopped")
    assert (started["version"], started["config"], started["hosts"]) == (__version__, conf, 2)
    assert (started["engine"], started["parallelscans"]) == ("connect", 7)
    assert [entry["event"] for entry in server.log[:2]] == ["engine chosen", "portspec started"]
    assert server.log[-1]["event"] == "portspec stopped"
    assert server.events("stopping")[0]["signal"] == "SIGTERM"


def test_hosts_are_scanned_again(configure: Configure) -> None:
    """After its interval a host is scanned again, and what changed meanwhile is seen."""
    address = own_address()
    with listeners(address) as opened:
        (port,) = ports_of(opened)
        with Server(Path(configure({address: [port]}, interval=1))) as server:
            server.wait_for("round finished")
            opened[0].close()
            wanted = (
                f'port_deviation{{address="{address}",host="{address}",kind="missing",port="{port}",state="closed"}}'
            )
            eventually(lambda: wanted in server.get("/metrics")[1], "the closed port is seen")


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_stops_the_idle_exporter(configure: Configure, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the exporter between two rounds within a second: exit 0, nothing on standard error."""
    with Server(Path(configure({own_address(): []}))) as server:
        server.wait_for("round finished")
        assert server.stop(number) == 0
        assert server.process.stderr
        assert server.process.stderr.read() == ""


@pytest.mark.parametrize("engine", ["auto", "connect"])
@pytest.mark.parametrize("number", SIGNALS)
def test_signal_stops_the_exporter_in_the_middle_of_a_scan(
    configure: Configure, number: signal.Signals, engine: str
) -> None:
    """SIGTERM and SIGINT end the exporter within a second while all ports of localhost are being scanned."""
    hosts: dict[str, list[int]] = {"localhost": [], "127.0.0.1": [], own_address(): []}
    conf = configure(hosts, "all", scan={"host_rate": 100, "engine": engine})
    with Server(Path(conf)) as server:
        assert server.get("/-/ready")[0] == 503
        assert server.stop(number) == 0
        assert server.process.stderr
        assert server.process.stderr.read() == ""
    assert server.events("round finished") == []


@pytest.mark.parametrize("engine", ["auto", "connect"])
def test_signal_stops_the_exporter_while_many_scans_begin(configure: Configure, engine: str) -> None:
    """SIGTERM ends the exporter within a second also in the moment in which scans of many hosts begin."""
    conf = configure({"127.88.0.0/24": []}, "all", parallelscans=200, scan={"engine": engine})
    with Server(Path(conf)) as server:
        assert server.stop(signal.SIGTERM) == 0


def test_address_in_use_is_exit_2(configure: Configure) -> None:
    """An address that is taken is one error line that names it and what to do, and exit 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("-j", "-c", configure({own_address(): []}), "--web.listen-address", address)
    assert (done.code, done.err) == (2, "")
    entries = [json.loads(line) for line in done.out.splitlines()]
    assert [(entry["level"], entry["event"]) for entry in entries if entry["level"] != "info"] == [
        (
            "error",
            f"cannot listen on {address}: address already in use; choose another address with --web.listen-address",
        )
    ]


@pytest.mark.parametrize("address", ["10190", "::1:80"])
def test_wrong_address_is_exit_2(configure: Configure, address: str) -> None:
    """What is no address to listen on is exit 2, with the spelling of one."""
    done = run("-c", configure({own_address(): []}), "--web.listen-address", address)
    assert (done.code, done.err) == (2, "")
    assert f'\\"{address}\\" is not an address and port' in done.out


def test_several_addresses_are_listened_on(configure: Configure) -> None:
    """--web.listen-address may be given more than once; each address has its line in the log."""
    with Server(Path(configure({own_address(): []})), "--web.listen-address", "[::1]:0") as server:
        eventually(lambda: len(server.events("listening")) == 2, "two addresses")
        urls = [entry["url"] for entry in server.events("listening")]
    assert urls[0].startswith("http://127.0.0.1:")
    assert urls[1].startswith("http://[::1]:")


def test_crash_of_the_exporter_is_logged(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault that ends the exporter is one line of the log with its traceback, and exit 70."""

    async def crash(_: Config, __: Sequence[str]) -> None:
        raise ZeroDivisionError("somewhere")

    monkeypatch.setattr(portspec.app, "serve", crash)
    with logging_restored():
        assert main(["-j", "-c", configure({own_address(): []})]) == 70
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "portspec crashed"
    assert "ZeroDivisionError" in line


def test_hang_up_is_told_and_survived(configure: Configure) -> None:
    """SIGHUP, by which other programs read their configuration again, is a warning, and the exporter goes on."""
    with Server(Path(configure({own_address(): []}))) as server:
        server.process.send_signal(signal.SIGHUP)
        told = server.wait_for("SIGHUP is ignored: restart portspec to read a changed conf.yml")
        assert told["level"] == "warning"
        assert server.get("/-/healthy")[0] == 200
        assert server.stop(signal.SIGTERM) == 0


HANGING = """\
import sys, threading
from portspec import log
from portspec.cli import main
from portspec.metrics import Exposition

def write(*_):
    log.get("test").info("rendering")
    threading.Event().wait()

Exposition.write = write
sys.exit(main())
"""


def test_signal_stops_the_exporter_in_the_middle_of_a_scrape(configure: Configure) -> None:
    """SIGTERM ends the exporter within a second while a scrape is being rendered that would take forever."""
    program = [sys.executable, "-c", HANGING]
    with Server(Path(configure({own_address(): []})), program=program) as server:
        address = urlsplit(server.wait_for("listening")["url"])
        assert address.port
        with socket.create_connection(("127.0.0.1", address.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.wait_for("rendering")
            assert server.stop(signal.SIGTERM) == 0
    assert server.log[-1]["event"] == "portspec stopped"
