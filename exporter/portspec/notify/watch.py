"""Whether Alertmanager is healthy: while it is, a mailer that only stands in for it keeps still."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.errors import NoThreadError

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY: Final = 30.0  # seconds between two questions
TIMEOUT: Final = 10.0  # seconds for an answer


_log = log.get("notify")


class Watch:
    """Asks an Alertmanager at `url` how it is. It `has_failed` once it has not been healthy for `patience` seconds.

    The time before the first question does not count: an Alertmanager that starts with us is given its time.
    """

    def __init__(
        self, url: str, *, patience: float, timeout: float = TIMEOUT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = url
        self.has_failed = self.is_healthy = False
        self._patience = patience
        self._timeout = timeout
        self._clock = clock
        self._healthy_at = clock()
        self._is_told = False

    async def ask(self) -> None:
        """Ask once."""
        try:
            async with asyncio.timeout(self._timeout):
                why = await self._trouble()
        except TimeoutError:
            why = f"no answer in {self._timeout:g} s"
        except NoThreadError:  # the log tells of it; of Alertmanager it tells nothing
            return
        now = self._clock()
        if why is None:
            self._healthy_at = now
            if self._is_told:
                _log.info("Alertmanager is healthy again", url=self.url)
        elif not self._is_told:
            _log.warning(
                "Alertmanager is not healthy: unless it is soon, portspec sends mails itself",
                url=self.url,
                why=why,
                seconds=self._patience,
            )
        self._is_told = why is not None
        self.is_healthy = why is None
        self.has_failed = now - self._healthy_at >= self._patience

    async def _trouble(self) -> str | None:
        """Give what is wrong with it; None if nothing is (Alertmanager's management API: GET /-/healthy)."""
        from portspec import client  # and aiohttp with it, which commands do without

        try:
            status = await client.ask_status(f"{self.url}/-/healthy")
        except client.FAILURES as error:
            return client.why(error)
        return None if 200 <= status < 300 else f"it answers {status}"  # noqa: PLR2004 - RFC 9110, 15.3; a redirect leads to a page to log in
