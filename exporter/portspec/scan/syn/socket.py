"""The raw sockets: probes out with sendmmsg(2), answers in through a ring shared with the kernel (packet(7)).

Probes are sent on raw IP sockets, so that routing, tunnels, loopback and the local packet filter treat them as any
other packet. Answers are received before the local packet filter, with the state of their checksum.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from portspec.scan.netlink import Netlink
from portspec.scan.syn import libc
from portspec.scan.syn.filter import FIRST_SOURCE_PORT, SOURCE_PORTS, filter4, filter6
from portspec.scan.syn.packets import SNAPSHOT, Answers, Frames, Probes, Template, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from portspec.scan.route import Network

BLOCKS = 64  # of SOURCE_PORTS; further exporters on one machine take the next
MAX_BATCH = 2048  # probes in one call of send()

_MIN_FRAMES, _MAX_FRAMES = 1 << 12, 1 << 15  # in a ring, of _FRAME bytes
_FRAME = 256
_BLOCK = 1 << 16
# linux/if_packet.h, linux/if_ether.h, asm-generic/socket.h, linux/in.h, linux/in6.h
_SOL_PACKET = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION = 5, 6, 10
_TPACKET_V2 = 1
_STATUS_USER, _STATUS_CSUM_NOT_READY, _STATUS_CSUM_VALID = 1, 1 << 3, 1 << 7
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_SO_ATTACH_FILTER, _SO_LOCK_FILTER = 26, 44
_IP_RECVERR, _IPV6_RECVERR = 11, 25
_NET_OFFSET = 14  # in struct tpacket2_hdr: where the IP header of a frame stands
_HEADER = np.dtype({"names": ["status", "length", "net", "seconds", "nanoseconds"],
                    "formats": ["u4", "u4", "u2", "u4", "u4"],
                    "offsets": [0, 4, _NET_OFFSET, 16, 20], "itemsize": _FRAME})  # fmt: skip
_IOVEC = np.dtype([("base", "u8"), ("length", "u8")])
_MMSGHDR = np.dtype(
    [("name", "u8"), ("name_length", "u4"), ("", "u4"), ("iov", "u8"), ("iov_length", "u8"),
     ("control", "u8"), ("control_length", "u8"), ("flags", "u4"), ("", "u4"), ("sent", "u4"), ("", "u4")]
)  # fmt: skip
MESSAGE_SIZE = _MMSGHDR.itemsize
_MAX_AGE = 1.0  # seconds that an answer may wait in the ring
_TEMPORARY = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR}


@dataclass(frozen=True, slots=True)
class Unsent:
    """Rows of a batch, first to last exclusive, that were not sent; `error` is 0 if they can be sent later."""

    first: int
    last: int
    error: int


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of a batch: when each row was sent, in seconds, and which rows were not."""

    at: NDArray[np.float64]
    unsent: list[Unsent]


