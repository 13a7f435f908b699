"""Places: how many of something may be under way at a time, for as long as the process runs."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Limit:
    """At most `most` (1 or more) places are held at a time; who comes later waits, first come, first served.

    Unlike asyncio.Semaphore, `most` may be changed while places are held, so one object serves a process through all
    reloads of its configuration. Fewer places take nothing away from those who hold one: nobody else gets a place
    until enough of them are free. Whoever is urgent gets the next place before all who are not. For one event loop.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._ordinary: deque[asyncio.Future[None]] = deque()

    @property
    def most(self) -> int:
        """The number of places; setting it lets in as many of those who wait as there is room for."""
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
        """True while whoever comes has to wait."""
        return self._held >= self._most

    def acquire_now(self) -> bool:
        """Take a place if one is free; returns whether it was."""
        if self.is_full:
            return False
        self._held += 1  # nobody waits: a place that becomes free is given away at once
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
        """Return a place back."""
        self._held -= 1
        self._let_in()

    def _let_in(self) -> None:
        for turn in self._waiting():
            if not turn.done():  # else cancelled
                self._held += 1
                turn.set_result(None)

    def _waiting(self) -> Iterable[asyncio.Future[None]]:
        """Take those who wait out of the queues while there are free places."""
        for queue in (self._urgent, self._ordinary):
            while queue and not self.is_full:
                yield queue.popleft()


class LimitSlot:
    """One place of a limit for everything that belongs together, taken when the first of it begins.

    It is shared by those who take() it. After keep() it stays taken while nobody uses it, until close(): what follows
    does not queue up again; but not while somebody rests, who goes on without the place or waits for others: then it is
    kept for nobody, and what follows takes another. Whoever takes it while `is_urgent` is true goes before those who
    are not urgent. `give_way` is called, perhaps several times, when those to whom it belongs take up little: they only
    wait for others, or go on without the place. Their time ends when `over` is done, if ever.
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
        """Use the place if it is held, or the limit has one at this moment; returns whether it is."""
        if not self._is_held and not self._turn.locked():
            self._is_held = self._limit.acquire_now()
        if self._is_held:
            self._users += 1
        return self._is_held

    async def take(self) -> None:
        """Use the place, as soon as the limit has one."""
        async with self._turn:
            if not self._is_held:
                await self._limit.acquire(is_urgent=self.is_urgent)
                self._is_held = True
            self._users += 1

    def put_back(self) -> None:
        """Use the place no longer."""
        self._users -= 1
        self._release()

    def rest(self) -> None:
        """Keep the place for nobody from now on until wake()."""
        self._resting += 1
        self._release()

    def wake(self) -> None:
        """End what rest() began."""
        self._resting -= 1

    def keep(self) -> None:
        """Keep the place until close()."""
        self._is_kept = not self._is_closed

    def close(self) -> None:
        """Return the place back when nobody uses it any more."""
        self._is_closed, self._is_kept = True, False
        self._release()

    def _release(self) -> None:
        if self._is_held and not self._users and not (self._is_kept and not self._resting):
            self._is_held = self._is_kept = False
            self._limit.release()
