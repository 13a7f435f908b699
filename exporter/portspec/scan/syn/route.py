"""How this machine reaches an address: source address and interface, as its routing table says (rtnetlink(7))."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

# linux/netlink.h, linux/rtnetlink.h, linux/if.h
_NLMSG = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_RTM_GETROUTE, _RTM_NEWROUTE, _NLMSG_ERROR = 26, 24, 2
_NLM_F_REQUEST = 1
_RTA_DST, _RTA_OIF, _RTA_PREFSRC = 1, 4, 7
# RTN_BROADCAST, RTN_MULTICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT
_UNUSABLE = {
    3: errno.ENETUNREACH,
    5: errno.ENETUNREACH,
    6: errno.EINVAL,
    7: errno.EHOSTUNREACH,
    8: errno.EACCES,
}
_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_RUNNING = 0x1, 0x40


@dataclass(frozen=True, slots=True)
class Route:
    """Where packets to an address leave from."""

    source: str
    interface: str

    def is_up(self) -> bool:
        """Tell whether the interface is up and has a link (netdevice(7): IFF_UP, IFF_RUNNING)."""
        request = struct.pack("16sH22x", self.interface.encode(), 0)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, request)
        except OSError as error:
            return error.errno != errno.ENODEV  # it has gone; else nothing is known
        flags = struct.unpack_from("=H", answer, 16)[0]
        return bool(flags & _IFF_UP and flags & _IFF_RUNNING)


def look_up(address: str) -> Route:
    """Ask the kernel for the route to an IPv4 or IPv6 address; OSError, with the errno of a send, if there is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    if packed.startswith(bytes(10) + b"\xff\xff"):  # IPv4 in IPv6's clothes never travels (RFC 4942, 2.2)
        raise _error(errno.EAFNOSUPPORT)
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    body = _RTMSG.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + attribute
    header = _NLMSG.pack(_NLMSG.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.sendto(header + body, (0, 0))
        answer = netlink.recv(8192)
    _, kind, _, _, _ = _NLMSG.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        raise _error(-struct.unpack_from("=i", answer, _NLMSG.size)[0])
    route_kind = _RTMSG.unpack_from(answer, _NLMSG.size)[7]
    if kind != _RTM_NEWROUTE or route_kind in _UNUSABLE:
        raise _error(_UNUSABLE.get(route_kind, errno.ENETUNREACH))
    attributes = _attributes(answer[_NLMSG.size + _RTMSG.size :])
    if _RTA_PREFSRC not in attributes or _RTA_OIF not in attributes:
        raise _error(errno.EADDRNOTAVAIL)
    return Route(
        socket.inet_ntop(family, attributes[_RTA_PREFSRC]),
        socket.if_indextoname(struct.unpack("=I", attributes[_RTA_OIF])[0]),
    )


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
