"""Whether a silent port is silent by itself, or the address has stopped answering.

A silent port is filtered only if the address would have answered at that time. That is proven with *reference probes*:
connections to *reference ports*, ports of the same address that have answered before. Closed ones are preferred, since
RSTs are what hosts limit.

    last tries     ref  t t t … t  ref  t t t … t  ref        time ──►
                   └ check 0       └ check 1       └ check 2

1. A check is sent before the first of the last tries, after each TRIES_PER_CHECK of them, and after the last one.
2. A silent try is *proven* if both the check before it and the one after it were answered. Its port is filtered. An
   unproven port is tried once more. If no port at all was proven, the address answers only a part of the probes, as a
   host does that limits its RSTs: after a rest, in which its limit recovers, half as many are tried between two checks.
3. If no check is answered, the address is *unresponsive*. Only checks are sent then, with growing rests between them,
   until one is answered: then the silent ports are tried again, with half as many probes in flight. After MAX_SILENCE
   without an answer the address is cut off.
4. An *idle check* does the same in the middle of a scan where nothing was received for a while, so that an address that
   stops answering is noticed before the end of its scan. Nothing else is sent until it is decided.
5. Reference probes have a longer timeout than others, so that they also show whether answers take longer than the
   timeout. If they do, the timeout of this address is raised and silent ports are tried again. An answer shortly after
   a whole multiple of KERNEL_REPEAT is *doubtful*: it may be that to a SYN which the kernel has repeated, since the
   first was lost (Karn's algorithm; RFC 6298, 3). It proves nothing, and raises the timeout only if all checks were
   answered so, MIN_DOUBTFUL times in a row. An address that has not answered at all gets *patient* probes for the same
   reason: the second tries of a few ports, with that timeout.

States of an address: sending ─► checking ─► (proven: settled | unproven: sending | unanswered: resting ─► checking …)
─► cut off. `is_paused` is true while an idle check is out or the address rests.

Invariants: `_checks` is in the order of sending, which _is_between() relies on. Each try after the last check is in
`_tries_since_check`; while that is not 0 and reference ports exist, nothing is concluded (`is_undecided`). A check that
this machine could not send is withdrawn with cancel(): counted as unanswered it would cut off an address that is up.
A silence is believed only if the route held, too (route.TrackedRoute): a change of it restarts everything.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

from portspec.ports import PortSet
from portspec.scan.connect.address import CLOSED, OPEN, ConnectAddressScan, SilentTry
from portspec.scan.failures import MAX_SILENCE, MAX_STALL, cut_off
from portspec.scan.job import Failure
from portspec.scan.route import RouteStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.scan.engine import ActiveJob
    from portspec.scan.loss import PathLoss

TRIES_PER_CHECK = 128  # last tries between two checks
PROBES_PER_CHECK = 2
PATIENT_PROBES = 4  # ports of an address that has not answered at all which get the timeout of reference probes
TIMEOUT_FACTOR = 4.0  # the timeout of reference probes, as a multiple of that of others
_MAX_TIMEOUT = 10.0  # seconds; limits that
_MAX_REFERENCE_PORTS = 32  # of either state that take turns
_MIN_UNANSWERED = 3  # checks in a row that must stay unanswered before an address is cut off
# Seconds after which Linux repeats a SYN; all further repetitions are after whole multiples of it (TCP_TIMEOUT_INIT in
# net/tcp.h; tcp_syn_linear_timeouts in Documentation/networking/ip-sysctl.rst).
KERNEL_REPEAT = 1.0
_REPEAT_DELAY = 0.05  # share of the time by which a repetition may be late: 0.035 at most was measured, with HZ=250
MIN_DOUBTFUL = 3  # times in a row that all checks must be answered doubtfully before the timeout is raised
_IDLE_FACTOR = 2.0  # an idle check is sent after so many timeouts without an answer
_MIN_REST, _MAX_REST = 0.25, 2.0  # seconds


class CheckedAddressScan(ConnectAddressScan):
    """The scan of an address whose silence is checked."""

    __slots__ = ("liveness",)

    active_job: ActiveJob[CheckedAddressScan]

    def __init__(self, active_job: ActiveJob[CheckedAddressScan], address: str, path_loss: PathLoss) -> None:
        super().__init__(active_job, address, path_loss)
        self.liveness = LivenessCheck(self)

    def release(self) -> None:
        """Drop the checks, which refer back to this scan, so that its memory is freed at once; call it at the end."""
        del self.liveness


class ReferenceProbes(ConnectAddressScan):
    """The reference probes of one check, sent together at `sent_at` by the engine's clock."""

    __slots__ = ("sent_at",)

    def __init__(self, of: ConnectAddressScan, ports: PortSet, now: float) -> None:
        super().__init__(of.active_job, of.address, of.loss.path, ports=ports, parent=of)
        self.sent_at = now

    @property
    def is_pending(self) -> bool:
        """True while an answer may still arrive, and none has."""
        return not self.answered and self.in_flight > 0


