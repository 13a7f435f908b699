"""Reference ports: ports that are known to answer, probed before and after silent ones. No clock, no socket.

The silence of a port between two reference probes that were answered is its own. Next to one that was not answered,
nothing is known: the address may limit its answers, or not answer at all.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from portspec.scan.loss import MAX_TRIES
from portspec.scan.syn.port_states import CLOSED, OPEN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.scan.syn.arrays import U8, U16

# A probe's source port tells which try it is; these count from the first of our source ports. The last two are for
# reference probes.
TRY_SLOTS = 62
BEFORE, AFTER = 62, 63
LAST_TRY = MAX_TRIES - 1  # further tries are sent as this one

MAX_PROBES = 8  # reference probes in a batch
_PORTS_PER_PROBE = 16  # silent ports for one reference probe
_SIGNIFICANCE = 0.01  # probability below which so many silent reference probes are no chance
_MAX_PORTS = 64  # of either state that are remembered


@dataclass(slots=True, eq=False)
class ReferenceBatch:
    """Reference probes that were sent together, and whether at least one of them was answered."""

    sent_at: float  # seconds
    was_answered: bool = False


class ReferencePorts:
    """The reference ports of one address, and what became of the probes to them. Times in seconds."""

    __slots__ = ("_known", "_outcomes", "_pending", "latest")

    def __init__(self) -> None:
        self._known: dict[int, list[int]] = {CLOSED: [], OPEN: []}
        self._pending: dict[tuple[int, int], ReferenceBatch] = {}  # by BEFORE or AFTER, and port
        self.latest: ReferenceBatch | None = None
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=8 * MAX_PROBES)  # when sent, whether answered

    def __bool__(self) -> bool:
        return any(self._known.values())

    def learn(self, ports: U16, kinds: U8) -> None:
        """Remember ports that have answered, and how."""
        for kind, known in self._known.items():
            if len(known) < _MAX_PORTS:
                some = ports[kinds == kind][: _MAX_PORTS - len(known)].tolist()
                known.extend(port for port in some if port not in known)

    def pick(self, silent: int) -> tuple[U16, U16]:
        """Return the ports to probe before and after so many silent ones, without those whose answer is pending.

        Closed ports if any are known: RSTs are what hosts limit.
        """
        wanted = min(MAX_PROBES, max(2, silent // _PORTS_PER_PROBE)) // 2
        before = self._idle(BEFORE, self.known)[:wanted]
        # Others than before, as far as there are others.
        after = self._idle(AFTER, [port for port in self.known if port not in before] + before)[:wanted]
        return np.array(before, np.uint16), np.array(after, np.uint16)

    def _idle(self, end: int, ports: Iterable[int]) -> list[int]:
        return [port for port in ports if (end, port) not in self._pending]

    def record_sent(self, end: int, ports: Iterable[int], at: float) -> ReferenceBatch:
        """Record that some were probed together, BEFORE or AFTER others."""
        batch = self.latest = ReferenceBatch(at)
        for port in ports:
            self._pending[end, port] = batch
        return batch

    def record_answers(self, end: int, ports: Iterable[int]) -> None:
        """Record that some answered; each counts once for each probe."""
        for port in ports:
            batch = self._pending.pop((end, port), None)
            if batch is not None:
                batch.was_answered = True
                self._outcomes.append((batch.sent_at, True))
                known = self._known[CLOSED] if port in self._known[CLOSED] else self._known[OPEN]
                known.append(known.pop(known.index(port)))  # the others come first next time

    def expire(self, sent_by: float) -> None:
        """Count pending probes that were sent at a time or before it as silent."""
        for key in [key for key, batch in self._pending.items() if batch.sent_at <= sent_by]:
            self._outcomes.append((self._pending.pop(key).sent_at, False))

    def are_unresponsive(self, since: float, loss: float) -> bool | None:
        """Return whether more of the probes sent since then stayed silent than chance explains; None if unknown.

        `loss` is the share of probes, 0 to 1, that get lost anyway. If none was sent since then, as at a low rate, the
        last outcome before decides.
        """
        outcomes = [answered for sent_at, answered in self._outcomes if sent_at >= since]
        outcomes = outcomes or [answered for _, answered in list(self._outcomes)[-1:]]
        sent, lost = len(outcomes), outcomes.count(False)
        if not sent:
            return None
        chance = sum(comb(sent, some) * loss**some * (1 - loss) ** (sent - some) for some in range(lost, sent + 1))
        return lost > 0 and chance < _SIGNIFICANCE

    @property
    def known(self) -> list[int]:
        """The ports to probe: closed ones if any are known, else open ones."""
        return self._known[CLOSED] or self._known[OPEN]
