"""How often a probe is lost, and hence how often a silent port must be asked before its silence means something."""

from __future__ import annotations

import math

MAX_TRIES = 12
WRONG = 1e-6  # the chance that is taken of calling a port filtered whose every probe or answer was lost
_PRIOR = 10  # answers to first probes that are taken for granted, so that one late answer makes no loss
_MEMORY = 10_000  # answers; older ones count half as much, a quarter, …


class LossEstimate:
    """Learns from answers: a port that answers only a repeated probe had the earlier ones, or their answers, lost."""

    __slots__ = ("_first", "_later")

    def __init__(self) -> None:
        self._first = 0
        self._later = 0

    def answered(self, *, first: int = 0, later: int = 0) -> None:
        """Note so many answers to first and to repeated probes."""
        self._first += first
        self._later += later
        if self._first + self._later > _MEMORY:
            self._first //= 2
            self._later //= 2

    @property
    def share(self) -> float:
        """The share of probes that are lost, 0 to 1."""
        return self._later / (self._first + self._later + _PRIOR)

    def share_without(self, part: LossEstimate) -> float:
        """Give the share of lost probes but for those that another estimate has learned from, too."""
        first, later = max(0, self._first - part._first), max(0, self._later - part._later)
        return later / (first + later + _PRIOR)

    def tries(self, least: int) -> int:
        """Give how often to probe before silence counts: `least`, and more, up to MAX_TRIES, where probes get lost."""
        share = self.share
        if not share:
            return least
        return max(least, min(MAX_TRIES, math.ceil(math.log(WRONG) / math.log(share))))
