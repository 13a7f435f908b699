"""Names of the services of ports that alerts may be about. Kept for each chunk of hosts that stays the same."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from portspec.metrics.families import single_ports
from portspec.services import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.state.snapshot import HostState, HostTable


class ServiceNames:
    """Finds the ports of one table of hosts after the other. Not for two threads at a time."""

    def __init__(self) -> None:
        self._chunks: list[tuple[tuple[HostState, ...], frozenset[int]]] = []

    def of(self, hosts: HostTable[HostState]) -> list[tuple[int, str]]:
        """Give each port that deviates or has an exception at any host, and the name of its service, by port."""
        known = self._chunks
        self._chunks = [
            known[place] if place < len(known) and known[place][0] is states else (states, _ports(states))
            for place, states in enumerate(hosts.chunks)
        ]
        return named(port for _, ports in self._chunks for port in ports)


def named(ports: Iterable[int]) -> list[tuple[int, str]]:
    """Give the ports that have a name, each once, with it."""
    return [(port, name) for port in sorted(set(ports)) if (name := _name(port))]


def _ports(states: Iterable[HostState]) -> frozenset[int]:
    return frozenset[int]().union(*map(single_ports, states))


@cache  # the system reads a file for each
def _name(port: int) -> str | None:
    return name_of(port)
