"""POST /api/v1/audits as agents, strangers and browsers use it: over HTTP, into a real archive."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import logging
import socket
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from portspec import agent
from portspec.access.watched import CurrentWebConfig
from portspec.audit.admission import MAX_PACKED, MAX_PAYLOAD, RejectedError
from portspec.audit.agent_key import AgentKey
from portspec.audit.envelope import ANSWER_SIGNATURE, key_of, sign_answer
from portspec.audit.model import Status
from portspec.config import AuditConfig
from portspec.web import Gate
from portspec.web import audits as intake
from portspec.web.audits import AuditRoutes
from portspec.web.bodies import MAX_HELD, PendingBodies
from tests.faults.registry import fault
from tests.unit.app.exporter import until
from tests.unit.factories import NOW, settle
from tests.unit.reporting import Clock, Scene, in_file, prepared, running
from tests.unit.signed import DAY, DB, PASSPHRASE, TODAY, WEB, packed, payload, rostered, signed
from tests.unit.store.scenes import Logs
from tests.unit.store.test_faults import locked
from tests.unit.web.exporter import Exporter
from tests.unit.web.site import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

PATH = "/api/v1/audits"
LATER = "60"  # seconds after which to try again
PATIENCE = 30.0  # seconds


@pytest.fixture(autouse=True)
def logs() -> Iterator[Logs]:
    """Return the events that the test logs."""
    with Logs() as found:
        yield found


class Site:
    """A web server that takes audits, what it takes them into, and a client."""

    def __init__(self, scene: Scene, url: str, served: AuditRoutes) -> None:
        self.scene = scene
        self.intake = served
        self.passphrases: tuple[str, ...] = (PASSPHRASE,)
        self._url = url

    async def post(self, body: Any, *, method: str = "POST", path: str = PATH, **headers: str) -> Answer:
        """Send something, by default an audit."""
        sent = io.BytesIO(body) if isinstance(body, bytes) else body
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session,
            session.request(method, self._url + path, data=sent, headers=headers) as response,
        ):
            return Answer(response.status, response.headers, await response.read())

    async def told(self, body: Any, **headers: str) -> tuple[int, dict[str, str]]:
        """Post something; give status and document of the answer."""
        return document(await self.post(body, **headers))

    @contextlib.asynccontextmanager
    async def connected(
        self, *headers: str, origin: str = "127.0.0.1"
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect from an address, and begin a POST with these headers."""
        address = urlsplit(self._url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, local_addr=(origin, 0))
        try:
            writer.write("\r\n".join((f"POST {PATH} HTTP/1.1", "Host: localhost", *headers, "", "")).encode())
            await writer.drain()
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def document(answer: Answer) -> tuple[int, dict[str, str]]:
    """Return status and document of an answer."""
    is_accepted = answer.status < 300
    kind = "application/json; charset=utf-8" if is_accepted else "application/problem+json"
    assert answer.headers["Content-Type"] == kind
    assert answer.text.endswith("}\n")
    assert answer.headers.get("Retry-After") == (LATER if answer.status == 503 else None)
    found = json.loads(answer.text)
    assert set(found) == ({"message"} if is_accepted else {"type", "title", "status", "detail", "instance", "error"})
    return answer.status, found


