"""Canaries: hosts with a known answer. While none of them can be seen, silence of others is not believed.

A host that falls silent and a cable that is pulled look the same. So before a host is judged by silence a canary is
looked at: at one that was seen since, if it is new that the host is silent, else at one that was seen a while ago.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.clock import SystemClock
from portspec.ports import NO_PORTS, PortSet
from portspec.scan import Failure, Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from portspec.clock import Clock
    from portspec.inventory import Target
    from portspec.scan import AddressObservation
    from portspec.scan.sharing import SharedScans

    SeesCanary = Callable[[Target], Awaitable[bool]]

FRESH: Final = 30.0  # seconds for which a check is recent; also the interval of checks while no canary is reachable
PAUSE: Final = 1.0  # minimum seconds between two checks
_MAX_NAMED = 3  # canaries in a message

_log = log.get("canary")


@dataclass(frozen=True, slots=True)
class _Look:
    """A check of a canary: when it began and ended, by the clock in seconds, and whether the canary was seen."""

    began: float
    ended: float
    is_seen: bool


class Canaries:
    """Checks whether a canary is reachable, unless a recent check has shown it. For one event loop.

    Concurrent callers share one check. `scans` is used for checks only, so that a canary can be checked during a long
    scan of it. `on_return` is called when a canary is reachable again after none was.
    """

    def __init__(self, scans: SharedScans, clock: Clock | None = None) -> None:
        self.scans = scans
        self.on_return: Callable[[], object] = lambda: None
        self._clock = clock or SystemClock()
        self._targets: tuple[Target, ...] = ()
        self._looks: dict[str, _Look] = {}  # the last one, by host
        self._began = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None

    def watch(self, targets: Iterable[Target]) -> None:
        """Use these canaries from now on; without canaries, silent hosts are always judged."""
        before, self._targets = self._targets, tuple(targets)
        same = {target.host for target in self._targets if target in before}
        self._looks = {host: look for host, look in self._looks.items() if host in same}

    def __bool__(self) -> bool:
        """Return whether there are canaries."""
        return bool(self._targets)

    def now(self) -> float:
        """Return the time of the clock of the checks, in seconds."""
        return self._clock.now()

    @property
    def is_seen(self) -> bool | None:
        """Whether a canary was seen at the last check; None without canaries and until the first check."""
        looks = [self._looks.get(target.host) for target in self._targets]
        if any(look and look.is_seen for look in looks):
            return True
        return False if looks and all(looks) else None

    def note(self, host: str, *, began: float, is_seen: bool) -> None:
        """Take note of a look at a host that began at a time of now(); of no consequence unless it is a canary."""
        if not any(target.host == host for target in self._targets):
            return
        before = self.is_seen
        self._looks[host] = _Look(began, self._clock.now(), is_seen)
        if before is not False and self.is_seen is False:
            _log.warning("no canary is reachable; silent hosts are not judged", canaries=self._names())
        elif before is False and self.is_seen:
            _log.info("a canary is reachable again", canary=host)
            self.on_return()

    async def missed(self, sees: SeesCanary, since: float) -> Failure | None:
        """Return the failure of what is silent if no canary is reachable, else None.

        A canary counts as seen if it was by a look that began at `since`, a time of now(), or later. Without such a
        look one is made with `sees`.
        """
        while self._targets:
            if any(look.is_seen and look.began >= since for look in self._looks.values()):
                return None
            recent = self._clock.now() - FRESH
            if self.is_seen is False and all(look.ended >= recent for look in self._looks.values()):
                self._follow(sees)
                return self._failure()
            await self._share(sees)
        return None

    def _failure(self) -> Failure:
        return Failure(Reason.CANARY, f"no canary is reachable ({self._names()}); silent hosts are not judged")

    def _names(self) -> str:
        hosts = [target.host for target in self._targets]
        more = f" and {len(hosts) - _MAX_NAMED} more" if len(hosts) > _MAX_NAMED else ""
        return f"{', '.join(hosts[:_MAX_NAMED])}{more}"

    async def _share(self, sees: SeesCanary) -> None:
        """Wait for the look that is made now, or make one."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(sees))
        await asyncio.shield(self._looking)  # who gives up waiting ends it for nobody else

    async def _look(self, sees: SeesCanary) -> None:
        """Scan all canaries until one is seen."""
        if (wait := self._began + PAUSE - self._clock.now()) > 0:
            await self._clock.sleep(wait)
        self._began = began = self._clock.now()
        looks = {asyncio.create_task(self._see(sees, target)): target for target in self._targets}
        try:
            for finished in asyncio.as_completed(looks):
                host, is_seen = await finished
                self.note(host, began=began, is_seen=is_seen)
                if is_seen:
                    return
        finally:
            for look in looks:
                look.cancel()

    @staticmethod
    async def _see(sees: SeesCanary, target: Target) -> tuple[str, bool]:
        try:
            return target.host, await sees(target)
        except Exception:  # noqa: BLE001 - a look that fails has seen nothing
            _log.exception("canary scan crashed", canary=target.host)
            return target.host, False

    def _follow(self, sees: SeesCanary) -> None:
        """Scan again from time to time until a canary is seen, since no scan asks about hosts that answer."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._look_until_seen(sees))

    async def _look_until_seen(self, sees: SeesCanary) -> None:
        while self.is_seen is False:
            await self._clock.sleep(FRESH)
            await self._share(sees)


@dataclass(frozen=True, slots=True)
class Silence:
    """The `ports` of an address on whose silence a verdict would rest; it is new if an earlier scan has heard them."""

    ports: PortSet
    is_new: bool


def silence(item: AddressObservation, expect: PortSet, before: AddressObservation | None) -> Silence | None:
    """Return the silence of an address on which a verdict would rest; None if there is none.

    That is the silence of all its ports, and of those that it is expected to have open, or had `before`; and whatever
    an address that was cut off would have said.
    """
    if item.failure:
        return Silence(NO_PORTS, is_new=True) if item.failure.reason is Reason.CUT_OFF else None
    if before and not before.is_usable:
        before = None
    if item.filtered and not item.answered:
        return Silence(item.filtered, is_new=before is None or bool(before.failure) or before.answered)
    ports = item.filtered & (expect | (before.accepting if before else NO_PORTS))
    return Silence(ports, is_new=before is None or not ports <= before.filtered) if ports else None


def disbelieved(item: AddressObservation, silent: Silence, failure: Failure) -> AddressObservation:
    """Take what is silent out of an observation: nothing is known of it, for that reason. What answered stays."""
    ports = silent.ports
    return replace(item, scanned=item.scanned - ports, filtered=item.filtered - ports, failure=failure)
