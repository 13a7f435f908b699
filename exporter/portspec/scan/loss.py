"""How often a probe is lost, and hence how often a silent port must be asked before its silence means something."""

from __future__ import annotations

import math

MAX_TRIES = 16
WRONG = 1e-8  # the chance that is taken of calling a port filtered whose every probe or answer was lost
ENOUGH = 50  # answers of an address tell its own share of lost ones
_PRIOR = 10  # answers to first probes that are taken for granted, so that one late answer makes no loss
_MOST_SHARED = 256  # answers that one address adds to what is known of the path: it must not speak for all of it
_MEMORY = 10_000  # answers; older ones count half as much, a quarter, …


class LossEstimate:
    """Learns from answers: a port that answers only a repeated probe had the earlier ones, or their answers, lost."""

    __slots__ = ("first", "later")

    def __init__(self) -> None:
        self.first = 0.0
        self.later = 0.0

    def answered(self, *, first: float = 0, later: float = 0) -> None:
        """Note so many answers to first and to repeated probes."""
        self.first += first
        self.later += later

    @property
    def share(self) -> float:
        """The share of probes that are lost, 0 to 1."""
        return self.later / (self.first + self.later + _PRIOR)

    def tries(self, least: int) -> int:
        """Give how often to probe before silence counts: `least`, and more, up to MAX_TRIES, where probes get lost."""
        share = self.share
        if not share:
            return least
        return max(least, min(MAX_TRIES, math.ceil(math.log(WRONG) / math.log(share))))


class PathLoss(LossEstimate):
    """What the answers of all addresses show together, the later ones more than the earlier."""

    __slots__ = ()

    def answered(self, *, first: float = 0, later: float = 0) -> None:
        """Note so many answers to first and to repeated probes."""
        super().answered(first=first, later=later)
        if self.first + self.later > _MEMORY:
            self.first /= 2
            self.later /= 2

    def without(self, told: LossEstimate) -> LossEstimate:
        """Give what is known but for what one address has told."""
        others = LossEstimate()
        others.answered(first=max(0.0, self.first - told.first), later=max(0.0, self.later - told.later))
        return others


class AddressLoss(LossEstimate):
    """What the answers of one address show, and where those are few, what the path's do.

    Answers to first probes come before the others. An address that told of them at once would hide the loss from all,
    until its silent ports are asked again; so it tells nothing before that.
    """

    __slots__ = ("_told", "_weight", "path")

    def __init__(self, path: PathLoss) -> None:
        super().__init__()
        self.path = path
        self._told = LossEstimate()
        self._weight = 0.0

    @property
    def has_enough(self) -> bool:
        """True if there were answers enough to tell what gets lost on the way to this address."""
        return self.first + self.later >= ENOUGH

    @property
    def elsewhere(self) -> float:
        """The share of probes that are lost on the way to the other addresses, 0 to 1."""
        return self.path.without(self._told).share

    def tell(self) -> None:
        """Let the path know; to be called while no port waits for its first answer, or to be asked again."""
        self._weight = self._weight or min(1.0, _MOST_SHARED / max(1.0, self.first + self.later))
        first = self._weight * self.first - self._told.first
        later = self._weight * self.later - self._told.later
        if first or later:
            self._told.answered(first=first, later=later)
            self.path.answered(first=first, later=later)

    def withdraw(self) -> None:
        """Have the path forget what it was told: it is the address that keeps silent."""
        others = self.path.without(self._told)
        self.path.first, self.path.later = others.first, others.later
        self._told = LossEstimate()

    def tries(self, least: int) -> int:
        """Give how often to probe before silence counts; see LossEstimate."""
        return max(self.path.tries(least), super().tries(least) if self.has_enough else least)
