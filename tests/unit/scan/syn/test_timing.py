from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.syn.timing import (
    INITIAL_WINDOW,
    MAX_TIMEOUT,
    MAX_WINDOW,
    MIN_TIMEOUT,
    MIN_WINDOW,
    REPEAT_INTERVAL,
    ProbeWindow,
    RetransmissionTimer,
)
from tests.unit.factories import MODEST

FIRST = 0.9
STABLE = st.integers(0, 5000)


def timer(*samples: float, first: float = FIRST) -> RetransmissionTimer:
    """Return a timer that has learned from samples."""
    made = RetransmissionTimer(first)
    for sample in samples:
        made.record(sample)
    return made


@pytest.mark.parametrize("tries", [1, 2, 3, 6, 16])
def test_configured_timeout_before_the_first_answer(tries: int) -> None:
    """Before the first answer the first and the last try have the configured timeout; those between follow sooner."""
    waits = [RetransmissionTimer(FIRST).wait(attempt, tries) for attempt in range(tries + 1)]
    between = max(0, tries - 2)
    assert waits == [FIRST, *[REPEAT_INTERVAL] * between, *[FIRST] * (tries - between)]


def test_short_timeout_before_the_first_answer() -> None:
    """No repeated try waits longer than the configured timeout."""
    assert [RetransmissionTimer(0.2).wait(attempt, 4) for attempt in range(4)] == [0.2] * 4


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0.2], 0.2 + 4 * 0.1),  # 2.2: SRTT = R, RTTVAR = R / 2
        ([0.2, 0.4], 0.225 + 4 * 0.125),  # 2.3: RTTVAR = 3/4 · 0.1 + 1/4 · 0.2, SRTT = 7/8 · 0.2 + 1/8 · 0.4
        ([0.2, 0.4, 0.1], 0.209375 + 4 * 0.125),  # 3/4 · 0.125 + 1/4 · 0.125; 7/8 · 0.225 + 1/8 · 0.1
        ([1.0, 1.0, 1.0], 1.0 + 4 * 0.28125),  # 0.5 · (3/4)²
    ],
)
def test_wait_follows_the_formulas(samples: list[float], expected: float) -> None:
    """The timeout is SRTT + 4 · RTTVAR of RFC 6298, sections 2.2 and 2.3, computed by hand."""
    assert timer(*samples).wait(0) == pytest.approx(expected)


def test_timeout_has_a_minimum() -> None:
    """However fast the answers are, no timeout is below MIN_TIMEOUT, unless the configured one is."""
    assert timer(*[1e-4] * 50).wait(0) == MIN_TIMEOUT
    assert timer(*[1e-4] * 50, first=0.03).wait(0) == 0.03


def test_timeout_has_a_maximum() -> None:
    """However slow the answers are, no timeout exceeds MAX_TIMEOUT."""
    assert timer(3.0).wait(0) == MAX_TIMEOUT
    assert timer(3.0).wait(4) == MAX_TIMEOUT
    assert timer(*[60.0] * 9).wait(0) == MAX_TIMEOUT


def test_timeout_doubles_with_each_try() -> None:
    """Each silent try doubles the timeout (5.5), up to the one before the first answer."""
    waits = [timer(0.05).wait(attempt) for attempt in range(6)]
    assert waits == pytest.approx([0.15, 0.3, 0.6, FIRST, FIRST, FIRST])


def test_backing_off_never_shortens_the_wait() -> None:
    """If answers take longer than the configured timeout, retries have the same timeout as first probes."""
    assert timer(0.5).wait(0) == pytest.approx(1.5)
    assert timer(0.5).wait(1) == pytest.approx(1.5)


def test_steady_answers_shorten_the_wait() -> None:
    """Steady round-trip times make the timeout hardly longer than they are."""
    assert timer(*[0.4] * 60).wait(0) == pytest.approx(0.4, rel=0.01)


@MODEST
@given(samples=st.lists(st.floats(0.0, 100.0), max_size=30), attempt=st.integers(0, 14), first=st.floats(0.01, 10.0))
def test_wait_is_bounded(samples: list[float], attempt: int, first: float) -> None:
    """A timeout is at least MIN_TIMEOUT or the configured one, and at most MAX_TIMEOUT or that."""
    made = timer(*samples, first=first)
    assert min(MIN_TIMEOUT, first) <= made.wait(attempt) <= max(MAX_TIMEOUT, first)
    assert made.wait(attempt) <= made.wait(attempt + 1)


def test_window_shrinks_where_much_is_lost() -> None:
    """If half of the answers are to repeated probes, the window is halved."""
    window = ProbeWindow()
    window.record(first=50, later=50)
    assert window.size < 0.6 * INITIAL_WINDOW


@pytest.mark.parametrize("later", [0, 4, 20])
def test_random_loss_keeps_the_window(later: int) -> None:
    """A fifth of answers to repeated probes, as ten percent loss each way makes, does not shrink the window."""
    window = ProbeWindow()
    for _ in range(200):
        before = window.size
        window.record(first=100 - later, later=later)
        assert window.size >= before
    assert window.size == MAX_WINDOW


def test_few_answers_are_no_reason_to_shrink() -> None:
    """A few late answers at the start mean nothing."""
    window = ProbeWindow()
    window.record(later=10)
    assert window.size >= INITIAL_WINDOW


def test_old_answers_are_forgotten() -> None:
    """Heavy loss is noticed however many answers came without loss before."""
    window = ProbeWindow()
    for _ in range(100):
        window.record(first=1000)
    window.record(first=MAX_WINDOW)
    window.record(first=60, later=60)
    assert window.size < 0.6 * MAX_WINDOW


def test_window_grows_slowly_after_loss() -> None:
    """After loss the window grows by at most an eighth of the answers, up to MAX_WINDOW."""
    window = ProbeWindow()
    window.shrink()
    narrow = window.size
    window.record(first=narrow)
    assert narrow < window.size <= narrow + narrow // 8
    for _ in range(200):
        window.record(first=window.size)
    assert window.size == MAX_WINDOW


def test_silence_widens_the_window() -> None:
    """Silent probes let the window grow as answers do: a host that drops all probes is not overloaded."""
    window = ProbeWindow()
    window.record(silent=INITIAL_WINDOW)
    assert window.size == 2 * INITIAL_WINDOW


@MODEST
@given(events=st.lists(st.one_of(st.none(), st.tuples(STABLE, STABLE, STABLE)), max_size=40))
def test_window_is_bounded(events: list[tuple[int, int, int] | None]) -> None:
    """The window is always between MIN_WINDOW and MAX_WINDOW."""
    window = ProbeWindow()
    for event in events:
        if event is None:
            window.shrink()
        else:
            first, later, silent = event
            window.record(first=first, later=later, silent=silent)
        assert MIN_WINDOW <= window.size <= MAX_WINDOW


def test_window_shrinks_to_the_least() -> None:
    """Repeated shrinking ends at MIN_WINDOW."""
    window = ProbeWindow()
    for _ in range(20):
        window.shrink()
    assert window.size == MIN_WINDOW
