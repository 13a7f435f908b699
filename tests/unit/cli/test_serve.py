from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

import portspec.app.process
from portspec import __version__
from portspec.cli import main
from tests.faults.registry import fault
from tests.unit.cli.run import PROGRAM, Server, run
from tests.unit.factories import process_restored
from tests.unit.scan.loopback import PATIENCE, eventually, listeners, own_address, ports_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.config import Config
    from portspec.inventory import Shard
    from tests.unit.cli.conftest import Configure

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("command", [("serve",), ()], ids=["serve", "default"])
def test_exporter_scans_and_serves(configure: Configure, command: Sequence[str]) -> None:
    """The exporter logs where it listens, scans at once, and serves metrics, page and readiness."""
    address = own_address()
    with listeners(address) as opened:
        (port,) = ports_of(opened)
        with Server(Path(configure({address: [port, 1]})), command=command, program=PROGRAM) as server:
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
                f'port_deviation{{address="{address}",host="{address}",kind="missing",port="{port}",'
                'severity="warning",state="closed"}'
            )
            eventually(lambda: wanted in server.get("/metrics")[1], "the closed port is seen")


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_stops_the_idle_exporter(configure: Configure, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the exporter between two rounds: exit 0, nothing on standard error."""
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
    """SIGTERM and SIGINT end the exporter while all ports of localhost are being scanned."""
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
    """SIGTERM ends the exporter also in the moment in which scans of many hosts begin."""
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

    async def crash(_: Config, __: Sequence[str], ___: Shard, **____: object) -> None:
        raise ZeroDivisionError("somewhere")

    monkeypatch.setattr(portspec.app.process, "serve", crash)
    with process_restored():
        assert main(["-j", "-c", configure({own_address(): []})]) == 70
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "portspec crashed"
    assert "ZeroDivisionError" in line


@fault(
    "http_sd",
    "start",
    "A slow source delays the first round by five seconds at most; SIGTERM ends the exporter meanwhile.",
)
def test_signal_stops_the_exporter_while_a_source_of_hosts_does_not_answer(configure: Configure) -> None:
    """SIGTERM ends the exporter also before it listens, while discovery is waited for."""
    with socket.create_server(("127.0.0.1", 0)) as mute, contextlib.ExitStack() as stack:
        source = {"url": f"http://127.0.0.1:{mute.getsockname()[1]}/"}
        server = Server(Path(configure({own_address(): []}, discovery={"http_sd": [source]})))
        stack.push(server)
        server._reader.start()
        mute.settimeout(PATIENCE)
        stack.enter_context(mute.accept()[0])
        assert server.stop(signal.SIGTERM) == 0


def test_hang_up_reads_the_configuration_again(configure: Configure) -> None:
    """SIGHUP reads conf.yml again: the hosts of the new file are those of /metrics, and the exporter goes on."""
    first, second = own_address(), own_address()
    with Server(Path(configure({first: []}))) as server:
        server.wait_for("round finished")
        configure({second: []})
        server.process.send_signal(signal.SIGHUP)
        assert server.wait_for("configuration reloaded")["hosts"] == 1
        metrics = server.get("/metrics?name[]=port_scan_interval_seconds")[1]
        assert f'host="{second}"' in metrics
        assert f'host="{first}"' not in metrics
        assert server.stop(signal.SIGTERM) == 0


def test_hang_up_with_a_bad_file_is_survived(configure: Configure) -> None:
    """SIGHUP with a file that is not right logs each problem with its line, and the hosts stay as they were."""
    address = own_address()
    with Server(Path(configure({address: []}))) as server:
        server.wait_for("round finished")
        conf = configure({address: []}, colour="blue")
        server.process.send_signal(signal.SIGHUP)
        told = server.wait_for("reload failed; keeping the previous configuration")
        assert told["level"] == "error"
        assert told["problem"].startswith(f"{conf}:1: colour: unknown key")
        assert "portspec_config_last_reload_successful 0.0" in server.get("/metrics")[1]
        assert server.stop(signal.SIGTERM) == 0


def test_restarted_exporter_is_ready_at_once(configure: Configure) -> None:
    """An exporter that is started again has the verdicts of the one before, also while no scan can end."""
    address = own_address()
    with Server(Path(configure({address: []}))) as server:
        server.wait_for("round finished")
        before = server.get("/metrics?name[]=port_last_scan_timestamp_seconds")[1]
        assert server.stop(signal.SIGTERM) == 0
    with Server(Path(configure({address: []}, "all", scan={"host_rate": 1}))) as server:
        assert server.get("/-/ready")[0] == 200
        assert server.get("/metrics?name[]=port_last_scan_timestamp_seconds")[1] == before
        assert server.stop(signal.SIGTERM) == 0


def test_exporter_scans_its_shard(configure: Configure) -> None:
    """With --shard the log and the metrics tell it, and the hosts of the other shards are left to others."""
    names: dict[str, list[int]] = {"127.77.0.0/28": []}
    found: list[str] = []
    for index in range(2):
        with Server(Path(configure(names, state=f"{index}.db")), "--shard", f"{index}/2") as server:
            assert server.wait_for("portspec started")["shard"] == f"{index}/2"
            metrics = server.get("/metrics?name[]=port_scan_interval_seconds&name[]=portspec_shard_info")[1]
            assert f'portspec_shard_info{{shard="{index}",shards="2"}} 1.0' in metrics
            found += re.findall(r'port_scan_interval_seconds{host="([^"]*)"', metrics)
            assert server.stop(signal.SIGTERM) == 0
    assert sorted(found) == sorted(f"127.77.0.{number}" for number in range(16))


@pytest.mark.parametrize(
    "text", ["", "1", "1/1", "3/3", "-1/3", "0/0", "a/b", "1/3/5", "0/3 ", "1 / 3", "²/3", "0/1e3"]
)
def test_wrong_shard_is_exit_2(configure: Configure, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no I/N with I below N is exit 2, with the spelling of one."""
    with process_restored():
        assert main(["-j", "-c", configure({own_address(): []}), f"--shard={text}"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    entry = json.loads(line)
    assert entry["level"] == "error"
    assert entry["event"] == (
        f'--shard: "{text}" is not a shard (expected I/N with I from 0 to N-1, such as "0/3" for the first of three)'
    )


@pytest.mark.parametrize("text", ["portspec.example.org", '"https://portspec.example.org"', "https://x/?a=b"])
def test_wrong_external_url_is_exit_2(configure: Configure, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no URL that a path can be added to is exit 2, with an example of one."""
    with process_restored():
        assert main(["-j", "-c", configure({own_address(): []}), f"--web.external-url={text}"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"].startswith(
        "--web.external-url: expected the URL at which people reach this exporter"
    )


HANGING = """\
import sys, threading
from portspec import log
from portspec.cli import main
from portspec.metrics import Exposition

once = Exposition.write

def write(*request, **fields):
    if "http" not in fields:  # not a scrape: what is rendered before the first one
        return once(*request, **fields)
    log.get("test").info("rendering")
    threading.Event().wait()

Exposition.write = write
sys.exit(main())
"""


def test_signal_stops_the_exporter_in_the_middle_of_a_scrape(configure: Configure) -> None:
    """SIGTERM ends the exporter while a scrape is being rendered that would take forever."""
    program = [sys.executable, "-c", HANGING]
    with Server(Path(configure({own_address(): []})), program=program) as server:
        address = urlsplit(server.wait_for("listening")["url"])
        assert address.port
        with socket.create_connection(("127.0.0.1", address.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.wait_for("rendering")
            assert server.stop(signal.SIGTERM) == 0
    assert server.log[-1]["event"] == "portspec stopped"
