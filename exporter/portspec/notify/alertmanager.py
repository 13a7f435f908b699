"""Health checks of Alertmanager, for a mailer that sends mails only while Alertmanager is down."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.errors import NoThreadError

if TYPE_CHECKING:
    from collections.abc import Callable

CHECK_INTERVAL: Final = 30.0  # seconds between two checks
TIMEOUT: Final = 10.0  # seconds for a response

_log = log.get("notify")


class AlertmanagerHealth:
    """The health of the Alertmanager at `url`. It `has_failed` once it has been unhealthy for `grace_period` seconds.

    The grace period begins with portspec: an Alertmanager that starts at the same time gets time to start.
    """

    def __init__(
        self, url: str, *, grace_period: float, timeout: float = TIMEOUT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = url
        self.has_failed = self.is_healthy = False
        self._grace_period = grace_period
        self._timeout = timeout
        self._clock = clock
        self._healthy_at = clock()
        self._is_logged = False

    async def check(self) -> None:
        """Check once."""
        try:
            async with asyncio.timeout(self._timeout):
                why = await self._problem()
        except TimeoutError:
            why = f"no response in {self._timeout:g} s"
        except NoThreadError:  # logged already, and it says nothing about Alertmanager
            return
        now = self._clock()
        if why is None:
            self._healthy_at = now
            if self._is_logged:
                _log.info("Alertmanager is healthy again", url=self.url)
        elif not self._is_logged:
            _log.warning(
                "Alertmanager is unhealthy, portspec sends mails if it does not recover",
                url=self.url,
                why=why,
                seconds=self._grace_period,
            )
        self._is_logged = why is not None
        self.is_healthy = why is None
        self.has_failed = now - self._healthy_at >= self._grace_period

    async def _problem(self) -> str | None:
        """Return what is wrong with it; None if it is healthy (Alertmanager's management API: GET /-/healthy)."""
        from portspec import client  # it imports aiohttp, which commands do not need

        try:
            status = await client.ask_status(f"{self.url}/-/healthy")
        except client.FAILURES as error:
            return client.why(error)
        return None if 200 <= status < 300 else f"HTTP status {status}"  # noqa: PLR2004 - RFC 9110, 15.3; a redirect usually leads to a login page
