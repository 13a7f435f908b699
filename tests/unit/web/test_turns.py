"""Requests that come at once begin a few at a time, and what is urgent passes them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.state.snapshot import Snapshot
from portspec.web.pages import Pages
from portspec.web.turns import Turns
from tests.unit.app.exporter import until
from tests.unit.factories import target
from tests.unit.web.site import ScriptedService, fetch, server, serving

OTHERS = ["", "hosts/web1", "api/v1/hosts", "api/v1/status", "config", "changes", "nowhere"]
VITAL = ["metrics", "-/healthy", "-/ready"]


@given(
    st.integers(1, 5),
    st.lists(st.booleans(), max_size=40),
    st.integers(0, 3),
)
def test_turns_are_taken_in_order_a_few_at_a_time(per_turn: int, stay: list[bool], later: int) -> None:
    """Whoever is cancelled, all others begin, in the order in which they came, so many in a turn."""

    async def scenario() -> None:
        turns = Turns(per_turn)
        begun: list[tuple[int, int]] = []
        turn = 0

        async def one(number: int) -> None:
            await turns.wait()
            begun.append((number, turn))

        for _ in range(later + 1):
            begun.clear()
            tasks = [asyncio.create_task(one(number)) for number in range(len(stay))]
            await asyncio.sleep(0)  # the first have begun, the others wait
            for task, stays in zip(tasks, stay, strict=True):
                if not stays:
                    task.cancel()
            while not all(task.done() for task in tasks):
                turn += 1
                await asyncio.sleep(0)
            numbers = [number for number, _ in begun]
            assert numbers == sorted(set(numbers))
            assert set(numbers) >= {number for number, stays in enumerate(stay) if stays}
            assert all(sum(when == at for _, when in begun) <= per_turn for at in range(turn + 1))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(scenario())


class Held(Turns):
    """Turns that nobody gets until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.asked = 0

    async def wait(self) -> None:
        """Wait for the test."""
        self.asked += 1
        await self.open.wait()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Held]:
    """Return the turns of the servers that are made."""
    made: list[Held] = []

    def make() -> Held:
        made.append(Held())
        return made[-1]

    monkeypatch.setattr("portspec.web.site.Turns", make)
    return made


def test_scrapes_and_health_checks_pass_all_others(held: list[Held]) -> None:
    """/metrics, /-/healthy and /-/ready are answered while every other request waits for its turn."""

    async def scenario() -> None:
        async with serving(lambda: Snapshot.of([target("web1")])) as (url,):
            asking = [asyncio.create_task(fetch(url + path)) for path in OTHERS]
            await until(lambda: held[0].asked == len(OTHERS))
            assert [(await fetch(url + path)).status for path in VITAL] == [200, 200, 503]
            assert not any(task.done() for task in asking)
            held[0].open.set()
            assert {(await task).status for task in asking} <= {200, 404}

    asyncio.run(asyncio.wait_for(scenario(), 60.0))


def test_nothing_is_done_for_a_client_that_has_gone_before_its_turn(
    held: list[Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No page is written for it; what changes something is done all the same."""
    done: list[str] = []

    def index(*_: object) -> str:
        done.append("page")
        return ""

    async def reload(_: ScriptedService, by: str = "") -> None:
        done.append(f"reload{by}")

    monkeypatch.setattr(Pages, "index", index)
    monkeypatch.setattr(ScriptedService, "reload", reload)

    async def scenario() -> None:
        one = server(lambda: Snapshot.of([target("web1")]))
        (url,) = await one.start()
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        writers = []
        for line in ("GET /", "HEAD /", "POST /-/reload"):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"{line} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            writers.append(writer)
        await until(lambda: held[0].asked == len(writers))
        for writer in writers:
            writer.transport.abort()
        await until(lambda: one.status.open["web"] == 0)
        held[0].open.set()
        assert (await fetch(f"{url}nowhere")).status == 404
        await one.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60.0))
    assert done == ["reload"]