async def answer_on(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Read an answer off a connection."""
    async with asyncio.timeout(PATIENCE):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), json.loads(await reader.readexactly(size))


@contextlib.asynccontextmanager
async def site(scene: Scene, gate: Gate | None = None) -> AsyncIterator[Site]:
    """Serve a scene, whose agent is signed with a key beside the state file."""
    made: list[AuditRoutes] = []
    begin = AuditRoutes.add_to

    def add_to(self: AuditRoutes, router: web.UrlDispatcher) -> None:
        made.append(self)
        begin(self, router)

    with mock.patch.object(AuditRoutes, "add_to", add_to):
        async with Exporter(audits=scene.audits, agent_key=AgentKey.beside(str(scene.path))).served(gate) as url:
            yield Site(scene, url, made[0])


def serving(path: Path, scenario: Callable[[Site], Coroutine[Any, Any, None]], *hosts: str) -> None:
    """Run a scenario with a server that takes audits, by default of one host."""

    async def served() -> None:
        async with running(path, Clock(), *hosts) as scene, site(scene) as at:
            await scenario(at)

    asyncio.run(asyncio.wait_for(served(), 60.0))


def test_new_audit_is_201_and_on_the_disk(path: Path) -> None:
    """When the answer comes the audit is archived, as any other connection to the file sees it."""

    async def scenario(at: Site) -> None:
        assert await at.told(packed()) == (201, {"message": "accepted"})
        assert in_file(path, "SELECT host, day FROM audit") == [(WEB, TODAY)]
        assert at.scene.find_audit() == payload()
        await at.scene.become(web1=Status.CLEAN)

    serving(path, scenario)


def test_same_audit_again_is_200(path: Path) -> None:
    """An agent that did not get the answer sends again, and is told that all is well."""

    async def scenario(at: Site) -> None:
        assert (await at.post(packed())).status == 201
        assert await at.told(packed()) == (200, {"message": "this audit is already archived"})

    serving(path, scenario)


@pytest.mark.parametrize(
    ("audit", "status", "reason", "message"),
    [
        (b"", 400, "malformed", "it does not begin with"),
        (b'{"host": "web1"}', 400, "malformed", "it does not begin with"),
        (packed()[:-1], 400, "malformed", "it is truncated, or followed by other data"),
        (signed(b"\xff"), 400, "malformed", "the payload"),
        (packed("evil.example.org"), 403, "roster", "evil.example.org is not on the roster"),
        (signed(payload(), DB), 403, "signature", f"it is not signed with the key of {WEB}"),
        (signed(payload(), WEB, "a passphrase of others"), 403, "signature", f"it is not signed with the key of {WEB}"),
        (packed(at=NOW + 601), 403, "time", "it is 601 s in the future"),
        (packed(at=NOW - 6 * DAY), 403, "time", "it is 6.0 days old, more than 5"),
        (packed(nonce="11" * 16), 409, "duplicate", f"{WEB} has already sent another audit for {TODAY}"),
        (bytes(MAX_PACKED + 1), 413, "too_large", "it has 16,777,217 bytes, more than 16,777,216"),
        (signed(payload() + bytes(MAX_PAYLOAD)), 413, "too_large", "the payload has more than 25,165,824 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_audit_is_told_why(path: Path, audit: bytes, status: int, reason: str, message: str) -> None:
    """Each reason has its status, is named in the answer and counted, and what was refused is not archived."""

    async def scenario(at: Site) -> None:
        assert (await at.post(packed())).status == 201
        found, told = await at.told(audit)
        assert (found, told["error"]) == (status, reason)
        assert told["detail"].startswith(message)
        assert at.scene.rejected() == {reason: 1}
        assert at.scene.find_audit() == payload()

    serving(path, scenario)


async def signatures(at: Site, audit: bytes) -> tuple[int, list[str], list[str]]:
    """Post an audit; return the status, the signatures of the answer, and those that it should have."""
    answer = await at.post(audit)
    found = answer.headers.get(ANSWER_SIGNATURE, "")
    body = answer.text.encode()
    return (
        answer.status,
        found.split(", ") if found else [],
        [sign_answer(audit, answer.status, body, key_of(WEB, word)) for word in at.passphrases],
    )


def test_answer_to_a_signed_audit_is_signed(path: Path) -> None:
    """Accepted, archived already or refused: the agent can tell that portspec says so, by the key of its host."""

    async def scenario(at: Site) -> None:
        refused = (packed(at=NOW + 601), packed(nonce="11" * 16), signed(payload().replace(TODAY.encode(), b"x", 1)))
        for audit, status in zip((packed(), packed(), *refused), (201, 200, 403, 409, 400), strict=True):
            found, given, expected = await signatures(at, audit)
            assert (found, given) == (status, expected)
            assert len(given) == 1

    serving(path, scenario)


def test_answer_to_an_audit_of_nobody_is_not_signed(path: Path) -> None:
    """Without a right signature on the audit there is none on the answer: strangers get nothing made with a key."""

    async def scenario(at: Site) -> None:
        for audit in (b"", packed()[:-1], packed("evil.example.org"), signed(payload(), DB)):
            status, given, _ = await signatures(at, audit)
            assert (status in (400, 403), given) == (True, [])

    serving(path, scenario)


def test_answer_is_signed_with_each_key_of_the_host(path: Path) -> None:
    """While the passphrase changes, the agent may have either key, whichever an audit of its spool is signed with."""
    new = "another passphrase of the tests"

    async def scenario(at: Site) -> None:
        at.scene.audits.apply(AuditConfig((new, PASSPHRASE)), rostered(WEB))
        at.passphrases = (new, PASSPHRASE)
        for word, day in ((new, 0), (PASSPHRASE, 1)):
            audit = signed(payload(at=NOW - day * DAY), passphrase=word)
            status, given, expected = await signatures(at, audit)
            assert (status, given) == (201, expected)
            assert len(set(given)) == 2

    serving(path, scenario)


@given(st.binary(), st.integers(100, 599), st.binary(), st.binary(min_size=32, max_size=32))
def test_agent_signs_answers_as_portspec_does(audit: bytes, status: int, body: bytes, key: bytes) -> None:
    """The agent, which shares no code with portspec, gets the same signature for any answer, and the same header."""
    assert agent.sign_answer(audit, status, body, key) == sign_answer(audit, status, body, key)
    assert agent.ANSWER_SIGNATURE == ANSWER_SIGNATURE


def test_audit_that_says_it_is_too_large_is_not_read(path: Path) -> None:
    """What a header says suffices: the answer comes before any of the body."""

    async def scenario(at: Site) -> None:
        async with at.connected(f"Content-Length: {MAX_PACKED + 1}") as (reader, _):
            status, told = await answer_on(reader)
        assert (status, told["error"]) == (413, "too_large")
        assert at.scene.rejected() == {"too_large": 1}

    serving(path, scenario)


def test_audit_without_an_end_is_refused_once_it_is_too_large(path: Path) -> None:
    """A body in chunks does not say how large it is, and is read no further than that shows."""

    async def scenario(at: Site) -> None:
        chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        head = packed()
        async with at.connected("Transfer-Encoding: chunked") as (reader, writer):

            async def send() -> None:
                with contextlib.suppress(ConnectionError):
                    writer.write(b"%x\r\n%s\r\n" % (len(head), head))
                    while True:
                        writer.write(chunk)
                        await writer.drain()

            sending = asyncio.create_task(send())
            status, told = await answer_on(reader)
            sending.cancel()
        assert (status, told["error"]) == (413, "too_large")
        assert at.scene.rejected() == {"too_large": 1}
        assert (await at.post(packed())).status == 201

    serving(path, scenario)


def test_audit_in_chunks_is_taken(path: Path) -> None:
    """A proxy may pass a body on in chunks."""

    async def pieces() -> AsyncIterator[bytes]:
        audit = packed()
        for start in range(0, len(audit), 100):
            yield audit[start : start + 100]

    async def scenario(at: Site) -> None:
        assert await at.told(pieces()) == (201, {"message": "accepted"})

    serving(path, scenario)


def test_audits_behind_each_other_on_one_connection_are_taken(path: Path) -> None:
    """A connection may bring several audits, and ask whether to go on before it sends one."""

    async def scenario(at: Site) -> None:
        first, second = packed(WEB), packed(DB)
        async with at.connected(f"Content-Length: {len(first)}", "Expect: 100-continue") as (reader, writer):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(first)
            assert (await answer_on(reader))[0] == 201
            writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(second)}\r\n\r\n".encode() + second)
            assert (await answer_on(reader))[0] == 201

    serving(path, scenario, WEB, DB)


def test_audit_is_taken_as_it_is(path: Path) -> None:
    """A Content-Encoding is refused, since an audit is compressed by itself, and would be decompressed on the way."""

    async def scenario(at: Site) -> None:
        status, told = await at.told(gzip.compress(packed()), **{"Content-Encoding": "gzip"})
        assert (status, told["error"]) == (400, "malformed")
        assert "Content-Encoding" in told["detail"]
        assert at.scene.rejected() == {"malformed": 1}
        assert (await at.post(packed(), **{"Content-Encoding": "identity"})).status == 201

    serving(path, scenario)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/json", "nonsense"])
def test_content_type_does_not_matter(path: Path, kind: str) -> None:
    """An audit is one whatever it is called: `curl --data-binary` says that it is a form."""

    async def scenario(at: Site) -> None:
        assert (await at.post(packed(), **{"Content-Type": kind})).status == 201

    serving(path, scenario)


def test_body_that_does_not_arrive_is_408(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is too slow is told so, and may try again; it is no refused audit."""
    monkeypatch.setattr(intake, "MAX_TIME", 0.05)

    async def scenario(at: Site) -> None:
        audit = packed()
        async with at.connected(f"Content-Length: {len(audit)}") as (reader, writer):
            writer.write(audit[:-1])
            status, told = await answer_on(reader)
        assert (status, told["error"]) == (408, "timeout")
        assert at.scene.rejected() == {}
        assert (await at.post(audit)).status == 201

    serving(path, scenario)


def test_one_address_has_a_share_of_what_is_held(path: Path) -> None:
    """Who sends much and slowly shuts out himself, not the others."""

    async def scenario(at: Site) -> None:
        at.intake.pending = PendingBodies(of_network=100)
        status, told = await at.told(packed(WEB))
        assert (status, told["error"]) == (503, "unable")

    serving(path, scenario)


async def refill(writer: asyncio.StreamWriter, size: int) -> None:
    """Send so many bytes more, as far as they are taken."""
    with contextlib.suppress(ConnectionError):
        writer.write(bytes(size))
        await writer.drain()


def test_stranger_is_refused_before_the_body_is_read(path: Path) -> None:
    """Of a host that is not on the roster only the head is read: 403 comes while all the rest is still to be sent."""

    async def scenario(at: Site) -> None:
        async with at.connected(f"Content-Length: {MAX_PACKED}") as (reader, writer):
            writer.write(packed("evil.example.org")[:250])
            status, told = await answer_on(reader)
            assert (status, told["error"]) == (403, "roster")
            assert at.intake.pending.total == 0
        assert at.scene.rejected() == {"roster": 1}

    serving(path, scenario)


def test_body_that_names_no_host_in_its_head_is_refused(path: Path) -> None:
    """After 8 kB without a host nothing more is read, whatever is still to come."""

    async def scenario(at: Site) -> None:
        async with at.connected(f"Content-Length: {MAX_PACKED}") as (reader, writer):
            writer.write(b"portspec-audit 1 %s\n" % (b"0" * 64) + gzip.compress(b"x" * 100))
            await refill(writer, 8 << 10)
            status, told = await answer_on(reader)
        assert (status, told["error"]) == (400, "malformed")
        assert at.scene.rejected() == {"malformed": 1}

    serving(path, scenario)


def test_head_that_comes_byte_by_byte_is_taken(path: Path) -> None:
    """The host is found wherever the body is cut on its way."""

    async def scenario(at: Site) -> None:
        audit = packed()
        async with at.connected(f"Content-Length: {len(audit)}") as (reader, writer):
            writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for place in range(len(audit)):
                writer.write(audit[place : place + 1])
                await writer.drain()
                await asyncio.sleep(0)
            assert (await answer_on(reader))[0] == 201

    serving(path, scenario)


def test_slow_sender_is_ended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that comes slower than the least rate is 408, long before the time for a whole one is over."""
    monkeypatch.setattr(intake, "GRACE", 0.05)

    async def scenario(at: Site) -> None:
        async with at.connected(f"Content-Length: {MAX_PACKED}") as (reader, writer):
            writer.write(packed()[:-1])
            status, told = await answer_on(reader)
        assert (status, told["error"]) == (408, "timeout")
        assert told["detail"].startswith("the audit arrived too slowly: below 16,384 bytes per second")
        assert at.intake.pending.total == 0

    serving(path, scenario)


@pytest.mark.parametrize("networks", [4, 12])
def test_few_who_hold_large_unfinished_bodies_keep_nobody_out(path: Path, networks: int) -> None:
    """Bodies of 16 MiB - 1 of hosts on the roster fill all the room; a true audit of another host is taken at once."""
    hosts = [f"db{number}.example.org" for number in range(2 * networks)]

    async def scenario(at: Site) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(networks):
                for host in hosts[2 * number : 2 * number + 2]:
                    origin = f"127.0.0.{10 + number}"
                    size = f"Content-Length: {MAX_PACKED}"
                    _, writer = await stack.enter_async_context(at.connected(size, origin=origin))
                    head = packed(host)[:250]
                    writer.write(head)
                    await refill(writer, MAX_PACKED - 1 - len(head))
            await until(lambda: at.intake.pending.total > MAX_HELD - (17 << 20))
            assert at.intake.pending.total <= MAX_HELD
            assert (await at.post(packed())).status == 201
            assert (await at.post(packed(hosts[0]))).status == 201  # also of a host that strangers say they are
        await until(lambda: at.intake.pending.total == 0)

    serving(path, scenario, WEB, *hosts)


def test_body_that_gives_way_is_told_to_come_again(path: Path) -> None:
    """Within the share of a network the largest body makes room for a small one, and its sender is told 503."""
    small = packed()

    async def scenario(at: Site) -> None:
        at.intake.pending = PendingBodies(of_network=40_000)
        async with at.connected(f"Content-Length: {MAX_PACKED}") as (reader, writer):
            writer.write(packed(DB)[:250])
            await refill(writer, 40_000 - 250)
            await until(lambda: at.intake.pending.total == 40_000)
            assert (await at.post(small)).status == 201
            status, told = await answer_on(reader)
            assert (status, told["error"]) == (503, "unable")
            assert told["detail"] == "too many audits are being received; retry later"

    serving(path, scenario, WEB, DB)


def test_host_has_a_share_of_what_is_held(path: Path) -> None:
    """Who says to be a host from many addresses takes no more room than that host may have."""

    async def scenario(at: Site) -> None:
        at.intake.pending = PendingBodies(of_host=40_000)
        async with contextlib.AsyncExitStack() as stack:
            for number in range(8):
                size = f"Content-Length: {MAX_PACKED}"
                _, writer = await stack.enter_async_context(at.connected(size, origin=f"127.0.0.{10 + number}"))
                writer.write(packed(DB)[:250])
                await refill(writer, 30_000 - 250)
            await until(lambda: at.intake.pending.total >= 30_000)
            await settle()
            assert at.intake.pending.total <= 40_000
            assert (await at.post(packed(WEB))).status == 201
            assert (await at.post(packed(DB))).status == 201  # much smaller, so it takes the place of one of them

    serving(path, scenario, WEB, DB)


def test_too_many_audits_at_once_are_503(path: Path) -> None:
    """What has come in and is not archived yet is bounded in bytes; the agent is told to try again later."""
    first, second = packed(WEB), packed(DB)

    async def served() -> None:
        async with prepared(path, Clock(), rostered(WEB, DB)) as scene, site(scene) as at:
            at.intake.pending = PendingBodies(most=len(first) + 100)
            waiting = asyncio.create_task(at.told(first))  # there is nobody yet who archives it
            await until(lambda: scene.audits._posting.waiting)
            status, told = await at.told(second)
            assert (status, told["error"]) == (503, "unable")
            assert told["detail"] == "too many audits are being received; retry later"
            async with scene.running():
                assert (await waiting)[0] == 201
                assert (await at.told(second))[0] == 201
            assert scene.rejected() == {}

    asyncio.run(asyncio.wait_for(served(), 60.0))


def test_clients_that_promise_much_and_send_nothing_keep_nobody_out(path: Path) -> None:
    """Strangers who open connections for large audits take no room from those who send theirs."""

    async def scenario(at: Site) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(40):
                size = f"Content-Length: {MAX_PACKED}" if number % 2 else "Transfer-Encoding: chunked"
                await stack.enter_async_context(at.connected(size))
            await settle()
            assert (await at.post(packed())).status == 201

    serving(path, scenario)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_client_that_hangs_up_leaves_nothing(
    path: Path,
    caplog: pytest.LogCaptureFixture,
    is_chunked: bool,  # noqa: FBT001 - of the two ways
) -> None:
    """Half an audit is forgotten: no room is taken any more, nothing is counted, and there is no traceback."""
    audit = packed()

    async def scenario(at: Site) -> None:
        at.intake.pending = PendingBodies(most=len(audit))
        for _ in range(3):
            size = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(audit)}"
            async with at.connected(size) as (_, writer):
                writer.write(b"200\r\n" + audit[:100] if is_chunked else audit[:-1])
                await writer.drain()
                await settle()
        async with asyncio.timeout(PATIENCE):
            while (await at.post(audit)).status == 503:
                pass
        assert at.scene.rejected() == {}
        assert at.scene.find_audit() == payload()

    with caplog.at_level(logging.WARNING):
        serving(path, scenario)
    assert caplog.records == []


def test_body_that_is_no_http_is_an_error_of_the_client(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken chunks end with an answer, too, and the server goes on."""
    monkeypatch.setattr(intake, "MAX_TIME", 0.05)  # aiohttp does not tell while the body is read

    async def scenario(at: Site) -> None:
        async with at.connected("Transfer-Encoding: chunked") as (reader, writer):
            writer.write(b"1\r\nx\r\nno number\r\n")
            assert (await reader.readline()).split()[1] in (b"400", b"408")
        assert (await at.post(packed())).status == 201

    serving(path, scenario)


def test_without_an_audit_block_every_audit_is_503(path: Path) -> None:
    """A portspec that takes no audits says so, and the agent keeps its audit: the block may come with a reload."""

    async def scenario(at: Site) -> None:
        at.scene.audits.apply(None, {})
        told = "this portspec accepts no audits: its conf.yml has no audit block"
        for audit in (packed(), b"hello"):
            status, found = await at.told(audit)
            assert (status, found["error"], found["detail"]) == (503, "unable", told)
        assert at.scene.rejected() == {}

    serving(path, scenario)


@fault("disk full", "audits", "A posted audit gets 503 while the file cannot be written; the agent sends it again.")
@pytest.mark.usefixtures("no_lock_timeout")
def test_audit_that_cannot_be_archived_is_503(path: Path) -> None:
    """While the file cannot be written the agent is told to try later, in words that name no path; then it is taken."""

    async def scenario(at: Site) -> None:
        with locked(path, "immediate"):
            told = "the audit cannot be archived now: database is locked; retry later"
            status, found = await at.told(packed())
            assert (status, found["error"], found["detail"]) == (503, "store", told)
        async with asyncio.timeout(PATIENCE):
            while (await at.post(packed())).status == 503:
                pass
        assert at.scene.find_audit() == payload()
        assert at.scene.rejected() == {}

    serving(path, scenario)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
    ],
)
def test_browsers_are_not_sent_here_by_other_sites(path: Path, headers: dict[str, str]) -> None:
    """A page of another site cannot make a browser post an audit: 403, before anything is read or counted."""

    async def scenario(at: Site) -> None:
        answer = await at.post(packed(), **headers)
        assert (answer.status, json.loads(answer.text)["error"]) == (403, "cross_site")
        assert (at.scene.days(), at.scene.rejected()) == ([], {})

    serving(path, scenario)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_audits_can_only_be_posted(path: Path, method: str) -> None:
    """Nothing can be read or removed here: 405."""

    async def scenario(at: Site) -> None:
        answer = await at.post(None, method=method)
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")

    serving(path, scenario)


