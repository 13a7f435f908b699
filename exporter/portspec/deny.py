"""Networks to which a discovered host may not lead (`deny` in conf.yml). Pure.

Whoever writes a list of targets, or owns a name in it, chooses the addresses that portspec scans from where it stands:
its own loopback, the metadata service of its cloud. A host that stands in conf.yml was chosen by the operator.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portspec.names import address_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.names import Address, Network

# IPv6 addresses with an IPv4 address in their last 32 bits.
_IPV4_AT_END: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "::/96",  # IPv4-compatible (RFC 4291, 2.5.5.1)
            "::ffff:0:0/96",  # IPv4-mapped (RFC 4291, 2.5.5.2)
            "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765, 2.1)
            "64:ff9b::/96",  # NAT64 (RFC 6052, 2.1)
        ),
    )
)
_SITE_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_ISATAP: Final = 0x5EFE  # bits 64 to 95 but for two flags (RFC 5214, 6.1)
_ISATAP_FLAGS: Final = 0x03000000
_BITS: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Deny:
    """Networks that are denied. An IPv6 address that a translator turns into a denied IPv4 address is, too."""

    networks: tuple[Network, ...] = ()

    def network_of(self, text: str) -> Network | None:
        """Return the denied network that an address leads to; None if it is allowed, or no address."""
        address = address_of(text.partition("%")[0]) if self.networks else None
        for spelling in _spellings(address) if address else ():
            for network in self.networks:
                if spelling in network:
                    return network
        return None

    def fault_of(self, text: str) -> str | None:
        """Say that an address is denied and how to allow it, as "is denied to …"; None if it is allowed."""
        network = self.network_of(text)
        if network is None:
            return None
        return (
            f"is denied to discovered hosts (deny: {network}); to scan it, name the host under hosts, "
            "or leave the network out of deny"
        )


def deny_of(networks: Iterable[str]) -> Deny:
    """Make a Deny of CIDRs. Raises ValueError for a text that is none."""
    return Deny(tuple(map(ipaddress.ip_network, networks)))


NOTHING: Final = Deny()
#: What is denied unless conf.yml says otherwise.
DEFAULT: Final = deny_of(
    (
        "0.0.0.0/8",  # "this network" (RFC 1122, 3.2.1.3)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and the metadata services of most clouds
        "224.0.0.0/4",  # multicast
        "255.255.255.255/32",  # broadcast
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # WireServer of Azure
        "192.0.0.192/32",  # metadata of Oracle Cloud Classic
        "::/128",
        "::1/128",
        "fe80::/10",  # link-local
        "ff00::/8",  # multicast
        "fd00:ec2::/32",  # services of Amazon EC2, fd00:ec2::254 among them
        "fd20:ce::254/128",  # metadata of Google Cloud
        "fd00:c1::a9fe:a9fe/128",  # metadata of Oracle Cloud
        "fd00:42::42/128",  # metadata of Scaleway
    )
)


def _spellings(address: Address) -> Iterator[Address]:
    """Yield an address, and the IPv4 addresses that it may be translated to on the way."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    bits = int(address)
    if any(address in network for network in _IPV4_AT_END) or (bits >> 32) & _BITS & ~_ISATAP_FLAGS == _ISATAP:
        yield ipaddress.IPv4Address(bits & _BITS)
    if address in _SITE_NAT64:  # by a prefix of 96 bits, or one of 48, which leaves bits 64 to 71 out (RFC 6052, 2.2)
        inner = (bits & _BITS, (bits >> 48 & 0xFFFF0000) | (bits >> 40 & 0xFFFF))
        yield from map(ipaddress.IPv4Address, filter(None, inner))  # 0 where it is the other one
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo  # the server, and the client
