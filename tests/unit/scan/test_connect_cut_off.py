from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest

from portspec.ports import ALL_PORTS, PortSet
from portspec.scan import Failure, Observation, Reason, ScanJob
from portspec.scan.connect import ConnectEngine
from tests.unit.scan.loopback import (
    PATIENCE,
    V4,
    V6,
    descriptors,
    eventually,
    listeners,
    own_address,
    ports_of,
    silent_ports,
)

SOME_PORTS = PortSet.of_ranges([(1, 300)])
STOP_LIMIT = 1.0  # seconds in which close() must return, whatever is in progress


def slow_job() -> ScanJob:
    """Return a job that takes hours."""
    return ScanJob((own_address(), V6), ALL_PORTS, host_rate=1.0)


def impossible_job() -> ScanJob:
    """Return a job that raises when its first probe is sent: the port does not exist."""
    return ScanJob((V4,), PortSet(((70_000, 70_000),)))


def run_time(thread_id: int) -> int:
    """Return the nanoseconds of processor time that a thread of this process has used."""
    return int(Path(f"/proc/self/task/{thread_id}/schedstat").read_text(encoding="ascii").split()[0])


def test_listener_receives_no_byte_and_a_reset(engine: ConnectEngine) -> None:
    """What a listener sees of a probe is a connection, not one byte, and a reset: nothing stays in TIME_WAIT."""
    for address in (own_address(), V6):
        with listeners(address) as (listener,):
            engine.submit(ScanJob((address,), ports_of([listener]))).result(timeout=PATIENCE)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE)
                with pytest.raises(ConnectionResetError):
                    connection.recv(1)


def test_cancelling_a_future_ends_the_job_and_frees_its_sockets(engine: ConnectEngine) -> None:
    """After the cancellation of a job that waits for answers, its sockets are closed and nothing more is sent."""
    before = descriptors()
    address = own_address()
    with silent_ports(address, 20) as ports:
        inside = descriptors()
        future = engine.submit(ScanJob((address,), ports))
        eventually(lambda: engine.stats.probes_sent == 20, "all probes are out")
        assert descriptors() == inside + 20
        assert future.cancel()
        eventually(lambda: descriptors() == inside, "the job's sockets are closed")
        assert future.cancelled()
        assert engine.stats.probes_sent == 20
    assert descriptors() == before


def test_cancelling_one_job_leaves_the_others_alone(engine: ConnectEngine) -> None:
    """A job in progress beside a cancelled one gets its whole result."""
    address = own_address()
    with silent_ports(address) as silent, listeners(address) as opened:
        is_open = ports_of(opened)
        doomed = engine.submit(ScanJob((address,), silent))
        other = engine.submit(ScanJob((address,), is_open | SOME_PORTS, host_rate=2000.0))
        doomed.cancel()
        (seen,) = other.result(timeout=PATIENCE).addresses
    assert seen.open == is_open
    assert seen.closed == len(SOME_PORTS)


def test_close_in_the_middle_of_scans_returns_at_once_and_cancels_them() -> None:
    """close() returns within a second while jobs run and wait, cancels all their futures, and frees every socket."""
    before = descriptors()
    engine = ConnectEngine()
    futures = [engine.submit(slow_job()) for _ in range(5)]
    futures.append(engine.submit(ScanJob((own_address(),), ALL_PORTS)))
    eventually(lambda: engine.stats.probes_sent > 100, "the scans have begun")
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < STOP_LIMIT
    assert all(future.cancelled() for future in futures)
    assert descriptors() == before


def test_close_does_not_wait_for_jobs_to_be_set_up() -> None:
    """close() returns within a second also right after a hundred jobs of all ports were submitted."""
    engine = ConnectEngine()
    futures = [engine.submit(ScanJob((own_address(), V6), ALL_PORTS)) for _ in range(100)]
    eventually(lambda: engine.stats.ports_submitted > 0, "the engine has begun with the jobs")
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < STOP_LIMIT
    assert all(future.cancelled() for future in futures)


def test_close_wakes_waiting_threads() -> None:
    """A thread that waits for a result when the engine is closed gets CancelledError."""
    engine = ConnectEngine()
    future = engine.submit(slow_job())
    timer = threading.Timer(0.05, engine.close)
    timer.start()
    with pytest.raises(CancelledError):
        future.result(timeout=PATIENCE)
    timer.join()


def test_thread_starts_with_the_first_job() -> None:
    """An engine without a job has no thread, so its thread does not keep capabilities dropped before."""
    known = set(threading.enumerate())
    engine = ConnectEngine()
    try:
        assert set(threading.enumerate()) <= known
        for _ in range(2):
            engine.submit(ScanJob((V4,), PortSet.of([1]))).result(timeout=PATIENCE)
            assert [thread.name for thread in set(threading.enumerate()) - known] == ["portspec-connect"]
    finally:
        engine.close()
    assert set(threading.enumerate()) <= known


def test_engine_that_never_had_a_job_leaves_nothing_open() -> None:
    """close() frees every descriptor also when no thread was ever started."""
    before = descriptors()
    ConnectEngine().close()
    assert descriptors() == before


def test_submit_after_close_is_an_error() -> None:
    """A closed engine accepts no job, and may be closed again."""
    engine = ConnectEngine()
    engine.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(slow_job())


def submit_until_closed(engine: ConnectEngine, futures: list[Future[Observation]]) -> None:
    """Submit jobs, and cancel each second one, until the engine refuses them."""
    with contextlib.suppress(RuntimeError):
        while True:
            futures.append(engine.submit(ScanJob((V4,), PortSet.of([1]))))
            if len(futures) % 2:
                futures[-1].cancel()


