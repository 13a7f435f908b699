from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
import pytest

from portspec.ports import PortSet
from portspec.scan.engine import ActiveJob
from portspec.scan.failures import MAX_SILENCE
from portspec.scan.job import Failure, Reason, ScanJob
from portspec.scan.loss import PathLoss
from portspec.scan.syn.address import SynAddressScan
from portspec.scan.syn.batch import CLOSED, FILTERED, OPEN
from portspec.scan.syn.reference_ports import AFTER, BEFORE
from portspec.scan.syn.reference_ports import AFTER as CONTROL
from portspec.scan.syn.timing import MAX_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.scan.syn.batch import ProbeBatch

START = 1000.0
TIMEOUT = 0.9
RTT = 0.05


def scan_of(
    ports: Iterable[int],
    *,
    retries: int = 2,
    seed: int = 0,
    address: str = "192.0.2.1",
    path_loss: PathLoss | None = None,
    first: Iterable[int] = (),
    alive: Iterable[int] = (),
) -> SynAddressScan:
    """Make the lane of a job of one address."""
    path = path_loss or PathLoss()

    def make(active_job: ActiveJob[SynAddressScan], address: str) -> SynAddressScan:
        return SynAddressScan(active_job, address, timeout=TIMEOUT, retries=retries, path_loss=path)

    job = ScanJob((address,), PortSet.of(ports), seed=seed, first=PortSet.of(first), alive=PortSet.of(alive))
    active_job = ActiveJob(job, Future(), START, make)
    return active_job.scans[0]


def take(scan: SynAddressScan, most: int = 1000, at: float = 0.0) -> ProbeBatch:
    """Take what is to be sent; there is something."""
    batch = scan.take(most, START + at)
    assert batch is not None
    return batch


def send(scan: SynAddressScan, at: float, most: int = 1000) -> ProbeBatch:
    """Take what is to be sent, and send all of it."""
    batch = take(scan, most, at)
    assert scan.record_sent(batch, np.ones(len(batch), np.bool_), np.full(len(batch), START + at)) == len(batch)
    return batch


def answer(
    scan: SynAddressScan, ports: Iterable[int], kind: int, at: float, attempt: int = 0, *, direct: bool = True
) -> int:
    """Let answers come; gives how many ports they settled."""
    some = np.array(list(ports), np.uint16)
    count = len(some)
    return scan.record_answers(
        some,
        np.full(count, attempt, np.uint8),
        np.full(count, kind, np.uint8),
        np.full(count, START + at),
        np.full(count, direct, np.bool_),
    )


