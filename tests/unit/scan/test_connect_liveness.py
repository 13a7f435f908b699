"""Controls of the connect engine: whose silence counts. No socket: probes are sent and answered by the test."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from portspec.ports import PortSet
from portspec.scan import Failure, Reason, ScanJob
from portspec.scan.connect.address import CLOSED, FILTERED, OPEN, ConnectAddressScan, SilentTry
from portspec.scan.connect.liveness import TRIES_PER_CHECK, LivenessCheck, ReferenceProbes
from portspec.scan.engine import ActiveJob
from portspec.scan.failures import MAX_SILENCE, MAX_STALL
from portspec.scan.loss import PathLoss

ADDRESS = "192.0.2.1"
TIMEOUT = 1.0


def scan_of(
    *, closed: tuple[int, ...] = (), is_open: tuple[int, ...] = (), alive: tuple[int, ...] = ()
) -> ConnectAddressScan:
    """Make the lane of an address of which some ports have answered, and of which port 9 is silent."""
    job = ScanJob((ADDRESS,), PortSet.of([9, *closed, *is_open, *alive]), alive=PortSet.of(alive))
    active_job = ActiveJob(
        job, Future(), 0.0, lambda active_job, address: ConnectAddressScan(active_job, address, PathLoss())
    )
    scan = active_job.scans[0]
    scan.liveness = LivenessCheck(scan)
    for state, ports in ((CLOSED, closed), (OPEN, is_open)):
        for port in ports:
            scan.states[port] = state
            scan.unsettled -= 1
            scan.answered = True
    return scan


def silence(scan: ConnectAddressScan, at: float) -> list[SilentTry]:
    """Let port 9 be silent on a try that was sent at a time."""
    scan.suspected_filtered = [SilentTry((ADDRESS, 9), at)]
    scan.liveness.record_tries(1)
    return scan.suspected_filtered


def ask(scan: ConnectAddressScan, at: float) -> ReferenceProbes:
    """Send the controls that are due; there are some."""
    probes = scan.liveness.begin_check(TIMEOUT, at)
    assert probes is not None
    probes.in_flight = probes.unsettled
    return probes


def hear(probes: ReferenceProbes, at: float) -> None:
    """Let the controls of a group answer."""
    probes.in_flight = 0
    probes.rtt = at - probes.sent_at
    probes.record_answer(at)


def miss(probes: ReferenceProbes) -> None:
    """Let the time of a group be up."""
    probes.in_flight = 0


def test_without_a_port_that_has_answered_silence_counts() -> None:
    """Of an address that shows nothing there is nobody to ask: what stays silent is filtered."""
    scan = scan_of()
    assert scan.liveness.begin_check(TIMEOUT, 1.0) is None
    tried = silence(scan, 1.0)
    assert not scan.liveness.is_undecided
    assert scan.liveness.judge(tried, TIMEOUT, 2.0) == (tried, [])


@pytest.mark.parametrize(
    ("closed", "is_open", "alive", "expected"),
    [((1, 2), (22,), (), {1, 2}), ((), (22,), (), {22}), ((), (), (80,), {80})],
    ids=["closed ones first", "open", "known from just now"],
)
def test_ports_that_have_answered_are_asked(
    closed: tuple[int, ...], is_open: tuple[int, ...], alive: tuple[int, ...], expected: set[int]
) -> None:
    """Closed ports if any are known, else open ones, else those that the job names."""
    scan = scan_of(closed=closed, is_open=is_open, alive=alive)
    probes = ask(scan, 1.0)
    asked = {target[1] for target in iter(probes.next, None)}
    assert asked == expected


def test_silence_between_two_answers_counts() -> None:
    """Where controls were heard before and after the last try, its silence is the port's own."""
    scan = scan_of(closed=(1, 2))
    hear(ask(scan, 1.0), 1.01)
    tried = silence(scan, 1.1)
    assert scan.liveness.is_undecided
    assert scan.liveness.judge(tried, TIMEOUT, 2.2) is None
    hear(ask(scan, 1.2), 1.21)
    assert scan.liveness.judge(tried, TIMEOUT, 2.2) == (tried, [])


