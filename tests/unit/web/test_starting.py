"""What is answered while the exporter starts."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING

import aiohttp
import pytest

import portspec.app.process
from portspec.app.process import WebOptions, serve
from portspec.app.service import Service
from portspec.config import load
from portspec.inventory import Shard
from portspec.web import WebServer
from tests.unit.app.exporter import until, write
from tests.unit.factories import process_restored
from tests.unit.metrics.scrape import zoo
from tests.unit.web.site import LOOPBACK, Answer, ScriptedService, fetch, open_gate

if TYPE_CHECKING:
    from pathlib import Path

OTHERS = ["/", "/metrics", "/-/ready", "/api/v1/hosts", "/sd/targets", "/probe?target=web1", "/agent.py", "/nowhere"]


class _Untouchable(ScriptedService):
    """A service that is not there yet."""

    def __getattribute__(self, name: str) -> object:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise AssertionError(f"{name} was asked for")


def asked(path: str, method: str = "GET", *, is_ready: bool = False) -> Answer:
    """Ask a server whose service is not ready."""

    async def scenario() -> Answer:
        ready = asyncio.Event()
        if is_ready:
            ready.set()
        service = ScriptedService(zoo) if is_ready else _Untouchable(zoo)
        server = WebServer(service, [LOOPBACK], gate=open_gate(), ready=ready)
        (url,) = await server.start()
        try:
            return await fetch(url.rstrip("/") + path, method)
        finally:
            await server.stop()

    return asyncio.run(scenario())


def test_healthy_is_200_at_once() -> None:
    """The process runs: whoever kills what is not healthy leaves it alone."""
    assert (asked("/-/healthy").status, asked("/-/healthy").text) == (200, "portspec is healthy.\n")


@pytest.mark.parametrize("path", OTHERS)
def test_all_else_is_503_with_retry_after(path: str) -> None:
    """Nothing waits, and nothing is asked of the service; the client is told to come again."""
    answer = asked(path)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    told = "portspec is not ready: it is starting"
    assert json.loads(answer.text)["detail"] == told if path.startswith("/api/") else answer.text == f"{told}.\n"


@pytest.mark.parametrize("path", ["/api/v1/audits", "/-/reload", "/api/v1/scan?host=web1"])
def test_posts_are_503_with_retry_after(path: str) -> None:
    """An agent keeps its report and sends it again."""
    answer = asked(path, "POST")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


def test_once_it_is_ready_all_is_answered() -> None:
    """From then on each path gives its own answer."""
    assert [asked(path, is_ready=True).status for path in ("/", "/metrics", "/nowhere")] == [200, 200, 404]


def test_exporter_answers_while_its_state_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the file takes, /-/healthy is 200 and /-/ready 503; then all is served."""
    write(tmp_path / "conf.yml", {"127.0.0.1": []}, scan={"engine": "connect"})
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    begun, may_end = threading.Event(), threading.Event()
    open_ = Service.open

    def slow(service: Service) -> None:
        begun.set()
        assert may_end.wait(30.0)
        open_(service)

    monkeypatch.setattr(Service, "open", slow)
    monkeypatch.setattr(portspec.app.process, "drop_privileges", lambda: None)  # of the process of all tests

    async def scenario() -> None:
        exporter = asyncio.create_task(serve(load(tmp_path / "conf.yml", {}), Shard(), WebOptions(("127.0.0.1:0",))))
        connector = aiohttp.UnixConnector(str(tmp_path / "portspec.sock"))  # an address that is known beforehand
        async with aiohttp.ClientSession(connector=connector) as session:

            async def status(path: str) -> int:
                async with session.get(f"http://localhost{path}") as response:
                    return response.status

            try:
                await until(begun.is_set)
                assert [await status(path) for path in ("/-/healthy", "/-/ready", "/metrics")] == [200, 503, 503]
                may_end.set()
                async with asyncio.timeout(30.0):
                    while await status("/metrics") != 200:  # noqa: ASYNC110 - what is waited for happens in threads
                        await asyncio.sleep(0.01)
            finally:
                may_end.set()
                exporter.cancel()
                await asyncio.gather(exporter, return_exceptions=True)

    with process_restored():
        asyncio.run(scenario())
