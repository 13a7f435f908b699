from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from portspec.config.model import DiscoverySource
from portspec.inventory.discovery import Answer, Discovery, SourceStats
from portspec.inventory.discovery import discovery as discovery_module
from tests.faults.registry import fault
from tests.unit.factories import NOW, ManualClock, settle
from tests.unit.inventory.discovery.parts import ScriptedClient, dns_source, entry, file_source, host, http_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import EventDict

    from portspec.config.model import AnySource

REFRESH = 60.0


class Scene:
    """A discovery whose sources and clock the test drives; `changes` has the hosts at each call of on_change."""

    def __init__(self, *clients: ScriptedClient) -> None:
        self.clock = ManualClock()
        self.changes: list[list[str]] = []
        sources: list[Any] = [DiscoverySource(f"http_sd[{place}]", REFRESH, entry()) for place in range(len(clients))]
        by_name = {source.name: client for source, client in zip(sources, clients, strict=True)}
        self.discovery = Discovery(
            sources, clock=self.clock, wall=lambda: NOW, client_of=lambda source: by_name[source.name]
        )

    @property
    def names(self) -> list[str]:
        """The hosts there are."""
        return [found.name for found in self.discovery.hosts]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run it."""
        task = asyncio.create_task(self.discovery.run(lambda: self.changes.append(self.names)))
        await settle()
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def warnings(logs: list[EventDict]) -> list[tuple[object, ...]]:
    """Return source, reason and kept hosts of each warning that a source fails."""
    return [
        (line["source"], line["why"], line["hosts_kept"])
        for line in logs
        if line["event"].startswith("discovery source failed") and line["log_level"] == "warning"
    ]


def test_the_hosts_of_all_sources_are_there_after_one_refresh() -> None:
    """Before the first scan every source is asked once."""
    scene = Scene(ScriptedClient("web1", "web2"), ScriptedClient("db1"))
    asyncio.run(scene.discovery.refresh_all())
    assert scene.names == ["web1", "web2", "db1"]


def test_the_first_source_that_names_a_host_holds() -> None:
    """What two sources say of one host is never mixed."""
    first, second = ScriptedClient("web1"), ScriptedClient()
    second.gives("web1", "web2", expect=[443])
    scene = Scene(first, second)
    asyncio.run(scene.discovery.refresh_all())
    assert scene.discovery.hosts == (host("web1"), host("web2", expect=[443]))
    assert [stats.hosts for stats in scene.discovery.stats] == [1, 2]


def test_each_source_is_asked_on_its_interval() -> None:
    """A source that was not asked yet is asked at once, and then every `refresh` seconds."""
    client = ScriptedClient("web1")
    scene = Scene(client)

    async def scenario() -> None:
        async with scene.running():
            assert (client.asked, scene.changes) == (1, [["web1"]])
            await scene.clock.advance(REFRESH - 1)
            assert client.asked == 1
            await scene.clock.advance(2 * REFRESH)
            assert client.asked == 3

    asyncio.run(scenario())


def test_a_source_that_was_just_asked_is_not_asked_again_at_once() -> None:
    """refresh_all() before run() counts."""
    client = ScriptedClient("web1")
    scene = Scene(client)

    async def scenario() -> None:
        await scene.discovery.refresh_all()
        async with scene.running():
            assert client.asked == 1
            await scene.clock.advance(REFRESH)
            assert (client.asked, scene.changes) == (2, [])

    asyncio.run(scenario())


def test_only_a_change_is_told() -> None:
    """Hosts that come, go, or have another specification are a change; another order is none."""
    client = ScriptedClient("web1", "web2")
    scene = Scene(client)

    async def scenario() -> None:
        async with scene.running():
            client.gives("web2", "web1")
            await scene.clock.advance(REFRESH)
            assert len(scene.changes) == 1
            client.gives("web2", "web1", expect=[443])
            await scene.clock.advance(REFRESH)
            client.gives("web2", expect=[443])
            await scene.clock.advance(REFRESH)
            client.gives()
            await scene.clock.advance(REFRESH)

    asyncio.run(scenario())
    assert scene.changes == [["web1", "web2"], ["web2", "web1"], ["web2"], []]


def test_a_source_that_can_be_watched_is_asked_when_it_changed() -> None:
    """A look every few seconds costs little; a change is not left until the interval is over."""
    client = ScriptedClient("web1", poll=5.0)
    scene = Scene(client)

    async def scenario() -> None:
        async with scene.running():
            await scene.clock.advance(20.0)
            assert (client.looked, client.asked) == (4, 1)
            client.changed = True
            client.gives("web2")
            await scene.clock.advance(5.0)
            assert (client.asked, scene.names) == (2, ["web2"])
            await scene.clock.advance(REFRESH)
            assert client.asked == 3

    asyncio.run(scenario())


def test_rounds_missed_in_a_pause_are_not_made_up() -> None:
    """After the machine slept a source is asked once."""
    client = ScriptedClient("web1")
    scene = Scene(client)

    async def scenario() -> None:
        async with scene.running():
            await scene.clock.freeze(100 * REFRESH)
            assert client.asked == 2
            await scene.clock.advance(REFRESH)
            assert client.asked == 3

    asyncio.run(scenario())


@fault(
    "http_sd",
    "discovery",
    "The hosts of the last good answer are scanned; one line says that the source fails, one that it works again.",
)
def test_a_source_that_fails_keeps_its_hosts_and_is_told_once() -> None:
    """One warning says which source, why, and what is kept; one line says that it works again."""
    client = ScriptedClient("web1", "web2")
    scene = Scene(client, ScriptedClient("db1"))

    async def scenario() -> None:
        await scene.discovery.refresh_all()
        client.fails("the server answers 500")
        for _ in range(3):
            await scene.discovery.refresh_all()
        assert scene.names == ["web1", "web2", "db1"]
        client.gives("web1")
        await scene.discovery.refresh_all()

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert warnings(logs) == [("http_sd[0]", "the server answers 500", 2)]
    assert [line["source"] for line in logs if "recovered" in line["event"]] == ["http_sd[0]"]
    assert scene.names == ["web1", "db1"]
    assert scene.discovery.stats == (
        SourceStats("http_sd[0]", 1, 5, 3, 0, NOW),
        SourceStats("http_sd[1]", 1, 5, 0, 0, NOW),
    )


def test_a_source_that_never_worked_has_no_success() -> None:
    """Its hosts are none, and one can tell that from an empty list."""
    client = ScriptedClient()
    client.fails()
    scene = Scene(client)
    asyncio.run(scene.discovery.refresh_all())
    assert scene.discovery.stats == (SourceStats("http_sd[0]", 0, 1, 1, 0, None, "there: it is broken"),)


def test_a_fault_in_a_client_is_a_failure_of_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that one source does stops another one, or the exporter."""
    client = ScriptedClient("web1")
    scene = Scene(client, ScriptedClient("db1"))
    monkeypatch.setattr(logging.getLogger(), "disabled", True)

    async def scenario() -> None:
        async with scene.running():
            client.answers = ZeroDivisionError()
            await scene.clock.advance(2 * REFRESH)

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert scene.names == ["web1", "db1"]
    assert warnings(logs) == [("http_sd[0]", "internal error (ZeroDivisionError)", 1)]
    assert [stats.failures for stats in scene.discovery.stats] == [2, 0]


