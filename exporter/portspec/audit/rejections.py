"""The log of rejected audits: anybody may post, so only some a minute get a line."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.audit.ingest import network_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.audit.admission import RejectedError

MAX_LOGGED: Final = 60  # refused audits a minute from one network that get a line in the log: anybody may post
MAX_LOGGED_OF_ALL: Final = 4 * MAX_LOGGED  # from all of them: one network does not hide what others were refused

_log = log.get("audits")


class RejectionLog:
    """Logs rejected audits; beyond a limit per minute it logs only their number."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        """Args: `wall_clock` returns Unix seconds."""
        self._wall_clock = wall_clock
        self._minute = 0
        self._count = 0
        self._told: Counter[str] = Counter()  # by network

    def tell(self, error: RejectedError, origin: str) -> None:
        """Log an audit from an address that is rejected, unless too many were in this minute."""
        self.tell_rest()
        self._count += 1
        network = network_of(origin)
        if self._told.total() < MAX_LOGGED_OF_ALL and self._told[network] < MAX_LOGGED:
            self._told[network] += 1
            known = {"host": error.host} if error.host else {}
            _log.error("audit rejected", reason=error.reason, why=str(error), origin=origin, **known)

    def tell_rest(self) -> None:
        """Log how many more there were, once the minute is over."""
        minute = int(self._wall_clock() // 60)
        if minute != self._minute:
            if more := self._count - self._told.total():
                _log.error("more audits rejected", audits=more)
            self._minute, self._count = minute, 0
            self._told.clear()
