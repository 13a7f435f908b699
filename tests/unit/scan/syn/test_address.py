from __future__ import annotations

from concurrent.futures import Future
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pytest

from portspec.ports import PortSet
from portspec.scan.engine import ActiveJob
from portspec.scan.failures import MAX_SILENCE
from portspec.scan.job import Failure, Reason, ScanJob
from portspec.scan.loss import PathLoss
from portspec.scan.syn.address import SynAddressScan
from portspec.scan.syn.port_states import CLOSED, FILTERED, OPEN
from portspec.scan.syn.reference_ports import AFTER, BEFORE
from portspec.scan.syn.timing import MAX_TIMEOUT, REPEAT_INTERVAL

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
    """Return the scan of an address."""
    path = path_loss or PathLoss()

    def make(active_job: ActiveJob[SynAddressScan], address: str) -> SynAddressScan:
        return SynAddressScan(active_job, address, timeout=TIMEOUT, retries=retries, path_loss=path)

    job = ScanJob((address,), PortSet.of(ports), seed=seed, first=PortSet.of(first), alive=PortSet.of(alive))
    active_job = ActiveJob(job, Future(), START, make)
    return active_job.scans[0]


def take(scan: SynAddressScan, most: int = 1000, at: float = 0.0) -> ProbeBatch:
    """Take the batch to send; there is one."""
    batch = scan.take(most, START + at)
    assert batch is not None
    return batch


def send(scan: SynAddressScan, at: float, most: int = 1000) -> ProbeBatch:
    """Take a batch, and send all of it."""
    batch = take(scan, most, at)
    assert scan.record_sent(batch, np.ones(len(batch), np.bool_), np.full(len(batch), START + at)) == len(batch)
    return batch


def answer(
    scan: SynAddressScan, ports: Iterable[int], kind: int, at: float, attempt: int = 0, *, direct: bool = True
) -> int:
    """Let ports answer; return how many ports that settled."""
    some = np.array(list(ports), np.uint16)
    count = len(some)
    return scan.record_answers(
        some,
        np.full(count, attempt, np.uint8),
        np.full(count, kind, np.uint8),
        np.full(count, START + at),
        np.full(count, direct, np.bool_),
    )


