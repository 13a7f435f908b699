"""One host, once: resolve, scan, judge. What the monitor repeats and `portspec scan` does a single time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING

from portspec import log
from portspec.ports import PortSet
from portspec.scan import Failure, Reason, ScanJob
from portspec.snapshot import ScanResult
from portspec.verdict import Kind, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.inventory import Resolver, Target
    from portspec.scan import AddressObservation, Engine
    from portspec.verdict import Judgement

_log = log.get("examine")

_LONGEST_PORTS = 200


class Examiner:
    """Examines hosts, `parallel` of them scanned at a time; names are resolved outside of that limit."""

    def __init__(
        self,
        engine: Engine,
        resolver: Resolver,
        *,
        parallel: int,
        host_rate: float | None = None,
        rng: random.Random | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._resolver = resolver
        self._slots = asyncio.Semaphore(parallel)
        self._host_rate = host_rate
        self._rng = rng or random.Random()  # noqa: S311 - the order of probes is no secret
        self._wall_clock = wall_clock
        self.ports_started = 0  # of the hosts whose addresses are known, once for each host

    @property
    def probes_sent(self) -> int:
        """The number of probes sent since the start."""
        return self._engine.stats.probes_sent

    async def examine(self, target: Target) -> ScanResult:
        """Give the result of one scan; a fault on the way is logged and makes the host unknown."""
        try:
            result = await self._examine(target)
        except Exception as error:  # noqa: BLE001 - one host must not end the scans of the others
            _log.exception("scan crashed", host=target.host)
            failure = Failure(Reason.INTERNAL, f"the scan crashed: {type(error).__name__}: {error}")
            return ScanResult((), judge((), target.config.specification, failure), self._wall_clock())
        say = _log.info if result.judgement.verdict is Verdict.IN_SPEC else _log.warning
        say("host scanned", host=target.host, **_summary(result))
        return result

    async def _examine(self, target: Target) -> ScanResult:
        addresses: tuple[str, ...] = (target.address,) if target.address else ()
        failure = None
        if not addresses:
            resolution = await self._resolver.resolve(target.host)
            addresses = resolution.addresses
            failure = resolution.failure
        seen: tuple[AddressObservation, ...] = ()
        duration = 0.0
        if not addresses:
            self.ports_started += len(target.config.ports)
        else:
            async with self._slots:
                self.ports_started += len(target.config.ports)
                job = ScanJob(addresses, target.config.ports, self._host_rate, self._rng.getrandbits(64))
                observation = await asyncio.wrap_future(self._engine.submit(job))
                seen, duration = observation.addresses, observation.duration
        judgement = judge(seen, target.config.specification, failure)
        return ScanResult(seen, judgement, self._wall_clock(), duration)


def _summary(result: ScanResult) -> dict[str, object]:
    judgement = result.judgement
    summary: dict[str, object] = {
        "verdict": judgement.verdict.value,
        "open": len(result.open_ports),
        "missing": _ports(judgement, Kind.MISSING),
        "unexpected": _ports(judgement, Kind.UNEXPECTED),
        "duration_seconds": round(result.duration, 3),
    }
    if judgement.failure:
        summary |= {"reason": judgement.failure.reason.value, "detail": judgement.failure.detail}
    with contextlib.suppress(ValueError):
        summary["rtt_seconds"] = round(min(seen.rtt for seen in result.addresses if seen.rtt is not None), 6)
    return summary


def _ports(judgement: Judgement, kind: Kind) -> str:
    """Spell the deviating ports in a line that stays short when a machine answers on all of them."""
    spelled = str(PortSet.of(item.port for item in judgement.deviations if item.kind is kind))
    return spelled if len(spelled) <= _LONGEST_PORTS else f"{spelled[:_LONGEST_PORTS]}…"
