from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.exporter import exporter, host_of, until, write
from tests.e2e.smtp import MailServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.e2e.exporter import Exporter

HOST: Final = "127.85.0.1"
REASON: Final = "new <b>kernel</b>"


@pytest.fixture
def service_socket() -> Iterator[socket.socket]:
    """Return a socket with a port of the host that is closed until it listens."""
    with closing(socket.socket()) as found:
        found.bind((HOST, 0))
        yield found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MailServer]:
    """Return a mail server."""
    with MailServer(tmp_path / "mail") as running:
        yield running


def command(environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Run `portspec maintenance`; returns its exit code, and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "portspec", "maintenance", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout + done.stderr


def value(service: Exporter, name: str) -> float | None:
    """Return the value of a series of the host; None if there is none."""
    found = {host_of(labels): sample for labels, sample in service.series().get(name, {}).items()}
    return found.get(HOST)


def wait_for_rounds(service: Exporter, count: int) -> None:
    """Wait for so many more rounds."""
    before = service.series()["portspec_scan_rounds_total"][""]
    until(lambda: service.series()["portspec_scan_rounds_total"][""] >= before + count)


def test_maintenance_survives_a_restart_and_holds_mails_back_until_its_end(
    tmp_path: Path, service_socket: socket.socket, server: MailServer
) -> None:
    """A host under maintenance is shown as it is, nobody gets a mail, and at the end everybody gets one."""
    port = service_socket.getsockname()[1]
    keys: dict[str, Any] = {"sendemail": True, "fromemail": "scan@example.org", "alertemail": ["ops@example.org"]}
    conf = write(tmp_path / "conf.yml", {HOST: []}, interval=1, scanports=[port], **keys, **server.keys())
    runtime = tmp_path / "run"
    runtime.mkdir()
    environment = {"RUNTIME_DIRECTORY": str(runtime)}

    assert command(environment, HOST, "--for", "1h")[0] == 2
    with exporter(conf, environment=environment) as service:
        service.wait_until_ready()
        assert value(service, "port_maintenance") is None
        code, text = command(environment, "127.85.0.2", "--for", "1h")
        assert (code, text) == (2, '"127.85.0.2" is not a host of this exporter\n')
        code, text = command(environment, HOST, "--for", "1h", "--reason", REASON)
        assert (code, text.startswith(f"{HOST}: maintenance until "), REASON in text) == (0, True, True), text
        assert value(service, "port_maintenance") == 1
        service_socket.listen()
        until(lambda: value(service, "port_out_of_spec") == 1)
        wait_for_rounds(service, 2)
        service.kill(signal.SIGTERM)

    with exporter(conf, log=tmp_path / "second.log", environment=environment) as service:
        until(lambda: value(service, "port_maintenance") == 1)
        wait_for_rounds(service, 2)
        assert value(service, "port_out_of_spec") == 1
        assert service.json(f"/api/v1/hosts/{HOST}")["maintenance"]["reason"] == REASON
        page = service.get(f"/hosts/{HOST}").text
        assert "new &lt;b&gt;kernel&lt;/b&gt;" in page
        assert REASON not in page
        assert server.mails() == []

        assert command(environment, HOST, "--end") == (0, f"{HOST}: no maintenance\n")
        assert value(service, "port_maintenance") is None
        (mail,) = until(server.mails)
        assert f"{HOST}: {port}" in str(mail.message["Subject"])
        assert "Maintenance ended" in mail.text
        wait_for_rounds(service, 2)
        assert len(server.mails()) == 1
        assert command(environment, HOST, "--end")[0] == 2
        assert command(environment, "--list") == (0, "no maintenance\n")