def test_order_depends_on_seed_and_address() -> None:
    """The same seed gives the same order for an address; another seed or address gives another one."""
    orders = [
        take(scan_of(range(1, 500), seed=seed, address=address)).ports.tolist()
        for seed, address in ((7, "192.0.2.1"), (7, "192.0.2.1"), (8, "192.0.2.1"), (7, "192.0.2.2"))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    assert all(sorted(order) == list(range(1, 500)) for order in orders)


def test_unsent_probes_are_taken_first() -> None:
    """Probes for which the kernel had no buffer are taken again before others, as the same try."""
    scan = scan_of(range(1, 101))
    batch = take(scan, 40)
    gone = np.arange(40) < 25
    assert scan.record_sent(batch, gone, np.full(40, START)) == 25
    assert scan.ports.in_flight == 25
    again = take(scan, 40)
    assert again.attempt == 0
    assert again.ports.tolist() == batch.ports[25:].tolist()


def test_nothing_sent_is_nothing_in_flight() -> None:
    """A batch of which nothing was sent leaves nothing in flight."""
    scan = scan_of([22, 80])
    batch = take(scan)
    assert scan.record_sent(batch, np.zeros(2, np.bool_), np.zeros(2)) == 0
    assert scan.ports.in_flight == 0
    assert scan.next_expiry() is None
    assert not scan.has_only_suspects
    assert take(scan).ports.tolist() == batch.ports.tolist()


def test_late_answer_settles_the_port() -> None:
    """An answer after the timeout settles the port, which is not retried."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    scan.expire(START + 1.0)
    assert scan.room
    assert scan.ports.in_flight == 0
    assert answer(scan, [22, 80], CLOSED, 1.1) == 2
    assert scan.ports.in_flight == 0
    assert scan.take(10, START) is None
    assert scan.is_over


def test_answer_to_an_earlier_try_counts() -> None:
    """While the second probe is in flight, an answer to the first settles the port, once."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    scan.expire(START + 1.0)
    send(scan, 1.0)
    assert answer(scan, [22], OPEN, 1.02, attempt=0) == 1
    assert answer(scan, [22], OPEN, 1.05, attempt=1) == 0
    assert scan.ports.in_flight == 1
    assert scan.observation().open == PortSet.of([22])


@pytest.mark.parametrize(
    ("port", "attempt"), [*((22, attempt) for attempt in (1, 2, 14, AFTER)), *((port, 0) for port in (23, 81, 65535))]
)
def test_answer_to_a_probe_that_was_not_sent_is_ignored(port: int, attempt: int) -> None:
    """An answer to a try that was not made is a forgery, and so is one of a port that is not scanned."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    assert answer(scan, [port], OPEN, RTT, attempt=attempt) == 0
    assert scan.unsettled == 2
    assert scan.observation().open == PortSet()


def test_answer_before_anything_was_sent_is_ignored() -> None:
    """A port that has not been probed cannot answer."""
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
    """A SYN-ACK overrules an RST, which overrules an ICMP error; the port is settled once."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    assert sum(answer(scan, [22], kind, RTT) for kind in kinds) == 1
    assert scan.unsettled == 1
    assert scan.observation().state(22) == expected


def test_several_answers_of_a_port_in_one_batch_settle_it_once() -> None:
    """Three RSTs and a SYN-ACK that arrive together settle one port."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    kinds = np.array([CLOSED, CLOSED, OPEN, CLOSED], np.uint8)
    ports, attempts = np.full(4, 22, np.uint16), np.zeros(4, np.uint8)
    assert scan.record_answers(ports, attempts, kinds, np.full(4, START + RTT), np.ones(4, np.bool_)) == 1
    assert (scan.unsettled, scan.ports.in_flight) == (1, 1)
    assert scan.observation().open == PortSet.of([22])


def test_answer_overrules_filtered() -> None:
    """A filtered port that answers while its address is still being scanned is open or closed."""
    scan = scan_of([22], retries=0)
    send(scan, 0.0)
    scan.expire(START + 1.0)
    assert scan.has_only_suspects
    assert scan.conclude() == 1
    assert answer(scan, [22], OPEN, 1.1) == 0
    assert scan.observation().open == PortSet.of([22])


def test_error_of_a_router_is_no_answer_of_the_address() -> None:
    """An ICMP error counts as silence; only one from the address itself shows that it is up."""
    scan = scan_of([22, 80])
    send(scan, 0.0)
    assert answer(scan, [22], FILTERED, RTT, direct=False) == 0
    assert not scan.observation().answered
    assert scan.observation().rtt is None
    assert answer(scan, [80], FILTERED, RTT, direct=True) == 0
    assert scan.observation().answered


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_port_is_filtered_after_all_tries(retries: int) -> None:
    """A silent port is probed 1 + `retries` times, the first and the last time with the configured timeout."""
    scan = scan_of([22, 80], retries=retries)
    at = 0.0
    for attempt in range(1 + retries):
        assert not scan.has_only_suspects
        batch = send(scan, at)
        assert (batch.attempt, len(batch.before) + len(batch.after)) == (attempt, 0)
        at += REPEAT_INTERVAL if 0 < attempt < retries else TIMEOUT
        assert scan.next_expiry() == pytest.approx(START + at)
        scan.expire(START + at - 0.001)
        assert scan.ports.in_flight == 2
        scan.expire(START + at + 0.001)
        assert scan.ports.in_flight == 0
    assert scan.has_only_suspects
    assert scan.conclude() == 2
    assert scan.is_over
    assert scan.observation().filtered == PortSet.of([22, 80])


def test_dropped_answers_cost_one_more_try() -> None:
    """When this machine dropped answers, silence counts one try later."""
    scan = scan_of([22], retries=0)
    scan.record_drops()
    send(scan, 0.0)
    scan.expire(START + 1.0)
    assert not scan.has_only_suspects
    assert send(scan, 1.0).attempt == 1
    scan.expire(START + 2.0)
    assert scan.has_only_suspects


def last_try(scan: SynAddressScan, silent: set[int], now: float) -> tuple[float, ProbeBatch]:
    """Let all but the silent ports answer, and these reach their last try; return when it was sent."""
    batch = send(scan, now)
    answer(scan, set(batch.ports.tolist()) - silent, CLOSED, now + RTT)
    while True:
        now += 1.0
        scan.expire(START + now)
        batch = send(scan, now)
        if batch.attempt == 2:
            return now, batch


def test_last_try_is_sent_with_reference_probes() -> None:
    """The last try of silent ports includes reference ports; both fit into the allowed number."""
    scan = scan_of(range(1, 21))
    _, batch = last_try(scan, {5, 6}, 0.0)
    assert set(batch.ports.tolist()) == {5, 6}
    references = [*batch.before.tolist(), *batch.after.tolist()]
    assert (len(batch.before), len(batch.after)) == (1, 1)
    assert not set(references) & {5, 6}


def test_silence_counts_if_reference_ports_answered() -> None:
    """Silent ports are filtered if the reference ports around them answered."""
    scan = scan_of(range(1, 21))
    now, batch = last_try(scan, {5, 6}, 0.0)
    assert answer(scan, batch.before.tolist(), CLOSED, now + RTT, attempt=BEFORE) == 0
    assert answer(scan, batch.after.tolist(), CLOSED, now + RTT, attempt=AFTER) == 0
    scan.expire(START + now + 1.0)
    assert scan.has_only_suspects
    assert scan.conclude() == 2
    assert scan.observation().filtered == PortSet.of([5, 6])


def burst(scan: SynAddressScan, now: float, *, hears_before: bool, hears_after: bool) -> ProbeBatch:
    """Send a whole burst in rate-limited mode; return its batch of ports."""
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


def end_burst(scan: SynAddressScan) -> float:
    """Let the burst that was sent expire, and the rest after it end; return when that was."""
    expiry = scan.next_expiry()
    assert expiry is not None
    scan.expire(expiry)
    return max(expiry, scan.rest_until) - START


def test_unresponsive_host_is_probed_in_bursts_and_cut_off() -> None:
    """If reference ports stay silent, too, ports are tried again in bursts until the address is cut off."""
    scan = scan_of(range(1, 21))
    now, _ = last_try(scan, {5, 6}, 0.0)
    now += 1.0
    scan.expire(START + now)
    deaf_since = now
    while not scan.has_only_suspects:
        assert set(burst(scan, now, hears_before=False, hears_after=False).ports.tolist()) <= {5, 6}
        now = end_burst(scan)
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
def test_silence_next_to_an_unanswered_reference_probe_is_retried(heard: int) -> None:
    """Silent ports are filtered only between two answered reference probes; else they are retried."""
    scan = scan_of(range(1, 200))
    now, batch = last_try(scan, {5, 6}, 0.0)
    answer(scan, batch.before.tolist() if heard == BEFORE else batch.after.tolist(), CLOSED, now + RTT, attempt=heard)
    scan.expire(START + now + 1.0)
    assert not scan.has_only_suspects
    batch = send(scan, now + 2.0)
    assert set(batch.ports.tolist()) == {5, 6}
    assert len(batch.before) == len(batch.after) == 1


def test_first_ports_of_the_job_are_sent_first() -> None:
    """The ports in `first` of the job precede the others, whose order is random."""
    scan = scan_of(range(1, 200), first=[150, 20])
    assert take(scan).ports.tolist()[:2] == [20, 150]


def test_first_ports_have_a_turn_of_their_own() -> None:
    """No other port is in the turn of the first ports: threads send the parts of a turn in any order."""
    scan = scan_of(range(1, 1001), first=[22, 443])
    assert send(scan, 0.0).ports.tolist() == [22, 443]
    assert len(send(scan, 0.01).ports) == 998


@pytest.mark.parametrize("most", [1, 2, 3])
def test_turn_of_the_first_ports_may_be_cut(most: int) -> None:
    """With a low rate the first ports take several turns, and the others follow after the last."""
    scan = scan_of(range(1, 1001), first=[22, 443])
    sent = [send(scan, 0.01 * turn, most=most).ports.tolist() for turn in range(3)]
    assert list(chain.from_iterable(sent))[:2] == [22, 443]
    assert all(not {22, 443} & set(turn) or set(turn) <= {22, 443} for turn in sent)


def test_ports_that_are_added_come_after_the_first() -> None:
    """Ports that are added before the first were sent do not join their turn."""
    scan = scan_of(range(1, 1001), first=[22, 443])
    scan.add_ports(PortSet.of(range(2000, 2010)))
    assert send(scan, 0.0).ports.tolist() == [22, 443]
    assert len(send(scan, 0.01, most=2000).ports) == 1000 - 2 + 10


def test_few_ports_are_one_turn() -> None:
    """A short scan has one turn, the first ports at its beginning."""
    assert len(send(scan_of(range(1, 101), first=[22]), 0.0).ports) == 100


def test_no_silence_counts_while_alive_ports_are_silent() -> None:
    """If ports that have just answered are silent, the silence of the others does not count."""
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
def test_burst_with_one_silent_end_proves_nothing(*, hears_before: bool, hears_after: bool) -> None:
    """A burst with answers at one end fails: the next one follows a rest and gets more time."""
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
        now = end_burst(scan)
        assert not scan.has_only_suspects
        assert scan.rest_until > expiry
    assert waits == sorted(waits)
    assert waits[0] < 1.0 < waits[-1] <= MAX_TIMEOUT
    assert scan.unsettled == 2


def test_bursts_end_if_nothing_is_proven() -> None:
    """An address that answers only one end of each burst is cut off."""
    scan = scan_of(range(1, 21))
    now, _ = last_try(scan, {5, 6}, 0.0)
    now += 1.0
    scan.expire(START + now)
    began = now
    while not scan.has_only_suspects:
        burst(scan, now, hears_before=True, hears_after=False)
        now = end_burst(scan)
        assert now - began < 45.0
    assert now - began >= 30.0
    scan.conclude()
    seen = scan.observation()
    assert seen.failure is not None
    assert seen.failure.reason is Reason.CUT_OFF
    assert "too few" in seen.failure.detail


def test_silence_needs_a_proof_per_try() -> None:
    """If both ends of the bursts answer, a port is filtered after 1 + retries of them."""
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


def test_burst_ends_once_all_its_ports_have_answered() -> None:
    """A burst does not wait for its timeout if every probe was answered."""
    scan = scan_of(range(1, 21))
    now, _ = last_try(scan, {5, 6}, 0.0)
    now += 1.0
    scan.expire(START + now)
    batch = burst(scan, now, hears_before=True, hears_after=True)
    answer(scan, batch.ports.tolist(), OPEN, now + RTT, attempt=batch.attempt)
    assert scan.is_over
    assert scan.observation().open == PortSet.of([5, 6])


def test_failed_scan_holds_only_what_was_seen() -> None:
    """With a failure, `scanned` has only the ports that have answered."""
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
    """The round-trip time is the shortest one measured; answers to earlier probes do not count."""
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


def test_loss_is_published_after_the_retries() -> None:
    """Answers to first probes, which arrive first, do not make the path look free of loss."""
    path = PathLoss()
    scan = scan_of(range(1, 101), path_loss=path)
    send(scan, 0.0)
    answer(scan, range(1, 81), CLOSED, RTT)
    assert path.first == path.later == 0
    scan.expire(START + 1.0)
    send(scan, 1.0)
    answer(scan, range(81, 97), CLOSED, 1.0 + RTT, attempt=1)
    assert (path.first, path.later) == (80, 16)


def test_loss_is_published_at_once_without_silent_ports() -> None:
    """An address without silent ports publishes its answers at once."""
    path = PathLoss()
    scan = scan_of(range(1, 101), path_loss=path)
    send(scan, 0.0)
    answer(scan, range(1, 101), CLOSED, RTT)
    assert (path.first, path.later) == (100, 0)
