from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.loss import FALSE_FILTERED_PROBABILITY, MAX_TRIES, MIN_SAMPLES, AddressLoss, LossEstimate, PathLoss
from tests.unit.factories import MODEST


def published(path: PathLoss, *, first: int = 0, later: int = 0) -> AddressLoss:
    """Return an address that has published so many answers to the path."""
    address = AddressLoss(path)
    address.answered(first=first, later=later)
    address.publish()
    return address


def test_without_loss_the_configured_tries_hold() -> None:
    """If every answer is to a first probe, or none arrives, nothing is tried more often than configured."""
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
    """With enough answers to learn from, the chance that all tries of a port get lost is one in a hundred million."""
    estimate = LossEstimate()
    later = round(9000 * share)
    estimate.answered(first=9000 - later, later=later)
    assert share ** estimate.tries(least) <= FALSE_FILTERED_PROBABILITY * 1.1


@MODEST
@given(answers=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=20), least=st.integers(1, 11))
def test_tries_are_bounded(answers: list[tuple[int, int]], least: int) -> None:
    """Whatever is learned, a port is probed no less than configured and no more than MAX_TRIES times."""
    address = AddressLoss(PathLoss())
    for first, later in answers:
        address.answered(first=first, later=later)
        address.publish()
        assert least <= address.path.tries(least) <= MAX_TRIES
        assert least <= address.tries(least) <= MAX_TRIES


def test_loss_that_is_over_is_forgotten() -> None:
    """After enough answers without loss the configured number of tries is enough again."""
    path = PathLoss()
    path.answered(first=800, later=200)
    assert path.tries(3) > 3
    for _ in range(200):
        path.answered(first=1000)
    assert path.tries(3) == 3


def test_address_with_few_answers_uses_the_path() -> None:
    """While an address has answered little, the answers of all addresses decide how often to try."""
    path = PathLoss()
    published(path, first=200, later=50)
    few = AddressLoss(path)
    few.answered(first=MIN_SAMPLES - 1)
    assert few.tries(3) == path.tries(3) > 3


@pytest.mark.parametrize(("first", "later"), [(80, 20), (4000, 1000)])
def test_address_with_more_loss_gets_more_tries(first: int, later: int) -> None:
    """An address behind a lossy link gets the tries that its own answers demand, even on a clean path."""
    path = PathLoss()
    for _ in range(30):
        published(path, first=256)
    address = published(path, first=first, later=later)
    alone = LossEstimate()
    alone.answered(first=first, later=later)
    assert path.tries(3) < address.tries(3) == alone.tries(3)


def test_one_address_does_not_dominate_the_path() -> None:
    """However many answers an address publishes, and whenever, the path takes at most a limited number."""
    path = PathLoss()
    address = published(path, first=40_000, later=10_000)
    address.answered(later=500)
    address.publish()
    address.publish()
    assert path.first + path.later == pytest.approx(256, rel=0.02)
    assert path.share == pytest.approx(0.2, rel=0.05)


def test_published_answers_can_be_retracted() -> None:
    """An address that limits its answers leaves nothing behind in the estimate of the path."""
    path = PathLoss()
    published(path, first=190, later=10)
    address = published(path, first=100, later=100)
    assert address.share_elsewhere == pytest.approx(10 / 210)
    assert path.share > 0.2
    address.retract()
    assert path.share == address.share_elsewhere == pytest.approx(10 / 210)
