"""How many tries a silent port needs before its silence means something, learned from the loss of probes.

A port that answers only a repeated probe had an earlier probe, or its answer, lost. The share of such answers is the
loss p of a round trip. A port whose probes all got lost by chance looks filtered: after n tries with probability pⁿ.
tries() returns the n for which that is below FALSE_FILTERED_PROBABILITY.

Answers to first probes arrive before the others, so an address that has not retried yet seems to lose nothing. It must
not hide the loss of the path from the other addresses: it publishes its answers only after its retries.
"""

from __future__ import annotations

import math

MAX_TRIES = 16
FALSE_FILTERED_PROBABILITY = 1e-8  # accepted probability that a port is called filtered because of loss alone
MIN_SAMPLES = 50  # answers from which the loss of one address is known
_PRIOR_SAMPLES = 10  # assumed answers to first probes, so that one late answer makes no loss
_MAX_PUBLISHED_SAMPLES = 256  # answers that one address contributes to its path, so that it does not dominate
_MAX_SAMPLES = 10_000  # answers after which the counts are halved: older ones count half as much, a quarter, …


class LossEstimate:
    """Counts answers to first and to repeated probes."""

    __slots__ = ("first", "later")

    def __init__(self) -> None:
        self.first = 0.0
        self.later = 0.0

    def answered(self, *, first: float = 0, later: float = 0) -> None:
        """Record answers: `first` to first probes, `later` to repeated ones."""
        self.first += first
        self.later += later

    @property
    def share(self) -> float:
        """The share of probes that are lost, 0 to 1."""
        return self.later / (self.first + self.later + _PRIOR_SAMPLES)

    def tries(self, least: int) -> int:
        """Return how often to probe a port before its silence counts: from `least` up to MAX_TRIES."""
        share = self.share
        if not share:
            return least
        return max(least, min(MAX_TRIES, math.ceil(math.log(FALSE_FILTERED_PROBABILITY) / math.log(share))))


class PathLoss(LossEstimate):
    """The loss of all addresses together; recent answers count more than old ones."""

    __slots__ = ()

    def answered(self, *, first: float = 0, later: float = 0) -> None:
        """Record answers: `first` to first probes, `later` to repeated ones."""
        super().answered(first=first, later=later)
        if self.first + self.later > _MAX_SAMPLES:
            self.first /= 2
            self.later /= 2

    def without(self, published: LossEstimate) -> LossEstimate:
        """Return the estimate without what one address has published."""
        others = LossEstimate()
        others.answered(first=max(0.0, self.first - published.first), later=max(0.0, self.later - published.later))
        return others


class AddressLoss(LossEstimate):
    """The loss of one address; while its answers are few, that of its path decides."""

    __slots__ = ("_published", "_weight", "path")

    def __init__(self, path: PathLoss) -> None:
        super().__init__()
        self.path = path
        self._published = LossEstimate()
        self._weight = 0.0

    @property
    def has_enough_samples(self) -> bool:
        """True if this address has answered often enough for its own loss to be known."""
        return self.first + self.later >= MIN_SAMPLES

    @property
    def share_elsewhere(self) -> float:
        """The share of probes that are lost on the way to the other addresses, 0 to 1."""
        return self.path.without(self._published).share

    def publish(self) -> None:
        """Add the answers to the path; only while no port waits for its first answer or for a retry."""
        self._weight = self._weight or min(1.0, _MAX_PUBLISHED_SAMPLES / max(1.0, self.first + self.later))
        first = self._weight * self.first - self._published.first
        later = self._weight * self.later - self._published.later
        if first or later:
            self._published.answered(first=first, later=later)
            self.path.answered(first=first, later=later)

    def retract(self) -> None:
        """Remove the answers from the path: the address drops probes by itself, the path does not lose them."""
        others = self.path.without(self._published)
        self.path.first, self.path.later = others.first, others.later
        self._published = LossEstimate()

    def tries(self, least: int) -> int:
        """Return how often to probe a port before its silence counts: the larger of path and address."""
        return max(self.path.tries(least), super().tries(least) if self.has_enough_samples else least)
