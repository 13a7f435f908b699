"""`portspec check`: what a configuration means, before it runs."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.cli.output import count, write
from portspec.config.duration import spell_duration
from portspec.document import timestamp
from portspec.inventory import SystemResolver, roster, targets
from portspec.inventory.discovery import Discovery
from portspec.scan.connect import MAX_ADDRESS_WINDOW, window_for
from portspec.scan.syn import privileges
from portspec.scan.syn.timing import MOST_IN_FLIGHT, MOST_WINDOW
from portspec.store import place_of, present_holder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from portspec.config import AuditConfig, Config, MailConfig, PortException, VulnerabilityException
    from portspec.inventory import Resolution, Rostered, Target
    from portspec.inventory.discovery import SourceStats
    from portspec.store import Place


@dataclass(frozen=True, slots=True)
class _Pace:
    """What an engine can do: probes a second where each is answered at once, and how many it waits for at a time."""

    engine: str
    probes_per_second: int
    window: int
    address_window: int


def _pace(config: Config) -> _Pace:
    """Give the pace of the engine that would scan here (docs/performance.md: what two processors can do)."""
    may_use_raw = privileges.CAP_NET_RAW in privileges.permitted()
    if config.scan.engine == "syn" or (config.scan.engine == "auto" and may_use_raw):
        return _Pace("syn", 180_000, MOST_IN_FLIGHT, MOST_WINDOW)
    return _Pace("connect", 60_000, window_for(resource.getrlimit(resource.RLIMIT_NOFILE)[1]), MAX_ADDRESS_WINDOW)


def check(config: Config) -> int:
    """Print hosts, addresses, probes per round and the estimated duration; a file that loads is valid: 0."""
    discovery = Discovery(config.discovery)
    asyncio.run(discovery.refresh_all())
    known = targets(config, discovery.hosts)
    resolutions = asyncio.run(_resolve(config, known))
    rows = [_row(target, resolution) for target, resolution in zip(known, resolutions, strict=True)]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    lines = [f"{host:<{widths[0]}}  {addresses:<{widths[1]}}  {ports}" for host, addresses, ports in rows]
    lines += [
        *([""] if rows else []),
        *_round(config, known, [len(_addresses(*pair)) for pair in zip(known, resolutions, strict=True)]),
    ]
    expected = roster(config, known)
    if config.mail and config.mail.mode != "off":
        lines.append(_mail(config.mail))
    if config.audit:
        lines.append(_reports(config.audit, len(expected)))
    if config.reportfile or config.reportmail:
        lines.append(_report_of_all(config))
    place = place_of(config)
    lines.append(_state(place))
    unresolved = sum(resolution is not None and bool(resolution.failure) for resolution in resolutions)
    now = time.time()
    warnings = [
        *source_warnings(discovery.stats),
        *_exception_warnings(config, known, now),
        *_audit_warnings(config, expected, now),
    ]
    if config.mail and config.mail.tls == "none" and (config.mail.mode != "off" or config.reportmail):
        warnings.append('mails are sent without TLS, since smtptls is "none": anybody on the way reads them')
    if place.unread and not place.is_certain:
        warnings.append(place.why)
    if unresolved:
        warnings.append(f"{unresolved} of {count(len(known), 'host')} would be unknown, since not every name resolves")
    if warnings:
        lines += ["", *(f"warning: {warning}" for warning in warnings)]
    write("\n".join((*lines, "", f"{config.path} is valid.", "")))
    return 0


def source_warnings(sources: Sequence[SourceStats]) -> Iterator[str]:
    """Tell of sources of hosts that failed, or name what cannot be scanned."""
    for source in sources:
        if source.failure is not None:
            yield f"discovery.{source.name} failed and gave {count(source.hosts, 'host')}: {source.failure}"
        if source.targets_refused:
            yield f"discovery.{source.name} names {count(source.targets_refused, 'target')} that cannot be scanned"


def _exception_warnings(config: Config, known: Sequence[Target], now: float) -> Iterator[str]:
    """Tell of exceptions that do nothing: they have lapsed, or are about no host or no port that is scanned."""
    for item in config.exceptions:
        what = _exception(item, f"ports {item.ports}")
        ports = [target.config.ports for target in known if item in target.exceptions]
        if item.until <= now:
            yield f"{what} has lapsed on {timestamp(item.until)}: its deviations count; remove it, or give it a new end"
        elif not ports:
            yield f"{what} matches no host"
        elif not any(item.ports & scanned for scanned in ports):
            yield f"{what} is about ports that are not scanned"


def _audit_warnings(config: Config, expected: Mapping[str, Rostered], now: float) -> Iterator[str]:
    """Tell of exceptions of vulnerabilities that do nothing, and of an audit block that asks nobody."""
    for item in config.accepted:
        what = _exception(item, f"ids {', '.join(item.ids)}")
        if item.until <= now:
            yield (
                f"{what} has lapsed on {timestamp(item.until)}: its vulnerabilities count; remove it, or give it a new "
                "end"
            )
        elif not any(item in entry.exceptions for entry in expected.values()):
            yield f"{what} matches no host that has to report"
    if config.audit and not expected:
        yield "no host has to report: name hosts in audit.hosts, or set audit: true at hosts or sources"


def _exception(item: PortException | VulnerabilityException, about: str) -> str:
    """Name an exception by what it is about, and who knows."""
    told = [f"hosts {', '.join(item.hosts)}", about]
    told += [f"{name} {text}" for name, text in (("reason", item.reason), ("owner", item.owner)) if text]
    return f"the exception ({'; '.join(told)})"


def _mail(mail: MailConfig) -> str:
    to = count(len(mail.recipients), "address", "addresses")
    when = "while Alertmanager is not healthy " if mail.mode == "fallback" else ""
    return f"mails {when}to {to} by {mail.server} port {mail.port}; `portspec mail-test` tries that"


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
    ports = f"{count(len(target.config.ports), 'port')}, expect {specification.expect}"
    if specification.allow:
        ports += f", allow {specification.allow}"
    return target.host, addresses, ports


def _round(config: Config, known: tuple[Target, ...], addresses: list[int]) -> tuple[str, str]:
    hosts = [(len(target.config.ports), number) for target, number in zip(known, addresses, strict=True) if number]
    probes = sum(ports * number for ports, number in hosts)
    tries = 1 + config.scan.retries
    pace = _pace(config)
    rates = [pace.probes_per_second, config.scan.rate or pace.probes_per_second]
    if config.scan.host_rate:
        rates.append(config.scan.host_rate * min(config.parallelscans, len(hosts) or 1))
    best = max([probes / min(rates), *(_alone(config, ports * number) for ports, number in hosts)])

    window = min(pace.window, pace.address_window * config.parallelscans)
    worst = [probes * tries / min(window / config.scan.timeout, *rates)]
    for ports, number in hosts:
        worst.append(_alone(config, ports * number * tries))
        worst.append(-(-ports // pace.address_window) * tries * config.scan.timeout)
    durations = f"{spell_duration(best)} if every probe is answered at once, {spell_duration(max(worst))} if none is"
    size = (count(len(known), "host"), count(sum(addresses), "address", "addresses"), count(probes, "probe"))
    return f"{', '.join(size)} per round", f"estimated duration of a round with the {pace.engine} engine: {durations}"


def _alone(config: Config, probes: int) -> float:
    """Give the seconds that one host takes for the sake of host_rate."""
    return probes / config.scan.host_rate if config.scan.host_rate else 0.0


def _reports(audit: AuditConfig, hosts: int) -> str:
    more = "; of two passphrases both are good" if len(audit.passphrases) > 1 else ""
    return (
        f"reports: expected of {count(hosts, 'host')}, late after {spell_duration(audit.max_age)}, "
        f"kept for {spell_duration(audit.keep)}{more}"
    )


def _state(place: Place) -> str:
    """Tell where the state file is, and which exporter holds it now."""
    if holder := present_holder(place.path):
        return f"state file: {place.path}, held by {holder}"
    return f"state file: {place.path}{'' if os.access(place.path, os.F_OK) else ', which is not there yet'}"


def _report_of_all(config: Config) -> str:
    ways = [f"written to {config.reportfile}"] if config.reportfile else []
    if config.reportmail and config.mail:
        to = count(len(config.mail.recipients), "address", "addresses")
        ways.append(f"mailed at {config.reportmail:%H:%M} each day to {to} by {config.mail.server}")
    return f"report of all machines: {', '.join(ways)}"
