"""One host, once: resolve, scan, judge. What the monitor repeats and `portspec scan` does a single time."""

from __future__ import annotations

import contextlib
import random
import time
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from portspec import log
from portspec.clock import TimeLimit
from portspec.errors import EngineStoppedError, NoThreadError
from portspec.exceptions import excepted_ports
from portspec.inventory import addresses_of
from portspec.limit import Limit, LimitSlot
from portspec.ports import NO_PORTS, PortSet
from portspec.scan import AddressObservation, Failure, Reason, ScanJob
from portspec.scan.pacing import Pacer
from portspec.scan.table import SHARING_WINDOW
from portspec.schedule.canary import FRESH as LOOKED_RECENTLY
from portspec.schedule.canary import disbelieved, silence
from portspec.schedule.confirmation import Settler, apart
from portspec.state import evidence, summary
from portspec.state.snapshot import ScanResult
from portspec.state.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from portspec.clock import Later
    from portspec.config import Specification
    from portspec.inventory import Resolver, Target
    from portspec.scan.sharing import SharedScans
    from portspec.schedule.canary import Canaries

_log = log.get("examine")

NOT_SILENCED: Mapping[str, AddressObservation] = MappingProxyType({})
LEAST_DURATION = 60.0  # seconds that a host with a shorter interval may be scanned, unless the limit is configured


def max_duration(configured: float | None, interval: float) -> float:
    """Return how many seconds a host of an interval may be scanned."""
    return configured or max(interval, LEAST_DURATION)


