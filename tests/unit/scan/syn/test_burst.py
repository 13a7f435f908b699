from __future__ import annotations

import numpy as np

from portspec.scan.failures import MAX_SILENCE
from portspec.scan.syn.burst import BurstProber

PORTS = np.arange(1, 11, dtype=np.uint16)
NONE = np.zeros(0, np.uint16)


def failed(count: int, *, at: float) -> BurstProber:
    """Return a prober of whose bursts so many in a row had no answer."""
    bursts = BurstProber(11, 4, np.random.default_rng(1), 0.0)
    for _ in range(count):
        bursts.begin(PORTS, [80])
        bursts.judge(NONE, NONE, at, 0.1)
    return bursts


def test_address_is_given_up_after_three_failed_bursts_and_twelve_seconds() -> None:
    """Neither a long silence in which few bursts were sent nor many bursts in a short one is enough."""
    assert failed(3, at=1.0).is_hopeless(10, 0.0, 1.0 + MAX_SILENCE)
    assert not failed(2, at=1.0).is_hopeless(10, 0.0, 1.0 + MAX_SILENCE)
    assert not failed(3, at=1.0).is_hopeless(10, 0.0, 1.0 + MAX_SILENCE - 0.1)


def test_answer_in_between_restarts_the_silence() -> None:
    """The silence counts from the last answer on."""
    assert not failed(3, at=1.0).is_hopeless(10, 5.0, 1.0 + MAX_SILENCE)
