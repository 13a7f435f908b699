"""A simulated network in simulated time: a channel for the SYN engine, and hosts whose truth is known."""

from __future__ import annotations

import enum
import heapq
import math
import os
import random
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np

from portspec.scan.job import Observation, ScanJob
from portspec.scan.netlink import Link, Neighbour, Route
from portspec.scan.syn.engine import SynEngine
from portspec.scan.syn.filter import FIRST_SOURCE_PORT, SOURCE_PORTS
from portspec.scan.syn.packets import Answers, pack
from portspec.scan.syn.port_states import CLOSED, FILTERED, LOCAL_REJECTION, OPEN
from portspec.scan.syn.reference_ports import BEFORE
from portspec.scan.syn.socket import MAX_BATCH, Sent, Unsent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portspec.ports import PortSet
    from portspec.scan.job import AddressObservation
    from portspec.scan.pacing import Pacer
    from portspec.scan.syn.packets import Probes

START = 1000.0  # what the clock shows at first; all other times here are seconds after it
TURN = 2e-5  # seconds that a turn of the engine takes at least
MOST_TURNS = 200_000
NEVER = math.inf
OWN4, OWN6 = "198.51.100.1", "2001:db8:ffff::1"  # this machine's
MODULUS = 1 << 32
_KINDS = (OPEN, CLOSED, FILTERED)


class Truth(enum.Enum):
    """What a port does with a SYN."""

    OPEN = "open"
    CLOSED = "closed"
    DROPPED = "dropped"
    REJECTED = "rejected"  # with an ICMP error


class Limit(Protocol):
    """How many RSTs a host sends."""

    def allows(self, now: float) -> bool:
        """Return whether one may be sent now; then it counts as sent."""
        ...


@dataclass(slots=True)
class TokenBucket:
    """So many each second, `burst` at once."""

    rate: float
    burst: float
    _tokens: float = field(init=False)
    _filled_at: float = 0.0

    def __post_init__(self) -> None:
        self._tokens = self.burst

    def allows(self, now: float) -> bool:
        """Take a token if there is one."""
        self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


@dataclass(slots=True)
class EachSecond:
    """So many in each second of the clock, as FreeBSD does it (net.inet.icmp.icmplim)."""

    most: int
    _second: int = -1
    _sent: int = 0

    def allows(self, now: float) -> bool:
        """Count one of this second."""
        if math.floor(now) != self._second:
            self._second, self._sent = math.floor(now), 0
        self._sent += 1
        return self._sent <= self.most


@dataclass(frozen=True, slots=True)
class Via:
    """How a host is reached: from which address of this machine, through which link, and who is next on it.

    `next_hop` "" is the host itself; `changes` of the link's carrier.
    """

    source: str
    interface: str = "sim0"
    has_link: bool = True
    changes: int = 0
    next_hop: str = ""
    neighbour: Neighbour = Neighbour.KNOWN


@dataclass(slots=True)
class Host:
    """One address: the truth of its ports, and how it, or the way to it, behaves. Times in seconds after START."""

    address: str = "192.0.2.1"
    ports: dict[int, Truth] = field(default_factory=dict)
    others: Truth = Truth.CLOSED  # the truth of all other ports
    rtt: float = 0.05
    loss: float = 0.0  # of the probes, and again of the answers
    limit: Limit | None = None  # of the SYNs that an RST answers
    resets: int = 1  # RSTs for one SYN
    is_syn_counted: bool = True  # by an RST: it acknowledges the sequence number + 1
    takes_back: bool = False  # a SYN-ACK, by an RST that follows
    is_rejecting_itself: bool = True  # the ICMP errors come from the host, not from a router
    is_unsent: bool = False  # this machine itself answers each probe with an ICMP error
    silent_from: float = NEVER
    stalls: tuple[float, float] = (NEVER, NEVER)
    answers_late: bool = False  # what came during the stall is answered after it, not lost
    refused: tuple[float, int] = (NEVER, 0)  # from when on a send fails, with which errno
    routes: list[tuple[float, Via | int]] = field(default_factory=list)  # from when on, the way or an errno
    forgeries: bool = False  # somebody guesses at answers to each probe, and nearly hits

    def truth(self, port: int) -> Truth:
        """Return the truth of a port."""
        return self.ports.get(port, self.others)

    def via(self, now: float) -> Via:
        """Return the way to the host; OSError if there is none."""
        current: Via | int = Via(OWN6 if ":" in self.address else OWN4)
        for since, route in self.routes:
            if since <= now:
                current = route
        if isinstance(current, Via):
            return current
        raise OSError(current, os.strerror(current))