class LivenessCheck:
    """The checks of one address. Times in seconds."""

    __slots__ = (
        "_checks", "_doubtful", "_idle_check", "_progress", "_scan", "_tries_since_check", "_turn", "_unanswered",
        "_unproven", "rest_until",
    )  # fmt: skip

    def __init__(self, scan: ConnectAddressScan) -> None:
        self._scan = scan
        self._checks: list[ReferenceProbes] = []
        self._tries_since_check = 0
        self._unanswered = 0  # times in a row that no check was answered
        self._doubtful = 0  # times in a row that all checks were answered doubtfully
        self._unproven = 0  # times in a row that checks were answered, and yet no port was proven silent
        self._progress = (0, 0.0)  # the number of unsettled ports, and since when it is the same
        self._turn = 0
        self._idle_check: ReferenceProbes | None = None
        self.rest_until = 0.0

    def is_paused(self, now: float) -> bool:
        """Return whether only reference probes may be sent, since it is not known if the address still answers."""
        return self._idle_check is not None or now < self.rest_until

    def begin_idle_check(self, timeout: float, now: float) -> ReferenceProbes | None:
        """Return the probes of an idle check if one is due; all else waits until finish_idle_check() decides."""
        if self.is_paused(now) or now - self._scan.last_answer_at < _IDLE_FACTOR * max(timeout, self._scan.patience):
            return None
        self._idle_check = self._make_probes(timeout, now)
        return self._idle_check

    def finish_idle_check(self, now: float) -> Failure | None:
        """Resume if the idle check was answered, else rest; a Failure if nothing was received for too long."""
        check = self._idle_check
        if check is None or check.is_pending:
            return None
        self._idle_check = None
        if not check.answered:
            return self._back_off(now)
        self._scan.record_answer(check.last_answer_at)
        self._halve_window_if_unresponsive()
        self._unanswered = 0
        return None

    def idle_failure(self, now: float) -> Failure | None:
        """Finish an idle check; a Failure if the address is cut off, and its route has held all the time."""
        failure = self.finish_idle_check(now)
        scan = self._scan
        if failure is None or scan.route is None:
            return failure
        status = scan.route.check(now, has_answered=True)
        if isinstance(status, Failure):
            return status
        if status is RouteStatus.PENDING:
            self.rest_until = scan.route.recheck_at
        elif status is RouteStatus.CHANGED:
            self.restart(now)
            scan.attempts.update(dict.fromkeys(scan.attempts, 0))
            scan.retry_queue.extend(target for target, _ in scan.suspected_filtered)
            scan.suspected_filtered.clear()
        return failure if status is RouteStatus.STABLE else None

    def begin_check(self, timeout: float, now: float) -> ReferenceProbes | None:
        """Return the probes to send before the next of the last tries, or after them if there are no more."""
        is_first = not self._checks
        is_due = self._tries_since_check >= self.max_tries or (self._tries_since_check and self.is_closing)
        if self.is_paused(now) or not (is_first or is_due):
            return None
        probes = self._make_probes(timeout, now)
        if probes:
            self._checks.append(probes)
            self._tries_since_check = 0
        return probes

    @property
    def max_tries(self) -> int:
        """How many last tries may be made between two checks."""
        return min(TRIES_PER_CHECK, self._scan.window)

    def _make_probes(self, timeout: float, now: float) -> ReferenceProbes | None:
        ports = self._next_ports()
        if not ports:
            return None
        probes = ReferenceProbes(self._scan, ports, now)
        probes.patience = min(_MAX_TIMEOUT, TIMEOUT_FACTOR * max(timeout, self._scan.patience))
        return probes

    def cancel(self, probes: ReferenceProbes) -> None:
        """Forget probes that this machine could not send: their silence says nothing of the address."""
        if probes is self._idle_check:
            self._idle_check = None
        else:
            self._checks.remove(probes)
            self._tries_since_check = 1  # so that another check is due

    def record_tries(self, count: int) -> None:
        """Record that so many last tries were sent."""
        self._tries_since_check += count

    def needs_closing_check(self, now: float) -> bool:
        """Return whether a check is to be sent although nothing else is."""
        return self.is_closing and not self.is_paused(now)

    @property
    def is_closing(self) -> bool:
        """True if only a check is left to send: the one after the last tries, or that of an unresponsive address."""
        scan = self._scan
        return self._tries_since_check > 0 and bool(scan.suspected_filtered or scan.in_flight) and not scan.has_more

    @property
    def is_undecided(self) -> bool:
        """True while nothing can be concluded, since a check is due or may still be answered."""
        return bool(self._tries_since_check and self._next_ports()) or any(check.is_pending for check in self._checks)

    def settle_silent(self, timeout: float, retries: int, now: float) -> list[int] | Failure:
        """Judge the silent ports: requeue those that need more tries, return those that are filtered.

        Call it when the scan `has_only_suspects`. Returns no ports while that cannot be decided, and a Failure if the
        address does not answer any more or cannot be reached.
        """
        scan = self._scan
        tries = scan.loss.tries(1 + retries)
        has_due = any(scan.attempts[target[1]] >= tries for target, _ in scan.suspected_filtered)
        status = scan.route.check(now, has_answered=scan.answered) if scan.route and has_due else RouteStatus.STABLE
        if isinstance(status, Failure):
            return status
        if status is RouteStatus.PENDING:
            return []
        proven, unproven = scan.suspected_filtered, list[SilentTry]()
        if status is RouteStatus.CHANGED:
            self.restart(now)
            scan.attempts.update((target[1], 0) for target, _ in proven)
        elif has_due:
            judged = self.judge(scan.suspected_filtered, timeout, now)
            if isinstance(judged, Failure):
                return judged
            if judged is None:
                return []
            proven, unproven = judged
        scan.suspected_filtered = []
        for (_, port), _ in unproven:
            scan.attempts[port] = min(scan.attempts[port], tries - 1)
        filtered = []
        for target, _ in (*proven, *unproven):
            if scan.attempts[target[1]] < tries:
                scan.retry_queue.append(target)
            else:
                filtered.append(target[1])
        return filtered

    def judge(
        self, silent: Sequence[SilentTry], timeout: float, now: float
    ) -> tuple[list[SilentTry], list[SilentTry]] | Failure | None:
        """Split silent tries into those that are proven and those to repeat; None while that is not known.

        A Failure if the address does not answer any more. `timeout` is that of other probes.
        """
        if self.is_undecided:
            return None
        checks, self._checks = self._checks, []
        if not checks:
            return ([], list(silent)) if self._next_ports() else (list(silent), [])
        answered = [check for check in checks if check.answered]
        if not answered:
            self._tries_since_check = 1  # so that a check is due after the rest
            return self._back_off(now)
        self._scan.record_answer(max(check.last_answer_at for check in answered))
        longest = max(timeout, self._scan.patience) / 2
        doubtful = [check for check in answered if check.rtt > longest and _may_be_to_repeat(check.rtt, longest)]
        self._doubtful = self._doubtful + 1 if len(doubtful) == len(answered) else 0
        certain = answered if self._doubtful >= MIN_DOUBTFUL else [one for one in answered if one not in doubtful]
        slowest = max((check.rtt for check in certain), default=0.0)
        is_slow = slowest > longest
        if is_slow:
            self._doubtful = 0
            self._scan.patience = _next_power_of_two(min(_MAX_TIMEOUT, 2 * slowest))
        self._halve_window_if_unresponsive()
        if self._is_stalled(now):
            return self._cut_off(is_silent=False)
        proven, unproven = list[SilentTry](), list[SilentTry]()
        for one in silent:
            (proven if _is_between(one.sent_at, checks, longest) else unproven).append(one)
        if is_slow or self._unanswered or (doubtful and not proven):
            self._unanswered = 0
            return [], list(silent)
        self._unproven = 0 if proven or not unproven else self._unproven + 1
        if self._unproven:
            self._scan.window = max(1, min(self._scan.window, len(unproven)) // 2)
            self._rest(self._unproven, now)
        return proven, unproven

    def restart(self, now: float) -> None:
        """Forget all checks: the route to the address was interrupted."""
        self._checks.clear()
        self._tries_since_check = self._unanswered = self._unproven = self._doubtful = 0
        self._idle_check = None
        self._scan.last_answer_at = now

    def _halve_window_if_unresponsive(self) -> None:
        if self._unanswered:
            self._scan.window = max(1, self._scan.window // 2)

    def _back_off(self, now: float) -> Failure | None:
        """Rest after a check without an answer; a Failure if the address has been silent for too long."""
        self._unanswered += 1
        if self._unanswered >= _MIN_UNANSWERED and now - self._scan.last_answer_at >= MAX_SILENCE:
            return self._cut_off(is_silent=True)
        self._rest(self._unanswered, now)
        return None

    def _rest(self, times: int, now: float) -> None:
        """Send nothing for a while, twice as long each time in a row."""
        self.rest_until = now + min(_MAX_REST, _MIN_REST * 2 ** (times - 1))

    def _is_stalled(self, now: float) -> bool:
        unsettled, since = self._progress
        if unsettled != self._scan.unsettled:
            self._progress = self._scan.unsettled, now
            return False
        return now - since >= MAX_STALL

    def _cut_off(self, *, is_silent: bool) -> Failure:
        scan = self._scan
        return cut_off(
            scan.address,
            heard=scan.last_answer_at - scan.active_job.started,
            probes=scan.probes_at_last_answer,
            unseen=scan.unsettled,
            ports=len(scan.active_job.job.ports),
            is_silent=is_silent,
        )

    def _next_ports(self) -> PortSet:
        """Return the reference ports whose turn it is: closed ones if any are known."""
        alive = list(self._scan.active_job.job.alive)[:_MAX_REFERENCE_PORTS]
        known = list(self._ports_in_state(CLOSED)) or list(self._ports_in_state(OPEN)) or alive
        self._turn += 1
        chosen = (
            {known[(self._turn * PROBES_PER_CHECK + number) % len(known)] for number in range(PROBES_PER_CHECK)}
            if known
            else ()
        )
        return PortSet.of(chosen)

    def _ports_in_state(self, state: int) -> Iterator[int]:
        port = -1
        for _ in range(_MAX_REFERENCE_PORTS):
            port = self._scan.states.find(state, port + 1)
            if port < 0:
                return
            yield port


def _is_between(sent_at: float, checks: list[ReferenceProbes], longest: float) -> bool:
    """Return whether a try was sent between two checks that were both answered within so many seconds."""
    after = bisect_right(checks, sent_at, key=attrgetter("sent_at"))
    return 0 < after < len(checks) and all(check.rtt <= longest for check in checks[after - 1 : after + 1])


def _may_be_to_repeat(rtt: float, longest: float) -> bool:
    """Return whether an answer may be that to a SYN which the kernel repeated at most `longest` seconds before."""
    return rtt >= KERNEL_REPEAT and rtt % KERNEL_REPEAT <= longest + _REPEAT_DELAY * rtt


def _next_power_of_two(seconds: float) -> float:
    """Return the next power of two from 1/8 on: each timeout has a queue of its own, so there must be few."""
    rounded = 0.125
    while rounded < seconds:
        rounded *= 2
    return rounded
