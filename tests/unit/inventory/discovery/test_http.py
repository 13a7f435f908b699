from __future__ import annotations

import asyncio
import base64
import gzip
import os
import shutil
import socket
import ssl
import subprocess
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from portspec.inventory.discovery.http import ContentEncodingError, HttpClient, unpack
from tests.faults.registry import fault
from tests.requirements import missing
from tests.unit.inventory.discovery.parts import PATIENCE, SOON, http_source, inventory, names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from portspec.inventory.discovery import Answer

LIST = '[{"targets": ["web1:9100", "192.0.2.7"], "labels": {"rack": "7"}}]'
Handler = Any


async def ask(url: str, **parts: Any) -> Answer:
    """Ask a URL once."""
    (answer,) = (await HttpClient(http_source(url, **parts)).ask()).values()
    return answer


def answered(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], path: str = "/", **parts: Any) -> Answer:
    """Ask a server that answers so."""

    async def scenario() -> Answer:
        async with inventory(handler) as url:
            return await asyncio.wait_for(ask(url + path, **parts), 2 * PATIENCE)

    return asyncio.run(scenario())


def gives(text: str | bytes, **parts: Any) -> Handler:
    """Make a handler that always gives the same."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=text if isinstance(text, bytes) else text.encode(), **parts)

    return handler


def test_a_list_is_taken() -> None:
    """A server that answers with target groups has hosts."""
    answer = answered(gives(LIST, content_type="application/json"))
    assert names(answer) == ["web1", "192.0.2.7"]
    assert dict(answer.hosts[0].labels) == {"rack": "7"}


def test_json_is_taken_whatever_it_is_called() -> None:
    """Many scripts do not care for the content type."""
    assert names(answered(gives(LIST, content_type="text/html"))) == ["web1", "192.0.2.7"]


def test_an_empty_list_is_an_answer() -> None:
    """Who says [] has no hosts."""
    assert names(answered(gives("[]"))) == []


@fault(
    "http_sd",
    "discovery",
    "An answer that is no list of targets is logged; the last hosts stay (PortspecDiscoveryFailing).",
)
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("<html>", "the answer is not valid JSON: expecting value on line 1"),
        (LIST[:-3], "the answer is not valid JSON: expecting ',' delimiter on line 1"),
        ('{"status": "error"}', "the answer is not a list of target groups"),
        ("", "the answer is empty; a list without targets is []"),
        ("[" * 1_000_000, "the answer is nested more than 40 levels deep"),
        (b"\xff\xff", "the answer is not UTF-8 text"),
    ],
)
def test_garbage_is_a_failure(content: str | bytes, why: str) -> None:
    """What is no list of target groups is told as that."""
    answer = answered(gives(content))
    assert answer.failure
    assert answer.failure.startswith(why)


@pytest.mark.parametrize("status", [201, 204, 304, 401, 404, 500, 503])
def test_any_status_but_200_is_a_failure(status: int) -> None:
    """A list beside an error is not looked at."""
    assert answered(gives(LIST, status=status)).failure == f"the server answers {status}"


def deflated(data: bytes) -> bytes:
    """Compress without a header, as some servers do under the name of deflate."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


PACKED = gzip.compress(LIST.encode())


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", PACKED),
        ("GZip", gzip.compress(LIST[:9].encode()) + gzip.compress(LIST[9:].encode()) + bytes(512)),
        ("x-gzip", PACKED),
        ("identity, gzip", PACKED),
        ("deflate", zlib.compress(LIST.encode())),
        ("deflate", deflated(LIST.encode())),
        ("identity", LIST.encode()),
        ("", LIST.encode()),
    ],
    ids=range(8),
)
def test_an_answer_that_is_compressed_unasked_is_unpacked(encoding: str, body: bytes) -> None:
    """Some servers compress whatever the request says."""
    assert names(answered(gives(body, headers={"Content-Encoding": encoding}))) == ["web1", "192.0.2.7"]


@pytest.mark.parametrize(
    ("encoding", "body", "why"),
    [
        ("gzip", LIST.encode(), "is not gzip, as its header says"),
        ("deflate", LIST.encode(), "is not deflate, as its header says"),
        ("gzip", PACKED[:-9], "is truncated"),
        ("gzip", PACKED + b"more", "is not gzip, as its header says"),
        ("gzip", b"", "is empty; a list without targets is []"),
        ("br", LIST.encode(), "has an unsupported compression (supported: gzip, deflate)"),
        ("gzip, gzip", PACKED, "has an unsupported compression (supported: gzip, deflate)"),
        ("gzip", gzip.compress(bytes(40 * 2**20)), "is larger than 32 MiB"),
        ("deflate", deflated(bytes(40 * 2**20)), "is larger than 32 MiB"),
    ],
    ids=range(9),
)
def test_what_cannot_be_unpacked_is_a_failure(encoding: str, body: bytes, why: str) -> None:
    """The limit holds for what comes out, and nothing is unpacked beyond it."""
    answer = answered(gives(body, headers={"Content-Encoding": encoding}))
    assert answer.failure
    assert answer.failure.removeprefix("the answer ") == why


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(1, 400))
def test_no_more_is_unpacked_than_the_limit_and_a_byte(data: bytes, cut: int, limit: int) -> None:
    """Whatever a server sends, whole or cut off."""
    for packed in (gzip.compress(data), zlib.compress(data), deflated(data), data):
        for scheme in ("gzip", "deflate"):
            try:
                found = unpack(packed[:cut], (scheme,), limit)
            except ContentEncodingError:
                continue
            assert len(found) <= limit + 1


