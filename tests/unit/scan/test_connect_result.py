from __future__ import annotations

import contextlib
import gc
import os
import socket
import struct
from pathlib import Path

import pytest

from portspec.ports import NO_PORTS, PortSet
from portspec.scan import AddressObservation, PortState, ScanJob
from portspec.scan.connect import ConnectEngine
from portspec.scan.connect.address import ConnectAddressScan
from tests.unit.scan.loopback import (
    PATIENCE,
    V4,
    V6,
    descriptors,
    eventually,
    full_queue,
    listeners,
    listening,
    own_address,
    ports_of,
    silent_ports,
)


def scan(engine: ConnectEngine, *addresses: str, ports: PortSet, seed: int = 1) -> list[AddressObservation]:
    """Scan once; return what each address showed."""
    return list(engine.submit(ScanJob(addresses, ports, seed=seed)).result(timeout=PATIENCE).addresses)


@pytest.mark.parametrize("address", [V4, V6, "127.9.8.7"])
def test_listener_is_open_and_its_absence_closed(engine: ConnectEngine, address: str) -> None:
    """A port is open while a listener exists and closed afterwards, with IPv4 and IPv6."""
    with listeners(address, 3) as opened:
        ports = ports_of(opened)
        (first,) = scan(engine, address, ports=ports)
    (second,) = scan(engine, address, ports=ports)
    assert first.open == ports
    assert (first.filtered, first.closed, first.answered, first.failure) == (NO_PORTS, 0, True, None)
    assert second.open == NO_PORTS
    assert (second.filtered, second.closed, second.answered, second.failure) == (NO_PORTS, 3, True, None)


def test_result_is_exact_over_thousands_of_ports(engine: ConnectEngine) -> None:
    """Of 4,000 ports with 60 listeners among them, exactly those 60 are open and all others closed."""
    address = own_address()
    with listeners(address, 60) as opened:
        ports = PortSet.of_ranges([(30000, 33939)]) | ports_of(opened)
        before = listening(address)
        assert set(ports_of(opened)) <= before
        (observation,) = scan(engine, address, ports=ports)
        after = listening(address)
    found = set(observation.open)
    assert (before & after).intersection(ports) <= found <= (before | after)
    assert observation.scanned == ports
    assert observation.filtered == NO_PORTS
    assert observation.closed == len(ports) - len(found)


def test_each_address_of_a_job_is_seen_by_itself(engine: ConnectEngine) -> None:
    """A job with addresses of both families gives one observation for each, in the order of the job."""
    first, second = own_address(), own_address()
    with listeners(first) as on_first, listeners(second) as on_second, listeners(V6) as on_v6:
        each = [ports_of(on_first), ports_of(on_second), ports_of(on_v6)]
        ports = each[0] | each[1] | each[2]
        observations = scan(engine, first, V6, second, ports=ports)
    assert [observation.address for observation in observations] == [first, V6, second]
    assert [observation.open for observation in observations] == [each[0], each[2], each[1]]
    assert all(observation.scanned == ports for observation in observations)


def test_rtt_is_that_of_an_answer(engine: ConnectEngine) -> None:
    """The round-trip time of an address that answers on loopback is positive and far below a second."""
    (observation,) = scan(engine, own_address(), ports=PortSet.of([1]))
    assert observation.rtt is not None
    assert 0.0 < observation.rtt < 1.0


def test_silent_port_is_filtered_after_every_attempt(quick_engine: ConnectEngine) -> None:
    """A port that never answers is probed 1 + retries times and then filtered; the address did not answer."""
    address = own_address()
    with silent_ports(address, 3) as ports:
        observation = quick_engine.submit(ScanJob((address,), ports)).result(timeout=PATIENCE)
    (silent,) = observation.addresses
    assert silent.filtered == ports
    assert (silent.open, silent.closed, silent.answered, silent.rtt) == (NO_PORTS, 0, False, None)
    assert observation.probes == 2 * len(ports)
    assert observation.duration >= 2 * 0.05


def test_silent_open_and_closed_ports_are_distinguished(quick_engine: ConnectEngine) -> None:
    """Ports in the three states on one address each have their own state."""
    address = own_address()
    with silent_ports(address) as silent, listeners(address) as opened:
        is_open = ports_of(opened)
        (seen,) = scan(quick_engine, address, ports=silent | is_open | PortSet.of([1]))
    states = {port: seen.state(port) for port in seen.scanned}
    assert states == {
        **dict.fromkeys(silent, PortState.FILTERED),
        **dict.fromkeys(is_open, PortState.OPEN),
        1: PortState.CLOSED,
    }
    assert seen.answered


