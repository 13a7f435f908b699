"""One round of scans now, for the commands."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.app.engines import drop_privileges, open_engines
from portspec.state.snapshot import HostState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portspec.config import Config
    from portspec.inventory import Target


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run; ports count once per address, and a name counts as one address until it is resolved."""

    hosts_done: int
    ports_done: int
    ports_total: int
    probes_sent: int


@dataclass(frozen=True, slots=True, repr=False)  # asyncio.run() spells its result out, twice
class ScanRun:
    """The states of some hosts after one scan each; `duration` in seconds, from first look-up to last answer."""

    states: tuple[HostState, ...]
    engine: str
    probes_sent: int
    duration: float


async def scan_once(config: Config, chosen: Sequence[Target], on_progress: Callable[[Progress], None]) -> ScanRun:
    """Scan the chosen targets once; `on_progress` is called ten times a second and at the end."""
    addresses = [target.address for target in chosen]
    # Without names the number of addresses is known. A port is probed a few times, and answers each probe once.
    probes = None if None in addresses else 8 * sum(len(target.config.ports) for target in chosen)
    has_ip6 = config.ipv6 or any(address and ":" in address for address in addresses)
    with open_engines(config, probes=probes, has_ip6=has_ip6) as engines:
        drop_privileges()
        engine = engines.scanner
        examiner = engines.examiner(config)
        started = time.monotonic()
        order = random.sample(range(len(chosen)), len(chosen))
        began = examiner.now()
        done = 0

        async def examine(target: Target) -> HostState:
            nonlocal done
            try:
                return HostState(target).after(await examiner.examine(target, round_began=began))
            finally:
                done += 1

        by_place = {place: asyncio.create_task(examine(chosen[place])) for place in order}
        scans = [by_place[place] for place in range(len(chosen))]
        ahead = sum(len(target.config.ports) for target in chosen)

        def report() -> None:
            total = engine.stats.ports_submitted + ahead - examiner.ports_started
            on_progress(Progress(done, engine.stats.ports_settled, total, examiner.probes_sent))

        everything = asyncio.gather(*scans, return_exceptions=True)  # each is asked for its own below
        while not everything.done():
            await asyncio.wait([everything], timeout=0.1)
            report()
        return ScanRun(
            tuple(scan.result() for scan in scans),
            engine.name,
            examiner.probes_sent,
            time.monotonic() - started,
        )