def test_order_is_of_the_seed_and_of_the_address() -> None:
    """The same seed gives the same order for an address, another seed or another address another one."""
    orders = [
        take(scan_of(range(1, 500), seed=seed, address=address)).ports.tolist()
        for seed, address in ((7, "192.0.2.1"), (7, "192.0.2.1"), (8, "192.0.2.1"), (7, "192.0.2.2"))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    assert all(sorted(order) == list(range(1, 500)) for order in orders)


def test_what_was_not_sent_comes_again_first() -> None:
    """Probes that the kernel had no room for are taken again, as the same attempt, before any others."""
    scan = scan_of(range(1, 101))
    batch = take(scan, 40)
    gone = np.arange(40) < 25
    assert scan.record_sent(batch, gone, np.full(40, START)) == 25
    assert scan.in_flight == 25
    again = take(scan, 40)
    assert again.attempt == 0
    assert again.ports.tolist() == batch.ports[25:].tolist()


def test_nothing_sent_is_nothing_in_flight() -> None:
    """A load none of which went out leaves nothing to wait for."""
    scan = scan_of([22, 80])
    batch = take(scan)
    assert scan.record_sent(batch, np.zeros(2, np.bool_), np.zeros(2)) == 0
    assert scan.in_flight == 0
    assert scan.next_expiry() is None
    assert not scan.has_only_suspects
    assert take(scan).ports.tolist() == batch.ports.tolist()


def test_late_answer_is_taken_and_nothing_sent_again() -> None:
    """An answer that comes when its time was up settles the port, and the repeated probe stays away."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    scan.expire(START + 1.0)
    assert scan.room
    assert scan.in_flight == 0
    assert answer(scan, [22, 80], CLOSED, 1.1) == 2
    assert scan.in_flight == 0
    assert scan.take(10, START) is None
    assert scan.is_over


def test_answer_to_an_earlier_attempt_counts() -> None:
    """With the second probe on its way an answer to the first settles the port, once."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    scan.expire(START + 1.0)
    send(scan, 1.0)
    assert answer(scan, [22], OPEN, 1.02, attempt=0) == 1
    assert answer(scan, [22], OPEN, 1.05, attempt=1) == 0
    assert scan.in_flight == 1
    assert scan.observation().open == PortSet.of([22])


@pytest.mark.parametrize("attempt", [1, 2, 14, CONTROL])
def test_answer_to_what_was_not_sent_is_ignored(attempt: int) -> None:
    """Whoever answers an attempt that was not made has guessed."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    assert answer(scan, [22], OPEN, RTT, attempt=attempt) == 0
    assert scan.unsettled == 2
    assert scan.observation().open == PortSet()


@pytest.mark.parametrize("port", [23, 81, 65535])
def test_answer_of_a_port_nobody_asked_is_ignored(port: int) -> None:
    """Ports that are not scanned settle nothing, between those that are, or above."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    assert answer(scan, [port], OPEN, RTT) == 0
    assert scan.observation().open == PortSet()


def test_answer_before_anything_was_sent_is_ignored() -> None:
    """A fresh port has not been asked."""
    scan = scan_of([22, 80])
    assert answer(scan, [22], OPEN, RTT) == 0


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([OPEN, CLOSED], "open"),
        ([CLOSED, OPEN], "open"),
        ([FILTERED, CLOSED], "closed"),
        ([CLOSED, FILTERED], "closed"),
        ([FILTERED, OPEN, CLOSED], "open"),
        ([CLOSED, CLOSED, CLOSED], "closed"),
    ],
)
def test_stronger_answer_overrules(kinds: list[int], expected: str) -> None:
    """Of several answers a SYN-ACK outweighs an RST, which outweighs an ICMP error; the port is settled once."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    assert sum(answer(scan, [22], kind, RTT) for kind in kinds) == 1
    assert scan.unsettled == 1
    assert scan.observation().state(22) == expected


def test_several_answers_of_a_port_in_one_batch_settle_it_once() -> None:
    """Three RSTs and a SYN-ACK that arrive together are one port."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    kinds = np.array([CLOSED, CLOSED, OPEN, CLOSED], np.uint8)
    ports, attempts = np.full(4, 22, np.uint16), np.zeros(4, np.uint8)
    assert scan.record_answers(ports, attempts, kinds, np.full(4, START + RTT), np.ones(4, np.bool_)) == 1
    assert (scan.unsettled, scan.in_flight) == (1, 1)
    assert scan.observation().open == PortSet.of([22])


def test_answer_after_silence_was_believed_overrules_it() -> None:
    """A port that was called filtered and answers while its address is still being scanned has answered."""
    scan = scan_of([22], retries=0)
    send(scan, 0.0)
    scan.expire(START + 1.0)
    assert scan.has_only_suspects
    assert scan.conclude() == 1
    assert answer(scan, [22], OPEN, 1.1) == 0
    assert scan.observation().open == PortSet.of([22])


