"""Proof that an address lives: connections to ports that have answered, among the last tries of silent ones.

1. Before the first of the last tries, after each PROBES of them, and after the last one, a group of controls goes out.
2. A silent port counts as filtered if controls were heard in the group before its last try and in the one after it.
   Else it is tried once more. Where that proves nothing of any port, the address answers less than it is asked, as a
   host does that limits its RSTs: after a rest, in which its bucket fills, half as many are tried between two groups.
3. Where no control is heard the address is deaf. Nothing but controls is sent then, with growing rests, until one is
   heard: what is silent is tried again then, with half as many probes in flight. After LONGEST_SILENCE without an
   answer the address counts as cut off.
4. The same is done in the middle of a scan where nothing was heard for a while: not only at its end is it noticed that
   the address fell silent.
5. Controls are waited for longer than other probes, so that they tell if answers take longer than those are waited for.
   Where nothing has answered, the second tries of a few ports, the scouts, are waited for as long.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

from portspec.ports import PortSet
from portspec.scan.connect.lane import CLOSED, OPEN, Lane, Try
from portspec.scan.life import LONGEST_SILENCE, LONGEST_STANDSTILL, cut_off

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from portspec.scan.job import Failure

PROBES = 128  # last tries between two groups of controls
MOST = 2  # controls in a group
_KNOWN = 32  # ports of either kind that take turns as controls
SCOUTS = 4  # ports of an address that has not answered at all which are waited for as long as controls
TIMES_AS_LONG = 4.0  # as other probes controls are waited for,
_LONGEST_WAIT = 10.0  # but not longer: seconds
_FEWEST = 3  # groups in a row that must be deaf before an address is given up
_QUIET = 2.0  # times as long as probes are waited for nothing is heard before controls are sent
_FIRST_REST, _LONGEST_REST = 0.25, 2.0  # seconds


class Group(Lane):
    """Controls that are sent together to the address of a lane, at `asked_at` by the engine's clock."""

    __slots__ = ("asked_at",)

    def __init__(self, of: Lane, ports: PortSet, now: float) -> None:
        super().__init__(of.work, of.address, of.loss.path, ports=ports, main=of)
        self.asked_at = now

    @property
    def is_pending(self) -> bool:
        """True while it may yet be heard."""
        return not self.answered and self.in_flight > 0


