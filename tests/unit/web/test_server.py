from __future__ import annotations

import asyncio
import gzip
import re
import socket
import warnings
from typing import TYPE_CHECKING

import pytest

from portspec.errors import ListenError
from portspec.state.snapshot import Snapshot
from portspec.web import ListenAddress
from tests.unit.factories import result, seen, snapshot, target
from tests.unit.metrics.scrape import OPENMETRICS, body, exposition, zoo
from tests.unit.web.site import LOOPBACK, ask, converse, fetch, server, serving

if TYPE_CHECKING:
    from tests.unit.web.site import Answer

WEB = target("web1", expect=[22])
PATHS = ["/", "/metrics", "/-/healthy", "/-/ready"]
LAST = b"Host: x\r\nConnection: close"


def without_process(text: str) -> list[str]:
    """Leave out what changes between two scrapes: the families of the process itself and of its connections."""
    return [line for line in text.splitlines() if not re.search("process_|python_|portspec_http_", line)]


def test_metrics_as_text() -> None:
    """/metrics is the exposition's text, with its content type."""
    answer = ask(zoo(), "/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert without_process(answer.text) == without_process(body(exposition(zoo()).write()).decode())


def test_metrics_as_openmetrics() -> None:
    """/metrics is OpenMetrics for those who accept it."""
    answer = ask(zoo(), "/metrics", headers={"Accept": OPENMETRICS})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("hosts", [1, 2000])
def test_metrics_compressed(hosts: int) -> None:
    """/metrics is gzip for those who accept it, and small, also when it is large; and plain for all others."""
    scans = [target(f"host-{number}.example", expect=[22, 80, 443]) for number in range(hosts)]
    of = snapshot(*((one, [result(one, seen(is_open=[22]))]) for one in scans))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = ask(of, "/metrics", headers={"Accept-Encoding": "gzip"})
        plain = ask(of, "/metrics")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert without_process(gzip.decompress(answer.body).decode()) == without_process(plain.text)
    assert len(answer.body) < len(plain.body) / 2
    assert "Content-Encoding" not in plain.headers


@pytest.mark.parametrize("accept_encoding", ["gzip;q=0", "identity", "br", "*;q=0"])
def test_metrics_are_not_compressed_for_those_who_refuse(accept_encoding: str) -> None:
    """/metrics is plain for a client that takes no gzip; either way caches are told that it depends on the headers."""
    answer = ask(zoo(), "/metrics", headers={"Accept-Encoding": accept_encoding})
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    assert answer.text.startswith("# HELP ")


def test_nasty_headers_get_metrics() -> None:
    """Nonsense in Accept or Accept-Encoding is no reason for a status of 500."""
    for name in ("Accept", "Accept-Encoding"):
        for value in (
            "application/openmetrics-text;version=abc",
            ";;;",
            "version=",
            "\xff",
            "q=,;q=nan",
            ",,",
            "*/*;q=",
        ):
            assert ask(zoo(), "/metrics", headers={name: value}).status == 200


def test_header_in_several_lines_is_one() -> None:
    """Accept and Accept-Encoding may stand in several lines, each with a part of the list (RFC 9110, 5.3)."""

    async def scenario() -> bytes:
        async with serving(zoo) as (url,):
            lines = [
                b"Accept: text/plain;q=0.1",
                b"Accept: application/openmetrics-text;version=1.0.0",
                b"Accept-Encoding: br",
                b"Accept-Encoding: gzip",
            ]
            return await converse(url, b"\r\n".join([b"GET /metrics HTTP/1.1", LAST, *lines, b"", b""]))

    head, _, page = asyncio.run(scenario()).partition(b"\r\n\r\n")
    assert b"application/openmetrics-text" in head
    assert gzip.decompress(page).endswith(b"# EOF\n")


@pytest.mark.parametrize(
    "query", ["name[]=port_host_up&name[]=portspec_hosts", "name%5B%5D=port_host_up&name[]=portspec_hosts"]
)
def test_metrics_by_name(query: str) -> None:
    """With `name[]` there are the samples of these names only, as prometheus_client's own server has it."""
    answer = ask(zoo(), f"/metrics?{query}")
    samples = [line for line in answer.text.splitlines() if not line.startswith("#")]
    assert [line.split("{")[0] for line in samples] == ["portspec_hosts 6.0", *["port_host_up"] * 4]


def test_metrics_by_a_name_that_is_not_there() -> None:
    """A name that no sample has gives an empty page; what is no name chooses nothing."""
    answer = ask(zoo(), "/metrics?name[]=nothing")
    assert (answer.status, answer.body) == (200, b"")
    assert without_process(ask(zoo(), "/metrics?name=nothing").text) == without_process(ask(zoo(), "/metrics").text)


@pytest.mark.parametrize("line", [b"", b"Accept-Encoding: gzip"])
def test_head_of_metrics_leaves_the_connection_usable(line: bytes) -> None:
    """HEAD /metrics has the length of the page and not a byte of it: the next answer follows at once."""

    async def scenario() -> bytes:
        async with serving(zoo) as (url,):
            head = b"\r\n".join([b"HEAD /metrics HTTP/1.1", b"Host: x", *filter(None, [line]), b"", b""])
            return await converse(url, head, b"\r\n".join([b"GET /-/healthy HTTP/1.1", LAST, b"", b""]))

    first, second, rest = asyncio.run(scenario()).split(b"\r\n\r\n")
    assert b"Content-Length: " in first
    assert (b"Content-Encoding: gzip" in first) == bool(line)
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest == b"portspec is healthy.\n"


def test_metrics_over_http_1_0() -> None:
    """A client of HTTP/1.0 gets the page, with its length."""

    async def scenario() -> bytes:
        async with serving(zoo) as (url,):
            return await converse(url, b"GET /metrics HTTP/1.0\r\n\r\n")

    head, _, page = asyncio.run(scenario()).partition(b"\r\n\r\n")
    assert f"content-length: {len(page)}\r\n".encode() in head.lower() + b"\r\n"
    assert without_process(page.decode()) == without_process(ask(zoo(), "/metrics").text)


def huge() -> Snapshot:
    """Make hosts whose page, 30 MB, is larger than all that the kernel keeps for a connection."""
    return Snapshot.of(target(f"host{number}", labels={"note": "x" * 100_000}) for number in range(300))


def test_huge_page_arrives_whole() -> None:
    """A page of many megabytes arrives byte for byte, plain and gzip."""
    of = huge()
    plain, compressed = (ask(of, "/metrics", headers={"Accept-Encoding": coding}) for coding in ("identity", "gzip"))
    assert len(plain.body) == int(plain.headers["Content-Length"]) > 30_000_000
    assert without_process(plain.text) == without_process(body(exposition(of).write()).decode())
    assert without_process(gzip.decompress(compressed.body).decode()) == without_process(plain.text)


def test_client_that_does_not_read_holds_up_nobody() -> None:
    """While one client leaves a huge page unread others are answered; it gets the rest when it reads on."""

    async def scenario() -> tuple[int, bytes]:
        of = huge()
        async with serving(lambda: of) as (url,):
            host, port = url.removeprefix("http://").rstrip("/").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"\r\n".join([b"GET /metrics HTTP/1.1", LAST, b"", b""]))
            await reader.readuntil(b"\r\n\r\n")
            status = (await fetch(f"{url}-/healthy")).status
            rest = await reader.read()
            writer.close()
            await writer.wait_closed()
            return status, rest

    status, page = asyncio.run(asyncio.wait_for(scenario(), 60.0))
    assert status == 200
    assert len(page) > 30_000_000
    assert page.endswith(b"} 1.0\n")


