"""`portspec reload`, and the socket that it asks."""

from __future__ import annotations

import shutil
import signal
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.cli.run import Server, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.cli.conftest import Configure


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a runtime directory whose path is short: that of a socket has at most 107 bytes (unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="portspec-"))
    yield path
    shutil.rmtree(path)


def test_reload_waits_and_tells_what_became_of_it(configure: Configure, directory: Path) -> None:
    """It ends when the file is in force: exit 0; of a bad file it prints every error: exit 2."""
    environment = {"RUNTIME_DIRECTORY": str(directory)}
    conf = configure({"127.0.0.1": []})
    with Server(Path(conf), extra=environment) as server:
        configure({"127.0.0.1": [], "127.0.0.2": []})
        done = run("reload", extra=environment)
        assert (done.code, done.out, done.err) == (0, "configuration reloaded.\n", "")
        assert "portspec_hosts 2.0" in server.get("/metrics")[1]
        Path(conf).write_text('hosts: {"127.0.0.1": ["80a"]}\nscanports: [x]\n', encoding="utf-8")
        done = run("reload", extra=environment)
        assert (done.code, done.out) == (2, "")
        assert f'{conf}:1: hosts."127.0.0.1": "80a" is not a port' in done.err
        assert f'{conf}:2: scanports: "x" is not a port' in done.err
        assert "portspec_hosts 2.0" in server.get("/metrics")[1]


def test_socket_is_for_this_user_and_goes_with_the_exporter(configure: Configure, directory: Path) -> None:
    """Nobody else may connect; one that a killed exporter left is in nobody's way."""
    path = directory / "portspec.sock"
    with Server(Path(configure({"127.0.0.1": []})), extra={"RUNTIME_DIRECTORY": str(directory)}) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        server.process.kill()
        server.process.wait()
    assert path.is_socket()
    with Server(Path(configure({"127.0.0.1": []})), extra={"RUNTIME_DIRECTORY": str(directory)}) as server:
        assert run("reload", extra={"RUNTIME_DIRECTORY": str(directory)}).code == 0
        assert server.stop(signal.SIGTERM) == 0


def test_exporter_that_cannot_listen_there_does_not_start(configure: Configure, directory: Path) -> None:
    """A runtime directory in which no socket can be made is an error that says what it is for."""
    path = directory / "none" / "portspec.sock"
    done = run("-c", configure({"127.0.0.1": []}), "--web.listen-address", "127.0.0.1:0",
               extra={"RUNTIME_DIRECTORY": str(path.parent)})  # fmt: skip
    assert done.code == 2
    assert f"cannot listen on {path}, which `portspec reload` uses: no such file or directory" in done.out


def test_nobody_answers(directory: Path) -> None:
    """Without an exporter it says where none is, and what other exporters do: exit 2."""
    environment = {"RUNTIME_DIRECTORY": str(directory)}
    done = run("reload", extra=environment)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"no exporter answers at {directory}/portspec.sock: no such file or directory; ")
    assert "SIGHUP" in done.err
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{directory}/portspec.sock")
    assert "connection refused" in run("reload", extra=environment).err