class RawChannel:
    """The SYN engine's access to the network. Opening it needs CAP_NET_RAW, using it does not.

    Args:
        probes: the most probes that may be sent, if that is known: fewer need less memory for their answers, which the
            kernel takes milliseconds to provide.
        has_ip6: False if no probe will be sent to an IPv6 address.
        clock: a monotonic clock, in seconds.

    Raises:
        PermissionError: the process lacks CAP_NET_RAW.
        OSError: the kernel lacks what is needed.
    """

    def __init__(
        self, *, probes: int | None = None, has_ip6: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if struct.calcsize("P") != 8:  # noqa: PLR2004 - bytes
            raise OSError(errno.ENOSYS, "sending in batches requires a 64-bit system")
        self.dropped = 0  # answers for which the ring was full, in total
        self._clock = clock
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._epoll = stack.enter_context(select.epoll())
            self.network: Network = stack.enter_context(contextlib.closing(Netlink()))
            self.first_source_port = stack.enter_context(_reserve_source_ports())
            senders = max(1, min(4, len(os.sched_getaffinity(0))))
            frames = _MAX_FRAMES if probes is None else min(_MAX_FRAMES, max(_MIN_FRAMES, 1 << probes.bit_length()))
            self._rings = [
                stack.enter_context(contextlib.closing(_Ring(family, self.first_source_port, frames)))
                for family in _families(has_ip6=has_ip6)
            ]
            self._senders = {
                ring.family: stack.enter_context(contextlib.closing(_Sender(ring.family, senders, clock)))
                for ring in self._rings
            }
            for ring in self._rings:
                self._epoll.register(ring.fileno(), select.EPOLLIN)
            self._stack = stack.pop_all()

    def wake_on(self, fd: int) -> None:
        """Make wait() return, too, when a descriptor is readable."""
        self._epoll.register(fd, select.EPOLLIN)

    def wait(self, seconds: float | None) -> None:
        """Wait until something has arrived, at most so many seconds (None: without a limit)."""
        self._epoll.poll(seconds)

    def send(self, family: int, probes: Probes) -> Sent:
        """Send up to MAX_BATCH probes of one family."""
        return self._senders[family].send(probes)

    def receive(self) -> list[Answers]:
        """Return what has arrived since the last call."""
        answers: list[Answers] = []
        for ring in self._rings:
            now = self._clock()
            for frames in ring.take(now, time.time() - now):
                answers += parse(ring.family, frames)
            self.dropped += ring.dropped()
        return answers

    def close(self) -> None:
        """Close every socket. May be called twice."""
        self._stack.close()


def _families(*, has_ip6: bool) -> list[int]:
    families: list[int] = [socket.AF_INET]
    with contextlib.suppress(OSError):  # a kernel without IPv6
        if has_ip6:
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
            families.append(socket.AF_INET6)
    return families


@contextlib.contextmanager
def _reserve_source_ports() -> Iterator[int]:
    """Reserve a block of ports by binding them, so that no connection gets one of them; yields the first.

    For a port that is bound and does not listen the kernel answers a SYN-ACK with RST, so the target drops the
    half-open connection at once.
    """
    for number in range(BLOCKS):
        first = FIRST_SOURCE_PORT + number * SOURCE_PORTS
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + SOURCE_PORTS):
                    stack.enter_context(_hold(port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
            yield first
            return
    last = FIRST_SOURCE_PORT + BLOCKS * SOURCE_PORTS - 1
    raise OSError(errno.EADDRINUSE, f"no {SOURCE_PORTS} consecutive free ports between {FIRST_SOURCE_PORT} and {last}")


def _hold(port: int) -> socket.socket:
    """Bind a TCP port of both families, or of IPv4 where there is no IPv6."""
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        address: tuple[str, int] = ("::", port)
    except OSError:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        address = ("0.0.0.0", port)  # noqa: S104 - every address's port is held, and nothing listens
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


class MessageBlock:
    """Memory for up to MAX_BATCH probes of one family, laid out for sendmmsg. `address` is the first message's."""

    def __init__(self, family: int) -> None:
        self._template = Template(family, MAX_BATCH)
        self._is_ip4 = family == socket.AF_INET
        size = 16 if self._is_ip4 else 28  # struct sockaddr_in, sockaddr_in6
        self._names = np.zeros((MAX_BATCH, size), np.uint8)
        self._names[:, :2] = np.frombuffer(struct.pack("=H", family), np.uint8)
        rows = np.arange(MAX_BATCH, dtype=np.uint64)
        self._iov = np.zeros(MAX_BATCH, _IOVEC)
        self._iov["base"] = self._template.packets.ctypes.data + rows * self._template.length
        self._iov["length"] = self._template.length
        self._messages = np.zeros(MAX_BATCH, _MMSGHDR)
        self._messages["name"] = self._names.ctypes.data + rows * size
        self._messages["name_length"] = size
        self._messages["iov"] = self._iov.ctypes.data + rows * _IOVEC.itemsize
        self._messages["iov_length"] = 1
        self.address: int = self._messages.ctypes.data

    def fill(self, probes: Probes) -> None:
        """Write probes into the first messages."""
        self._template.fill(probes)
        total = len(probes)
        if self._is_ip4:
            self._names[:total, 4:8] = probes.peer[:, 12:]
        else:
            self._names[:total, 8:24] = probes.peer


class _Sender:
    """Sends batches of one family; a large one in parts, in parallel on several processors."""

    def __init__(self, family: int, parts: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._block = MessageBlock(family)
        with contextlib.ExitStack() as stack:
            self._sockets = [stack.enter_context(_raw_socket(family)) for _ in range(parts)]
            self._stack = stack.pop_all()
        self._start_pool: ThreadPoolExecutor | None = None
        self._is_alone = parts == 1

    def send(self, probes: Probes) -> Sent:
        self._block.fill(probes)
        total = len(probes)
        if total >= 2 * _MIN_PART and self._start_pool is None and not self._is_alone:
            # Not earlier: threads keep the capabilities that they begin with.
            self._start_pool = _start_pool(len(self._sockets) - 1)
            self._is_alone = self._start_pool is None
        parts = 1 if self._is_alone else max(1, min(len(self._sockets), total // _MIN_PART))
        edges = [total * number // parts for number in range(parts + 1)]
        report = Sent(np.zeros(total), [])
        others = [
            self._start_pool.submit(self._send_part, number, probes.target, edges[number], edges[number + 1], report)
            for number in range(1, parts)
            if self._start_pool
        ]
        self._send_part(0, probes.target, 0, edges[1], report)
        for other in others:
            other.result()
        return report

    def _send_part(self, number: int, target: NDArray[np.intp], start: int, last: int, report: Sent) -> None:
        fd = self._sockets[number].fileno()
        first = start
        while first < last:
            some = min(_ROWS_PER_CALL, last - first)
            report.at[first : first + some] = self._clock()
            try:
                first += libc.sendmmsg(fd, self._block.address + first * MESSAGE_SIZE, some, 0)
            except OSError as error:
                code = error.errno or errno.EIO
                if code in _TEMPORARY:
                    report.unsent.append(Unsent(first, last, 0))
                    return
                # What the kernel refuses for one target it refuses for all its rows, which are adjacent.
                end = first + int(np.searchsorted(target[first:last] != target[first], True))  # noqa: FBT003 - numpy's
                report.unsent.append(Unsent(first, end, code))
                first = end

    def close(self) -> None:
        if self._start_pool:
            self._start_pool.shutdown()
        self._stack.close()


def _start_pool(threads: int) -> ThreadPoolExecutor | None:
    """Start so many threads, now rather than on demand; None if the system does not allow so many."""
    pool = ThreadPoolExecutor(threads, "portspec-send")
    may_end = threading.Event()  # each is busy until the last one has started
    try:
        for _ in range(threads):
            pool.submit(may_end.wait)
    except RuntimeError:
        may_end.set()
        pool.shutdown()
        return None
    may_end.set()
    return pool


_ROWS_PER_CALL = 128  # in one sendmmsg(2); the clock is read between two of them
_MIN_PART = 256  # rows; a thread for fewer costs more than it saves


def _raw_socket(family: int) -> socket.socket:
    """Open a socket that sends whole IP packets (raw(7)) and receives nothing."""
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)  # cut to net.core.wmem_max
        # If the interface is slower than this program, a send waits up to 20 ms for a buffer, then fails with EAGAIN.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 20_000))
        # The kernel reports a full queue of the interface (ENOBUFS) only to sockets that ask for errors.
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class _Ring:
    """The received packets of one family, in a ring of so many frames shared with the kernel (PACKET_RX_RING)."""

    def __init__(self, family: int, first_source_port: int, frames: int) -> None:
        self.family = family
        is_ip4 = family == socket.AF_INET
        with contextlib.ExitStack() as stack:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC  # without link-layer headers, so all interfaces look alike
            protocol = socket.htons(_ETH_P_IP if is_ip4 else _ETH_P_IPV6)
            self._socket = stack.enter_context(socket.socket(socket.AF_PACKET, kind, protocol))
            # Packets that arrive before the filter is set are in the ordinary queue, which the ring replaces.
            _attach(self._socket, filter4(first_source_port) if is_ip4 else filter6(first_source_port))
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
            request = struct.pack("=IIII", _BLOCK, frames * _FRAME // _BLOCK, _FRAME, frames)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
            self._memory = mmap.mmap(self._socket.fileno(), frames * _FRAME)
            stack.callback(self._unmap)
            self._stack = stack.pop_all()
        self._frames = np.frombuffer(self._memory, np.uint8).reshape(frames, _FRAME)
        self._headers = np.frombuffer(self._memory, _HEADER)
        self._next = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self, now: float, offset: float) -> Iterator[Frames]:
        """Yield the frames that have arrived, in up to two runs; each is valid until the next one is taken.

        Args:
            now: the engine's time, in seconds.
            offset: the wall clock's time less that; the kernel's timestamps are of the wall clock.
        """
        for _ in range(2):
            status = self._headers["status"][self._next :]
            if not status[0] & _STATUS_USER:
                return
            count = _count_received(status)
            rows = slice(self._next, self._next + count)
            header = self._headers[rows]
            start = int(header["net"][0])
            sound = header["status"] & (_STATUS_CSUM_NOT_READY | _STATUS_CSUM_VALID) != 0
            at = header["seconds"] + header["nanoseconds"] * 1e-9 - offset
            at = np.where((at > now) | (at < now - _MAX_AGE), now, at)  # the wall clock was set
            yield Frames(self._frames[rows, start : start + SNAPSHOT], header["length"].copy(), sound, at)
            header["status"] = 0
            self._next = (self._next + count) % len(self._headers)

    def dropped(self) -> int:
        """Return how many answers were dropped since the last call because the ring was full."""
        _, drops = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(drops)

    def close(self) -> None:
        self._stack.close()

    def _unmap(self) -> None:
        for name in ("_frames", "_headers"):
            if hasattr(self, name):
                delattr(self, name)
        with contextlib.suppress(BufferError):  # a batch still refers to it, and frees it
            self._memory.close()


def _count_received(status: NDArray[np.uint32]) -> int:
    """Return how many of the next frames hold a packet: those before the first one that the kernel still owns.

    Looks at some at a time, since each is a line of the processor's cache of its own.
    """
    count, some = 0, 256
    while count < len(status):
        is_kernels = status[count : count + some] & _STATUS_USER == 0
        first = int(is_kernels.argmax())
        if is_kernels[first]:
            return count + first
        count, some = count + len(is_kernels), 2 * some
    return count


def _attach(sock: socket.socket, program: bytes) -> None:
    code = np.frombuffer(program, np.uint8)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, code.ctypes.data))
    sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)  # so that a compromised process cannot receive other packets