def test_client_that_hangs_up_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves in the middle of a huge page is nothing to log, and the next one is answered."""

    async def scenario() -> int:
        of = huge()
        async with serving(lambda: of) as (url,):
            host, port = url.removeprefix("http://").rstrip("/").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"\r\n".join([b"GET /metrics HTTP/1.1", LAST, b"", b""]))
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()
            return (await fetch(f"{url}metrics")).status

    assert asyncio.run(asyncio.wait_for(scenario(), 60.0)) == 200
    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


def test_stop_does_not_wait_for_a_client_that_does_not_read() -> None:
    """A huge page that nobody reads does not hold up the end of the server."""

    async def scenario() -> bytes:
        of = huge()
        async with serving(lambda: of) as (url,):
            host, port = url.removeprefix("http://").rstrip("/").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return b"stopped"

    assert asyncio.run(asyncio.wait_for(scenario(), 10.0)) == b"stopped"


def test_healthy_is_always_200() -> None:
    """/-/healthy says that the program runs, whatever the hosts are like."""
    answer = ask(Snapshot.of([WEB]), "/-/healthy")
    assert (answer.status, answer.text) == (200, "portspec is healthy.\n")


def test_ready_turns_from_503_to_200() -> None:
    """/-/ready is 503 until every host was scanned once, then 200."""

    async def scenario() -> list[Answer]:
        current = Snapshot.of([WEB])
        async with serving(lambda: current) as (url,):
            before = await fetch(f"{url}-/ready")
            current = current.after("web1", result(WEB, seen()), probes_sent=3)
            return [before, await fetch(f"{url}-/ready")]

    before, after = asyncio.run(scenario())
    assert (before.status, after.status, after.text) == (503, 200, "portspec is ready.\n")
    assert "not ready" in before.text


@pytest.mark.parametrize("path", ["/nowhere", "/metrics/", "/index.html", "/-/", "/../../etc/passwd", "/%00"])
def test_unknown_path_is_404(path: str) -> None:
    """What is not there is 404."""
    assert ask(zoo(), path).status == 404


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_405(path: str, method: str) -> None:
    """Nothing here can be written to: 405, with the methods that are allowed."""
    answer = ask(zoo(), path, method)
    assert answer.status == 405
    assert sorted(answer.headers["Allow"].split(",")) == ["GET", "HEAD"]


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(path: str) -> None:
    """HEAD has the status and the content type of GET, and no body."""
    got, head = ask(zoo(), path), ask(zoo(), path, "HEAD")
    assert (head.status, head.headers["Content-Type"]) == (got.status, got.headers["Content-Type"])
    assert head.body == b""


def test_each_request_sees_the_snapshot_of_its_moment() -> None:
    """A page is of the snapshot that is current when it is asked for."""

    async def scenario() -> tuple[str, str]:
        current = Snapshot.of([WEB])
        async with serving(lambda: current) as (url,):
            before = await fetch(url)
            current = current.after("web1", result(WEB, seen(is_open=[22])), probes_sent=3)
            return before.text, (await fetch(url)).text

    before, after = asyncio.run(scenario())
    assert 'class="verdict waiting"' in before
    assert 'class="verdict waiting"' not in after


def test_server_listens_on_every_address() -> None:
    """Several addresses, of both families, are listened on at once, each with the URL that reaches it."""

    async def scenario() -> list[int]:
        async with serving(zoo, [LOOPBACK, LOOPBACK, ListenAddress("::1", 0)]) as urls:
            assert len(set(urls)) == 3
            assert urls[2].startswith("http://[::1]:")
            return [(await fetch(f"{url}-/healthy")).status for url in urls]

    assert asyncio.run(scenario()) == [200, 200, 200]


def start_error(*listeners: ListenAddress) -> ListenError:
    """Start a server that cannot listen; return its error."""

    async def scenario() -> ListenError:
        one = server(zoo, listeners)
        with pytest.raises(ListenError) as caught:
            await one.start()
        await one.stop()
        return caught.value

    return asyncio.run(scenario())


def test_address_in_use_is_a_clear_error() -> None:
    """An address that is taken is named, with the reason and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = start_error(ListenAddress("127.0.0.1", port))
    assert (error.address, error.why) == (f"127.0.0.1:{port}", "address already in use")
    assert str(error) == (
        f"cannot listen on 127.0.0.1:{port}: address already in use; choose another address with --web.listen-address"
    )


