"""Attacks on the web server of an exporter, each bounded by time: python -m benchmarks.attacks NAME PORT SECONDS.

Prints what was sent. An attack is a program of its own, so that what it costs is not the exporter's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import resource
import sys
import zlib
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HOST: Final = "127.0.0.1"
POSTS: Final = ("/api/v1/scan?host=127.1.0.1", "/api/v1/audits", "/api/v1/reports", "/-/reload", "/", "/nowhere")
_MB: Final = 1 << 20
_PATIENCE: Final = 5.0  # seconds for a connection


class Attacker:
    """What attacks have in common: the port of the exporter, the end, and counters of what was sent."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port = port
        self._end = asyncio.get_running_loop().time() + seconds
        self.connections = self.requests = self.sent = 0

    def is_on(self) -> bool:
        """Return whether the time is not over."""
        return asyncio.get_running_loop().time() < self._end

    async def rest(self) -> None:
        """Wait for the end."""
        await asyncio.sleep(max(0.0, self._end - asyncio.get_running_loop().time()))

    async def connect(self, source: str | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Connect; None if that fails."""
        local = (source, 0) if source else None
        try:
            async with asyncio.timeout(_PATIENCE):
                pair = await asyncio.open_connection(HOST, self._port, local_addr=local, limit=1 << 16)
        except OSError:
            await asyncio.sleep(0.01)
            return None
        self.connections += 1
        return pair

    @contextlib.asynccontextmanager
    async def connected(
        self, source: str | None = None
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter] | None]:
        """Connect, and hang up at the end; errors of the connection end it quietly."""
        pair = await self.connect(source)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
                yield pair
        finally:
            if pair:
                pair[1].transport.abort()

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Send bytes."""
        writer.write(data)
        self.sent += len(data)
        await writer.drain()

    async def ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str = "/-/healthy", method: str = "GET"
    ) -> None:
        """Send a request, and wait for the head of the answer."""
        self.requests += 1
        await self.send(writer, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")

    async def many(self, count: int, one: Callable[[int], Awaitable[None]]) -> None:
        """Do something many times at once."""
        await asyncio.gather(*(one(number) for number in range(count)))


async def nothing(of: Attacker) -> None:
    """Do nothing, for comparison: what this machine does beside."""
    await of.rest()


async def hang_ups(of: Attacker) -> None:
    """Ask for `/` 200 times a second, and hang up at once."""
    while of.is_on():
        await of.many(200, lambda _: _ask_and_leave(of, "/"))
        await asyncio.sleep(1.0)


async def slow_readers(of: Attacker) -> None:
    """Ask for 10,000 hosts with 60 clients, and do not read."""
    await of.many(60, lambda _: _ask_and_stay(of, "/api/v1/hosts?limit=10000"))


async def slow_scrapes(of: Attacker) -> None:
    """Ask for /metrics with 60 clients, and do not read."""
    await of.many(60, lambda _: _ask_and_stay(of, "/metrics"))


async def kept(of: Attacker) -> None:
    """Keep 1,100 connections that have asked once."""

    async def one(number: int) -> None:
        await asyncio.sleep(number / 400)
        async with of.connected() as pair:
            if pair:
                await of.ask(*pair)
                await of.rest()

    await of.many(1100, one)


async def half_heads(of: Attacker) -> None:
    """Send 1 MB of header fields without an end on 200 connections that have asked once."""

    async def one(_: int) -> None:
        async with of.connected() as pair:
            if pair:
                await of.ask(*pair)
                await of.send(pair[1], b"GET / HTTP/1.1\r\n")
                for number in range(125):
                    await of.send(pair[1], b"X-%d: %s\r\n" % (number, b"x" * 8100))
                await of.rest()

    await of.many(200, one)


async def packed_bodies(of: Attacker) -> None:
    """Send bodies of 4 MB that are 4 GB once they are unpacked, to each path, four at a time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = packer.compress(bytes(_MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(16 * _MB)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = head + piece * (4 * _MB // len(piece))

    async def one(number: int) -> None:
        for path in itertools.cycle(POSTS[number:] + POSTS[:number]):
            if not of.is_on():
                return
            async with of.connected() as pair:
                if pair:
                    lines = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: "
                    of.requests += 1
                    await of.send(pair[1], f"{lines}{len(body)}\r\n\r\n".encode() + body)
                    await pair[0].readuntil(b"\r\n\r\n")

    await of.many(4, one)


async def malformed(of: Attacker) -> None:
    """Send what is no request, on 20 connections at a time."""
    shapes = (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Field\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"POST /-/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    )

    async def one(number: int) -> None:
        for shape in itertools.cycle(shapes[number % 5 :] + shapes[: number % 5]):
            if not of.is_on():
                return
            async with of.connected() as pair:
                if pair:
                    of.requests += 1
                    await of.send(pair[1], shape)
                    await pair[0].readuntil(b"\r\n\r\n")

    await of.many(20, one)


async def reloads(of: Attacker) -> None:
    """Ask for 60 reloads and 64 probes a second, and wait for none."""
    while of.is_on():
        await asyncio.gather(
            of.many(60, lambda _: _ask_and_leave(of, "/-/reload", "POST")),
            of.many(64, lambda number: _ask_and_leave(of, f"/probe?target=127.1.0.{number}")),
        )
        await asyncio.sleep(1.0)


async def globs(of: Attacker) -> None:
    """Ask for hosts by new globs, of 250 and of some thousand characters, on 8 connections."""
    rng = random.Random(1)  # noqa: S311 - repeatable

    async def one(number: int) -> None:
        while of.is_on():
            async with of.connected() as pair:
                if pair is None:
                    continue
                while of.is_on():
                    size = 7000 if number % 2 else 250
                    glob = "".join(rng.choice(("*", "a", "[a-f]", "?", "7")) for _ in range(size // 3))[:size]
                    await of.ask(*pair, f"/api/v1/hosts?limit=1&host={quote(glob)}"[:8000])
                    await pair[0].read(1 << 16)

    await of.many(8, one)


async def slow_heads(of: Attacker) -> None:
    """Send a byte of a request each second, on 800 connections (slowloris)."""

    async def one(number: int) -> None:
        await asyncio.sleep(number / 400)
        while of.is_on():
            async with of.connected() as pair:
                if pair:
                    for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 1000:
                        if not of.is_on():
                            return
                        await of.send(pair[1], bytes([byte]))
                        await asyncio.sleep(1.0)

    await of.many(800, one)


async def connections(of: Attacker) -> None:
    """Connect from thousands of loopback addresses as fast as possible, ask nothing, and hold 2,000 connections."""
    held: list[asyncio.StreamWriter] = []

    async def one(number: int) -> None:
        while of.is_on():
            pair = await of.connect(f"127.0.{1 + number}.{random.randrange(1, 255)}")  # noqa: S311 - any will do
            if pair:
                held.append(pair[1])
                if len(held) > 2000:
                    held.pop(0).transport.abort()

    await of.many(200, one)
    for writer in held:
        writer.transport.abort()


async def huge_heads(of: Attacker) -> None:
    """Send header fields without an end, on 100 connections at a time."""

    async def one(_: int) -> None:
        while of.is_on():
            async with of.connected() as pair:
                if pair:
                    await of.send(pair[1], b"GET / HTTP/1.1\r\n")
                    while of.is_on():
                        await of.send(pair[1], b"X: %s\r\n" % (b"x" * 4000) * 4)
                        await asyncio.sleep(0)

    await of.many(100, one)


async def pipelined(of: Attacker) -> None:
    """Ask for pages one behind the other without reading, on 50 connections."""
    paths = ("/", "/api/v1/hosts?limit=10000", "/metrics", "/nowhere")
    burst = b"".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in paths) * 100

    async def one(_: int) -> None:
        while of.is_on():
            async with of.connected() as pair:
                if pair:
                    pair[0]._transport.pause_reading()  # type: ignore[attr-defined] # noqa: SLF001 - a client that does not read
                    while of.is_on():
                        async with asyncio.timeout(max(0.1, of._end - asyncio.get_running_loop().time())):  # noqa: SLF001 - as above
                            await of.send(pair[1], burst)
                        of.requests += 400

    with contextlib.suppress(TimeoutError):
        await of.many(50, one)


async def tiny_chunks(of: Attacker) -> None:
    """Send audits in chunks of one byte, on 20 connections."""
    head = b"POST /api/v1/audits HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def one(_: int) -> None:
        while of.is_on():
            async with of.connected() as pair:
                if pair:
                    of.requests += 1
                    await of.send(pair[1], head)
                    for _ in range(2000):
                        await of.send(pair[1], b"1\r\n{\r\n" * 500)
                        if not of.is_on() or pair[0].at_eof():
                            return

    await of.many(20, one)


async def forged_audits(of: Attacker) -> None:
    """Send audits of 30 kB that no host has signed, on 20 connections."""
    body = os.urandom(30_000)
    head = f"POST /api/v1/audits HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def one(_: int) -> None:
        while of.is_on():
            async with of.connected() as pair:
                while pair and of.is_on():
                    of.requests += 1
                    await of.send(pair[1], head + body)
                    await pair[0].readuntil(b"\r\n\r\n")

    await of.many(20, one)


async def scrapes(of: Attacker) -> None:
    """Scrape 200 times a second, half of that by other names each time, and hang up."""
    while of.is_on():
        await of.many(100, lambda _: _ask_and_leave(of, "/metrics"))
        await of.many(100, lambda number: _ask_and_leave(of, f"/metrics?name[]=port_open&name[]=x{number}"))
        await asyncio.sleep(1.0)


async def _ask_and_leave(of: Attacker, path: str, method: str = "GET") -> None:
    async with of.connected() as pair:
        if pair:
            of.requests += 1
            await of.send(pair[1], f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await asyncio.sleep(0.05)


async def _ask_and_stay(of: Attacker, path: str) -> None:
    """Ask, read nothing, and ask again when the server has hung up."""
    while of.is_on():
        async with of.connected() as pair:
            if pair:
                of.requests += 1
                await of.send(pair[1], f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                await pair[0].readexactly(1)
                pair[0]._transport.pause_reading()  # type: ignore[attr-defined] # noqa: SLF001 - a client that does not read
                await of.rest()


ATTACKS: Final = {
    function.__name__: function
    for function in (
        nothing,
        hang_ups,
        slow_readers,
        slow_scrapes,
        kept,
        half_heads,
        packed_bodies,
        malformed,
        reloads,
        globs,
        slow_heads,
        connections,
        huge_heads,
        pipelined,
        tiny_chunks,
        forged_audits,
        scrapes,
    )
}


async def _main(name: str, port: int, seconds: float) -> None:
    of = Attacker(port, seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds + _PATIENCE):
            await ATTACKS[name](of)
    print(f"{of.connections:,} connections, {of.requests:,} requests, {of.sent / 1e6:.1f} MB", flush=True)
    os._exit(0)  # sockets and tasks end with the process


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
