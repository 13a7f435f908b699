"""Notifications to systemd or another service manager (sd_notify(3)), and the directories that it provides."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROL_SOCKET_NAME: Final = "portspec.sock"  # in the runtime directory
MAX_STATUS: Final = 500  # characters
_SEND_TIMEOUT: Final = 2.0  # seconds; the queue of the service manager may be full

_log = log.get("app")


def control_socket(environment: Mapping[str, str]) -> str | None:
    """Return the path of the socket that `portspec reload` asks, in the unit's RuntimeDirectory; None without one."""
    directory = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return f"{directory}/{CONTROL_SOCKET_NAME}" if directory else None


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Return the limit that sd_watchdog_enabled(3) returns, in seconds; None without one for this process."""
    try:
        limit = int(environment.get("WATCHDOG_USEC", "0"))
        process = int(environment.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return limit / 1e6 if limit > 0 and process == os.getpid() else None


class ServiceManager:
    """The process at $NOTIFY_SOCKET of an environment; does nothing if that is not set.

    `watchdog` is after how many seconds without a ping it restarts this process; None if it never does.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog = _watchdog(environment) if self._address else None

    def ready(self, status: str) -> None:
        """Notify that the exporter is ready or a reload has finished, with a line for `systemctl status`."""
        self.tell("READY=1", f"STATUS={printable(status)[:MAX_STATUS]}")

    def reloading(self) -> None:
        """Notify that a reload has started. Type=notify-reload requires the monotonic time."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def tell(self, *assignments: str) -> None:
        """Send assignments as one datagram; log a failure."""
        if not self._address:
            return
        # An abstract socket begins with a NUL, which no environment can hold (unix(7)).
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_SEND_TIMEOUT)
                sock.sendto("\n".join(assignments).encode("utf-8", "backslashreplace"), address)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            _log.warning("notifying the service manager failed", socket=self._address, what=assignments[0], why=why)
