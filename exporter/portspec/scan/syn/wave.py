"""Tries whose silence is proven, for addresses that do not answer all that they could. No clock, no socket.

A host that limits its RSTs has a bucket of them (a number for each second, or tokens that trickle in). A wave of probes
with a control before and after it, and nothing else in the air, tells: if both are answered, there was something in the
bucket from the first probe to the last, and who stayed silent in between is silent by himself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from portspec.scan.syn.control import AFTER, BEFORE, LAST_TRY
from portspec.scan.syn.timing import MOST_WINDOW

if TYPE_CHECKING:
    from portspec.scan.syn.packets import U16

MOST_FAILURES = 1000  # waves without proof, in all, before silence is believed without one
_LONGEST_REST = 1.0  # seconds, for buckets that are filled once a second
_NONE: U16 = np.zeros(0, np.uint16)


class Wave:
    """Controls, ports, controls, to be sent in this order."""

    __slots__ = ("_asked", "_at", "_done", "_heard", "_parts", "_place", "ports")

    def __init__(self, ports: U16, controls: U16) -> None:
        self.ports = ports
        self._parts = ((BEFORE, controls), (LAST_TRY, ports), (AFTER, controls))
        self._asked = frozenset(controls.tolist())
        self._place = self._done = 0
        self._at = 0.0
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
        self._at = max(self._at, at)
        self._done += count
        if self._done >= len(self._parts[self._place][1]):
            self._place, self._done = self._place + 1, 0

    def heard(self, attempt: int, ports: list[int]) -> None:
        """Note that controls answered; others were those of an earlier wave."""
        self._heard[attempt].update(self._asked.intersection(ports))

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

    __slots__ = ("_failed", "_failed_in_a_row", "_proven", "_queue", "_rng", "_size", "current", "rest_until")

    def __init__(self, ports: int, size: int, rng: np.random.Generator) -> None:
        self.current: Wave | None = None
        self.rest_until = 0.0
        self._proven = np.zeros(ports, np.uint8)
        self._size = size
        self._rng = rng
        self._queue: deque[U16] = deque()
        self._failed = self._failed_in_a_row = 0

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

    def judge(self, silent: U16, need: int, now: float, wait: float) -> U16:
        """End the wave, of which some ports stayed silent; gives those whose silence was now proven `need` times."""
        wave, self.current = self.current, None
        if wave is None or not wave.is_proven:
            self._size = max(1, self._size // 2)
            self._failed += 1
            self.rest_until = now + min(_LONGEST_REST, wait * (1 << min(self._failed_in_a_row, 8)))
            self._failed_in_a_row += 1
            return _NONE
        self._size = min(MOST_WINDOW, 2 * self._size)
        self._failed_in_a_row = 0
        self._proven[silent] += 1
        return silent[self._proven[silent] >= need]

    @property
    def is_hopeless(self) -> bool:
        """True once proof was missed too often."""
        return self._failed >= MOST_FAILURES