def test_close_races_with_submit_and_cancel() -> None:
    """While other threads submit and cancel, close() leaves no future unresolved."""
    for _ in range(20):
        engine = ConnectEngine()
        futures: list[Future[Observation]] = []
        thread = threading.Thread(target=submit_until_closed, args=(engine, futures))
        thread.start()
        while len(futures) < 5:
            assert thread.is_alive()
        engine.close()
        thread.join()
        assert all(future.done() for future in futures)


def test_no_descriptor_leaks_over_many_jobs(engine: ConnectEngine) -> None:
    """After a hundred jobs of open, closed and cancelled probes there are as many descriptors as before."""
    before = descriptors()
    address = own_address()
    with listeners(address, 5) as opened:
        inside = descriptors()
        ports = SOME_PORTS | ports_of(opened)
        for number in range(100):
            future = engine.submit(ScanJob((address, V6), ports, seed=number))
            if number % 3 == 0:
                future.cancel()
            else:
                future.result(timeout=PATIENCE)
        eventually(lambda: descriptors() == inside, "the engine is idle and keeps no socket")
    assert descriptors() == before


def test_idle_engine_uses_no_processor_and_keeps_no_sockets() -> None:
    """An engine without jobs closes its sockets and sleeps until the next job."""
    before = descriptors()
    known = {thread.native_id for thread in threading.enumerate()}
    engine = ConnectEngine()
    try:
        own = descriptors()
        engine.submit(ScanJob((own_address(), V6), SOME_PORTS)).result(timeout=PATIENCE)
        (thread_id,) = {thread.native_id for thread in threading.enumerate()} - known
        assert thread_id is not None
        eventually(lambda: descriptors() == own, "idle sockets are closed")
        quiet_since = [time.monotonic(), run_time(thread_id)]

        def is_quiet() -> bool:
            if run_time(thread_id) != quiet_since[1]:
                quiet_since[:] = [time.monotonic(), run_time(thread_id)]
            return time.monotonic() - quiet_since[0] > 0.5

        eventually(is_quiet, "half a second without work for the processor")
        engine.submit(ScanJob((own_address(),), SOME_PORTS)).result(timeout=PATIENCE)
    finally:
        engine.close()
    assert descriptors() == before


def test_fault_fails_its_job_only(engine: ConnectEngine) -> None:
    """A job that cannot run fails with its error, leaks no socket, and the next job is scanned as usual."""
    before = descriptors()
    fault = engine.submit(impossible_job()).exception(timeout=PATIENCE)
    assert isinstance(fault, OverflowError)
    assert descriptors() == before
    assert engine.submit(ScanJob((V6,), SOME_PORTS)).result(timeout=PATIENCE).addresses[0].answered


def test_fault_does_not_affect_running_jobs(engine: ConnectEngine) -> None:
    """A job in progress gets its whole result while another one fails."""
    address = own_address()
    good = engine.submit(ScanJob((address,), SOME_PORTS, host_rate=2000.0))
    bad = engine.submit(impossible_job())
    assert bad.exception(timeout=PATIENCE) is not None
    assert good.result(timeout=PATIENCE).addresses[0].closed == len(SOME_PORTS)


def test_so_far_has_what_was_seen(engine: ConnectEngine) -> None:
    """so_far() returns the ports that have answered; None for a job that is over."""
    failure = Failure(Reason.TIMEOUT, "too late")
    address = own_address()
    with silent_ports(address) as silent, listeners(address) as opened:
        is_open = ports_of(opened)
        future = engine.submit(ScanJob((address,), silent | is_open | SOME_PORTS))
        eventually(
            lambda: engine.stats.ports_settled == len(is_open | SOME_PORTS), "all are settled but for the silent one"
        )
        seen = engine.so_far(future, failure).result(timeout=PATIENCE)
        assert seen
        (item,) = seen.addresses
        assert (item.scanned, item.open, item.failure) == (is_open | SOME_PORTS, is_open, failure)
        future.cancel()
        eventually(lambda: engine.so_far(future, failure).result(PATIENCE) is None, "the job is over")
    engine.close()
    assert engine.so_far(future, failure).result(timeout=PATIENCE) is None


def test_cancelled_so_far_is_dropped(engine: ConnectEngine) -> None:
    """Cancelling a call of so_far() stops no job."""
    address = own_address()
    with silent_ports(address) as silent:
        future = engine.submit(ScanJob((address,), silent))
        for _ in range(100):
            engine.so_far(future, Failure(Reason.TIMEOUT, "too late")).cancel()
        other = engine.submit(ScanJob((own_address(),), SOME_PORTS))
        assert other.result(timeout=PATIENCE).addresses[0].closed == len(SOME_PORTS)
        assert not future.done()


def test_job_that_waits_for_answers_is_slow_and_leaves_the_window_to_others() -> None:
    """A job without answers becomes slow, and another one then gets most of the window."""
    told = threading.Event()
    address = own_address()
    engine = ConnectEngine(timeout=30.0, retries=0, window=8)
    try:
        with silent_ports(address, 20) as silent:
            future = engine.submit(ScanJob((address,), silent, on_slow=told.set))
            assert told.wait(PATIENCE)
            other = engine.submit(ScanJob((own_address(),), SOME_PORTS))
            eventually(lambda: len(engine._scans) == 2 or other.done(), "the other one begins")
            assert engine._quotas() in ({True: 2, False: 6}, {True: 2, False: 8})
            future.cancel()
            assert other.result(timeout=PATIENCE).addresses[0].closed == len(SOME_PORTS)
    finally:
        engine.close()
