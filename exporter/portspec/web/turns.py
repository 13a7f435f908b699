"""Lets requests begin one after another, so that what is urgent does not wait behind a burst of others."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

PER_TURN: Final = 4  # requests that begin in one turn of the event loop: each takes about half a millisecond of it


class Turns:
    """Lets `per_turn` requests begin in each turn of the event loop, in the order in which they came.

    Between two turns the event loop accepts connections, reads requests, and learns which clients have gone. So a
    request that does not wait here is answered after a few of the others, however many have come at once.
    """

    def __init__(self, per_turn: int = PER_TURN) -> None:
        self._per_turn = per_turn
        self._begun = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return when it is the caller's turn: at once if few others have come."""
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._next)
        if self._begun < self._per_turn and not self._waiting:
            self._begun += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < self._per_turn:
            turn = self._waiting.popleft()
            if not turn.done():  # of a request that is cancelled
                turn.set_result(None)
                self._begun += 1
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next)
