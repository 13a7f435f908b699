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
from tests.unit.factories import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from structlog.typing import EventDict

PATIENCE = 300.0


class Alertmanager:
    """An Alertmanager on loopback that answers as it is told."""

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
                """Say nothing."""

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
    """An Alertmanager whose answer begins with `start` and goes on for ever, byte by byte."""

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
    """Give an Alertmanager."""
    with Alertmanager() as manager:
        yield manager


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still."""
    return ManualClock()


def watch(url: str, clock: ManualClock) -> AlertmanagerHealth:
    """Make a watch over an Alertmanager."""
    return AlertmanagerHealth(url, grace_period=PATIENCE, timeout=5.0, clock=clock.now)


def ask(of: AlertmanagerHealth) -> list[EventDict]:
    """Ask once, and give what is logged."""
    with capture_logs() as logs:
        asyncio.run(of.check())
    return list(logs)


def pass_by(clock: ManualClock, seconds: float) -> None:
    """Let time pass."""
    asyncio.run(clock.advance(seconds))


def test_alertmanager_that_answers_is_healthy(alertmanager: Alertmanager, clock: ManualClock) -> None:
    """Its management API is asked by a client that gives its name, and nothing is logged."""
    of = watch(alertmanager.url, clock)
    assert (of.is_healthy, of.has_failed) == (False, False)
    assert ask(of) == []
    assert (of.is_healthy, of.has_failed) == (True, False)
    assert alertmanager.asked == ["/-/healthy"]
    assert next(iter(alertmanager.agents)).startswith("portspec/")


def test_path_of_the_url_is_kept(alertmanager: Alertmanager, clock: ManualClock) -> None:
    """An Alertmanager behind a prefix is asked there."""
    ask(watch(f"{alertmanager.url}/alerts", clock))
    assert alertmanager.asked == ["/alerts/-/healthy"]


@pytest.mark.parametrize("status", [404, 500, 503])
def test_any_error_is_not_healthy(alertmanager: Alertmanager, clock: ManualClock, status: int) -> None:
    """An Alertmanager that answers with an error is not healthy; the log says so once."""
    alertmanager.status = status
    of = watch(alertmanager.url, clock)
    (event,) = ask(of)
    assert (event["log_level"], event["url"], event["why"]) == ("warning", alertmanager.url, f"HTTP status {status}")
    assert event["seconds"] == PATIENCE
    assert (of.is_healthy, of.has_failed) == (False, False)
    assert ask(of) == []


def test_redirect_is_not_healthy_and_not_followed(alertmanager: Alertmanager, clock: ManualClock) -> None:
    """A redirect is not the answer of a healthy Alertmanager but the way to a page to log in."""
    alertmanager.status, alertmanager.location = 302, f"{alertmanager.url}/login"
    of = watch(alertmanager.url, clock)
    (event,) = ask(of)
    assert event["why"] == "HTTP status 302"
    assert not of.is_healthy
    assert alertmanager.asked == ["/-/healthy"]


def test_proxy_of_the_environment_is_not_used(
    alertmanager: Alertmanager, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alertmanager is asked directly, whatever the environment says of proxies."""
    monkeypatch.delenv("no_proxy", raising=False)
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{bound.getsockname()[1]}")
        of = watch(alertmanager.url, clock)
        assert ask(of) == []
    assert of.is_healthy


def test_alertmanager_that_does_not_answer_is_not_healthy(clock: ManualClock) -> None:
    """Where nobody listens nobody is healthy."""
    with socket.socket() as bound:  # and does not listen: nobody else gets the port meanwhile
        bound.bind(("127.0.0.1", 0))
        of = watch(f"http://127.0.0.1:{bound.getsockname()[1]}", clock)
        (event,) = ask(of)
    assert "connection refused" in event["why"]
    assert not of.is_healthy


def test_answer_that_is_no_http_is_not_healthy(clock: ManualClock) -> None:
    """Another program behind the port is told and not taken for an Alertmanager."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        of = watch(f"http://127.0.0.1:{server.getsockname()[1]}", clock)
        (event,) = ask(of)
        thread.join()
    assert event["why"]
    assert not of.is_healthy


def test_alertmanager_that_hangs_is_not_healthy(clock: ManualClock) -> None:
    """One that takes the connection and says nothing is not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        of = AlertmanagerHealth(
            f"http://127.0.0.1:{server.getsockname()[1]}", grace_period=PATIENCE, timeout=0.05, clock=clock.now
        )
        (event,) = ask(of)
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
def test_answer_that_never_ends_is_left(clock: ManualClock, start: str, *, is_healthy: bool) -> None:
    """An answer that comes drop by drop, for ever, leaves no thread and no connection behind."""

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


def test_question_that_is_cancelled_leaves_nothing(clock: ManualClock) -> None:
    """A watch that is cancelled while it asks ends at once, with no thread and no connection left."""

    async def scenario() -> None:
        peer = Dripping("HTTP/1.1 200 OK\r\nX-Slow: ")
        async with peer.serving(), asyncio.timeout(10):
            before = set(threading.enumerate())
            asking = asyncio.create_task(watch(peer.url, clock).check())
            await peer.is_asked.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert set(threading.enumerate()) == before
            await peer.is_left.wait()

    asyncio.run(scenario())


@pytest.mark.parametrize("was_healthy", [True, False])
def test_alertmanager_has_failed_after_its_time(
    alertmanager: Alertmanager, clock: ManualClock, *, was_healthy: bool
) -> None:
    """It has failed so many seconds after it was last healthy, or else after portspec's start, and not one before."""
    of = watch(alertmanager.url, clock)
    alertmanager.status = 200 if was_healthy else 503
    ask(of)
    alertmanager.status = 503
    pass_by(clock, PATIENCE - 1)
    ask(of)
    assert not of.has_failed
    pass_by(clock, 1)
    ask(of)
    assert of.has_failed


def test_alertmanager_that_is_back_has_not_failed(alertmanager: Alertmanager, clock: ManualClock) -> None:
    """One healthy answer ends the failure, is told, and begins the time anew."""
    alertmanager.status = 503
    of = watch(alertmanager.url, clock)
    ask(of)
    pass_by(clock, PATIENCE)
    ask(of)
    alertmanager.status = 200
    assert [event["event"] for event in ask(of)] == ["Alertmanager is healthy again"]
    assert (of.is_healthy, of.has_failed) == (True, False)
    alertmanager.status = 503
    pass_by(clock, PATIENCE - 1)
    assert [event["log_level"] for event in ask(of)] == ["warning"]
    assert not of.has_failed


def test_alertmanager_that_comes_and_goes_has_not_failed(alertmanager: Alertmanager, clock: ManualClock) -> None:
    """As long as it is healthy now and then, it notifies."""
    of = watch(alertmanager.url, clock)
    for status in (200, 503, 503, 200, 503, 503, 503, 200) * 3:
        alertmanager.status = status
        ask(of)
        assert not of.has_failed
        pass_by(clock, PATIENCE / 4)
