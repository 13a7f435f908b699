from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.syn.batch import CLOSED, FILTERED, OPEN
from portspec.scan.syn.reference_ports import AFTER, BEFORE, MAX_PROBES, ReferencePorts
from tests.unit.factories import MODEST

if TYPE_CHECKING:
    from collections.abc import Iterable


def knowing(closed: Iterable[int] = (), is_open: Iterable[int] = ()) -> ReferencePorts:
    """Make controls that have learned of ports."""
    references = ReferencePorts()
    for kind, ports in ((CLOSED, closed), (OPEN, is_open)):
        some = np.array(list(ports), np.uint16)
        references.learn(some, np.full(len(some), kind, np.uint8))
    return references


def ask(references: ReferencePorts, silent: int, at: float) -> list[int]:
    """Ask along with so many silent ports; gives whom."""
    ports = picked(references, silent)
    for end, some in zip((BEFORE, AFTER), references.pick(silent), strict=True):
        references.record_sent(end, some.tolist(), at)
    return ports


def picked(references: ReferencePorts, silent: int) -> list[int]:
    """Give whom to ask before and after so many silent ports."""
    before, after = references.pick(silent)
    return [*before.tolist(), *after.tolist()]


def hear(references: ReferencePorts, ports: Iterable[int]) -> None:
    """Have ports answer that were asked, at whichever end."""
    some = list(ports)
    references.record_answers(BEFORE, some)
    references.record_answers(AFTER, some)


def test_without_a_port_that_answered_there_is_nobody_to_ask() -> None:
    """A host of which nothing is known, or nothing but silence and ICMP errors, has no controls."""
    references = ReferencePorts()
    assert not references
    references.learn(np.array([7], np.uint16), np.array([FILTERED], np.uint8))
    assert not references
    assert picked(references, 100) == []


def test_closed_ports_are_asked_before_open_ones() -> None:
    """Where closed ports are known none but they are asked: RSTs are what hosts limit."""
    assert set(picked(knowing(closed=[1, 2, 3], is_open=[80, 443]), 1000)) <= {1, 2, 3}
    assert set(picked(knowing(is_open=[80, 443]), 1000)) == {80, 443}


@pytest.mark.parametrize(("silent", "expected"), [(1, 2), (32, 2), (64, 4), (128, MAX_PROBES), (2048, MAX_PROBES)])
def test_as_many_are_asked_as_the_silent_ports_are_worth(silent: int, expected: int) -> None:
    """One control is asked for sixteen silent ports, at least one and at most half of MOST at each end."""
    assert len(picked(knowing(closed=range(1, 60)), silent)) == expected


def test_who_is_being_asked_is_not_asked_again() -> None:
    """A control that has not answered yet is left alone at that end; when all are, nobody is asked."""
    references = knowing(closed=[1, 2])
    assert ask(references, 1, 10.0) == [1, 2]
    assert ask(references, 1, 10.1) == [2, 1]
    assert picked(references, 1) == []
    references.record_answers(AFTER, [2])
    assert [some.tolist() for some in references.pick(1)] == [[], [2]]


def test_port_that_is_learned_of_twice_is_one() -> None:
    """A port that was known to answer, and answers, is not asked twice in one group."""
    references = knowing(closed=[7])
    references.learn(np.array([7, 8], np.uint16), np.array([CLOSED, CLOSED], np.uint8))
    assert references.known == [7, 8]


def test_only_port_that_answers_is_asked_at_both_ends() -> None:
    """A host that answers on one port only is asked for it before and after, and each answer counts for its end."""
    references = knowing(is_open=[22])
    before, after = references.pick(100)
    assert (before.tolist(), after.tolist()) == ([22], [22])
    first = references.record_sent(BEFORE, [22], 10.0)
    second = references.record_sent(AFTER, [22], 10.1)
    references.record_answers(AFTER, [22])
    references.expire(11.0)
    assert (first.was_answered, second.was_answered) == (False, True)


