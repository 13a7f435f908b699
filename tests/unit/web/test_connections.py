"""Connections have limits of number and of time; the tests drive the clock that these are measured with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import pytest

from portspec.errors import ListenError
from portspec.web import ListenAddress
from portspec.web.limits import Limits
from portspec.web.server import WebServer
from tests.unit.app.exporter import until
from tests.unit.metrics.scrape import zoo
from tests.unit.scan.loopback import PATIENCE, V4, V6, listeners
from tests.unit.web.site import LOOPBACK, ScriptedService, converse, fetch, open_gate, serving
from tests.unit.web.test_server import huge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from portspec.state.snapshot import Snapshot

REQUEST = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
INDEX = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/v1/audits HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
ANSWER = b"portspec is healthy.\n"
# Fixed: for a client that reads, the kernel raises it to 32 MB, more than a huge page. Several segments of loopback.
RECEIVE_BUFFER = 1 << 18
PLACES = 3
LIMITS = replace(Limits(), interval=0.01)
FEW = replace(LIMITS, places=PLACES, share=10 * PLACES, reserve=1)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Client:
    """A connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self) -> bool:
        """Send a request; return whether it was answered."""
        self._writer.write(REQUEST)
        try:
            await asyncio.wait_for(self._reader.readuntil(ANSWER), PATIENCE)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        return True

    async def send(self, part: bytes) -> None:
        """Send a part of a request."""
        self._writer.write(part)
        await self._writer.drain()

    async def read(self, size: int) -> bytes:
        """Read so many bytes."""
        return await asyncio.wait_for(self._reader.readexactly(size), PATIENCE)

    async def rest(self) -> bytes:
        """Return what the server sends until it closes the connection."""
        found = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.wait_for(self._reader.read(1 << 16), PATIENCE):
                found += piece
        return bytes(found)

    async def close(self) -> None:
        """Close the connection."""
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Site:
    """A server whose clock a test drives."""

    def __init__(self, limits: Limits, state: Callable[[], Snapshot]) -> None:
        self.clock = Clock()
        self.server = WebServer(ScriptedService(state), [LOOPBACK], gate=open_gate(), limits=limits, clock=self.clock)
        self.url = ""
        self._stack = contextlib.AsyncExitStack()

    async def connect(self, source: str | None = None) -> Client:
        """Connect to it."""
        address = urlsplit(self.url)
        wire = socket.socket()
        wire.setblocking(False)  # noqa: FBT003 - the parameter has no name
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if source:
            wire.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(wire, (address.hostname, address.port))
        reader, writer = await asyncio.open_connection(sock=wire, limit=RECEIVE_BUFFER)
        client = Client(reader, writer)
        self._stack.push_async_callback(client.close)
        return client

    async def asked(self, source: str | None = None) -> Client:
        """Connect, and have a request answered."""
        client = await self.connect(source)
        assert await client.ask()
        return client

    async def opened(self, number: int) -> None:
        """Wait until so many connections are open."""
        await until(lambda: self.server.status.open["web"] == number)

    def closed(self) -> dict[str, int]:
        """Return the reasons for which connections were closed, with their number."""
        return {reason: number for reason, number in self.server.status.closed.items() if number}

    async def __aenter__(self) -> Self:
        """Start it."""
        (self.url,) = await self.server.start()
        self.server._groups["web"].exempt = ()  # so that loopback has shares
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it."""
        await self._stack.aclose()
        await self.server.stop()


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario on an event loop of its own."""
    return asyncio.run(asyncio.wait_for(scenario, 60.0))


def site(limits: Limits = LIMITS, state: Callable[[], Snapshot] = zoo) -> Site:
    """Make a server."""
    return Site(limits, state)


@pytest.mark.parametrize("part", [b"", b"G", REQUEST[:-2]], ids=["nothing", "a byte", "half a request"])
def test_connection_without_a_whole_request_is_closed(part: bytes) -> None:
    """A connection that has sent no whole request in time is closed, however much of it has come."""

    async def scenario() -> None:
        async with site() as served:
            client = await served.connect()
            await client.send(part)
            await served.asked()
            served.clock.now += LIMITS.head
            assert await client.rest() == b""
            assert served.closed()["head_timeout"] == 1

    run(scenario())


