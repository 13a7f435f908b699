"""The supervisor: keeps the long-lived parts of the exporter running.

A part is a coroutine that runs until it is cancelled, or a thread. If it ends in any other way, by an error or without
one, it is logged with its error, counted and started again after a pause, which doubles as long as the part fails again
and again. A part without which the exporter is of no use may fail only so many times in a row: then PartFailedError
ends the process.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from portspec import log
from portspec.clock import SystemClock
from portspec.errors import PartFailedError, described

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping

    from portspec.clock import Clock

MIN_PAUSE: Final = 1.0  # seconds
MAX_PAUSE: Final = 300.0
MAX_FAILURES: Final = 6  # in a row, of a vital part: with the pauses between them these take half a minute
GOOD_AFTER: Final = 600.0  # seconds that a part has run after which its next failure is the first one again
THREAD_CHECK_INTERVAL: Final = 1.0  # seconds

_log = log.get("supervisor")


class Thread(Protocol):
    """A part that runs in a thread of its own."""

    @property
    def death(self) -> BaseException | None:
        """What ended the thread unexpectedly; None while it lives, and after restart()."""
        ...

    def restart(self) -> None:
        """Start the thread again if it has ended unexpectedly. Raises NoThreadError."""
        ...


class EndedError(Exception):
    """A part that should run for ever has ended without an error."""


class Supervisor:
    """Runs parts. `restarts` counts, by part, how often each was started again."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._restarts: dict[str, int] = {}
        self._down: set[str] = set()

    @property
    def restarts(self) -> Mapping[str, int]:
        """The number of restarts since the start of the process, of each part that ever ran. Thread-safe."""
        return dict(self._restarts)

    @property
    def down(self) -> frozenset[str]:
        """The parts that have failed and wait for their restart."""
        return frozenset(self._down)

    @asynccontextmanager
    async def group(self) -> AsyncIterator[asyncio.TaskGroup]:
        """Yield a group for the tasks of all parts. Raises PartFailedError itself, and not a group of exceptions."""
        try:
            async with asyncio.TaskGroup() as tasks:
                yield tasks
        except ExceptionGroup as group:
            if (failed := group.subgroup(PartFailedError)) is None:
                raise
            raise failed.exceptions[0] from None

    async def keep(self, part: str, run: Callable[[], Awaitable[None]], *, is_vital: bool = False) -> None:
        """Run a part until cancelled. Raises PartFailedError if it is vital and fails MAX_FAILURES times in a row."""
        self._restarts.setdefault(part, 0)
        pause, failures = MIN_PAUSE, 0
        try:
            while True:
                began = self._clock.now()
                error = await _outcome(run)
                if self._clock.now() - began >= GOOD_AFTER:
                    pause, failures = MIN_PAUSE, 0
                failures += 1
                self._down.add(part)
                if is_vital and failures >= MAX_FAILURES:
                    raise PartFailedError(part, failures, error)
                _log.error(
                    "a part of portspec failed; restarting it",
                    part=part,
                    why=described(error),
                    failures_in_a_row=failures,
                    pause_seconds=pause,
                    exc_info=error,
                )
                await self._clock.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE)
                self._restarts[part] += 1
                self._down.discard(part)
        finally:
            self._down.discard(part)

    async def keep_thread(self, part: str, thread: Thread) -> None:
        """Restart a thread whenever it has ended unexpectedly, until cancelled; it is a vital part, see keep()."""
        await self.keep(part, partial(self._watch, thread), is_vital=True)

    async def attempt(self, part: str, work: Coroutine[None, None, None]) -> None:
        """Do something once; if it fails, log that, and go on."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - whatever it is
            _log.error("a task of portspec failed", part=part, why=described(error), exc_info=error)

    async def _watch(self, thread: Thread) -> None:
        """Start a thread if it has ended; raise what ends it."""
        thread.restart()
        while (death := thread.death) is None:
            await self._clock.sleep(THREAD_CHECK_INTERVAL)
        raise EndedError(f"its thread has ended: {described(death)}") from death


async def _outcome(run: Callable[[], Awaitable[None]]) -> Exception:
    """Run a part; return why it has ended. Raises CancelledError if the caller is to end, and only then."""
    error: Exception = EndedError("it has ended without an error")
    try:
        await run()
    except Exception as raised:  # noqa: BLE001 - it is logged, and the part restarted
        error = raised
    except asyncio.CancelledError:
        error = EndedError("it has cancelled itself")
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise asyncio.CancelledError
    return error