def test_port_that_answers_a_later_attempt_is_open() -> None:
    """A listener that was too busy for the first probe is found open by a retry."""
    address = own_address()
    engine = ConnectEngine(timeout=0.05, retries=200)
    try:
        with listeners(address, backlog=0) as (listener,):
            port = ports_of([listener])
            with full_queue(listener):
                future = engine.submit(ScanJob((address,), port))
                eventually(lambda: engine.stats.probes_sent >= 2, "a second attempt")
                assert not future.done()
            assert future.result(timeout=PATIENCE).addresses[0].open == port
    finally:
        engine.close()


def test_probes_are_counted(engine: ConnectEngine) -> None:
    """On loopback each port takes one probe: in the observation, and in the engine's running totals."""
    ports = PortSet.of_ranges([(1, 50)])
    observation = engine.submit(ScanJob((own_address(), own_address()), ports)).result(timeout=PATIENCE)
    assert observation.probes == 100
    stats = engine.stats
    assert (stats.probes_sent, stats.ports_submitted, stats.ports_settled) == (100, 100, 100)


@pytest.mark.parametrize(
    ("addresses", "ports"), [((), PortSet.of([1])), ((V4,), NO_PORTS), ((), NO_PORTS), ((V4, V6), NO_PORTS)]
)
def test_job_with_nothing_to_probe_ends_at_once(
    engine: ConnectEngine, addresses: tuple[str, ...], ports: PortSet
) -> None:
    """A job without addresses or without ports returns an observation, and sends nothing."""
    observation = engine.submit(ScanJob(addresses, ports)).result(timeout=PATIENCE)
    assert [seen.address for seen in observation.addresses] == list(addresses)
    assert observation.probes == 0


def test_connection_to_itself_is_no_open_port(engine: ConnectEngine) -> None:
    """Of this machine's own ephemeral ports, only those with a listener are open."""
    ephemeral = PortSet.of_ranges([(32768, 60999)])
    for seed in range(4):
        address = own_address()  # on which no other test listens, but for those that listen on all addresses
        always = ever = listening(address)
        future = engine.submit(ScanJob((address,), ephemeral, seed=seed))
        while not future.done():
            now = listening(address)
            always, ever = always & now, ever | now
        observation = future.result().addresses[0]
        now = listening(address)
        assert set(observation.open) <= ever | now
        assert (always & now).intersection(ephemeral) <= set(observation.open)
        assert observation.filtered == NO_PORTS


def test_many_small_jobs_at_once_keep_their_answers_apart(engine: ConnectEngine) -> None:
    """Two hundred jobs in progress together each get the result of their own address and ports."""
    before = descriptors()
    with listeners(own_address(), 4) as opened:
        address = opened[0].getsockname()[0]
        is_open = list(ports_of(opened))
        jobs = [ScanJob((address,), PortSet.of([is_open[number % 4], number + 1])) for number in range(200)]
        futures = [engine.submit(job) for job in jobs]
        found = [future.result(timeout=PATIENCE).addresses[0].open for future in futures]
    assert found == [PortSet.of([is_open[number % 4]]) for number in range(200)]
    eventually(lambda: descriptors() <= before, "the engine gives its sockets back")


def test_ports_can_be_added_to_a_job_that_runs() -> None:
    """Ports that are added while a job waits for silent ones are scanned with it, exactly; then it is done."""
    address = own_address()
    engine = ConnectEngine(timeout=0.3, retries=2)
    try:
        with silent_ports(address, 5) as silent, listeners(address, 5) as opened:
            first = engine.submit(ScanJob((address,), silent))
            others = ports_of(opened) | PortSet.of_ranges([(1, 50)])
            engine.add_ports(first, others | silent)
            (row,) = first.result(timeout=PATIENCE).addresses
            assert (row.scanned, row.open, row.filtered) == (silent | others, ports_of(opened), silent)
        assert engine.stats.ports_submitted == engine.stats.ports_settled == len(silent | others)
        engine.add_ports(first, PortSet.of([99]))  # it is over
        assert engine.submit(ScanJob((address,), PortSet.of([1]))).result(timeout=PATIENCE).addresses[0].closed == 1
        assert engine.stats.ports_submitted == len(silent | others) + 1
    finally:
        engine.close()


