"""The exporter on sockets that a service manager has opened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.e2e.exporter import PATIENCE, until, write
from tests.requirements import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PROGRAM: Final = (sys.executable, "-m", "portspec", "serve", "--web.systemd-socket")


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on; systemd-socket-activate takes no port 0."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def activated(directory: Path, names: Sequence[str], ports: Sequence[int]) -> Iterator[None]:
    """Run an exporter that gets its sockets as from a socket unit; it begins with the first connection."""
    conf = write(directory / "conf.yml", {"127.0.0.1": []}, scanports=["1"])
    listen = [word for port in ports for word in ("-l", f"127.0.0.1:{port}")]
    command = [require("systemd-socket-activate"), *listen, f"--fdname={':'.join(names)}", *PROGRAM, "-c", str(conf)]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait(PATIENCE)


def status(port: int, path: str) -> int:
    """Return the status of an answer, 0 without one."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_sockets_of_a_unit_serve_what_their_names_say(tmp_path: Path) -> None:
    """FileDescriptorName= takes the names of --web.listen-address; any other socket unit serves everything."""
    metrics, everything = free_ports(2)
    with activated(tmp_path, ["metrics", "portspec.socket"], [metrics, everything]):
        until(lambda: status(everything, "/-/ready") == 200)
        assert [status(metrics, path) for path in ("/metrics", "/")] == [200, 404]
        assert [status(everything, path) for path in ("/metrics", "/")] == [200, 200]


def test_without_a_socket_unit_the_option_is_an_error(tmp_path: Path) -> None:
    """A start by hand says that there is no socket, and how to get one."""
    conf = write(tmp_path / "conf.yml", {"127.0.0.1": []}, scanports=["1"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
    done = subprocess.run(
        [*PROGRAM, "-c", str(conf)], capture_output=True, text=True, check=False, env=environment, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "the service manager has passed no socket; start the socket unit" in done.stdout
