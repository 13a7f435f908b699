"""Bracketed bursts: probes between reference probes, for addresses that limit their answers. No clock, no socket.

A host that limits its RSTs has a budget: a number per second, or a bucket of tokens that fills at a steady rate. Once
it is used up the host is silent on closed ports, which then look filtered.

    ref ref  p p p p p p p p  ref ref        one burst; nothing else is in flight to this address

If the reference probes at both ends are answered, there was budget left before the first and after the last port: a
port that stayed silent in between is silent by itself. Its silence is *proven* once. It needs as many proofs as the
loss of probes demands (SynAddressScan._required_proofs).

    proven burst     the size doubles, up to MAX_WINDOW
    failed burst     the size is halved; wait longer for the answers of the next one, and rest before it, so that the
                     budget recovers

The address is cut off if _MIN_FAILED bursts in a row failed and nothing was received for MAX_SILENCE, or if no port was
proven or settled for MAX_STALL.

Invariants: one burst at a time, and nothing else in flight: a probe outside of it would use budget that the brackets
do not see. An answer of a reference port counts once, and not if it arrived before this burst's probe to it was sent.
`_proven` is indexed by port; it grows with the next burst when ports were added.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from portspec.scan.failures import MAX_SILENCE, MAX_STALL
from portspec.scan.loss import LossEstimate
from portspec.scan.syn.batch import ProbeBatch
from portspec.scan.syn.port_states import EMPTY, FILTERED
from portspec.scan.syn.reference_ports import AFTER, BEFORE, LAST_TRY
from portspec.scan.syn.timing import MAX_TIMEOUT, MAX_WINDOW

if TYPE_CHECKING:
    from portspec.scan.syn.arrays import U16, Bools, Floats
    from portspec.scan.syn.port_states import PortStates

_MIN_FAILED = 3  # bursts in a row without an answer before an address is cut off, besides MAX_SILENCE
_MAX_REST = 1.0  # seconds, for budgets that are refilled once a second
_MAX_DOUBLINGS = 6  # of the time to wait for a burst
_MIN_SIZE_FOR_TWO = 8  # ports in a burst from which there are two reference probes at either end


class BracketedBurst:
    """Reference probes, ports, reference probes, to be sent in this order."""

    __slots__ = ("_answered", "_first_sent_at", "_last_sent_at", "_part", "_parts", "_references", "_sent", "ports")

    def __init__(self, ports: U16, references: U16) -> None:
        self.ports = ports
        self._parts = ((BEFORE, references), (LAST_TRY, ports), (AFTER, references))
        self._references = frozenset(references.tolist())
        self._part = self._sent = 0  # the part that is being sent, and how many of it were
        self._last_sent_at = math.inf
        self._first_sent_at = {BEFORE: math.inf, AFTER: math.inf}
        self._answered: dict[int, set[int]] = {BEFORE: set(), AFTER: set()}

    @property
    def is_sent(self) -> bool:
        """True once nothing is left to send."""
        return self._part == len(self._parts)

    def next(self, most: int) -> tuple[int, U16]:
        """Return the try, and up to `most` ports, to send next."""
        attempt, ports = self._parts[self._part]
        return attempt, ports[self._sent : self._sent + most]

    def record_sent(self, count: int, at: float) -> None:
        """Record that so many of the next ones were sent."""
        attempt, _ = self._parts[self._part]
        if attempt in self._first_sent_at:
            self._first_sent_at[attempt] = min(self._first_sent_at[attempt], at)
        self._last_sent_at = at
        self._sent += count
        if self._sent >= len(self._parts[self._part][1]):
            self._part, self._sent = self._part + 1, 0

    def record_answer(self, attempt: int, port: int, at: float) -> float | None:
        """Record that a reference port answered; return the round-trip time, None if it answers an earlier burst."""
        if port not in self._references or at < self._first_sent_at[attempt]:
            return None
        self._answered[attempt].add(port)
        return at - self._first_sent_at[attempt]

    @property
    def is_answered(self) -> bool:
        """True if every reference probe was answered."""
        return all(len(self._answered[end]) >= len(self._references) for end in (BEFORE, AFTER))

    @property
    def is_proven(self) -> bool:
        """True if at least half of the reference probes were answered at each end."""
        return all(2 * len(self._answered[end]) >= len(self._references) for end in (BEFORE, AFTER))

    def expires_at(self, wait: float) -> float:
        """Return when to stop waiting for its answers; `wait` in seconds."""
        return self._last_sent_at + wait

    @property
    def reference_outcomes(self) -> tuple[int, int]:
        """How many reference probes were answered, and how many were not."""
        answered = sum(map(len, self._answered.values()))
        return answered, 2 * len(self._references) - answered


class BurstProber:
    """The bursts to one address, one at a time: their size, and how often each port's silence was proven.

    Once it `is_cut_off`, proof is hopeless; `is_silent` tells whether nothing at all was received for MAX_SILENCE.
    """

    __slots__ = (
        "_current", "_failed", "_failing_since", "_ports", "_progress", "_progress_at", "_proven", "_queue", "_rng",
        "_size", "is_cut_off", "is_silent", "loss", "rest_until",
    )  # fmt: skip

    def __init__(self, ports: PortStates, size: int, rng: np.random.Generator, now: float) -> None:
        self.is_cut_off = self.is_silent = False
        self.rest_until = 0.0
        self._current: BracketedBurst | None = None
        self._ports = ports
        self.loss = LossEstimate()  # from proven bursts, in which nothing was limited
        self._failing_since = self._progress_at = now
        self._progress = -1
        self._proven = np.zeros(ports.size, np.uint8)
        self._size = size
        self._rng = rng
        self._queue: deque[U16] = deque()
        self._failed = 0  # bursts in a row

    @property
    def room(self) -> int:
        """How many probes may be sent now, if there are as many."""
        is_sent = self._current and self._current.is_sent
        return 0 if is_sent or self.is_cut_off else self._ports.unsettled

    def take(self, known: list[int], most: int) -> ProbeBatch | None:
        """Take up to `most` probes of the current or of a new burst; None if all were answered meanwhile.

        `known` are the ports for reference probes.
        """
        burst = self._current or self._begin(known)
        while not burst.is_sent:
            attempt, ports = burst.next(most)
            if attempt == BEFORE:
                return ProbeBatch(EMPTY, LAST_TRY, ports, EMPTY)
            if attempt == AFTER:
                return ProbeBatch(EMPTY, LAST_TRY, EMPTY, ports)
            if len(self._ports.unsettled_of(ports)):
                return ProbeBatch(ports, LAST_TRY, EMPTY, EMPTY)
            burst.record_sent(len(ports), 0.0)  # all were answered meanwhile
        return None

    def _begin(self, known: list[int]) -> BracketedBurst:
        """Begin the next burst with some of the ports that are not settled, bracketed by some of the known ones."""
        pending = self._ports.unsettled_of(self._ports.all)
        if added := self._ports.size - len(self._proven):
            self._proven = np.pad(self._proven, (0, added))
        if not self._queue:
            self._queue.append(self._rng.permutation(pending))
        ports = self._queue.popleft()
        ports = ports[np.isin(ports, pending)]
        if not len(ports):
            ports = self._rng.permutation(pending)
        if len(ports) > self._size:
            self._queue.append(ports[self._size :])
        ends = 1 if self._size < _MIN_SIZE_FOR_TWO else 2  # a reference probe uses a large part of a small budget
        picked = self._rng.permutation(np.array(known, np.uint16))[:ends]
        self._current = BracketedBurst(ports[: self._size], picked)
        return self._current

    def record_sent(self, batch: ProbeBatch, gone: Bools, at: Floats) -> None:
        """Record which probes of a batch were sent, and when; those after the first unsent one are sent again."""
        count = len(gone) if gone.all() else int(gone.argmin())
        if self._current and count:
            self._current.record_sent(count, float(at[count - 1]))
        ports, times = batch.ports[:count], at[: len(batch.ports)][:count]
        waiting = self._ports.state[ports] < FILTERED
        self._ports.mark_in_flight(ports[waiting], batch.attempt, times[waiting])

    def record_reference_answers(self, end: int, ports: U16, at: Floats) -> list[float]:
        """Record answers of reference ports; return the round-trip times that they show."""
        if self._current is None:
            return []
        times = zip(ports.tolist(), at.tolist(), strict=True)
        return list(filter(None, [self._current.record_answer(end, port, moment) for port, moment in times]))

    def next_expiry(self, learned: float) -> float | None:
        """Return when the current burst expires, None if it is not sent; `learned` as in expire()."""
        return self._current.expires_at(self._wait(learned)) if self._current and self._current.is_sent else None

    def expire(self, learned: float, now: float) -> U16 | None:
        """End the current burst if it is due; return the ports whose silence it proved, None if it is not due.

        `learned` is the timeout of the address in seconds.
        """
        burst, wait = self._current, self._wait(learned)
        if burst is None or not burst.is_sent:
            return None
        if not (burst.is_answered and not self._ports.in_flight) and burst.expires_at(wait) > now:
            return None
        self._current = None
        answered = burst.ports[self._ports.state[burst.ports] > FILTERED]
        return self._judge(burst, self._ports.expire(burst.ports), answered, now, wait)

    def _wait(self, learned: float) -> float:
        """Return how long to wait for the current burst: twice as long after each one that failed."""
        return min(MAX_TIMEOUT, learned * (1 << min(self._failed, _MAX_DOUBLINGS)))

    def _judge(self, burst: BracketedBurst, silent: U16, answered: U16, now: float, wait: float) -> U16:
        """Learn from a burst; return those of its `silent` ports whose silence it proved: all or none."""
        if not burst.is_proven:
            if not self._failed:
                self._failing_since = now
            self._size = max(1, self._size // 2)
            self.rest_until = now + min(_MAX_REST, wait)
            self._failed += 1
            return EMPTY
        answers, lost = burst.reference_outcomes
        late = int(np.count_nonzero(self._proven[answered]))  # proven silent before, and yet they answered now
        self.loss.answered(first=answers + len(answered) - late, later=lost + late)
        self._size = min(MAX_WINDOW, 2 * self._size)
        self._failed = 0
        self._proven[silent] += 1
        return silent

    def proven(self, ports: U16, need: int) -> U16:
        """Return those of some ports whose silence was proven at least `need` times."""
        return ports[self._proven[ports] >= need]

    def restart(self, now: float) -> None:
        """Forget all proofs and failures: no answer could arrive meanwhile."""
        self._proven[:] = 0
        self._failed = 0
        self._failing_since = self._progress_at = now
        self.is_cut_off = False

    def cut_off_if_hopeless(self, last_answer_at: float, now: float) -> None:
        """Cut the address off if silence cannot be proven any more; see the head of this module."""
        progress = int(self._proven.sum()) - self._ports.unsettled
        if progress != self._progress:
            self._progress, self._progress_at = progress, now
        is_gone = self._failed >= _MIN_FAILED and now - max(last_answer_at, self._failing_since) >= MAX_SILENCE
        if is_gone or now - self._progress_at >= MAX_STALL:
            self.is_cut_off, self.is_silent = True, now - last_answer_at >= MAX_SILENCE
