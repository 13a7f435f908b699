from __future__ import annotations

import asyncio
import http.server
import socket
import threading
from typing import TYPE_CHECKING, Self

import pytest
from structlog.testing import capture_logs

from portspec.notify import Watch
from tests.unit.factories import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict

PATIENCE = 300.0


class Alertmanager:
    """An Alertmanager on loopback that answers as it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[str] = []
        self.agents: set[str] = set()
        manager = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                manager.asked.append(self.path)
                manager.agents.add(self.headers["User-Agent"])
                self.send_response(manager.status)
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


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask directly, whatever the developer's environment says."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def alertmanager() -> Iterator[Alertmanager]:
    """Give an Alertmanager."""
    with Alertmanager() as manager:
        yield manager


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still."""
    return ManualClock()


def watch(url: str, clock: ManualClock) -> Watch:
    """Make a watch over an Alertmanager."""
    return Watch(url, patience=PATIENCE, timeout=5.0, clock=clock.now)


def ask(of: Watch) -> list[EventDict]:
    """Ask once, and give what is logged."""
    with capture_logs() as logs:
        asyncio.run(of.ask())
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
    assert (event["log_level"], event["url"], event["why"]) == ("warning", alertmanager.url, f"it answers {status}")
    assert event["seconds"] == PATIENCE
    assert (of.is_healthy, of.has_failed) == (False, False)
    assert ask(of) == []


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
        of = Watch(f"http://127.0.0.1:{server.getsockname()[1]}", patience=PATIENCE, timeout=0.05, clock=clock.now)
        (event,) = ask(of)
    assert "timed out" in event["why"] or event["why"] == "no answer in 0.05 s"
    assert not of.is_healthy


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
