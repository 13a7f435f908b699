"""The bytes of audits that have come in and are not archived yet, and whose they are: nobody shuts out the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from portspec.audit.admission import MAX_PACKED

MAX_HELD: Final = 128 << 20  # bytes in all: strangers may send some, too
MAX_OF_NETWORK: Final = 32 << 20  # of these, bytes from one network (audit.ingest.network_of)
MAX_OF_HOST: Final = MAX_PACKED + (1 << 20)  # and bytes that are said to be of one host: anybody may say so
MUCH_LARGER: Final = 2  # times as large: what gives way. Those of one size would push each other out


class NoRoomError(Exception):
    """An audit cannot be held now: others take all the room, and none of them is much larger."""


@dataclass(slots=True, eq=False)
class Body:
    """What has come in of one audit: `size` bytes, in `data` until they are taken out of it.

    `network` is where it comes from, `host` what it says it is of, None until that is read. `patience` ends it when its
    time is over, or to make room for others; then `is_displaced` is true.
    """

    network: str
    patience: asyncio.Timeout
    host: str | None = None
    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    is_displaced: bool = False

    def shares(self) -> list[tuple[str, str]]:
        """Return the shares that it is counted in."""
        of_host = [] if self.host is None else [("host", self.host)]
        return [("network", self.network), *of_host, ("all", "")]


class PendingBodies:
    """Bodies, within a share for each network and each host and a bound for all, in bytes; for one event loop.

    Where a share is full, the largest body in it gives way if it is much larger than the one that needs room; else the
    latter does. So a few who send much, or begin and do not end, cannot keep out audits of the usual size, and within
    a share they are in nobody's way but their own.
    """

    def __init__(self, *, most: int = MAX_HELD, of_network: int = MAX_OF_NETWORK, of_host: int = MAX_OF_HOST) -> None:
        self._most = {"all": most, "network": of_network, "host": of_host}
        self._bodies: set[Body] = set()
        self._held: Counter[tuple[str, str]] = Counter()  # bytes, by share

    @property
    def total(self) -> int:
        """The number of bytes that are held."""
        return self._held["all", ""]

    def add(self, body: Body, piece: bytes) -> None:
        """Hold some more of a body. Raises NoRoomError, and holds none of the piece."""
        size = len(piece)
        for share in body.shares():
            self._make_room(share, size, body)
        self._bodies.add(body)
        self._held.update(dict.fromkeys(body.shares(), size))
        body.data += piece
        body.size += size

    def identify(self, body: Body, host: str) -> None:
        """Count a body among those of a host from now on. Raises NoRoomError."""
        self._make_room(("host", host), body.size, body)
        body.host = host
        self._held["host", host] += body.size

    def release(self, body: Body) -> None:
        """Hold a body no longer."""
        if body in self._bodies:
            self._bodies.remove(body)
            self._held.subtract(dict.fromkeys(body.shares(), body.size))
            self._held = +self._held  # shares of nothing are left out

    def _make_room(self, share: tuple[str, str], size: int, body: Body) -> None:
        if body.is_displaced:
            raise NoRoomError
        while self._held[share] + size > self._most[share[0]]:
            others = (other for other in self._bodies if other is not body and share in other.shares())
            largest = max(others, key=lambda other: other.size, default=None)
            if largest is None or largest.size < MUCH_LARGER * (body.size + size):
                raise NoRoomError
            self._displace(largest)

    def _displace(self, body: Body) -> None:
        self.release(body)
        body.data.clear()
        body.is_displaced = True
        if not body.patience.expired():
            body.patience.reschedule(asyncio.get_running_loop().time())
