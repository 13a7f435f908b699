"""The web configuration in force, read again when one of its files changes."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.access.model import WebConfig


class CurrentWebConfig:
    """The web configuration in force.

    Without a path: the default one, for ever. Raises ConfigError if the file cannot be used at the start. `problem`
    says what is wrong with the file now, if anything is: answer 500 to every request then.
    """

    problem: str | None

    def __init__(self, path: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        raise NotImplementedError

    @property
    def config(self) -> WebConfig:
        """Return the configuration in force, without a look at the files."""
        raise NotImplementedError

    @property
    def is_tls(self) -> bool:
        """Return whether connections are encrypted. It stays as it was at the start."""
        raise NotImplementedError

    def refresh(self) -> WebConfig:
        """Read what has changed, and return the configuration in force. Cheap: call it for each request."""
        raise NotImplementedError

    def context_for_new_connection(self) -> ssl.SSLContext:
        """Read what has changed, and return the context for one new connection; only if `is_tls`."""
        raise NotImplementedError

    def listener_context(self) -> ssl.SSLContext:
        """Return a context for asyncio's create_server(ssl=…): each connection gets the one of then."""
        raise NotImplementedError