class Send(NamedTuple):
    """A probe that went out, `at` seconds after START."""

    at: float
    address: str
    port: int
    attempt: int
    source_port: int
    sequence: int

    @property
    def is_reference_probe(self) -> bool:
        """True for a probe to a port that is known to answer."""
        return self.attempt >= BEFORE


class Packet(NamedTuple):
    """Something that looks like an answer, as the columns of Answers."""

    peer: str
    own: str
    port: int
    source_port: int
    sequence: int
    kind: int
    direct: bool = True


class Network:
    """A channel to made-up hosts; time passes when the test lets it.

    `room_to_receive` is for how many answers at once the ring has room; `full` from when until when the kernel has
    room for only `room` probes of a call.
    """

    first_source_port = FIRST_SOURCE_PORT

    def __init__(
        self,
        hosts: Iterable[Host],
        *,
        seed: int = 0,
        room_to_receive: int = 1 << 30,
        full: tuple[float, float] = (NEVER, NEVER),
        room: int = 0,
    ) -> None:
        self.hosts = {host.address: host for host in hosts}
        self.dropped = 0
        self._room_to_receive = room_to_receive
        self.sends: list[Send] = []
        self.questions = 0  # about routes
        self.received = 0
        self.is_closed = False
        self.is_rung = False  # somebody called the engine meanwhile
        self._now = START
        self._full = full
        self._room = room
        self._rng = random.Random(seed)  # noqa: S311 - not a secret
        self._packed = {pack(address): host for address, host in self.hosts.items()}
        self._arrivals: list[tuple[float, int, Packet]] = []
        self._numbers = count()

    @property
    def elapsed(self) -> float:
        """The seconds since START."""
        return self._now - START

    def clock(self) -> float:
        """Return the time."""
        return self._now

    def entropy(self, size: int) -> bytes:
        """Return bytes that are the same in each run."""
        return self._rng.randbytes(size)

    def advance(self, seconds: float | None) -> None:
        """Let time pass: so long (None: for ever), or until something arrives or somebody calls."""
        moments = [] if seconds is None else [self._now + seconds]
        if self.is_rung:
            moments.append(self._now)
            self.is_rung = False
        if self._arrivals:
            moments.append(self._arrivals[0][0])
        assert moments, "the engine waits for what never comes"
        self._now = max(self._now + TURN, min(moments))

    def ring(self) -> None:
        """Call the engine, as EngineThread does when a future is done."""
        self.is_rung = True

    def arrive(self, packet: Packet, *, after: float = 0.0) -> None:
        """Have a packet arrive in so many seconds."""
        heapq.heappush(self._arrivals, (self._now + after, next(self._numbers), packet))

    # What follows is the channel.

    @property
    def network(self) -> Self:
        """Return what is asked about routes."""
        return self

    def route(self, address: str) -> Route:
        """Return the route to an address: each has an interface of its own."""
        via = self.hosts[address].via(self.elapsed)
        self.questions += 1
        return Route(via.source, 1 + list(self.hosts).index(address), via.next_hop or address)

    def link(self, index: int) -> Link:
        """Return the state of an interface."""
        via = list(self.hosts.values())[index - 1].via(self.elapsed)
        return Link(via.interface, via.has_link, via.changes, has_neighbours=True)

    def neighbour(self, route: Route) -> Neighbour:
        """Return what is known of the next hop."""
        return list(self.hosts.values())[route.index - 1].via(self.elapsed).neighbour

    def wake_on(self, fd: int) -> None:
        """Do nothing: nobody waits here."""

    def wait(self, seconds: float | None) -> None:
        """Never come here: tests let time pass themselves."""
        raise AssertionError(seconds)

    def send(self, family: int, probes: Probes) -> Sent:
        """Take probes, as the kernel does."""
        del family
        total = len(probes)
        assert 0 < total <= MAX_BATCH
        report = Sent(np.full(total, self._now), [])
        is_full = self._full[0] <= self.elapsed < self._full[1]
        last = min(self._room, total) if is_full else total
        edges = [0, *(np.flatnonzero(np.diff(probes.target)) + 1).tolist(), total]
        for first, end in pairwise(edges):
            host = self._packed[probes.peer[first].tobytes()]
            assert (probes.peer[first:end] == probes.peer[first]).all()
            if first < last and host.refused[0] <= self.elapsed:
                report.unsent.append(Unsent(first, min(end, last), host.refused[1]))
                continue
            own = host.via(0.0).source
            assert probes.own[first].tobytes() == pack(own)
            columns = (probes.port, probes.source_port, probes.sequence)
            rows = zip(*(column[first : min(end, last)].tolist() for column in columns), strict=True)
            for port, source_port, sequence in rows:
                send = Send(
                    self.elapsed, host.address, port, source_port - self.first_source_port, source_port, sequence
                )
                self.sends.append(send)
                self._travel(host, own, send)
        if last < total:
            report.unsent.append(Unsent(last, total, 0))
        return report

    def receive(self) -> list[Answers]:
        """Return what has arrived, as far as the ring had room for it."""
        packets: list[tuple[float, Packet]] = []
        while self._arrivals and self._arrivals[0][0] <= self._now:
            at, _, packet = heapq.heappop(self._arrivals)
            if len(packets) < self._room_to_receive:
                packets.append((at, packet))
            else:
                self.dropped += 1
        self.received += len(packets)
        middle = len(packets) // 2  # two batches, as a ring that begins anew gives them
        return [_answers(some) for some in (packets[:middle], packets[middle:]) if some]

    def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True

    def _travel(self, host: Host, own: str, probe: Send) -> None:
        """Let a probe reach its host, and the answers come back."""
        if host.forgeries:
            self._forge(host, own, probe)
        if self._is_lost(host):
            return
        there = probe.at + host.rtt / 2
        if there >= host.silent_from:
            return
        delay = host.rtt
        if host.stalls[0] <= there < host.stalls[1]:
            if not host.answers_late:
                return
            delay += host.stalls[1] - there
        for number, (kind, behind, direct) in enumerate(self._answers_to(host, probe.port, there)):
            if not self._is_lost(host):
                sequence = (probe.sequence - behind) % MODULUS
                packet = Packet(host.address, own, probe.port, probe.source_port, sequence, kind, direct)
                self.arrive(packet, after=delay + number * 1e-4)

    def _is_lost(self, host: Host) -> bool:
        return host.loss > 0.0 and self._rng.random() < host.loss

    def _answers_to(self, host: Host, port: int, now: float) -> list[tuple[int, int, bool]]:
        """Return the kinds of the answers to a SYN, how far behind its sequence number each is, whose it is."""
        if host.is_unsent:
            return [(LOCAL_REJECTION, 0, False)]
        truth = host.truth(port)
        behind = 0 if host.is_syn_counted else 1
        if truth is Truth.OPEN:
            return [(OPEN, 0, True), (CLOSED, 0, True)] if host.takes_back else [(OPEN, 0, True)]
        if truth is Truth.CLOSED and (host.limit is None or host.limit.allows(now)):
            return [(CLOSED, behind, True)] * host.resets
        if truth is Truth.REJECTED:
            return [(FILTERED, 0, host.is_rejecting_itself)]
        return []

    def _forge(self, host: Host, own: str, probe: Send) -> None:
        """Let somebody who knows all but the sequence number answer, before the host can."""
        for kind in _KINDS:
            guesses = [1, -2, 1 << self._rng.randrange(1, 32), self._rng.randrange(2, MODULUS - 1)]
            for guess in guesses if kind == CLOSED else [-1, *guesses]:
                sequence = (probe.sequence + guess) % MODULUS
                self.arrive(Packet(host.address, own, probe.port, probe.source_port, sequence, kind))
            # The right number, of another port, another try, another host, another address of this machine.
            right = Packet(host.address, own, probe.port, probe.source_port, probe.sequence, kind)
            other_port = probe.port % 65535 + 1
            other_try = self.first_source_port + (probe.attempt + 1) % SOURCE_PORTS
            other_host = self._rng.choice([address for address in self.hosts if address != host.address] or [own])
            for changed in ({"port": other_port}, {"source_port": other_try}, {"peer": other_host}, {"own": OWN6}):
                self.arrive(right._replace(**changed))


