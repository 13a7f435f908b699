"""The files of the web configuration are read again when they change, for new connections and requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from structlog.testing import capture_logs

from portspec.access import watched
from portspec.access.model import WebConfig
from portspec.access.tls import sans
from portspec.access.watched import GRACE, RETRY, CurrentWebConfig
from portspec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"
MUTUAL = (
    "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, "
    "client_auth_type: RequireAndVerifyClientCert}\n"
)
TOKENS = "tokens: {robot: {token_file: robot.token, role: read}}\n"
LONG_AGO = 1_000_000_000  # seconds; a file of that age has settled


class Time:
    """A clock that a test drives."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def problem_of(current: CurrentWebConfig) -> str | None:
    """Return the problem at the next request."""
    current.refresh()
    return current.problem


def written(place: Path, text: str, name: str = "web.yml") -> str:
    """Replace a file in one step, as programs that renew certificates do; return its path."""
    new = place / f"{name}.new"
    new.write_text(text, encoding="utf-8")
    return str(new.replace(place / name))


def client_of(*authorities: trustme.CA, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Return the context of a client that trusts authorities, with a certificate of its own or not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for authority in authorities:
        authority.configure_trust(context)
    if certificate:
        certificate.configure_cert(context)
    return context


@contextlib.asynccontextmanager
async def listening(current: CurrentWebConfig) -> AsyncIterator[int]:
    """Serve on a port of loopback: tell each connection about itself, then echo lines. Give the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        about = {
            "sans": sorted(sans(writer.get_extra_info("peercert"))),
            "version": writer.get_extra_info("ssl_object").version(),
        }
        writer.write(json.dumps(about).encode() + b"\n")
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    loop = asyncio.get_running_loop()

    async def begin(client: socket.socket) -> None:
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(), serve)
        with contextlib.suppress(OSError):  # the client does not like the certificate, or has none
            await loop.connect_accepted_socket(lambda: protocol, client, ssl=current.context_for_new_connection())

    async def accept(server: socket.socket, tasks: asyncio.TaskGroup) -> None:
        while True:
            client, _ = await loop.sock_accept(server)
            tasks.create_task(begin(client))

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)  # noqa: FBT003 - its only parameter
        async with asyncio.TaskGroup() as tasks:
            accepting = tasks.create_task(accept(server, tasks))
            yield server.getsockname()[1]
            accepting.cancel()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(port: int, client: ssl.SSLContext) -> Connection:
    """Connect by the name localhost. Raises ssl.SSLError."""
    return await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")


async def asked(port: int, client: ssl.SSLContext) -> dict[str, object]:
    """Return what the server says of a connection. Raises OSError (ssl.SSLError) if it refuses it."""
    reader, writer = await connect(port, client)
    try:
        line = await reader.readline()
        if not line:
            raise ConnectionResetError
        found: dict[str, object] = json.loads(line)
        return found
    finally:
        writer.transport.abort()


def test_without_a_file_it_is_the_default() -> None:
    """There is nothing to read, and no TLS."""
    current = CurrentWebConfig(None)
    assert current.refresh() == WebConfig.default()
    assert (current.is_tls, current.problem, current.certificate_validity) == (False, None, None)
    with pytest.raises(RuntimeError):
        current.context_for_new_connection()


def test_what_cannot_be_used_at_the_start_is_an_error(place: Path) -> None:
    """A key of another certificate, or a file that is not there, ends the start."""
    with pytest.raises(ConfigError, match="is not the key of the certificate"):
        CurrentWebConfig(written(place, TLS.replace("server.key", "other.key")))
    with pytest.raises(ConfigError, match="no such file"):
        CurrentWebConfig(str(place / "nowhere.yml"))


def test_a_certificate_is_renewed_while_a_download_runs(place: Path, authority: trustme.CA) -> None:
    """The connection that is there goes on; the next one has the new certificate."""

    async def scenario() -> None:
        current = CurrentWebConfig(written(place, TLS))
        other = trustme.CA()
        renewed = other.issue_cert("localhost")
        async with listening(current) as port:
            reader, writer = await connect(port, client_of(authority))
            await reader.readline()
            written(place, renewed.private_key_pem.bytes().decode(), "server.key")
            written(place, renewed.cert_chain_pems[0].bytes().decode(), "server.crt")
            assert await asked(port, client_of(other))
            with pytest.raises(ssl.SSLCertVerificationError):
                await asked(port, client_of(authority))
            writer.write(b"more\n")
            assert await reader.readline() == b"more\n"
            writer.transport.abort()

    asyncio.run(scenario())


def test_certificates_of_clients_are_required_without_a_restart(place: Path, authority: trustme.CA) -> None:
    """Whether one is required, and of which authority, changes for the next connection, as do versions."""

    async def scenario() -> None:
        current = CurrentWebConfig(written(place, TLS))
        stranger = trustme.CA()
        own = client_of(authority, certificate=authority.issue_cert("prometheus.example.org"))
        foreign = client_of(authority, certificate=stranger.issue_cert("prometheus.example.org"))
        async with listening(current) as port:
            assert await asked(port, client_of(authority)) == {"sans": [], "version": "TLSv1.3"}
            written(place, MUTUAL)
            for refused in (client_of(authority), foreign):
                with pytest.raises(OSError):  # noqa: PT011 - ssl.SSLError, or a reset if the alert comes late
                    await asked(port, refused)
            assert (await asked(port, own))["sans"] == ["prometheus.example.org"]
            written(place, stranger.cert_pem.bytes().decode(), "ca.crt")
            assert (await asked(port, foreign))["sans"] == ["prometheus.example.org"]
            with pytest.raises(OSError):  # noqa: PT011 - as above
                await asked(port, own)
            written(place, TLS.replace("}", ", max_version: TLS12}"))
            assert await asked(port, client_of(authority)) == {"sans": [], "version": "TLSv1.2"}

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["localhost", None])
def test_sni_callback_cannot_require_a_certificate(place: Path, name: str | None) -> None:
    """It is called with and without a name, but what it sets asks no client for a certificate: hence wrap_bio()."""
    first = CurrentWebConfig(written(place, TLS)).context_for_new_connection()
    second = CurrentWebConfig(written(place, MUTUAL)).context_for_new_connection()
    seen: list[str | None] = []

    def swap(end: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> None:
        seen.append(server_name)
        end.context = second

    first.sni_callback = swap
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        first.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert seen == [name]
    assert ends[1].version() == "TLSv1.3"
    assert ends[1].getpeercert() is None


def test_tokens_and_users_change_without_a_restart(place: Path) -> None:
    """A token file and the web config file are read again, and only then."""
    current = CurrentWebConfig(written(place, TOKENS))
    before = current.refresh()
    assert current.refresh() is before
    written(place, "another token of the robot".replace(" ", "-"), "robot.token")
    (token,) = current.refresh().tokens
    assert token.digest != before.tokens[0].digest
    with capture_logs() as logs:
        written(place, TOKENS + "allowed_hosts: [portspec.example.org]\n")
        assert current.refresh().allowed_hosts == {"portspec.example.org"}
    assert logs[0]["event"] == "web config file reloaded"


def test_files_that_do_not_change_are_not_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a file has settled, a refresh looks at its time stamps alone. A new time stamp alone reloads nothing."""
    path = written(place, TOKENS)
    for name in (path, place / "robot.token"):
        os.utime(name, (LONG_AGO, LONG_AGO))
    current = CurrentWebConfig(path)
    config = current.refresh()
    os.utime(path, (LONG_AGO + 9, LONG_AGO + 9))
    assert current.refresh() is config

    def fail(_: object) -> None:
        raise AssertionError("read a file that has not changed")

    monkeypatch.setattr(watched, "_digests", fail)
    assert current.refresh() is config


def test_a_directory_that_is_swapped_is_read_again(place: Path) -> None:
    """Kubernetes replaces a symbolic link to the directory of a secret."""
    for version in ("1", "2"):
        (place / version).mkdir()
        (place / version / "robot.token").write_text(f"the-token-of-version-{version}\n")
    (place / "now").symlink_to("1")
    current = CurrentWebConfig(written(place, TOKENS.replace("robot.token", "now/robot.token")))
    before = current.refresh()
    (place / "next").symlink_to("2")
    (place / "next").replace(place / "now")
    assert current.refresh().tokens != before.tokens


def test_a_file_that_is_broken_is_a_problem_after_a_grace_time(place: Path) -> None:
    """The former configuration holds meanwhile; the log has it once, and once more when it is in order again."""
    clock = Time()
    current = CurrentWebConfig(written(place, TOKENS), clock=clock)
    config = current.refresh()
    with capture_logs() as logs:
        written(place, "tokens: [oops]\n")
        assert current.refresh() is config
        assert problem_of(current) is None
        clock.now += GRACE - 0.1
        assert problem_of(current) is None
        clock.now += 0.2
        for _ in range(3):
            assert current.refresh() is config
            clock.now += RETRY
        assert problem_of(current) == f"{place}/web.yml:1: tokens: expected a mapping (key: value)"
        written(place, TOKENS)
        assert problem_of(current) is None
        assert current.config == config
    assert [(line["log_level"], line["event"]) for line in logs if "problem" not in line or "500" in line["event"]] == [
        ("error", "the web config file cannot be used; all requests are answered with 500"),
        ("info", "the web config file is usable again"),
    ]


def test_a_certificate_whose_key_comes_later_is_no_problem(place: Path, authority: trustme.CA) -> None:
    """The former pair is served until the new one is complete."""
    current = CurrentWebConfig(written(place, TLS), clock=Time())
    before = current.context_for_new_connection()
    renewed = authority.issue_cert("localhost")
    written(place, renewed.cert_chain_pems[0].bytes().decode(), "server.crt")
    assert current.context_for_new_connection() is before
    assert current.problem is None
    written(place, renewed.private_key_pem.bytes().decode(), "server.key")
    assert current.context_for_new_connection() is not before
    assert current.problem is None


def test_a_file_that_is_missing_for_a_while_is_found_again(place: Path) -> None:
    """Also one that the configuration in force does not name: it is tried again each second."""
    clock = Time()
    current = CurrentWebConfig(written(place, ""), clock=clock)
    written(place, TOKENS.replace("robot.token", "later.token"))
    current.refresh()
    assert not current.config.tokens
    written(place, "the-token-that-came-later", "later.token")
    clock.now += RETRY
    assert current.refresh().tokens


def test_the_web_config_file_may_be_gone_for_a_while(place: Path) -> None:
    """A file that is removed is a problem, not an open door."""
    clock = Time()
    current = CurrentWebConfig(written(place, TOKENS), clock=clock)
    (place / "web.yml").unlink()
    assert current.refresh().tokens
    clock.now += GRACE + 1
    assert "no such file" in str(problem_of(current))
    assert current.config.tokens


@pytest.mark.parametrize(("first", "second", "word"), [(TLS, "", "off"), ("", TLS, "on")])
def test_tls_is_turned_on_and_off_by_a_restart(place: Path, first: str, second: str, word: str) -> None:
    """A listener stays what it is, so a file that says otherwise is a problem."""
    clock = Time()
    current = CurrentWebConfig(written(place, first), clock=clock)
    written(place, second)
    current.refresh()
    clock.now += GRACE + 1
    assert problem_of(current) == f"{place}/web.yml: tls_server_config: restart portspec to turn TLS {word}"
    assert current.is_tls is bool(first)


def test_a_pipe_is_read_once(place: Path) -> None:
    """What a shell gives as <(…) is not waited for again."""
    reading, writing = os.pipe()
    try:
        token = TOKENS.replace("robot.token", str(place / "robot.token"))
        os.write(writing, token.encode())
        os.close(writing)
        current = CurrentWebConfig(f"/proc/self/fd/{reading}")
    finally:
        os.close(reading)
    config = current.refresh()
    assert config.tokens
    assert current.refresh() is config


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(place: Path) -> None:
    """Whoever may write to the directory cannot hold up the exporter."""
    clock = Time()
    current = CurrentWebConfig(written(place, TOKENS), clock=clock)
    (place / "web.yml").unlink()
    os.mkfifo(place / "web.yml")
    current.refresh()
    clock.now += GRACE + 1
    assert problem_of(current) == f"{place}/web.yml: is no regular file any more; put one in its place"


def test_an_expired_certificate_is_told(place: Path) -> None:
    """The log says when it expired."""
    with capture_logs() as logs:
        current = CurrentWebConfig(written(place, TLS.replace("server.", "expired.")))
    assert {"event": "the certificate of the web server has expired", "at": "2021-02-03T04:05:06Z"}.items() <= logs[
        -1
    ].items()
    assert current.certificate_validity is not None
