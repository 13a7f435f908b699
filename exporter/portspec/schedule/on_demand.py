"""/probe: a scan of one target on request, as in other multi-target exporters."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from portspec.config import HostConfig
from portspec.inventory import Target
from portspec.limit import Limit
from portspec.names import address_of, canonical
from portspec.scan import Failure, Reason
from portspec.state.snapshot import HostState, ScanResult
from portspec.state.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from portspec.config import Config, Module
    from portspec.schedule.examiner import Examiner

MAX_CONCURRENT_PROBES = 32  # probes at a time
TIMEOUT_OFFSET = 0.5  # seconds that an answer takes to reach the one who asked, as blackbox_exporter's --timeout-offset
_SCAN_SHARE = 0.95  # of the limit, so that there is time to tell how far the scan came
MAX_PROBE_TIMEOUT = 120.0  # seconds for a probe whose asker names no limit


class ProbeError(Exception):
    """A probe that is not made; `status` is what HTTP says."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe that was made: the host's state after it, and the seconds it took, the look-up of the name included."""

    state: HostState
    engine: str
    duration: float


class Prober:
    """Makes probes of targets that the configuration names, or whose address `probe_allow` covers.

    `examiners` are those of the engine that scans ("auto") and of the one that connects ("connect"). A prober of the
    same `places` counts the probes that another one has not finished.
    """

    def __init__(
        self,
        config: Config,
        targets: Sequence[Target],
        examiners: Mapping[str, Examiner],
        *,
        engine: str,
        wall_clock: Callable[[], float] = time.time,
        places: Limit | None = None,
    ) -> None:
        self._config = config
        self._targets = {target.name: target for target in targets}
        self._allowed = [ipaddress.ip_network(network) for network in config.probe_allow]
        self._examiners = examiners
        self._engine = engine
        self._wall_clock = wall_clock
        self._places = places or Limit(MAX_CONCURRENT_PROBES)

    async def probe(self, target: str, module: str | None, time_limit: float | None) -> Probe:
        """Scan a target now, by a module's ports and specification or, without one, by its own.

        A scan that is not done within the limit, in seconds, ends as a failure `timeout`. Raises ProbeError.
        """
        chosen = self._target(target, self._module(module))
        engine = self._config.modules[module].engine if module else "auto"
        if engine == "syn" and self._engine != "syn":
            raise ProbeError(503, f'module "{module}" requires the syn engine, which this exporter cannot use')
        if not self._places.acquire_now():
            raise ProbeError(429, f"{self._places.most} probes are already running; retry later")
        begun = time.monotonic()
        limit = min(max(0.1, (time_limit or MAX_PROBE_TIMEOUT + TIMEOUT_OFFSET) - TIMEOUT_OFFSET), MAX_PROBE_TIMEOUT)
        examiner = self._examiners["connect" if engine == "connect" else "auto"]
        try:
            examining = examiner.examine(chosen, is_urgent=True, time_limit=limit * _SCAN_SHARE)
            async with asyncio.timeout(limit):
                result = await examining
        except TimeoutError:
            failure = Failure(Reason.TIMEOUT, f"the scan did not end within {limit:g} s, the limit of the request")
            result = ScanResult((), judge((), chosen.config.specification, failure), self._wall_clock(), limit)
        finally:
            self._places.release()
        used = "connect" if engine == "connect" else self._engine
        return Probe(HostState(chosen).after(result), used, time.monotonic() - begun)

    def _module(self, name: str | None) -> Module | None:
        if name is None:
            return None
        if name not in self._config.modules:
            known = ", ".join(sorted(self._config.modules)) or "none"
            raise ProbeError(400, f'conf.yml has no module "{name}" (modules: {known})')
        return self._config.modules[name]

    def _target(self, text: str, module: Module | None) -> Target:
        if not text:
            raise ProbeError(400, "the parameter target is missing: /probe?target=HOST")
        try:
            host = canonical(text)
        except ValueError as error:
            raise ProbeError(400, str(error)) from None
        known = self._targets.get(host)
        if known is not None:
            return known if module is None else replace(known, config=_as_host(module))
        if not self._is_allowed(host):
            raise ProbeError(403, f'"{host}" is not a host of conf.yml, and probe_allow does not cover it')
        if module is None:
            raise ProbeError(
                400, f'"{host}" has no specification in conf.yml: name a module, /probe?target={host}&module=NAME'
            )
        return Target(host, _as_host(module), host, severities=self._config.severities)

    def _is_allowed(self, host: str) -> bool:
        address = address_of(host)
        return address is not None and any(address in network for network in self._allowed)


def _as_host(module: Module) -> HostConfig:
    """Make the configuration of a host that is scanned as a module says; it is scanned once, so no interval counts."""
    return HostConfig(module.name, module.specification, module.ports, interval=0.0)
