"""The engine's thread: send, collect, expire; one epoll(7), edge-triggered. Linux only."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from portspec.scan.connect.control import SCOUTS, TIMES_AS_LONG, Controls
from portspec.scan.connect.flights import Flights
from portspec.scan.connect.lane import CLOSED, FILTERED, MAX_ADDRESS_WINDOW, OPEN, Lane, Try
from portspec.scan.connect.sockets import (
    HANDSHAKE_DONE,
    NO_DESCRIPTOR,
    NO_RESOURCE,
    QUEUE_EMPTY,
    RESET_SINCE,
    SO_MEMINFO,
    explain,
    has_source_address,
    icmp_error,
    is_own_address,
    is_reset,
    is_self_connected,
    open_socket,
    syns_in,
    takes_data,
)
from portspec.scan.job import Failure, Reason
from portspec.scan.loss import PathLoss
from portspec.scan.netlink import Netlink
from portspec.scan.pacing import Pacer
from portspec.scan.way import NO_PERMISSION, NO_ROUTE, Silence, Ways, failure, rejected_here
from portspec.scan.work import EngineThread, Work, fail

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from portspec.scan.connect.control import Group
    from portspec.scan.connect.lane import Target
    from portspec.scan.job import Observation, ScanJob
    from portspec.scan.way import Network, Way

MAX_WINDOW = 8192  # of some 28,000 ephemeral ports
MAX_BATCH = 256  # probes sent before answers are looked at: sockets stay in the processor's cache
LINGER = 0.2  # seconds without work after which the idle sockets are closed
RECOVERY = 1.0  # seconds after which a window that a lack of descriptors narrowed is doubled again
_SHARE_OF_SLOW = 4
RESERVE = 256  # descriptors left to the rest of the program


def window_for(limit: int) -> int:
    """Give how many sockets may be open at once under a limit of file descriptors (RLIMIT_NOFILE)."""
    return max(1, min(MAX_WINDOW, limit - min(RESERVE, limit // 2)))


def _netlink() -> Netlink | None:
    """Give what asks the kernel about routes; None where a sandbox forbids that: silence then counts unasked."""
    try:
        return Netlink()
    except OSError as error:
        if error.errno in (*NO_PERMISSION, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            return None
        raise


class ConnectEngine(EngineThread):
    """Probes with connect(2). `timeout` in seconds for each of 1 + `retries` attempts, `rate` in probes per second.

    A `pacer` in the rate's stead is for engines that keep to one rate together. `timeout` and `retries` may be set
    anew at any time.
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
        self._netlink = None if network else _netlink()
        network = network or self._netlink
        self._ways = Ways(network) if network else None
        self._limit = window or window_for(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._window = self._limit
        self._address_window = address_window
        self._widen_at = 0.0
        self._works: list[Work[Lane]] = []
        self._lanes: deque[Lane] = deque()
        self._flights = Flights()
        self._idle: dict[int, list[tuple[int, socket.socket]]] = {socket.AF_INET: [], socket.AF_INET6: []}
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)

    def _turn(self) -> None:
        if self._inbox:
            self._begin(*self._inbox.popleft())  # one a turn: drawing the order of all ports takes 20 ms
        else:
            self._take_more_ports(self._works)
            self._answer_so_far(self._works, self._clock())
        self._resolve_doubts(self._clock())
        self._finish()
        wait = self._look(self._works, self._clock(), self._launch(self._clock()))
        events = self._epoll.poll(0.0 if self._inbox else wait, self._limit + 1)
        now = self._clock()
        if not events and not self._works:
            self._close_idle()
        self._harvest(events, now)
        self._expire(now)
        if self._window < self._limit and now >= self._widen_at:
            self._window = min(self._limit, 2 * self._window)
            self._widen_at = now + RECOVERY

    def _begin(self, job: ScanJob, future: Future[Observation]) -> None:
        if future.cancelled():
            return
        try:
            work = Work(job, future, self._clock(), self._lane, self._pacer)
        except Exception as error:  # noqa: BLE001 - as in _run
            fail(future, error)
            return
        self._works.append(work)
        for lane in work.lanes:
            lane.way = self._way(lane)
            lane.controls = Controls(lane)
        self._lanes.extend(lane for lane in work.lanes if lane.failure is None)
        self.stats.ports_submitted += len(work.lanes) * len(work.job.ports)

    def _lane(self, work: Work[Lane], address: str) -> Lane:
        return Lane(work, address, self._loss)

    def _way(self, lane: Lane) -> Way | None:
        if self._ways is None:
            return None
        try:
            return self._ways.to(lane.address, self._clock())
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:  # the kernel does not say; connect will
                lane.failure = failure(lane.address, error.errno or 0)
            return None

    def _finish(self) -> None:
        """Deliver the jobs that are complete, drop the cancelled ones."""
        for work in [work for work in self._works if work.is_over]:
            self._drop(work)
            work.deliver(self._clock())
            work.release()

    def _drop(self, work: Work[Lane]) -> None:
        self._works.remove(work)
        for lane in work.lanes:
            self.stats.ports_settled += lane.unsettled
            self._call_back(lane)
            if lane in self._lanes:
                self._lanes.remove(lane)

    def _resolve_doubts(self, now: float) -> None:
        """Where only silent ports are left, ask them again if probes are known to get lost, else call them filtered."""
        for lane in list(self._lanes):
            if lane.has_asked_again:
                lane.loss.tell()
            failure = self._watched(lane, now)
            if failure is None and lane.doubtful and lane.is_doubtful:
                failure = self._judge(lane, now)
            if failure:
                self._give_up(lane, failure)

    def _watched(self, lane: Lane, now: float) -> Failure | None:
        """Give an address up that fell silent in the middle of its scan, unless it is the way that was interrupted."""
        failure = lane.controls.watched(now)
        if failure is None or lane.way is None:
            return failure
        silence = lane.way.silence(now, has_answered=True)
        if isinstance(silence, Failure):
            return silence
        if silence is Silence.ASK_LATER:
            lane.controls.rest_until = lane.way.ask_at
        elif silence is Silence.ASK_AGAIN:
            lane.controls.begin_anew(now)
            lane.attempts.update(dict.fromkeys(lane.attempts, 0))
            lane.again.extend(target for target, _ in lane.doubtful)
            lane.doubtful.clear()
        return failure if silence is Silence.COUNTS else None

    def _judge(self, lane: Lane, now: float) -> Failure | None:
        """Call ports filtered whose silence counts, have the others asked again; Failure if nothing can be heard."""
        tries = lane.loss.tries(1 + self.retries)
        has_due = any(lane.attempts[target[1]] >= tries for target, _ in lane.doubtful)
        silence = lane.way.silence(now, has_answered=lane.answered) if lane.way and has_due else Silence.COUNTS
        if isinstance(silence, Failure):
            return silence
        proven, unproven = lane.doubtful, list[Try]()
        if silence is Silence.ASK_LATER:
            return None
        if silence is Silence.ASK_AGAIN:
            lane.controls.begin_anew(now)
            lane.attempts.update((target[1], 0) for target, _ in proven)
        elif has_due:
            judged = lane.controls.judge(lane.doubtful, self.timeout, now)
            if judged is None or isinstance(judged, Failure):
                return judged
            proven, unproven = judged
        lane.doubtful = []
        for (_, port), _ in unproven:
            lane.attempts[port] = min(lane.attempts[port], tries - 1)
        for target, _ in (*proven, *unproven):
            if lane.attempts[target[1]] < tries:
                lane.again.append(target)
            else:
                self._settle(lane, target[1], FILTERED)
        return None

    def _launch(self, now: float) -> float | None:
        """Send what window and pace allow; give how many seconds to wait for events (None: until one comes)."""
        if not self._works:
            return LINGER if any(self._idle.values()) else None
        ready = [lane for lane in self._lanes if self._is_ready(lane, now)]
        free = self._pacer.take(max(0, min(MAX_BATCH, self._window - len(self._flights))), now) if ready else 0
        quotas = self._quotas()
        share = max(1, free // max(1, len(ready)))
        total = 0
        self._lanes.rotate(-1)
        for lane in ready:
            room = min(quotas[lane.work.is_slow], lane.most_in_flight) - lane.in_flight
            count = lane.work.pacer.take(max(0, min(share, free - total, room)), now)
            if count:
                try:
                    sent = self._send_with_controls(lane, count, now)
                except Exception as error:  # noqa: BLE001 - a fault in one job stops no other
                    self._drop(lane.work)
                    lane.work.fail(error)
                    break
                lane.work.pacer.put_back(count - sent)
                lane.work.probes += sent
                total += sent
        self._pacer.put_back(free - total)
        self.stats.probes_sent += total
        waiting = [lane for lane in ready if lane.in_flight < min(quotas[lane.work.is_slow], lane.most_in_flight)]
        return 0.0 if total else self._patience(waiting, now)

    def _is_ready(self, lane: Lane, now: float) -> bool:
        return not lane.controls.is_held(now) if lane.has_more else lane.controls.is_due(now)

    def _quotas(self) -> dict[bool, int]:
        """Give how many probes of an address may be in flight, if it is slow and if not: an equal share.

        All that are slow share a quarter of the window, however many they are: what they hold is held for long.
        """
        slow = sum(lane.work.is_slow for lane in self._lanes)
        kept = self._window // _SHARE_OF_SLOW if slow else 0
        others = (self._window - kept) // max(1, len(self._lanes) - slow)
        return {
            is_slow: max(1, min(self._address_window, share))
            for is_slow, share in ((True, kept // max(1, slow)), (False, others))
        }

    def _patience(self, waiting: list[Lane], now: float) -> float | None:
        """Give how long nothing can happen but an event: until a probe expires or the pace allows the next.

        `waiting` are the lanes that have something to send and are held back by nothing but pace or window.
        """
        if not self._works or any(work.is_over for work in self._works):
            return 0.0
        doubtful = [lane for lane in self._lanes if lane.doubtful and lane.is_doubtful]
        times = [lane.way.ask_at if lane.way else now for lane in doubtful if not lane.controls.is_waiting]
        times += [rest for lane in self._lanes if (rest := lane.controls.rest_until) > now]
        times += self._flights.expiries(self.timeout)
        if waiting and len(self._flights) < self._window:
            paced = max(self._pacer.next_at(now), min(lane.work.pacer.next_at(now) for lane in waiting))
            if paced > now:
                times.append(paced)
        return max(0.0, min(times) - self._clock()) if times else None

    def _send_with_controls(self, lane: Lane, count: int, now: float) -> int:
        """Send up to `count` probes to a lane, with controls where silence might count; give how many went out."""
        if lane.wants_scouts:
            return self._send(lane, min(count, SCOUTS), as_scouts=True)
        if watch := lane.controls.watch(self.timeout, now):
            return self._send_controls(lane, watch, count)
        if not lane.is_at_last_tries(self.retries):
            return self._send(lane, count)
        controls = lane.controls
        group = controls.due(self.timeout, now)
        asked = self._send_controls(lane, group, count) if group else 0
        sent = self._send(lane, min(count - asked, controls.most)) if asked < count else 0
        controls.sent(sent)
        return asked + sent

    def _send_controls(self, lane: Lane, group: Group, count: int) -> int:
        sent = self._send(group, min(count, group.unsettled))
        if not sent:
            lane.controls.withdraw(group)
        return sent

    def _send(self, lane: Lane, count: int, *, as_scouts: bool = False) -> int:
        """Send up to `count` probes; give how many went out. Scouts are waited for longer than others, and once."""
        idle = self._idle[lane.family]
        patience = max(TIMES_AS_LONG * self.timeout, lane.patience) if as_scouts else lane.patience
        flight = self._flights.of(patience)
        clock = self._clock
        sent = 0
        while sent < count:
            target = lane.scout(self.retries, syns_in(patience)) if as_scouts else lane.next()
            if target is None:
                break
            is_new = not idle
            try:
                fd, sock = self._open(lane.family) if is_new else idle.pop()
            except OSError as error:
                self._not_sent(lane, target, error.errno or 0, "no socket")
                break
            try:
                code = sock.connect_ex(target)
                if code == errno.ECONNABORTED:  # what is left of the last connect; the next call starts afresh
                    code = sock.connect_ex(target)
            except BaseException:
                sock.close()
                raise
            if code not in (errno.EINPROGRESS, 0):
                sock.close()
                self._not_sent(lane, target, code, "no connection")
                break
            if is_new:
                self._epoll.register(fd, select.EPOLLOUT | select.EPOLLET)
            flight[fd] = (lane, target, clock(), sock)
            lane.in_flight += 1
            sent += 1
        return sent

    def _open(self, family: int) -> tuple[int, socket.socket]:
        if len(self._flights) + sum(map(len, self._idle.values())) >= self._window:
            self._close_idle()
        try:
            sock = open_socket(family)
        except OSError:
            if not any(self._idle.values()):
                raise
            self._close_idle()  # those of the other family
            sock = open_socket(family)
        return sock.fileno(), sock

    def _not_sent(self, lane: Lane, target: Target, code: int, what: str) -> None:
        """Wait, or give the address up: a probe that this machine did not send says nothing of the port."""
        lane.again.appendleft(target)
        detail = f"{what} to {lane.address}: {explain(code)}"
        if code in NO_RESOURCE:
            if code in NO_DESCRIPTOR and len(self._flights):
                self._window = len(self._flights)
                self._widen_at = self._clock() + RECOVERY
                return
            if lane.in_flight:
                return
            is_cut_off = code == errno.EADDRNOTAVAIL and not has_source_address(lane.address, lane.family)
            reason = Reason.NO_ROUTE if is_cut_off else Reason.LOCAL_LIMIT
        elif code in NO_PERMISSION:
            reason = Reason.PERMISSION
        else:
            reason = Reason.NO_ROUTE if code in NO_ROUTE else Reason.INTERNAL
        self._give_up(lane, Failure(reason, detail))

    def _give_up(self, lane: Lane, failure: Failure) -> None:
        lane = lane.main or lane
        if lane.failure is None:
            lane.failure = failure
            self._lanes.remove(lane)

    def _harvest(self, events: list[tuple[int, int]], now: float) -> None:
        flight, others = self._flights.hasty, self._flights.others or self._flights.held
        stats = self.stats
        refused, meminfo, empty = errno.ECONNREFUSED, SO_MEMINFO, QUEUE_EMPTY
        closed = 0
        for fd, _ in events:
            entry = flight.get(fd)
            home = flight
            if entry is None and others:
                home = self._flights.home(fd)
                entry = home.get(fd)
            if entry is None:
                if fd == self._wake:
                    os.eventfd_read(fd)
                continue  # else an idle socket's late event
            lane, target, sent_at, sock = entry
            if home is not flight and self._flights.is_held(fd):
                if is_reset(sock):
                    self._take_back(fd)
                    self._settle(lane, target[1], CLOSED)
                continue
            code = sock.connect_ex(target)
            if code == refused and sock.getsockopt(socket.SOL_SOCKET, meminfo, 4) == empty:
                # The common case, kept short: closed.
                del home[fd]
                self._idle[lane.family].append((fd, sock))
                lane.states[target[1]] = CLOSED
                lane.unsettled -= 1
                lane.in_flight -= 1
                lane.answered = True
                lane.heard_at = now
                lane.probes_when_heard = lane.work.probes
                closed += lane.main is None
                if lane.attempts and lane.attempts.pop(target[1], 0):
                    lane.loss.later += 1
                else:
                    lane.loss.first += 1
                lane.rtt = min(lane.rtt, now - sent_at)
            else:
                self._harvest_other(fd, code, now)
        stats.ports_settled += closed

    def _harvest_other(self, fd: int, code: int, now: float) -> None:
        lane, target, sent_at, sock = self._flights.home(fd)[fd]
        if code in HANDSHAKE_DONE:
            self._shake_hands(fd, code, now)
            return
        icmp = icmp_error(sock)
        if code == errno.EALREADY and icmp is None:
            return
        self._take_back(fd)
        if code == errno.ECONNABORTED:
            lane.again.append(target)
        elif code == errno.ETIMEDOUT:
            self._silent(lane, target, sent_at)
        elif code == errno.ECONNREFUSED and icmp is None:
            lane.hear(now)
            self._settle(lane, target[1], CLOSED)
        elif icmp is None and code in NO_ROUTE:  # said by nobody on the way: it is as good as silence
            self._silent(lane, target, sent_at)
        elif icmp and icmp.offender != lane.address and is_own_address(icmp.offender):
            lane.again.append(target)
            self._give_up(lane, rejected_here(lane.address, is_filter=icmp.is_rejection))
        else:  # an ICMP error: who sent it may answer otherwise soon (RFC 1122, 4.2.3.9)
            is_own_word = icmp is not None and icmp.offender == lane.address and lane.main is None
            lane.answered = lane.answered or is_own_word
            self._silent(lane, target, sent_at)

    def _shake_hands(self, fd: int, code: int, now: float) -> None:
        """Take note of a connection that has come about; it may have been reset since."""
        lane, target, sent_at, sock = self._flights.home(fd)[fd]
        hold = 0.0 if lane.main else lane.work.job.hold
        is_up = code not in RESET_SINCE
        to_itself = is_self_connected(sock)
        if hold and is_up and not to_itself:
            self._flights.hold(fd, hold, now)
        else:
            self._take_back(fd)
        if to_itself:
            lane.again.append(target)
            return
        lane.hear(now)
        lane.rtt = min(lane.rtt, now - sent_at)
        is_later = bool(lane.attempts.get(target[1]))
        lane.loss.answered(first=not is_later, later=is_later)
        if not hold:
            self._settle(lane, target[1], OPEN)
        elif not is_up:
            self._settle(lane, target[1], CLOSED)

    def _expire(self, now: float) -> None:
        for fd, lane, target, sent_at in self._flights.expired(self.timeout, now):
            self._take_back(fd)
            self._silent(lane, target, sent_at)
        for fd, lane, target in self._flights.stayed(now):
            state = OPEN if takes_data(self._flights.home(fd)[fd][3]) else FILTERED
            self._take_back(fd)
            self._settle(lane, target[1], state)

    def _silent(self, lane: Lane, target: Target, sent_at: float) -> None:
        if lane.main:  # a control has one try
            self._settle(lane, target[1], FILTERED)
            return
        port = target[1]
        attempts = lane.attempts[port] = (lane.scouts.pop(port, 0) or lane.attempts.get(port, 0)) + 1
        if attempts > self.retries:
            lane.doubtful.append(Try(target, sent_at))
        else:
            lane.again.append(target)

    def _settle(self, lane: Lane, port: int, state: int) -> None:
        lane.states[port] = state
        lane.attempts.pop(port, None)
        lane.unsettled -= 1
        self.stats.ports_settled += lane.main is None

    def _take_back(self, fd: int) -> None:
        lane, _, _, sock = self._flights.home(fd).pop(fd)
        lane.in_flight -= 1
        sock.close()

    def _call_back(self, lane: Lane) -> None:
        for fd in self._flights.of_lane(lane):
            self._take_back(fd)

    def _close_idle(self) -> None:
        for sockets in self._idle.values():
            while sockets:
                sockets.pop()[1].close()

    def _forget(self) -> list[Future[Observation]]:
        for fd in self._flights.all():
            self._take_back(fd)
        self._close_idle()
        futures = [work.future for work in self._works]
        self._works.clear()
        self._lanes.clear()
        return futures

    def _release(self) -> None:
        self._epoll.close()
        if self._netlink:
            self._netlink.close()
