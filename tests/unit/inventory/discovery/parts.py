"""What the tests of discovery share: entries and sources, an inventory server, a name server, a client of a script."""

from __future__ import annotations

import asyncio
import contextlib
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from aiohttp import web

from portspec.config import HostConfig, Specification
from portspec.config.model import DnsSource, FileSource, HttpSource, SourceEntry
from portspec.inventory.discovery import Answer
from portspec.inventory.discovery.dns import DnsClient
from portspec.inventory.discovery.resolvconf import ResolvConf
from portspec.ports import PortSet

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

PATIENCE: Final = 30.0  # seconds that anything bounded may take on a busy machine
SOON: Final = 0.05  # the time limit of what never answers


def entry(
    *,
    expect: Iterable[int] = (22,),
    allow: Iterable[int] = (),
    scan: Iterable[int] = (22, 80),
    labels: Mapping[str, str] | None = None,
) -> SourceEntry:
    """Make what a source says of its hosts."""
    specification = Specification(PortSet.of(expect), PortSet.of(allow))
    return SourceEntry(specification, PortSet.of(scan), 60.0, MappingProxyType(dict(labels or {})))


def host(name: str, **parts: Any) -> HostConfig:
    """Make a host as a source with entry(**parts) finds it."""
    common = entry(**parts)
    ports = common.scanports | common.specification.expect | common.specification.allow
    return HostConfig(name, common.specification, ports, common.interval, common.labels, source=common.source)


def names(answer: Answer) -> list[str]:
    """List the hosts of an answer that is none of failure."""
    assert answer.failure is None
    return [found.name for found in answer.hosts]


def file_source(*patterns: Path | str, timeout: float = PATIENCE) -> FileSource:
    """Make a source of files."""
    return FileSource("file_sd[0]", 300.0, entry(), tuple(map(str, patterns)), timeout)


def http_source(url: str, **parts: Any) -> HttpSource:
    """Make a source of one URL."""
    return HttpSource("http_sd[0]", 60.0, entry(), url=url, **{"timeout": PATIENCE, **parts})


def dns_source(*looked_up: str, kind: Any = "SRV", timeout: float = PATIENCE) -> DnsSource:
    """Make a source of names."""
    return DnsSource("dns[0]", 30.0, entry(), looked_up, kind, timeout)


class ScriptedClient:
    """A client that gives what it was last told to; an exception is raised."""

    def __init__(self, *hosts: str, poll: float = math.inf) -> None:
        self.poll = poll
        self.asked = 0
        self.looked = 0
        self.changed = False
        self.answers: Mapping[str, Answer] | Exception = {}
        self.gives(*hosts)

    def gives(self, *hosts: str, **parts: Any) -> None:
        """Answer with these hosts from now on."""
        self.answers = {"there": Answer(tuple(host(name, **parts) for name in hosts))}

    def fails(self, why: str = "it is broken") -> None:
        """Fail from now on."""
        self.answers = {"there": Answer(failure=why)}

    async def ask(self) -> Mapping[str, Answer]:
        """Return the answers."""
        self.asked += 1
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers

    async def is_changed(self) -> bool:
        """Tell what the test says, once."""
        self.looked += 1
        changed, self.changed = self.changed, False
        return changed


@contextlib.asynccontextmanager
async def inventory(
    answer: Callable[[Any], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve HTTP on a free port of the loopback; returns the URL."""
    server = web.Server(answer)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        yield f"{'https' if tls else 'http'}://localhost:{port}"
    finally:
        await runner.cleanup()


class NameServer(asyncio.DatagramProtocol):
    """A name server with the records it is given, such as {("www.example.org.", "A"): ["192.0.2.1"]}.

    Names in `rcodes` get that code, those in `silent` nothing, those in `long` a truncated answer over UDP, and those
    in `raw` what a function makes of the question, instead of an answer.
    """

    def __init__(self, records: Mapping[tuple[str, str], list[str]]) -> None:
        self.records = dict(records)
        self.rcodes: dict[str, dns.rcode.Rcode] = {}
        self.silent: set[str] = set()
        self.long: set[str] = set()
        self.raw: dict[str, Callable[[bytes], bytes]] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def client(self, source: DnsSource, **configured: Any) -> DnsClient:
        """Make a client that asks this server; `configured` is what resolv.conf says beside that."""
        found = ResolvConf(("127.0.0.1",), **configured)
        return DnsClient(source, configuration=lambda: found, port=self.port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.DatagramTransport", transport)  # not a subclass of it everywhere

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Answer over UDP."""
        assert self._transport
        if answer := self._answer(data, "udp"):
            self._transport.sendto(answer, address)

    async def over_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question over TCP."""
        size = int.from_bytes(await reader.readexactly(2), "big")
        if answer := self._answer(await reader.readexactly(size), "tcp"):
            writer.write(len(answer).to_bytes(2, "big") + answer)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _answer(self, data: bytes, way: str) -> bytes | None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text(), question.rdtype.name
        self.asked.append((name, kind, way))
        if name in self.silent:
            return None
        if name in self.raw and not (name in self.long and way == "udp"):
            return self.raw[name](data)
        response = dns.message.make_response(query)
        known = {owner for owner, _ in self.records}
        response.set_rcode(self.rcodes.get(name, dns.rcode.NOERROR if name in known else dns.rcode.NXDOMAIN))
        if name in self.long and way == "udp":
            response.flags |= dns.flags.TC
        elif texts := self.records.get((name, kind)):
            response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", kind, texts))
        return response.to_wire(max_size=65535)


@contextlib.asynccontextmanager
async def name_server(records: Mapping[tuple[str, str], list[str]], port: int = 0) -> AsyncIterator[NameServer]:
    """Run a name server on a port of the loopback, by default a free one, UDP and TCP."""
    served = NameServer(records)
    tcp = await asyncio.start_server(served.over_tcp, "127.0.0.1", port)
    served.port = tcp.sockets[0].getsockname()[1]
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: served, local_addr=("127.0.0.1", served.port)
    )
    try:
        yield served
    finally:
        transport.close()
        tcp.close()
        await tcp.wait_closed()