@pytest.mark.parametrize("again", [REQUEST[:-2], REQUEST + REQUEST[:-2]], ids=["half", "behind a whole one"])
def test_half_a_request_on_a_kept_connection_is_closed(again: bytes) -> None:
    """A connection that has asked before has no more time for its next request than a new one."""

    async def scenario() -> None:
        async with site() as served:
            client = await served.asked()
            await client.send(again)
            await client.send(b"\r")
            await until(lambda: served.server.status.open["web"] == 1)
            await (await served.asked()).close()
            await served.opened(1)  # else the one that closes would be late, too
            served.clock.now += LIMITS.idle
            await client.rest()
            assert sum(served.closed().values()) == 1

    run(scenario())


def test_bytes_that_trickle_in_gain_no_time() -> None:
    """The time for a request is counted from its first byte, whatever follows."""

    async def scenario() -> None:
        async with site() as served:
            client = await served.asked()
            for part in (REQUEST[:1], REQUEST[1:2]):
                await client.send(part)
                await served.asked()
                served.clock.now += LIMITS.head / 2
            assert await client.rest() == b""
            assert served.closed()["head_timeout"] >= 1

    run(scenario())


def test_idle_connection_is_kept_for_the_next_scrape_and_not_for_ever() -> None:
    """A connection that has asked stays for the next scrape, past the time for a request, and not for ever."""

    async def scenario() -> None:
        async with site() as served:
            client = await served.asked()
            served.clock.now += LIMITS.idle - 1
            assert await client.ask()
            served.clock.now += LIMITS.idle
            assert await client.rest() == b""
            assert served.closed() == {"idle_timeout": 1}

    run(scenario())


def test_head_without_end_is_closed() -> None:
    """Header fields that come without end are not read beyond a limit."""

    async def scenario() -> None:
        async with site(replace(LIMITS, head_bytes=4096)) as served:
            client = await served.connect()
            await client.send(REQUEST[:-2])
            with contextlib.suppress(ConnectionError):
                for number in range(40):
                    await client.send(b"X-%d: %s\r\n" % (number, b"x" * 200))
                    await asyncio.sleep(0)
            assert await client.rest() == b""
            assert served.closed() == {"head_size": 1}

    run(scenario())


def test_many_requests_at_once_are_no_long_head() -> None:
    """Requests that are sent one behind the other are answered, however many bytes they are in all."""

    async def scenario() -> bytes:
        async with serving(zoo, limits=replace(LIMITS, head_bytes=4096)) as (url,):
            last = REQUEST[:-2] + b"Connection: close\r\n\r\n"
            return await converse(url, *[REQUEST] * 300, last)

    assert run(scenario()).count(ANSWER) == 301


def test_body_that_stands_still_is_closed() -> None:
    """A body of which nothing more comes ends the connection."""

    async def scenario() -> None:
        async with site() as served:
            client = await served.connect()
            await client.send(POST.replace(b"api/v1/audits", b"-/reload") + b"x")
            await served.asked()
            served.clock.now += LIMITS.body
            await client.rest()
            assert sum(served.closed().values()) >= 1

    run(scenario())