class Controls:
    """The controls of one lane. Times in seconds."""

    __slots__ = ("_deaf", "_groups", "_lane", "_probes", "_progress", "_turn", "_vain", "_watch", "rest_until")

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._groups: list[Group] = []
        self._probes = 0  # last tries since the last group
        self._deaf = 0  # times in a row that nobody was heard
        self._vain = 0  # times in a row that controls were heard, and yet nothing was proven
        self._progress = (0, 0.0)  # ports that were unsettled, and since when they are as many
        self._turn = 0
        self._watch: Group | None = None  # controls in the middle of a scan
        self.rest_until = 0.0

    def is_held(self, now: float) -> bool:
        """Tell whether nothing is to be sent but controls, since it is not known if the address still answers."""
        return self._watch is not None or now < self.rest_until

    def watch(self, timeout: float, now: float) -> Group | None:
        """Give the controls to send where nothing was heard for a while; all else waits until watched() has judged."""
        if self.is_held(now) or now - self._lane.heard_at < _QUIET * max(timeout, self._lane.patience):
            return None
        self._watch = self._group(timeout, now)
        return self._watch

    def watched(self, now: float) -> Failure | None:
        """Go on if the controls of watch() were heard, else rest; a Failure if nothing was heard for too long."""
        watch = self._watch
        if watch is None or watch.is_pending:
            return None
        self._watch = None
        if not watch.answered:
            return self._rest(now)
        self._lane.hear(watch.heard_at)
        self._slow_down()
        self._deaf = 0
        return None

    def due(self, timeout: float, now: float) -> Group | None:
        """Give the controls to send before the next of the last tries, or after them if there are no more."""
        is_first = not self._groups
        if self.is_held(now) or not (is_first or self._probes >= self.most or (self._probes and self.is_closing)):
            return None
        group = self._group(timeout, now)
        if group:
            self._groups.append(group)
            self._probes = 0
        return group

    @property
    def most(self) -> int:
        """How many last tries may be made between two groups."""
        return min(PROBES, self._lane.most_in_flight)

    def _group(self, timeout: float, now: float) -> Group | None:
        ports = self._pick()
        if not ports:
            return None
        group = Group(self._lane, ports, now)
        group.patience = min(_LONGEST_WAIT, TIMES_AS_LONG * max(timeout, self._lane.patience))
        return group

    def withdraw(self, group: Group) -> None:
        """Forget controls that this machine could not send: that they were not heard says nothing of the address."""
        if group is self._watch:
            self._watch = None
        else:
            self._groups.remove(group)
            self._probes = 1  # so that others are due

    def sent(self, probes: int) -> None:
        """Note that so many last tries went out."""
        self._probes += probes

    def is_due(self, now: float) -> bool:
        """Tell whether controls are to be sent though nothing else is."""
        return self.is_closing and not self.is_held(now)

    @property
    def is_closing(self) -> bool:
        """True if nothing but controls is left to send: those after the last tries, or those of a deaf address."""
        return self._probes > 0 and bool(self._lane.doubtful or self._lane.in_flight) and not self._lane.has_more

    @property
    def is_waiting(self) -> bool:
        """True while nothing can be concluded, since controls are due, or were not heard yet."""
        return bool(self._probes and self._pick()) or any(group.is_pending for group in self._groups)

    def judge(self, silent: Sequence[Try], timeout: float, now: float) -> tuple[list[Try], list[Try]] | Failure | None:
        """Tell of which tries the silence counts, and which are to be made again; None if that is not known yet.

        A Failure if the address does not answer any more. `timeout` is how long other probes are waited for.
        """
        if self.is_waiting:
            return None
        groups, self._groups = self._groups, []
        if not groups:
            return ([], list(silent)) if self._pick() else (list(silent), [])
        heard = [group for group in groups if group.answered]
        if not heard:
            self._probes = 1  # so that controls are due after the rest
            return self._rest(now)
        self._lane.hear(max(group.heard_at for group in heard))
        slowest = max(group.rtt for group in heard)
        is_slow = 2 * slowest > max(timeout, self._lane.patience)
        if is_slow:
            self._lane.patience = _rounded(min(_LONGEST_WAIT, 2 * slowest))
        self._slow_down()
        if self._is_at_a_standstill(now):
            return self._cut_off(is_silent=False)
        if is_slow or self._deaf:
            self._deaf = 0
            return [], list(silent)
        proven, unproven = list[Try](), list[Try]()
        for one in silent:
            (proven if _is_between(one.sent_at, groups) else unproven).append(one)
        self._vain = 0 if proven or not unproven else self._vain + 1
        if self._vain:
            self._lane.most_in_flight = max(1, min(self._lane.most_in_flight, len(unproven)) // 2)
            self._rest_for(self._vain, now)
        return proven, unproven

    def begin_anew(self, now: float) -> None:
        """Forget what was heard: the way to the address was interrupted."""
        self._groups.clear()
        self._probes = self._deaf = self._vain = 0
        self._watch = None
        self._lane.heard_at = now

    def _slow_down(self) -> None:
        """Have half as many probes in flight, if the address was deaf."""
        if self._deaf:
            self._lane.most_in_flight = max(1, self._lane.most_in_flight // 2)

    def _rest(self, now: float) -> Failure | None:
        self._deaf += 1
        if self._deaf >= _FEWEST and now - self._lane.heard_at >= LONGEST_SILENCE:
            return self._cut_off(is_silent=True)
        self._rest_for(self._deaf, now)
        return None

    def _rest_for(self, times: int, now: float) -> None:
        """Send nothing for a while, the longer the more times in a row that is."""
        self.rest_until = now + min(_LONGEST_REST, _FIRST_REST * 2 ** (times - 1))

    def _is_at_a_standstill(self, now: float) -> bool:
        unsettled, since = self._progress
        if unsettled != self._lane.unsettled:
            self._progress = self._lane.unsettled, now
            return False
        return now - since >= LONGEST_STANDSTILL

    def _cut_off(self, *, is_silent: bool) -> Failure:
        lane = self._lane
        return cut_off(
            lane.address,
            heard=lane.heard_at - lane.work.started,
            probes=lane.probes_when_heard,
            unseen=lane.unsettled,
            ports=len(lane.work.job.ports),
            is_silent=is_silent,
        )

    def _pick(self) -> PortSet:
        """Give the ports to ask: closed ones if any are known, since RSTs are what hosts limit."""
        alive = list(self._lane.work.job.alive)[:_KNOWN]
        known = list(self._known(CLOSED)) or list(self._known(OPEN)) or alive
        self._turn += 1
        return PortSet.of({known[(self._turn * MOST + number) % len(known)] for number in range(MOST)} if known else ())

    def _known(self, state: int) -> Iterator[int]:
        port = -1
        for _ in range(_KNOWN):
            port = self._lane.states.find(state, port + 1)
            if port < 0:
                return
            yield port


def _is_between(sent_at: float, groups: list[Group]) -> bool:
    """Tell whether a try was made between two groups that were both heard."""
    after = bisect_right(groups, sent_at, key=attrgetter("asked_at"))
    return 0 < after < len(groups) and groups[after - 1].answered and groups[after].answered


def _rounded(seconds: float) -> float:
    """Give the next power of two: each patience has a queue of its own."""
    whole = 0.125
    while whole < seconds:
        whole *= 2
    return whole
