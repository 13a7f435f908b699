"""`portspec check`: what a configuration means, before it runs."""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING

from portspec.cli.output import write
from portspec.config.duration import spell_duration
from portspec.inventory import SystemResolver, targets
from portspec.scan.connect import MAX_ADDRESS_WINDOW, window_for

if TYPE_CHECKING:
    from portspec.config import Config
    from portspec.inventory import Resolution, Target

# What one core can do where every probe is answered at once (docs/performance.md).
PROBES_PER_SECOND = 60_000


def check(config: Config) -> int:
    """Print hosts, addresses, probes per round and the estimated duration; a file that loads is valid: 0."""
    known = targets(config)
    resolutions = asyncio.run(_resolve(config, known))
    rows = [_row(target, resolution) for target, resolution in zip(known, resolutions, strict=True)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{host:<{widths[0]}}  {addresses:<{widths[1]}}  {ports}" for host, addresses, ports in rows]
    lines += [
        "",
        *_round(config, known, [len(_addresses(*pair)) for pair in zip(known, resolutions, strict=True)]),
    ]
    unresolved = sum(resolution is not None and bool(resolution.failure) for resolution in resolutions)
    if unresolved:
        lines += [
            "",
            f"warning: {unresolved} of {len(known)} hosts would be unknown, since not all of their names resolve",
        ]
    write("\n".join((*lines, "", f"{config.path} is valid.", "")))
    return 0


async def _resolve(config: Config, known: tuple[Target, ...]) -> list[Resolution | None]:
    resolver = SystemResolver(ipv6=config.ipv6)

    async def one(target: Target) -> Resolution | None:
        return None if target.address else await resolver.resolve(target.host)

    return await asyncio.gather(*map(one, known))


def _addresses(target: Target, resolution: Resolution | None) -> tuple[str, ...]:
    return resolution.addresses if resolution else (target.address or "",)


def _row(target: Target, resolution: Resolution | None) -> tuple[str, str, str]:
    addresses = ", ".join(_addresses(target, resolution))
    if resolution and resolution.failure:
        addresses = ", ".join(filter(None, (addresses, resolution.failure.detail)))
    specification = target.config.specification
    ports = f"{len(target.config.ports):,} ports, expect {specification.expect}"
    if specification.allow:
        ports += f", allow {specification.allow}"
    return target.host, addresses, ports


def _round(config: Config, known: tuple[Target, ...], addresses: list[int]) -> tuple[str, str]:
    lanes = [(len(target.config.ports), count) for target, count in zip(known, addresses, strict=True)]
    probes = sum(ports * count for ports, count in lanes)
    tries = 1 + config.scan.retries
    rates = [PROBES_PER_SECOND, config.scan.rate or PROBES_PER_SECOND]
    best = max(probes / min(rates), *(_alone(config, ports * count) for ports, count in lanes))

    window = min(window_for(resource.getrlimit(resource.RLIMIT_NOFILE)[1]), MAX_ADDRESS_WINDOW * config.parallelscans)
    silent = probes * tries / min(window / config.scan.timeout, *rates)
    slowest = max(
        max(_alone(config, ports * count * tries), -(-ports // MAX_ADDRESS_WINDOW) * tries * config.scan.timeout)
        for ports, count in lanes
    )
    durations = (
        f"{spell_duration(best)} if every probe is answered at once, {spell_duration(max(silent, slowest))} if none is"
    )
    return (
        f"{len(known):,} hosts, {sum(addresses):,} addresses, {probes:,} probes per round",
        f"estimated duration of a round: {durations}",
    )


def _alone(config: Config, probes: int) -> float:
    """Give the seconds that one host takes for the sake of host_rate."""
    return probes / config.scan.host_rate if config.scan.host_rate else 0.0
