"""Controls of the connect engine: whose silence counts. No socket: probes are sent and answered by the test."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from portspec.ports import PortSet
from portspec.scan import Failure, Reason, ScanJob
from portspec.scan.connect.control import PROBES, Controls, Group
from portspec.scan.connect.lane import CLOSED, FILTERED, OPEN, Lane, Try
from portspec.scan.life import LONGEST_SILENCE, LONGEST_STANDSTILL
from portspec.scan.loss import PathLoss
from portspec.scan.work import Work

ADDRESS = "192.0.2.1"
TIMEOUT = 1.0


def lane_of(*, closed: tuple[int, ...] = (), is_open: tuple[int, ...] = (), alive: tuple[int, ...] = ()) -> Lane:
    """Make the lane of an address of which some ports have answered, and of which port 9 is silent."""
    job = ScanJob((ADDRESS,), PortSet.of([9, *closed, *is_open, *alive]), alive=PortSet.of(alive))
    work = Work(job, Future(), 0.0, lambda work, address: Lane(work, address, PathLoss()))
    lane = work.lanes[0]
    lane.controls = Controls(lane)
    for state, ports in ((CLOSED, closed), (OPEN, is_open)):
        for port in ports:
            lane.states[port] = state
            lane.unsettled -= 1
            lane.answered = True
    return lane


def silence(lane: Lane, at: float) -> list[Try]:
    """Let port 9 be silent on a try that was sent at a time."""
    lane.doubtful = [Try((ADDRESS, 9), at)]
    lane.controls.sent(1)
    return lane.doubtful


def ask(lane: Lane, at: float) -> Group:
    """Send the controls that are due; there are some."""
    group = lane.controls.due(TIMEOUT, at)
    assert group is not None
    group.in_flight = group.unsettled
    return group


def hear(group: Group, at: float) -> None:
    """Let the controls of a group answer."""
    group.in_flight = 0
    group.rtt = at - group.asked_at
    group.hear(at)


def miss(group: Group) -> None:
    """Let the time of a group be up."""
    group.in_flight = 0


def test_without_a_port_that_has_answered_silence_counts() -> None:
    """Of an address that shows nothing there is nobody to ask: what stays silent is filtered."""
    lane = lane_of()
    assert lane.controls.due(TIMEOUT, 1.0) is None
    tried = silence(lane, 1.0)
    assert not lane.controls.is_waiting
    assert lane.controls.judge(tried, TIMEOUT, 2.0) == (tried, [])


@pytest.mark.parametrize(
    ("closed", "is_open", "alive", "expected"),
    [((1, 2), (22,), (), {1, 2}), ((), (22,), (), {22}), ((), (), (80,), {80})],
    ids=["closed ones first", "open", "known from just now"],
)
def test_ports_that_have_answered_are_asked(
    closed: tuple[int, ...], is_open: tuple[int, ...], alive: tuple[int, ...], expected: set[int]
) -> None:
    """Closed ports if any are known, else open ones, else those that the job names."""
    lane = lane_of(closed=closed, is_open=is_open, alive=alive)
    group = ask(lane, 1.0)
    asked = {target[1] for target in iter(group.next, None)}
    assert asked == expected


def test_silence_between_two_answers_counts() -> None:
    """Where controls were heard before and after the last try, its silence is the port's own."""
    lane = lane_of(closed=(1, 2))
    hear(ask(lane, 1.0), 1.01)
    tried = silence(lane, 1.1)
    assert lane.controls.is_waiting
    assert lane.controls.judge(tried, TIMEOUT, 2.2) is None
    hear(ask(lane, 1.2), 1.21)
    assert lane.controls.judge(tried, TIMEOUT, 2.2) == (tried, [])


@pytest.mark.parametrize("heard", [0, 1])
def test_silence_beside_a_control_that_was_not_heard_is_asked_again(heard: int) -> None:
    """One end that was heard proves nothing: the port is to be tried again."""
    lane = lane_of(closed=(1, 2))
    groups = [ask(lane, 1.0)]
    tried = silence(lane, 1.1)
    groups.append(ask(lane, 1.2))
    hear(groups[heard], groups[heard].asked_at + 0.01)
    miss(groups[1 - heard])
    assert lane.controls.judge(tried, TIMEOUT, 6.0) == ([], tried)


def test_controls_go_out_again_after_so_many_tries() -> None:
    """A long row of last tries has controls in between."""
    lane = lane_of(closed=(1, 2))
    lane.unsettled = 1000
    ask(lane, 1.0)
    lane.controls.sent(PROBES - 1)
    assert lane.controls.due(TIMEOUT, 1.1) is None
    lane.controls.sent(1)
    assert lane.controls.due(TIMEOUT, 1.2) is not None


def test_address_that_answers_no_control_is_cut_off_in_the_end() -> None:
    """Only controls are sent to a deaf address, with growing rests; when it was silent for too long it is cut off."""
    lane = lane_of(closed=(1, 2))
    lane.hear(0.5)
    now = 1.0
    miss(ask(lane, now))
    tried = silence(lane, now)
    rests = []
    judged: object = None
    while judged is None:
        miss(ask(lane, now))
        now += 1.0
        judged = lane.controls.judge(tried, TIMEOUT, now)
        if judged is None:
            assert lane.controls.due(TIMEOUT, now) is None
            assert lane.controls.is_waiting
            rests.append(lane.controls.rest_until - now)
            now = lane.controls.rest_until
        assert now < 2 * LONGEST_SILENCE
    assert isinstance(judged, Failure)
    assert judged.reason is Reason.CUT_OFF
    assert "stopped answering 0.5 s after its scan began" in judged.detail
    assert "1 of 3 ports were not seen" in judged.detail
    assert now >= LONGEST_SILENCE
    assert rests == sorted(rests)