def test_body_in_small_chunks_is_taken() -> None:
    """Chunks of a hundred bytes are nothing unusual."""

    async def scenario() -> bytes:
        async with serving(zoo) as (url,):
            head = (
                b"POST /api/v1/reports HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            return await converse(url, head, (b"64\r\n" + b"x" * 100 + b"\r\n") * 50_000, b"0\r\n\r\n")

    assert b" 410 " in run(scenario())


def test_client_that_does_not_read_is_given_up() -> None:
    """An answer of which the client reads nothing for 30 s is given up; one that reads a little goes on."""

    async def scenario() -> None:
        of = huge()
        async with site(state=lambda: of) as served:
            silent, slow = await served.connect(), await served.connect()
            for client in (silent, slow):
                await client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                await client.read(100)
            await until(lambda: _paused(served) == 2)
            for _ in range(3):
                served.clock.now += LIMITS.write * 0.9
                await slow.read(6 << 20)  # more than all that the kernel keeps
                await until(lambda: _paused(served) >= 1)
            await served.opened(1)
            assert served.closed() == {"write_timeout": 1}

    run(scenario())


def _paused(served: Site) -> int:
    """Return the number of connections whose client does not read."""
    return sum(one.is_stalled for one in served.server._groups["web"]._open)


def test_closing_connection_that_is_not_read_is_given_up() -> None:
    """A connection whose last answer is not read does not stay, either."""

    async def scenario() -> None:
        of = huge()
        async with site(state=lambda: of) as served:
            client = await served.connect()
            await client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await client.read(100)
            await until(lambda: _paused(served) == 1)

            def is_over() -> bool:
                served.clock.now += LIMITS.write  # once more for each time that the kernel took another piece
                return served.server.status.open["web"] == 0

            await until(is_over)

    run(scenario())


def test_full_server_closes_the_longest_idle_connection() -> None:
    """When all places are taken, the connection that has been idle longest makes room for the new one."""

    async def scenario() -> None:
        async with site(FEW) as served:
            older = [await served.asked() for _ in range(PLACES)]
            assert await older[0].ask()
            newer = await served.asked()
            assert await older[1].rest() == b""
            assert [await client.ask() for client in (older[0], older[2], newer)] == [True] * 3
            assert served.closed() == {"displaced": 1}

    run(scenario())


def test_connections_of_one_burst_are_counted() -> None:
    """Of a burst of connections only as many stay as there are places, and the reserve."""

    async def scenario() -> None:
        async with site(FEW) as served:
            address = urlsplit(served.url)
            # Blocking, so that the server accepts none of them before all are there.
            burst = [socket.create_connection((address.hostname, address.port)) for _ in range(10 * PLACES)]
            await until(lambda: served.closed().get("displaced") == 9 * PLACES - FEW.reserve)
            assert served.server.status.open["web"] == PLACES + FEW.reserve
            for sock in burst:
                sock.close()

    run(scenario())


def test_new_connection_has_time_to_ask() -> None:
    """A connection that has just come does not give way: its request is probably on the way."""

    async def scenario() -> None:
        async with site(FEW) as served:
            older = [await served.connect() for _ in range(PLACES)]
            await served.opened(PLACES)
            assert (await fetch(f"{served.url}api/v1/hosts")).status == 503
            served.clock.now += LIMITS.grace
            assert (await fetch(f"{served.url}api/v1/hosts")).status == 200
            assert await older[0].rest() == b""

    run(scenario())


def test_address_has_a_share() -> None:
    """One address displaces its own connections alone once it has its share; another one gets a place."""

    async def scenario() -> None:
        async with site(replace(FEW, places=4, share=2)) as served:
            other = await served.asked("127.0.0.2")
            mine = [await served.asked("127.0.0.3") for _ in range(3)]
            assert await mine[0].rest() == b""
            assert [await client.ask() for client in (other, *mine[1:])] == [True] * 3

    run(scenario())


def test_request_in_progress_is_never_displaced() -> None:
    """A full server whose places are all at work refuses what is new, and keeps a place for /metrics and the state."""

    async def scenario() -> None:
        of = huge()
        limits = replace(FEW, places=2, share=10)
        async with site(limits, lambda: of) as served:
            busy = [await served.connect() for _ in range(2)]
            for client in busy:
                await client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                await client.read(100)
            await until(lambda: _paused(served) == 2)
            assert (await fetch(f"{served.url}-/healthy")).status == 200
            refused = await fetch(f"{served.url}api/v1/hosts")
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
            assert _paused(served) == 2

    run(scenario())


def test_slow_readers_share_a_page_and_old_pages_are_given_up() -> None:
    """Pages that are being read have a limit in all; the one that was begun first is given up."""

    async def scenario() -> None:
        of = huge()
        async with site(state=lambda: of) as served:
            served.server._sites._sending._most = 70_000_000  # two pages of 30 MB
            clients = []
            for _ in range(3):
                clients.append(await served.connect())
                await clients[-1].send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                await clients[-1].read(100)
            assert served.closed() == {"memory": 1}
            assert len(await clients[0].rest()) < 30_000_000

    run(scenario())


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 junk \r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 10_000 + b"\r\n\r\n", "malformed"),
        (b"POST /-/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed"),
        (b"POST /api/v1/audits HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed"),
    ],
)
def test_malformed_requests_are_counted_and_logged_a_few_times(
    sent: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed request is 400 and a line in the log without a traceback; of a hundred, a few are logged."""

    async def scenario() -> None:
        async with site() as served:
            for _ in range(100):
                client = await served.connect()
                await client.send(sent)
                answer = await client.rest()
                assert b" 400 " in answer.partition(b"\r\n")[0] or b"audits" in sent
                assert b"Python" not in answer
                assert b"nosniff" in answer
                await client.close()
            assert served.closed()[why] >= 100

    caplog.set_level(logging.INFO)
    run(scenario())
    assert 1 <= len(caplog.records) <= 5
    assert not any(record.exc_info for record in caplog.records)


def test_fault_is_500_without_details(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of a handler is logged with its traceback, and the client learns nothing of it."""

    def fault(*_: object) -> str:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("portspec.web.pages.Pages.index", fault)

    async def scenario() -> None:
        async with site() as served:
            answer = await fetch(served.url)
            assert (answer.status, answer.text) == (500, "internal error; see the log of portspec.\n")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"

    run(scenario())
    (record,) = caplog.records
    assert "a secret" in caplog.text
    assert record.levelname == "ERROR"


def test_handshake_that_does_not_end_takes_a_place_like_any_other(tmp_path: object) -> None:
    """With TLS a connection counts from the beginning: what sends no handshake is displaced first."""
    import trustme

    from portspec.web.accepting import Acceptor
    from portspec.web.sockets import bind

    authority = trustme.CA()
    server_context, client_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server_context)
    authority.configure_trust(client_context)

    async def scenario() -> None:
        async with site(FEW) as served:
            acceptor = Acceptor(
                bind([(socket.AF_INET, ("127.0.0.1", 0))]),
                await served.server._group("web", None),
                context=lambda: server_context,
            )
            acceptor.start()
            host, port = acceptor.sockets[0].getsockname()
            silent = [socket.create_connection((host, port)) for _ in range(PLACES)]
            await served.opened(PLACES)
            served.clock.now += LIMITS.grace
            reader, writer = await asyncio.open_connection(host, port, ssl=client_context, server_hostname="localhost")
            client = Client(reader, writer)
            assert await client.ask()
            plain = socket.create_connection((host, port))
            plain.sendall(REQUEST)
            await until(lambda: served.closed().get("tls") == 1)
            assert await client.ask()
            await client.close()
            acceptor.close()
            for sock in (*silent, plain):
                sock.close()

    run(scenario())


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """Connect to the server."""
    address = urlsplit(url)
    client = Client(*await asyncio.open_connection(address.hostname, address.port))
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize(("host", "own"), [("0.0.0.0", V4), ("::", V6)])  # noqa: S104
def test_url_of_every_address_is_one_that_a_browser_can_open(host: str, own: str) -> None:
    """A server that listens on all addresses is told as localhost."""

    async def scenario() -> None:
        async with serving(zoo, [ListenAddress(host, 0)]) as (url,):
            port = urlsplit(url).port
            assert url == f"http://localhost:{port}/"
            async with connected(f"http://[{own}]:{port}/" if ":" in own else f"http://{own}:{port}/") as client:
                assert await client.ask()

    asyncio.run(scenario())


def test_url_of_both_families_is_told_once() -> None:
    """A server of all addresses listens in both families, and its URL stands once in the log."""

    async def scenario(port: int) -> None:
        async with serving(zoo, [ListenAddress(None, port)]) as urls:
            assert urls == (f"http://localhost:{port}/",)

    for left in reversed(range(10)):
        with listeners(V4) as (free,):
            port: int = free.getsockname()[1]
        try:
            asyncio.run(scenario(port))
        except ListenError:  # a connection that others have closed may have had the port (TIME-WAIT)
            if not left:
                raise
        else:
            return


@pytest.mark.parametrize(("descriptors", "places"), [(1024, 128), (16384, 1024), (2**30, 1024)])
def test_limit_follows_the_descriptors(descriptors: int, places: int) -> None:
    """Where files are scarce, few connections are open at once."""
    assert Limits.under(descriptors).places == places