def test_one_place_of_a_source_fails_alone() -> None:
    """Where a source has several files or names, the others go on; one that is gone takes its hosts along."""
    client = ScriptedClient()
    client.answers = {name: Answer((host(name),)) for name in ("a", "b", "c")}
    scene = Scene(client)

    async def scenario() -> None:
        await scene.discovery.refresh_all()
        client.answers = {"a": Answer((host("a2"),)), "b": Answer(failure="it is broken")}
        await scene.discovery.refresh_all()

    asyncio.run(scenario())
    assert scene.names == ["a2", "b"]
    assert scene.discovery.stats[0].failures == 1


def test_refused_targets_are_counted_and_told_when_they_change() -> None:
    """A list with the same faults each minute is told once, not each minute."""
    client = ScriptedClient()
    scene = Scene(client)

    async def scenario() -> None:
        for refused in (2, 2, 3, 0):
            complaints = ('"-" is not a host',) if refused else ()
            client.answers = {"there": Answer((host("web1"),), refused=refused, complaints=complaints)}
            await scene.discovery.refresh_all()
            assert scene.discovery.stats[0].targets_refused == refused

    with capture_logs() as logs:
        asyncio.run(scenario())
    told = [line for line in logs if "has invalid targets" in line["event"]]
    assert [(line["targets_refused"], line["first"]) for line in told] == [
        (2, '"-" is not a host'),
        (3, '"-" is not a host'),
    ]


def test_many_places_that_fail_at_once_do_not_flood_the_log() -> None:
    """A few lines, and the number of the rest."""
    client = ScriptedClient()
    client.answers = {str(number): Answer(failure="it is broken") for number in range(100)}
    scene = Scene(client)
    with capture_logs() as logs:
        asyncio.run(scene.discovery.refresh_all())
    assert len(warnings(logs)) == discovery_module.MAX_LOGGED_PLACES
    assert logs[-1]["places"] == 100 - discovery_module.MAX_LOGGED_PLACES


def test_without_sources_it_runs_until_cancelled() -> None:
    """A conf.yml without discovery ends nothing."""
    scene = Scene()

    async def scenario() -> None:
        async with scene.running() as task:
            await scene.clock.advance(REFRESH)
            assert not task.done()

    asyncio.run(scenario())
    assert (scene.names, scene.discovery.stats) == ([], ())


def test_cancelling_leaves_nothing_running() -> None:
    """When run() is cancelled its tasks are, before it returns."""
    scene = Scene(ScriptedClient("web1"), ScriptedClient("db1", poll=5.0))

    async def scenario() -> int:
        async with scene.running() as task:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return len(asyncio.all_tasks()) - 1

    assert asyncio.run(scenario()) == 0


def test_each_kind_of_source_has_its_client() -> None:
    """Files, URLs and names are asked in their own way, on the system's clock."""
    sources: list[AnySource] = [file_source("none.yml"), http_source("http://[::1]:1/"), dns_source("x.example")]
    kinds = [type(discovery_module._client_of(source)).__name__ for source in sources]
    assert kinds == ["FileClient", "HttpClient", "DnsClient"]
    discovery = Discovery(sources[:2])
    asyncio.run(discovery.refresh_all())
    assert [(stats.name, stats.failures) for stats in discovery.stats] == [("file_sd[0]", 1), ("http_sd[0]", 1)]
