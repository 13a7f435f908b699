"""What systemd, or another service manager, is told of the exporter (sd_notify(3)), and what it gives it."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET: Final = "portspec.sock"  # in the runtime directory
MAX_STATUS: Final = 500  # characters
_PATIENCE: Final = 2.0  # seconds that a datagram may take: the manager's queue may be full

_log = log.get("app")


def control_socket(environment: Mapping[str, str]) -> str | None:
    """Give the path of the socket that `portspec reload` asks, in the unit's RuntimeDirectory; None without one."""
    directory = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return f"{directory}/{SOCKET}" if directory else None


class ServiceManager:
    """Whoever listens at $NOTIFY_SOCKET of an environment; nobody where that is not set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")

    def ready(self, status: str) -> None:
        """Tell that the exporter serves, or that a reload is over, with a line for `systemctl status`."""
        self.tell("READY=1", f"STATUS={printable(status)[:MAX_STATUS]}")

    def reloading(self) -> None:
        """Tell that a reload has begun. Type=notify-reload wants to know when, by the monotonic clock."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def tell(self, *assignments: str) -> None:
        """Send assignments as one datagram; what cannot be sent is told in the log."""
        if not self._address:
            return
        # An abstract socket begins with a NUL, which no environment can hold (unix(7)).
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.sendto("\n".join(assignments).encode("utf-8", "backslashreplace"), address)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            _log.warning("notifying the service manager failed", socket=self._address, what=assignments[0], why=why)
