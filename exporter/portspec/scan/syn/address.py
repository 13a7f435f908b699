"""The state of one address in the SYN engine: what was sent, what was answered, what to send next. No clock, no socket.

Silence is believed only where an answer would have arrived. An address is in one of two modes:

**Normal mode.** Each port gets its tries in turn; the tries of many ports overlap.

    NOT_SENT ─► IN_FLIGHT ──answer──────────────────────────────► OPEN, CLOSED
                 │     ▲
              expired  │ resent as the next try
                 ▼     │
               TO_RETRY                                            before the last try (`_min_tries`)
                 │
                 ▼
         _suspected_filtered ──conclude()──► FILTERED              if tried as often as the loss of probes demands
                 └────────────────────────► TO_RETRY               otherwise

The last tries go out between *reference probes*, to ports of the address that have answered before: a batch is proven
if reference probes before and after it were answered. Unproven last tries are repeated, up to LAST_TRY.

**Rate-limited mode** (_enter_rate_limited_mode), if more reference probes stay silent than chance explains, a port is
unproven at LAST_TRY, or more than MAX_RANDOM_LOSS of the answers are to repeated probes: the address limits its
answers, or cannot answer now. All ports that are not settled are probed again, in bracketed bursts (burst.py), and
silence needs _required_proofs() proofs. There is no way back. The address is cut off if proof is hopeless.

What the engine calls in each turn: record_answers and expire; if `has_only_suspects`, conclude or restart_silent_ports
(depending on the route); then take and record_sent for as many probes as `room` and the rates allow.

Invariants:

* The states of all ports are in `ports` (port_states.py). Reference probes go to ports that are settled and change no
  state.
* In normal mode each port that is not settled is in exactly one of `_unsent` (from `_next_unsent` on), `_retry_queue`,
  a batch of `_outstanding`, or `_suspected_filtered`. Stale entries are allowed: each reader filters by state and try.
* `_elapsed` has the time from the first try to each other one. It turns the answer to an early try of a repeated probe
  into a round-trip time. `_outstanding` has a queue for each try, in the order of sending and hence of expiry.
* In rate-limited mode nothing but the current burst is in flight, and neither loss nor window is learned from answers.
* After a change of the route, the answers to the tries before it are not counted as loss (PortStates.restart).
"""

from __future__ import annotations

import socket
import zlib
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import default_rng

from portspec.scan.failures import cut_off, rate_until_cut_off
from portspec.scan.job import AddressObservation, Failure
from portspec.scan.loss import AddressLoss
from portspec.scan.syn.batch import OutstandingBatch, ProbeBatch
from portspec.scan.syn.burst import BurstProber
from portspec.scan.syn.packets import pack
from portspec.scan.syn.port_states import CLOSED, EMPTY, FILTERED, OPEN, PortStates, port_array
from portspec.scan.syn.reference_ports import AFTER, BEFORE, LAST_TRY, TRY_SLOTS, ReferencePorts
from portspec.scan.syn.timing import MAX_RANDOM_LOSS, MIN_TIMEOUT, ProbeWindow, RetransmissionTimer

if TYPE_CHECKING:
    from portspec.ports import PortSet
    from portspec.scan.engine import ActiveJob
    from portspec.scan.loss import PathLoss
    from portspec.scan.route import TrackedRoute
    from portspec.scan.syn.arrays import U8, U16, Bools, Floats

TRIES = LAST_TRY + 1
_SAME_TIME = 0.05  # seconds in which reference probes after one batch also count as those before the next
_MIN_RANDOM_LOSS, _MAX_ASSUMED_LOSS = 0.02, 0.25  # limits of the loss by which silent reference probes are explained
_MIN_PORTS_AFTER_FIRST = 128  # beside fewer, no open port is asked again at the end either (state/evidence.py)
_MIN_INTERLEAVED = 3  # probes at once: fewer are sent as ports and reference probes in turn


