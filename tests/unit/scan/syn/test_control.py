from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.syn.reference_ports import AFTER, BEFORE, MOST, Controls
from portspec.scan.syn.state import CLOSED, FILTERED, OPEN
from tests.unit.factories import MODEST

if TYPE_CHECKING:
    from collections.abc import Iterable


def knowing(closed: Iterable[int] = (), is_open: Iterable[int] = ()) -> Controls:
    """Make controls that have learned of ports."""
    controls = Controls()
    for kind, ports in ((CLOSED, closed), (OPEN, is_open)):
        some = np.array(list(ports), np.uint16)
        controls.learn(some, np.full(len(some), kind, np.uint8))
    return controls


def ask(controls: Controls, silent: int, at: float) -> list[int]:
    """Ask along with so many silent ports; gives whom."""
    ports = picked(controls, silent)
    for end, some in zip((BEFORE, AFTER), controls.pick(silent), strict=True):
        controls.asked(end, some.tolist(), at)
    return ports


def picked(controls: Controls, silent: int) -> list[int]:
    """Give whom to ask before and after so many silent ports."""
    before, after = controls.pick(silent)
    return [*before.tolist(), *after.tolist()]


def hear(controls: Controls, ports: Iterable[int]) -> None:
    """Have ports answer that were asked, at whichever end."""
    some = list(ports)
    controls.heard(BEFORE, some)
    controls.heard(AFTER, some)


def test_without_a_port_that_answered_there_is_nobody_to_ask() -> None:
    """A host of which nothing is known, or nothing but silence and ICMP errors, has no controls."""
    controls = Controls()
    assert not controls
    controls.learn(np.array([7], np.uint16), np.array([FILTERED], np.uint8))
    assert not controls
    assert picked(controls, 100) == []


def test_closed_ports_are_asked_before_open_ones() -> None:
    """Where closed ports are known none but they are asked: RSTs are what hosts limit."""
    assert set(picked(knowing(closed=[1, 2, 3], is_open=[80, 443]), 1000)) <= {1, 2, 3}
    assert set(picked(knowing(is_open=[80, 443]), 1000)) == {80, 443}


@pytest.mark.parametrize(("silent", "expected"), [(1, 2), (32, 2), (64, 4), (128, MOST), (2048, MOST)])
def test_as_many_are_asked_as_the_silent_ports_are_worth(silent: int, expected: int) -> None:
    """One control is asked for sixteen silent ports, at least one and at most half of MOST at each end."""
    assert len(picked(knowing(closed=range(1, 60)), silent)) == expected


def test_who_is_being_asked_is_not_asked_again() -> None:
    """A control that has not answered yet is left alone at that end; when all are, nobody is asked."""
    controls = knowing(closed=[1, 2])
    assert ask(controls, 1, 10.0) == [1, 2]
    assert ask(controls, 1, 10.1) == [2, 1]
    assert picked(controls, 1) == []
    controls.heard(AFTER, [2])
    assert [some.tolist() for some in controls.pick(1)] == [[], [2]]


def test_port_that_is_learned_of_twice_is_one() -> None:
    """A port that was known to answer, and answers, is not asked twice in one group."""
    controls = knowing(closed=[7])
    controls.learn(np.array([7, 8], np.uint16), np.array([CLOSED, CLOSED], np.uint8))
    assert controls.known == [7, 8]


def test_only_port_that_answers_is_asked_at_both_ends() -> None:
    """A host that answers on one port only is asked for it before and after, and each answer counts for its end."""
    controls = knowing(is_open=[22])
    before, after = controls.pick(100)
    assert (before.tolist(), after.tolist()) == ([22], [22])
    first = controls.asked(BEFORE, [22], 10.0)
    second = controls.asked(AFTER, [22], 10.1)
    controls.heard(AFTER, [22])
    controls.expire(11.0)
    assert (first.was_heard, second.was_heard) == (False, True)


def test_those_asked_longest_ago_come_first() -> None:
    """Whoever has answered goes to the end of the queue, so that all take turns."""
    controls = knowing(closed=[1, 2, 3, 4])
    turns = []
    for number in range(4):
        some = ask(controls, 1, float(number))
        hear(controls, some)
        turns += some
    assert turns == [1, 2, 3, 4, 1, 2, 3, 4]