def _answers(packets: list[tuple[float, Packet]]) -> Answers:
    words = [
        np.frombuffer(b"".join(pack(address) for address in addresses), "<u8").reshape(-1, 2).astype(np.uint64)
        for addresses in ([packet.peer for _, packet in packets], [packet.own for _, packet in packets])
    ]
    return Answers(
        peer_high=words[0][:, 0],
        peer_low=words[0][:, 1],
        own_high=words[1][:, 0],
        own_low=words[1][:, 1],
        port=np.array([packet.port for _, packet in packets], np.uint16),
        source_port=np.array([packet.source_port for _, packet in packets], np.uint16),
        sequence=np.array([packet.sequence for _, packet in packets], np.uint32),
        kind=np.array([packet.kind for _, packet in packets], np.uint8),
        direct=np.array([packet.direct for _, packet in packets], np.bool_),
        at=np.array([at for at, _ in packets], np.float64),
    )


class Simulation:
    """An engine on a made-up network, driven turn by turn; as a context manager it closes the engine."""

    def __init__(
        self,
        *hosts: Host,
        network: Network | None = None,
        retries: int = 2,
        timeout: float = 0.9,
        rate: float | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        self.network = network or Network(hosts)
        self.engine = SynEngine(
            self.network,
            timeout=timeout,
            retries=retries,
            rate=rate,
            pacer=pacer,
            clock=self.network.clock,
            entropy=self.network.entropy,
        )
        self.turns = 0
        self.idle = 0  # turns in which nothing came or went, and after which the engine did not want to rest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def submit(self, job: ScanJob) -> Future[Observation]:
        """Start a job without starting a thread."""
        future: Future[Observation] = Future()
        future.add_done_callback(lambda _: self.network.ring())
        self.engine._inbox.append((job, future))
        return future

    def run(self, is_done: Callable[[], bool], *, within: float) -> None:
        """Take turns until something is so; it has to be within so many seconds."""
        end = self.network.elapsed + within
        while True:
            before = len(self.network.sends), self.network.received
            wait = self.engine.step()
            self.turns += 1
            if is_done():
                return
            if wait == 0.0 and before == (len(self.network.sends), self.network.received):
                self.idle += 1
            self.network.advance(wait)
            assert self.turns < MOST_TURNS, "the engine never rests"
            assert self.network.elapsed <= end, f"not done within {within:g} seconds"

    def scan(self, *jobs: ScanJob, within: float = 10.0) -> list[Observation]:
        """Run jobs that are submitted together, until the last is done."""
        futures = [self.submit(job) for job in jobs]
        self.run(lambda: all(future.done() for future in futures), within=within)
        stats = self.engine.stats
        assert stats.ports_submitted == stats.ports_settled
        assert stats.probes_sent == len(self.network.sends)
        return [future.result(timeout=0) for future in futures]


def scan(
    *hosts: Host, ports: PortSet, within: float = 10.0, seed: int = 0, retries: int = 2
) -> tuple[tuple[AddressObservation, ...], list[Send]]:
    """Scan hosts as the addresses of one job; return what was seen of each, and every probe."""
    with Simulation(*hosts, retries=retries) as simulation:
        job = ScanJob(tuple(host.address for host in hosts), ports, seed=seed)
        (observation,) = simulation.scan(job, within=within)
    assert observation.probes == len(simulation.network.sends)
    assert observation.duration <= within
    return observation.addresses, simulation.network.sends


def assert_exact(host: Host, seen: AddressObservation, ports: PortSet) -> None:
    """Compare what was seen of a host with its truth."""
    assert seen.failure is None
    assert seen.scanned == ports
    assert set(seen.open) == {port for port in ports if host.truth(port) is Truth.OPEN}
    assert set(seen.filtered) == {port for port in ports if host.truth(port) in {Truth.DROPPED, Truth.REJECTED}}


def most_in_a_second(sends: Iterable[Send]) -> int:
    """Return how many probes the busiest second has, wherever it begins."""
    times = np.sort(np.array([send.at for send in sends]))
    if not len(times):
        return 0
    return int((np.searchsorted(times, times + (1.0 - 1e-6)) - np.arange(len(times))).max())
