"""The raw sockets: probes out with sendmmsg(2), answers in through a ring shared with the kernel (packet(7)).

Probes leave on raw IP sockets, so that routing, tunnels, loopback and the local packet filter treat them as any other
packet. Answers are taken where they arrive, before the local packet filter, with the checksum's state beside them.
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
from portspec.scan.syn.packets import MAX_EXTENSIONS, SNAPSHOT, Answers, Frames, Probes, Template, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from portspec.scan.way import Network

SOURCE_PORTS = 64  # one for each try, so that an answer tells which try it answers
FIRST_SOURCE_PORT = 61056  # above those that Linux gives to connections (ip_local_port_range)
BLOCKS = 64  # of SOURCE_PORTS; further exporters on one machine take the next
MAX_BATCH = 2048  # probes in one call of send()

_FRAMES = 1 << 15  # in a ring, of _FRAME bytes
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
_LONGEST = 1.0  # seconds that an answer lies in the ring
_LATER = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR}


@dataclass(frozen=True, slots=True)
class Unsent:
    """Rows of a batch, first to last exclusive, that were not sent; `error` is 0 where only the moment was wrong."""

    first: int
    last: int
    error: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a batch: when each row was sent, in seconds, and which rows were not."""

    at: NDArray[np.float64]
    unsent: list[Unsent]


class RawChannel:
    """Everything that the SYN engine does to the network. Opened with CAP_NET_RAW, used without.

    Raises PermissionError when opened without it, OSError when the kernel has none of what is needed.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        if struct.calcsize("P") != 8:  # noqa: PLR2004 - bytes
            raise OSError(errno.ENOSYS, "sending in batches is made for 64-bit systems")
        self.dropped = 0  # answers that found the ring full, in all
        self._clock = clock
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._epoll = stack.enter_context(select.epoll())
            self.network: Network = stack.enter_context(contextlib.closing(Netlink()))
            self.first_source_port = stack.enter_context(_reserve_source_ports())
            senders = max(1, min(4, len(os.sched_getaffinity(0))))
            self._rings = [
                stack.enter_context(contextlib.closing(_Ring(family, self.first_source_port))) for family in _families()
            ]
            self._senders = {
                ring.family: stack.enter_context(contextlib.closing(_Sender(ring.family, senders, clock)))
                for ring in self._rings
            }
            for ring in self._rings:
                self._epoll.register(ring.fileno(), select.EPOLLIN)
            self._stack = stack.pop_all()

    def wake_on(self, fd: int) -> None:
        """Have wait() return, too, when a descriptor is readable."""
        self._epoll.register(fd, select.EPOLLIN)

    def wait(self, seconds: float | None) -> None:
        """Wait until something has arrived, at most so long (None: for ever)."""
        self._epoll.poll(seconds)

    def send(self, family: int, probes: Probes) -> Sent:
        """Send up to MAX_BATCH probes of one family."""
        return self._senders[family].send(probes)

    def receive(self) -> list[Answers]:
        """Give what has arrived since the last call."""
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


def _families() -> list[int]:
    families: list[int] = [socket.AF_INET]
    with contextlib.suppress(OSError):  # a kernel without IPv6
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
        families.append(socket.AF_INET6)
    return families


@contextlib.contextmanager
def _reserve_source_ports() -> Iterator[int]:
    """Hold a block of ports by binding them, so that the kernel gives none of them to a connection; yields the first.

    A socket that is bound and does not listen makes the kernel answer a SYN-ACK with an RST, which is what a scan
    wants: the target forgets the connection at once.
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
    raise OSError(errno.EADDRINUSE, f"no {SOURCE_PORTS} free ports together between {FIRST_SOURCE_PORT} and {last}")


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
    """Memory for up to MAX_BATCH probes of one family, laid out for sendmmsg; `address`: of its first message."""

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
        """Write probes into the first places."""
        self._template.fill(probes)
        total = len(probes)
        if self._is_ip4:
            self._names[:total, 4:8] = probes.peer[:, 12:]
        else:
            self._names[:total, 8:24] = probes.peer


