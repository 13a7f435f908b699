"""Judges hosts again when an exception ends, or maintenance begins or ends: it counts then, not at the next scan."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.exceptions import next_edge, outdated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portspec.clock import Clock
    from portspec.state.snapshot import HostState

CLOCK_CHECK_INTERVAL: Final = 30.0  # seconds between two looks at the wall clock, which may be set at any time
_HOSTS_PER_TURN = 100  # hosts judged before the event loop may go on

_log = log.get("monitor")


async def watch(
    states: Callable[[], Iterable[HostState]],
    judge: Callable[[str, float], object],
    clock: Clock,
    wall_clock: Callable[[], float],
) -> None:
    """Have hosts judged at the moment at which an exception ends, until cancelled; at any time, without loss.

    So with maintenance that begins or ends, and where something is in force again since the wall clock was set back.
    `states` are those of the hosts that an exception or maintenance is about. `judge` takes a host and the Unix time;
    it is called for those that were judged by something else, as their states tell.
    """
    while True:
        now = wall_clock()
        await _judge_outdated(states(), judge, now)
        edge = next_edge(states(), now)
        await clock.sleep(min(max(edge - now, 0.0), CLOCK_CHECK_INTERVAL))


async def _judge_outdated(states: Iterable[HostState], judge: Callable[[str, float], object], now: float) -> None:
    found = [state.host for state in outdated(states, now)]
    for number, host in enumerate(found, 1):
        judge(host, now)
        if number % _HOSTS_PER_TURN == 0:
            await asyncio.sleep(0)
    if found:
        _log.info("exceptions or maintenance ended, or began; hosts judged again", hosts=len(found), first=found[0])
