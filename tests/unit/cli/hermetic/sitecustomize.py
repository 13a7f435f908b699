"""Python imports this at its start as `sitecustomize`: in the programs of these tests no name server is asked.

Addresses and localhost resolve as always; all other names do not exist.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

_ask_the_system = socket.getaddrinfo


def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    """Look a name up as where there is no name server."""
    if host not in {None, "localhost"}:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
    return _ask_the_system(host, *arguments, **options)


if __name__ == "sitecustomize":
    socket.getaddrinfo = getaddrinfo