def test_ports_are_not_added_when_an_address_is_done() -> None:
    """A job with a settled address does not change: all of its addresses have the same ports."""
    quick, slow = own_address(), own_address()
    engine = ConnectEngine(timeout=0.3, retries=2)
    try:
        with silent_ports(slow) as ports:
            future = engine.submit(ScanJob((quick, slow), ports))
            eventually(lambda: engine.stats.ports_settled >= 1, "the quick address is settled")
            engine.add_ports(future, PortSet.of([1, 2, 3]))
            assert [row.scanned for row in future.result(timeout=PATIENCE).addresses] == [ports, ports]
    finally:
        engine.close()


def held(engine: ConnectEngine, address: str, ports: PortSet, hold: float = 0.2) -> AddressObservation:
    """Connect, and hold the connections."""
    job = ScanJob((address,), ports, patience=PATIENCE, hold=hold)
    return engine.submit(job).result(timeout=PATIENCE).addresses[0]


def test_connection_that_stays_up_is_open(engine: ConnectEngine) -> None:
    """A port whose connection is not reset while it is held is open, and a closed one closed."""
    address = own_address()
    with listeners(address, 3) as opened:
        ports = ports_of(opened)
        found = held(engine, address, ports)
    assert (found.open, found.filtered, found.closed) == (ports, NO_PORTS, 0)
    assert held(engine, address, ports).closed == 3


@pytest.mark.parametrize("is_reset", [True, False])
def test_connection_that_the_peer_ends(engine: ConnectEngine, *, is_reset: bool) -> None:
    """A port that resets its connections while they are held is closed; one that ends them in order is open."""
    address = own_address()
    with listeners(address, 1) as (listener,):
        future = engine.submit(ScanJob((address,), ports_of([listener]), hold=PATIENCE if is_reset else 0.5))
        connection = listener.accept()[0]
        if is_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        found = future.result(timeout=PATIENCE).addresses[0]
    assert (found.closed, len(found.open)) == ((1, 0) if is_reset else (0, 1))
    assert found.answered


def receive_buffers(port: int) -> list[int]:
    """Return the sizes of the receive buffers of this process's connections to a port, in bytes."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # one that was closed meanwhile, or is not connected
            if entry.readlink().name.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry.name))) as sock:
                    if sock.family == socket.AF_INET and sock.getpeername()[1] == port:
                        found.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
    return found


def test_held_connection_keeps_next_to_nothing_of_what_the_peer_sends(engine: ConnectEngine) -> None:
    """A host that sends without end on each connection does not fill the memory of the kernel."""
    address = own_address()
    with listeners(address, 1) as (listener,):
        port = listener.getsockname()[1]
        future = engine.submit(ScanJob((address,), PortSet.of([port]), hold=PATIENCE))
        connection = listener.accept()[0]
        eventually(lambda: max(receive_buffers(port), default=1 << 20) < 8192, "its receive buffer is small")
        future.cancel()
        connection.close()


def test_cancelled_job_closes_held_connections(engine: ConnectEngine) -> None:
    """Held connections end with their job, and no descriptor is left."""
    address = own_address()
    with listeners(address, 2) as opened:
        future = engine.submit(ScanJob((address,), ports_of(opened), hold=PATIENCE))
        connections = [listener.accept()[0] for listener in opened]
        future.cancel()
        for connection in connections:
            connection.settimeout(PATIENCE)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
            connection.close()


def test_scan_that_has_ended_is_freed_without_the_garbage_collector(quick_engine: ConnectEngine) -> None:
    """The state of an address, 64 KiB of ports, and that of its checks is freed with its job: collections are rare."""
    gc.collect()
    gc.disable()
    try:
        address = own_address()
        with silent_ports(address) as silent:
            for _ in range(3):
                (observation,) = scan(quick_engine, address, ports=silent | PortSet.of(range(1, 5)))
                assert (observation.filtered, observation.closed) == (silent, 4)
        scan(quick_engine, own_address(), ports=PortSet.of([1]))
        assert sum(isinstance(found, ConnectAddressScan) for found in gc.get_objects()) <= 1  # that of the last turn
    finally:
        gc.enable()