def test_agent_is_to_be_had_as_the_file_that_it_is(path: Path) -> None:
    """/agent.py is the agent, byte for byte, also where no audits are taken; HEAD tells its size."""
    program = files("portspec").joinpath("agent.py").read_bytes()

    async def scenario(at: Site) -> None:
        at.scene.audits.apply(None, {})
        answer = await at.post(None, method="GET", path="/agent.py")
        assert (answer.status, answer.body) == (200, program)
        assert answer.headers["Content-Type"] == "text/x-python; charset=utf-8"
        head = await at.post(None, method="HEAD", path="/agent.py")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(program)))
        assert (await at.post(b"x", path="/agent.py")).status == 405
        answer = await at.post(None, method="GET", path="/agent.py.sha256")
        assert (answer.status, answer.text) == (200, f"{hashlib.sha256(program).hexdigest()}  agent.py\n")
        assert (await at.post(None, method="GET", path="/agent.py.sig")).status == 404

    serving(path, scenario)


def test_agent_is_signed(path: Path) -> None:
    """/agent.py.sig is the signature of what /agent.py gives, by the key beside the state file, however often asked."""

    async def scenario(at: Site) -> None:
        given = [await at.post(None, method="GET", path="/agent.py.sig") for _ in range(2)]
        program = await at.post(None, method="GET", path="/agent.py")
        expected = AgentKey.beside(str(path)).sign(program.body)
        assert [(answer.status, answer.text) for answer in given] == [(200, expected)] * 2
        assert given[0].headers["Content-Type"] == "text/plain; charset=utf-8"

    serving(path, scenario)


