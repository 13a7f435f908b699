"""Controls: probes to ports that are known to answer, sent before and after those to silent ports. No clock, no socket.

Silence between two controls that were answered is the port's own; beside one that was not, it may be anybody's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from portspec.scan.loss import MAX_TRIES
from portspec.scan.syn.state import CLOSED, OPEN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.scan.syn.packets import U8, U16

# The source ports, counted from the first one that is ours: the last two are left to controls.
TRY_SLOTS = 62
BEFORE, AFTER = 62, 63
LAST_TRY = MAX_TRIES - 1  # what is tried more often is tried as this again

MOST = 8  # among the probes that are sent at once
_SHARE = 16  # silent ports for one control
_UNLIKELY = 0.01
_KNOWN = 64  # ports of either kind that are remembered


@dataclass(slots=True, eq=False)
class Group:
    """Controls that were sent together, and whether one of them was heard."""

    asked_at: float  # seconds
    was_heard: bool = False


class Controls:
    """The controls of one address, and what became of them. Times in seconds."""

    __slots__ = ("_known", "_outcomes", "_pending", "latest")

    def __init__(self) -> None:
        self._known: dict[int, list[int]] = {CLOSED: [], OPEN: []}
        self._pending: dict[tuple[int, int], Group] = {}  # by the end at which it was asked, and port
        self.latest: Group | None = None
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=8 * MOST)  # when asked, whether answered

    def __bool__(self) -> bool:
        return any(self._known.values())

    def learn(self, ports: U16, kinds: U8) -> None:
        """Remember ports that have answered, and how."""
        for kind, known in self._known.items():
            if len(known) < _KNOWN:
                some = ports[kinds == kind][: _KNOWN - len(known)].tolist()
                known.extend(port for port in some if port not in known)

    def pick(self, silent: int) -> tuple[U16, U16]:
        """Give the ports to ask before and after so many silent ones; none while all of them are being asked.

        Closed ports if any are known: RSTs are what hosts limit.
        """
        wanted = min(MOST, max(2, silent // _SHARE)) // 2
        before = self._idle(BEFORE, self.known)[:wanted]
        # Others than before, as far as there are others.
        after = self._idle(AFTER, [port for port in self.known if port not in before] + before)[:wanted]
        return np.array(before, np.uint16), np.array(after, np.uint16)

    def _idle(self, end: int, ports: Iterable[int]) -> list[int]:
        return [port for port in ports if (end, port) not in self._pending]

    def asked(self, end: int, ports: Iterable[int], at: float) -> Group:
        """Note that some were asked together, BEFORE or AFTER others."""
        group = self.latest = Group(at)
        for port in ports:
            self._pending[end, port] = group
        return group

    def heard(self, end: int, ports: Iterable[int]) -> None:
        """Note that some answered; each counts once for each time it was asked."""
        for port in ports:
            group = self._pending.pop((end, port), None)
            if group is not None:
                group.was_heard = True
                self._outcomes.append((group.asked_at, True))
                known = self._known[CLOSED] if port in self._known[CLOSED] else self._known[OPEN]
                known.append(known.pop(known.index(port)))  # the others come first next time

    def expire(self, asked_by: float) -> None:
        """Give up on those that were asked at a time or before it."""
        for key in [key for key, group in self._pending.items() if group.asked_at <= asked_by]:
            self._outcomes.append((self._pending.pop(key).asked_at, False))

    def are_deaf(self, since: float, loss: float) -> bool | None:
        """Tell whether more of those asked since then stayed silent than chance explains; None if no outcome is known.

        `loss` is the share of probes, 0 to 1, that get lost anyway. Where none was asked since, at a slow pace, the
        last one before tells.
        """
        outcomes = [heard for asked_at, heard in self._outcomes if asked_at >= since]
        outcomes = outcomes or [heard for _, heard in list(self._outcomes)[-1:]]
        asked, lost = len(outcomes), outcomes.count(False)
        if not asked:
            return None
        chance = sum(comb(asked, some) * loss**some * (1 - loss) ** (asked - some) for some in range(lost, asked + 1))
        return lost > 0 and chance < _UNLIKELY

    @property
    def known(self) -> list[int]:
        """Ports to ask: closed ones if any are known."""
        return self._known[CLOSED] or self._known[OPEN]
