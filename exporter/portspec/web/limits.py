"""How many connections the web server keeps open, and for how long: the figures, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MANY_DESCRIPTORS: Final = 16384  # from which on MANY_PLACES are allowed; a scan uses at most half of the descriptors
MANY_PLACES: Final = 1024
FEW_PLACES: Final = 128  # well below the descriptors that the scan leaves free
SHARE: Final = 4  # one address may have a part in so many of the places
RESERVE: Final = 16  # and for each so many places, one more is kept for /metrics and the state of the process

# Why a connection is not accepted, or is closed by the server.
REASONS: Final = (
    "limit",
    "share",
    "displaced",
    "descriptors",
    "tls",
    "idle_timeout",
    "head_timeout",
    "body_timeout",
    "write_timeout",
    "head_size",
    "body_size",
    "tiny_chunks",
    "memory",
    "malformed",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the connections of one group of listeners; times are in seconds.

    `places` are open at once, of these `share` from one address (the /64 of an IPv6 address), and `reserve` more for
    requests that are answered whatever the load. `head` is the time from the first byte of a request, or from the
    connection, to the end of its header fields, which have at most `head_bytes`. `body` and `write` are times without
    progress, `idle` is the time from an answer to the next request, and `reserved` the time for both in the reserve. A
    connection does not give way to another one in its first `grace`, in which its request probably comes. An unread
    body may have `ignored_bytes` more after the answer. Limits are checked every `interval`.
    """

    places: int = MANY_PLACES
    share: int = MANY_PLACES // SHARE
    reserve: int = MANY_PLACES // RESERVE
    head: float = 10.0
    idle: float = 120.0  # longer than proxies keep a connection (60 to 90 s), so that they do not send into its end
    body: float = 30.0
    write: float = 30.0
    reserved: float = 2.0
    grace: float = 1.0
    head_bytes: int = 32 << 10
    ignored_bytes: int = 32 << 20
    interval: float = 1.0

    @classmethod
    def under(cls, descriptors: int) -> Limits:
        """Return the limits under a limit of file descriptors (RLIMIT_NOFILE)."""
        places = MANY_PLACES if descriptors >= MANY_DESCRIPTORS else FEW_PLACES
        return cls(places=places, share=places // SHARE, reserve=places // RESERVE)
