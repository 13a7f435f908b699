from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.scan.syn.port_states import CLOSED, FILTERED, OPEN
from portspec.scan.syn.reference_ports import AFTER, BEFORE, MAX_PROBES, ReferencePorts
from tests.unit.factories import MODEST

if TYPE_CHECKING:
    from collections.abc import Iterable


def reference_ports(closed: Iterable[int] = (), is_open: Iterable[int] = ()) -> ReferencePorts:
    """Return reference ports that have learned some."""
    references = ReferencePorts()
    for kind, ports in ((CLOSED, closed), (OPEN, is_open)):
        some = np.array(list(ports), np.uint16)
        references.learn(some, np.full(len(some), kind, np.uint8))
    return references


def send(references: ReferencePorts, silent: int, at: float) -> list[int]:
    """Send the probes that belong to so many silent ports; return their ports."""
    ports = picked(references, silent)
    for end, some in zip((BEFORE, AFTER), references.pick(silent), strict=True):
        references.record_sent(end, some.tolist(), at)
    return ports


def picked(references: ReferencePorts, silent: int) -> list[int]:
    """Return the ports to probe before and after so many silent ports."""
    before, after = references.pick(silent)
    return [*before.tolist(), *after.tolist()]


def answer(references: ReferencePorts, ports: Iterable[int]) -> None:
    """Let ports answer that were probed, at whichever end."""
    some = list(ports)
    references.record_answers(BEFORE, some)
    references.record_answers(AFTER, some)


def test_silent_and_rejected_ports_are_no_reference_ports() -> None:
    """A host that only shows silence and ICMP errors has no reference ports."""
    references = ReferencePorts()
    assert not references
    references.learn(np.array([7], np.uint16), np.array([FILTERED], np.uint8))
    assert not references
    assert picked(references, 100) == []


def test_closed_ports_are_preferred() -> None:
    """If closed ports are known, only those are probed: RSTs are what hosts limit."""
    assert set(picked(reference_ports(closed=[1, 2, 3], is_open=[80, 443]), 1000)) <= {1, 2, 3}
    assert set(picked(reference_ports(is_open=[80, 443]), 1000)) == {80, 443}


@pytest.mark.parametrize(("silent", "expected"), [(1, 2), (32, 2), (64, 4), (128, MAX_PROBES), (2048, MAX_PROBES)])
def test_number_of_probes_follows_the_number_of_silent_ports(silent: int, expected: int) -> None:
    """There is one reference probe for sixteen silent ports, at least one and at most MAX_PROBES / 2 at each end."""
    assert len(picked(reference_ports(closed=range(1, 60)), silent)) == expected


def test_pending_ports_are_not_probed_again() -> None:
    """A port whose answer is pending is not probed again at that end; if all are pending, none is."""
    references = reference_ports(closed=[1, 2])
    assert send(references, 1, 10.0) == [1, 2]
    assert send(references, 1, 10.1) == [2, 1]
    assert picked(references, 1) == []
    references.record_answers(AFTER, [2])
    assert [some.tolist() for some in references.pick(1)] == [[], [2]]


def test_port_that_is_learned_twice_counts_once() -> None:
    """A known port that answers again is not probed twice in one batch."""
    references = reference_ports(closed=[7])
    references.learn(np.array([7, 8], np.uint16), np.array([CLOSED, CLOSED], np.uint8))
    assert references.known == [7, 8]


def test_single_port_is_probed_at_both_ends() -> None:
    """The only known port is probed before and after, and each answer counts for its end."""
    references = reference_ports(is_open=[22])
    before, after = references.pick(100)
    assert (before.tolist(), after.tolist()) == ([22], [22])
    first = references.record_sent(BEFORE, [22], 10.0)
    second = references.record_sent(AFTER, [22], 10.1)
    references.record_answers(AFTER, [22])
    references.expire(11.0)
    assert (first.was_answered, second.was_answered) == (False, True)


