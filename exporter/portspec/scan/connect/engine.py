"""The connect engine: a thread that sends, collects and expires probes; one epoll(7), edge-triggered. Linux only.

One turn of the thread:

1. _begin_job: begin one job of the inbox.
2. _resolve_suspects: judge the silent ports of addresses that have nothing else left; see liveness.py.
3. _finish_jobs: deliver the jobs that are over.
4. _launch: send what the windows and the rates allow, in equal shares to all addresses.
5. epoll: wait for an answer, a timeout, or the moment at which the rate allows the next probe.
6. _collect, _expire: settle the ports that answered, record the silence of those that did not.

_collect and _send run for each probe and are written for speed: local names, no calls for the common case of a closed
port, and fields of ConnectAddressScan changed in place. Measure a change of them with benchmarks/.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from portspec.scan.connect.address import CLOSED, FILTERED, MAX_ADDRESS_WINDOW, OPEN, SilentTry
from portspec.scan.connect.liveness import PATIENT_PROBES, TIMEOUT_FACTOR, CheckedAddressScan
from portspec.scan.connect.outstanding import OutstandingProbes
from portspec.scan.connect.sockets import (
    HANDSHAKE_DONE,
    NO_DESCRIPTOR,
    NO_RESOURCE,
    QUEUE_EMPTY,
    RESET_SINCE,
    SO_MEMINFO,
    SocketPool,
    connect_failure,
    icmp_error,
    is_own_address,
    is_reset,
    is_self_connected,
    refuse_data,
    syns_in,
    takes_data,
)
from portspec.scan.engine import ActiveJob, EngineThread, fail
from portspec.scan.failures import NO_ROUTE, local_rejection, send_failure
from portspec.scan.job import Failure
from portspec.scan.loss import PathLoss
from portspec.scan.netlink import Netlink
from portspec.scan.pacing import Pacer
from portspec.scan.route import RouteCache

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from portspec.scan.connect.address import ConnectAddressScan, Endpoint
    from portspec.scan.connect.liveness import ReferenceProbes
    from portspec.scan.job import Observation, ScanJob
    from portspec.scan.route import Network, TrackedRoute

MAX_WINDOW = 8192  # of some 28,000 ephemeral ports
MAX_BATCH = 256  # probes sent before answers are read: sockets stay in the processor's cache
IDLE_TIMEOUT = 0.2  # seconds without a job after which the idle sockets are closed
WINDOW_RECOVERY_INTERVAL = 1.0  # seconds after which a window that was reduced for lack of descriptors is doubled
_SLOW_WINDOW_DIVISOR = 4  # all slow addresses together use this part of the window
RESERVED_DESCRIPTORS = 256  # left to the rest of the program, or half of the limit
MIN_RESERVED_DESCRIPTORS = 48  # what an idle exporter has open, connections of Prometheus, look-ups and the state file


def window_for(limit: int) -> int:
    """Return how many sockets may be open at once under a limit of file descriptors (RLIMIT_NOFILE)."""
    reserved = max(MIN_RESERVED_DESCRIPTORS, min(RESERVED_DESCRIPTORS, limit // 2))
    return max(1, min(MAX_WINDOW, limit - reserved))


class ConnectEngine(EngineThread):
    """Probes with connect(2).

    Args:
        timeout: seconds to wait for the answer to each probe; may be changed at any time.
        retries: further probes to a port that does not answer; may be changed at any time.
        rate: probes per second over all jobs; None for no limit.
        pacer: used instead of `rate` by engines that share one rate.
        window: sockets open at once; by default as many as RLIMIT_NOFILE allows.
        address_window: probes in flight to one address.
        clock: a monotonic clock, in seconds.
        network: what the kernel knows of routes; by default rtnetlink.
    """

    name = "connect"

    def __init__(
        self,
        *,
        timeout: float = 0.9,
        retries: int = 2,
        rate: float | None = None,
        pacer: Pacer | None = None,
        window: int | None = None,
        address_window: int = MAX_ADDRESS_WINDOW,
        clock: Callable[[], float] = time.monotonic,
        network: Network | None = None,
    ) -> None:
        super().__init__()
        self.timeout = timeout
        self.retries = retries
        self._clock = clock
        self._pacer = pacer or Pacer(rate)
        self._loss = PathLoss()
        self._netlink = None if network else Netlink.open_if_permitted()
        network = network or self._netlink
        self._routes = RouteCache(network) if network else None
        self._limit = window or window_for(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._window = self._limit
        self._address_window = address_window
        self._widen_at = 0.0
        self._active_jobs: list[ActiveJob[CheckedAddressScan]] = []
        self._scans: deque[CheckedAddressScan] = deque()
        self._outstanding = OutstandingProbes()
        self._pool = SocketPool()
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)

    def _turn(self) -> None:
        if self._inbox:
            self._begin_job(*self._inbox.popleft())  # one per turn: shuffling all ports takes 20 ms
        else:
            self._add_ports_to_jobs(self._active_jobs)
            self._answer_partial_requests(self._active_jobs, self._clock())
        self._resolve_suspects(self._clock())
        self._finish_jobs()
        wait = self._check_slow_jobs(self._active_jobs, self._clock(), self._launch(self._clock()))
        has_requests = self._inbox or self._added_ports or self._partial_requests
        events = self._epoll.poll(0.0 if has_requests else wait, self._limit + 1)
        now = self._clock()
        if not events and not self._active_jobs:
            self._pool.close()
        self._collect(events, now)
        self._expire(now)
        if self._window < self._limit and now >= self._widen_at:
            self._window = min(self._limit, 2 * self._window)
            self._widen_at = now + WINDOW_RECOVERY_INTERVAL

    def _begin_job(self, job: ScanJob, future: Future[Observation]) -> None:
        if future.cancelled():
            return
        try:
            active_job = ActiveJob(job, future, self._clock(), self._new_scan, self._pacer)
        except Exception as error:  # noqa: BLE001 - as in _run
            fail(future, error)
            return
        self._active_jobs.append(active_job)
        for scan in active_job.scans:
            scan.route = self._track_route(scan)
        self._scans.extend(scan for scan in active_job.scans if scan.failure is None)
        self.stats.ports_submitted += len(active_job.scans) * len(active_job.job.ports)

    def _new_scan(self, active_job: ActiveJob[CheckedAddressScan], address: str) -> CheckedAddressScan:
        return CheckedAddressScan(active_job, address, self._loss)

    def _track_route(self, scan: ConnectAddressScan) -> TrackedRoute | None:
        if self._routes is None:
            return None
        try:
            return self._routes.track(scan.address, self._clock())
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # the kernel does not say; connect will
                scan.failure = send_failure(scan.address, error.errno or 0)
            return None

    def _finish_jobs(self) -> None:
        """Deliver the jobs that are over, drop those that were cancelled."""
        for job in [job for job in self._active_jobs if job.is_over]:
            self._drop_job(job)
            job.deliver(self._clock())
            job.release()

    def _drop_job(self, job: ActiveJob[CheckedAddressScan]) -> None:
        self._active_jobs.remove(job)
        for scan in job.scans:
            self.stats.ports_settled += scan.unsettled
            self._close_probes_of(scan)
            if scan in self._scans:
                self._scans.remove(scan)
            scan.release()

    def _resolve_suspects(self, now: float) -> None:
        """Judge addresses that only have silent ports left, and those that were idle for too long."""
        for scan in list(self._scans):
            if scan.has_retried_all:
                scan.loss.publish()
            failure = scan.liveness.idle_failure(now)
            if failure is None and scan.suspected_filtered and scan.has_only_suspects:
                filtered = scan.liveness.settle_silent(self.timeout, self.retries, now)
                if isinstance(filtered, Failure):
                    failure = filtered
                else:
                    for port in filtered:
                        self._settle(scan, port, FILTERED)
            if failure:
                self._fail_address(scan, failure)

    def _launch(self, now: float) -> float | None:
        """Send what windows and rates allow; return how many seconds to wait for events (None: without a limit)."""
        if not self._active_jobs:
            return IDLE_TIMEOUT if len(self._pool) else None
        ready = [scan for scan in self._scans if self._is_ready(scan, now)]
        free = self._pacer.take(max(0, min(MAX_BATCH, self._window - len(self._outstanding))), now) if ready else 0
        quotas = self._quotas()
        share = max(1, free // max(1, len(ready)))
        total = 0
        self._scans.rotate(-1)
        for scan in ready:
            room = min(quotas[scan.active_job.is_slow], scan.window) - scan.in_flight
            count = scan.active_job.pacer.take(max(0, min(share, free - total, room)), now)
            if count:
                try:
                    sent = self._send_to(scan, count, now)
                except Exception as error:  # noqa: BLE001 - a fault in one job stops no other
                    self._drop_job(scan.active_job)
                    scan.active_job.fail(error)
                    scan.active_job.release()
                    break
                scan.active_job.pacer.put_back(count - sent)
                scan.active_job.probes += sent
                total += sent
        self._pacer.put_back(free - total)
        self.stats.probes_sent += total
        waiting = [scan for scan in ready if scan.in_flight < min(quotas[scan.active_job.is_slow], scan.window)]
        return 0.0 if total else self._wait_time(waiting, now)

    def _is_ready(self, scan: CheckedAddressScan, now: float) -> bool:
        return not scan.liveness.is_paused(now) if scan.has_more else scan.liveness.needs_closing_check(now)

    def _quotas(self) -> dict[bool, int]:
        """Return how many probes to one address may be in flight, by whether its job is slow: equal shares.

        All slow addresses share a quarter of the window, however many they are: they use their sockets for long.
        """
        slow = sum(scan.active_job.is_slow for scan in self._scans)
        kept = self._window // _SLOW_WINDOW_DIVISOR if slow else 0
        others = (self._window - kept) // max(1, len(self._scans) - slow)
        return {
            is_slow: max(1, min(self._address_window, share))
            for is_slow, share in ((True, kept // max(1, slow)), (False, others))
        }

    def _wait_time(self, waiting: list[CheckedAddressScan], now: float) -> float | None:
        """Return the seconds until something is due: a probe expires, a rest ends, or a rate allows the next probe.

        `waiting` are the addresses that have something to send and are limited by nothing but rate or window.
        """
        if not self._active_jobs or any(job.is_over for job in self._active_jobs):
            return 0.0
        to_judge = [scan for scan in self._scans if scan.suspected_filtered and scan.has_only_suspects]
        times = [scan.route.recheck_at if scan.route else now for scan in to_judge if not scan.liveness.is_undecided]
        times += [rest for scan in self._scans if (rest := scan.liveness.rest_until) > now]
        times += self._outstanding.expiries(self.timeout)
        if waiting and len(self._outstanding) < self._window:
            paced = max(self._pacer.next_at(now), min(scan.active_job.pacer.next_at(now) for scan in waiting))
            if paced > now:
                times.append(paced)
        return max(0.0, min(times) - self._clock()) if times else None

    def _send_to(self, scan: CheckedAddressScan, count: int, now: float) -> int:
        """Send up to `count` probes to an address, reference probes among its last tries; return how many were sent."""
        if scan.wants_patient_probes:
            return self._send(scan, min(count, PATIENT_PROBES), is_patient=True)
        if check := scan.liveness.begin_idle_check(self.timeout, now):
            return self._send_reference_probes(scan, check, count)
        if not scan.is_at_last_tries(self.retries):
            return self._send(scan, count)
        liveness = scan.liveness
        probes = liveness.begin_check(self.timeout, now)
        checked = self._send_reference_probes(scan, probes, count) if probes else 0
        sent = self._send(scan, min(count - checked, liveness.max_tries)) if checked < count else 0
        liveness.record_tries(sent)
        return checked + sent

    def _send_reference_probes(self, scan: CheckedAddressScan, probes: ReferenceProbes, count: int) -> int:
        sent = self._send(probes, min(count, probes.unsettled))
        if not sent:
            scan.liveness.cancel(probes)
        return sent

    def _send(self, scan: ConnectAddressScan, count: int, *, is_patient: bool = False) -> int:
        """Send up to `count` probes; return how many were sent. Patient ones have a longer timeout."""
        idle = self._pool.idle[scan.family]
        patience = max(TIMEOUT_FACTOR * self.timeout, scan.patience) if is_patient else scan.patience
        queue = self._outstanding.queue_for(patience)
        clock = self._clock
        sent = 0
        while sent < count:
            target = scan.take_patient_target(self.retries, syns_in(patience)) if is_patient else scan.next()
            if target is None:
                break
            is_new = not idle
            try:
                fd, sock = self._pool.open(scan.family, self._window - len(self._outstanding)) if is_new else idle.pop()
            except OSError as error:
                self._handle_send_error(scan, target, error.errno or 0, "no socket")
                break
            try:
                code = sock.connect_ex(target)
                if code == errno.ECONNABORTED:  # the error of the last connect; the next call starts a new one
                    code = sock.connect_ex(target)
            except BaseException:
                sock.close()
                raise
            if code not in (errno.EINPROGRESS, 0):
                sock.close()
                self._handle_send_error(scan, target, code, "no connection")
                break
            if is_new:
                self._epoll.register(fd, select.EPOLLOUT | select.EPOLLET)
            queue[fd] = (scan, target, clock(), sock)
            scan.in_flight += 1
            sent += 1
        return sent

    def _handle_send_error(self, scan: ConnectAddressScan, target: Endpoint, code: int, what: str) -> None:
        """Wait, or fail the address: a probe that this machine did not send says nothing about the port."""
        scan.retry_queue.appendleft(target)
        if code in NO_RESOURCE:
            if code in NO_DESCRIPTOR and len(self._outstanding):
                self._window = len(self._outstanding)
                self._widen_at = self._clock() + WINDOW_RECOVERY_INTERVAL
                return
            if scan.in_flight:
                return
        self._fail_address(scan, connect_failure(scan.address, scan.family, code, what))

    def _fail_address(self, scan: ConnectAddressScan, failure: Failure) -> None:
        scan = scan.parent or scan
        if scan.failure is None:
            scan.failure = failure
            self._scans = deque(each for each in self._scans if each is not scan)

    def _collect(self, events: list[tuple[int, int]], now: float) -> None:
        queue, others = self._outstanding.default, self._outstanding.patient or self._outstanding.held
        stats, idle = self.stats, self._pool.idle
        refused, meminfo, empty = errno.ECONNREFUSED, SO_MEMINFO, QUEUE_EMPTY
        closed = 0
        for fd, _ in events:
            entry = queue.get(fd)
            source = queue
            if entry is None and others:
                source = self._outstanding.queue_of(fd)
                entry = source.get(fd)
            if entry is None:
                if fd == self._wake:
                    os.eventfd_read(fd)
                continue  # else an idle socket's late event
            scan, target, sent_at, sock = entry
            if source is not queue and self._outstanding.is_held(fd):
                if is_reset(sock):
                    self._close_probe(fd)
                    self._settle(scan, target[1], CLOSED)
                continue
            code = sock.connect_ex(target)
            if code == refused and sock.getsockopt(socket.SOL_SOCKET, meminfo, 4) == empty:
                # The common case, kept short: closed.
                del source[fd]
                idle[scan.family].append((fd, sock))
                scan.states[target[1]] = CLOSED
                scan.unsettled -= 1
                scan.in_flight -= 1
                scan.answered = True
                scan.last_answer_at = now
                scan.probes_at_last_answer = scan.active_job.probes
                closed += scan.parent is None
                if not scan.attempts and not scan.patient_attempts:
                    scan.loss.first += 1
                else:
                    is_later = scan.was_lost_before(target[1], now - sent_at <= self.timeout)
                    scan.attempts.pop(target[1], None)
                    scan.loss.answered(first=not is_later, later=is_later)
                scan.rtt = min(scan.rtt, now - sent_at)
            else:
                self._collect_other(fd, code, now)
        stats.ports_settled += closed

    def _collect_other(self, fd: int, code: int, now: float) -> None:
        scan, target, sent_at, sock = self._outstanding.queue_of(fd)[fd]
        if code in HANDSHAKE_DONE:
            self._handle_handshake(fd, code, now)
            return
        icmp = icmp_error(sock)
        if code == errno.EALREADY and icmp is None:
            return
        self._close_probe(fd)
        if code == errno.ECONNABORTED:
            scan.retry_queue.append(target)
        elif code == errno.ETIMEDOUT:
            self._handle_timeout(scan, target, sent_at)
        elif code == errno.ECONNREFUSED and icmp is None:
            scan.record_answer(now)
            self._settle(scan, target[1], CLOSED)
        elif icmp is None and code in NO_ROUTE:  # no ICMP error: as good as silence
            self._handle_timeout(scan, target, sent_at)
        elif icmp and icmp.offender != scan.address and is_own_address(icmp.offender):
            scan.retry_queue.append(target)
            self._fail_address(scan, local_rejection(scan.address, is_filter=icmp.is_rejection))
        else:  # an ICMP error is soft: its sender may answer differently soon (RFC 1122, 4.2.3.9)
            is_own_word = icmp is not None and icmp.offender == scan.address and scan.parent is None
            scan.answered = scan.answered or is_own_word
            self._handle_timeout(scan, target, sent_at)

    def _handle_handshake(self, fd: int, code: int, now: float) -> None:
        """Handle a connection that was established; it may have been reset since."""
        scan, target, sent_at, sock = self._outstanding.queue_of(fd)[fd]
        hold = 0.0 if scan.parent else scan.active_job.job.hold
        is_up = code not in RESET_SINCE
        to_itself = is_self_connected(sock)
        if hold and is_up and not to_itself:
            refuse_data(sock)
            self._outstanding.hold(fd, hold, now)
        else:
            self._close_probe(fd)
        if to_itself:
            scan.retry_queue.append(target)
            return
        scan.record_answer(now)
        scan.rtt = min(scan.rtt, now - sent_at)
        is_later = scan.was_lost_before(target[1], now - sent_at <= self.timeout)
        scan.loss.answered(first=not is_later, later=is_later)
        if not hold:
            self._settle(scan, target[1], OPEN)
        elif not is_up:
            self._settle(scan, target[1], CLOSED)

    def _expire(self, now: float) -> None:
        for fd, scan, target, sent_at in self._outstanding.expired(self.timeout, now):
            self._close_probe(fd)
            self._handle_timeout(scan, target, sent_at)
        for fd, scan, target in self._outstanding.held_long_enough(now):
            state = OPEN if takes_data(self._outstanding.queue_of(fd)[fd][3]) else FILTERED
            self._close_probe(fd)
            self._settle(scan, target[1], state)

    def _handle_timeout(self, scan: ConnectAddressScan, target: Endpoint, sent_at: float) -> None:
        if scan.parent:  # a reference probe has one try
            self._settle(scan, target[1], FILTERED)
            return
        port = target[1]
        attempts = scan.attempts[port] = (scan.patient_attempts.pop(port, 0) or scan.attempts.get(port, 0)) + 1
        if attempts > self.retries:
            scan.suspected_filtered.append(SilentTry(target, sent_at))
        else:
            scan.retry_queue.append(target)

    def _settle(self, scan: ConnectAddressScan, port: int, state: int) -> None:
        scan.states[port] = state
        scan.attempts.pop(port, None)
        scan.unsettled -= 1
        self.stats.ports_settled += scan.parent is None

    def _close_probe(self, fd: int) -> None:
        scan, _, _, sock = self._outstanding.queue_of(fd).pop(fd)
        scan.in_flight -= 1
        sock.close()

    def _close_probes_of(self, scan: ConnectAddressScan) -> None:
        for fd in self._outstanding.of_scan(scan):
            self._close_probe(fd)

    def _drop_all(self) -> list[Future[Observation]]:
        for fd in self._outstanding.all():
            self._close_probe(fd)
        self._pool.close()
        futures = [job.future for job in self._active_jobs]
        self._active_jobs.clear()
        self._scans.clear()
        return futures

    def _release(self) -> None:
        self._epoll.close()
        if self._netlink:
            self._netlink.close()
