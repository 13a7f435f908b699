"""How commands ask the exporter of the systemd unit: HTTP over the control socket in its runtime directory."""

from __future__ import annotations

import http.client
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Final

from portspec.app.servicemanager import CONTROL_SOCKET_NAME, control_socket
from portspec.errors import PortspecError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SOCKET: Final = f"/run/portspec/{CONTROL_SOCKET_NAME}"  # where deploy/systemd/portspec.service has it
RESPONSE_TIMEOUT: Final = 300.0  # seconds for the answer: a configuration of 100,000 hosts takes a few
FAILURES: Final = (OSError, http.client.HTTPException)  # what ask() may raise


class _Connection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=RESPONSE_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def socket_path(environment: Mapping[str, str]) -> str:
    """Return the path of the control socket."""
    return control_socket(environment) or DEFAULT_SOCKET


def ask(path: str, method: str, target: str) -> tuple[int, str]:
    """Ask the exporter at a socket; returns status and text of the answer. Raises one of FAILURES."""
    with closing(_Connection(path)) as connection:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")


def no_answer(path: str, error: Exception, instead: str) -> PortspecError:
    """Return the error that says that no exporter answers, and what to do `instead`."""
    why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
    return PortspecError(f"no exporter answers at {path}: {why}; {instead}")