def test_agent_that_cannot_be_signed_is_told(path: Path) -> None:
    """With a damaged key there is no signature, but 503 with the file, and the agent is served all the same."""
    key = AgentKey.beside(str(path)).path
    key.touch(mode=0o600)

    async def scenario(at: Site) -> None:
        answer = await at.post(None, method="GET", path="/agent.py.sig")
        assert (answer.status, answer.headers["Retry-After"]) == (503, LATER)
        assert answer.text.startswith(f"the agent cannot be signed: {key}: it is not a private key of OpenSSH")
        assert (await at.post(None, method="GET", path="/agent.py")).status == 200

    serving(path, scenario)


def test_refusal_before_the_body_is_read_tells_where_it_came_from(path: Path, logs: Logs) -> None:
    """The error in the log has the address of the client, whatever is wrong."""

    async def scenario(at: Site) -> None:
        await at.post(b"x", **{"Content-Encoding": "gzip"})
        await at.post(b"x")

    serving(path, scenario)
    assert [(event["reason"], event["origin"]) for event in logs.events] == [("malformed", "127.0.0.1")] * 2


def test_audit_through_a_trusted_proxy_comes_from_the_host_behind_it(path: Path, logs: Logs) -> None:
    """Limits and the log have the address that the proxy tells, and not that of the proxy itself."""
    (path.parent / "web.yml").write_text('trusted_proxies: ["127.0.0.1"]\n', encoding="utf-8")
    gate = Gate(CurrentWebConfig(str(path.parent / "web.yml")))

    async def scenario() -> None:
        async with running(path, Clock()) as scene, site(scene, gate) as at:
            for header in ({"X-Forwarded-For": "192.0.2.7"}, {"Forwarded": 'for="[2001:db8::7]:4711"'}):
                await at.post(b"x", **header)

    asyncio.run(scenario())
    assert [event["origin"] for event in logs.events if "origin" in event] == ["192.0.2.7", "2001:db8::7"]