def test_error_of_a_router_is_no_answer_of_the_address() -> None:
    """An ICMP error is as good as silence; only one that the address itself sent shows that it is there."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    assert answer(scan, [22], FILTERED, RTT, direct=False) == 0
    assert not scan.observation().answered
    assert scan.observation().rtt is None
    assert answer(scan, [80], FILTERED, RTT, direct=True) == 0
    assert scan.observation().answered


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_silence_is_believed_after_all_tries(retries: int) -> None:
    """A host that never answers is asked 1 + `retries` times, each time for the configured wait."""
    scan = scan_of([22, 80], retries=retries)
    for attempt in range(1 + retries):
        assert not scan.has_only_suspects
        batch = send(scan, attempt * TIMEOUT)
        assert (batch.attempt, len(batch.before) + len(batch.after)) == (attempt, 0)
        assert scan.next_expiry() == pytest.approx(START + (attempt + 1) * TIMEOUT)
        scan.expire(START + (attempt + 1) * TIMEOUT - 0.001)
        assert scan.in_flight == 2
        scan.expire(START + (attempt + 1) * TIMEOUT + 0.001)
        assert scan.in_flight == 0
    assert scan.has_only_suspects
    assert scan.conclude() == 2
    assert scan.is_over
    assert scan.observation().filtered == PortSet.of([22, 80])


def test_lost_answers_on_this_side_ask_for_one_more_try() -> None:
    """When the ring overflowed, silence counts one try later."""
    scan = scan_of([22], retries=0)
    scan.record_drops()
    send(scan, 0.0)
    scan.expire(START + 1.0)
    assert not scan.has_only_suspects
    assert send(scan, 1.0).attempt == 1
    scan.expire(START + 2.0)
    assert scan.has_only_suspects


def last_try(scan: SynAddressScan, silent: set[int], now: float) -> tuple[float, ProbeBatch]:
    """Let all but the silent answer and bring these to their last try; gives when it went out."""
    batch = send(scan, now)
    answer(scan, set(batch.ports.tolist()) - silent, CLOSED, now + RTT)
    while True:
        now += 1.0
        scan.expire(START + now)
        batch = send(scan, now)
        if batch.attempt == 2:
            return now, batch


def test_last_try_goes_out_with_controls() -> None:
    """The last try of silent ports takes ports along that have answered; both fit into what was asked for."""
    scan = scan_of(range(1, 21))
    _, batch = last_try(scan, {5, 6}, 0.0)
    assert set(batch.ports.tolist()) == {5, 6}
    references = [*batch.before.tolist(), *batch.after.tolist()]
    assert (len(batch.before), len(batch.after)) == (1, 1)
    assert not set(references) & {5, 6}


def test_silence_counts_when_the_controls_were_heard() -> None:
    """Silent ports whose controls answered are filtered."""
    scan = scan_of(range(1, 21))
    now, batch = last_try(scan, {5, 6}, 0.0)
    assert answer(scan, batch.before.tolist(), CLOSED, now + RTT, attempt=BEFORE) == 0
    assert answer(scan, batch.after.tolist(), CLOSED, now + RTT, attempt=AFTER) == 0
    scan.expire(START + now + 1.0)
    assert scan.has_only_suspects
    assert scan.conclude() == 2
    assert scan.observation().filtered == PortSet.of([5, 6])


def burst(scan: SynAddressScan, now: float, *, hears_before: bool, hears_after: bool) -> ProbeBatch:
    """Send a whole wave of a lane that is strict by now; gives the ports' part of it."""
    before = send(scan, now)
    assert not len(before.ports)
    assert not len(before.after)
    if hears_before:
        answer(scan, before.before.tolist(), CLOSED, now + RTT, attempt=BEFORE)
    batch = send(scan, now)
    after = send(scan, now)
    assert not len(after.ports)
    assert not len(after.before)
    if hears_after:
        answer(scan, after.after.tolist(), CLOSED, now + RTT, attempt=AFTER)
    assert scan.room == 0
    return batch


def end_wave(scan: SynAddressScan) -> float:
    """Let the time of the wave that was sent be up, and the rest after it; gives when that was."""
    expiry = scan.next_expiry()
    assert expiry is not None
    scan.expire(expiry)
    return max(expiry, scan.rest_until) - START