def test_server_that_cannot_listen_everywhere_listens_nowhere() -> None:
    """When one of several addresses is taken, the others are given up again."""

    async def scenario(free: int, taken: int) -> None:
        one = server(zoo, [ListenAddress("127.0.0.1", free), ListenAddress("127.0.0.1", taken)])
        with pytest.raises(ListenError):
            await one.start()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free)

    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        ports = free.getsockname()[1], taken.getsockname()[1]
        free.close()
        asyncio.run(scenario(*ports))


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("203.0.113.1", "cannot assign requested address"),  # RFC 5737: on no machine
        (".".join("x" * 200), "no such address"),  # RFC 1035: too long to be looked up
        ("x" * 64, "no such address"),
    ],
)
def test_address_of_another_machine_is_a_clear_error(host: str, why: str) -> None:
    """An address that this machine does not have, or that is none, is an error that says so."""
    assert start_error(ListenAddress(host, 0)).why == why


def test_stop_ends_open_connections_at_once() -> None:
    """A client that keeps its connection open does not hold up the end of the server."""

    async def scenario() -> bytes:
        async with serving(zoo) as (url,):
            host, port = url.removeprefix("http://").rstrip("/").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"healthy.\n")
        rest = await asyncio.wait_for(reader.read(), 5.0)
        writer.close()
        await writer.wait_closed()
        return rest

    assert asyncio.run(asyncio.wait_for(scenario(), 10.0)) == b""
