from __future__ import annotations

import asyncio
import gzip
import socket
import warnings
from typing import TYPE_CHECKING

import pytest

from portspec.errors import ListenError
from portspec.snapshot import Snapshot
from portspec.web import Listener
from tests.unit.factories import result, seen, snapshot, target
from tests.unit.metrics.scrape import OPENMETRICS, exposition, zoo
from tests.unit.web.site import LOOPBACK, ask, fetch, server, serving

if TYPE_CHECKING:
    from tests.unit.web.site import Answer

WEB = target("web1", expect=[22])
PATHS = ["/", "/metrics", "/-/healthy", "/-/ready"]


def without_process(text: str) -> list[str]:
    """Leave out what changes between two scrapes: the families of the process itself."""
    return [line for line in text.splitlines() if "process_" not in line and "python_" not in line]


def test_metrics_as_text() -> None:
    """/metrics is the exposition's text, with its content type."""
    answer = ask(zoo(), "/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert without_process(answer.text) == without_process(exposition(zoo()).write("")[0].decode())


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


def test_nasty_accept_header_gets_metrics() -> None:
    """Nonsense in the Accept header is no reason for a status of 500."""
    for accept in ("application/openmetrics-text;version=abc", ";;;", "version=", "\xff"):
        assert ask(zoo(), "/metrics", headers={"Accept": accept}).status == 200


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
    assert "not scanned yet" in before
    assert "not scanned yet" not in after


def test_server_listens_on_every_address() -> None:
    """Several addresses, of both families, are listened on at once, each with the URL that reaches it."""

    async def scenario() -> list[int]:
        async with serving(zoo, [LOOPBACK, LOOPBACK, Listener("::1", 0)]) as urls:
            assert len(set(urls)) == 3
            assert urls[2].startswith("http://[::1]:")
            return [(await fetch(f"{url}-/healthy")).status for url in urls]

    assert asyncio.run(scenario()) == [200, 200, 200]


def start_error(*listeners: Listener) -> ListenError:
    """Start a server that cannot listen; give its error."""

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
        error = start_error(Listener("127.0.0.1", port))
    assert (error.address, error.why) == (f"127.0.0.1:{port}", "address already in use")
    assert str(error) == (
        f"cannot listen on 127.0.0.1:{port}: address already in use; choose another address with --web.listen-address"
    )


def test_server_that_cannot_listen_everywhere_listens_nowhere() -> None:
    """When one of several addresses is taken, the others are given up again."""

    async def scenario(free: int, taken: int) -> None:
        one = server(zoo, [Listener("127.0.0.1", free), Listener("127.0.0.1", taken)])
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
    assert start_error(Listener(host, 0)).why == why


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
