"""What every answer has in common, and what becomes of bodies, of pages of other sites and of clients that leave."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from portspec.schedule.on_demand import MAX_CONCURRENT_PROBES
from portspec.web.accepting import Acceptor
from portspec.web.connections import BoundedConnections
from portspec.web.headers import SECURITY_HEADERS
from portspec.web.limits import Limits
from portspec.web.sockets import bind
from tests.unit.app.exporter import until
from tests.unit.metrics.scrape import zoo
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import ask, converse, fetch, serving
from tests.unit.web.test_probe import exporter

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from portspec.metrics import Page
    from tests.unit.web.site import Answer

ZEROES = b"\0" * 500_000
POSTS = ["/api/v1/scan?host=web1", "/api/v1/audits", "/api/v1/reports", "/-/reload", "/nowhere", "/"]


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario on an event loop of its own."""
    return asyncio.run(asyncio.wait_for(scenario, 60.0))


def check(answer: Answer) -> None:
    """Check the header fields that every answer has."""
    found = {name: answer.headers.get(name) for name in SECURITY_HEADERS}
    policy = found.pop("Content-Security-Policy")  # a page allows its own style, and its forms to go back
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src ")
    assert policy.endswith("frame-ancestors 'none'")
    assert found == {name: value for name, value in SECURITY_HEADERS.items() if name in found}
    assert answer.headers["Server"] == "portspec"


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/", "GET", {}, 200),
        ("/metrics", "GET", {"Accept-Encoding": "gzip"}, 200),
        ("/metrics", "HEAD", {}, 200),
        ("/agent.py", "GET", {}, 200),
        ("/api/v1/hosts", "GET", {}, 200),
        ("/api/v1/hosts?limit=x", "GET", {}, 400),
        ("/-/reload", "POST", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("/nowhere", "GET", {}, 404),
        ("/api/v1/hosts/nowhere", "GET", {}, 404),
        ("/", "DELETE", {}, 405),
        ("/-/reload", "POST", {"Content-Length": "20000", "Expect": "x"}, 417),
        ("/api/v1/audits", "POST", {}, 503),
        ("/-/ready", "GET", {}, 503),
    ],
)
def test_every_answer_tells_browsers_to_be_careful(
    path: str, method: str, headers: dict[str, str], status: int
) -> None:
    """Pages, JSON, metrics and errors have the same security headers, and name no versions."""
    answer = ask(zoo(), path, method, headers)
    assert answer.status == status
    check(answer)


def test_fault_has_the_same_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer to a fault has them, too."""
    monkeypatch.setattr("portspec.web.pages.Pages.index", None)
    answer = ask(zoo(), "/")
    assert answer.status == 500
    check(answer)


def test_malformed_request_gets_the_same_headers() -> None:
    """An answer to what is no request has them, too."""

    async def scenario() -> bytes:
        async with serving(zoo) as (url,):
            return await converse(url, b"\x00\r\n\r\n")

    head = run(scenario()).decode()
    assert all(f"{name}: {value}\r\n" in head for name, value in SECURITY_HEADERS.items())


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 400), ("none", 400)]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_page_of_another_site_may_not_probe(site: str, status: int, method: str) -> None:
    """A page of another site cannot make a browser start a probe."""
    assert exporter().ask("/probe", method, {"Sec-Fetch-Site": site}).status == status


@pytest.mark.parametrize("length", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", [path for path in POSTS if path not in {"/api/v1/audits", "/api/v1/reports"}])
def test_body_where_none_is_expected_is_413(path: str, length: bytes) -> None:
    """A large body, or one of unknown length, is refused before it has come, and the connection is closed."""

    async def scenario() -> bytes:
        async with Exporter(snapshot=zoo()).served() as url:
            lines = [b"POST %s HTTP/1.1" % path.encode(), b"Host: x", length, b"", b""]
            return await converse(
                url, b"\r\n".join(lines) + (b"0\r\n\r\n" if b"chunked" in length else b"x" * 1_000_000)
            )

    head = run(scenario())
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in head


def test_small_body_is_ignored() -> None:
    """A few bytes of a body do no harm: `curl -d ''` and scripts send some."""

    async def scenario() -> bytes:
        async with Exporter().served() as url:
            lines = [
                b"POST /-/reload HTTP/1.1",
                b"Host: localhost",
                b"Connection: close",
                b"Content-Length: 2",
                b"",
                b"{}",
            ]
            return await converse(url, b"\r\n".join(lines))

    assert run(scenario()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("is_chunked", [True, False])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_body_is_never_unpacked(coding: str, is_chunked: bool) -> None:  # noqa: FBT001 - a value of the test
    """A handler gets a body as it was sent, whatever its Content-Encoding says."""
    packed = {"gzip": gzip.compress(ZEROES), "deflate": zlib.compress(ZEROES)}.get(coding, ZEROES)

    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=str(await request.read() == packed))

    async def scenario() -> bytes:
        connections = BoundedConnections(web.Server(handler), Limits())
        acceptor = Acceptor(bind([(socket.AF_INET, ("127.0.0.1", 0))]), connections, context=lambda: None)
        acceptor.start()
        try:
            host, port = acceptor.sockets[0].getsockname()
            length = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(packed)}"
            head = f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: {coding}\r\n{length}\r\n\r\n"
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed) if is_chunked else packed
            return await converse(f"http://{host}:{port}", head.encode(), body)
        finally:
            acceptor.close()
            connections.stop()

    assert run(scenario()).endswith(b"True")


def test_probe_ends_when_its_client_has_gone() -> None:
    """A probe whose client hangs up gives its place back at once, so that nobody can hold them all."""

    async def scenario() -> None:
        silent = exporter(None)
        places = silent.prober._places
        async with silent.served() as url:
            host, port = url.removeprefix("http://").split(":")
            writers = []
            for _ in range(MAX_CONCURRENT_PROBES):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(b"GET /probe?target=web1 HTTP/1.1\r\nHost: x\r\n\r\n")
                writers.append(writer)
            await until(lambda: places.held == MAX_CONCURRENT_PROBES)
            assert (await fetch(f"{url}/probe?target=web1")).status == 429
            for writer in writers:
                writer.transport.abort()
            await until(lambda: places.held == 0)

    run(scenario())


def test_scrapes_at_the_same_time_share_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred scrapes at once each is answered, and few pages are written."""
    written = 0

    async def scenario() -> list[Answer]:
        served = Exporter(snapshot=zoo())
        write = served.exposition.write

        def counted(*args: Any, **keys: Any) -> Page:
            nonlocal written
            written += 1
            return write(*args, **keys)

        monkeypatch.setattr(served.exposition, "write", counted)
        async with served.served() as url:
            return await asyncio.gather(*(fetch(f"{url}/metrics") for _ in range(100)))

    assert {answer.status for answer in run(scenario())} == {200}
    assert written < 50
