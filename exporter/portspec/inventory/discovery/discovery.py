"""Poll every source on its interval, and merge the hosts of all of them."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from portspec import log
from portspec.clock import SystemClock
from portspec.config.model import FileSource, HttpSource
from portspec.inventory.discovery.hosts import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from portspec.clock import Clock
    from portspec.config import HostConfig
    from portspec.config.model import AnySource

MAX_LOGGED_PLACES = 5  # log lines of one kind about the files or names of one source

_log = log.get("inventory.discovery")


class Client(Protocol):
    """Polls one source."""

    @property
    def poll(self) -> float:
        """The seconds between two calls of is_changed(), which is cheap."""
        ...

    async def ask(self) -> Mapping[str, Answer]:
        """Poll now, in bounded time; return one answer per file, URL or name. What is missing in it is gone."""
        ...

    async def is_changed(self) -> bool:
        """Return whether it is worth polling before the interval is over."""
        ...


@dataclass(frozen=True, slots=True)
class SourceStats:
    """Statistics of one source: how often it was polled, how often part of it failed, and what it has now.

    `hosts` and `targets_refused` are those of its present lists, kept ones included; `last_success` is in Unix seconds.
    `failure` says what is wrong now, if something is.
    """

    name: str
    hosts: int
    refreshes: int
    failures: int
    targets_refused: int
    last_success: float | None
    failure: str | None = None


class Discovery:
    """The hosts of all sources. If several sources name a host, the first one in the file wins.

    A source that was there `before`, with all its settings, keeps what is known of it.
    """

    def __init__(
        self,
        sources: Sequence[AnySource],
        *,
        clock: Clock | None = None,
        wall: Callable[[], float] = time.time,
        client_of: Callable[[AnySource], Client] | None = None,
        before: Discovery | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._wall = wall
        make = client_of or _client_of
        known: Sequence[_SourceState] = before._sources if before else ()  # noqa: SLF001 - of its own kind
        self._sources: tuple[_SourceState, ...] = tuple(
            next((kept for kept in known if kept.source == source), None) or _SourceState(source, make(source))
            for source in sources
        )
        self._hosts: dict[str, HostConfig] = {}
        self._unite()

    @property
    def hosts(self) -> tuple[HostConfig, ...]:
        """The union of what the sources have, by the canonical name of each host."""
        return tuple(self._hosts.values())

    @property
    def stats(self) -> tuple[SourceStats, ...]:
        """One for each source, in the order of the file."""
        return tuple(kept.stats() for kept in self._sources)

    async def refresh_all(self) -> None:
        """Poll every source once, concurrently; failures are logged and counted."""
        await asyncio.gather(*map(self._refresh, self._sources))

    async def run(self, on_change: Callable[[], None]) -> None:
        """Poll each source on its interval until cancelled; call `on_change` when `hosts` change.

        A source that was polled before is polled when its interval is over, any other one at once.
        """
        async with asyncio.TaskGroup() as tasks:
            for kept in self._sources:
                tasks.create_task(self._keep(kept, on_change))
            await asyncio.Event().wait()

    async def _keep(self, kept: _SourceState, on_change: Callable[[], None]) -> None:
        while True:
            await self._wait(kept)
            if await self._refresh(kept):
                on_change()

    async def _wait(self, kept: _SourceState) -> None:
        """Wait until the interval is over or something has changed."""
        while (ahead := kept.due - self._clock.now()) > 0:
            await self._clock.sleep(min(ahead, kept.client.poll))
            if await kept.client.is_changed():
                return

    async def _refresh(self, kept: _SourceState) -> bool:
        """Poll one source; return whether the merged hosts changed."""
        async with kept.turn:
            asked = self._clock.now()
            try:
                answers = await kept.client.ask()
            except Exception as error:  # noqa: BLE001 - a fault of one source is that source's
                _log.exception("discovery source crashed", source=kept.source.name)
                fault = Answer(failure=f"internal error ({type(error).__name__})")
                answers = dict.fromkeys(kept.answers or [kept.source.name], fault)
            kept.due = asked + kept.source.refresh  # not if this was cancelled: it is to be asked again at once
            kept.take(answers, self._wall())
        return self._unite()

    def _unite(self) -> bool:
        before = self._hosts
        self._hosts = {}
        for kept in self._sources:
            for answer in kept.answers.values():
                for host in answer.hosts:
                    self._hosts.setdefault(host.name, host)
        if self._hosts == before:  # whatever their order: servers give lists in any
            return False
        _log.info(
            "hosts discovered",
            hosts=len(self._hosts),
            new=len(self._hosts.keys() - before.keys()),
            gone=len(before.keys() - self._hosts.keys()),
        )
        return True


@dataclass(slots=True)
class _SourceState:
    """One source, and the last good answer of each of its files, URLs or names, with the failure since, if any."""

    source: AnySource
    client: Client
    due: float = -math.inf
    answers: dict[str, Answer] = field(default_factory=dict)
    refreshes: int = 0
    failures: int = 0
    last_success: float | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def take(self, answers: Mapping[str, Answer], now: float) -> None:
        """Store answers, and keep the last good ones of places that failed; `now` in Unix seconds."""
        before, answers_now = self.answers, dict[str, Answer]()
        failing, mended, odd = [], [], []
        for place, answer in answers.items():
            old = before.get(place, Answer())
            if answer.failure is not None:
                answers_now[place] = replace(old, failure=answer.failure)
                if old.failure is None:
                    failing.append(place)
                continue
            answers_now[place] = answer
            if old.failure is not None:
                mended.append(place)
            if answer.complaints and _oddness(answer) != _oddness(old):
                odd.append(place)
        self.answers = answers_now  # at once: scrapes read it in another thread
        self.refreshes += 1
        if any(answer.failure is not None for answer in self.answers.values()):
            self.failures += 1
        else:
            self.last_success = now
        self._tell(failing, mended, odd)

    def stats(self) -> SourceStats:
        """Return the statistics of the source."""
        hosts = {host.name for answer in self.answers.values() for host in answer.hosts}
        refused = sum(answer.refused for answer in self.answers.values())
        failing = (f"{place}: {answer.failure}" for place, answer in self.answers.items() if answer.failure is not None)
        failure = next(failing, None)
        return SourceStats(
            self.source.name, len(hosts), self.refreshes, self.failures, refused, self.last_success, failure
        )

    def _tell(self, failing: Sequence[str], mended: Sequence[str], odd: Sequence[str]) -> None:
        """Log what changed, at most MAX_LOGGED_PLACES lines of each kind."""
        for place in failing[:MAX_LOGGED_PLACES]:
            answer = self.answers[place]
            _log.warning(
                "discovery source failed; keeping its last hosts",
                source=self.source.name,
                place=place,
                why=answer.failure,
                hosts_kept=len(answer.hosts),
            )
        for place in mended[:MAX_LOGGED_PLACES]:
            hosts = len(self.answers[place].hosts)
            _log.info("discovery source recovered", source=self.source.name, place=place, hosts=hosts)
        for place in odd[:MAX_LOGGED_PLACES]:
            answer = self.answers[place]
            _log.warning(
                "discovery source has invalid targets or labels",
                source=self.source.name,
                place=place,
                targets_refused=answer.refused,
                labels_dropped=answer.dropped,
                first="; ".join(answer.complaints),
            )
        if more := sum(max(0, len(places) - MAX_LOGGED_PLACES) for places in (failing, mended, odd)):
            _log.warning("more events of the discovery source are not logged", source=self.source.name, places=more)


def _oddness(answer: Answer) -> tuple[object, ...]:
    return answer.refused, answer.dropped, answer.complaints


def _client_of(source: AnySource) -> Client:
    """Return the client of a source; the libraries for HTTP and DNS are only imported where they are configured."""
    if isinstance(source, FileSource):
        from portspec.inventory.discovery.files import FileClient

        return FileClient(source)
    if isinstance(source, HttpSource):
        from portspec.inventory.discovery.http import HttpClient

        return HttpClient(source)
    from portspec.inventory.discovery.dns import DnsClient

    return DnsClient(source)