class Examiner:
    """Examines hosts, as many of them scanned at a time as `parallel` has places; names are resolved outside of it.

    A deviation counts once it was seen `confirm` times, the repeats being made at once. With a `confirmer`, open ports
    that would be a deviation are connected to with that engine before they count; that is one of the repeats. Of an
    address that answers everything `connections`, by default the confirmer's, tell what is open. What falls silent
    while none of the `canaries` can be seen is not believed.

    A host is scanned for `max_duration` seconds, by default its interval and at least LEAST_DURATION, counted from its
    first probe on, repeats included. Then it is unknown, reason `timeout`, but for the deviations that count already;
    the last tenth of the time is for looking again at what deviates.
    """

    def __init__(  # noqa: PLR0913 - half of them are what tests replace
        self,
        scans: SharedScans,
        resolver: Resolver,
        parallel: Limit,
        *,
        confirmer: SharedScans | None = None,
        connections: SharedScans | None = None,
        canaries: Canaries | None = None,
        confirm: int = 1,
        host_rate: float | None = None,
        max_duration: float | None = None,
        later: Later | None = None,
        rng: random.Random | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._scans = scans
        self._confirmer = confirmer
        self._canaries = canaries
        self._settler = Settler(scans, confirmer, connections or confirmer, confirm)
        self._resolver = resolver
        self._parallel = parallel
        self._host_rate = host_rate  # None: that of the host, if it was cut off
        self._max_duration = max_duration
        self._later = later
        self._rng = rng or random.Random()  # noqa: S311 - the order of probes is no secret
        self._secret = self._rng.getrandbits(64)
        self._wall_clock = wall_clock
        self.ports_started = 0  # of the hosts whose scan has begun, once for each host

    @property
    def probes_sent(self) -> int:
        """The number of probes sent since the start."""
        engines = {scans.engine for scans in (self._scans, self._confirmer) if scans}
        return sum(engine.stats.probes_sent for engine in engines)

    @property
    def answers_dropped(self) -> int:
        """The number of answers since the start that arrived faster than they were read."""
        return self._scans.engine.stats.answers_dropped

    def now(self) -> float:
        """Return the time in seconds by which `round_began` of examine() is meant."""
        return self._scans.now()

    async def examine(  # noqa: PLR0913 - what is known of the host, and how it is asked
        self,
        target: Target,
        earlier: ScanResult | None = None,
        *,
        is_fresh: bool = False,
        is_urgent: bool = False,
        round_began: float | None = None,
        silenced: Mapping[str, AddressObservation] = NOT_SILENCED,
        pace: float | None = None,
        time_limit: float | None = None,
        give_way: Callable[[], object] = lambda: None,
    ) -> ScanResult:
        """Return the result of one scan; a fault on the way is logged and makes the host unknown.

        What deviates as it did in an `earlier` result need not be seen again before it counts. An address of `silenced`
        was cut off when it was last scanned; while it answers nothing, or shows none of these ports open, it still is.
        `pace` is how many probes per second the host gets then, where the configuration does not say it. With
        `is_fresh` no port's state is older than this call; else it may come from a scan of the same address for another
        host that began up to sharing.SHARING_WINDOW seconds ago and runs, or began in the same round, at the time
        `round_began` of now() or later. An urgent host is scanned before those that wait and are not urgent.
        `time_limit` are seconds from now on, where that is less than the host's own limit. `give_way` is called,
        perhaps several times, when the host has become slow, or only waits for the scans of others.
        """
        began = self._canaries.now() - SHARING_WINDOW if self._canaries else 0.0
        try:
            with contextlib.closing(self._limit(target, time_limit)) as limit:
                result = await self._examine(
                    target,
                    earlier,
                    LimitSlot(self._parallel, is_urgent=is_urgent, give_way=give_way, over=limit.over),
                    limit,
                    is_fresh=is_fresh,
                    round_began=round_began,
                    silenced=silenced,
                    rate=self._host_rate or pace,
                    began=began,
                )
            told = await apart(result.judgement.deviations, partial(summary.of, result))
        except NoThreadError as error:
            result = self._failed(target, Failure(Reason.LOCAL_LIMIT, str(error)))
            told = summary.of(result)
        except EngineStoppedError as error:  # the supervisor logs it
            result = self._failed(target, Failure(Reason.INTERNAL, str(error)))
            told = summary.of(result)
        except Exception as error:  # noqa: BLE001 - one host must not end the scans of the others
            _log.exception("scan crashed", host=target.host)
            return self._failed(target, Failure(Reason.INTERNAL, f"the scan crashed: {type(error).__name__}: {error}"))
        if result.judgement.verdict is not Verdict.IN_SPEC:
            say = _log.warning
        else:  # ten thousand hosts that are as they were are no news, each hour
            say = _log.debug if earlier and summary.is_same(result, earlier) else _log.info
        say("host scanned", host=target.host, **told)
        return result

    def _failed(self, target: Target, failure: Failure) -> ScanResult:
        return ScanResult((), judge((), target.config.specification, failure), self._wall_clock())

    async def recheck(
        self, target: Target, result: ScanResult, give_way: Callable[[], object] = lambda: None
    ) -> tuple[AddressObservation, ...] | None:
        """Scan again the ports that deviate in a result; return its addresses with what was seen of them now.

        What could not be seen stays as it was, and so does an address that answers nothing, since its silence tells
        nothing of its ports. None if only a scan of all ports can tell: the name leads to other addresses than
        those of the result, or an address answers which was silent then. A fault is logged and changes nothing.
        `give_way` is that of examine().
        """
        try:
            return await self._recheck(target, result, give_way)
        except (EngineStoppedError, NoThreadError):  # is logged already
            return result.addresses
        except Exception:  # noqa: BLE001 - one host must not end the scans of the others
            _log.exception("recheck crashed", host=target.host)
            return result.addresses

    async def _recheck(
        self, target: Target, result: ScanResult, give_way: Callable[[], object]
    ) -> tuple[AddressObservation, ...] | None:
        resolution = await addresses_of(target, self._resolver)
        present = resolution.addresses
        is_known = target.address is not None or resolution.failure is not None
        if not is_known and set(present) != {item.address for item in result.addresses}:
            return None
        found: dict[str, list[int]] = {}
        for deviation in result.judgement.deviations:
            found.setdefault(deviation.address, []).append(deviation.port)
        asked = {
            item.address: PortSet.of(found[item.address])
            for item in result.addresses
            if item.address in found and item.address in present
        }
        if not asked:
            return result.addresses
        with contextlib.closing(self._limit(target)) as limit:
            limit.begin()
            with contextlib.closing(LimitSlot(self._parallel, give_way=give_way, over=limit.over)) as place:
                job = ScanJob((), NO_PORTS, seed=self._rng.getrandbits(64), pacer=Pacer(self._host_rate))
                return await self._settler.ask_again(target.config.specification, job, result.addresses, asked, place)

    def _limit(self, target: Target, time_limit: float | None = None) -> TimeLimit:
        """Return the time limit of a scan; `time_limit`, if the caller sets one, starts now."""
        own = max_duration(self._max_duration, target.config.interval or time_limit or 0.0)  # a module has no interval
        limit = TimeLimit(min(own, time_limit or own), later=self._later)
        if time_limit:
            limit.begin()
        return limit

    async def _examine(  # noqa: PLR0913 - as examine()
        self,
        target: Target,
        earlier: ScanResult | None,
        place: LimitSlot,
        limit: TimeLimit,
        *,
        is_fresh: bool,
        round_began: float | None,
        silenced: Mapping[str, AddressObservation],
        rate: float | None,
        began: float,
    ) -> ScanResult:
        since = self._scans.now() if is_fresh else None
        resolution = await addresses_of(target, self._resolver)
        addresses, failure = resolution.addresses, resolution.failure
        seen: tuple[AddressObservation, ...] = ()
        duration = 0.0
        specification = target.config.specification

        def on_begin() -> None:
            self.ports_started += len(target.config.ports)
            limit.begin()

        if not addresses:
            self.ports_started += len(target.config.ports)
        else:
            job = ScanJob(
                addresses,
                target.config.ports,
                seed=self._rng.getrandbits(64),
                pacer=Pacer(rate),
                first=evidence.probably_open(target, earlier),
            )
            with contextlib.closing(place):
                observation = await self._scans.scan(
                    job,
                    place,
                    since=since,
                    round_began=round_began,
                    over=limit.nearly_over,
                    on_begin=on_begin,
                )
                place.is_urgent = True  # a host that was seen in part goes before those that were not looked at yet
                # the same ports for all hosts of a round, so that names of one address share them
                seed = job.seed if round_began is None else f"{self._secret}/{round_began}"
                seen, duration = await self._settler.settle(specification, job, place, observation, earlier, seed)
        seen = tuple(
            evidence.still_silent(item, silenced[item.address], specification.expect)
            if item.address in silenced
            else item
            for item in seen
        )
        seen = evidence.with_progress(seen, target, limit.seconds)
        if self._canaries:
            is_seen = any(item.accepting & specification.expect for item in seen)
            self._canaries.note(target.host, began=began, is_seen=is_seen)
            seen = await self._believe(self._canaries, specification, seen, earlier, silenced)
        now = self._wall_clock()
        excepted = excepted_ports(target.exceptions, now)
        judgement = await apart(seen, partial(judge, seen, specification, failure, excepted))
        return ScanResult(seen, judgement, now, duration)

    async def _believe(
        self,
        canaries: Canaries,
        specification: Specification,
        seen: tuple[AddressObservation, ...],
        earlier: ScanResult | None,
        silenced: Collection[str],
    ) -> tuple[AddressObservation, ...]:
        """Forget what is silent if no canary is reachable, but for addresses that were `silenced` before."""
        before = {item.address: item for item in (earlier.addresses if earlier else ())}
        found = {
            item.address: silent
            for item in seen
            if not (item.failure and item.address in silenced)
            and (silent := silence(item, specification.expect, before.get(item.address)))
        }
        if not found:
            return seen
        is_new = any(silent.is_new for silent in found.values())
        failure = await canaries.missed(
            partial(self._sees, canaries.scans), canaries.now() - (0.0 if is_new else LOOKED_RECENTLY)
        )
        if failure is None:
            return seen
        return tuple(
            disbelieved(item, found[item.address], failure) if item.address in found else item for item in seen
        )

    async def _sees(self, scans: SharedScans, canary: Target) -> bool:
        """Return whether any expected port of a canary is open now.

        It takes no place of those that are scanned, since these may hold theirs for long.
        """
        job = ScanJob(
            (await addresses_of(canary, self._resolver)).addresses,
            canary.config.specification.expect,
            seed=self._rng.getrandbits(64),
            pacer=Pacer(self._host_rate),
        )
        with contextlib.closing(LimitSlot(Limit(1))) as place:
            observation = await scans.scan(job, place, since=scans.now())
        return any(item.open for item in observation.addresses)