@pytest.mark.parametrize("is_told", [True, False])
def test_an_answer_that_is_too_large_is_not_read_to_its_end(is_told: bool) -> None:  # noqa: FBT001
    """Of 100 MB no more than the limit is read, and nothing where the server says beforehand how much it is."""
    piece, pieces = b" " * 2**20, 100
    sent = 0
    hung_up = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        response.content_length = len(piece) * pieces if is_told else None
        await response.prepare(request)
        try:
            for _ in range(pieces):
                await response.write(piece)
                sent += 1
        except (ConnectionError, asyncio.CancelledError):
            hung_up.set()
            raise
        return response

    async def scenario() -> None:
        async with inventory(handler) as url:
            client = HttpClient(http_source(url), max_bytes=4 * 2**20)
            (answer,) = (await client.ask()).values()
            assert answer.failure == "the answer is larger than 4 MiB"
            await asyncio.wait_for(hung_up.wait(), PATIENCE)

    asyncio.run(scenario())
    assert sent < 40  # the limit, and what two socket buffers hold


@fault("http_sd", "discovery", "A server that does not answer is given up after the time limit of the source.")
def test_a_server_that_never_answers_is_given_up() -> None:
    """The time limit holds before the header."""
    closing = asyncio.Event()

    async def handler(_: web.Request) -> web.StreamResponse:
        await closing.wait()
        raise AssertionError

    assert answered(handler, timeout=SOON).failure == "no complete answer within 0.05 s"


@fault("http_sd", "discovery", "An answer that never ends is given up after the time limit of the source.")
def test_a_server_that_answers_for_ever_is_given_up() -> None:
    """The time limit is for the whole answer, not for each piece of it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0)

    assert answered(handler, timeout=0.3).failure == "no complete answer within 0.3 s"


def test_an_answer_that_breaks_off_is_a_failure() -> None:
    """Half a list is none."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1000
        await response.prepare(request)
        await response.write(LIST.encode())
        assert request.transport
        request.transport.close()
        return response

    assert answered(handler).failure == "the answer is truncated"


@fault("http_sd", "discovery", "A server that closes the connection removes no host.")
def test_a_server_that_hangs_up_is_a_failure() -> None:
    """No header at all."""

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.close()
        raise asyncio.CancelledError

    assert answered(handler).failure == "the server hangs up without an answer"