class SynAddressScan:
    """The scan of one address of a job; see the head of this module.

    Args:
        active_job: the job.
        address: an IPv4 or IPv6 literal.
        timeout: seconds to wait for the first answer.
        retries: further probes to a port that does not answer.
        path_loss: what is known of the loss of probes to all addresses.
        shift: a random number that decides from which source port the first try is sent.
    """

    def __init__(
        self,
        active_job: ActiveJob[SynAddressScan],
        address: str,
        *,
        timeout: float,
        retries: int,
        path_loss: PathLoss,
        shift: int = 0,
    ) -> None:
        self.active_job = active_job
        self.address = address
        self.packed = pack(address)
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.route: TrackedRoute | None = None
        self.failure: Failure | None = None
        self.answered = False
        self.rtt = float("inf")
        self.ports = PortStates(port_array(active_job.job.ports))
        self._window = ProbeWindow()
        self._timer = RetransmissionTimer(timeout)
        self._loss = AddressLoss(path_loss)
        self._last_answer_at = 0.0
        self._elapsed = np.zeros(TRIES + 1)  # seconds from the first try to each other one, as measured
        self._min_tries = self._configured_tries = 1 + retries
        self._needed_tries = 0  # while it has answered nothing
        self._shift = shift % TRY_SLOTS
        self._rng = default_rng((active_job.job.seed, zlib.crc32(address.encode())))
        first = port_array(active_job.job.first & active_job.job.ports)
        others = self._rng.permutation(self.ports.without(first))
        self._unsent = np.concatenate([first, others])
        self._next_unsent = 0
        # In a turn of their own: of one turn, several threads send parts at the same time, and a ban that begins after
        # some of the others would hide that these ports are open.
        self._first_turn = len(first) if len(others) >= _MIN_PORTS_AFTER_FIRST else 0
        self._retry_queue: deque[tuple[int, U16]] = deque()  # ports to try again, with the number of the try
        self._suspected_filtered: list[tuple[int, U16]] = []  # silent on every try so far, with their number
        self._outstanding: dict[int, deque[OutstandingBatch]] = {}
        self._references = ReferencePorts()
        self._is_reference_turn = False
        self._unclosed: list[OutstandingBatch] = []  # after which no reference probe was sent yet
        self._probes = self._probes_at_last_answer = 0
        self._bursts: BurstProber | None = None
        if active_job.job.alive:
            alive = port_array(active_job.job.alive)
            self._references.learn(alive, np.full(len(alive), CLOSED, np.uint8))

    def add_ports(self, ports: PortSet) -> None:
        """Scan more ports, none of which the job has yet."""
        more = port_array(ports)
        self.ports.add(more)
        if not self._bursts:  # these take all ports that are not settled
            self._unsent = np.concatenate([self._unsent[self._next_unsent :], self._rng.permutation(more)])
            self._first_turn = max(0, self._first_turn - self._next_unsent)
            self._next_unsent = 0

    @property
    def is_over(self) -> bool:
        """True once every port is settled, or the address has failed."""
        return not self.ports.unsettled or self.failure is not None

    @property
    def unsettled(self) -> int:
        """How many ports have no state yet."""
        return self.ports.unsettled

    @property
    def room(self) -> int:
        """How many probes the window allows now, if there are as many; 0 if there is nothing to send."""
        if self._bursts:
            return self._bursts.room
        if self._next_unsent == len(self._unsent) and not self._retry_queue:
            return len(self._closing_probe)
        return max(0, self._window.size - self.ports.in_flight)

    @property
    def _closing_probe(self) -> U16:
        """The reference port to probe after the last ports, if none was yet: at a low rate it does not go with them."""
        return self._references.pick(1)[1][:1] if self._unclosed else EMPTY

    @property
    def rest_until(self) -> float:
        """The time before which nothing may be sent."""
        return self._bursts.rest_until if self._bursts else 0.0

    @property
    def has_only_suspects(self) -> bool:
        """True if only the silence of ports is left to judge: call conclude()."""
        if self._bursts:
            return bool(self._suspected_filtered) or self._bursts.is_cut_off
        has_more = (
            self._next_unsent < len(self._unsent)
            or self._retry_queue
            or self.ports.in_flight
            or any(self._outstanding.values())
        )
        return not has_more and self.ports.unsettled > 0

    @property
    def recheck_at(self) -> float:
        """The time before which the route cannot be checked."""
        return self.route.recheck_at if self.route else 0.0

    @property
    def _has_retried_all(self) -> bool:
        """True while no port waits for the answer to its first probe, or to be retried."""
        return not self.ports.unsettled or not (
            self._next_unsent < len(self._unsent) or self._retry_queue or self._outstanding.get(0)
        )

    def take(self, most: int, now: float) -> ProbeBatch | None:
        """Take up to `most` (at least 1) probes to send, retries first; None if all were answered meanwhile."""
        if self._bursts:
            return self._bursts.take(self._references.known, most)
        while self._retry_queue:
            attempt, ports = self._retry_queue.popleft()
            ports = self.ports.to_retry(ports)
            if len(ports):
                batch = self._next_batch(attempt, ports, most, now)
                if len(ports) > len(batch.ports):
                    self._retry_queue.appendleft((attempt, ports[len(batch.ports) :]))
                return batch
        if self._next_unsent == len(self._unsent):
            closing = self._closing_probe
            return ProbeBatch(EMPTY, 0, EMPTY, closing) if len(closing) else None
        if self._next_unsent < self._first_turn:
            most = min(most, self._first_turn - self._next_unsent)
        batch = self._next_batch(0, self._unsent[self._next_unsent : self._next_unsent + most], most, now)
        self._next_unsent += len(batch.ports)
        return batch

    def _next_batch(self, attempt: int, ports: U16, most: int, now: float) -> ProbeBatch:
        if attempt + 1 < self._min_tries:
            return ProbeBatch(ports[:most], attempt, EMPTY, EMPTY)
        before, after = self._references.pick(min(most, len(ports)))
        if self._references.latest and now - self._references.latest.sent_at < _SAME_TIME:
            before = before[:0]  # the reference probes after the last batch serve
        if most < _MIN_INTERLEAVED and len(after):  # a low rate
            self._is_reference_turn = not self._is_reference_turn
            return (
                ProbeBatch(EMPTY, attempt, EMPTY, after[:1])
                if self._is_reference_turn
                else ProbeBatch(ports[:1], attempt, EMPTY, EMPTY)
            )
        before, after = before[: most // 3], after[: most // 3]
        return ProbeBatch(ports[: most - len(before) - len(after)], attempt, before, after)

    def record_sent(self, batch: ProbeBatch, gone: Bools, at: Floats) -> int:
        """Record which probes of a batch were sent, and when; return how many.

        `gone` and `at` are in the order of batch.parts.
        """
        count = int(np.count_nonzero(gone))
        self._probes += count
        if self._bursts:
            self._bursts.record_sent(batch, gone, at)
            return count
        first, last = len(batch.before), len(batch.before) + len(batch.ports)
        self._record_sent_references(BEFORE, batch.before, gone[:first], at[:first])
        was_sent = gone[first:last]
        ports, times = batch.ports, at[first:last]
        if not was_sent.all():
            self.ports.mark_to_retry(ports[~was_sent])
            self._retry_queue.appendleft((batch.attempt, ports[~was_sent]))
            ports, times = ports[was_sent], times[was_sent]
        self.ports.mark_in_flight(ports, batch.attempt, times)
        if len(ports):
            outstanding = OutstandingBatch(float(times.min()), float(times.max()), ports, self._references.latest)
            self._outstanding.setdefault(batch.attempt, deque()).append(outstanding)
            if batch.attempt + 1 >= self._min_tries:
                self._unclosed.append(outstanding)
        self._record_sent_references(AFTER, batch.after, gone[last:], at[last:])
        return count

    def _record_sent_references(self, end: int, ports: U16, gone: Bools, at: Floats) -> None:
        if gone.any():
            references = self._references.record_sent(end, ports[gone].tolist(), float(at[gone][0]))
            for outstanding in self._unclosed:
                outstanding.after = references
            self._unclosed.clear()

    def slot(self, attempt: int) -> int:
        """Return the source port of a try, counted from the first of our source ports.

        Each scan begins with another one: a target that still has a half-open connection from the last scan ignores
        new SYNs from the same source port for a minute.
        """
        return (attempt + self._shift) % TRY_SLOTS

    def record_answers(self, ports: U16, slots: U8, kinds: U8, at: Floats, direct: Bools) -> int:
        """Record answers whose sequence numbers are right; return how many ports they settled.

        An ICMP error settles none: it counts as silence, and the port is filtered if every try ends like that.

        Args:
            ports: the ports that answered.
            slots: the source ports that were answered, counted from the first of ours.
            kinds: OPEN, CLOSED or FILTERED.
            at: when they arrived, in seconds.
            direct: whether the address itself sent them.
        """
        inside = ports < self.ports.size
        if not inside.all():  # a guessed sequence number
            ports, slots, kinds, at, direct = ports[inside], slots[inside], kinds[inside], at[inside], direct[inside]
        attempts = np.where(slots < TRY_SLOTS, (slots + np.uint8(TRY_SLOTS - self._shift)) % np.uint8(TRY_SLOTS), slots)
        self.answered = self.answered or bool(direct.any())
        conclusive = kinds != FILTERED
        if not conclusive.all():  # ICMP errors are soft: their sender may answer differently soon (RFC 1122, 4.2.3.9)
            ports, attempts, kinds, at = ports[conclusive], attempts[conclusive], kinds[conclusive], at[conclusive]
        if not len(ports):
            return 0
        self._last_answer_at = max(self._last_answer_at, float(at.max()))
        self._probes_at_last_answer = self._probes
        if (attempts >= BEFORE).any():
            self._record_reference_answers(ports, attempts, at)
        rows = self.ports.record_answers(ports, attempts, kinds)
        self._learn(ports[rows], attempts[rows], at[rows])
        return len(rows)

    def _record_reference_answers(self, ports: U16, attempts: U8, at: Floats) -> None:
        for end in (BEFORE, AFTER):
            rows = attempts == end
            if self._bursts is None:
                self._references.record_answers(end, ports[rows].tolist())
            else:
                for sample in self._bursts.record_reference_answers(end, ports[rows], at[rows]):
                    self._timer.record(sample)

    def _learn(self, ports: U16, attempts: U8, at: Floats) -> None:
        """Learn round-trip time, loss and reference ports from the first answers of some ports."""
        if not len(ports):
            return
        self._references.learn(ports, self.ports.state[ports])
        if self._bursts:  # all tries are LAST_TRY, and the host decides what gets lost
            return
        # An answer to an earlier try took the waiting times of the tries after it in addition.
        waited = self._elapsed[self.ports.tries[ports] - np.uint8(1)] - self._elapsed[attempts]
        took = np.maximum(at - self.ports.sent_at[ports], 0.0) + waited
        self.rtt = min(self.rtt, float(took.min()))
        self._timer.record(float(took.max()))
        first = self.ports.count_first(ports, attempts)
        later = len(ports) - first
        self._loss.answered(first=first, later=later)
        if self._has_retried_all:
            self._loss.publish()
        self._window.record(first=first, later=later)

    def record_drops(self) -> None:
        """Record that this machine dropped answers: silent ports get one more try."""
        self._min_tries = min(self._min_tries + 1, LAST_TRY)

    def next_expiry(self) -> float | None:
        """Return when the next probe expires; None if there is none."""
        if self._bursts:
            return self._bursts.next_expiry(self._timer.wait(0))
        waits = [
            outstanding[0].sent_at + self._timer.wait(attempt, self._needed_tries)
            for attempt, outstanding in self._outstanding.items()
            if outstanding
        ]
        return min(waits, default=None)

    def expire(self, now: float) -> None:
        """Stop waiting for the probes that have expired."""
        if self.rtt == float("inf"):
            self._needed_tries = 0 if self._references else self._loss.tries(self._min_tries)
        for attempt, outstanding in list(self._outstanding.items()):
            wait = self._timer.wait(attempt, self._needed_tries)
            while outstanding and outstanding[0].sent_at + wait <= now:
                self._expire_batch(attempt, outstanding.popleft(), now)
        if self._bursts and (silent := self._bursts.expire(self._timer.wait(0), now)) is not None:
            proven = self._bursts.proven(silent, self._required_proofs(self._bursts))
            if len(proven):
                self._suspected_filtered.append((TRIES, proven))
            else:
                self._bursts.cut_off_if_hopeless(self._last_answer_at, now)

    def _expire_batch(self, attempt: int, outstanding: OutstandingBatch, now: float) -> None:
        if self._bursts:  # a batch before entered the rate-limited mode: bursts take all ports
            return
        ports = self.ports.expire(outstanding.ports, attempt)
        self._elapsed[attempt + 1 :] += (
            now - outstanding.sent_at - (self._elapsed[attempt + 1] - self._elapsed[attempt])
        )
        is_last = attempt + 1 >= self._min_tries
        self._references.expire(outstanding.began_at)
        loss = min(_MAX_ASSUMED_LOSS, max(_MIN_RANDOM_LOSS, self._loss.share_elsewhere))
        is_unresponsive = (
            self._references.are_unresponsive(outstanding.began_at - MIN_TIMEOUT, loss) if is_last else None
        )
        is_unproven = is_last and bool(self._references) and not outstanding.is_proven
        if is_unresponsive or (attempt == LAST_TRY and is_unproven):
            self._enter_rate_limited_mode(now)
            return
        if not len(ports):
            return
        self._window.record(silent=len(ports))
        if is_last and not is_unproven:
            self._suspected_filtered.append((attempt + 1, ports))
        else:
            self._retry_queue.append((min(attempt + 1, LAST_TRY), ports))

    def _enter_rate_limited_mode(self, now: float) -> None:
        """Probe in bracketed bursts from now on, with all ports that are not settled."""
        self._window.shrink()
        self._loss.retract()
        self._bursts = BurstProber(self.ports, self._window.size, self._rng, now)
        self._last_answer_at = now
        self.ports.expire(self.ports.all)
        self._next_unsent = len(self._unsent)
        self._retry_queue.clear()
        self._suspected_filtered.clear()
        self._outstanding.clear()
        self._unclosed.clear()

    def _required_proofs(self, bursts: BurstProber) -> int:
        own = self._loss if self._loss.share <= MAX_RANDOM_LOSS else self._loss.path
        return max(own.tries(self._min_tries), bursts.loss.tries(self._min_tries))

    def conclude(self) -> int:
        """Mark suspects filtered that were tried often enough for the measured loss, requeue the others.

        Call expire() before, with the same time. An address that has answered and does not any more fails: it is cut
        off, and the silence is not that of its ports. Returns how many ports were settled.
        """
        if self._bursts and self._bursts.is_cut_off:
            self.failure = cut_off(
                self.address,
                heard=self._last_answer_at - self.active_job.started,
                probes=self._probes_at_last_answer,
                unseen=self.ports.unsettled,
                ports=len(self.ports.all),
                is_silent=self._bursts.is_silent,
            )
            return 0
        if self._bursts is None:
            self._loss.publish()
            if self._loss.has_enough_samples and self._references and self._loss.share > MAX_RANDOM_LOSS:
                self._enter_rate_limited_mode(self._last_answer_at)
                return 0
        tries = 0 if self._bursts else min(self._loss.tries(self._min_tries), TRIES)
        suspects, self._suspected_filtered = self._suspected_filtered, []
        settled = 0
        for attempt, tried in suspects:
            ports = self.ports.unsettled_of(tried)
            if attempt >= tries:
                self.ports.mark_filtered(ports)
                settled += len(ports)
            elif len(ports):
                self._retry_queue.append((attempt, ports))
        return settled

    def restart_silent_ports(self, now: float) -> None:
        """Probe silent ports again, as often as from the beginning: the route changed, and no answer could arrive."""
        if self._bursts:
            self._bursts.restart(now)
            self._last_answer_at = now
        suspects, self._suspected_filtered = self._suspected_filtered, []
        if not self._bursts and suspects:
            self._min_tries = min(TRIES, max(attempt for attempt, _ in suspects) + self._configured_tries)
            for attempt, ports in suspects:
                self.ports.restart(ports, attempt)
                self._retry_queue.append((min(attempt, LAST_TRY), ports))

    def observation(self, failure: Failure | None = None) -> AddressObservation:
        """Return what is known now; `failure` is that of an address which is not complete and has none."""
        failure = self.failure or failure
        scanned = self.active_job.job.ports
        return AddressObservation(
            address=self.address,
            scanned=self.ports.settled if failure else scanned,
            open=self.ports.in_state(OPEN),
            filtered=self.ports.in_state(FILTERED),
            answered=self.answered,
            rtt=self.rtt if self.answered and self.rtt != float("inf") else None,
            failure=failure,
            pace=rate_until_cut_off(
                failure, self._last_answer_at - self.active_job.started, self._probes_at_last_answer
            ),
        )
