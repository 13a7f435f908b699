"""Judges hosts again when an exception, maintenance or a deadline ends: it counts then, not at the next scan."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.exceptions import is_outdated, next_edge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portspec.clock import Clock
    from portspec.state.snapshot import HostState

CLOCK_CHECK_INTERVAL: Final = 30.0  # seconds between two looks at the wall clock, which may be set at any time
_REST = 10.0  # times the duration of a pass before the next: of many hosts, something may end every second
_HOSTS_PER_TURN = 100  # hosts looked at, and perhaps judged, before the event loop may go on

_log = log.get("monitor")


async def watch(
    states: Callable[[], Iterable[HostState]],
    judge: Callable[[str, float], object],
    clock: Clock,
    wall_clock: Callable[[], float],
) -> None:
    """Have hosts judged at the moment at which an exception ends, until cancelled; at any time, without loss.

    So with maintenance that begins or ends, with deadlines, and where something is in force again since the wall clock
    was set back. `states` are those of the hosts that any of these is about. `judge` takes a host and the Unix time; it
    is called for those that were judged by something else, as their states tell.
    """
    while True:
        now, began = wall_clock(), clock.now()
        edge = await _judge_outdated(states(), judge, now)
        rest = _REST * (clock.now() - began)
        await clock.sleep(min(max(edge - now, rest), CLOCK_CHECK_INTERVAL))


async def _judge_outdated(states: Iterable[HostState], judge: Callable[[str, float], object], now: float) -> float:
    """Judge the hosts that were judged by something else; return the next time at which any is, or infinity."""
    found: list[str] = []
    edge = math.inf
    for number, state in enumerate(states, 1):
        if is_outdated(state, now):
            judge(state.host, now)
            found.append(state.host)
        edge = min(edge, next_edge([state], now))
        if number % _HOSTS_PER_TURN == 0:
            await asyncio.sleep(0)
    if found:
        _log.info(
            "an exception or maintenance has begun or ended, or a deadline has passed; hosts judged again",
            hosts=len(found),
            first=found[0],
        )
    return edge