def test_what_is_not_http_is_a_failure() -> None:
    """Any other server may listen there."""

    async def scenario() -> str | None:
        async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH_10.0\r\n\r\n")
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        async with server:
            return (await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")).failure

    failure = asyncio.run(scenario())
    assert failure
    assert "HTTP" in failure


def test_a_server_that_is_not_there_is_a_failure() -> None:
    """A refused connection is told as that."""
    with socket.socket() as reserved:  # bound, and nobody listens
        reserved.bind(("127.0.0.1", 0))
        answer = asyncio.run(ask(f"http://127.0.0.1:{reserved.getsockname()[1]}/"))
        port = reserved.getsockname()[1]
        of_a_name = asyncio.run(ask(f"http://localhost:{port}/"))
    assert answer.failure == f"no connection to 127.0.0.1 port {port}: connection refused"
    assert of_a_name.failure == f"no connection to localhost port {port}: connection refused"


def test_a_name_that_does_not_resolve_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up runs in a daemon thread, and what it raises is told."""
    seen: list[bool] = []

    def getaddrinfo(*_: object) -> list[object]:
        seen.append(threading.current_thread().daemon)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    failure = asyncio.run(ask("http://inventory.example/")).failure
    assert failure == "the name of the server does not resolve (name or service not known)"
    assert seen == [True]


def test_a_redirect_is_followed() -> None:
    """An inventory may have moved."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/":
            raise web.HTTPFound("/targets")
        return web.Response(text=LIST)

    assert names(answered(handler)) == ["web1", "192.0.2.7"]


def test_redirects_without_end_are_a_failure() -> None:
    """A loop is left."""

    async def handler(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/")

    assert answered(handler).failure == "more than 5 redirects"


def test_a_redirect_to_a_file_is_a_failure() -> None:
    """Only HTTP is spoken, whatever a server asks for."""

    async def handler(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("file:///etc/passwd")

    assert answered(handler).failure == "the URL, or the one that it redirects to, is not valid"


def test_credentials_are_not_carried_to_another_server() -> None:
    """A redirect to somebody else does not hand him the password."""
    heard: list[str | None] = []

    async def other(request: web.Request) -> web.StreamResponse:
        heard.append(request.headers.get("Authorization"))
        return web.Response(text="[]")

    async def scenario() -> None:
        async with inventory(other) as elsewhere:

            async def handler(request: web.Request) -> web.StreamResponse:
                heard.append(request.headers.get("Authorization"))
                raise web.HTTPFound(elsewhere)

            async with inventory(handler) as url:
                assert names(await ask(url, bearer_token="s3cret")) == []  # noqa: S106 - the test's own

    asyncio.run(scenario())
    assert heard == ["Bearer s3cret", None]


async def echo(request: web.Request) -> web.StreamResponse:
    """Return the credentials back as a label."""
    return web.json_response([{"targets": ["web1"], "labels": {"said": request.headers.get("Authorization", "")}}])


def basic(pair: str) -> str:
    """Spell basic auth, RFC 7617 with UTF-8."""
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def test_credentials_are_sent_and_files_read_anew(tmp_path: Path) -> None:
    """A secret that was changed in its file is the new one at the next request; the final line end is not in it."""
    file = tmp_path / "secret"

    def said(**parts: Any) -> str:
        return answered(echo, **parts).hosts[0].labels["said"]

    assert said() == ""
    assert said(username="ä", password="p:w ") == basic("ä:p:w ")  # noqa: S106 - the test's own
    assert said(username="u") == basic("u:")
    file.write_text("one\n")
    assert said(username="u", password_file=str(file)) == basic("u:one")
    file.write_text("two\r\n")
    assert said(username="u", password_file=str(file)) == basic("u:two")
    assert said(bearer_token_file=str(file)) == "Bearer two"


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"bearer_token": "s3cret\r\nX: y"}, "bearer_token has characters that no HTTP header can carry"),
        ({"bearer_token": "s3crét"}, "bearer_token has characters that no HTTP header can carry"),
        ({"bearer_token_file": "/none/s3cret"}, "bearer_token_file cannot be read: no such file or directory"),
        ({"username": "u", "password_file": "/none/s3cret"}, "password_file cannot be read: no such file or directory"),
        ({"ca_file": "/none/s3cret"}, "ca_file cannot be read as certificates in PEM: no such file or directory"),
        ({"ca_file": __file__}, "ca_file cannot be read as certificates in PEM"),
    ],
)
def test_what_cannot_be_sent_is_a_failure_that_quotes_no_secret(parts: dict[str, Any], why: str) -> None:
    """A file that went away since conf.yml was read fails like a server that did."""
    assert answered(gives(LIST), **parts).failure == why


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"bearer_token_file": "{}"}, "bearer_token_file cannot be read"),
        ({"username": "u", "password_file": "{}"}, "password_file cannot be read"),
        ({"ca_file": "{}"}, "ca_file cannot be read as certificates in PEM"),
    ],
)
def test_pipe_in_the_place_of_a_file_is_a_failure(tmp_path: Path, parts: dict[str, str], why: str) -> None:
    """A FIFO that took the place of a file since conf.yml was read is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    filled = {key: value.format(tmp_path / "pipe") for key, value in parts.items()}
    assert answered(gives(LIST), **filled).failure == f"{why}: it is a pipe; put a regular file in its place"


def test_no_secret_is_told() -> None:
    """Neither the place of an answer nor a source's representation has the query, the password or the token."""
    source = http_source("http://127.0.0.1:1/list?token=s3cret", password="s3cret", bearer_token="s3cret")  # noqa: S106
    (place,) = asyncio.run(HttpClient(http_source(source.url, timeout=SOON)).ask())
    assert place == "http://127.0.0.1:1/list"
    assert repr(source).count("s3cret") == 1  # the URL, which conf.yml says


def test_a_request_says_who_asks_for_what() -> None:
    """Servers can tell portspec from others, and see that no compression is wanted."""
    seen: dict[str, str] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.update(request.headers)
        return web.Response(text="[]")

    answered(handler)
    assert seen["User-Agent"].startswith("portspec/")
    assert (seen["Accept"], seen["Accept-Encoding"]) == ("application/json", "identity")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Make a certificate for localhost that no authority has signed, with its key."""
    if shutil.which("openssl") is None:
        missing("openssl is not installed")
    file = tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", file, "-out", tmp_path / "alone"], check=True, capture_output=True)
    file.write_text(file.read_text() + (tmp_path / "alone").read_text())
    return file


@fault("http_sd", "discovery", "A server with a certificate that is not valid is not believed.")
def test_tls_trusts_ca_file_and_nobody_else(certificate: Path) -> None:
    """A server whose certificate nobody vouches for is not believed; with its authority in ca_file it is."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server complains of the client's alert
        async with inventory(gives(LIST), tls) as url:
            untrusted = await ask(url)
            assert untrusted.failure
            assert "certificate is not trusted" in untrusted.failure
            assert names(await ask(url, ca_file=str(certificate))) == ["web1", "192.0.2.7"]

    asyncio.run(scenario())
