"""One address of a job: what was sent, what came back, what is to be sent next. No clock, no socket."""

from __future__ import annotations

import socket
import zlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import default_rng

from portspec.ports import PortSet
from portspec.scan.job import AddressObservation, Failure
from portspec.scan.life import LONGEST_SILENCE, cut_off, pace
from portspec.scan.loss import AddressLoss
from portspec.scan.syn.packets import pack
from portspec.scan.syn.reference_ports import AFTER, BEFORE, LAST_TRY, TRY_SLOTS, Controls
from portspec.scan.syn.state import CLOSED, FILTERED, FLYING, OPEN, WAITING
from portspec.scan.syn.timing import LEAST_WAIT, TOO_MANY, RoundTrip, Window
from portspec.scan.syn.wave import Waves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from portspec.scan.loss import PathLoss
    from portspec.scan.syn.packets import U8, U16, Bools, Floats
    from portspec.scan.syn.reference_ports import Group
    from portspec.scan.syn.wave import Wave
    from portspec.scan.way import Way
    from portspec.scan.work import Work

TRIES = LAST_TRY + 1
_SOON = 0.05  # seconds
_LEAST_LOSS, _MOST_LOSS = 0.02, 0.25  # that is taken for chance


@dataclass(frozen=True, slots=True)
class Load:
    """Probes to one address: `ports` as the try `attempt` (from 0), between the controls `before` and `after`."""

    lane: Lane
    ports: U16
    attempt: int
    before: U16
    after: U16

    @property
    def parts(self) -> tuple[U16, U16, U16]:
        """What is to be sent, in this order."""
        return self.before, self.ports, self.after

    def __len__(self) -> int:
        return len(self.before) + len(self.ports) + len(self.after)


@dataclass(slots=True)
class _Flight:
    """Probes that were sent together, and the controls that were sent last before them and first after them."""

    began_at: float
    sent_at: float
    ports: U16
    before: Group | None
    after: Group | None = None

    @property
    def is_proven(self) -> bool:
        """True if controls were heard at both ends."""
        return bool(self.before and self.before.was_heard and self.after and self.after.was_heard)


_NONE: U16 = np.zeros(0, np.uint16)