class _Sender:
    """Sends batches of one family; the parts of a large one in parallel, as many as there are processors to share."""

    def __init__(self, family: int, parts: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._block = MessageBlock(family)
        with contextlib.ExitStack() as stack:
            self._sockets = [stack.enter_context(_raw_socket(family)) for _ in range(parts)]
            self._stack = stack.pop_all()
        self._pool: ThreadPoolExecutor | None = None
        self._is_alone = parts == 1

    def send(self, probes: Probes) -> Sent:
        self._block.fill(probes)
        total = len(probes)
        if total >= 2 * _LEAST_PART and self._pool is None and not self._is_alone:
            # Not before there is something to send: threads keep the capabilities they begin with.
            self._pool = _pool(len(self._sockets) - 1)
            self._is_alone = self._pool is None
        parts = 1 if self._is_alone else max(1, min(len(self._sockets), total // _LEAST_PART))
        edges = [total * number // parts for number in range(parts + 1)]
        report = Sent(np.zeros(total), [])
        others = [
            self._pool.submit(self._send_part, number, probes.target, edges[number], edges[number + 1], report)
            for number in range(1, parts)
            if self._pool
        ]
        self._send_part(0, probes.target, 0, edges[1], report)
        for other in others:
            other.result()
        return report

    def _send_part(self, number: int, target: NDArray[np.intp], start: int, last: int, report: Sent) -> None:
        fd = self._sockets[number].fileno()
        first = start
        while first < last:
            some = min(_CALL, last - first)
            report.at[first : first + some] = self._clock()
            try:
                first += libc.sendmmsg(fd, self._block.address + first * MESSAGE_SIZE, some, 0)
            except OSError as error:
                code = error.errno or errno.EIO
                if code in _LATER:
                    report.unsent.append(Unsent(first, last, 0))
                    return
                # What the kernel refuses for one target it refuses for all its rows, which stand together.
                end = first + int(np.searchsorted(target[first:last] != target[first], True))  # noqa: FBT003 - numpy's
                report.unsent.append(Unsent(first, end, code))
                first = end

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown()
        self._stack.close()


def _pool(threads: int) -> ThreadPoolExecutor | None:
    """Start so many threads; None where the system gives less: one that is missed later would leave its part behind."""
    pool = ThreadPoolExecutor(threads, "portspec-send")
    may_end = threading.Event()  # each is busy until the last one has begun
    try:
        for _ in range(threads):
            pool.submit(may_end.wait)
    except RuntimeError:
        may_end.set()
        pool.shutdown()
        return None
    may_end.set()
    return pool


_CALL = 128  # rows in one system call: between two the clock is read, and what came before is sent
_LEAST_PART = 256  # rows; handing over fewer costs more than it saves


def _raw_socket(family: int) -> socket.socket:
    """Open a socket that sends whole IP packets (raw(7)) and receives nothing."""
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)  # cut to net.core.wmem_max
        # Where the interface is slower than this program, a send waits a moment for room (EAGAIN when it is over).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 20_000))
        # A full queue of the interface is told (ENOBUFS) only to who asks for errors.
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class _Ring:
    """What arrives of one family: a ring of frames that the kernel fills and this process reads (PACKET_RX_RING)."""

    def __init__(self, family: int, first_source_port: int) -> None:
        self.family = family
        is_ip4 = family == socket.AF_INET
        with contextlib.ExitStack() as stack:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC  # without link-layer headers, so all interfaces look alike
            protocol = socket.htons(_ETH_P_IP if is_ip4 else _ETH_P_IPV6)
            self._socket = stack.enter_context(socket.socket(socket.AF_PACKET, kind, protocol))
            # What comes before the filter is in place waits in the ordinary queue, which the ring replaces.
            _attach(self._socket, filter4(first_source_port) if is_ip4 else filter6(first_source_port))
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
            request = struct.pack("=IIII", _BLOCK, _FRAMES * _FRAME // _BLOCK, _FRAME, _FRAMES)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
            self._memory = mmap.mmap(self._socket.fileno(), _FRAMES * _FRAME)
            stack.callback(self._unmap)
            self._stack = stack.pop_all()
        self._frames = np.frombuffer(self._memory, np.uint8).reshape(_FRAMES, _FRAME)
        self._headers = np.frombuffer(self._memory, _HEADER)
        self._next = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self, now: float, offset: float) -> Iterator[Frames]:
        """Give the frames that have come, in up to two runs; they are the kernel's again when the next is asked for.

        `now` is the engine's time, `offset` the wall clock's less that, in seconds: the kernel notes the wall clock's.
        """
        for _ in range(2):
            status = self._headers["status"][self._next :]
            if not status[0] & _STATUS_USER:
                return
            kernels = status & _STATUS_USER == 0
            count = int(kernels.argmax()) if kernels.any() else len(status)
            rows = slice(self._next, self._next + count)
            header = self._headers[rows]
            start = int(header["net"][0])
            sound = header["status"] & (_STATUS_CSUM_NOT_READY | _STATUS_CSUM_VALID) != 0
            at = header["seconds"] + header["nanoseconds"] * 1e-9 - offset
            at = np.where((at > now) | (at < now - _LONGEST), now, at)  # somebody has set the clock
            yield Frames(self._frames[rows, start : start + SNAPSHOT], header["length"].copy(), sound, at)
            header["status"] = 0
            self._next = (self._next + count) % _FRAMES

    def dropped(self) -> int:
        """Give how many answers found the ring full since the last call."""
        _, drops = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(drops)

    def close(self) -> None:
        self._stack.close()

    def _unmap(self) -> None:
        for name in ("_frames", "_headers"):
            if hasattr(self, name):
                delattr(self, name)
        with contextlib.suppress(BufferError):  # a batch is still held somewhere: it goes with that
            self._memory.close()


# The filters are programs of the classic Berkeley packet filter (McCanne and Jacobson, 1993; linux/bpf_common.h). Each
# instruction is a code, how far to jump if true and if false, and a number; a jump of "yes" or "no" goes to the ends.
Instruction = tuple[int, int | str, int | str, int]
_LOAD_BYTE, _LOAD_HALF = 0x30, 0x28  # A = packet[k]
_LOAD_BYTE_X, _LOAD_HALF_X, _LOAD_WORD_X = 0x50, 0x48, 0x40  # A = packet[X + k]
_SET_X = 0x01  # X = k
_KEEP, _TAKE = 0x02, 0x60  # M[k] = A, A = M[k]
_HEADER_X = 0xB1  # X = 4 * (packet[k] & 15): the length of an IPv4 header
_AND, _SHIFT, _ADD, _ADD_X, _A_TO_X = 0x54, 0x64, 0x04, 0x0C, 0x07
_IF_EQUAL, _IF_ANY = 0x15, 0x45
_RETURN = 0x06
_BLOCK_MASK = 0xFFFF ^ (SOURCE_PORTS - 1)


def filter4(first_source_port: int) -> bytes:
    """Let through whole IPv4 packets only: SYN-ACK and RST-ACK to our ports, unreachables that quote TCP from them."""
    return _assemble(
        [
            (_LOAD_HALF, 0, 0, 6),
            (_IF_ANY, "no", 0, 0x3FFF),  # a fragment
            (_HEADER_X, 0, 0, 0),
            (_LOAD_BYTE, 0, 0, 9),
            (_IF_EQUAL, 0, 7, 6),  # TCP
            (_LOAD_HALF_X, 0, 0, 2),
            (_AND, 0, 0, _BLOCK_MASK),
            (_IF_EQUAL, 0, "no", first_source_port),
            (_LOAD_BYTE_X, 0, 0, 13),
            (_AND, 0, 0, 0x16),
            (_IF_EQUAL, "yes", 0, 0x12),
            (_IF_EQUAL, "yes", "no", 0x14),
            (_IF_EQUAL, 0, "no", 1),  # ICMP
            (_LOAD_BYTE_X, 0, 0, 0),
            (_IF_EQUAL, 0, "no", 3),
            (_LOAD_BYTE_X, 0, 0, 17),
            (_IF_EQUAL, 0, "no", 6),
            (_LOAD_BYTE_X, 0, 0, 8),
            (_AND, 0, 0, 15),
            (_SHIFT, 0, 0, 2),
            (_ADD_X, 0, 0, 0),
            (_A_TO_X, 0, 0, 0),
            (_LOAD_HALF_X, 0, 0, 8),
            (_AND, 0, 0, _BLOCK_MASK),
            (_IF_EQUAL, "yes", "no", first_source_port),
        ]
    )


def filter6(first_source_port: int) -> bytes:
    """Let through the same of IPv6, behind as many extension headers as parse() walks through."""
    program: list[Instruction] = [
        (_SET_X, 0, 0, 40),
        (_LOAD_BYTE, 0, 0, 6),
        (_IF_EQUAL, 5, 0, 0),  # hop-by-hop options, in the first place only
    ]
    for left in reversed(range(MAX_EXTENSIONS)):  # A is what follows, and X where it begins
        program += [
            (_IF_EQUAL, 4, 0, 43),  # routing
            (_IF_EQUAL, 3, 0, 60),  # destination options
            (_IF_EQUAL, 0, 10 + 13 * left, 44),  # fragment, else the end of the chain
            (_LOAD_WORD_X, 0, 0, 0),
            (_IF_ANY, "no", 0, 0x00FFFFF9),  # not the whole packet
            (_LOAD_BYTE_X, 0, 0, 0),
            (_KEEP, 0, 0, 0),
            (_LOAD_BYTE_X, 0, 0, 1),
            (_SHIFT, 0, 0, 3),
            (_ADD, 0, 0, 8),
            (_ADD_X, 0, 0, 0),
            (_A_TO_X, 0, 0, 0),
            (_TAKE, 0, 0, 0),
        ]
    program += [
        (_IF_EQUAL, 0, 7, 6),  # TCP
        (_LOAD_HALF_X, 0, 0, 2),
        (_AND, 0, 0, _BLOCK_MASK),
        (_IF_EQUAL, 0, "no", first_source_port),
        (_LOAD_BYTE_X, 0, 0, 13),
        (_AND, 0, 0, 0x16),
        (_IF_EQUAL, "yes", 0, 0x12),
        (_IF_EQUAL, "yes", "no", 0x14),
        (_IF_EQUAL, 0, "no", 58),  # ICMPv6
        (_LOAD_BYTE_X, 0, 0, 0),
        (_IF_EQUAL, 0, "no", 1),
        (_LOAD_BYTE_X, 0, 0, 14),
        (_IF_EQUAL, 0, "no", 6),
        (_LOAD_HALF_X, 0, 0, 48),
        (_AND, 0, 0, _BLOCK_MASK),
        (_IF_EQUAL, "yes", "no", first_source_port),
    ]
    return _assemble(program)


def _assemble(program: list[Instruction]) -> bytes:
    """Give the kernel's form (struct sock_filter), with the two ends: take SNAPSHOT bytes, or nothing."""
    ends = {"yes": len(program), "no": len(program) + 1}
    code = b"".join(
        struct.pack("=HBBI", code, *(ends[jump] - place - 1 if isinstance(jump, str) else jump for jump in jumps), k)
        for place, (code, *jumps, k) in enumerate(program)
    )
    return code + struct.pack("=HBBI", _RETURN, 0, 0, SNAPSHOT) + struct.pack("=HBBI", _RETURN, 0, 0, 0)


def _attach(sock: socket.socket, program: bytes) -> None:
    code = np.frombuffer(program, np.uint8)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, code.ctypes.data))
    sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)  # whoever takes over this process cannot listen to the rest
