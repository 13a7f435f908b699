"""Pages that are rendered once for all concurrent requests, a few at a time; abandoned requests are skipped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from portspec.errors import NoThreadError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from aiohttp import web

    Parts = tuple[object, ...]

T = TypeVar("T")

MAX_CONCURRENT_RENDERINGS: Final = 2  # pages being written: each takes a processor for as long as it lasts
MAX_QUEUED_RENDERINGS: Final = 16  # pages that wait for that, each with other parameters
MAX_WAITING_REQUESTS: Final = 512  # requests that wait for any of them
MAX_CACHED_PAGES: Final = 8  # pages that were written
CACHE_SECONDS: Final = 10.0  # a cached page keeps the states of all its hosts alive


class RenderingsBusyError(Exception):
    """Too many pages are requested at once."""

    def __init__(self) -> None:
        super().__init__("too many requests at once; retry later")


class GoneError(Exception):
    """The client disconnected before its answer was there."""

    def __init__(self) -> None:
        super().__init__("the client has disconnected")


@dataclass(slots=True, eq=False)
class _Rendering(Generic[T]):
    """A page that is to be written, what it is made of (None: of what nobody can compare), and who waits for it."""

    parts: Parts | None
    write: Callable[[], Awaitable[T]]
    done: asyncio.Future[T]
    requests: list[web.Request] = field(default_factory=list)


class Renderings(Generic[T]):
    """Writes pages for the handlers of one event loop.

    A page is known by its key and by the objects that it is made of. Those who ask for a page that waits to be written
    share it, whatever it was made of when the first of them asked: it is made of what there is when it is begun. So an
    answer is never older than its question, and each page is written at most once for each state of the hosts. It is
    cached for `cached_for` seconds.

    `concurrent` pages are written at a time (default: MAX_CONCURRENT_RENDERINGS), and `waiting` requests wait.
    """

    def __init__(
        self,
        *,
        cached_for: float = CACHE_SECONDS,
        concurrent: int | None = None,
        waiting: int = MAX_WAITING_REQUESTS,
    ) -> None:
        self._cached_for = cached_for
        self._concurrent = concurrent or MAX_CONCURRENT_RENDERINGS
        self._most_waiting = waiting
        self._kept: dict[Hashable, tuple[Parts, T]] = {}
        self._running: dict[Hashable, _Rendering[T]] = {}
        self._queue: dict[Hashable, _Rendering[T]] = {}  # the first to begin first
        self._waiting = 0

    async def page(
        self, request: web.Request, key: Hashable, parts: Parts | None, write: Callable[[], Awaitable[T]]
    ) -> T:
        """Return what `write` writes of `parts`, which are compared by identity; None is never the same.

        Raises:
            RenderingsBusyError: too many pages are requested at once.
            GoneError: the client disconnected before its page was started.
            Exception: whatever `write` raises.
        """
        kept = self._kept.get(key)
        if kept and _are_same(kept[0], parts):
            return kept[1]
        running = self._running.get(key)
        one = running if running and _are_same(running.parts, parts) else self._queue.get(key)
        if self._waiting >= self._most_waiting or (one is None and len(self._queue) >= MAX_QUEUED_RENDERINGS):
            raise RenderingsBusyError
        if one is None:
            one = self._queue[key] = _Rendering(parts, write, asyncio.get_running_loop().create_future())
        elif one is not running:
            one.parts, one.write = parts, write
        one.requests.append(request)
        self._waiting += 1
        self._begin()
        try:
            return await asyncio.shield(one.done)  # of those who share it one may be cancelled
        finally:
            self._waiting -= 1

    def _begin(self) -> None:
        """Begin what may begin: no page that is being written already, and none for which nobody waits any more."""
        for key in [key for key in self._queue if key not in self._running]:
            if len(self._running) >= self._concurrent:
                return
            one = self._queue.pop(key)
            if not any(map(_is_there, one.requests)):
                _fail(one, GoneError())
                continue
            try:
                task = asyncio.ensure_future(one.write())
            except NoThreadError as error:
                _fail(one, error)
                continue
            self._running[key] = one
            task.add_done_callback(partial(self._end, key))

    def _end(self, key: Hashable, task: asyncio.Future[T]) -> None:
        one = self._running.pop(key)
        if task.cancelled():
            one.done.cancel()
        elif error := task.exception():
            _fail(one, error)
        else:
            page = task.result()
            self._keep(key, one.parts, page)
            if not one.done.done():
                one.done.set_result(page)
        self._begin()

    def _keep(self, key: Hashable, parts: Parts | None, page: T) -> None:
        self._kept.pop(key, None)
        if parts is None:
            return
        kept = self._kept[key] = (parts, page)
        if len(self._kept) > MAX_CACHED_PAGES:
            del self._kept[next(iter(self._kept))]
        asyncio.get_running_loop().call_later(self._cached_for, self._forget, key, kept)

    def _forget(self, key: Hashable, kept: tuple[Parts, T]) -> None:
        if self._kept.get(key) is kept:
            del self._kept[key]


def _are_same(these: Parts | None, those: Parts | None) -> bool:
    return (
        these is not None
        and those is not None
        and len(these) == len(those)
        and all(this is that for this, that in zip(these, those, strict=True))
    )


def _is_there(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


def _fail(one: _Rendering[T], error: BaseException) -> None:
    if not one.done.done():
        one.done.set_exception(error)
        one.done.exception()  # it is no news to the event loop when nobody waits any more
