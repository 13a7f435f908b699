"""What changes when the monitor goes on with other targets. Pure.

With many hosts that takes a while, in which the event loop must not stand still. So prepare() can run in a thread: it
works on a table of states, which is immutable. Those that have changed since then are brought in by caught_up().
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from portspec.state.snapshot import HostState
from portspec.state.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portspec.inventory import Target
    from portspec.state.table import HostTable


@dataclass(frozen=True, slots=True)
class Transition:
    """From the hosts of `before` to those of `hosts`.

    Attributes:
        before: The hosts and states that it was prepared from.
        hosts: The other hosts, each with what is known of it, judged by its new configuration.
        targets: The other targets by host. One that is as before is the same object as before.
        groups: The targets by interval, then by host.
        started: The targets that are new or are to be scanned otherwise, hence at once.
        stopped: The hosts that are gone or are to be scanned otherwise.
        changed: The hosts that are scanned as before, and are judged otherwise or have another interval.
        deviating: The hosts that are scanned as before, and are out of specification.
        watched: The hosts that an exception, maintenance or a deadline is about.
        now: The Unix time by which they were judged.
    """

    before: HostTable[HostState]
    hosts: HostTable[HostState]
    targets: Mapping[str, Target]
    groups: Mapping[float, dict[str, Target]]
    started: tuple[Target, ...]
    stopped: frozenset[str]
    changed: tuple[str, ...]
    deviating: tuple[str, ...]
    watched: tuple[str, ...]
    now: float


def prepare(
    before: HostTable[HostState], targets: Iterable[Target], now: float, restored: Mapping[str, HostState]
) -> Transition:
    """Return the transition to other targets, judged at a Unix time; `restored` are earlier states of new hosts."""
    old = {state.host: state for chunk in before.chunks for state in chunk}
    kept = {target.host: _kept(target, old.get(target.host)) for target in targets}
    groups: dict[float, dict[str, Target]] = {}
    started, changed, deviating, states = [], [], [], []
    for host, target in kept.items():
        groups.setdefault(target.config.interval, {})[host] = target
        known = old.get(host)
        state = (known or restored.get(host) or _new(target, now)).under(target, now)
        if known is None or target.is_scanned_otherwise(known.target):
            started.append(target)
        else:
            if _differs(known, state):
                changed.append(host)
            if state.verdict is Verdict.OUT_OF_SPEC:
                deviating.append(host)
        states.append(state)
    gone = old.keys() - kept.keys()
    return Transition(
        before=before,
        hosts=before.holding(states),
        targets=kept,
        groups=groups,
        started=tuple(started),
        stopped=frozenset(gone.union(target.host for target in started if target.host in old)),
        changed=tuple(changed),
        deviating=tuple(deviating),
        watched=tuple(host for host, target in kept.items() if _is_watched(target)),
        now=now,
    )


def _is_watched(target: Target) -> bool:
    return bool(target.exceptions or target.maintenance or target.deadlines.has_ports)


def _new(target: Target, now: float) -> HostState:
    """Return the state of a host before its first scan; maintenance of it may last already."""
    return HostState(target, judged_at=now) if target.maintenance else HostState(target)


def caught_up(transition: Transition, current: HostTable[HostState]) -> Transition:
    """Return the transition from the present states of the same hosts."""
    newer = [
        state
        for old, new in zip(transition.before.chunks, current.chunks, strict=True)
        if old is not new
        for earlier, state in zip(old, new, strict=True)
        if state is not earlier and state.host in transition.targets
    ]
    if not newer:
        return transition
    judged = [state.under(transition.targets[state.host], transition.now) for state in newer]
    scanned_as_before = [
        (before, after) for before, after in zip(newer, judged, strict=True) if after.host not in transition.stopped
    ]
    changed = [after.host for before, after in scanned_as_before if _differs(before, after)]
    deviating = [after.host for _, after in scanned_as_before if after.verdict is Verdict.OUT_OF_SPEC]
    return replace(
        transition,
        before=current,
        hosts=transition.hosts.replacing_all(judged),
        changed=tuple(dict.fromkeys((*transition.changed, *changed))),
        deviating=tuple(dict.fromkeys((*transition.deviating, *deviating))),
    )


def _differs(before: HostState, after: HostState) -> bool:
    """Return whether a state is to be published, or its next scans are to be planned again."""
    is_same_interval = after.target.config.interval == before.target.config.interval
    return is_news(before, after) or not is_same_interval


def is_news(before: HostState, after: HostState) -> bool:
    """Return whether a host that is judged again is to be published: it deviates otherwise, or something is overdue."""
    return (
        after.conclusive is not before.conclusive
        or after.maintenance != before.maintenance
        or after.overdue != before.overdue
    )


def _kept(target: Target, state: HostState | None) -> Target:
    """Return the present target if it says the same, to keep one object only."""
    return state.target if state and state.target == target else target
