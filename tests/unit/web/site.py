"""A web server on a free port of loopback, and a client that asks it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from portspec.metrics import Exposition
from portspec.web import Listener, WebServer
from portspec.web.connections import FIRST_REQUEST
from tests.unit.factories import NOW

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from portspec.snapshot import Snapshot

LOOPBACK = Listener("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered, as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8")


def server(
    state: Callable[[], Snapshot], listeners: Sequence[Listener] = (LOOPBACK,), *, first_request: float = FIRST_REQUEST
) -> WebServer:
    """Make a server of the snapshots that `state` gives."""
    return WebServer(
        state, Exposition(state, engine="scripted", config_loaded_at=NOW), listeners, first_request=first_request
    )


@contextlib.asynccontextmanager
async def serving(
    state: Callable[[], Snapshot], listeners: Sequence[Listener] = (LOOPBACK,), *, first_request: float = FIRST_REQUEST
) -> AsyncIterator[tuple[str, ...]]:
    """Run a server; gives its URLs."""
    one = server(state, listeners, first_request=first_request)
    urls = await one.start()
    try:
        yield urls
    finally:
        await one.stop()


async def fetch(url: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """Ask once, without decompression."""
    async with (
        aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(10.0)) as session,
        session.request(method, url, headers=headers, skip_auto_headers=["Accept-Encoding"]) as response,
    ):
        return Answer(response.status, response.headers, await response.read())


def ask(of: Snapshot, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """Ask a server of one snapshot once."""

    async def scenario() -> Answer:
        async with serving(lambda: of) as (url,):
            return await fetch(url.rstrip("/") + path, method, headers)

    return asyncio.run(scenario())
