"""Whether the Host header names this exporter, against DNS rebinding. Pure, except for local_names().

A page of a stranger may give its own name the address of the exporter, and is then of the same origin for a browser.
The request that its script sends has the stranger's name in Host.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from portspec.access.model import ALLOW_ALL_HOSTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# uri-host [ ":" port ] (RFC 9110, 7.2; RFC 3986, 3.2.2) of what browsers send: no percent-encoding, no user.
_HOST: Final = re.compile(r"(?:\[(?P<literal>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]*)?")
_BROWSER: Final = {"accept-language", "origin", "referer", "sec-fetch-site", "cookie"}
_LOCALHOST: Final = "localhost"  # and the names below it, which lead to loopback (RFC 6761, 6.3)


def host_is_ours(
    host_header: str | None,
    *,
    listening: Iterable[str],
    external_url: str | None,
    allowed_hosts: Collection[str],
    local_names: Iterable[str],
) -> bool:
    """Return whether a Host header names this exporter.

    True for an IP address, since rebinding needs a name; for localhost; for one of `local_names`; for the host of a
    listen address such as "portspec.example.org:10190", and of `external_url`; for `allowed_hosts`, of which
    "*.example.org" is any name below that one, and "*" any at all. Ports do not count, nor do case and a final dot.
    True for None and "", too: every browser sends a Host header.
    """
    if not host_header or ALLOW_ALL_HOSTS in allowed_hosts:
        return True
    found = _HOST.fullmatch(host_header.strip())
    if found is None:
        return False
    if found["literal"] is not None:
        return _is_address(found["literal"])
    host = _normal(found["name"])
    if _is_address(host) or host == _LOCALHOST or host.endswith(f".{_LOCALHOST}"):
        return True
    if host in allowed_hosts or any(
        host.endswith(pattern[1:]) for pattern in allowed_hosts if pattern.startswith("*.") and host != pattern[2:]
    ):
        return True
    ours = {_normal(name) for name in local_names} | {_listen_host(text) for text in listening}
    if external_url:
        ours.add(_normal(urlsplit(external_url).hostname or ""))
    return host in ours - {""}


def may_be_of_browser(headers: Mapping[str, str]) -> bool:
    """Return whether a browser may have sent a request: no other client can be the victim of DNS rebinding.

    Every browser sends Accept-Language, which no script can remove. Sec-Fetch-Site alone does not serve: browsers send
    it to trustworthy origins only, which http://NAME is not. Prometheus, curl and the agent send none of these headers.
    """
    names = {name.lower() for name in headers}
    agents = (value for name, value in headers.items() if name.lower() == "user-agent")
    return not names.isdisjoint(_BROWSER) or any(value.startswith("Mozilla/") for value in agents)


def _normal(name: str) -> str:
    return name.lower().removesuffix(".")


def _listen_host(text: str) -> str:
    """Return the host of ":10190", "name:10190", "192.0.2.1:10190" or "[::1]:10190", or of a host alone."""
    host, colon, port = text.rpartition(":")
    return _normal(host if colon and port.isdigit() else text).strip("[]")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def local_names() -> frozenset[str]:
    """Return the host name of this machine, and its fully qualified name. May wait for a name server."""
    names = {socket.gethostname()}
    names.add(socket.getfqdn())
    return frozenset(_normal(name) for name in names if name)
