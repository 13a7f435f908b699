"""Asks one name server (RFC 1035), and reads no more of its answer than costs little.

dnspython takes a time that grows with the square of the labels of each name: 26 seconds for an answer of 64 kB whose
records point to a name of 127 labels (measured). Whoever owns a name that is looked up writes the answer. So what was
received is looked through first, cut to its answers, and then read by dnspython in a thread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import dns.exception
import dns.inet
import dns.message
import dns.nameserver
import dns.query

from portspec.threads import computed

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER: Final = struct.Struct("!HHHHHH")
_RECORD: Final = struct.Struct("!HHIH")  # behind the name: type, class, time to live, length of the data
_A, _CNAME, _AAAA, _SRV = 1, 5, 28, 33
_MAX_LABELS: Final = 127  # of a name (RFC 1035, 2.3.4: 255 bytes)
_MAX_STEPS: Final = 2 * _MAX_LABELS  # labels and pointers of a name
MAX_COST: Final = 250_000  # labels squared of all names: 5,000 names of 7 labels, read in less than a second
_UDP_SIZE: Final = 65_535


class NameServer(dns.nameserver.Do53Nameserver):
    """A name server as dnspython's resolver asks it."""

    async def async_query(self, request: dns.message.QueryMessage, timeout: float, *_: Any, **options: Any) -> Any:  # noqa: ASYNC109 - its caller is dnspython
        """Return the answer to a request. Raises DNSException, OSError or EOFError."""
        try:
            async with asyncio.timeout(timeout):
                return await (self._over_tcp if options["max_size"] else self._over_udp)(request)
        except TimeoutError:
            raise dns.exception.Timeout from None

    async def _over_udp(self, request: dns.message.QueryMessage) -> dns.message.Message:
        """Ask, and wait for an answer that fits; others are forged, late, or cannot be read."""
        loop = asyncio.get_running_loop()
        with self._socket(socket.SOCK_DGRAM) as sock:
            sock.connect(self._place())  # so that the kernel takes datagrams of this server alone
            await loop.sock_sendall(sock, request.to_wire())
            while True:
                message = await loop.sock_recv(sock, _UDP_SIZE)
                try:
                    return await computed(_reader(request, message, over_udp=True))
                except dns.message.Truncated:
                    raise
                except dns.exception.DNSException:
                    continue

    async def _over_tcp(self, request: dns.message.QueryMessage) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        wire = request.to_wire()
        with self._socket(socket.SOCK_STREAM) as sock:
            await loop.sock_connect(sock, self._place())
            await loop.sock_sendall(sock, len(wire).to_bytes(2) + wire)
            size = int.from_bytes(await _exactly(loop, sock, 2))
            return await computed(_reader(request, await _exactly(loop, sock, size), over_udp=False))

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        return socket.socket(dns.inet.af_for_address(self.address), kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def _place(self) -> Any:
        return dns.inet.low_level_address_tuple((self.address, self.port))


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise EOFError("the connection was closed before the answer was complete")
        data += piece
    return bytes(data)


def _reader(request: dns.message.QueryMessage, message: bytes, *, over_udp: bool) -> Callable[[], dns.message.Message]:
    """Return what reads an answer; it raises DNSException if it is none to this request, or costs too much."""

    def read() -> dns.message.Message:
        if message[:2] != request.id.to_bytes(2):
            raise dns.query.BadResponse
        answer = dns.message.from_wire(trimmed(message), raise_on_truncation=over_udp)
        if not request.is_response(answer):
            raise dns.query.BadResponse
        return answer

    return read


def trimmed(message: bytes) -> bytes:
    """Return a message without what follows its answers. Raises FormError if it is malformed or costs too much."""
    try:
        number, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
        at, cost = _HEADER.size, 0
        for _ in range(questions):
            labels, at = _name(message, at)
            at += 4
            cost += labels**2
            _check(cost)
        for _ in range(answers):
            labels, at = _name(message, at)
            kind, _, _, length = _RECORD.unpack_from(message, at)
            start = at + _RECORD.size
            at = start + length
            cost += labels**2 + _labels_of(message, kind, start) ** 2
            _check(cost)
    except (IndexError, struct.error):
        at = len(message) + 1
    if at > len(message):
        raise _unreadable("is cut off")
    return _HEADER.pack(number, flags, questions, answers, 0, 0) + message[_HEADER.size : at]


def _unreadable(why: str) -> dns.exception.FormError:
    return dns.exception.FormError(f"the answer {why}")  # type: ignore[no-untyped-call]  # as all of dnspython's


def _check(cost: int) -> None:
    if cost > MAX_COST:
        raise _unreadable("has too many or too long names")


def _labels_of(message: bytes, kind: int, start: int) -> int:
    """Return how many labels the name in the data of a record has; the most that there can be for an unknown type."""
    if kind in {_A, _AAAA}:
        return 0
    if kind in {_CNAME, _SRV}:
        return _name(message, start + (6 if kind == _SRV else 0))[0]
    return _MAX_LABELS


def _name(message: bytes, at: int) -> tuple[int, int]:
    """Return the number of labels of a name, and where what follows it begins (RFC 1035, 4.1.4)."""
    labels, end = 0, 0
    for _ in range(_MAX_STEPS):
        length = message[at]
        if length >= 0xC0:  # noqa: PLR2004 - a pointer to an earlier place
            end = end or at + 2
            at, before = (length & 0x3F) << 8 | message[at + 1], at
            if at >= before:
                break
        elif length == 0:
            return labels, end or at + 1
        elif length > 63:  # noqa: PLR2004 - no label is longer (RFC 1035, 2.3.4)
            break
        else:
            labels += 1
            at += length + 1
    raise _unreadable("has a name that cannot be read")
