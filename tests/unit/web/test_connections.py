from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from portspec.web import ListenAddress
from portspec.web.connections import connection_limit
from tests.unit.metrics.scrape import zoo
from tests.unit.scan.loopback import PATIENCE, V4, V6, listeners
from tests.unit.web.site import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REQUEST = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER = b"portspec is healthy.\n"
LIMIT = 3


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

    async def closed(self) -> None:
        """Wait until the server has closed the connection; it must have sent nothing."""
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(self._reader.read(), PATIENCE) == b""

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """Connect to the server."""
    address = urlsplit(url)
    client = Client(*await asyncio.open_connection(address.hostname, address.port))
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("part", [b"", REQUEST[:-2]], ids=["nothing", "half a request"])
def test_connection_that_asks_nothing_is_closed(part: bytes) -> None:
    """A connection that has sent no whole request in time is closed, so that it takes no descriptor from the scan."""

    async def scenario() -> None:
        async with serving(zoo, first_request=0.05) as (url,), connected(url) as client:
            await client.send(part)
            await client.closed()

    asyncio.run(scenario())


def test_connection_that_has_asked_is_kept_open() -> None:
    """A connection that has sent a request in time stays for the next scrape, past the time for the first one."""

    async def scenario() -> None:
        async with serving(zoo, first_request=0.5) as (url,), connected(url) as kept:
            assert await kept.ask()
            async with connected(url) as silent:
                await silent.closed()  # so that the time is over for the first one, too
            assert await kept.ask()

    asyncio.run(scenario())


def test_connection_too_many_is_refused_at_once() -> None:
    """Past the limit a connection is closed without an answer; those before it go on, and make room when they end."""

    async def scenario() -> None:
        async with serving(zoo, max_connections=LIMIT) as (url,), contextlib.AsyncExitStack() as stack:
            older = [await stack.enter_async_context(connected(url)) for _ in range(LIMIT)]
            assert [await client.ask() for client in older] == [True] * LIMIT
            async with connected(url) as refused:
                await refused.closed()
            assert [await client.ask() for client in older] == [True] * LIMIT
            await older[0].close()
            async with asyncio.timeout(PATIENCE):
                while True:
                    async with connected(url) as newer:
                        if await newer.ask():
                            break

    asyncio.run(scenario())


def test_connections_of_one_burst_are_counted() -> None:
    """A backlog that is accepted in one turn of the event loop is held to the limit like any other connections."""

    async def scenario() -> int:
        async with serving(zoo, max_connections=LIMIT) as (url,), contextlib.AsyncExitStack() as stack:
            address = urlsplit(url)
            # Blocking, so that the server accepts none of them before all are there.
            burst = [socket.create_connection((address.hostname, address.port)) for _ in range(10 * LIMIT)]
            clients = [Client(*await asyncio.open_connection(sock=sock)) for sock in burst]
            for client in clients:
                stack.push_async_callback(client.close)
            return sum([await client.ask() for client in clients])

    assert asyncio.run(scenario()) == LIMIT


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

    with listeners(V4) as (free,):
        port: int = free.getsockname()[1]
    asyncio.run(scenario(port))


@pytest.mark.parametrize(("descriptors", "connections"), [(1024, 128), (16384, 1024), (2**30, 1024)])
def test_limit_follows_the_descriptors(descriptors: int, connections: int) -> None:
    """Where files are scarce, few connections are open at once."""
    assert connection_limit(descriptors) == connections
