"""How the pages spell ports, services, processes and times. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from portspec.ports import PortSet, spell
from portspec.services import name_of
from portspec.times import moment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.audit.payload import ListeningSocket

MAX_NAMED_PORTS: Final = 20  # ports of a host whose services and processes are named
MAX_NAMED_PROCESSES: Final = 5  # processes that are named of a port
MAX_PORTS_LENGTH: Final = 300  # characters of a list of ports
_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def quoted(host: str) -> str:
    """Return a host as a part of the path of a URL."""
    return quote(host, safe=":", errors="replace")


def port_list(ports: PortSet) -> str:
    """Spell ports in a line that stays short when a machine answers on all of them; "" for none."""
    text = str(ports) if ports else ""
    if len(text) <= MAX_PORTS_LENGTH:
        return text
    return f"{text[:MAX_PORTS_LENGTH].rpartition(', ')[0]}, … ({len(ports):,} ports)"


def named_ports(ports: PortSet) -> str:
    """Spell ports with their services, if they are few; "" for none."""
    if len(ports) > MAX_NAMED_PORTS:
        return port_list(ports)
    return ", ".join(f"{spell(port)} ({name})" if (name := _service(port)) else spell(port) for port in ports)


_service = lru_cache(maxsize=4096)(name_of)  # which reads services(5) each time


def process_names(listeners: Iterable[ListeningSocket]) -> str:
    """Spell the processes that hold sockets, the first few."""
    names = sorted({item.spelled for item in listeners})
    more = [f"{len(names) - MAX_NAMED_PROCESSES:,} more"] if len(names) > MAX_NAMED_PROCESSES else []
    return ", ".join(names[:MAX_NAMED_PROCESSES] + more)


def full_time(seconds: float) -> str:
    """Spell Unix seconds: "2026-11-22 18:00:00 UTC"."""
    return moment(seconds).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock_time(seconds: float) -> str:
    """Spell the time of a day of Unix seconds, in UTC."""
    return moment(seconds).strftime("%H:%M:%S")


def rfc3339(seconds: float) -> str:
    """Spell Unix seconds for programs, in UTC."""
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def relative(seconds: float, now: float) -> str:
    """Spell a time from now: "4 min ago", "in 2 h", "now"."""
    distance = abs(now - seconds)
    for unit, size in _UNITS:
        if distance >= size:
            text = f"{int(distance // size)} {unit}"
            return f"{text} ago" if seconds < now else f"in {text}"
    return "now"