def test_those_asked_longest_ago_come_first() -> None:
    """Whoever has answered goes to the end of the queue, so that all take turns."""
    references = knowing(closed=[1, 2, 3, 4])
    turns = []
    for number in range(4):
        some = ask(references, 1, float(number))
        hear(references, some)
        turns += some
    assert turns == [1, 2, 3, 4, 1, 2, 3, 4]


def test_outcome_is_unknown_until_an_answer_or_its_time_is_up() -> None:
    """While controls are waited for they tell nothing; with the first answer, or the first given up, they do."""
    references = knowing(closed=[1, 2, 3, 4])
    references.record_sent(AFTER, [1, 2], 10.0)
    assert references.are_unresponsive(0.0, 0.1) is None
    references.record_answers(AFTER, [1])
    assert references.are_unresponsive(0.0, 0.1) is False
    references.expire(10.0)
    assert references.are_unresponsive(0.0, 0.1) is False  # one of two
    references.record_sent(AFTER, [3, 4], 11.0)
    references.expire(11.0)
    assert references.are_unresponsive(0.0, 0.1) is True


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
    references = knowing(closed=range(1, 9))
    references.record_sent(AFTER, range(1, asked + 1), 10.0)
    references.record_answers(AFTER, range(lost + 1, asked + 1))
    references.expire(10.0)
    assert references.are_unresponsive(0.0, loss) is deaf


def test_only_who_was_asked_by_then_is_given_up() -> None:
    """Giving up on the controls of a moment leaves those asked later their time."""
    references = knowing(closed=[1, 2, 3, 4])
    early = ask(references, 1, 10.0)
    ask(references, 1, 10.5)
    references.expire(10.2)
    assert references.are_unresponsive(0.0, 0.01) is True
    assert {(BEFORE, 1), (AFTER, 2)} == set(zip((BEFORE, AFTER), early, strict=True))
    assert [some.tolist() for some in references.pick(1)] == [[1], [2]]
    hear(references, [1, 2, 3, 4])
    assert references.are_unresponsive(10.2, 0.1) is False


def test_what_was_asked_earlier_does_not_count() -> None:
    """A host that heard everything a second ago may be deaf now; without a later one the last of all tells."""
    references = knowing(closed=[1, 2])
    hear(references, ask(references, 1, 10.0))
    ask(references, 1, 20.0)
    references.expire(20.0)
    assert references.are_unresponsive(15.0, 0.0) is True
    hear(references, ask(references, 1, 30.0))
    assert references.are_unresponsive(25.0, 0.1) is False
    assert references.are_unresponsive(31.0, 0.1) is False


def test_an_answer_counts_once_for_each_time_it_was_asked_for() -> None:
    """Three RSTs for one control are one answer, and an answer nobody asked for is none."""
    references = knowing(closed=[1, 2, 3])
    references.record_answers(AFTER, [1, 1, 1])
    assert references.are_unresponsive(0.0, 0.1) is None
    references.record_sent(AFTER, [1, 2, 3], 10.0)
    references.record_answers(AFTER, [1, 1, 1])
    references.expire(10.0)
    assert references.are_unresponsive(0.0, 0.01) is True  # one of three


def test_late_answer_does_not_undo_that_it_was_given_up() -> None:
    """What comes after its time is up is not counted."""
    references = knowing(closed=[1, 2])
    asked = ask(references, 1, 10.0)
    references.expire(10.0)
    hear(references, asked)
    assert references.are_unresponsive(0.0, 0.0) is True


@MODEST
@given(
    closed=st.sets(st.integers(1, 65535), max_size=200),
    is_open=st.sets(st.integers(1, 65535), max_size=200),
    silent=st.integers(1, 4096),
)
def test_only_ports_that_answered_are_asked(closed: set[int], is_open: set[int], silent: int) -> None:
    """Whatever was learned, those picked are distinct, known and no more than half of MOST at each end."""
    references = knowing(closed, is_open - closed)
    assert bool(references) == bool(closed | is_open)
    for some in references.pick(silent):
        asked = some.tolist()
        assert len(asked) == len(set(asked)) <= MAX_PROBES // 2
        assert set(asked) <= (closed or is_open)
        assert bool(asked) == bool(references)
