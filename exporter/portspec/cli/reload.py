"""`portspec reload`: make the exporter of the systemd unit reload its configuration, and print the result."""

from __future__ import annotations

import http.client
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Final

from portspec.app.servicemanager import CONTROL_SOCKET_NAME, control_socket
from portspec.cli.output import write
from portspec.errors import PortspecError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SOCKET: Final = f"/run/portspec/{CONTROL_SOCKET_NAME}"  # where deploy/systemd/portspec.service has it
RESPONSE_TIMEOUT: Final = 300.0  # seconds for the answer: a configuration of 100,000 hosts takes a few


class _Connection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=RESPONSE_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def reload(environment: Mapping[str, str]) -> int:
    """Request a reload. Raises PortspecError if no exporter answers, or the configuration is invalid."""
    path = _socket_path(environment)
    try:
        status, text = _request(path)
    except (OSError, http.client.HTTPException) as error:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        raise PortspecError(
            f"no exporter answers at {path}: {why}; `portspec reload` works with the systemd unit only; "
            "send SIGHUP to any other exporter"
        ) from None
    if status != http.client.OK:
        raise PortspecError(text.rstrip("\n"))
    write(text)
    return 0


def reload_if_running(environment: Mapping[str, str], *, is_automatic: bool) -> tuple[bool, str]:
    """Have the exporter of the systemd unit reload, if there is one.

    `is_automatic` tells whether an exporter looks for changes of conf.yml by itself. Returns whether nothing failed,
    and the lines that tell what came of it.
    """
    try:
        status, text = _request(_socket_path(environment))
    except (OSError, http.client.HTTPException):
        if is_automatic:
            return True, "a running exporter takes it up within half a minute.\n"
        return True, "send SIGHUP to a running exporter, so that it takes it up.\n"
    return status == http.client.OK, f"the exporter of the systemd unit says: {text}"


def _socket_path(environment: Mapping[str, str]) -> str:
    return control_socket(environment) or DEFAULT_SOCKET


def _request(path: str) -> tuple[int, str]:
    """Request a reload; returns status and text of the answer. Raises OSError or HTTPException."""
    with closing(_Connection(path)) as connection:
        connection.request("POST", "/-/reload")
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
