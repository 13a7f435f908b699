from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.ports import PortSet
from portspec.scan import ScanJob
from portspec.scan.connect import ConnectEngine, sockets, window_for
from portspec.scan.connect.engine import MAX_WINDOW, RESERVED_DESCRIPTORS, WINDOW_RECOVERY_INTERVAL
from portspec.scan.connect.sockets import open_socket
from portspec.scan.pacing import Pacer
from tests.unit.factories import MODEST
from tests.unit.scan.loopback import PATIENCE, descriptors, listeners, own_address, ports_of, silent_ports

if TYPE_CHECKING:
    import socket

RATE = 300.0
BURST = 3  # a hundredth of the rate
PORTS = PortSet.of_ranges([(1, 90)])


@pytest.mark.parametrize(
    ("rate", "host_rate", "addresses"),
    [(RATE, None, 1), (RATE, None, 3), (None, RATE, 1), (None, RATE, 3), (RATE, 10_000.0, 2), (10_000.0, RATE, 2)],
)
def test_probes_keep_the_pace(rate: float | None, host_rate: float | None, addresses: int) -> None:
    """At no moment of a job have more probes gone out than `rate` and `host_rate` allow, over all its addresses."""
    engine = ConnectEngine(timeout=5.0, rate=rate)
    ports = PortSet.of_ranges([(1, 90 // addresses)])
    try:
        started = time.monotonic()
        future = engine.submit(ScanJob(tuple(own_address() for _ in range(addresses)), ports, host_rate))
        while not future.done():
            sent = engine.stats.probes_sent
            assert sent <= BURST + 1 + (time.monotonic() - started) * RATE
            assert time.monotonic() - started < PATIENCE
            time.sleep(0.001)
        observation = future.result()
    finally:
        engine.close()
    assert observation.probes == 90
    assert observation.duration >= (90 - BURST) / RATE


def test_rate_holds_for_all_jobs_together() -> None:
    """Three jobs at once share the engine's rate."""
    engine = ConnectEngine(timeout=5.0, rate=RATE)
    try:
        futures = [engine.submit(ScanJob((own_address(),), PortSet.of_ranges([(1, 30)]))) for _ in range(3)]
        longest = max(future.result(timeout=PATIENCE).duration for future in futures)
    finally:
        engine.close()
    assert longest >= (90 - BURST) / RATE - 0.05  # the jobs began one after the other


def test_rate_holds_for_engines_that_share_a_pacer() -> None:
    """Two engines at once that were given one pacer share its rate."""
    pacer = Pacer(RATE)
    engines = [ConnectEngine(timeout=5.0, pacer=pacer) for _ in range(2)]
    try:
        futures = [engine.submit(ScanJob((own_address(),), PortSet.of_ranges([(1, 45)]))) for engine in engines]
        longest = max(future.result(timeout=PATIENCE).duration for future in futures)
    finally:
        for engine in engines:
            engine.close()
    assert longest >= (90 - BURST) / RATE - 0.05  # the jobs began one after the other


def test_host_rate_holds_for_jobs_that_share_a_pacer() -> None:
    """Jobs about one host that come one after the other are one stream of probes: the second begins with no burst."""
    pacer = Pacer(RATE)
    engine = ConnectEngine(timeout=5.0)
    try:
        started = time.monotonic()
        for _ in range(30):
            job = ScanJob((own_address(),), PortSet.of_ranges([(1, 3)]), pacer=pacer)
            assert engine.submit(job).result(timeout=PATIENCE).probes == 3
    finally:
        engine.close()
    assert time.monotonic() - started >= (90 - BURST) / RATE


def test_host_rate_holds_for_each_job_by_itself() -> None:
    """Three jobs of a host rate are three hosts: each has its own pace, and one does not wait for the other."""
    engine = ConnectEngine(timeout=5.0)
    try:
        started = time.monotonic()
        jobs = [ScanJob((own_address(),), PortSet.of_ranges([(1, 30)]), host_rate=RATE) for _ in range(20)]
        observations = [future.result(timeout=PATIENCE) for future in [engine.submit(job) for job in jobs]]
        together = time.monotonic() - started
    finally:
        engine.close()
    assert all(observation.duration >= (30 - BURST) / RATE for observation in observations)
    assert together < 20 * (30 - BURST) / RATE


def test_silent_host_does_not_hold_up_a_paced_one() -> None:
    """A paced host is scanned at its pace while another keeps its share of the window in flight without an answer."""
    silent, paced = own_address(), own_address()
    engine = ConnectEngine(timeout=60.0, retries=0, window=4)
    try:
        with silent_ports(silent, 3) as ports:
            slow = engine.submit(ScanJob((paced,), PortSet.of_ranges([(1, 30)]), host_rate=100.0))  # takes 0.3 s
            waiting = engine.submit(ScanJob((silent,), ports))  # of the window's half it can use two for a minute
            slow.result(timeout=PATIENCE / 2)
            assert not waiting.done()
    finally:
        engine.close()


@pytest.mark.parametrize("window", [1, 2, 7])
def test_window_bounds_the_sockets(window: int) -> None:
    """No more sockets than the window are ever open, and the result is the same."""
    address = own_address()
    engine = ConnectEngine(timeout=0.05, retries=0, window=window)
    try:
        with silent_ports(address, 9) as silent, listeners(address, 2) as opened:
            before = descriptors()
            future = engine.submit(ScanJob((address,), silent | ports_of(opened) | PORTS))
            most = 0
            while not future.done():
                most = max(most, descriptors() - before)
            (seen,) = future.result().addresses
            assert (seen.open, seen.filtered, seen.closed) == (ports_of(opened), silent, len(PORTS))
    finally:
        engine.close()
    assert 1 <= most <= window


def test_window_holds_for_all_jobs_together() -> None:
    """More hosts than the window has sockets are scanned all the same, with no more sockets than it allows."""
    address = own_address()
    engine = ConnectEngine(timeout=0.05, retries=0, window=5)
    try:
        with silent_ports(address) as silent:
            before = descriptors()
            futures = [engine.submit(ScanJob((address, address), silent)) for _ in range(15)]
            most = 0
            while not all(future.done() for future in futures):
                most = max(most, descriptors() - before)
            assert all(seen.filtered == silent for future in futures for seen in future.result().addresses)
    finally:
        engine.close()
    assert 1 <= most <= 5


@MODEST
@given(limit=st.integers(0, 2_000_000))
def test_window_leaves_descriptors_to_the_rest_of_the_program(limit: int) -> None:
    """The window is at least 1 and at most MAX_WINDOW, and leaves the reserve or half of the limit."""
    window = window_for(limit)
    assert 1 <= window <= MAX_WINDOW
    if limit >= 2:
        assert limit - window >= min(RESERVED_DESCRIPTORS, limit // 2)


@pytest.mark.parametrize(
    ("limit", "window"),
    [(1, 1), (2, 1), (32, 1), (64, 16), (96, 48), (512, 256), (1024, 768), (65536, 8192), (2**30, 8192)],
)
def test_window_for_known_limits(limit: int, window: int) -> None:
    """Limits that machines have give these windows."""
    assert window_for(limit) == window


def test_window_recovers_after_it_was_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without descriptors the window shrinks to what is in flight, then doubles each WINDOW_RECOVERY_INTERVAL."""
    opened: list[socket.socket] = []
    now = [1000.0]

    def scarce(family: int) -> socket.socket:
        if len(opened) == 4:
            raise OSError(errno.EMFILE, "Too many open files")
        opened.append(open_socket(family))
        return opened[-1]

    monkeypatch.setattr(sockets, "open_socket", scarce)
    engine = ConnectEngine(timeout=30.0, retries=0, window=16, clock=lambda: now[0])
    address = own_address()
    try:
        windows = []
        for _ in range(4):
            (row,) = engine.submit(ScanJob((address,), PortSet.of(range(1, 65)))).result(timeout=PATIENCE).addresses
            assert (len(row.scanned), row.failure) == (64, None)
            windows.append(engine._window)
            monkeypatch.setattr(sockets, "open_socket", open_socket)
            now[0] += WINDOW_RECOVERY_INTERVAL
    finally:
        engine.close()
    assert windows == [4, 8, 16, 16]
