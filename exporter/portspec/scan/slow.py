"""Slow scans: those that go on without a place, so that they keep nobody from being scanned. They cost memory alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 1024  # scans
MOST_PORTS = 128 * 65_536  # of all of them together; the SYN engine keeps 14 bytes of each, the connect engine less


class SlowScans:
    """Lets scans rest, at most `most` with `most_ports` ports in all; who comes later keeps its place and waits.

    Scans are known by any object that is their own. For one event loop.
    """

    def __init__(self, *, most: int = MOST, most_ports: int = MOST_PORTS) -> None:
        self._most = most
        self._most_ports = most_ports
        self._resting: dict[object, int] = {}
        self._ports = 0
        self._waiting: dict[object, tuple[int, Callable[[], object]]] = {}

    def __len__(self) -> int:
        return len(self._resting)

    def __contains__(self, scan: object) -> bool:
        return scan in self._resting

    def add(self, scan: object, ports: int, rest: Callable[[], object]) -> None:
        """Have a scan of so many ports rest, by calling `rest`, as soon as there is room."""
        self._waiting[scan] = ports, rest
        self._let_in()

    def end(self, scan: object) -> bool:
        """Forget a scan; gives whether it rested."""
        self._waiting.pop(scan, None)
        ports = self._resting.pop(scan, None)
        self._ports -= ports or 0
        self._let_in()
        return ports is not None

    def _let_in(self) -> None:
        while self._waiting:
            scan, (ports, rest) = next(iter(self._waiting.items()))
            if len(self._resting) >= self._most or self._ports + ports > max(self._most_ports, ports):
                return
            del self._waiting[scan]
            self._resting[scan] = ports
            self._ports += ports
            rest()