def test_address_that_hears_again_is_asked_with_fewer_at_a_time() -> None:
    """After a time in which it was deaf what is silent is tried again, with half as many probes in flight."""
    lane = lane_of(closed=(1, 2))
    before = lane.most_in_flight
    miss(ask(lane, 1.0))
    tried = silence(lane, 1.1)
    miss(ask(lane, 1.2))
    assert lane.controls.judge(tried, TIMEOUT, 6.0) is None
    hear(ask(lane, lane.controls.rest_until), lane.controls.rest_until + 0.01)
    assert lane.controls.judge(tried, TIMEOUT, 7.0) == ([], tried)
    assert lane.most_in_flight == before // 2


def test_address_that_answers_less_than_it_is_asked_gets_rests_and_fewer_tries() -> None:
    """Where controls are heard and yet prove no port silent, ever fewer are tried between two groups, after a rest."""
    lane = lane_of(closed=(1, 2))
    now, rests, numbers = 1.0, list[float](), list[int]()
    for _ in range(3):
        hear(ask(lane, now), now + 0.01)
        tried = [Try((ADDRESS, port), now) for port in range(1000, 1012)]
        lane.controls.sent(len(tried))
        lane.doubtful = tried
        miss(ask(lane, now + 0.1))
        now += 5.0
        assert lane.controls.judge(tried, TIMEOUT, now) == ([], tried)
        assert lane.controls.due(TIMEOUT, now) is None
        rests.append(lane.controls.rest_until - now)
        numbers.append(lane.controls.most)
        now = lane.controls.rest_until
    assert rests == [0.25, 0.5, 1.0]
    assert numbers == [6, 3, 1]


def test_answers_that_take_long_are_waited_for() -> None:
    """Controls that answer late tell that probes are not waited for long enough: they are made again, with patience."""
    lane = lane_of(closed=(1, 2))
    assert lane.patience == 0.0
    group = ask(lane, 1.0)
    assert group.patience > TIMEOUT
    hear(group, 1.0 + 1.5)
    tried = silence(lane, 2.0)
    hear(ask(lane, 2.1), 2.2)
    assert lane.controls.judge(tried, TIMEOUT, 4.0) == ([], tried)
    assert lane.patience >= 3.0


def test_address_that_answers_too_little_is_given_up() -> None:
    """Where controls are heard now and then, and nothing is ever proven, the address does not hold the scan up."""
    lane = lane_of(closed=(1, 2))
    now = 1.0
    judged: object = ([], [])
    while not isinstance(judged, Failure):
        hear(ask(lane, now), now + 0.01)
        tried = silence(lane, now + 0.1)
        miss(ask(lane, now + 0.2))
        judged = lane.controls.judge(tried, TIMEOUT, now + 4.0)
        now = max(now + 4.0, lane.controls.rest_until)
        assert now < 2 * LONGEST_STANDSTILL
    assert judged.reason is Reason.CUT_OFF
    assert "too few" in judged.detail
    assert now >= LONGEST_STANDSTILL


@pytest.mark.parametrize("in_the_middle", [False, True])
def test_controls_that_were_not_sent_are_no_silence(*, in_the_middle: bool) -> None:
    """Where this machine has no socket for controls the address is not deaf: others are due at once."""
    lane = lane_of(closed=(1, 2))
    lane.hear(1.0)
    send = lane.controls.watch if in_the_middle else lane.controls.due
    for now in range(10, 100, 10):
        group = send(TIMEOUT, float(now))
        assert group is not None
        lane.controls.withdraw(group)
        assert lane.controls.watched(float(now)) is None
        assert not lane.controls.is_held(float(now))


def test_outage_of_the_way_is_no_silence_of_the_address() -> None:
    """Where the way was interrupted all that was heard and missed is forgotten."""
    lane = lane_of(closed=(1, 2))
    miss(ask(lane, 1.0))
    lane.controls.begin_anew(20.0)
    assert not lane.controls.is_waiting
    assert lane.heard_at == 20.0
    assert lane.states[9] != FILTERED


def watch(lane: Lane, at: float) -> Group:
    """Send controls in the middle of a scan; there are some."""
    group = lane.controls.watch(TIMEOUT, at)
    assert group is not None
    group.in_flight = group.unsettled
    return group


def test_address_is_asked_in_the_middle_of_its_scan_whether_it_lives() -> None:
    """Where nothing was heard for a while controls go out, and nothing else until they are heard."""
    lane = lane_of(closed=(1, 2))
    lane.hear(10.0)
    assert lane.controls.watch(TIMEOUT, 11.9) is None
    group = watch(lane, 12.1)
    assert lane.controls.is_held(12.1)
    assert lane.controls.watched(12.2) is None
    assert lane.controls.is_held(12.2)
    hear(group, 12.3)
    assert lane.controls.watched(12.3) is None
    assert not lane.controls.is_held(12.3)
    assert lane.heard_at == 12.3


def test_address_that_falls_silent_in_the_middle_of_its_scan_is_cut_off_soon() -> None:
    """It is not scanned to the end first: LONGEST_SILENCE after it was last heard, or little later, it is given up."""
    lane = lane_of(closed=(1, 2))
    lane.hear(1.0)
    now = 3.0
    failure = None
    while failure is None:
        miss(watch(lane, now))
        now += 4.0
        failure = lane.controls.watched(now)
        assert failure or lane.controls.is_held(now)
        now = max(now, lane.controls.rest_until)
    assert failure.reason is Reason.CUT_OFF
    assert 1.0 + LONGEST_SILENCE <= now <= 1.0 + 2 * LONGEST_SILENCE
