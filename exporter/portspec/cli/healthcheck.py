"""`portspec healthcheck`: ask a running exporter for its health, for the health check of a container without curl."""

from __future__ import annotations

import http.client
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from portspec.cli.arguments import DEFAULT_URL
from portspec.cli.output import write
from portspec.errors import PortspecError, UsageError, printable

PATH: Final = "/-/healthy"
TIMEOUT: Final = 10.0  # seconds for the connection, and for the answer


def healthcheck(url: str) -> int:
    """Return 0 if the exporter at `url` says that it is healthy, else 1. Raises UsageError for what is no URL."""
    try:
        answer = _ask(url)
    except UsageError:
        raise
    except PortspecError as error:
        write(f"unhealthy: {error}\n")
        return 1
    write(answer)
    return 0


def _ask(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f'--url: expected a URL such as "{DEFAULT_URL}", found "{printable(url)}"')
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with closing(kind(host, port, timeout=TIMEOUT)) as connection:
            connection.request("GET", f"{parts.path.rstrip('/')}{PATH}")
            response = connection.getresponse()
            text = response.read(1000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        raise PortspecError(f"{url} does not answer: {why}") from None
    if response.status != http.client.OK:
        raise PortspecError(f"{url}{PATH} answers {response.status}")
    return text