def test_reference_ports_take_turns() -> None:
    """A port that has answered moves to the end of the queue."""
    references = reference_ports(closed=[1, 2, 3, 4])
    turns = []
    for number in range(4):
        some = send(references, 1, float(number))
        answer(references, some)
        turns += some
    assert turns == [1, 2, 3, 4, 1, 2, 3, 4]


def test_outcome_is_unknown_until_an_answer_or_a_timeout() -> None:
    """Pending probes have no outcome; the first answer or the first timeout is one."""
    references = reference_ports(closed=[1, 2, 3, 4])
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
    ("loss", "asked", "lost", "is_unresponsive"),
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
def test_host_is_unresponsive_if_chance_does_not_explain_the_silence(
    *, loss: float, asked: int, lost: int, is_unresponsive: bool
) -> None:
    """If probes get lost on the path, a few silent reference probes mean nothing."""
    references = reference_ports(closed=range(1, 9))
    references.record_sent(AFTER, range(1, asked + 1), 10.0)
    references.record_answers(AFTER, range(lost + 1, asked + 1))
    references.expire(10.0)
    assert references.are_unresponsive(0.0, loss) is is_unresponsive


def test_expire_leaves_later_probes_pending() -> None:
    """Probes that were sent after the given time stay pending."""
    references = reference_ports(closed=[1, 2, 3, 4])
    early = send(references, 1, 10.0)
    send(references, 1, 10.5)
    references.expire(10.2)
    assert references.are_unresponsive(0.0, 0.01) is True
    assert {(BEFORE, 1), (AFTER, 2)} == set(zip((BEFORE, AFTER), early, strict=True))
    assert [some.tolist() for some in references.pick(1)] == [[1], [2]]
    answer(references, [1, 2, 3, 4])
    assert references.are_unresponsive(10.2, 0.1) is False


def test_only_recent_probes_count() -> None:
    """Answers from before `since` do not count, except the last one if there is none later."""
    references = reference_ports(closed=[1, 2])
    answer(references, send(references, 1, 10.0))
    send(references, 1, 20.0)
    references.expire(20.0)
    assert references.are_unresponsive(15.0, 0.0) is True
    answer(references, send(references, 1, 30.0))
    assert references.are_unresponsive(25.0, 0.1) is False
    assert references.are_unresponsive(31.0, 0.1) is False


def test_answer_counts_once_per_probe() -> None:
    """Three RSTs to one probe are one answer, and an answer without a probe is none."""
    references = reference_ports(closed=[1, 2, 3])
    references.record_answers(AFTER, [1, 1, 1])
    assert references.are_unresponsive(0.0, 0.1) is None
    references.record_sent(AFTER, [1, 2, 3], 10.0)
    references.record_answers(AFTER, [1, 1, 1])
    references.expire(10.0)
    assert references.are_unresponsive(0.0, 0.01) is True  # one of three


def test_late_answer_does_not_count() -> None:
    """An answer after the timeout does not change the outcome."""
    references = reference_ports(closed=[1, 2])
    asked = send(references, 1, 10.0)
    references.expire(10.0)
    answer(references, asked)
    assert references.are_unresponsive(0.0, 0.0) is True


@MODEST
@given(
    closed=st.sets(st.integers(1, 65535), max_size=200),
    is_open=st.sets(st.integers(1, 65535), max_size=200),
    silent=st.integers(1, 4096),
)
def test_picked_ports_are_known_and_distinct(closed: set[int], is_open: set[int], silent: int) -> None:
    """Picked ports are distinct, known, and at most MAX_PROBES / 2 at each end."""
    references = reference_ports(closed, is_open - closed)
    assert bool(references) == bool(closed | is_open)
    for some in references.pick(silent):
        asked = some.tolist()
        assert len(asked) == len(set(asked)) <= MAX_PROBES // 2
        assert set(asked) <= (closed or is_open)
        assert bool(asked) == bool(references)
