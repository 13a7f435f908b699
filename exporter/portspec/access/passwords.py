"""Checks passwords against bcrypt hashes, one at a time, beside the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.errors import PortspecError

if TYPE_CHECKING:
    from collections.abc import Mapping


class BusyError(PortspecError):
    """Too many passwords wait to be checked; ask again after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__("too many passwords are being checked; retry later")


class Passwords:
    """One for the process; for one event loop."""

    async def check(self, user: str, password: str, hashes: Mapping[str, str]) -> bool:
        """Return whether a password is that of a user. Raises BusyError."""
        raise NotImplementedError