@pytest.mark.parametrize("heard", [0, 1])
def test_silence_beside_a_control_that_was_not_heard_is_asked_again(heard: int) -> None:
    """One end that was heard proves nothing: the port is to be tried again."""
    scan = scan_of(closed=(1, 2))
    checks = [ask(scan, 1.0)]
    tried = silence(scan, 1.1)
    checks.append(ask(scan, 1.2))
    hear(checks[heard], checks[heard].sent_at + 0.01)
    miss(checks[1 - heard])
    assert scan.liveness.judge(tried, TIMEOUT, 6.0) == ([], tried)


def test_controls_go_out_again_after_so_many_tries() -> None:
    """A long row of last tries has controls in between."""
    scan = scan_of(closed=(1, 2))
    scan.unsettled = 1000
    ask(scan, 1.0)
    scan.liveness.record_tries(TRIES_PER_CHECK - 1)
    assert scan.liveness.begin_check(TIMEOUT, 1.1) is None
    scan.liveness.record_tries(1)
    assert scan.liveness.begin_check(TIMEOUT, 1.2) is not None


def test_address_that_answers_no_control_is_cut_off_in_the_end() -> None:
    """Only controls are sent to a deaf address, with growing rests; when it was silent for too long it is cut off."""
    scan = scan_of(closed=(1, 2))
    scan.record_answer(0.5)
    now = 1.0
    miss(ask(scan, now))
    tried = silence(scan, now)
    rests = []
    judged: object = None
    while judged is None:
        miss(ask(scan, now))
        now += 1.0
        judged = scan.liveness.judge(tried, TIMEOUT, now)
        if judged is None:
            assert scan.liveness.begin_check(TIMEOUT, now) is None
            assert scan.liveness.is_undecided
            rests.append(scan.liveness.rest_until - now)
            now = scan.liveness.rest_until
        assert now < 2 * MAX_SILENCE
    assert isinstance(judged, Failure)
    assert judged.reason is Reason.CUT_OFF
    assert "stopped answering 0.5 s after its scan began" in judged.detail
    assert "1 of 3 ports were not seen" in judged.detail
    assert now >= MAX_SILENCE
    assert rests == sorted(rests)


def test_address_that_hears_again_is_asked_with_fewer_at_a_time() -> None:
    """After a time in which it was deaf what is silent is tried again, with half as many probes in flight."""
    scan = scan_of(closed=(1, 2))
    before = scan.window
    miss(ask(scan, 1.0))
    tried = silence(scan, 1.1)
    miss(ask(scan, 1.2))
    assert scan.liveness.judge(tried, TIMEOUT, 6.0) is None
    hear(ask(scan, scan.liveness.rest_until), scan.liveness.rest_until + 0.01)
    assert scan.liveness.judge(tried, TIMEOUT, 7.0) == ([], tried)
    assert scan.window == before // 2


def test_address_that_answers_less_than_it_is_asked_gets_rests_and_fewer_tries() -> None:
    """Where controls are heard and yet prove no port silent, ever fewer are tried between two groups, after a rest."""
    scan = scan_of(closed=(1, 2))
    now, rests, numbers = 1.0, list[float](), list[int]()
    for _ in range(3):
        hear(ask(scan, now), now + 0.01)
        tried = [SilentTry((ADDRESS, port), now) for port in range(1000, 1012)]
        scan.liveness.record_tries(len(tried))
        scan.suspected_filtered = tried
        miss(ask(scan, now + 0.1))
        now += 5.0
        assert scan.liveness.judge(tried, TIMEOUT, now) == ([], tried)
        assert scan.liveness.begin_check(TIMEOUT, now) is None
        rests.append(scan.liveness.rest_until - now)
        numbers.append(scan.liveness.max_tries)
        now = scan.liveness.rest_until
    assert rests == [0.25, 0.5, 1.0]
    assert numbers == [6, 3, 1]