class Lane:
    """One address of a job.

    Silence is only believed where something would have been heard: the last try of the silent ports goes out together
    with controls, probes to ports of the same address that have answered before. If too many controls stay silent too,
    or too many answers needed a repeated probe, the address limits its answers, or cannot answer now; from then on it
    is probed in waves that prove what is silent.
    """

    def __init__(
        self, work: Work[Lane], address: str, *, timeout: float, retries: int, path_loss: PathLoss, shift: int = 0
    ) -> None:
        self.work = work
        self.address = address
        self.packed = pack(address)
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.way: Way | None = None
        self.failure: Failure | None = None
        self.in_flight = 0
        self.answered = False
        self.rtt = float("inf")
        self._ports = _array(work.job.ports)
        self.unsettled = len(self._ports)
        self._window = Window()
        self._timer = RoundTrip(timeout)
        self._loss = AddressLoss(path_loss)
        self._heard_at = 0.0
        self._waited = np.zeros(TRIES + 1)  # from the first try to each other one, in seconds, as it came about
        self._least = self._retried = 1 + retries
        self._shift = shift % TRY_SLOTS
        self._rng = default_rng((work.job.seed, zlib.crc32(address.encode())))
        first = _array(work.job.first & work.job.ports)
        self._fresh = np.concatenate([first, self._rng.permutation(np.setdiff1d(self._ports, first))])
        self._next = 0
        self._again: deque[tuple[int, U16]] = deque()  # ports to try again, by how often they were tried
        self._doubtful: list[tuple[int, U16]] = []  # silent on every try that was due
        self._flights: dict[int, deque[_Flight]] = {}
        self._controls = Controls()
        self._is_controls_turn = False
        self._is_cut_off = self._is_silent = False
        self._open_ended: list[_Flight] = []  # after which no control was sent yet
        self._probes = self._probes_when_heard = 0
        self._waves: Waves | None = None
        size = int(self._ports.max(initial=0)) + 1
        self._state = np.zeros(size, np.uint8)
        self._tries = np.zeros(size, np.uint8)
        self._sent_at = np.zeros(size)
        self._begun: U8 | None = None  # the try with which a port was asked anew, where some were
        alive = _array(work.job.alive)
        self._controls.learn(alive, np.full(len(alive), CLOSED, np.uint8))

    def add_ports(self, ports: PortSet) -> None:
        """Scan more ports, none of which the job has yet."""
        more = _array(ports)
        self._ports = np.union1d(self._ports, more)
        if missing := int(self._ports.max(initial=0)) + 1 - len(self._state):
            self._state = np.pad(self._state, (0, missing))
            self._tries = np.pad(self._tries, (0, missing))
            self._sent_at = np.pad(self._sent_at, (0, missing))
            self._begun = None if self._begun is None else np.pad(self._begun, (0, missing))
        self.unsettled += len(more)
        if self._waves:  # they take what is not settled, whether it was asked before or not
            self._waves.add_ports(len(self._state))
        else:
            self._fresh = np.concatenate([self._fresh[self._next :], self._rng.permutation(more)])
            self._next = 0

    @property
    def is_over(self) -> bool:
        """True once every port is settled, or nothing more can be seen."""
        return not self.unsettled or self.failure is not None

    @property
    def room(self) -> int:
        """How many probes may be sent at once, if there are as many; 0 if there is nothing to send."""
        if self._waves:
            is_sent = self._waves.current and self._waves.current.is_sent
            return 0 if is_sent or self._is_cut_off else self.unsettled
        if self._next == len(self._fresh) and not self._again:
            return len(self._closing)
        return max(0, self._window.size - self.in_flight)

    @property
    def _closing(self) -> U16:
        """The controls to send after the last ports, where none was yet: at a slow pace they do not go out together."""
        return self._controls.pick(1)[1][:1] if self._open_ended else _NONE

    @property
    def rest_until(self) -> float:
        """The time before which nothing should be sent."""
        return self._waves.rest_until if self._waves else 0.0

    @property
    def is_doubtful(self) -> bool:
        """True if there is silence to be believed, and nothing else to be done first."""
        if self._waves:
            return bool(self._doubtful) or self._is_cut_off
        has_more = self._next < len(self._fresh) or self._again or self.in_flight or any(self._flights.values())
        return not has_more and self.unsettled > 0

    @property
    def ask_at(self) -> float:
        """The time before which it is not known whether silence is to be believed."""
        return self.way.ask_at if self.way else 0.0

    @property
    def _has_asked_again(self) -> bool:
        """True while no port waits for the answer to its first probe, or to be asked again."""
        return not self.unsettled or not (self._next < len(self._fresh) or self._again or self._flights.get(0))

    def take(self, most: int, now: float) -> Load | None:
        """Take up to `most` (at least 1) probes to send, those to repeat first; None if all were answered meanwhile."""
        if self._waves:
            return self._take_of_wave(self._waves, most)
        while self._again:
            attempt, ports = self._again.popleft()
            ports = ports[self._state[ports] == WAITING]
            if len(ports):
                load = self._load(attempt, ports, most, now)
                if len(ports) > len(load.ports):
                    self._again.appendleft((attempt, ports[len(load.ports) :]))
                return load
        if self._next == len(self._fresh):
            closing = self._closing
            return Load(self, _NONE, 0, _NONE, closing) if len(closing) else None
        load = self._load(0, self._fresh[self._next : self._next + most], most, now)
        self._next += len(load.ports)
        return load

    def _load(self, attempt: int, ports: U16, most: int, now: float) -> Load:
        if attempt + 1 < self._least:
            return Load(self, ports[:most], attempt, _NONE, _NONE)
        before, after = self._controls.pick(min(most, len(ports)))
        if self._controls.latest and now - self._controls.latest.asked_at < _SOON:
            before = before[:0]  # those after the last ports are before these
        if most < 3 and len(after):  # noqa: PLR2004 - a slow pace: in turn
            self._is_controls_turn = not self._is_controls_turn
            return (
                Load(self, _NONE, attempt, _NONE, after[:1])
                if self._is_controls_turn
                else Load(self, ports[:1], attempt, _NONE, _NONE)
            )
        before, after = before[: most // 3], after[: most // 3]
        return Load(self, ports[: most - len(before) - len(after)], attempt, before, after)

    def _take_of_wave(self, waves: Waves, most: int) -> Load | None:
        wave = waves.current or waves.begin(self._ports[self._state[self._ports] <= WAITING], self._controls.known)
        while not wave.is_sent:
            attempt, ports = wave.next(most)
            if attempt == BEFORE:
                return Load(self, _NONE, LAST_TRY, ports, _NONE)
            if attempt == AFTER:
                return Load(self, _NONE, LAST_TRY, _NONE, ports)
            if (self._state[ports] <= WAITING).any():
                return Load(self, ports, LAST_TRY, _NONE, _NONE)
            wave.sent(len(ports), 0.0)  # all were answered meanwhile
        return None

    def sent(self, load: Load, gone: Bools, at: Floats) -> int:
        """Note what of a load was sent (`gone`, in the order of its parts), and when; gives how many were."""
        count = int(np.count_nonzero(gone))
        self._probes += count
        if self._waves:
            self._sent_of_wave(self._waves, load, gone, at)
            return count
        first, last = len(load.before), len(load.before) + len(load.ports)
        self._sent_controls(BEFORE, load.before, gone[:first], at[:first])
        was_sent = gone[first:last]
        ports, times = load.ports, at[first:last]
        if not was_sent.all():
            self._state[ports[~was_sent]] = WAITING
            self._again.appendleft((load.attempt, ports[~was_sent]))
            ports, times = ports[was_sent], times[was_sent]
        self._fly(ports, load.attempt, times)
        if len(ports):
            flight = _Flight(float(times.min()), float(times.max()), ports, self._controls.latest)
            self._flights.setdefault(load.attempt, deque()).append(flight)
            if load.attempt + 1 >= self._least:
                self._open_ended.append(flight)
        self._sent_controls(AFTER, load.after, gone[last:], at[last:])
        return count

    def _sent_controls(self, end: int, ports: U16, gone: Bools, at: Floats) -> None:
        if gone.any():
            group = self._controls.asked(end, ports[gone].tolist(), float(at[gone][0]))
            for flight in self._open_ended:
                flight.after = group
            self._open_ended.clear()

    def _sent_of_wave(self, waves: Waves, load: Load, gone: Bools, at: Floats) -> None:
        count = len(gone) if gone.all() else int(gone.argmin())  # what was sent after one that was not is sent again
        if waves.current and count:
            waves.current.sent(count, float(at[count - 1]))
        ports, times = load.ports[:count], at[: len(load.ports)][:count]
        waiting = self._state[ports] <= WAITING
        self._fly(ports[waiting], load.attempt, times[waiting])

    def _fly(self, ports: U16, attempt: int, times: Floats) -> None:
        self._state[ports] = FLYING
        self._tries[ports] = attempt + 1
        self._sent_at[ports] = times
        self.in_flight += len(ports)

    def slot(self, attempt: int) -> int:
        """Give the source port of a try, counted from the first one that is ours.

        Each scan begins somewhere else: a target that was not told to forget the last one's probes is deaf to new ones
        from the same port, for a minute.
        """
        return (attempt + self._shift) % TRY_SLOTS

    def harvest(self, ports: U16, slots: U8, kinds: U8, at: Floats, direct: Bools) -> int:
        """Take answers that are proven, `direct` those of the address itself; gives how many ports they settled.

        An ICMP error settles none: it is as good as silence, and what it says holds if every try meets with it.
        """
        inside = ports < len(self._state)
        if not inside.all():  # a cookie that was guessed
            ports, slots, kinds, at, direct = ports[inside], slots[inside], kinds[inside], at[inside], direct[inside]
        attempts = np.where(slots < TRY_SLOTS, (slots + np.uint8(TRY_SLOTS - self._shift)) % np.uint8(TRY_SLOTS), slots)
        self.answered = self.answered or bool(direct.any())
        told = kinds != FILTERED
        if not told.all():  # ICMP errors: who sent them may answer otherwise soon (RFC 1122, 4.2.3.9)
            ports, attempts, kinds, at = ports[told], attempts[told], kinds[told], at[told]
        if not len(ports):
            return 0
        self._heard_at = max(self._heard_at, float(at.max()))
        self._probes_when_heard = self._probes
        if (attempts >= BEFORE).any():
            self._hear_controls(ports, attempts, at)
        made = attempts < self._tries[ports]  # what was not sent cannot be answered, and a control is settled already
        ports, attempts, kinds, at = ports[made], attempts[made], kinds[made], at[made]
        before = self._state[ports]
        pending = before <= WAITING
        np.maximum.at(self._state, ports, kinds)
        settled, rows = np.unique(ports[pending], return_index=True)
        self.in_flight -= int(np.count_nonzero(before[pending][rows] == FLYING))
        self.unsettled -= len(settled)
        self._learn(settled, attempts[pending][rows], at[pending][rows])
        return len(settled)

    def _hear_controls(self, ports: U16, attempts: U8, at: Floats) -> None:
        for control in (BEFORE, AFTER):
            heard = attempts == control
            if self._waves is None:
                self._controls.heard(control, ports[heard].tolist())
            elif self._waves.current:
                times = zip(ports[heard].tolist(), at[heard].tolist(), strict=True)
                took = [self._waves.current.heard(control, port, moment) for port, moment in times]
                for sample in filter(None, took):
                    self._timer.measured(sample)

    def _learn(self, ports: U16, attempts: U8, at: Floats) -> None:
        """Learn round-trip time, loss, and whom to ask as a control, from the first answers of some ports."""
        if not len(ports):
            return
        self._controls.learn(ports, self._state[ports])
        if self._waves:  # their tries are all one, and what gets lost is the host's choice
            return
        # An answer to an earlier try took as long as the tries after it were waited for, and then some.
        waited = self._waited[self._tries[ports] - np.uint8(1)] - self._waited[attempts]
        took = np.maximum(at - self._sent_at[ports], 0.0) + waited
        self.rtt = min(self.rtt, float(took.min()))
        self._timer.measured(float(took.max()))
        first = int(np.count_nonzero(attempts <= (0 if self._begun is None else self._begun[ports])))
        later = len(ports) - first
        self._loss.answered(first=first, later=later)
        if self._has_asked_again:
            self._loss.tell()
        self._window.concluded(first=first, later=later)

    def missed(self) -> None:
        """Note that answers were lost on this side: what stays silent is asked once more than else."""
        self._least = min(self._least + 1, LAST_TRY)

    def next_expiry(self) -> float | None:
        """Give when the next probe will have been waited for long enough; None if there is none."""
        if self._waves:
            wave = self._waves.current
            return wave.expires_at(self._waves.wait(self._timer.wait(0))) if wave and wave.is_sent else None
        waits = [
            flights[0].sent_at + self._timer.wait(attempt) for attempt, flights in self._flights.items() if flights
        ]
        return min(waits, default=None)

    def expire(self, now: float) -> None:
        """Give up waiting for what was waited for long enough."""
        for attempt, flights in list(self._flights.items()):
            wait = self._timer.wait(attempt)
            while flights and flights[0].sent_at + wait <= now:
                self._silent(attempt, flights.popleft(), now)
        if self._waves and self._waves.current and self._waves.current.is_sent:
            wave = self._waves.current
            wait = self._waves.wait(self._timer.wait(0))
            if (wave.is_answered and not self.in_flight) or wave.expires_at(wait) <= now:
                self._judge(self._waves, wave, now, wait)

    def _silent(self, attempt: int, flight: _Flight, now: float) -> None:
        if self._waves:  # since a moment: all is theirs
            return
        ports = flight.ports
        ports = ports[(self._state[ports] == FLYING) & (self._tries[ports] == attempt + 1)]
        self.in_flight -= len(ports)
        self._state[ports] = WAITING
        self._waited[attempt + 1 :] += now - flight.sent_at - (self._waited[attempt + 1] - self._waited[attempt])
        is_last = attempt + 1 >= self._least
        self._controls.expire(flight.began_at)
        loss = min(_MOST_LOSS, max(_LEAST_LOSS, self._loss.elsewhere))
        deaf = self._controls.are_deaf(flight.began_at - LEAST_WAIT, loss) if is_last else None
        is_unproven = is_last and bool(self._controls) and not flight.is_proven
        if deaf or (attempt == LAST_TRY and is_unproven):
            self._be_strict(now)
            return
        if not len(ports):
            return
        self._window.concluded(silent=len(ports))
        if is_last and not is_unproven:
            self._doubtful.append((attempt + 1, ports))
        else:
            self._again.append((min(attempt + 1, LAST_TRY), ports))

    def _be_strict(self, now: float) -> None:
        """Go over to waves, with everything that is not settled."""
        self._window.shrink()
        self._loss.withdraw()
        self._waves = Waves(len(self._state), self._window.size, self._rng, now)
        self._heard_at = now
        self._state[self._ports[self._state[self._ports] == FLYING]] = WAITING
        self.in_flight = 0
        self._next = len(self._fresh)
        self._again.clear()
        self._doubtful.clear()
        self._flights.clear()
        self._open_ended.clear()

    def _judge(self, waves: Waves, wave: Wave, now: float, wait: float) -> None:
        """End a wave; silence that was proven often enough is to be believed, and none if proof is not to be had."""
        silent = wave.ports[self._state[wave.ports] == FLYING]
        answered = wave.ports[self._state[wave.ports] > FILTERED]
        self._state[silent] = WAITING
        self.in_flight = 0
        silent = waves.judge(silent, answered, now, wait)
        proven = waves.proven(silent, self._tries_of_wave(waves))
        if len(proven):
            self._doubtful.append((TRIES, proven))
        elif waves.is_hopeless(self.unsettled, self._heard_at, now):
            self._is_cut_off, self._is_silent = True, now - self._heard_at >= LONGEST_SILENCE

    def _tries_of_wave(self, waves: Waves) -> int:
        own = self._loss if self._loss.share <= TOO_MANY else self._loss.path
        return max(own.tries(self._least), waves.loss.tries(self._least))

    def conclude(self) -> int:
        """Call what was tried as often as the loss asks for and stayed silent filtered, try the rest again.

        Gives how many ports were settled. `expire` is to be called before, in the same moment. The silence of an
        address that has answered and does so no longer is not that of its ports: it is cut off.
        """
        if self._is_cut_off:
            self.failure = cut_off(
                self.address,
                heard=self._heard_at - self.work.started,
                probes=self._probes_when_heard,
                unseen=self.unsettled,
                ports=len(self._ports),
                is_silent=self._is_silent,
            )
            return 0
        if self._waves is None:
            self._loss.tell()
            if self._loss.has_enough and self._controls and self._loss.share > TOO_MANY:
                self._be_strict(self._heard_at)
                return 0
        tries = 0 if self._waves else min(self._loss.tries(self._least), TRIES)
        doubtful, self._doubtful = self._doubtful, []
        settled = 0
        for attempt, tried in doubtful:
            ports = tried[self._state[tried] <= WAITING]
            if attempt >= tries:
                self._state[ports] = FILTERED
                settled += len(ports)
            elif len(ports):
                self._again.append((attempt, ports))
        self.unsettled -= settled
        return settled

    def ask_again(self, now: float) -> None:
        """Ask what stayed silent as often again as if it had never been asked: nothing could have been heard."""
        if self._waves:
            self._waves.begin_anew(now)
            self._heard_at = now
            self._is_cut_off = False
        doubtful, self._doubtful = self._doubtful, []
        if not self._waves and doubtful:
            self._least = min(TRIES, max(attempt for attempt, _ in doubtful) + self._retried)
            self._begun = np.zeros(len(self._state), np.uint8) if self._begun is None else self._begun
            for attempt, ports in doubtful:
                self._begun[ports] = attempt  # what an outage swallowed says nothing of how much gets lost
                self._again.append((min(attempt, LAST_TRY), ports))

    def observation(self, failure: Failure | None = None) -> AddressObservation:
        """Give what is known now, with a failure in place of none if it is not all."""
        failure = self.failure or failure
        scanned = self.work.job.ports
        return AddressObservation(
            address=self.address,
            scanned=_set(np.flatnonzero(self._state >= FILTERED)) if failure else scanned,
            open=_set(np.flatnonzero(self._state == OPEN)),
            filtered=_set(np.flatnonzero(self._state == FILTERED)),
            answered=self.answered,
            rtt=self.rtt if self.answered and self.rtt != float("inf") else None,
            failure=failure,
            pace=pace(failure, self._heard_at - self.work.started, self._probes_when_heard),
        )


def _array(ports: PortSet) -> U16:
    ranges = [np.arange(first, last + 1, dtype=np.uint16) for first, last in ports.ranges]
    return np.concatenate(ranges) if ranges else _NONE


def _set(ports: NDArray[np.intp]) -> PortSet:
    """Give ascending ports as a set, without an object for each."""
    if not len(ports):
        return PortSet()
    ends = np.flatnonzero(np.diff(ports) > 1)
    firsts = ports[np.concatenate([[0], ends + 1])].tolist()
    lasts = ports[np.concatenate([ends, [len(ports) - 1]])].tolist()
    return PortSet.of_ranges(zip(firsts, lasts, strict=True))
