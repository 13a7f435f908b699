"""Whose silence counts in the connect engine. No socket: the test sends and answers the probes."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from portspec.ports import PortSet
from portspec.scan import Failure, Reason, ScanJob
from portspec.scan.connect.address import CLOSED, FILTERED, OPEN, SilentTry
from portspec.scan.connect.liveness import MIN_DOUBTFUL, TRIES_PER_CHECK, CheckedAddressScan, ReferenceProbes
from portspec.scan.engine import ActiveJob
from portspec.scan.failures import MAX_SILENCE, MAX_STALL
from portspec.scan.loss import PathLoss

ADDRESS = "192.0.2.1"
TIMEOUT = 1.0


def scan_of(
    *, closed: tuple[int, ...] = (), is_open: tuple[int, ...] = (), alive: tuple[int, ...] = ()
) -> CheckedAddressScan:
    """Return the scan of an address of which some ports have answered, and of which port 9 is silent."""
    job = ScanJob((ADDRESS,), PortSet.of([9, *closed, *is_open, *alive]), alive=PortSet.of(alive))
    active_job = ActiveJob(
        job, Future(), 0.0, lambda active_job, address: CheckedAddressScan(active_job, address, PathLoss())
    )
    scan = active_job.scans[0]
    for state, ports in ((CLOSED, closed), (OPEN, is_open)):
        for port in ports:
            scan.states[port] = state
            scan.unsettled -= 1
            scan.answered = True
    return scan


def time_out(scan: CheckedAddressScan, at: float) -> list[SilentTry]:
    """Let a last try of port 9, sent at a time, stay silent."""
    scan.suspected_filtered = [SilentTry((ADDRESS, 9), at)]
    scan.liveness.record_tries(1)
    return scan.suspected_filtered


def send_check(scan: CheckedAddressScan, at: float) -> ReferenceProbes:
    """Send the check that is due; there is one."""
    probes = scan.liveness.begin_check(TIMEOUT, at)
    assert probes is not None
    probes.in_flight = probes.unsettled
    return probes


def answer(probes: ReferenceProbes, at: float) -> None:
    """Let the probes of a check be answered."""
    probes.in_flight = 0
    probes.rtt = at - probes.sent_at
    probes.record_answer(at)


def expire(probes: ReferenceProbes) -> None:
    """Let the probes of a check expire."""
    probes.in_flight = 0


def test_silence_counts_if_no_port_has_answered() -> None:
    """Without a reference port nothing can be proven: silent ports are filtered."""
    scan = scan_of()
    assert scan.liveness.begin_check(TIMEOUT, 1.0) is None
    tried = time_out(scan, 1.0)
    assert not scan.liveness.is_undecided
    assert scan.liveness.judge(tried, TIMEOUT, 2.0) == (tried, [])


@pytest.mark.parametrize(
    ("closed", "is_open", "alive", "expected"),
    [((1, 2), (22,), (), {1, 2}), ((), (22,), (), {22}), ((), (), (80,), {80})],
    ids=["closed first", "open", "those of the job"],
)
def test_reference_ports_are_those_that_have_answered(
    closed: tuple[int, ...], is_open: tuple[int, ...], alive: tuple[int, ...], expected: set[int]
) -> None:
    """Reference ports are closed ones if any are known, else open ones, else those of the job."""
    scan = scan_of(closed=closed, is_open=is_open, alive=alive)
    probes = send_check(scan, 1.0)
    asked = {target[1] for target in iter(probes.next, None)}
    assert asked == expected


def test_silence_between_two_answered_checks_counts() -> None:
    """A port is silent by itself if the checks before and after its last try were answered."""
    scan = scan_of(closed=(1, 2))
    answer(send_check(scan, 1.0), 1.01)
    tried = time_out(scan, 1.1)
    assert scan.liveness.is_undecided
    assert scan.liveness.judge(tried, TIMEOUT, 2.2) is None
    answer(send_check(scan, 1.2), 1.21)
    assert scan.liveness.judge(tried, TIMEOUT, 2.2) == (tried, [])


@pytest.mark.parametrize("heard", [0, 1])
def test_silence_next_to_an_unanswered_check_is_retried(heard: int) -> None:
    """A check that was answered on one side only proves nothing: the port is tried again."""
    scan = scan_of(closed=(1, 2))
    checks = [send_check(scan, 1.0)]
    tried = time_out(scan, 1.1)
    checks.append(send_check(scan, 1.2))
    answer(checks[heard], checks[heard].sent_at + 0.01)
    expire(checks[1 - heard])
    assert scan.liveness.judge(tried, TIMEOUT, 6.0) == ([], tried)


def test_check_is_due_after_tries_per_check() -> None:
    """A long sequence of last tries has checks in between."""
    scan = scan_of(closed=(1, 2))
    scan.unsettled = 1000
    send_check(scan, 1.0)
    scan.liveness.record_tries(TRIES_PER_CHECK - 1)
    assert scan.liveness.begin_check(TIMEOUT, 1.1) is None
    scan.liveness.record_tries(1)
    assert scan.liveness.begin_check(TIMEOUT, 1.2) is not None


def test_unresponsive_address_is_cut_off() -> None:
    """An unresponsive address only gets checks, with growing rests; after MAX_SILENCE it is cut off."""
    scan = scan_of(closed=(1, 2))
    scan.record_answer(0.5)
    now = 1.0
    expire(send_check(scan, now))
    tried = time_out(scan, now)
    rests = []
    judged: object = None
    while judged is None:
        expire(send_check(scan, now))
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


def test_responsive_again_halves_the_window() -> None:
    """Once an unresponsive address answers, silent ports are tried again with half the window."""
    scan = scan_of(closed=(1, 2))
    before = scan.window
    expire(send_check(scan, 1.0))
    tried = time_out(scan, 1.1)
    expire(send_check(scan, 1.2))
    assert scan.liveness.judge(tried, TIMEOUT, 6.0) is None
    answer(send_check(scan, scan.liveness.rest_until), scan.liveness.rest_until + 0.01)
    assert scan.liveness.judge(tried, TIMEOUT, 7.0) == ([], tried)
    assert scan.window == before // 2


def test_rate_limited_address_gets_rests_and_fewer_tries() -> None:
    """If answered checks prove no port silent, the window shrinks and each check follows a rest."""
    scan = scan_of(closed=(1, 2))
    now, rests, numbers = 1.0, list[float](), list[int]()
    for _ in range(3):
        answer(send_check(scan, now), now + 0.01)
        tried = [SilentTry((ADDRESS, port), now) for port in range(1000, 1012)]
        scan.liveness.record_tries(len(tried))
        scan.suspected_filtered = tried
        expire(send_check(scan, now + 0.1))
        now += 5.0
        assert scan.liveness.judge(tried, TIMEOUT, now) == ([], tried)
        assert scan.liveness.begin_check(TIMEOUT, now) is None
        rests.append(scan.liveness.rest_until - now)
        numbers.append(scan.liveness.max_tries)
        now = scan.liveness.rest_until
    assert rests == [0.25, 0.5, 1.0]
    assert numbers == [6, 3, 1]


def judged(scan: CheckedAddressScan, now: float, *rtts: float) -> object:
    """Let a try stay silent between two checks that are answered after so many seconds; return what is judged."""
    checks = [send_check(scan, now)]
    assert checks[0].patience > TIMEOUT
    tried = time_out(scan, now + 0.1)
    checks.append(send_check(scan, now + 0.2))
    for check, rtt in zip(checks, rtts, strict=True):
        answer(check, check.sent_at + rtt)
    found = scan.liveness.judge(tried, TIMEOUT, now + 4.0)
    return "again" if found == ([], tried) else found


@pytest.mark.parametrize("rtts", [(0.8, 0.8), (0.8, 0.1), (0.1, 0.8), (0.8, 1.2)])
def test_slow_answers_raise_the_timeout(rtts: tuple[float, float]) -> None:
    """One slow answer of a reference port shows that the timeout is too short: it grows, and the tries are repeated."""
    scan = scan_of(closed=(1, 2))
    assert scan.patience == 0.0
    assert judged(scan, 10.0, *rtts) == "again"
    assert scan.patience == 2.0


@pytest.mark.parametrize("rtts", [(1.6, 0.05), (0.05, 1.6), (2.9, 1.1)])
def test_answers_too_late_for_a_repeated_syn_raise_the_timeout(rtts: tuple[float, float]) -> None:
    """An answer long after the kernel has repeated the SYN shows a slow address, even if others are prompt."""
    scan = scan_of(closed=(1, 2))
    assert judged(scan, 10.0, *rtts) == "again"
    assert scan.patience >= 2 * max(rtts)


def test_doubtful_answers_raise_the_timeout_in_the_end() -> None:
    """Answers as late as those to SYNs that the kernel repeats show a slow address only if there are no others."""
    scan = scan_of(closed=(1, 2))
    for number in range(1, MIN_DOUBTFUL + 1):
        assert scan.patience == 0.0
        assert judged(scan, 10.0 * number, 1.4, 1.2) == "again"
    assert scan.patience == 4.0


def test_doubtful_answers_among_others_leave_the_timeout_as_it_is() -> None:
    """Where packets get lost, some answers are those to SYNs that the kernel has repeated: the timeout stays."""
    scan = scan_of(closed=(1, 2))
    for number in range(1, 2 * MIN_DOUBTFUL):
        first, second = (1.02, 0.01) if number % MIN_DOUBTFUL else (0.01, 2.04)
        assert judged(scan, 4.0 * number, first, second) == "again"
    assert scan.patience == 0.0


def test_loss_is_published_while_patient_probes_are_out() -> None:
    """A port that waits for the answer to a patient probe was probed before: it keeps no answers from the path."""
    scan = scan_of(is_open=(1,))
    scan.has_unsent = False
    scan.attempts[9] = 1
    scan.retry_queue.append((ADDRESS, 9))
    outcomes = [scan.has_retried_all]
    assert scan.take_patient_target(2, 2) == (ADDRESS, 9)
    outcomes.append(scan.has_retried_all)
    scan.states[9] = OPEN  # the patient probe was answered
    scan.unsettled -= 1
    outcomes.append(scan.has_retried_all)
    assert outcomes == [False, True, True]


@pytest.mark.parametrize("is_prompt", [True, False])
def test_prompt_answer_to_a_patient_probe_shows_loss(*, is_prompt: bool) -> None:
    """A port that answers a patient probe in time had its first one lost; one that answers late may always be slow."""
    scan = scan_of()
    scan.retry_queue.append((ADDRESS, 9))
    scan.attempts[9] = 1
    assert scan.take_patient_target(2, 2) == (ADDRESS, 9)
    assert scan.was_lost_before(9, is_prompt) is is_prompt
    assert not scan.was_lost_before(10, is_prompt)
    scan.attempts[11] = 0  # as after an interrupted route
    assert not scan.was_lost_before(11, is_prompt)


def test_stalled_address_is_cut_off() -> None:
    """An address that answers some checks but never proves a port silent is cut off."""
    scan = scan_of(closed=(1, 2))
    now = 1.0
    judged: object = ([], [])
    while not isinstance(judged, Failure):
        answer(send_check(scan, now), now + 0.01)
        tried = time_out(scan, now + 0.1)
        expire(send_check(scan, now + 0.2))
        judged = scan.liveness.judge(tried, TIMEOUT, now + 4.0)
        now = max(now + 4.0, scan.liveness.rest_until)
        assert now < 2 * MAX_STALL
    assert judged.reason is Reason.CUT_OFF
    assert "too few" in judged.detail
    assert now >= MAX_STALL


@pytest.mark.parametrize("in_the_middle", [False, True])
def test_check_that_was_not_sent_is_no_silence(*, in_the_middle: bool) -> None:
    """If this machine has no socket for a check, the address is not unresponsive, and another check is due at once."""
    scan = scan_of(closed=(1, 2))
    scan.record_answer(1.0)
    send = scan.liveness.begin_idle_check if in_the_middle else scan.liveness.begin_check
    for now in range(10, 100, 10):
        probes = send(TIMEOUT, float(now))
        assert probes is not None
        scan.liveness.cancel(probes)
        assert scan.liveness.finish_idle_check(float(now)) is None
        assert not scan.liveness.is_paused(float(now))


def test_restart_forgets_all_checks() -> None:
    """After a change of the route, all answers and timeouts are forgotten."""
    scan = scan_of(closed=(1, 2))
    expire(send_check(scan, 1.0))
    scan.liveness.restart(20.0)
    assert not scan.liveness.is_undecided
    assert scan.last_answer_at == 20.0
    assert scan.states[9] != FILTERED


def send_idle_check(scan: CheckedAddressScan, at: float) -> ReferenceProbes:
    """Send an idle check; one is due."""
    probes = scan.liveness.begin_idle_check(TIMEOUT, at)
    assert probes is not None
    probes.in_flight = probes.unsettled
    return probes


def test_idle_check_pauses_the_scan() -> None:
    """An idle check is sent after some time without an answer, and nothing else until it is answered."""
    scan = scan_of(closed=(1, 2))
    scan.record_answer(10.0)
    assert scan.liveness.begin_idle_check(TIMEOUT, 11.9) is None
    probes = send_idle_check(scan, 12.1)
    assert scan.liveness.is_paused(12.1)
    assert scan.liveness.finish_idle_check(12.2) is None
    assert scan.liveness.is_paused(12.2)
    answer(probes, 12.3)
    assert scan.liveness.finish_idle_check(12.3) is None
    assert not scan.liveness.is_paused(12.3)
    assert scan.last_answer_at == 12.3


def test_address_that_stops_answering_is_cut_off_before_its_scan_ends() -> None:
    """An address is cut off little more than MAX_SILENCE after its last answer, wherever its scan is."""
    scan = scan_of(closed=(1, 2))
    scan.record_answer(1.0)
    now = 3.0
    failure = None
    while failure is None:
        expire(send_idle_check(scan, now))
        now += 4.0
        failure = scan.liveness.finish_idle_check(now)
        assert failure or scan.liveness.is_paused(now)
        now = max(now, scan.liveness.rest_until)
    assert failure.reason is Reason.CUT_OFF
    assert 1.0 + MAX_SILENCE <= now <= 1.0 + 2 * MAX_SILENCE
