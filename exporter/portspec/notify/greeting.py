"""As what a client says EHLO. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_MAX_NAME = 253  # characters (RFC 1035, 2.3.4)
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")  # RFC 5321, 4.1.2: sub-domain
# Below localhost each machine is itself, below invalid is none (RFC 6761, 6.3 and 6.4); localdomain is what installers
# put where there is no domain.
_NOWHERE: Final = {"localhost", "localdomain", "localhost4", "localhost6", "localdomain4", "localdomain6", "invalid"}


def greeting(name: str, address: str) -> str:
    """Give what EHLO is said with: the machine's name if it is a full domain name, else its address as a literal.

    `address` is the local one of the connection (RFC 5321, 4.1.1.1, 4.1.3 and 4.1.4).
    """
    name = name.removesuffix(".")
    return name if _is_full(name) else _literal(address)


def _is_full(name: str) -> bool:
    labels = name.split(".")
    last = labels[-1].lower()
    return (
        len(labels) > 1  # a container's a1b2c3d4e5f6 is a name, but of no domain
        and len(name) <= _MAX_NAME
        and all(map(_LABEL.fullmatch, labels))
        and not last.isdigit()  # an address (RFC 3696, 2)
        and last not in _NOWHERE
    )


def _literal(address: str) -> str:
    found = ipaddress.ip_address(
        address.partition("%")[0]
    )  # a zone has no meaning elsewhere, and no place in a literal
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return f"[IPv6:{found}]"
        found = found.ipv4_mapped  # the connection is one of IPv4
    return f"[{found}]"
