"""One connection of the web server: what it waits for, since when, and what it is closed for."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import PayloadAccessError, RequestPayloadError

from portspec.web.headers import ERROR_HEADERS
from portspec.web.problems import is_of_api, problem
from portspec.web.renderings import GoneError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.http import RawRequestMessage
    from aiohttp.streams import StreamReader

    from portspec.web.limits import Limits

LEAST_PROGRESS: Final = 4096  # bytes that a client must read of an answer within the time for that
LINGERING: Final = 10.0  # seconds for what is left of a body after the answer, so that the client sees the answer
UNSENT: Final = 128 << 10  # bytes that the kernel takes beyond what the client's window allows
MAX_HEADERS: Final = 100
READ_SIZE: Final = 8 << 10  # bytes that are read at a time: 256 KiB in chunks of one byte take 0.2 s to parse
MAX_OVERHEAD: Final = 32 << 10  # bytes of the framing of chunks, and of what is read and not parsed yet
MAX_OVERHEAD_TLS: Final = 512 << 10  # asyncio's TLS reads up to 256 KiB at a time
OVERHEAD_SHARE: Final = 0.25  # of the bytes of a body may be framing: its chunks have 16 bytes or more
TINY_CHUNK: Final = 16  # bytes with framing: a body whose chunks are smaller is given up before they are parsed
_LAST_CHUNK: Final = b"0\r\n\r\n"
SMALL_BODY: Final = 16 << 10  # bytes of an unread body after which a connection can be used again


class Phase(enum.Enum):
    """What a connection does."""

    SILENT = "silent"  # waits for the first byte
    HANDSHAKE = "handshake"
    HEAD = "head"  # waits for the rest of a request
    IDLE = "idle"  # waits for the next request
    REQUEST = "request"  # a request is answered; its body may be still to come
    LINGER = "linger"  # the answer is written; the rest of the body is ignored


class Keeper(Protocol):
    """What keeps the connections of a group."""

    @property
    def limits(self) -> Limits:
        """Their limits."""
        ...

    def now(self) -> float:
        """Return the time that limits are measured with, in seconds."""
        ...

    def touch(self, connection: Connection) -> None:
        """Note that a connection makes progress now."""
        ...

    def close(self, connection: Connection, reason: str) -> None:
        """Close a connection for a reason of limits.REASONS."""
        ...

    def remove(self, connection: Connection) -> None:
        """Give back the place of a connection that has ended."""
        ...

    def on_error(self, address: str | None, error: BaseException | None, *, is_malformed: bool, told: str = "") -> None:
        """Log a malformed request or a fault."""
        ...


class Connection(web.RequestHandler):
    """A connection of aiohttp's server that knows how long it has waited for its client.

    It builds on the queue, the counter and the factory of requests of aiohttp's class, which tests pin.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_connections",
        "_head",
        "_ignored",
        "_is_chunked",
        "_is_last",
        "_last",
        "_left",
        "_max_overhead",
        "_on_lost",
        "_phase",
        "_unsent",
        "_wire",
        "end_start",
        "is_reserved",
        "is_stalled",
        "network",
        "since",
    )

    def __init__(self, server: web.Server, connections: Keeper, network: str | None) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # as AppRunner does without one
            auto_decompress=False,  # a small body may be gigabytes when it is unpacked
            lingering_time=LINGERING,
            max_headers=MAX_HEADERS,
        )
        self.network = network
        self.is_reserved = False
        self.is_stalled = False  # the client does not read
        self._is_last = False  # there is no request after the one that is answered
        self.since = connections.now()  # of the phase, or of the last progress in it
        self.end_start: Callable[[], object] | None = None  # ends what comes before the transport
        self._connections = connections
        self._phase = Phase.SILENT
        self._wire: asyncio.Transport | None = None
        self._body: StreamReader | None = None  # of the request that is answered
        self._last: StreamReader | None = None  # of the request that was read last
        self._is_chunked = False  # whether its body is in chunks
        self._head = self._ignored = self._unsent = self._body_bytes = 0  # bytes
        self._left: float = 0  # bytes of the body after the answer
        self._max_overhead = MAX_OVERHEAD
        self._on_lost: set[Callable[[], object]] = set()
        make = server.request_factory

        def factory(message: RawRequestMessage, payload: StreamReader, *others: Any) -> web.BaseRequest:
            self._begin(payload)
            return make(message, payload, *others)

        self._request_factory = factory

    @property
    def is_waiting(self) -> bool:
        """True unless a request is being answered."""
        return self._phase is not Phase.REQUEST

    @property
    def is_resting(self) -> bool:
        """True while it waits, and no request is probably coming."""
        return self._phase in (Phase.IDLE, Phase.LINGER) or (self.is_reserved and self.is_waiting)

    def is_old(self, now: float) -> bool:
        """Return whether it has made no progress for so long that its request is probably not coming."""
        return now - self.since >= self._connections.limits.grace

    def gives_way(self, now: float) -> bool:
        """Return whether it may be closed for another one: no request is lost that is complete, or probably coming."""
        return self.is_waiting and not self._messages and (self.is_resting or self.is_old(now))

    def overdue(self, now: float) -> str | None:
        """Return the limit that it exceeds (one of limits.REASONS), None if it does not."""
        limits = self._connections.limits
        wire = self._wire
        if self._phase is Phase.SILENT:
            limit = limits.reserved if self.is_reserved else limits.head
            return "head_timeout" if now - self.since >= limit else None
        if wire is None:
            return None  # the handshake has a limit of its own
        if self.is_stalled or wire.is_closing():
            unsent = wire.get_write_buffer_size()
            if unsent <= self._unsent - LEAST_PROGRESS:
                self._unsent = unsent
                self._touch()
            return "write_timeout" if now - self.since >= limits.write else None
        match self._phase:
            case Phase.REQUEST | Phase.LINGER if self._body is not None and not self._body.is_eof():
                reason, limit = "body_timeout", limits.body
            case Phase.REQUEST:
                return None
            case Phase.IDLE:
                reason, limit = "idle_timeout", limits.reserved if self.is_reserved else limits.idle
            case _:
                reason, limit = "head_timeout", limits.reserved if self.is_reserved else limits.head
        return reason if now - self.since >= limit and not self._messages else None

    def begin(self) -> None:
        """Note that the client has sent its first byte, of a handshake or of a request."""
        self._turn_to(Phase.HANDSHAKE)

    def give_up(self, reason: str) -> None:
        """Close it at once for a reason of limits.REASONS."""
        self._connections.close(self, reason)

    def abort(self) -> None:
        """Close it at once, whatever is unsent."""
        if self._wire is not None:
            self._wire.abort()
        elif self.end_start is not None:
            self.end_start()

    @contextlib.asynccontextmanager
    async def while_open(self) -> AsyncIterator[None]:
        """Cancel what is done here when the client disconnects; it then raises GoneError."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as patience:

                def end() -> None:
                    if not patience.expired():
                        patience.reschedule(loop.time())

                self._on_lost.add(end)
                try:
                    yield
                finally:
                    self._on_lost.discard(end)
        except TimeoutError:
            if not patience.expired():
                raise
            raise GoneError from None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"{transport!r} is not a stream")
        self._wire = transport
        vars(transport)["max_size"] = READ_SIZE  # asyncio has no parameter for it; one for TLS has other buffers
        if transport.get_extra_info("sslcontext"):
            self._max_overhead = MAX_OVERHEAD_TLS
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self._turn_to(Phase.HEAD)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give back the place, and end what is done for the client alone; also when no transport was made."""
        self._connections.remove(self)
        self._wire = None
        if self._phase is Phase.LINGER and self._body and not self._body.is_eof():
            self._body.feed_eof()  # aiohttp would wait for it
        for end in tuple(self._on_lost):
            end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read requests; what is not the end of a head within the limits ends the connection."""
        if self._phase is Phase.LINGER and self._is_last:
            self._ignore(data)  # and do not parse it
            return
        is_body = self._last is not None and not self._last.is_eof()
        if (self._is_chunked or not is_body) and _has_tiny_chunks(data):  # the lines of a head are longer
            self._connections.close(self, "tiny_chunks")
            return
        count = self._request_count
        super().data_received(data)
        if not data:
            return  # aiohttp goes on with what it has
        if self._request_count > count:
            self._head = 0
            message, self._last = self._messages[-1] if self._messages else (None, None)
            self._is_chunked = getattr(message, "chunked", False)  # that of a malformed request has none
            self._body_bytes = self._last.total_bytes if self._last else 0
            self._touch()
        elif is_body:
            self._on_body(len(data))
        else:
            self._on_head(len(data))

    def pause_writing(self) -> None:
        """Begin to wait until the client reads."""
        super().pause_writing()
        self.is_stalled = True
        self._unsent = self._wire.get_write_buffer_size() if self._wire else 0
        self._touch()

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        super().resume_writing()
        self.is_stalled = False
        self._touch()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write an answer, and begin to wait for the next request."""
        if self._body is not None and not self._body.is_eof() and _size(request) > SMALL_BODY:
            self._is_last = True
            self._left = _size(request) - self._body_bytes
            if not resp.prepared:
                resp.force_close()
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._unsent = self._wire.get_write_buffer_size() if self._wire else 0
            self._ignored = 0
            is_whole = self._body is None or self._body.is_eof()
            self._turn_to((Phase.HEAD if self._head else Phase.IDLE) if is_whole else Phase.LINGER)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - part of the interface
    ) -> web.StreamResponse:
        """Answer a malformed request with 400, and a fault with 500; neither tells more than the log."""
        is_malformed = _is_malformed(exc)
        self._connections.on_error(request.remote, exc, is_malformed=is_malformed)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is written already")
        status = web.HTTPBadRequest.status_code if is_malformed else status
        text = "the request is malformed.\n" if is_malformed else "internal error; see the log of portspec.\n"
        if not is_malformed and is_of_api(request.path):
            answer = problem(request, status, text.removesuffix(".\n"), headers=ERROR_HEADERS)
        else:
            answer = web.Response(status=status, text=text, headers=ERROR_HEADERS)
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what aiohttp did not expect, with the traceback."""
        error = kw.get("exc_info")
        found = error if isinstance(error, BaseException) else None
        self._connections.on_error(None, found, is_malformed=_is_malformed(found), told=str(args[0]) if args else "")

    def _begin(self, body: StreamReader) -> None:
        self._body = body
        self._turn_to(Phase.REQUEST)

    def _on_body(self, size: int) -> None:
        self._touch()
        self._body_bytes += size
        overhead = self._body_bytes - (self._last.total_bytes if self._last else 0)
        if overhead > max(self._max_overhead, OVERHEAD_SHARE * self._body_bytes):
            self._connections.close(self, "tiny_chunks")

    def _ignore(self, data: bytes) -> None:
        """Pass over the rest of a body; the end of one in chunks is recognized without the chunks."""
        self._touch()
        self._ignored += len(data)
        if self._ignored > self._connections.limits.ignored_bytes:
            self._connections.close(self, "body_size")
        elif self._body and not self._body.is_eof() and (self._ignored >= self._left or data.endswith(_LAST_CHUNK)):
            self._body.feed_eof()

    def _on_head(self, size: int) -> None:
        if self._phase is Phase.IDLE:
            self._turn_to(Phase.HEAD)
        self._head += size
        if self._head > self._connections.limits.head_bytes:
            self._connections.close(self, "head_size")

    def _turn_to(self, phase: Phase) -> None:
        self._phase = phase
        self._touch()

    def _touch(self) -> None:
        self._connections.touch(self)


def _has_tiny_chunks(part: bytes) -> bool:
    """Return whether there are more than two line ends in TINY_CHUNK bytes, on average; each chunk has two."""
    return part.count(b"\r\n") * TINY_CHUNK > 2 * len(part) + READ_SIZE // 8


def _size(request: web.BaseRequest) -> float:
    """Return the bytes of the body of a request; infinity if it does not tell."""
    return math.inf if request.content_length is None else request.content_length


def _is_malformed(error: BaseException | None) -> bool:
    return isinstance(error, HttpProcessingError | RequestPayloadError | PayloadAccessError)
