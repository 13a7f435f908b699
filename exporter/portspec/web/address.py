"""Listen addresses of the command line, and what is served at each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from portspec.errors import UsageError
from portspec.names import address_of, query_name
from portspec.ports import MAX_PORT


class ListenerName(StrEnum):
    """What a listen address may be given the name of; without a name it serves all of them.

    Each serves /-/healthy and /-/ready, too.
    """

    METRICS = "metrics"  # what Prometheus asks for: /metrics, /probe, /sd/targets
    UI = "ui"  # the pages and the API
    AUDITS = "audits"  # what audited hosts reach: POST /api/v1/audits, and the agent


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen; host None is every address of the machine, port 0 any free one; service None is all of them."""

    host: str | None
    port: int
    service: ListenerName | None = None

    def __str__(self) -> str:
        host = self.host or ""
        address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        return f"{self.service}={address}" if self.service else address


def parse_listen_address(text: str) -> ListenAddress:
    """Read ":10190", "127.0.0.1:10190", "[::1]:10190" or "audits=:10191"; UsageError if it is not one of these."""
    name, equals, address = text.rpartition("=")
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    is_port = re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= MAX_PORT
    if not colon or not is_port or (":" in bare) != bracketed:
        raise UsageError(
            f'--web.listen-address: "{text}" is not an address and port '
            '(expected ":10190", "127.0.0.1:10190" or "[::1]:10190")'
        )
    if equals and name not in set(ListenerName):
        raise UsageError(
            f'--web.listen-address: "{name}" in "{text}" does not name what is served '
            f"(known: {', '.join(ListenerName)})"
        )
    if bare and not bracketed and address_of(bare) is None:
        try:
            bare = query_name(bare)
        except ValueError as error:
            raise UsageError(f"--web.listen-address: {error}") from None
    return ListenAddress(bare or None, int(port), ListenerName(name) if equals else None)
