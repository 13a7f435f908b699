from __future__ import annotations

import errno
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import ALL_PORTS, NO_PORTS, PortSet
from portspec.scan.failures import MAX_SILENCE
from portspec.scan.job import PortState, Reason, ScanJob
from portspec.scan.netlink import Neighbour
from portspec.scan.pacing import Pacer
from portspec.scan.route import MAX_RESTARTS
from portspec.scan.syn.port_states import CLOSED, FILTERED, OPEN
from portspec.scan.syn.reference_ports import AFTER as CONTROL
from portspec.scan.syn.reference_ports import MAX_PROBES, TRY_SLOTS
from tests.unit.factories import MODEST
from tests.unit.scan.syn.network import (
    MODULUS,
    NEVER,
    OWN4,
    START,
    EachSecond,
    Host,
    Network,
    Packet,
    Send,
    Simulation,
    TokenBucket,
    Truth,
    Via,
    assert_exact,
    most_in_a_second,
    scan,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.unit.scan.syn.network import Limit

THOUSAND = PortSet.of_ranges([(1, 1000)])
RTT = 0.05
SILENT = {Truth.DROPPED, Truth.REJECTED}  # an ICMP error is as good as silence


def mixed(address: str = "192.0.2.1", *, ports: PortSet = THOUSAND, seed: int = 0) -> Host:
    """Return a host with a quarter of its ports open, closed, dropped and rejected each."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    return Host(address, {port: rng.choice(list(Truth)) for port in ports})


def counted(sends: Iterable[Send]) -> Counter[int]:
    """Return how often each port was probed, without reference probes."""
    return Counter(send.port for send in sends if not send.is_reference_probe)


def random_host(rng: random.Random, address: str, ports: PortSet, loss: float) -> Host:
    """Return a host with random behaviour."""
    weights = [rng.random() for _ in Truth]
    truths = dict(zip(ports, rng.choices(list(Truth), weights, k=len(ports)), strict=True))
    host = Host(address, truths, rtt=rng.choice([0.0002, 0.01, 0.05, 0.3]), loss=loss)
    host.resets = rng.choice([1, 3])
    host.is_syn_counted = rng.random() < 0.5
    host.takes_back = not loss and rng.random() < 0.5  # or the RST might be all that arrives
    host.is_rejecting_itself = rng.random() < 0.5
    return host


# What hosts do.


def test_each_state_is_found() -> None:
    """Open, closed, dropped and rejected ports are found at once; the round-trip time is the network's."""
    host = mixed()
    (seen,), sends = scan(host, ports=THOUSAND, within=2.0)
    assert_exact(host, seen, THOUSAND)
    assert seen.answered
    assert seen.rtt == pytest.approx(RTT, abs=1e-4)
    assert {send.port for send in sends} == set(THOUSAND)


@pytest.mark.parametrize("retries", [1, 2, 4])
def test_silent_ports_are_tried_as_configured_and_others_once(retries: int) -> None:
    """Without loss a silent port is probed 1 + `retries` times, and one that answers once."""
    host = mixed()
    _, sends = scan(host, ports=THOUSAND, retries=retries)
    times = counted(sends)
    assert {times[port] for port in THOUSAND if host.truth(port) in SILENT} == {1 + retries}
    assert {times[port] for port in THOUSAND if host.truth(port) not in SILENT} == {1}


def test_each_try_has_its_own_source_port() -> None:
    """The tries of a port have different source ports, in order, and no two probes share a number."""
    _, sends = scan(mixed(), ports=THOUSAND)
    attempts: dict[int, list[int]] = {}
    for send in sends:
        if not send.is_reference_probe:
            attempts.setdefault(send.port, []).append(send.attempt)
    (first,) = {made[0] for made in attempts.values()}
    assert all(made == [(first + k) % TRY_SLOTS for k in range(len(made))] for made in attempts.values())
    assert len({send.sequence for send in sends}) >= len(sends) - 2  # 2³² numbers, by chance


def test_ports_that_answered_are_not_probed_again() -> None:
    """Ports that have answered are probed again only as reference ports of silent ones."""
    host = mixed()
    _, sends = scan(host, ports=THOUSAND)
    references = [send for send in sends if send.is_reference_probe]
    assert references
    assert all(host.truth(send.port) is Truth.CLOSED for send in references)
    assert len(references) <= MAX_PROBES
    last_answer_at: dict[int, float] = {}
    for send in sends:
        if host.truth(send.port) not in SILENT:
            last_answer_at.setdefault(send.port, send.at + RTT)
    assert not [
        send for send in sends if not send.is_reference_probe and send.at > last_answer_at.get(send.port, NEVER)
    ]


def test_silent_host_is_filtered_after_three_timeouts() -> None:
    """The ports of a host that drops everything are filtered after three timeouts; it did not answer."""
    host = Host(others=Truth.DROPPED)
    (seen,), sends = scan(host, ports=THOUSAND, within=3.0)
    assert_exact(host, seen, THOUSAND)
    assert (seen.answered, seen.rtt) == (False, None)
    assert set(counted(sends).values()) == {3}
    assert len(sends) == 3000


@pytest.mark.parametrize("by_itself", [True, False])
def test_rejecting_host_is_probed_as_often_as_a_silent_one(by_itself: bool) -> None:  # noqa: FBT001 - a parameter
    """ICMP errors settle no port before its last try; their sender decides whether the address answered."""
    host = Host(others=Truth.REJECTED, is_rejecting_itself=by_itself)
    (seen,), sends = scan(host, ports=THOUSAND, within=4.0)
    assert_exact(host, seen, THOUSAND)
    assert len(sends) == 3000
    assert (seen.answered, seen.rtt) == (by_itself, None)


@pytest.mark.parametrize("only", [Truth.OPEN, Truth.CLOSED])
def test_single_port_that_answers_is_found(only: Truth) -> None:
    """One port that answers among a thousand dropped ones is found, and serves as reference port."""
    host = Host(ports={700: only}, others=Truth.DROPPED)
    (seen,), sends = scan(host, ports=THOUSAND, within=3.0)
    assert_exact(host, seen, THOUSAND)
    assert {times for port, times in counted(sends).items() if port != 700} == {3}


def test_all_ports_at_once() -> None:
    """All 65,535 ports of a host are scanned in seconds, each closed one with a single probe."""
    host = Host(ports={1: Truth.OPEN, 443: Truth.OPEN, 65535: Truth.OPEN, 6000: Truth.DROPPED})
    (seen,), sends = scan(host, ports=ALL_PORTS, within=3.0)
    assert_exact(host, seen, ALL_PORTS)
    assert len(sends) <= 65535 + 2 + 2


def test_slow_answers_are_awaited() -> None:
    """A round-trip time of two seconds, more than the first timeout, makes no port filtered."""
    host = mixed()
    host.rtt = 2.0
    (seen,), _ = scan(host, ports=THOUSAND, within=20.0)
    assert_exact(host, seen, THOUSAND)
    assert seen.answered
    assert seen.rtt is None or seen.rtt == pytest.approx(2.0, abs=0.01)


def test_three_resets_for_each_probe_are_one_answer() -> None:
    """A host that sends every RST three times gets the same probes."""
    host = mixed()
    host.resets = 3
    (seen,), sends = scan(host, ports=THOUSAND, within=2.0)
    assert_exact(host, seen, THOUSAND)
    assert len(sends) <= len(THOUSAND) + 2 * sum(host.truth(port) in SILENT for port in THOUSAND) + MAX_PROBES


@pytest.mark.parametrize(("trait", "value"), [("is_syn_counted", False), ("takes_back", True)])
def test_peculiar_resets_are_understood(trait: str, *, value: bool) -> None:
    """An RST may acknowledge the number itself, and follow a SYN-ACK, which is still a SYN-ACK."""
    host = mixed()
    setattr(host, trait, value)
    (seen,), _ = scan(host, ports=THOUSAND, within=2.0)
    assert_exact(host, seen, THOUSAND)


def test_host_that_accepts_everything() -> None:
    """A SYN-ACK on every port makes every port open, with one probe each."""
    host = Host(others=Truth.OPEN)
    (seen,), sends = scan(host, ports=THOUSAND, within=1.0)
    assert_exact(host, seen, THOUSAND)
    assert len(sends) == 1000


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("seed", range(6))
def test_random_hosts_are_scanned_exactly(seed: int, loss: float) -> None:
    """Whatever a host does, with up to ten percent loss each way, the state of every port is right."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    ports = PortSet.of(rng.sample(range(1, 65536), 400))
    hosts = [random_host(rng, address, ports, loss) for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1")]
    with Simulation(network=Network(hosts, seed=seed)) as simulation:
        job = ScanJob(tuple(host.address for host in hosts), ports, seed=seed)
        (observation,) = simulation.scan(job, within=60.0)
    for host, seen in zip(hosts, observation.addresses, strict=True):
        assert_exact(host, seen, ports)


@pytest.mark.parametrize(
    ("limit", "within"),
    [
        (lambda: EachSecond(200), 40.0),
        (lambda: TokenBucket(200.0, 200.0), 40.0),
        (lambda: TokenBucket(1000.0, 50.0), 40.0),
        (lambda: TokenBucket(200.0, 50.0), 90.0),
        (lambda: TokenBucket(200.0, 5.0), 90.0),
        (lambda: TokenBucket(50.0, 50.0), 90.0),
    ],
    ids=["each second 200", "200 burst 200", "1000 burst 50", "200 burst 50", "200 burst 5", "50 burst 50"],
)
@pytest.mark.parametrize("dropped", [0, 300])
def test_limited_resets_are_not_taken_for_silence(limit: Callable[[], Limit], within: float, dropped: int) -> None:
    """With a limit of RSTs per second, closed ports are still closed and dropped ones filtered."""
    ports = PortSet.of_ranges([(1, 600)])
    host = Host(ports=dict.fromkeys(range(1, dropped + 1), Truth.DROPPED) | {577: Truth.OPEN}, limit=limit())
    (seen,), _ = scan(host, ports=ports, within=within)
    assert_exact(host, seen, ports)


def test_host_that_stops_answering_is_cut_off() -> None:
    """If a host stops answering, its answers count, and the other ports stay unknown."""
    ports = PortSet.of_ranges([(1, 5000)])
    host = Host(ports=dict.fromkeys(range(1, 5000, 7), Truth.OPEN), silent_from=0.06)
    (seen,), sends = scan(host, ports=ports, within=MAX_SILENCE + 20.0)
    heard = {send.port for send in sends if send.at + RTT / 2 < host.silent_from}
    assert 1000 < len(heard) < 4000
    assert set(seen.scanned) == heard
    assert not seen.filtered
    assert set(seen.open) == {port for port in heard if host.truth(port) is Truth.OPEN}
    assert seen.answered
    assert seen.failure is not None
    assert seen.failure.reason is Reason.CUT_OFF


@pytest.mark.parametrize("answers_late", [True, False])
@pytest.mark.parametrize("start", [0.05, 0.3, 0.6])
def test_short_stall_changes_nothing(start: float, answers_late: bool) -> None:  # noqa: FBT001 - a parameter
    """Half a second without answers, or with late ones, changes neither a state nor the round-trip time."""
    ports = PortSet.of_ranges([(1, 3000)])
    host = mixed(ports=ports)
    host.stalls, host.answers_late = (start, start + 0.5), answers_late
    (seen,), _ = scan(host, ports=ports, within=30.0)
    assert_exact(host, seen, ports)
    assert seen.rtt == pytest.approx(RTT, abs=1e-4)


# This machine's limits.


def test_dropped_answers_are_requested_again() -> None:
    """Answers that were dropped because the ring was full are counted, and make no port filtered."""
    hosts = [mixed(f"192.0.2.{number}", seed=number) for number in range(1, 5)]
    with Simulation(network=Network(hosts, room_to_receive=1200)) as simulation:
        (observation,) = simulation.scan(ScanJob(tuple(host.address for host in hosts), THOUSAND), within=30.0)
        assert simulation.engine.stats.answers_dropped == simulation.network.dropped > 0
    for host, seen in zip(hosts, observation.addresses, strict=True):
        assert_exact(host, seen, THOUSAND)


def test_full_ring_reduces_the_window() -> None:
    """After an overflow fewer probes are in flight at once."""
    hosts = [Host(f"192.0.2.{number}") for number in range(1, 9)]
    ports = PortSet.of_ranges([(1, 2000)])
    with Simulation(network=Network(hosts, room_to_receive=1500)) as simulation:
        simulation.scan(ScanJob(tuple(host.address for host in hosts), ports), within=30.0)
    assert simulation.network.dropped
    assert simulation.idle == 0
    first_overflow = RTT
    sends = simulation.network.sends
    soon = [send for send in sends if first_overflow < send.at <= first_overflow + RTT]
    assert sum(send.at <= first_overflow for send in sends) == 8 * 1024
    assert len(soon) <= 4 * 1024
    assert simulation.turns < 3000


@pytest.mark.parametrize(("start", "room"), [(0.0, 0), (0.0, 100), (0.05, 700)])
def test_full_queue_is_awaited(start: float, room: int) -> None:
    """While the kernel has no buffer for probes the engine waits, and then sends the rest."""
    ports = PortSet.of_ranges([(1, 3000)])
    hosts = [mixed("192.0.2.1", ports=ports), mixed("2001:db8::1", ports=ports)]
    with Simulation(network=Network(hosts, full=(start, start + 0.5), room=room)) as simulation:
        (observation,) = simulation.scan(ScanJob(tuple(host.address for host in hosts), ports), within=5.0)
    assert observation.probes == len(simulation.network.sends)
    assert simulation.turns < 1000
    for host, seen in zip(hosts, observation.addresses, strict=True):
        assert_exact(host, seen, ports)


@pytest.mark.parametrize(
    ("code", "reason", "word"),
    [
        (errno.EPERM, Reason.PERMISSION, "operation not permitted"),
        (errno.EACCES, Reason.PERMISSION, "permission denied"),
        (errno.ENETUNREACH, Reason.NO_ROUTE, "network is unreachable"),
        (errno.EHOSTUNREACH, Reason.NO_ROUTE, "no route to host"),
        (errno.ENETDOWN, Reason.NO_ROUTE, "network is down"),
        (errno.EINVAL, Reason.NO_ROUTE, "blackhole"),
        (errno.EMSGSIZE, Reason.INTERNAL, "message too long"),
    ],
)
@pytest.mark.parametrize("start", [0.0, 0.06])
def test_refused_probes_fail_their_address_alone(code: int, reason: Reason, word: str, start: float) -> None:
    """An address that the kernel does not send to fails with a reason and a detail, and keeps what was seen."""
    ports = PortSet.of_ranges([(1, 3000)])
    refused, other = mixed("192.0.2.1", ports=ports), mixed("192.0.2.2", ports=ports)
    refused.refused = (start, code)
    (seen, seen_other), sends = scan(refused, other, ports=ports, within=5.0)
    assert_exact(other, seen_other, ports)
    assert seen.failure is not None
    assert seen.failure.reason is reason
    assert refused.address in seen.failure.detail
    assert word in seen.failure.detail
    assert bool(seen.scanned) == bool(start)
    assert all((seen.state(port) is PortState.OPEN) == (refused.truth(port) is Truth.OPEN) for port in seen.scanned)
    assert not [send for send in sends if send.address == refused.address and send.at > start]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (errno.ENETUNREACH, "network is unreachable"),
        (Via(OWN4, "sim0", has_link=False), "sim0 is down"),
        (Via("198.51.100.99", "sim0"), "198.51.100.99"),
    ],
    ids=["gone", "down", "another source"],
)
def test_silence_does_not_count_without_a_route(change: Via | int, word: str) -> None:
    """Silence does not count if the route is gone or changed, or the link is down; other addresses are unaffected."""
    lost, other = mixed("192.0.2.1"), mixed("192.0.2.2")
    lost.routes, lost.silent_from = [(0.01, change)], 0.01
    (seen, seen_other), _ = scan(lost, other, ports=THOUSAND, within=MAX_SILENCE + 10.0)
    assert_exact(other, seen_other, THOUSAND)
    assert seen.failure is not None
    assert seen.failure.reason is Reason.NO_ROUTE
    assert word in seen.failure.detail
    assert (seen.scanned, seen.filtered) == (NO_PORTS, NO_PORTS)


@pytest.mark.parametrize(
    "again",
    [Via(OWN4, changes=2), Via(OWN4, next_hop="198.51.100.7"), Via(OWN4, "sim0", neighbour=Neighbour.UNRESOLVED)],
    ids=["link lost and regained", "another gateway", "neighbour asked for"],
)
@pytest.mark.parametrize("start", [0.0, 0.06])
def test_silence_during_an_outage_does_not_count(again: Via, start: float) -> None:
    """Ports that were probed during an outage of link or next hop are probed again, and their states are right."""
    host = mixed("192.0.2.1")
    end = 2.6  # the last try of the first ones is waited for until then
    host.stalls = (start, end)
    taken = Via(OWN4) if again.neighbour is Neighbour.KNOWN or start else again
    host.routes = [(0.0, taken), (start + 0.01, again), (end, replace(again, neighbour=Neighbour.KNOWN))]
    (seen,), sends = scan(host, ports=THOUSAND, within=60.0)
    assert_exact(host, seen, THOUSAND)
    assert max(send.at for send in sends) > end


def test_ports_that_are_added_after_an_outage() -> None:
    """Ports that are added while others are probed again get the right states, too."""
    host, end = mixed("192.0.2.1", ports=PortSet.of_ranges([(1, 1000), (5000, 5200)])), 2.6
    host.stalls = (0.0, end)
    host.routes = [(0.01, Via(OWN4, changes=2))]
    more = PortSet.of_ranges([(5000, 5200)])
    with Simulation(host) as simulation:
        future = simulation.submit(ScanJob((host.address,), THOUSAND))
        simulation.run(lambda: simulation.network.elapsed >= end + 0.2, within=5.0)
        simulation.engine.add_ports(future, more)
        simulation.run(future.done, within=30.0)
    (seen,) = future.result(timeout=0).addresses
    assert_exact(host, seen, THOUSAND | more)


def test_route_that_keeps_changing_is_no_route() -> None:
    """If the link is lost and back before each conclusion, the address is unknown after a bounded time."""
    host = mixed("192.0.2.1")
    host.silent_from = 0.0
    host.routes = [(tenth / 10, Via(OWN4, changes=tenth)) for tenth in range(600)]
    (seen,), sends = scan(host, ports=THOUSAND, within=30.0)
    assert seen.failure is not None
    assert (seen.failure.reason, seen.scanned) == (Reason.NO_ROUTE, NO_PORTS)
    assert "again and again" in seen.failure.detail
    assert len(sends) <= (1 + MAX_RESTARTS) * 3 * len(THOUSAND)


@pytest.mark.parametrize(
    ("states", "word"),
    [
        ([(0.0, Neighbour.UNRESOLVED), (3.0, Neighbour.FAILED)], "192.0.2.1 does not answer ARP"),
        ([(0.0, Neighbour.UNRESOLVED)], "192.0.2.1 does not answer ARP"),  # asked for by others again and again
        ([(0.0, Neighbour.UNRESOLVED), (3.0, Neighbour.ABSENT)], "192.0.2.1 does not answer ARP"),  # forgotten
        ([(0.0, Neighbour.UNSURE), (8.0, Neighbour.FAILED)], "192.0.2.1 does not answer ARP"),
        ([(0.0, Neighbour.ABSENT)], "192.0.2.1 does not answer ARP"),
    ],
)
def test_neighbour_that_does_not_answer_is_no_route(states: list[tuple[float, Neighbour]], word: str) -> None:
    """Without a resolved next hop nothing was sent: the engine waits for the kernel, for a bounded time."""
    host = mixed("192.0.2.1")
    host.silent_from = 0.0
    host.routes = [(at, Via(OWN4, neighbour=state)) for at, state in states]
    with Simulation(host) as simulation:
        (observation,) = simulation.scan(ScanJob((host.address,), THOUSAND), within=15.0)
        questions = simulation.network.questions
    (seen,) = observation.addresses
    assert seen.failure is not None
    assert (seen.failure.reason, seen.scanned) == (Reason.NO_ROUTE, NO_PORTS)
    assert word in seen.failure.detail
    assert simulation.idle == 0
    assert questions < 50


def test_neighbour_that_is_confirmed_late_lets_silence_count() -> None:
    """A host that drops everything is filtered once the kernel has confirmed the neighbour."""
    host = Host("192.0.2.1", others=Truth.DROPPED)
    host.routes = [(0.0, Via(OWN4, neighbour=Neighbour.UNSURE)), (5.0, Via(OWN4))]
    (seen,), sends = scan(host, ports=THOUSAND, within=6.0)
    assert_exact(host, seen, THOUSAND)
    assert len(sends) == 3 * len(THOUSAND)


def test_neighbour_is_not_looked_up_if_all_ports_answer() -> None:
    """A host that answers on every port needs one look-up of its route, and none of its neighbour."""
    host = Host("192.0.2.1", ports={22: Truth.OPEN})
    with Simulation(host) as simulation:
        simulation.scan(ScanJob((host.address,), THOUSAND))
        assert simulation.network.questions == 1


def test_error_of_this_machine_is_no_route() -> None:
    """A probe that this machine itself answers with "host unreachable" was not sent: the address is unknown."""
    host, other = mixed("192.0.2.1"), mixed("192.0.2.2")
    host.is_unsent = True
    (seen, seen_other), _ = scan(host, other, ports=THOUSAND, within=MAX_SILENCE + 10.0)
    assert seen.failure is not None
    assert seen.failure.reason is Reason.NO_ROUTE
    assert "this machine answers" in seen.failure.detail
    assert_exact(other, seen_other, THOUSAND)


def test_no_route_from_the_start() -> None:
    """An address without a route fails without a probe; an address of the other family is scanned."""
    without, other = mixed("2001:db8::1"), mixed("192.0.2.1")
    without.routes = [(0.0, errno.ENETUNREACH)]
    (seen, seen_other), sends = scan(without, other, ports=THOUSAND)
    assert seen.failure is not None
    assert seen.failure.reason is Reason.NO_ROUTE
    assert_exact(other, seen_other, THOUSAND)
    assert not [send for send in sends if send.address == without.address]


# What others try.


def test_forged_answers_change_nothing() -> None:
    """An attacker who knows all but the sequence numbers cannot change a state with thousands of guesses."""
    hosts = [mixed("192.0.2.1"), mixed("192.0.2.2", seed=1)]
    for host in hosts:
        host.forgeries = True
    seen, sends = scan(*hosts, ports=THOUSAND, within=2.0)
    for host, one in zip(hosts, seen, strict=True):
        assert_exact(host, one, THOUSAND)
        assert one.rtt == pytest.approx(RTT, abs=1e-4)
        times = counted(send for send in sends if send.address == host.address)
        assert {times[port] for port in THOUSAND if host.truth(port) in SILENT} == {3}


def test_flood_of_guesses_changes_nothing() -> None:
    """Ten thousand random packets leave a silent host silent."""
    host = Host(others=Truth.DROPPED)
    rng = random.Random(1)  # noqa: S311 - not a secret
    with Simulation(host) as simulation:
        for _ in range(10_000):
            packet = Packet(
                rng.choice([host.address, "203.0.113.9"]),
                OWN4,
                rng.randrange(65536),
                simulation.network.first_source_port + rng.randrange(16),
                rng.randrange(MODULUS),
                rng.choice([OPEN, CLOSED, FILTERED]),
            )
            simulation.network.arrive(packet, after=rng.randrange(100) / 50)
        (observation,) = simulation.scan(ScanJob((host.address,), THOUSAND), within=3.0)
    (seen,) = observation.addresses
    assert_exact(host, seen, THOUSAND)
    assert not seen.answered


@pytest.mark.parametrize("attempt", [1, 2, 9, CONTROL])
def test_answers_to_unsent_tries_are_ignored(attempt: int) -> None:
    """An answer to a try that was not made is ignored, even with the right number."""
    host = Host(others=Truth.DROPPED)
    with Simulation(host) as simulation:
        future = simulation.submit(ScanJob((host.address,), THOUSAND))
        simulation.run(lambda: len(simulation.network.sends) == 1000, within=0.1)
        table, first = simulation.engine._table, simulation.network.first_source_port
        (scan,) = simulation.engine._scans
        indices = np.full(1000, table.index(scan), np.intp)
        ports = np.arange(1, 1001, dtype=np.uint16)
        probes = table.probes(indices, np.full(1000, first + attempt, np.uint16), ports)
        for port, sequence in zip(range(1, 1001), probes.sequence.tolist(), strict=True):
            simulation.network.arrive(Packet(host.address, OWN4, port, first + attempt, sequence, OPEN), after=0.1)
        simulation.run(future.done, within=3.0)
    (seen,) = future.result(timeout=0).addresses
    assert seen.open == NO_PORTS
    assert seen.filtered == THOUSAND


# Pace.


@pytest.mark.parametrize("rate", [40.0, 100.0, 199.0, 500.0, 2000.0, 20_000.0])
@pytest.mark.parametrize("whose", ["engine", "host", "both"])
def test_rate_holds(rate: float, whose: str) -> None:
    """No second has more probes than the rate of the engine or of the host, reference probes included."""
    ports = PortSet.of_ranges([(1, 60 if rate < 200 else 150)])
    host = mixed(ports=ports)
    with Simulation(host, rate=None if whose == "host" else rate) as simulation:
        job = ScanJob((host.address,), ports, None if whose == "engine" else rate)
        (observation,) = simulation.scan(job, within=4 * len(ports) / rate + 3.0)
    assert_exact(host, observation.addresses[0], ports)
    assert most_in_a_second(simulation.network.sends) <= rate


def test_rate_holds_for_hosts_together_and_host_rate_for_each() -> None:
    """Two jobs share the rate of the engine, each has its own host rate, and both are exact."""
    ports = PortSet.of_ranges([(1, 150)])
    hosts = [mixed("192.0.2.1", seed=1), mixed("192.0.2.2", seed=2), mixed("2001:db8::3", seed=3)]
    with Simulation(*hosts, rate=1200.0) as simulation:
        jobs = [ScanJob(("192.0.2.1", "2001:db8::3"), ports, 1000.0), ScanJob(("192.0.2.2",), ports, 800.0)]
        both, single = simulation.scan(*jobs, within=20.0)
    for host, seen in zip([hosts[0], hosts[2], hosts[1]], [*both.addresses, *single.addresses], strict=True):
        assert_exact(host, seen, ports)
    sends = simulation.network.sends
    assert most_in_a_second(sends) <= 1200
    assert most_in_a_second(send for send in sends if send.address != "192.0.2.2") <= 1000
    assert most_in_a_second(send for send in sends if send.address == "192.0.2.2") <= 800
    assert both.probes + single.probes == len(sends)


def test_jobs_that_share_a_pacer_share_its_rate() -> None:
    """Two jobs of one host, at once or in sequence, share the rate of their pacer."""
    hosts = [mixed("192.0.2.1", seed=1), mixed("192.0.2.2", seed=2)]
    ports, pacer = PortSet.of_ranges([(1, 150)]), Pacer(500.0)
    with Simulation(*hosts) as simulation:
        jobs = [ScanJob((host.address,), ports, pacer=pacer) for host in hosts]
        observations = simulation.scan(*jobs, within=20.0)
        observations += simulation.scan(jobs[0], within=20.0)
    for host, observation in zip([*hosts, hosts[0]], observations, strict=True):
        assert_exact(host, observation.addresses[0], ports)
    assert most_in_a_second(simulation.network.sends) <= 500


def test_engine_may_share_its_pacer() -> None:
    """An engine and another sender with the same pacer share its rate, and both make progress."""
    hosts, pacer = [Host(), Host("192.0.2.2")], Pacer(1000.0)
    ports = PortSet.of_ranges([(1, 400)])
    with Simulation(*hosts, pacer=pacer) as simulation:
        future = simulation.submit(ScanJob((hosts[0].address,), ports))
        others: list[Send] = []

        def is_done() -> bool:
            now = simulation.network.clock()
            if not simulation.turns % 3:
                others.extend([Send(now - START, "", 1, 0, 0, 0)] * pacer.take(2, now))
            return future.done()

        simulation.run(is_done, within=5.0)
    assert len(others) > 10
    assert most_in_a_second([*simulation.network.sends, *others]) <= 1000
    assert_exact(hosts[0], future.result(timeout=0).addresses[0], ports)


def test_silent_host_does_not_delay_others() -> None:
    """Under a rate every host gets its share: one that answers is done long before those that do not."""
    silent = [Host(f"192.0.2.{number}", others=Truth.DROPPED) for number in range(1, 6)]
    quick = Host("192.0.2.9")
    with Simulation(*silent, quick, rate=2000.0) as simulation:
        ports = PortSet.of_ranges([(1, 150)])
        slow = [simulation.submit(ScanJob((host.address,), ports)) for host in silent]
        future = simulation.submit(ScanJob((quick.address,), ports))
        simulation.run(future.done, within=1.0)
        assert not any(one.done() for one in slow)


# Jobs.


def test_jobs_on_one_address_are_not_mixed_up() -> None:
    """Two jobs of one address at once each get their own ports, exactly."""
    host = mixed()
    host.resets = 3
    ports = [PortSet.of_ranges([(1, 600)]), PortSet.of_ranges([(400, 1000)]), PortSet.of([65535])]
    with Simulation(host) as simulation:
        observations = simulation.scan(*[ScanJob((host.address,), some, seed=1) for some in ports], within=10.0)
    for observation, some in zip(observations, ports, strict=True):
        assert_exact(host, observation.addresses[0], some)
    assert sum(observation.probes for observation in observations) == len(simulation.network.sends)


def test_late_answers_of_a_job_do_not_reach_the_next() -> None:
    """Answers to the probes of a cancelled job do not count for the next job of that address."""
    host = Host(others=Truth.OPEN, rtt=0.5)
    with Simulation(host) as simulation:
        first = simulation.submit(ScanJob((host.address,), THOUSAND))
        simulation.run(lambda: len(simulation.network.sends) == 1000, within=0.1)
        first.cancel()
        host.others = Truth.DROPPED
        (observation,) = simulation.scan(ScanJob((host.address,), THOUSAND), within=5.0)
    assert_exact(host, observation.addresses[0], THOUSAND)
    assert not observation.addresses[0].answered


@pytest.mark.parametrize("when", [0.0, 0.03, 0.06, 0.3])
def test_cancelled_job_sends_nothing(when: float) -> None:
    """Once a job is cancelled none of its probes is sent; another job is unaffected."""
    ports = PortSet.of_ranges([(1, 5000)])
    hosts = [mixed("192.0.2.1", ports=ports), mixed("192.0.2.2", ports=ports)]
    with Simulation(*hosts) as simulation:
        cancelled, other = (simulation.submit(ScanJob((host.address,), ports)) for host in hosts)
        if when:
            simulation.run(lambda: simulation.network.elapsed >= when, within=1.0)
        cancelled.cancel()
        before = len([send for send in simulation.network.sends if send.address == hosts[0].address])
        simulation.run(other.done, within=5.0)
        stats = simulation.engine.stats
        assert stats.ports_submitted == stats.ports_settled == (10_000 if when else 5000)
    assert len([send for send in simulation.network.sends if send.address == hosts[0].address]) == before
    assert_exact(hosts[1], other.result(timeout=0).addresses[0], ports)


def test_queued_job_can_be_cancelled() -> None:
    """A job that waits behind another one of its address can be cancelled; the other one continues."""
    host = mixed()
    with Simulation(host) as simulation:
        first, second, third = (simulation.submit(ScanJob((host.address,), THOUSAND)) for _ in range(3))
        simulation.run(lambda: simulation.network.elapsed >= 0.03, within=1.0)
        second.cancel()
        simulation.run(lambda: first.done() and third.done(), within=5.0)
        stats = simulation.engine.stats
        assert stats.ports_submitted == stats.ports_settled == 3000
    for future in (first, third):
        assert_exact(host, future.result(timeout=0).addresses[0], THOUSAND)


def test_close_cancels_all_jobs() -> None:
    """Closing the engine cancels its jobs in any state and closes the channel; no port stays unsettled."""
    host = mixed()
    with Simulation(host) as simulation:
        futures = [simulation.submit(ScanJob((host.address,), THOUSAND)) for _ in range(2)]
        simulation.run(lambda: bool(simulation.network.sends), within=1.0)
        futures.append(simulation.submit(ScanJob((host.address,), THOUSAND)))
    assert all(future.cancelled() for future in futures)
    assert simulation.network.is_closed
    assert simulation.engine.stats.ports_settled == simulation.engine.stats.ports_submitted


def test_invalid_address_fails_its_job() -> None:
    """A job with an invalid address gets the error; the next one is scanned."""
    host = mixed()
    with Simulation(host) as simulation:
        wrong = simulation.submit(ScanJob(("not an address",), THOUSAND))
        (observation,) = simulation.scan(ScanJob((host.address,), THOUSAND))
    assert isinstance(wrong.exception(timeout=0), OSError)
    assert_exact(host, observation.addresses[0], THOUSAND)


def test_job_without_ports_or_addresses_is_done_at_once() -> None:
    """A job with nothing to scan sends nothing."""
    with Simulation(Host()) as simulation:
        no_ports, no_addresses = simulation.scan(ScanJob(("192.0.2.1",), NO_PORTS), ScanJob((), THOUSAND), within=0.1)
    assert not simulation.network.sends
    assert (no_ports.addresses[0].scanned, no_addresses.addresses) == (NO_PORTS, ())


def test_same_seed_gives_the_same_scan() -> None:
    """The seed decides the order of probes, whatever the sequence numbers are."""
    orders = [[send.port for send in scan(mixed(), ports=THOUSAND, seed=seed)[1]] for seed in (5, 5, 6)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][:1000] != sorted(orders[0][:1000])


def test_many_addresses_of_both_families() -> None:
    """Two hundred addresses at once are all scanned exactly."""
    ports = PortSet.of_ranges([(20, 40)])
    hosts = [
        mixed(f"192.0.2.{number}" if number % 2 else f"2001:db8::{number:x}", ports=ports, seed=number)
        for number in range(1, 201)
    ]
    seen, _ = scan(*hosts, ports=ports, within=3.0)
    for host, one in zip(hosts, seen, strict=True):
        assert one.address == host.address
        assert_exact(host, one, ports)


@MODEST
@given(
    truths=st.dictionaries(
        st.one_of(st.sampled_from([1, 2, 65534, 65535]), st.integers(1, 65535)), st.sampled_from(Truth), max_size=20
    ),
    seed=st.integers(0, 2**64 - 1),
    retries=st.integers(0, 3),
)
def test_small_sets_are_exact(truths: dict[int, Truth], seed: int, retries: int) -> None:
    """Whatever a few ports do, their states are right, with few probes."""
    host, ports = Host(ports=truths), PortSet.of(truths)
    (seen,), sends = scan(host, ports=ports, within=6.0, seed=seed, retries=retries)
    assert_exact(host, seen, ports)
    assert seen.answered == any(truth is not Truth.DROPPED for truth in truths.values())
    times = counted(sends)
    assert all(times[port] == 1 for port in ports if host.truth(port) not in SILENT)
    least = max(1 + retries, 2) if seen.rtt is not None else 1 + retries  # the last try is sent with reference probes
    assert all(1 + retries <= times[port] <= least for port in ports if host.truth(port) in SILENT)


@pytest.mark.parametrize("port", [1, 65535])
@pytest.mark.parametrize("truth", Truth)
def test_single_port_at_the_end_of_the_range(port: int, truth: Truth) -> None:
    """The first or the last port can be all that is scanned."""
    host = Host(ports={port: truth})
    (seen,), _ = scan(host, ports=PortSet.of([port]), within=3.0)
    assert_exact(host, seen, PortSet.of([port]))


@pytest.mark.parametrize("when", [0.0, 0.03, 0.5, 1.5])
@pytest.mark.parametrize("limit", [None, 50.0], ids=["quick", "limited"])
def test_ports_can_be_added_to_a_job_that_runs(when: float, limit: float | None) -> None:
    """Ports that are added to a job at any time are scanned exactly, also with limited answers."""
    few, more = PortSet.of_ranges([(1, 400)]), PortSet.of_ranges([(300, 600), (60_000, 60_100)])
    host = mixed(ports=few | more)
    if limit:
        host.limit = TokenBucket(limit, 50)
    with Simulation(host) as simulation:
        future = simulation.submit(ScanJob((host.address,), few, seed=1))
        if when:
            simulation.run(lambda: simulation.network.elapsed >= when or future.done(), within=5.0)
        simulation.engine.add_ports(future, more)
        simulation.run(future.done, within=120.0)
        stats = simulation.engine.stats
        assert stats.ports_submitted == stats.ports_settled
    row = future.result(timeout=0).addresses[0]
    assert_exact(host, row, few | more if len(row.scanned) > len(few) else few)
    assert limit is None or len(row.scanned) > len(few)


def test_ports_are_not_added_when_an_address_is_done() -> None:
    """A job with a settled address does not change: all of its addresses have the same ports."""
    quick, silent = mixed("192.0.2.1"), Host("192.0.2.2", others=Truth.DROPPED)
    quick.others = Truth.CLOSED
    ports = PortSet.of_ranges([(2000, 2010)])
    with Simulation(quick, silent) as simulation:
        future = simulation.submit(ScanJob((quick.address, silent.address), ports))
        simulation.run(lambda: simulation.engine.stats.ports_settled == len(ports), within=1.0)
        simulation.engine.add_ports(future, PortSet.of([1, 2, 3]))
        simulation.run(future.done, within=10.0)
    assert [row.scanned for row in future.result(timeout=0).addresses] == [ports, ports]
