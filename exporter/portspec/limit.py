"""Places: how many of something may be under way at a time, for as long as the process runs."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Limit:
    """Limits the places that are held at a time to `most` (1 or more); others wait in a queue.

    Unlike asyncio.Semaphore, `most` may be changed while places are held, so one object serves a process through all
    reloads of its configuration. Lowering it revokes no place: new ones are granted once enough of them are released.
    Urgent requests are served before all others. For one event loop.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._ordinary: deque[asyncio.Future[None]] = deque()

    @property
    def most(self) -> int:
        """The number of places; raising it grants places to waiting requests."""
        return self._most

    @most.setter
    def most(self, most: int) -> None:
        self._most = most
        self._let_in()

    @property
    def held(self) -> int:
        """The number of places that are held now."""
        return self._held

    @property
    def is_full(self) -> bool:
        """True if a new request has to wait."""
        return self._held >= self._most

    def acquire_now(self) -> bool:
        """Take a place if one is free; returns whether it was."""
        if self.is_full:
            return False
        self._held += 1  # no request waits: a released place is granted at once
        return True

    async def acquire(self, *, is_urgent: bool = False) -> None:
        """Take a place, as soon as one is free."""
        if self.acquire_now():
            return
        turn = asyncio.get_running_loop().create_future()
        (self._urgent if is_urgent else self._ordinary).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came in the same moment
                self.release()
            raise

    def release(self) -> None:
        """Release a place."""
        self._held -= 1
        self._let_in()

    def _let_in(self) -> None:
        for turn in self._waiting():
            if not turn.done():  # else cancelled
                self._held += 1
                turn.set_result(None)

    def _waiting(self) -> Iterable[asyncio.Future[None]]:
        """Remove waiting requests from the queues while there are free places."""
        for queue in (self._urgent, self._ordinary):
            while queue and not self.is_full:
                yield queue.popleft()


class LimitSlot:
    """One place of a limit that related tasks share; the first of them acquires it.

    Tasks share the place by take(). After keep(), it stays acquired between tasks until close(), so that the next one
    does not queue again. It is not kept while a task rests, that is, continues without the place or waits for others:
    the next task then acquires another place. A request made while `is_urgent` is true is served before those that are
    not urgent. `give_way` is called, perhaps several times, when the tasks only wait for others or continue without the
    place. Their time ends when `over` is done, if ever.
    """

    __slots__ = (
        "_is_closed",
        "_is_held",
        "_is_kept",
        "_limit",
        "_resting",
        "_turn",
        "_users",
        "give_way",
        "is_urgent",
        "over",
    )

    def __init__(
        self,
        limit: Limit,
        *,
        is_urgent: bool = False,
        give_way: Callable[[], object] = lambda: None,
        over: asyncio.Future[None] | None = None,
    ) -> None:
        self.is_urgent = is_urgent
        self.give_way = give_way
        self.over = over
        self._limit = limit
        self._turn = asyncio.Lock()
        self._users = self._resting = 0
        self._is_held = self._is_kept = self._is_closed = False

    @property
    def is_held(self) -> bool:
        """True while the limit counts this place."""
        return self._is_held

    def take_now(self) -> bool:
        """Use the place if it is held or the limit has a free one; return whether it is used."""
        if not self._is_held and not self._turn.locked():
            self._is_held = self._limit.acquire_now()
        if self._is_held:
            self._users += 1
        return self._is_held

    async def take(self) -> None:
        """Use the place; wait until the limit has one."""
        async with self._turn:
            if not self._is_held:
                await self._limit.acquire(is_urgent=self.is_urgent)
                self._is_held = True
            self._users += 1

    def put_back(self) -> None:
        """Stop using the place."""
        self._users -= 1
        self._release()

    def rest(self) -> None:
        """Do not keep the place until wake()."""
        self._resting += 1
        self._release()

    def wake(self) -> None:
        """End rest()."""
        self._resting -= 1

    def keep(self) -> None:
        """Keep the place until close()."""
        self._is_kept = not self._is_closed

    def close(self) -> None:
        """Release the place once no task uses it."""
        self._is_closed, self._is_kept = True, False
        self._release()

    def _release(self) -> None:
        if self._is_held and not self._users and not (self._is_kept and not self._resting):
            self._is_held = self._is_kept = False
            self._limit.release()


class HeldPlace:
    """A place of a limit that is held, and given back once."""

    __slots__ = ("_limit",)

    def __init__(self, limit: Limit) -> None:
        self._limit: Limit | None = limit

    def release(self) -> None:
        """Give the place back, unless that was done before."""
        if self._limit:
            self._limit.release()
            self._limit = None
