"""What the service manager is told, at a datagram socket of the test's own."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.app.service import Service
from portspec.app.servicemanager import MAX_STATUS, ServiceManager, control_socket
from portspec.config import load
from portspec.inventory import Shard
from tests.unit.app.exporter import engines, put, write
from tests.unit.store.scenes import Logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, socket.socket]]:
    """Return what $NOTIFY_SOCKET says, and the socket that is there: in a directory, or abstract (unix(7))."""
    name = secrets.token_hex(8)
    path = str(tmp_path / name)
    spelled, address = (path, path) if request.param == "path" else (f"@{name}", f"\0{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(10.0)
        yield spelled, sock


def told(sock: socket.socket) -> dict[str, str]:
    """Receive one datagram of assignments."""
    return dict(line.split("=", 1) for line in sock.recv(65536).decode().split("\n"))


def test_start_and_reloads_are_told_in_their_order(tmp_path: Path, manager: tuple[str, socket.socket]) -> None:
    """READY=1 when it serves; around each reload RELOADING=1 with the time, and READY=1 with what became of it."""
    conf = tmp_path / "conf.yml"
    write(conf, {"192.0.2.1": [22]})
    address, sock = manager

    async def scenario() -> None:
        service = Service(load(conf, {}), engines(), Shard(), ServiceManager({"NOTIFY_SOCKET": address}))
        try:
            service.open()
            await service.start()
            service.tell()
            assert told(sock) == {"READY": "1", "STATUS": "1 host"}
            for text in ("hosts: {", None):
                put(conf, text) if text else write(conf, {"192.0.2.1": [22], "192.0.2.2": [22]})
                before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                await service.reload()
                begun, ended = told(sock), told(sock)
                assert (begun["RELOADING"], ended["READY"]) == ("1", "1")
                assert before <= int(begun["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                assert ended["STATUS"].startswith("the last reload failed: " if text else "2 hosts")
        finally:
            service.store.close()

    asyncio.run(scenario())


@given(st.text(st.characters(codec="utf-8")))
def test_status_is_one_line(status: str) -> None:
    """Whatever an error quotes, it begins no assignment of its own, and is short."""
    name = f"\0{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.settimeout(10.0)
        ServiceManager({"NOTIFY_SOCKET": f"@{name[1:]}"}).ready(status)
        first, second = sock.recv(65536).decode().split("\n")
    assert first == "READY=1"
    assert second.startswith("STATUS=")
    assert len(second) <= len("STATUS=") + MAX_STATUS


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody-listens-here", "vsock:2:1234"])
def test_manager_that_is_not_there_is_told_in_the_log(address: str) -> None:
    """A socket at which nobody listens ends nothing; the log names it."""
    with Logs() as logs:
        ServiceManager({"NOTIFY_SOCKET": address}).ready("1 host")
    assert [(event["level"], event["socket"]) for event in logs.events] == [("warning", address)]


def test_without_a_manager_nothing_is_told() -> None:
    """Without $NOTIFY_SOCKET nothing is sent, and nothing is logged."""
    with Logs() as logs:
        ServiceManager({}).ready("1 host")
    assert logs.events == []


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({}, None),
        ({"RUNTIME_DIRECTORY": ""}, None),
        ({"RUNTIME_DIRECTORY": "/run/portspec"}, "/run/portspec/portspec.sock"),
        ({"RUNTIME_DIRECTORY": "/run/one:/run/two"}, "/run/one/portspec.sock"),
    ],
)
def test_control_socket_is_in_the_first_runtime_directory(environment: dict[str, str], path: str | None) -> None:
    """It is in the first directory that the unit's RuntimeDirectory= names, and nowhere without one."""
    assert control_socket(environment) == path
