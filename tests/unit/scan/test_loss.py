from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.loss import MAX_TRIES, WRONG, LossEstimate
from tests.unit.factories import MODEST


def test_without_loss_the_least_number_of_tries_holds() -> None:
    """While every answer comes to a first probe, or none comes at all, nothing is asked more often than configured."""
    assert LossEstimate().tries(3) == 3
    estimate = LossEstimate()
    estimate.answered(first=1000)
    assert estimate.tries(3) == 3


def test_one_late_answer_among_many_is_no_loss() -> None:
    """A single answer to a repeated probe costs a scan of a quiet network nothing."""
    estimate = LossEstimate()
    estimate.answered(first=500, later=1)
    assert estimate.tries(3) == 3


@MODEST
@given(share=st.floats(0.01, 0.3), least=st.integers(1, 4))
def test_tries_are_enough_for_the_loss(share: float, least: int) -> None:
    """With enough answers to learn from, the chance that all tries of a port get lost is below one in a million."""
    estimate = LossEstimate()
    later = round(9000 * share)
    estimate.answered(first=9000 - later, later=later)
    assert share ** estimate.tries(least) <= WRONG * 1.1


@MODEST
@given(answers=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=20), least=st.integers(1, 11))
def test_tries_are_bounded(answers: list[tuple[int, int]], least: int) -> None:
    """Whatever is learned, a port is probed no less than configured and no more than MAX_TRIES times."""
    estimate = LossEstimate()
    for first, later in answers:
        estimate.answered(first=first, later=later)
        assert least <= estimate.tries(least) <= MAX_TRIES


def test_loss_that_is_over_is_forgotten() -> None:
    """After enough answers without loss the configured number of tries is enough again."""
    estimate = LossEstimate()
    estimate.answered(first=800, later=200)
    assert estimate.tries(3) > 3
    for _ in range(200):
        estimate.answered(first=1000)
    assert estimate.tries(3) == 3
