"""The sockets that something listens on, as the report shows them: one line for a port and a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.audit.payload import ListeningSocket

MAX_SOCKETS: Final = 1000  # lines of a machine
MAX_ADDRESSES: Final = 20  # of a line


class Socket(NamedTuple):
    """A port, such as "22" or "53/udp", its addresses, and what listens there; "" where that is not told.

    A tuple, since a report has hundreds of thousands, and a frozen dataclass takes three times as long to make.
    """

    port: str
    addresses: str
    process: str
    user: str


def sockets(listeners: Iterable[ListeningSocket]) -> list[Socket]:
    """Give one for each port, process and user, by port; all of them, however many."""
    found: dict[tuple[str, int, str, str], dict[str, None]] = {}
    for item in listeners:
        key = item.protocol, item.port, item.process or "", item.user or ""
        found.setdefault(key, {})[item.address] = None
    return [
        Socket(str(port) if protocol == "tcp" else f"{port}/{protocol}", _some(list(addresses)), process, user)
        for (protocol, port, process, user), addresses in sorted(found.items(), key=lambda item: item[0])
    ]


def _some(addresses: list[str]) -> str:
    shown = ", ".join(addresses[:MAX_ADDRESSES])
    return shown if len(addresses) <= MAX_ADDRESSES else f"{shown} and {len(addresses) - MAX_ADDRESSES:,} more"