def test_answers_that_take_long_are_waited_for() -> None:
    """Controls that answer late tell that probes are not waited for long enough: they are made again, with patience."""
    scan = scan_of(closed=(1, 2))
    assert scan.patience == 0.0
    probes = ask(scan, 1.0)
    assert probes.patience > TIMEOUT
    hear(probes, 1.0 + 1.5)
    tried = silence(scan, 2.0)
    hear(ask(scan, 2.1), 2.2)
    assert scan.liveness.judge(tried, TIMEOUT, 4.0) == ([], tried)
    assert scan.patience >= 3.0


def test_address_that_answers_too_little_is_given_up() -> None:
    """Where controls are heard now and then, and nothing is ever proven, the address does not hold the scan up."""
    scan = scan_of(closed=(1, 2))
    now = 1.0
    judged: object = ([], [])
    while not isinstance(judged, Failure):
        hear(ask(scan, now), now + 0.01)
        tried = silence(scan, now + 0.1)
        miss(ask(scan, now + 0.2))
        judged = scan.liveness.judge(tried, TIMEOUT, now + 4.0)
        now = max(now + 4.0, scan.liveness.rest_until)
        assert now < 2 * MAX_STALL
    assert judged.reason is Reason.CUT_OFF
    assert "too few" in judged.detail
    assert now >= MAX_STALL


@pytest.mark.parametrize("in_the_middle", [False, True])
def test_controls_that_were_not_sent_are_no_silence(*, in_the_middle: bool) -> None:
    """Where this machine has no socket for controls the address is not deaf: others are due at once."""
    scan = scan_of(closed=(1, 2))
    scan.record_answer(1.0)
    send = scan.liveness.begin_idle_check if in_the_middle else scan.liveness.begin_check
    for now in range(10, 100, 10):
        probes = send(TIMEOUT, float(now))
        assert probes is not None
        scan.liveness.cancel(probes)
        assert scan.liveness.finish_idle_check(float(now)) is None
        assert not scan.liveness.is_paused(float(now))


def test_outage_of_the_way_is_no_silence_of_the_address() -> None:
    """Where the way was interrupted all that was heard and missed is forgotten."""
    scan = scan_of(closed=(1, 2))
    miss(ask(scan, 1.0))
    scan.liveness.restart(20.0)
    assert not scan.liveness.is_undecided
    assert scan.last_answer_at == 20.0
    assert scan.states[9] != FILTERED


def watch(scan: ConnectAddressScan, at: float) -> ReferenceProbes:
    """Send controls in the middle of a scan; there are some."""
    probes = scan.liveness.begin_idle_check(TIMEOUT, at)
    assert probes is not None
    probes.in_flight = probes.unsettled
    return probes


def test_address_is_asked_in_the_middle_of_its_scan_whether_it_lives() -> None:
    """Where nothing was heard for a while controls go out, and nothing else until they are heard."""
    scan = scan_of(closed=(1, 2))
    scan.record_answer(10.0)
    assert scan.liveness.begin_idle_check(TIMEOUT, 11.9) is None
    probes = watch(scan, 12.1)
    assert scan.liveness.is_paused(12.1)
    assert scan.liveness.finish_idle_check(12.2) is None
    assert scan.liveness.is_paused(12.2)
    hear(probes, 12.3)
    assert scan.liveness.finish_idle_check(12.3) is None
    assert not scan.liveness.is_paused(12.3)
    assert scan.last_answer_at == 12.3


def test_address_that_falls_silent_in_the_middle_of_its_scan_is_cut_off_soon() -> None:
    """It is not scanned to the end first: LONGEST_SILENCE after it was last heard, or little later, it is given up."""
    scan = scan_of(closed=(1, 2))
    scan.record_answer(1.0)
    now = 3.0
    failure = None
    while failure is None:
        miss(watch(scan, now))
        now += 4.0
        failure = scan.liveness.finish_idle_check(now)
        assert failure or scan.liveness.is_paused(now)
        now = max(now, scan.liveness.rest_until)
    assert failure.reason is Reason.CUT_OFF
    assert 1.0 + MAX_SILENCE <= now <= 1.0 + 2 * MAX_SILENCE
