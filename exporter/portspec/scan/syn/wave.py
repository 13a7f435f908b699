"""Tries whose silence is proven, for addresses that do not answer all that they could. No clock, no socket.

A host that limits its RSTs has a bucket of them (a number for each second, or tokens that trickle in). A wave of probes
with a control before and after it, and nothing else in the air, tells: if both are answered, there was something in the
bucket from the first probe to the last, and who stayed silent in between is silent by himself.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from portspec.scan.life import LONGEST_SILENCE, LONGEST_STANDSTILL
from portspec.scan.loss import LossEstimate
from portspec.scan.syn.reference_ports import AFTER, BEFORE, LAST_TRY
from portspec.scan.syn.timing import MAX_WINDOW, MOST_WAIT

if TYPE_CHECKING:
    from portspec.scan.syn.packets import U16

_FEWEST = 3  # waves in a row in which nothing was heard before an address is given up, besides LONGEST_SILENCE
_LONGEST_REST = 1.0  # seconds, for buckets that are filled once a second
_MOST_DOUBLED = 6
_NONE: U16 = np.zeros(0, np.uint16)


class Wave:
    """Controls, ports, controls, to be sent in this order."""

    __slots__ = ("_asked", "_asked_at", "_at", "_done", "_heard", "_parts", "_place", "ports")

    def __init__(self, ports: U16, controls: U16) -> None:
        self.ports = ports
        self._parts = ((BEFORE, controls), (LAST_TRY, ports), (AFTER, controls))
        self._asked = frozenset(controls.tolist())
        self._place = self._done = 0
        self._at = math.inf
        self._asked_at = {BEFORE: math.inf, AFTER: math.inf}
        self._heard: dict[int, set[int]] = {BEFORE: set(), AFTER: set()}

    @property
    def is_sent(self) -> bool:
        """True once nothing is left to send."""
        return self._place == len(self._parts)

    def next(self, most: int) -> tuple[int, U16]:
        """Give the try, and up to `most` ports, to send next."""
        attempt, ports = self._parts[self._place]
        return attempt, ports[self._done : self._done + most]

    def sent(self, count: int, at: float) -> None:
        """Note that so many of the next ones went out."""
        attempt, _ = self._parts[self._place]
        if attempt in self._asked_at:
            self._asked_at[attempt] = min(self._asked_at[attempt], at)
        self._at = at
        self._done += count
        if self._done >= len(self._parts[self._place][1]):
            self._place, self._done = self._place + 1, 0

    def heard(self, attempt: int, port: int, at: float) -> float | None:
        """Note that a control answered; gives how long that took, None if it is one of an earlier wave."""
        if port not in self._asked or at < self._asked_at[attempt]:
            return None
        self._heard[attempt].add(port)
        return at - self._asked_at[attempt]

    @property
    def is_answered(self) -> bool:
        """True if every control was heard."""
        return all(len(self._heard[end]) >= len(self._asked) for end in (BEFORE, AFTER))

    @property
    def is_proven(self) -> bool:
        """True if at either end at least half of the controls were heard."""
        return all(2 * len(self._heard[end]) >= len(self._asked) for end in (BEFORE, AFTER))

    def expires_at(self, wait: float) -> float:
        """Give when all of it was waited for long enough; `wait` in seconds."""
        return self._at + wait

    @property
    def lost(self) -> tuple[int, int]:
        """How many controls were heard, and how many were not."""
        heard = sum(map(len, self._heard.values()))
        return heard, 2 * len(self._asked) - heard


class Waves:
    """The waves to one address, one at a time: their size, and how often each port's silence was proven."""

    __slots__ = (
        "_failed", "_failing_since", "_progress", "_progress_at", "_proven", "_queue", "_rng", "_size",
        "current", "loss", "rest_until",
    )  # fmt: skip

    def __init__(self, ports: int, size: int, rng: np.random.Generator, now: float) -> None:
        self.current: Wave | None = None
        self.rest_until = 0.0
        self.loss = LossEstimate()  # of what was sent while nothing was limited
        self._failing_since = self._progress_at = now
        self._progress = -1
        self._proven = np.zeros(ports, np.uint8)
        self._size = size
        self._rng = rng
        self._queue: deque[U16] = deque()
        self._failed = 0  # waves in a row

    def add_ports(self, size: int) -> None:
        """Make room for ports below `size`, which are not proven to be silent."""
        self._proven = np.pad(self._proven, (0, size - len(self._proven)))

    def begin(self, pending: U16, known: list[int]) -> Wave:
        """Make the next wave out of some of the pending ports, with some of the known ones as controls."""
        if not self._queue:
            self._queue.append(self._rng.permutation(pending))
        ports = self._queue.popleft()
        ports = ports[np.isin(ports, pending)]
        if not len(ports):
            ports = self._rng.permutation(pending)
        if len(ports) > self._size:
            self._queue.append(ports[self._size :])
        ends = 1 if self._size < 8 else 2  # noqa: PLR2004 - a control costs a small bucket much
        picked = self._rng.permutation(np.array(known, np.uint16))[:ends]
        self.current = Wave(ports[: self._size], picked)
        return self.current

    def wait(self, learned: float) -> float:
        """Give how long the present wave is waited for: twice as long with each one that proved nothing."""
        return min(MOST_WAIT, learned * (1 << min(self._failed, _MOST_DOUBLED)))

    def judge(self, silent: U16, answered: U16, now: float, wait: float) -> U16:
        """End the wave, in which some ports stayed silent and others answered; gives those whose silence was proven."""
        wave, self.current = self.current, None
        if wave is None or not wave.is_proven:
            if not self._failed:
                self._failing_since = now
            self._size = max(1, self._size // 2)
            self.rest_until = now + min(_LONGEST_REST, wait)
            self._failed += 1
            return _NONE
        heard, lost = wave.lost
        late = int(np.count_nonzero(self._proven[answered]))  # what was proven silent, and was not
        self.loss.answered(first=heard + len(answered) - late, later=lost + late)
        self._size = min(MAX_WINDOW, 2 * self._size)
        self._failed = 0
        self._proven[silent] += 1
        return silent

    def proven(self, ports: U16, need: int) -> U16:
        """Give those of some ports whose silence was proven so often."""
        return ports[self._proven[ports] >= need]

    def begin_anew(self, now: float) -> None:
        """Forget what was proven, and for how long proof was missing: nobody could be heard meanwhile."""
        self._proven[:] = 0
        self._failed = 0
        self._failing_since = self._progress_at = now

    def is_hopeless(self, unsettled: int, heard_at: float, now: float) -> bool:
        """Tell whether proof is no longer to be had; `heard_at` is when the address was last heard."""
        progress = int(self._proven.sum()) - unsettled
        if progress != self._progress:
            self._progress, self._progress_at = progress, now
        is_gone = self._failed >= _FEWEST and now - max(heard_at, self._failing_since) >= LONGEST_SILENCE
        return is_gone or now - self._progress_at >= LONGEST_STANDSTILL