def test_silence_does_not_count_while_the_host_is_deaf() -> None:
    """Where the controls stay silent too the ports are tried again in waves, until the address counts as cut off."""
    scan = scan_of(range(1, 21))
    now, _ = last_try(scan, {5, 6}, 0.0)
    now += 1.0
    scan.expire(START + now)
    deaf_since = now
    while not scan.has_only_suspects:
        assert set(burst(scan, now, hears_before=False, hears_after=False).ports.tolist()) <= {5, 6}
        now = end_wave(scan)
        assert now - deaf_since < 2 * MAX_SILENCE
    assert now - deaf_since >= MAX_SILENCE
    assert scan.room == 0
    assert scan.conclude() == 0
    seen = scan.observation()
    assert seen.failure is not None
    assert seen.failure.reason is Reason.CUT_OFF
    assert "after 20 probes; 2 of 20 ports were not seen" in seen.failure.detail
    assert seen.scanned == PortSet.of(range(1, 21)) - PortSet.of([5, 6])
    assert not seen.filtered


@pytest.mark.parametrize("heard", [BEFORE, AFTER])
def test_silence_beside_a_control_that_was_not_heard_is_asked_again(heard: int) -> None:
    """Silent ports count as filtered only between two controls that were heard; else they are tried once more."""
    scan = scan_of(range(1, 200))
    now, batch = last_try(scan, {5, 6}, 0.0)
    answer(scan, batch.before.tolist() if heard == BEFORE else batch.after.tolist(), CLOSED, now + RTT, attempt=heard)
    scan.expire(START + now + 1.0)
    assert not scan.has_only_suspects
    batch = send(scan, now + 2.0)
    assert set(batch.ports.tolist()) == {5, 6}
    assert len(batch.before) == len(batch.after) == 1


def test_ports_that_probably_answer_are_asked_first() -> None:
    """What the job names goes before the others, whose order is drawn."""
    scan = scan_of(range(1, 200), first=[150, 20])
    assert take(scan).ports.tolist()[:2] == [20, 150]


def test_silence_of_those_who_answered_just_now_counts_for_nobody() -> None:
    """Where ports that are known to answer do not, the others' silence is not believed, though nothing was heard."""
    scan = scan_of([22, 80, 443], alive=[80])
    now = 0.0
    while not scan.has_only_suspects:
        assert now < 3 * MAX_SILENCE
        while scan.room and scan.rest_until <= START + now and (batch := scan.take(1000, START + now)):
            scan.record_sent(batch, np.ones(len(batch), np.bool_), np.full(len(batch), START + now))
        now += 0.1
        scan.expire(START + now)
    scan.conclude()
    seen = scan.observation()
    assert seen.failure is not None
    assert seen.failure.reason is Reason.CUT_OFF
    assert not seen.scanned


@pytest.mark.parametrize(("hears_before", "hears_after"), [(True, False), (False, True)])
def test_wave_proves_nothing_with_one_end_deaf(*, hears_before: bool, hears_after: bool) -> None:
    """Controls heard at one end only prove no silence; the next wave comes after a rest, and is waited for longer."""
    scan = scan_of(range(1, 21))
    now, _ = last_try(scan, {5, 6}, 0.0)
    now += 1.0
    scan.expire(START + now)
    waits = []
    for _ in range(8):
        burst(scan, now, hears_before=hears_before, hears_after=hears_after)
        expiry = scan.next_expiry()
        assert expiry is not None
        waits.append(expiry - START - now)
        now = end_wave(scan)
        assert not scan.has_only_suspects
        assert scan.rest_until > expiry
    assert waits == sorted(waits)
    assert waits[0] < 1.0 < waits[-1] <= MAX_TIMEOUT
    assert scan.unsettled == 2


