"""When a host is looked at again before the next round of its interval. Pure: the time is an argument.

Times are of a monotonic clock, in seconds.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portspec.state.verdict import Verdict

if TYPE_CHECKING:
    from portspec.state.snapshot import HostState

JITTER: Final = 0.1  # of the interval or pause: hosts of one round do not all start in one moment
MAX_JITTER: Final = 60.0  # seconds
RETRY_PAUSES: Final = (60.0, 120.0, 300.0, 900.0, 1800.0)  # seconds; from then on each is twice as long
_MAX_DOUBLINGS = 20  # 1800 s become 60 years


class ExtraScan(enum.Enum):
    """A scan of a host between two of its rounds."""

    RETRY = "scan"  # whole, since it could not be seen, or not all of it
    RECHECK = "recheck"  # the ports that deviate


def jitter(seconds: float) -> float:
    """Return over how many seconds looks are spread that would begin together after an interval or a pause."""
    return min(seconds * JITTER, MAX_JITTER)


def retry_pause(failures: int) -> float:
    """Return the seconds until the next try after so many scans in a row, at least 1, that could not see everything."""
    if failures <= len(RETRY_PAUSES):
        return RETRY_PAUSES[max(failures, 1) - 1]
    return RETRY_PAUSES[-1] * 2.0 ** min(failures - len(RETRY_PAUSES), _MAX_DOUBLINGS)


def pauses(state: HostState, failures: int, recheck: float) -> dict[ExtraScan, float]:
    """Return how a host is to be looked at before its next round, and the seconds until then.

    `failures` counts the scans in a row that could not see everything. Ports that deviate are looked at again every
    `recheck` seconds; 0 is never. Where the interval is not longer than a pause the rounds are soon enough.
    """
    if state.latest is None:
        return {}
    found: dict[ExtraScan, float] = {}
    if state.latest.judgement.failure is not None:
        found[ExtraScan.RETRY] = retry_pause(failures)
    if state.verdict is Verdict.OUT_OF_SPEC and recheck > 0:
        found[ExtraScan.RECHECK] = recheck
    return {look: pause for look, pause in found.items() if pause < state.target.config.interval}


@dataclass(frozen=True, slots=True)
class PlannedScan:
    """A look at a host, from `at` on; `spread` is over how many seconds those planned with it are spread."""

    host: str
    look: ExtraScan
    at: float
    spread: float


class Agenda:
    """The looks that are planned: at most one of each kind for a host."""

    def __init__(self) -> None:
        self._planned: dict[tuple[str, ExtraScan], PlannedScan] = {}
        self._heap: list[tuple[float, int, PlannedScan]] = []  # also what was withdrawn since
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._planned)

    def put(self, due: PlannedScan) -> None:
        """Plan a look, in place of the one of its kind at its host."""
        self._planned[due.host, due.look] = due
        heapq.heappush(self._heap, (due.at, next(self._numbers), due))
        if len(self._heap) > 2 * len(self._planned) + 64:
            self._heap = [(item.at, next(self._numbers), item) for item in self._planned.values()]
            heapq.heapify(self._heap)

    def withdraw(self, host: str, look: ExtraScan) -> None:
        """Plan a look no longer, if it was."""
        self._planned.pop((host, look), None)

    def planned(self, host: str, look: ExtraScan) -> PlannedScan | None:
        """Return a look that is planned."""
        return self._planned.get((host, look))

    def at(self, host: str) -> float:
        """Return the time of the first look at a host; infinity if none is planned."""
        return min((due.at for look in ExtraScan if (due := self._planned.get((host, look)))), default=math.inf)

    def first(self) -> PlannedScan | None:
        """Return the look that comes first."""
        while self._heap:
            due = self._heap[0][2]
            if self._planned.get((due.host, due.look)) is due:
                return due
            heapq.heappop(self._heap)
        return None

    def take(self, now: float) -> PlannedScan | None:
        """Take out the look that comes first, if its time has come."""
        due = self.first()
        if due is None or due.at > now:
            return None
        heapq.heappop(self._heap)
        del self._planned[due.host, due.look]
        return due