def test_outcome_is_unknown_until_an_answer_or_its_time_is_up() -> None:
    """While controls are waited for they tell nothing; with the first answer, or the first given up, they do."""
    controls = knowing(closed=[1, 2, 3, 4])
    controls.asked(AFTER, [1, 2], 10.0)
    assert controls.are_deaf(0.0, 0.1) is None
    controls.heard(AFTER, [1])
    assert controls.are_deaf(0.0, 0.1) is False
    controls.expire(10.0)
    assert controls.are_deaf(0.0, 0.1) is False  # one of two
    controls.asked(AFTER, [3, 4], 11.0)
    controls.expire(11.0)
    assert controls.are_deaf(0.0, 0.1) is True


@pytest.mark.parametrize(
    ("loss", "asked", "lost", "deaf"),
    [
        (0.0, 8, 0, False),
        (0.0, 8, 1, True),
        (0.04, 8, 2, False),
        (0.04, 8, 3, True),
        (0.19, 8, 4, False),
        (0.19, 8, 6, True),
        (0.19, 2, 2, False),
        (0.0, 2, 1, True),
        (0.25, 1, 1, False),
    ],
)
def test_only_more_silence_than_chance_explains_is_deafness(*, loss: float, asked: int, lost: int, deaf: bool) -> None:
    """Where probes get lost on the way, a few silent controls mean nothing."""
    controls = knowing(closed=range(1, 9))
    controls.asked(AFTER, range(1, asked + 1), 10.0)
    controls.heard(AFTER, range(lost + 1, asked + 1))
    controls.expire(10.0)
    assert controls.are_deaf(0.0, loss) is deaf


def test_only_who_was_asked_by_then_is_given_up() -> None:
    """Giving up on the controls of a moment leaves those asked later their time."""
    controls = knowing(closed=[1, 2, 3, 4])
    early = ask(controls, 1, 10.0)
    ask(controls, 1, 10.5)
    controls.expire(10.2)
    assert controls.are_deaf(0.0, 0.01) is True
    assert {(BEFORE, 1), (AFTER, 2)} == set(zip((BEFORE, AFTER), early, strict=True))
    assert [some.tolist() for some in controls.pick(1)] == [[1], [2]]
    hear(controls, [1, 2, 3, 4])
    assert controls.are_deaf(10.2, 0.1) is False


def test_what_was_asked_earlier_does_not_count() -> None:
    """A host that heard everything a second ago may be deaf now; without a later one the last of all tells."""
    controls = knowing(closed=[1, 2])
    hear(controls, ask(controls, 1, 10.0))
    ask(controls, 1, 20.0)
    controls.expire(20.0)
    assert controls.are_deaf(15.0, 0.0) is True
    hear(controls, ask(controls, 1, 30.0))
    assert controls.are_deaf(25.0, 0.1) is False
    assert controls.are_deaf(31.0, 0.1) is False


def test_an_answer_counts_once_for_each_time_it_was_asked_for() -> None:
    """Three RSTs for one control are one answer, and an answer nobody asked for is none."""
    controls = knowing(closed=[1, 2, 3])
    controls.heard(AFTER, [1, 1, 1])
    assert controls.are_deaf(0.0, 0.1) is None
    controls.asked(AFTER, [1, 2, 3], 10.0)
    controls.heard(AFTER, [1, 1, 1])
    controls.expire(10.0)
    assert controls.are_deaf(0.0, 0.01) is True  # one of three


def test_late_answer_does_not_undo_that_it_was_given_up() -> None:
    """What comes after its time is up is not counted."""
    controls = knowing(closed=[1, 2])
    asked = ask(controls, 1, 10.0)
    controls.expire(10.0)
    hear(controls, asked)
    assert controls.are_deaf(0.0, 0.0) is True


@MODEST
@given(
    closed=st.sets(st.integers(1, 65535), max_size=200),
    is_open=st.sets(st.integers(1, 65535), max_size=200),
    silent=st.integers(1, 4096),
)
def test_only_ports_that_answered_are_asked(closed: set[int], is_open: set[int], silent: int) -> None:
    """Whatever was learned, those picked are distinct, known and no more than half of MOST at each end."""
    controls = knowing(closed, is_open - closed)
    assert bool(controls) == bool(closed | is_open)
    for some in controls.pick(silent):
        asked = some.tolist()
        assert len(asked) == len(set(asked)) <= MOST // 2
        assert set(asked) <= (closed or is_open)
        assert bool(asked) == bool(controls)