def test_reasons_have_statuses_that_agents_understand() -> None:
    """Whatever the reason, a refusal is final for the agent: 4xx, but none that asks to try again."""
    for reason in ("too_large", "malformed", "roster", "signature", "time", "duplicate", "quota"):
        status = intake._STATUS.get(RejectedError(reason, "").reason, 403)
        assert 400 <= status < 500
        assert status not in (408, 429)


def test_old_route_names_the_new_one(path: Path) -> None:
    """An agent of before 0.2 posts elsewhere; the answer, which it shows, says where audits go and what to install."""

    async def scenario(at: Site) -> None:
        status, found = document(await at.post(b"portspec-report 1 \n", path="/api/v1/reports"))
        assert (status, found["error"]) == (410, "moved")
        assert "/api/v1/audits" in found["detail"]
        assert "/agent.py" in found["detail"]

    serving(path, scenario)


def test_old_envelope_names_the_new_agent(path: Path) -> None:
    """What an agent of before 0.2 made is refused with a word on what to install."""

    async def scenario(at: Site) -> None:
        old = packed().replace(b"portspec-audit 1 ", b"portspec-report 1 ")
        status, found = await at.told(old)
        assert (status, found["error"]) == (400, "malformed")
        assert found["detail"] == (
            "it is from an old portspec-send: install the portspec-send that this portspec serves at /agent.py"
        )

    serving(path, scenario)
