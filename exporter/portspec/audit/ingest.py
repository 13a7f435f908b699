"""Audits that are posted, on their way into the archive: those of each network in turn, many in one transaction."""

from __future__ import annotations

import asyncio
import heapq
import ipaddress
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.audit.admission import AdmissionPolicy, RejectedError, admit, is_good
from portspec.errors import NoThreadError
from portspec.store import Archive, IncomingAudit, Outcome, StoreError
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portspec.store import Store

MAX_BATCH: Final = 32  # audits that are archived in one transaction: it costs a disk's fsync, not one an audit
MAX_BATCH_BYTES: Final = 8 << 20  # of their payloads; of strangers' gzip files one is unpacked at a time, then

_log = log.get("audits")


@dataclass(frozen=True, slots=True)
class _Submission:
    """An audit that waits for its turn, from an address; what becomes of it is a value, also if it is an error."""

    packed: bytes
    origin: str
    outcome: asyncio.Future[Outcome | Exception]


@dataclass(slots=True)
class _Queue:
    """What waits from one network; `turn` tells when it was served last, or began to wait if that is later."""

    turn: int
    posted: deque[_Submission] = field(default_factory=deque)


class FairQueue:
    """What waits from each network. Next is always the network that was served longest ago, or waits for longest.

    So none is served twice while another that waited since before is not served, wherever a batch is cut.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._clock = count()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, posted: _Submission) -> None:
        """Let an audit wait behind the others of its network."""
        network = network_of(posted.origin)
        if network not in self._queues:
            self._queues[network] = _Queue(next(self._clock))
        self._queues[network].posted.append(posted)

    def take(self, most: int) -> list[tuple[int, _Submission]]:
        """Take the next audits, `most` at most, each with the turn of its network.

        Those that nobody waits for any more are dropped.
        """
        found: list[tuple[int, _Submission]] = []
        order = [(queue.turn, network) for network, queue in self._queues.items()]
        heapq.heapify(order)
        while order and len(found) < most:
            turn, network = heapq.heappop(order)
            queue = self._queues[network]
            posted = queue.posted.popleft()
            if not posted.outcome.done():
                found.append((turn, posted))
                queue.turn = next(self._clock)
            if queue.posted:
                heapq.heappush(order, (queue.turn, network))
            else:
                del self._queues[network]
        return found

    def put_back(self, taken: Sequence[tuple[int, _Submission]]) -> None:
        """Put the last of what was taken back, for it was not served: the networks have their turns again."""
        for turn, posted in reversed(taken):
            queue = self._queues.setdefault(network_of(posted.origin), _Queue(turn))
            queue.posted.appendleft(posted)
            queue.turn = turn


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return the network that shares are counted for: an IPv4 address, or the /64 of an IPv6 address.

    A text that is no address stands for itself.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:  # of a client of IPv4 at a socket for both (RFC 4291, 2.5.5.2)
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


class IngestQueue:
    """Archives what is posted. `on_refusal` is told of each audit that is refused, `on_archived` of each batch.

    No error keeps the traceback that it was found with: frames hold payloads, and such a cycle would keep them for
    long, as cycles are searched for rarely.
    """

    def __init__(
        self,
        store: Store,
        wall_clock: Callable[[], float],
        on_refusal: Callable[[RejectedError, str], None],
        on_archived: Callable[[], None],
    ) -> None:
        self.rules = AdmissionPolicy(frozenset(), ())
        self.waiting = 0
        self._store = store
        self._wall_clock = wall_clock
        self._on_refusal = on_refusal
        self._on_archived = on_archived
        self._turns = FairQueue()
        self._has_posted = asyncio.Event()
        self._archive = Archive(is_good)  # of the thread that adds

    async def take(self, packed: bytes, origin: str) -> Outcome:
        """Archive an audit that came from an address; returns whether it is new, or the same once more.

        Raises RejectedError, and StoreError when it cannot be archived now.
        """
        future: asyncio.Future[Outcome | Exception] = asyncio.get_running_loop().create_future()
        self._turns.add(_Submission(packed, origin, future))
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
            taken = self._turns.take(MAX_BATCH)
            batch = [posted for _, posted in taken]
            outcomes: Sequence[Outcome | Exception]
            try:
                outcomes = await in_daemon_thread(lambda batch=batch: self._archived(batch))  # type: ignore[misc]
            except NoThreadError as error:  # is logged already
                outcomes = [_bare(error)] * len(batch)
            except Exception as error:  # noqa: BLE001 - told to who posted; the next ones are taken
                _log.exception("failed to accept audits")
                outcomes = [_bare(error)] * len(batch)
            self._turns.put_back(taken[len(outcomes) :])
            for posted, outcome in zip(batch, outcomes, strict=False):
                if isinstance(outcome, RejectedError):
                    self._on_refusal(outcome, posted.origin)
                if not posted.outcome.done():
                    posted.outcome.set_result(outcome)
            if not self._turns:
                self._has_posted.clear()
            self._on_archived()
            del taken, batch, outcomes

    def _archived(self, batch: Sequence[_Submission]) -> list[Outcome | Exception]:
        """Admit and archive the first audits of a batch, few if they are large; return the outcome of each."""
        now, rules = self._wall_clock(), self.rules
        outcomes: list[Outcome | Exception] = []
        arrivals: list[IncomingAudit] = []
        size = 0
        for posted in batch:
            if size >= MAX_BATCH_BYTES:
                break
            try:
                audit, payload = admit(posted.packed, rules, now)
            except RejectedError as error:
                size += error.size
                outcomes.append(_bare(error))
            else:
                size += len(payload)
                outcomes.append(Outcome.ACCEPTED)  # if the archive has none of that day
                arrivals.append(IncomingAudit(audit.host, audit.day, audit.at, payload))
        try:
            found = iter(self._store.transact(lambda file: self._archive.add(file, arrivals, now)) if arrivals else ())
        except StoreError as error:
            failure = _bare(error)
            return [item if isinstance(item, RejectedError) else failure for item in outcomes]
        hosts = iter(arrivals)
        return [item if isinstance(item, RejectedError) else _or_refused(next(found), next(hosts)) for item in outcomes]


def _or_refused(outcome: Outcome, arrival: IncomingAudit) -> Outcome | RejectedError:
    if outcome is Outcome.CONFLICT:
        return RejectedError.duplicate(arrival.host, arrival.day)
    if outcome is Outcome.QUOTA_EXCEEDED:
        return RejectedError.quota(arrival.host)
    if outcome is Outcome.REPLACED:
        _log.warning("a failed audit was replaced by a later one of the same day", host=arrival.host, day=arrival.day)
    return outcome


def _bare(error: Exception) -> Exception:
    """Return an error without where it came from."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
