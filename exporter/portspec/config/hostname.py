"""What may stand as a host in conf.yml: a name, an IPv4 or IPv6 address, or a CIDR."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from portspec.config.source import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NETWORK_ADDRESSES = 65_536  # a /16; each address is a host with a state of its own

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def check_host(text: str) -> str:
    """Give the host back as it is; ValueError, with what to write instead, if it is none."""
    canonical(text)
    return text


def canonical(text: str) -> str:
    """Spell a host in the one form in which equal hosts are equal: lower case, no final dot, short IPv6.

    Raises ValueError if the text is no host (names: RFC 1123 section 2.1, with underscores as DNS has them).
    """
    if "://" in text:
        raise ValueError(f'"{shorten(text)}" is not a host (a host stands without port and scheme)')
    if "/" in text:
        return str(parse_network(text))
    if "%" in text:
        raise ValueError(f'"{text}" has a zone (%…); portspec scans addresses without one')
    address = _address(text)
    if address is not None:
        _check_address(text, address)
        return str(address)
    if found := re.fullmatch(r"\[?([^:\[\]]+|[^\[\]]+(?=\]))\]?:([0-9]+)", text):
        raise ValueError(f'"{text}" has a port; write it behind: "{found[1]}": [{found[2]}]')
    if ":" in text:
        raise ValueError(f'"{text}" is not an IPv6 address (a host stands without port, scheme and brackets)')
    return _canonical_name(text)


def canonical_one(text: str) -> str:
    """Spell a name or an address as `canonical` does; ValueError for a CIDR, too, and for what has a port."""
    if found := re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]+):[0-9]+", text):
        raise ValueError(f'"{text}" has a port; name the host alone: "{found[1].strip("[]")}"')
    form = canonical(text)
    if "/" in form:
        raise ValueError(f'"{text}" is a CIDR; name one host')
    return form


def parse_network(text: str) -> Network:
    """Read a CIDR such as 192.0.2.0/24; ValueError if it is none, has host bits, or too many addresses."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is not a CIDR (expected for example "192.0.2.0/24")') from None
    if str(network.network_address) != str(ipaddress.ip_address(text.split("/", maxsplit=1)[0])):
        raise ValueError(f'"{text}" has bits set behind its prefix (did you mean "{network}"?)')
    if network.is_multicast:
        raise ValueError(f'"{text}" is a range of multicast addresses, not of hosts')
    _check_address(text, network.network_address)
    _check_address(text, network.broadcast_address)
    if network.num_addresses > MAX_NETWORK_ADDRESSES:
        widest = network.max_prefixlen - 16
        raise ValueError(
            f'"{text}" is {network.num_addresses:,} addresses; '
            f"a CIDR may have at most {MAX_NETWORK_ADDRESSES:,} (/{widest})"
        )
    return network


def duplicates(hosts: Iterable[str]) -> dict[str, str]:
    """Find hosts that are another one in a different spelling: {later: first}; what is no host is left out."""
    seen: dict[str, str] = {}
    found: dict[str, str] = {}
    for host in hosts:
        try:
            form = canonical(host)
        except ValueError:
            continue
        if form in seen:
            found[host] = seen[form]
        else:
            seen[form] = host
    return found


def _check_address(text: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise ValueError(f'"{text}" is not the address of one host')
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            raise ValueError(f'"{text}" is an IPv4 address in disguise; write {address.ipv4_mapped}')
        if address.is_link_local:
            raise ValueError(f'"{text}" is a link-local address, which means nothing without a zone; name another one')


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _canonical_name(text: str) -> str:
    expected = "expected a name of letters, digits, - and _ with no - at an end, an IPv4 or IPv6 address, or a CIDR"
    try:
        ascii_name = text.removesuffix(".").encode("idna" if not text.isascii() else "ascii").decode().lower()
    except UnicodeError:
        raise ValueError(f'"{shorten(text)}" is not a host ({expected})') from None
    if re.fullmatch(r"[0-9]+(\.[0-9]+)*-[0-9.]+", ascii_name):
        raise ValueError(f'"{text}" looks like a range of addresses; write a CIDR, or one line for each address')
    labels = ascii_name.split(".")
    if len(ascii_name) > 253 or max(map(len, labels)) > 63:  # noqa: PLR2004 - RFC 1035, 2.3.4
        raise ValueError(f'"{shorten(text)}" is not a host (a name has at most 253 characters, 63 between two dots)')
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f'"{shorten(text)}" is not a host ({expected})')
    if labels[-1].isdigit():
        raise ValueError(f'"{text}" is not an IPv4 address (four numbers from 0 to 255 without leading zeros)')
    return ascii_name
