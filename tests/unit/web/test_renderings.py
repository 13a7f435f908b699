"""Pages are written once for all who ask, a few at a time, for nobody who has gone."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from portspec.state.document import host_document
from portspec.state.snapshot import Snapshot
from portspec.web import renderings
from portspec.web.api import hosts
from portspec.web.pages import Pages
from tests.unit.app.exporter import until
from tests.unit.factories import result, seen, target
from tests.unit.web.site import fetch, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


WEB = target("web1", expect=[22])


class Gate:
    """Pages whose writing waits until the test lets it go on, and is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.most = 0
        self._running = 0
        self._counting = threading.Lock()
        self._open = threading.Event()
        self._index = Pages.index
        self._document = host_document
        monkeypatch.setattr(Pages, "index", lambda *parts: self._held(lambda: self._index(*parts)))
        monkeypatch.setattr(hosts, "host_document", lambda *parts: self._held(lambda: self._document(*parts)))

    def _held(self, write: Callable[[], Any]) -> Any:
        with self._counting:
            self.begun += 1
            self._running += 1
            self.most = max(self.most, self._running)
        assert self._open.wait(30.0)
        with self._counting:
            self._running -= 1
        return write()

    def open(self) -> None:
        """Let all be written, now and later."""
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Return a gate, open at the end."""
    found = Gate(monkeypatch)
    yield found
    found.open()


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario on an event loop of its own."""
    return asyncio.run(asyncio.wait_for(scenario, 60.0))


async def hang_up(url: str, path: str) -> None:
    """Ask for a path, and close the connection once that was heard."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await writer.drain()
    await settled()
    writer.transport.abort()


@pytest.mark.parametrize("path", ["", "api/v1/hosts", "api/v1/hosts/web1"])
def test_one_state_of_the_hosts_is_written_once(gate: Gate, path: str) -> None:
    """Of 100 who ask at once all get the page, and it is written once; so does who asks later."""

    async def scenario() -> None:
        current = Snapshot.of([WEB])
        async with serving(lambda: current) as (url,):
            asking = [asyncio.create_task(fetch(url + path)) for _ in range(100)]
            await until(lambda: gate.begun)
            gate.open()
            answers = [*await asyncio.gather(*asking), await fetch(url + path)]
        assert Counter(answer.status for answer in answers) == {200: 101}
        assert len({answer.body for answer in answers}) == 1
        assert gate.begun == 1

    run(scenario())


def test_no_answer_is_older_than_its_question(gate: Gate) -> None:
    """Who asks while a page of an earlier state is written gets one of the present state, shared by all of them."""

    async def scenario() -> None:
        current = Snapshot.of([WEB])
        async with serving(lambda: current) as (url,):
            first = asyncio.create_task(fetch(url))
            await until(lambda: gate.begun)
            others = []
            for _ in range(10):
                current = current.after("web1", result(WEB, seen(is_open=[22])), probes_sent=3)
                others.append(asyncio.create_task(fetch(url)))
                await asyncio.sleep(0)
            assert (await fetch(f"{url}nowhere")).status == 404  # so that all of them have been heard
            gate.open()
            assert 'class="verdict waiting"' in (await first).text
            assert not any('class="verdict waiting"' in other.text for other in await asyncio.gather(*others))
        assert 2 <= gate.begun <= 3  # the second may have begun before the last of them was heard

    run(scenario())


def test_few_pages_are_written_at_a_time(gate: Gate) -> None:
    """Of pages that differ two are written at a time, a few wait, and the rest is 503 with Retry-After."""
    taken = renderings.MAX_CONCURRENT_RENDERINGS + renderings.MAX_QUEUED_RENDERINGS

    async def scenario() -> None:
        current = Snapshot.of([WEB])
        async with serving(lambda: current) as (url,):
            asking = [asyncio.create_task(fetch(f"{url}api/v1/hosts?limit={number}")) for number in range(1, 101)]
            await until(lambda: sum(task.done() for task in asking) >= 100 - taken)
            refused = [task.result() for task in asking if task.done()]
            gate.open()
            answers = await asyncio.gather(*asking)
        assert Counter(answer.status for answer in answers) == {200: taken, 503: 100 - taken}
        assert {answer.headers["Retry-After"] for answer in refused} == {"5"}
        assert gate.most == renderings.MAX_CONCURRENT_RENDERINGS

    run(scenario())


def test_health_and_metrics_stand_outside(gate: Gate) -> None:
    """However many pages are asked for, /-/healthy, /-/ready and /metrics are answered."""

    async def scenario() -> None:
        current = Snapshot.of([WEB])
        async with serving(lambda: current) as (url,):
            asking = [asyncio.create_task(fetch(f"{url}api/v1/hosts?limit={number}")) for number in range(1, 101)]
            await until(lambda: gate.begun == renderings.MAX_CONCURRENT_RENDERINGS)
            found = [(await fetch(url + path)).status for path in ("-/healthy", "-/ready", "metrics")]
            gate.open()
            await asyncio.gather(*asking)
        assert found == [200, 503, 200]

    run(scenario())


def test_nothing_is_begun_for_a_client_that_has_gone(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that waited for clients who have hung up meanwhile are never written."""
    monkeypatch.setattr(renderings, "MAX_CONCURRENT_RENDERINGS", 1)

    async def scenario() -> None:
        current = Snapshot.of([WEB])
        async with serving(lambda: current) as (url,):
            first = asyncio.create_task(fetch(url))
            await until(lambda: gate.begun)
            await asyncio.gather(*(hang_up(url, f"/api/v1/hosts?limit={number}") for number in range(1, 9)))
            assert (await fetch(f"{url}-/healthy")).status == 200
            await settled()
            gate.open()
            assert (await first).status == 200
            assert (await fetch(f"{url}api/v1/hosts/web1")).status == 200
        assert gate.begun == 2

    run(scenario())


async def settled() -> None:
    """Let the event loop hear what was sent and closed."""
    for _ in range(100):
        await asyncio.sleep(0.001)


def test_page_that_cannot_be_written_is_500_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault is told to everybody who shares the page, and the next one who asks has it written anew."""

    def fault(*_: object) -> str:
        raise ZeroDivisionError

    async def scenario() -> None:
        current = Snapshot.of([WEB])
        async with serving(lambda: current) as (url,):
            monkeypatch.setattr(Pages, "index", fault)
            answers = await asyncio.gather(*(fetch(url) for _ in range(3)))
            assert [answer.status for answer in answers] == [500] * 3
            monkeypatch.setattr(Pages, "index", lambda *_: "there")
            assert (await fetch(url)).text == "there"

    run(scenario())


def test_states_of_old_pages_are_let_go() -> None:
    """A page, and with it the states that it was made of, is kept for seconds, and only a few are."""

    async def scenario() -> list[int]:
        kept = renderings.Renderings[bytes](cached_for=0.0)

        request: Any = SimpleNamespace(transport=SimpleNamespace(is_closing=lambda: False))

        async def page() -> bytes:
            return b"x"

        found = []
        for number in range(20):
            await kept.page(request, number, (number,), page)
            found.append(len(kept._kept))
        await settled()
        return [*found, len(kept._kept)]

    *during, last = run(scenario())
    assert max(during) <= renderings.MAX_CACHED_PAGES
    assert last == 0