def test_waves_end_where_nothing_is_proven_for_long() -> None:
    """A host that answers just one end of each wave does not hold the scan up for ever; its silence tells nothing."""
    scan = scan_of(range(1, 21))
    now, _ = last_try(scan, {5, 6}, 0.0)
    now += 1.0
    scan.expire(START + now)
    began = now
    while not scan.has_only_suspects:
        burst(scan, now, hears_before=True, hears_after=False)
        now = end_wave(scan)
        assert now - began < 45.0
    assert now - began >= 30.0
    scan.conclude()
    seen = scan.observation()
    assert seen.failure is not None
    assert seen.failure.reason is Reason.CUT_OFF
    assert "too few" in seen.failure.detail


def test_waves_prove_silence_as_often_as_there_are_tries() -> None:
    """With the controls heard at both ends, silence is believed after 1 + retries waves."""
    scan = scan_of(range(1, 21))
    now, _ = last_try(scan, {5, 6}, 0.0)
    now += 1.0
    scan.expire(START + now)
    for number in range(3):
        assert not scan.has_only_suspects, number
        assert set(burst(scan, now, hears_before=True, hears_after=True).ports.tolist()) == {5, 6}
        now += 1.0
        scan.expire(START + now)
    assert scan.has_only_suspects
    assert scan.conclude() == 2


def test_wave_whose_ports_all_answer_ends_at_once() -> None:
    """Nobody waits for the time to be up where everything was answered."""
    scan = scan_of(range(1, 21))
    now, _ = last_try(scan, {5, 6}, 0.0)
    now += 1.0
    scan.expire(START + now)
    batch = burst(scan, now, hears_before=True, hears_after=True)
    answer(scan, batch.ports.tolist(), OPEN, now + RTT, attempt=batch.attempt)
    assert scan.is_over
    assert scan.observation().open == PortSet.of([5, 6])


def test_failure_leaves_only_what_was_seen() -> None:
    """With a failure the ports that have answered are all that was scanned."""
    scan = scan_of([22, 80, 443])
    send(scan, 0.0)
    answer(scan, [22], OPEN, RTT)
    answer(scan, [80], CLOSED, RTT)
    scan.failure = Failure(Reason.NO_ROUTE, "gone")
    seen = scan.observation()
    assert scan.is_over
    assert seen.scanned == PortSet.of([22, 80])
    assert (seen.open, seen.filtered) == (PortSet.of([22]), PortSet())


def test_rtt_is_the_shortest_of_answers_to_the_latest_probe() -> None:
    """The round-trip time is the shortest that was seen; answers to earlier probes than the last do not count."""
    scan = scan_of([22, 80, 443])
    send(scan, 0.0)
    answer(scan, [22], OPEN, 0.2)
    assert scan.observation().rtt == pytest.approx(0.2, abs=1e-5)
    scan.expire(START + 1.0)
    send(scan, 1.0)
    answer(scan, [80], CLOSED, 1.001, attempt=0)
    assert scan.observation().rtt == pytest.approx(0.2, abs=1e-5)
    answer(scan, [443], CLOSED, 1.1, attempt=1)
    assert scan.observation().rtt == pytest.approx(0.1, abs=1e-5)


def test_path_hears_of_answers_when_the_silent_ports_were_asked_again() -> None:
    """Answers to first probes, which come first, do not make the path look as if nothing got lost."""
    path = PathLoss()
    scan = scan_of(range(1, 101), path_loss=path)
    send(scan, 0.0)
    answer(scan, range(1, 81), CLOSED, RTT)
    assert path.first == path.later == 0
    scan.expire(START + 1.0)
    send(scan, 1.0)
    answer(scan, range(81, 97), CLOSED, 1.0 + RTT, attempt=1)
    assert (path.first, path.later) == (80, 16)


def test_path_hears_of_an_address_that_answers_all_first_probes() -> None:
    """An address without a silent port is heard of at once."""
    path = PathLoss()
    scan = scan_of(range(1, 101), path_loss=path)
    send(scan, 0.0)
    answer(scan, range(1, 101), CLOSED, RTT)
    assert (path.first, path.later) == (100, 0)
