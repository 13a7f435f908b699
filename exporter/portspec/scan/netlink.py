"""How this machine reaches an address, according to the kernel: route, link and neighbour (rtnetlink(7)).

No request needs a privilege. All use one socket that stays open, so that they work even if no descriptor is free.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Self

# linux/netlink.h, linux/rtnetlink.h, linux/if.h, linux/if_link.h, linux/neighbour.h
_NLMSG = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_IFINFOMSG = struct.Struct("=BxHiII")
_NDMSG = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_NLMSG_ERROR, _NLM_F_REQUEST = 2, 1
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_VIA = 1, 4, 5, 7, 18
_IFLA_IFNAME, _IFLA_LINK, _IFLA_EXT_MASK, _IFLA_CARRIER_CHANGES, _IFLA_LINK_NETNSID = 3, 5, 29, 35, 37
_NDA_DST = 1
_NESTED = 0xC000  # flags in the type of an attribute
_SKIP_STATISTICS = struct.pack("=I", 1 << 3)  # RTEXT_FILTER_SKIP_STATS: they are most of the answer about a link
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_NOARP, _IFF_LOWER_UP = 0x1, 0x8, 0x40, 0x80, 0x10000
_ALL_UP = _IFF_UP | _IFF_RUNNING | _IFF_LOWER_UP
_MAX_STACKED_LINKS = 8  # links upon one another; the kernel's MAX_NEST_DEV
# RTN_BROADCAST, RTN_MULTICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT
_PROHIBITED = errno.EHOSTUNREACH  # the kernel says EACCES, as it does of a packet filter
_UNUSABLE = {
    3: errno.ENETUNREACH,
    5: errno.ENETUNREACH,
    6: errno.EINVAL,
    7: errno.EHOSTUNREACH,
    8: _PROHIBITED,
}
_FORBIDDEN = {errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}  # what a sandbox says of netlink
_ANSWER = 65536  # bytes; the kernel's answers are far shorter
_SECONDS = 5.0  # the kernel answers at once


@dataclass(frozen=True, slots=True)
class Route:
    """Source address and interface of packets to an address, and their next hop: a gateway or the address itself."""

    source: str
    index: int  # of the interface
    next_hop: str


@dataclass(frozen=True, slots=True)
class Link:
    """An interface and those below it. `changes` counts how often carrier was lost or found.

    `is_up`: it is up, has carrier, and may be used (netdevice(7): IFF_UP, IFF_LOWER_UP, IFF_RUNNING).
    `has_neighbours` is false where packets need no link-layer address: loopback, tunnels.
    """

    name: str
    is_up: bool
    changes: int
    has_neighbours: bool


class Neighbour(enum.Enum):
    """What the kernel knows of the link-layer address of a next hop; compare ip-neighbour(8)."""

    ABSENT = enum.auto()  # no entry: nothing was sent to it, or it has expired
    UNRESOLVED = enum.auto()  # being resolved; packets wait
    FAILED = enum.auto()  # did not answer; packets were dropped
    UNSURE = enum.auto()  # known from earlier, in use, and not confirmed yet
    KNOWN = enum.auto()


# NUD_NONE (an entry that was just made), NUD_INCOMPLETE, NUD_DELAY, NUD_PROBE, NUD_FAILED; all others are KNOWN
_STATES = {
    0x00: Neighbour.UNRESOLVED,
    0x01: Neighbour.UNRESOLVED,
    0x08: Neighbour.UNSURE,
    0x10: Neighbour.UNSURE,
    0x20: Neighbour.FAILED,
}


class Netlink:
    """A netlink client, for one thread at a time. Raises OSError if netlink may not be used."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(_SECONDS)
        self._number = 0

    @classmethod
    def open_if_permitted(cls) -> Self | None:
        """Return a client; None if a sandbox forbids netlink."""
        try:
            return cls()
        except OSError as error:
            if error.errno in _FORBIDDEN:
                return None
            raise

    def close(self) -> None:
        """Close the socket. May be called twice."""
        self._socket.close()

    def route(self, address: str) -> Route:
        """Return the route to an IPv4 or IPv6 address; OSError, with the errno of a send, if there is none."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address)
        if packed.startswith(bytes(10) + b"\xff\xff"):  # IPv4-mapped addresses are never sent (RFC 4942, 2.2)
            raise _error(errno.EAFNOSUPPORT)
        body = _RTMSG.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
        answer = self._ask(_RTM_GETROUTE, body + _attribute(_RTA_DST, packed), _RTM_NEWROUTE)
        kind = _RTMSG.unpack_from(answer)[7]
        if kind in _UNUSABLE:
            raise _error(_UNUSABLE[kind])
        attributes = _attributes(answer[_RTMSG.size :])
        if _RTA_PREFSRC not in attributes or _RTA_OIF not in attributes:
            raise _error(errno.EADDRNOTAVAIL)
        next_hop = address
        if _RTA_GATEWAY in attributes:
            next_hop = socket.inet_ntop(family, attributes[_RTA_GATEWAY])
        elif _RTA_VIA in attributes:  # of another family: struct rtvia
            via = attributes[_RTA_VIA]
            next_hop = socket.inet_ntop(struct.unpack_from("=H", via)[0], via[2:])
        return Route(
            socket.inet_ntop(family, attributes[_RTA_PREFSRC]),
            struct.unpack("=i", attributes[_RTA_OIF])[0],
            next_hop,
        )

    def link(self, index: int) -> Link:
        """Return the state of an interface; OSError (ENODEV) if there is none."""
        first: Link | None = None
        is_up, changes, seen = True, 0, set[int]()
        while index and index not in seen and len(seen) < _MAX_STACKED_LINKS:
            seen.add(index)
            answer = self._ask(
                _RTM_GETLINK,
                _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + _attribute(_IFLA_EXT_MASK, _SKIP_STATISTICS),
                _RTM_NEWLINK,
            )
            flags = _IFINFOMSG.unpack_from(answer)[3]
            attributes = _attributes(answer[_IFINFOMSG.size :])
            is_up = is_up and flags & _ALL_UP == _ALL_UP
            changes += _number(attributes, _IFLA_CARRIER_CHANGES)
            if first is None:
                name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
                first = Link(name, is_up, changes, not flags & (_IFF_LOOPBACK | _IFF_NOARP))
            # The interface below it (of a VLAN, of a tunnel), unless that is in another namespace.
            index = 0 if _IFLA_LINK_NETNSID in attributes else _number(attributes, _IFLA_LINK)
        if first is None:
            raise _error(errno.ENODEV)
        return Link(first.name, is_up, changes, first.has_neighbours)

    def neighbour(self, route: Route) -> Neighbour:
        """Return what is known of the next hop of a route. KNOWN before Linux 5.0, which cannot look it up."""
        family = socket.AF_INET6 if ":" in route.next_hop else socket.AF_INET
        destination = _attribute(_NDA_DST, socket.inet_pton(family, route.next_hop))
        try:
            answer = self._ask(_RTM_GETNEIGH, _NDMSG.pack(family, route.index, 0, 0, 0) + destination, _RTM_NEWNEIGH)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return Neighbour.KNOWN
            if error.errno == errno.ENOENT:
                return Neighbour.ABSENT
            raise
        return _STATES.get(_NDMSG.unpack_from(answer)[2], Neighbour.KNOWN)

    def _ask(self, question: int, body: bytes, kind: int) -> bytes:
        """Return the body of the answer to a request; OSError if that is an error, or is of another kind."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        header = _NLMSG.pack(_NLMSG.size + len(body), question, _NLM_F_REQUEST, self._number, 0)
        self._socket.sendto(header + body, (0, 0))
        while True:
            answer = self._socket.recv(_ANSWER)
            length, got, _, number, _ = _NLMSG.unpack_from(answer)
            if number != self._number:  # the late answer to a request that timed out
                continue
            if got == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", answer, _NLMSG.size)[0]
                raise _error(_PROHIBITED if question == _RTM_GETROUTE and code == errno.EACCES else code)
            if got != kind:
                raise _error(errno.EOPNOTSUPP)
            return answer[_NLMSG.size : length]


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    place = 0
    while place + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        if length < _ATTRIBUTE.size:
            break
        found[kind & ~_NESTED] = data[place + _ATTRIBUTE.size : place + length]
        place += (length + 3) & ~3
    return found


def _number(attributes: dict[int, bytes], kind: int) -> int:
    data = attributes.get(kind, b"")
    return int.from_bytes(data[:4], "little" if struct.pack("=H", 1)[0] else "big")


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
