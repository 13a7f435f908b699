"""One host, once: resolve, scan, judge. What the monitor repeats and `portspec scan` does a single time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from portspec import log
from portspec.ports import PortSet
from portspec.scan import Failure, Reason, ScanJob
from portspec.scan.pacing import Pacer
from portspec.snapshot import ScanResult
from portspec.verdict import Kind, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portspec.config import Specification
    from portspec.inventory import Resolver, Target
    from portspec.scan import AddressObservation, Engine
    from portspec.verdict import Judgement

_log = log.get("examine")

_LONGEST_PORTS = 200
# How long a connection that confirms is waited for, at least: seconds, in which the kernel repeats its SYN twice (it
# must be as hard to overlook an open port as it was to find it), and round-trip times.
_LEAST_PATIENCE = 3.5
_PATIENCE = 3.0


class Examiner:
    """Examines hosts, `parallel` of them scanned at a time; names are resolved outside of that limit.

    With a `confirmer`, open ports that would be a deviation are connected to with that engine before they count
    (`confirm_allowed`: those of `allow`, too).
    """

    def __init__(
        self,
        engine: Engine,
        resolver: Resolver,
        *,
        parallel: int,
        confirmer: Engine | None = None,
        confirm_allowed: bool = False,
        host_rate: float | None = None,
        rng: random.Random | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._confirmer = confirmer
        self._confirm_allowed = confirm_allowed
        self._resolver = resolver
        self._slots = asyncio.Semaphore(parallel)
        self._host_rate = host_rate
        self._rng = rng or random.Random()  # noqa: S311 - the order of probes is no secret
        self._wall_clock = wall_clock
        self.ports_started = 0  # of the hosts whose addresses are known, once for each host

    @property
    def probes_sent(self) -> int:
        """The number of probes sent since the start."""
        return self._engine.stats.probes_sent + (self._confirmer.stats.probes_sent if self._confirmer else 0)

    @property
    def answers_dropped(self) -> int:
        """The number of answers since the start that arrived faster than they were read."""
        return self._engine.stats.answers_dropped

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
                job = ScanJob(
                    addresses,
                    target.config.ports,
                    seed=self._rng.getrandbits(64),
                    pacer=Pacer(self._host_rate),
                )
                observation = await asyncio.wrap_future(self._engine.submit(job))
                seen, duration = observation.addresses, observation.duration
                if self._confirmer:
                    seen, more = await self._confirm(self._confirmer, target.config.specification, job, seen)
                    duration += more
        judgement = judge(seen, target.config.specification, failure)
        return ScanResult(seen, judgement, self._wall_clock(), duration)

    async def _confirm(
        self, confirmer: Engine, specification: Specification, job: ScanJob, seen: tuple[AddressObservation, ...]
    ) -> tuple[tuple[AddressObservation, ...], float]:
        """Connect to the open ports that would be a deviation; gives what is known then, and the seconds it took."""
        known = specification.expect if self._confirm_allowed else specification.expect | specification.allow
        futures = [asyncio.wrap_future(confirmer.submit(ask)) for item in seen for ask in _questions(item, known, job)]
        try:
            answers = [await future for future in futures]
        finally:  # one that fails, or a cancellation, ends the others
            for future in futures:
                future.cancel()
        connected = {found.address: found for answer in answers for found in answer.addresses}
        confirmed = tuple(
            _confirmed(item, known, connected[item.address]) if item.address in connected else item for item in seen
        )
        return confirmed, max((answer.duration for answer in answers), default=0.0)


def _questions(item: AddressObservation, known: PortSet, job: ScanJob) -> Iterator[ScanJob]:
    """Give the job that confirms the open ports of an address which are not known, if there are any.

    One of the known ones goes along: where it does not even answer, no connection from here comes about.
    """
    doubtful = item.open - known
    if item.failure is None and doubtful:
        control = PortSet.of(islice(item.open & known, 1))
        patience = max(_LEAST_PATIENCE, _PATIENCE * (item.rtt or 0.0))
        yield replace(job, addresses=(item.address,), ports=doubtful | control, patience=patience)


def _confirmed(item: AddressObservation, known: PortSet, connected: AddressObservation) -> AddressObservation:
    """Mark the open ports that no connection could be made to; if none could be tried, nothing is known."""
    failure = connected.failure
    if failure is None and connected.filtered == connected.scanned and connected.scanned & known:
        failure = Failure(
            Reason.PERMISSION,
            f"SYNs to {item.address} are answered, and no connection is, not even to an expected port: does a packet "
            "filter of this machine drop what comes in?",
        )
    return replace(item, unconfirmed=(item.open - known) - connected.open, failure=failure)


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
