from __future__ import annotations

import numpy as np

from portspec.scan.failures import MAX_SILENCE
from portspec.scan.syn.burst import BurstProber
from portspec.scan.syn.port_states import PortStates


def is_cut_off(failed: int, *, last_answer_at: float, now: float) -> bool:
    """Let so many bursts fail at second 1; return whether the address is cut off later."""
    bursts = BurstProber(PortStates(np.arange(1, 11, dtype=np.uint16)), 4, np.random.default_rng(1), 0.0)
    for _ in range(failed):
        while batch := bursts.take([80], 100):
            bursts.record_sent(batch, np.ones(len(batch), np.bool_), np.zeros(len(batch)))
        assert bursts.expire(0.1, 1.0) is not None
    bursts.cut_off_if_hopeless(last_answer_at, now)
    return bursts.is_cut_off


def test_address_is_cut_off_after_three_failed_bursts_and_twelve_seconds() -> None:
    """Neither a long silence in which few bursts were sent nor many bursts in a short one is enough."""
    assert is_cut_off(3, last_answer_at=0.0, now=1.0 + MAX_SILENCE)
    assert not is_cut_off(2, last_answer_at=0.0, now=1.0 + MAX_SILENCE)
    assert not is_cut_off(3, last_answer_at=0.0, now=1.0 + MAX_SILENCE - 0.1)


def test_answer_in_between_restarts_the_silence() -> None:
    """The silence counts from the last answer on."""
    assert not is_cut_off(3, last_answer_at=5.0, now=1.0 + MAX_SILENCE)
