from __future__ import annotations

import asyncio
import contextlib
import http.server
import socket
import threading
from typing import TYPE_CHECKING, Self

import pytest
from structlog.testing import capture_logs

from portspec.notify import AlertmanagerHealth
from tests.faults.registry import fault
from tests.unit.factories import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from structlog.typing import EventDict

PATIENCE = 300.0


class Alertmanager:
    """An Alertmanager on loopback with a configurable response."""

    def __init__(self) -> None:
        self.status = 200
        self.location: str | None = None
        self.asked: list[str] = []
        self.agents: set[str] = set()
        manager = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                manager.asked.append(self.path)
                manager.agents.add(self.headers["User-Agent"])
                self.send_response(manager.status)
                if manager.location:
                    self.send_header("Location", manager.location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Dripping:
    """An Alertmanager whose response begins with `start` and never ends."""

    def __init__(self, start: str) -> None:
        self._start = start.encode()
        self.is_asked = asyncio.Event()
        self.is_left = asyncio.Event()  # the client has closed its connection
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen on loopback."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dripping = asyncio.create_task(self._drip(writer))
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                self.is_asked.set()
        dripping.cancel()
        writer.close()
        self.is_left.set()

    async def _drip(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self._start)
        while True:
            writer.write(b"a")
            await asyncio.sleep(0.005)  # as slowly as the peer likes: nobody waits for this


@pytest.fixture
def alertmanager() -> Iterator[Alertmanager]:
    """Return an Alertmanager."""
    with Alertmanager() as manager:
        yield manager


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that stands still."""
    return ManualClock()


def health(url: str, clock: ManualClock) -> AlertmanagerHealth:
    """Return the health of an Alertmanager."""
    return AlertmanagerHealth(url, grace_period=PATIENCE, timeout=5.0, clock=clock.now)


def check(of: AlertmanagerHealth) -> list[EventDict]:
    """Check once, and return what is logged."""
    with capture_logs() as logs:
        asyncio.run(of.check())
    return list(logs)


def pass_by(clock: ManualClock, seconds: float) -> None:
    """Let time pass."""
    asyncio.run(clock.advance(seconds))


def test_alertmanager_is_healthy(alertmanager: Alertmanager, clock: ManualClock) -> None:
    """GET /-/healthy with a User-Agent, and nothing is logged."""
    of = health(alertmanager.url, clock)
    assert (of.is_healthy, of.has_failed) == (False, False)
    assert check(of) == []
    assert (of.is_healthy, of.has_failed) == (True, False)
    assert alertmanager.asked == ["/-/healthy"]
    assert next(iter(alertmanager.agents)).startswith("portspec/")


def test_path_of_the_url_is_kept(alertmanager: Alertmanager, clock: ManualClock) -> None:
    """An Alertmanager may have a path prefix."""
    check(health(f"{alertmanager.url}/alerts", clock))
    assert alertmanager.asked == ["/alerts/-/healthy"]


@pytest.mark.parametrize("status", [404, 500, 503])
def test_http_error_is_unhealthy(alertmanager: Alertmanager, clock: ManualClock, status: int) -> None:
    """It is logged once."""
    alertmanager.status = status
    of = health(alertmanager.url, clock)
    (event,) = check(of)
    assert (event["log_level"], event["url"], event["why"]) == ("warning", alertmanager.url, f"HTTP status {status}")
    assert event["seconds"] == PATIENCE
    assert (of.is_healthy, of.has_failed) == (False, False)
    assert check(of) == []


def test_redirect_is_unhealthy(alertmanager: Alertmanager, clock: ManualClock) -> None:
    """A redirect, usually to a login page, is not followed."""
    alertmanager.status, alertmanager.location = 302, f"{alertmanager.url}/login"
    of = health(alertmanager.url, clock)
    (event,) = check(of)
    assert event["why"] == "HTTP status 302"
    assert not of.is_healthy
    assert alertmanager.asked == ["/-/healthy"]


def test_proxy_of_the_environment_is_not_used(
    alertmanager: Alertmanager, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alertmanager is connected to directly."""
    monkeypatch.delenv("no_proxy", raising=False)
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{bound.getsockname()[1]}")
        of = health(alertmanager.url, clock)
        assert check(of) == []
    assert of.is_healthy


def test_closed_port_is_unhealthy(clock: ManualClock) -> None:
    """The reason is logged."""
    with socket.socket() as bound:  # and does not listen: nobody else gets the port meanwhile
        bound.bind(("127.0.0.1", 0))
        of = health(f"http://127.0.0.1:{bound.getsockname()[1]}", clock)
        (event,) = check(of)
    assert "connection refused" in event["why"]
    assert not of.is_healthy


@fault("Alertmanager", "mails", "With `sendemail: fallback`, an Alertmanager that does not answer counts as failed.")
def test_missing_response_is_unhealthy(clock: ManualClock) -> None:
    """There is a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        of = AlertmanagerHealth(
            f"http://127.0.0.1:{server.getsockname()[1]}", grace_period=PATIENCE, timeout=0.05, clock=clock.now
        )
        (event,) = check(of)
    assert event["why"] == "no response in 0.05 s"
    assert not of.is_healthy


@pytest.mark.parametrize(
    ("start", "is_healthy"),
    [
        ("HTTP/1.1 200 OK\r\nX-Slow: ", False),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", True),
        ("HTTP/1.1 200 OK\r\n\r\n", True),
    ],
    ids=["head", "body", "body without end"],
)
def test_endless_response_is_abandoned(clock: ManualClock, start: str, *, is_healthy: bool) -> None:
    """A response without an end leaves neither a thread nor a connection."""

    async def scenario() -> None:
        peer = Dripping(start)
        async with peer.serving():
            of = AlertmanagerHealth(
                peer.url, grace_period=PATIENCE, timeout=5.0 if is_healthy else 0.1, clock=clock.now
            )
            before = set(threading.enumerate())
            await of.check()
            assert of.is_healthy is is_healthy
            assert set(threading.enumerate()) == before
            async with asyncio.timeout(10):
                await peer.is_left.wait()

    asyncio.run(scenario())


def test_cancelled_check_leaves_nothing(clock: ManualClock) -> None:
    """A cancelled check ends at once, without a thread or a connection."""

    async def scenario() -> None:
        peer = Dripping("HTTP/1.1 200 OK\r\nX-Slow: ")
        async with peer.serving(), asyncio.timeout(10):
            before = set(threading.enumerate())
            asking = asyncio.create_task(health(peer.url, clock).check())
            await peer.is_asked.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert set(threading.enumerate()) == before
            await peer.is_left.wait()

    asyncio.run(scenario())


@pytest.mark.parametrize("was_healthy", [True, False])
def test_alertmanager_has_failed_after_the_grace_period(
    alertmanager: Alertmanager, clock: ManualClock, *, was_healthy: bool
) -> None:
    """The grace period begins with the last healthy response, or with portspec."""
    of = health(alertmanager.url, clock)
    alertmanager.status = 200 if was_healthy else 503
    check(of)
    alertmanager.status = 503
    pass_by(clock, PATIENCE - 1)
    check(of)
    assert not of.has_failed
    pass_by(clock, 1)
    check(of)
    assert of.has_failed


def test_alertmanager_recovers(alertmanager: Alertmanager, clock: ManualClock) -> None:
    """One healthy response ends the failure, is logged, and restarts the grace period."""
    alertmanager.status = 503
    of = health(alertmanager.url, clock)
    check(of)
    pass_by(clock, PATIENCE)
    check(of)
    alertmanager.status = 200
    assert [event["event"] for event in check(of)] == ["Alertmanager is healthy again"]
    assert (of.is_healthy, of.has_failed) == (True, False)
    alertmanager.status = 503
    pass_by(clock, PATIENCE - 1)
    assert [event["log_level"] for event in check(of)] == ["warning"]
    assert not of.has_failed
