"""Reports that are posted, on their way into the archive: those of each address in turn, many in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.audit.intake import RefusedError, Rules, admit
from portspec.errors import NoThreadError
from portspec.store import Archive, Arrival, Outcome, StoreError
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portspec.store import Store

MAX_BATCH: Final = 32  # reports that are archived in one transaction: it costs a disk's fsync, not one a report
MAX_BATCH_BYTES: Final = 8 << 20  # of their payloads; of strangers' gzip files one is unpacked at a time, then

_log = log.get("reports")


@dataclass(frozen=True, slots=True)
class _Posted:
    """A report that waits for its turn, from an address; what becomes of it is a value, also if it is an error."""

    packed: bytes
    origin: str
    outcome: asyncio.Future[Outcome | Exception]


class Posting:
    """Archives what is posted. `on_refusal` is told of each report that is refused, `on_archived` of each batch.

    No error keeps the traceback that it was found with: frames hold payloads, and such a cycle would keep them for
    long, as cycles are searched for rarely.
    """

    def __init__(
        self,
        store: Store,
        wall_clock: Callable[[], float],
        on_refusal: Callable[[RefusedError, str], None],
        on_archived: Callable[[], None],
    ) -> None:
        self.rules = Rules(frozenset(), ())
        self.waiting = 0
        self._store = store
        self._wall_clock = wall_clock
        self._on_refusal = on_refusal
        self._on_archived = on_archived
        self._queues: dict[str, deque[_Posted]] = {}  # by address, the one whose turn is next first
        self._has_posted = asyncio.Event()
        self._archive = Archive()  # of the thread that adds

    async def take(self, packed: bytes, origin: str) -> Outcome:
        """Archive a report that came from an address; gives whether it is new, or the same once more.

        Raises RefusedError, and StoreError when it cannot be archived now.
        """
        future: asyncio.Future[Outcome | Exception] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(origin, deque()).append(_Posted(packed, origin, future))
        self._has_posted.set()
        self.waiting += 1
        try:
            outcome = await future
        finally:
            self.waiting -= 1
            del future
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # or it would hold this frame, and this frame it
        return outcome

    async def run(self) -> None:
        """Archive what is posted until cancelled."""
        while True:
            await self._has_posted.wait()
            batch = self._batch()
            outcomes: Sequence[Outcome | Exception]
            try:
                outcomes = await in_daemon_thread(lambda batch=batch: self._archived(batch))  # type: ignore[misc]
            except NoThreadError as error:  # the log tells of it
                outcomes = [_bare(error)] * len(batch)
            except Exception as error:  # noqa: BLE001 - told to who posted; the next ones are taken
                _log.exception("reports cannot be taken")
                outcomes = [_bare(error)] * len(batch)
            for posted in reversed(batch[len(outcomes) :]):
                self._queues.setdefault(posted.origin, deque()).appendleft(posted)
            for posted, outcome in zip(batch, outcomes, strict=False):
                if isinstance(outcome, RefusedError):
                    self._on_refusal(outcome, posted.origin)
                if not posted.outcome.done():
                    posted.outcome.set_result(outcome)
            if not self._queues:
                self._has_posted.clear()
            self._on_archived()
            del batch, outcomes

    def _batch(self) -> list[_Posted]:
        """Take some of what waits, from each address in turn, leaving out those that nobody waits for any more."""
        batch: list[_Posted] = []
        while self._queues and len(batch) < MAX_BATCH:
            origin, queue = next(iter(self._queues.items()))
            del self._queues[origin]
            posted = queue.popleft()
            if queue:
                self._queues[origin] = queue  # at the end
            if not posted.outcome.done():
                batch.append(posted)
        return batch

    def _archived(self, batch: Sequence[_Posted]) -> list[Outcome | Exception]:
        """Admit and archive the first reports of a batch, few if they are large; gives what became of each of these."""
        now, rules = self._wall_clock(), self.rules
        outcomes: list[Outcome | Exception] = []
        arrivals: list[Arrival] = []
        size = 0
        for posted in batch:
            if size >= MAX_BATCH_BYTES:
                break
            try:
                report, payload = admit(posted.packed, rules, now)
            except RefusedError as error:
                size += error.size
                outcomes.append(_bare(error))
            else:
                size += len(payload)
                outcomes.append(Outcome.ACCEPTED)  # if the archive has none of that day
                arrivals.append(Arrival(report.host, report.day, report.at, payload))
        try:
            found = iter(self._store.perform(lambda file: self._archive.add(file, arrivals, now)) if arrivals else ())
        except StoreError as error:
            failure = _bare(error)
            return [item if isinstance(item, RefusedError) else failure for item in outcomes]
        hosts = iter(arrivals)
        return [item if isinstance(item, RefusedError) else _or_refused(next(found), next(hosts)) for item in outcomes]


def _or_refused(outcome: Outcome, arrival: Arrival) -> Outcome | RefusedError:
    return RefusedError.duplicate(arrival.host, arrival.day) if outcome is Outcome.OTHER else outcome


def _bare(error: Exception) -> Exception:
    """Give an error without where it came from."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
