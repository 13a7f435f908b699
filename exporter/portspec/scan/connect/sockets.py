"""The connect engine's use of the kernel's sockets, and what it relies on.

* A socket whose connect(2) failed can connect again, so that not every probe needs a new socket. The outcome of a
  connect in progress is read by calling connect again: it returns the error of the first one and leaves the socket
  unconnected (net/ipv4/af_inet.c, __inet_stream_connect).
* RST and ICMP "port unreachable" are both ECONNREFUSED. With IP_RECVERR an ICMP error is also in the socket's error
  queue, also while connecting (Linux 5.8). SO_MEMINFO says whether that queue is empty, without an exception.
* An ICMP error that arrives while the socket is locked does not end the connect, so the queue is read then, too.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
from dataclasses import dataclass

from portspec.scan.failures import NO_PERMISSION, NO_ROUTE
from portspec.scan.job import Failure, Reason

SO_MEMINFO = 55  # asm-generic/socket.h
QUEUE_EMPTY = b"\0\0\0\0"  # the first word of SO_MEMINFO, SK_MEMINFO_RMEM_ALLOC

RESET_SINCE = {errno.ECONNRESET, errno.EPIPE}
HANDSHAKE_DONE = {0, errno.EISCONN, *RESET_SINCE}
NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}
NO_RESOURCE = {errno.EADDRNOTAVAIL, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, *NO_DESCRIPTOR}

_IP_RECVERR = 11  # linux/in.h
_IPV6_RECVERR = 25  # linux/in6.h
_WINDOW_AT = 228  # linux/tcp.h: tcp_info.tcpi_snd_wnd
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_SOCK_EXTENDED_ERR = struct.Struct("=IBBBBII")  # linux/errqueue.h, then the offender's sockaddr
_ORIGIN_ICMP, _ORIGIN_ICMP6 = 2, 3
# Types and codes with which a packet filter rejects (RFC 792, RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
_REJECTIONS = {
    *((_ORIGIN_ICMP, 3, code) for code in (3, 9, 10, 13)),
    *((_ORIGIN_ICMP6, 1, code) for code in (1, 4, 5, 6)),
}


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMP error to a probe: its sender ("" if unknown), and whether packet filters send such errors."""

    offender: str
    is_rejection: bool


def open_socket(family: int) -> socket.socket:
    """Open a non-blocking socket that receives ICMP errors and closes with RST; OSError if none can be opened."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    return sock


class SocketPool:
    """The sockets that wait for a further probe, each with its descriptor, in `idle` by address family."""

    __slots__ = ("idle",)

    def __init__(self) -> None:
        self.idle: dict[int, list[tuple[int, socket.socket]]] = {socket.AF_INET: [], socket.AF_INET6: []}

    def __len__(self) -> int:
        return sum(map(len, self.idle.values()))

    def open(self, family: int, room: int) -> tuple[int, socket.socket]:
        """Open a socket; OSError if none can be opened. Closes the idle ones if there is no `room` for one more."""
        if len(self) >= room:
            self.close()
        try:
            sock = open_socket(family)
        except OSError:
            if not len(self):
                raise
            self.close()  # those of the other family
            sock = open_socket(family)
        return sock.fileno(), sock

    def close(self) -> None:
        """Close the idle sockets."""
        for sockets in self.idle.values():
            while sockets:
                sockets.pop()[1].close()


def connect_failure(address: str, family: int, code: int, what: str) -> Failure:
    """Return the failure of an address to which no probe can be sent: `what` ("no socket") and why."""
    if code in NO_RESOURCE:
        is_cut_off = code == errno.EADDRNOTAVAIL and not has_source_address(address, family)
        reason = Reason.NO_ROUTE if is_cut_off else Reason.LOCAL_LIMIT
    elif code in NO_PERMISSION:
        reason = Reason.PERMISSION
    else:
        reason = Reason.NO_ROUTE if code in NO_ROUTE else Reason.INTERNAL
    return Failure(reason, f"{what} to {address}: {explain(code)}")


def has_source_address(address: str, family: int) -> bool:
    """Return whether this machine has a route to an address and a source address for it.

    EADDRNOTAVAIL of a TCP connect means either that it has not, or that every local port is in use. A UDP socket sends
    nothing when it connects, and its ports are not those of TCP.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            return probe.connect_ex((address, 9)) == 0
    except OSError:
        return True


def is_self_connected(sock: socket.socket) -> bool:
    """Return whether a connection leads to its own socket (TCP simultaneous open, RFC 9293 section 3.5)."""
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # it was reset in the meantime
        return False


def refuse_data(sock: socket.socket) -> None:
    """Have the kernel keep as little as it can of what the peer of a connection sends; nobody reads it.

    By default it keeps 128 KiB (tcp_rmem, tcp(7)) of each connection, of which thousands may be held.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes 2,304 bytes of it (socket(7))


def is_reset(sock: socket.socket) -> bool:
    """Return whether the peer has reset a connection that was established."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def takes_data(sock: socket.socket) -> bool:
    """Return whether the peer of a connection has opened its window; a SYN proxy does so once its backend has answered.

    True where the kernel does not say (tcp_info has the peer's window since Linux 5.4).
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WINDOW_AT + 4)
    return len(info) < _WINDOW_AT + 4 or struct.unpack_from("=I", info, _WINDOW_AT)[0] > 0


def icmp_error(sock: socket.socket) -> IcmpError | None:
    """Remove an ICMP error from the socket's queue and return it (ip(7), IP_RECVERR); None if there is none."""
    try:
        _, ancillary, _, _ = sock.recvmsg(1, 512, socket.MSG_ERRQUEUE)
    except OSError:
        return None
    for _, _, data in ancillary:
        if len(data) <= _SOCK_EXTENDED_ERR.size:
            continue
        _, origin, kind, code, *_ = _SOCK_EXTENDED_ERR.unpack_from(data)
        if origin in (_ORIGIN_ICMP, _ORIGIN_ICMP6):
            offender = _address(data[_SOCK_EXTENDED_ERR.size :])
            return IcmpError(offender, (origin, kind, code) in _REJECTIONS)
    return None


def is_own_address(address: str) -> bool:
    """Return whether an address is this machine's: only those can be bound (ip(7)). "" is not."""
    if not address:
        return False
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def explain(code: int) -> str:
    """Return what an error number of connect means for the address, in words."""
    if code == errno.EINVAL:
        return "the route is a blackhole"
    return os.strerror(code).lower()


def _address(sockaddr: bytes) -> str:
    family = struct.unpack_from("=H", sockaddr)[0]
    if family == socket.AF_INET:
        return socket.inet_ntop(family, sockaddr[4:8])
    if family == socket.AF_INET6:
        return socket.inet_ntop(family, sockaddr[8:24])
    return ""


def syns_in(seconds: float) -> int:
    """Return how many SYNs the kernel sends in a time: one at once, and again after 1, 3, 7 … seconds (tcp(7))."""
    return int(math.log2(seconds + 1)) + 1
