"""Gets the lists about vulnerabilities: from files or URLs that conf.yml names, once a day, kept in the state file."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from portspec import client, files, log
from portspec.audit.priority import Priorities
from portspec.errors import NoThreadError
from portspec.feeds import MAX_PACKED, NO_FEEDS, FeedError, FeedName, Feeds, read_feed
from portspec.metrics import FeedStatus
from portspec.priorities import DEFAULT_RULES
from portspec.store import StoreError, stored_feeds, write_feed
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portspec.config import FeedsConfig
    from portspec.feeds import Epss, Kev
    from portspec.priorities import PriorityRule
    from portspec.store import Store

LOOK_INTERVAL: Final = 60.0  # seconds between two looks at files that may have been replaced
FIRST_RETRY: Final = 300.0  # seconds after a failure; doubled after each, up to the interval of conf.yml
TIMEOUT: Final = 120.0  # seconds for a whole answer
MAX_REDIRECTS: Final = 5
_CHUNK: Final = 1 << 16

_log = log.get("feeds")


@dataclass(slots=True)
class _Source:
    """Where a list comes from, when it is asked again (by `clock`), and how that went."""

    place: str
    due: float = 0.0
    retry: float = FIRST_RETRY
    signature: tuple[int, int, int] | None = None  # of a file: what it was when it was tried last
    digest: bytes = b""  # of the list in use
    failures: int = 0


class FeedReader:
    """Knows the lists: `feeds`. Each has its own source; what fails leaves what was known as it is.

    Args:
        store: The state file.
        prioritize: Called with other priorities after each change of the lists or of the rules.
        wall_clock: Returns Unix seconds.
    """

    def __init__(
        self, store: Store, prioritize: Callable[[Priorities], None], wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._prioritize = prioritize
        self._rules: tuple[PriorityRule, ...] = DEFAULT_RULES
        self._wall_clock = wall_clock
        self._config: FeedsConfig | None = None
        self._sources: dict[FeedName, _Source] = {}
        self._is_changed = asyncio.Event()
        self.feeds = NO_FEEDS

    def apply(self, config: FeedsConfig | None, rules: tuple[PriorityRule, ...]) -> None:
        """Go on with other sources and rules: lists of sources that stay are kept, those of others are dropped."""
        places = {FeedName(name): place for name, place in config.places.items()} if config else {}
        kept = {name: source for name, source in self._sources.items() if places.get(name) == source.place}
        self._sources = {name: kept.get(name) or _Source(place) for name, place in places.items()}
        self._config = config
        feeds = self.feeds.only(kept)
        if rules != self._rules or feeds is not self.feeds:
            self._rules = rules
            self._go_on_with(feeds)
        self._is_changed.set()

    def restore(self) -> None:
        """Take up the lists of these sources that the state file has, at the start of the exporter; blocks."""
        self._go_on_with(stored_feeds(self._store, {name: source.place for name, source in self._sources.items()}))

    @property
    def status(self) -> Mapping[str, FeedStatus]:
        """How each list is, by its name."""
        return {name.value: self._status(name, source) for name, source in self._sources.items()}

    async def run(self) -> None:
        """Keep the lists up to date until cancelled."""
        while True:
            self._is_changed.clear()
            for name in tuple(self._sources):
                await self.look(name)
            try:
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self._is_changed.wait()
            except TimeoutError:
                pass

    async def look(self, name: FeedName) -> None:
        """Read a list again if it is time, or if its file is another one than before."""
        source, config = self._sources.get(name), self._config
        if source is None or config is None:
            return
        now = self._wall_clock()
        is_url = "://" in source.place
        try:
            signature = None if is_url else await in_daemon_thread(partial(_signature, source.place))
            if not self._is_due(source, signature, now, config.refresh):
                return
            source.due, source.signature = now + config.refresh, signature
            data = await (_download(source.place) if is_url else in_daemon_thread(partial(_load, source.place)))
            found = await in_daemon_thread(partial(read_feed, name, data))
            if self._sources.get(name) is source:  # else conf.yml has another one meanwhile
                await self._take(name, source, found, data)
        except NoThreadError:  # is logged already; the next look makes up for it
            source.due = 0.0
        except (FeedError, OSError, TimeoutError, *client.FAILURES) as error:
            self._fail(name, source, error, now, config.refresh)
        else:
            source.retry = FIRST_RETRY

    def _is_due(self, source: _Source, signature: tuple[int, int, int] | None, now: float, refresh: float) -> bool:
        # A clock that was put back must not delay the next time by as much.
        is_time = now >= source.due or source.due > now + refresh
        return is_time or (signature is not None and signature != source.signature)

    async def _take(self, name: FeedName, source: _Source, found: Kev | Epss, data: bytes) -> None:
        known = self.feeds.known(name)
        if known is not None and found.at < known.at:
            raise FeedError(f"is older than the one that is known, of {_spelled(known.at)}")
        if found.at > self._wall_clock() + 2 * 86_400:
            raise FeedError(f"is of the future: of {_spelled(found.at)}")
        digest = hashlib.sha256(data).digest()
        if known is None or digest != source.digest:
            source.digest = digest
            self._go_on_with(self.feeds.having(found))
            _log.info("list read", feed=name.value, entries=len(found), of=_spelled(found.at))
            try:
                await in_daemon_thread(
                    partial(self._store.transact, lambda file: write_feed(file, name, source.place, data))
                )
            except StoreError as error:
                _log.error("failed to store the list", feed=name.value, file=error.path, why=error.why)

    def _fail(self, name: FeedName, source: _Source, error: BaseException, now: float, refresh: float) -> None:
        source.failures += 1
        source.due = now + min(source.retry, refresh)
        source.retry *= 2
        if isinstance(error, FeedError):
            why = f"the list {error}"
        elif isinstance(error, TimeoutError) and not error.errno:
            why = f"no complete answer within {TIMEOUT:g} s"
        else:
            why = client.why(error) if isinstance(error, Exception) else str(error)
        _log.warning("failed to read a list; what was known is kept", feed=name.value, why=why)

    def _go_on_with(self, feeds: Feeds) -> None:
        self.feeds = feeds
        self._prioritize(Priorities(self._rules, feeds))

    def _status(self, name: FeedName, source: _Source) -> FeedStatus:
        known = self.feeds.known(name)
        return FeedStatus(
            at=known.at if known else 0.0,
            entries=len(known) if known else 0,
            failures=source.failures,
        )


def _signature(path: str) -> tuple[int, int, int]:
    found = os.stat(path)  # noqa: PTH116 - as files.py
    return found.st_ino, found.st_size, found.st_mtime_ns


def _load(path: str) -> bytes:
    return files.read_regular(path, MAX_PACKED + 1)


async def _download(url: str) -> bytes:
    """Return the body of the answer to a URL. Raises FeedError for an answer that is none, and client.FAILURES."""
    async with (
        asyncio.timeout(TIMEOUT),
        client.open_session() as session,
        session.get(url, headers={"Accept-Encoding": "identity"}, max_redirects=MAX_REDIRECTS) as response,
    ):
        if response.status != 200:  # noqa: PLR2004 - OK
            raise FeedError(f"is not there: the server answers {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > MAX_PACKED:
                raise FeedError(f"is larger than {MAX_PACKED >> 20} MiB")
        return bytes(body)


def _spelled(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
