"""Whether Alertmanager is healthy: while it is, a mailer that only stands in for it keeps still."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Final

from portspec import __version__, log
from portspec.errors import NoThreadError
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY: Final = 30.0  # seconds between two questions
TIMEOUT: Final = 10.0  # seconds for an answer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for what it is: not the answer of a healthy Alertmanager, but the way to a page to log in."""

    def redirect_request(self, *_: object) -> None:
        """Go nowhere."""


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

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
            async with asyncio.timeout(self._timeout):  # of all of it: urlopen's is for each byte
                why = await in_daemon_thread(self._trouble)
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

    def _trouble(self) -> str | None:
        """Give what is wrong with it; None if nothing is (Alertmanager's management API: GET /-/healthy)."""
        request = urllib.request.Request(  # noqa: S310 - http and https only: conf.yml is checked for that
            f"{self.url}/-/healthy", headers={"User-Agent": f"portspec/{__version__}"}
        )
        try:
            with _OPENER.open(request, timeout=self._timeout):
                return None
        except urllib.error.HTTPError as error:
            error.close()
            return f"it answers {error.code}"
        except (OSError, HTTPException, ValueError) as error:
            why = getattr(error, "reason", error)
            return ((isinstance(why, OSError) and why.strerror) or str(why) or type(error).__name__).lower()
