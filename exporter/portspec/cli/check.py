"""`portspec check`: what a configuration means, before it runs."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import stat
import time
from collections import Counter
from typing import TYPE_CHECKING

from portspec import files
from portspec.cli.estimate import Pace, estimate
from portspec.cli.output import count, write
from portspec.cli.progress import lookup_progress
from portspec.config.trust import complaints
from portspec.directories import directory_of
from portspec.errors import spell_source
from portspec.exceptions import last_day
from portspec.feeds import MAX_PACKED, FeedError, FeedName, read_feed
from portspec.inventory import MAX_LOOKUPS, SystemResolver, addresses_of, audited_hosts, targets
from portspec.inventory.discovery import Discovery
from portspec.scan import Reason
from portspec.scan.connect import MAX_ADDRESS_WINDOW, window_for
from portspec.scan.syn import privileges
from portspec.scan.syn.timing import MAX_IN_FLIGHT, MAX_WINDOW
from portspec.schedule.examiner import max_duration
from portspec.state.document import timestamp
from portspec.times import spell_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from portspec.access.model import WebConfig
    from portspec.config import (
        AuditConfig,
        Config,
        MailConfig,
        MaintenanceWindow,
        PortException,
        VulnerabilityException,
        WeeklyTime,
    )
    from portspec.inventory import AuditedHost, Resolution, Resolver, Target
    from portspec.inventory.discovery import SourceStats
    from portspec.ports import PortSet
    from portspec.store import StateFileLocation

MAX_LINES = 100  # of hosts, without --all, so that what follows them stays visible
MAX_LENGTH = 200  # characters of the ports of a host, without --all
MAX_WARNINGS = 20  # of each kind, without --all
MAX_ADDRESSES = 8  # of one name, without --all
LOOKUP_TIMEOUT = 30.0  # seconds for all names, without --all


def _pace(config: Config) -> Pace:
    """Return the pace of the engine that would scan here (docs/performance.md: what two processors can do)."""
    may_use_raw = privileges.CAP_NET_RAW in privileges.permitted()
    if config.scan.engine == "syn" or (config.scan.engine == "auto" and may_use_raw):
        return Pace("syn", 180_000, MAX_IN_FLIGHT, MAX_WINDOW)
    return Pace("connect", 60_000, window_for(resource.getrlimit(resource.RLIMIT_NOFILE)[1]), MAX_ADDRESS_WINDOW)


def check(config: Config, *, web_config: str | None = None, everything: bool, shows_progress: bool) -> int:
    """Print hosts, addresses, probes per round and the estimated duration; a file that loads is valid: 0.

    `web_config` is the path of a web configuration file, which is validated, too, with its certificate: ConfigError.
    Unless `everything` is wanted, many hosts are told in few lines, and names are looked up for a limited time.
    """
    web = _web_config(web_config) if web_config else None
    from portspec.store import find_state_file  # `scan` imports this module, and needs no state file

    discovery = Discovery(config.discovery)
    asyncio.run(discovery.refresh_all())
    known = targets(config, discovery.hosts)
    resolver = SystemResolver(ipv6=config.ipv6, max_addresses=config.scan.max_addresses)
    seconds = math.inf if everything else LOOKUP_TIMEOUT
    looked_up = asyncio.run(look_up(known, resolver, seconds=seconds, shows_progress=shows_progress))
    lines = host_lines(known, looked_up, everything=everything)
    lines += [*([""] if lines else []), *_round(config, known, looked_up)]
    expected = audited_hosts(config, known)
    if config.mail and config.mail.mode != "off":
        lines.append(_mail(config.mail))
    if config.audit:
        lines.append(_reports(config.audit, len(expected)))
    if config.reportfile or config.reportmail:
        lines.append(_report_of_all(config))
    if config.worklistmail:
        lines.append(_worklists(config.owners, config.worklistmail))
    place = find_state_file(config)
    lines.append(_state(place))
    kinds: Sequence[Iterable[str]] = (
        source_warnings(discovery.stats),
        _former_name_warnings(known),
        _exception_warnings(config, known, now := time.time()),
        _maintenance_warnings(config, known, expected, now),
        _audit_warnings(config, expected, now),
        _deadline_warnings(config, known),
        _feed_warnings(config),
        complaints(config, place.path, for_others=True),
        _reportfile_warnings(config),
        _limit_warnings(config, known, looked_up),
        _mail_warnings(config),
        [place.why] if place.unsearchable and not place.is_certain else [],
        _name_warnings(known, looked_up),
        [*web.warnings, *complaints(web, for_others=True)] if web else [],
    )
    warnings = [line for kind in kinds for line in _first(kind, everything=everything)]
    if warnings:
        lines += ["", *(f"warning: {warning}" for warning in warnings)]
    valid = [f"{spell_source(path)} is valid." for path in (config.path, web_config) if path]
    write("\n".join((*lines, "", *valid, "")))
    return 0


def _first(warnings: Iterable[str], *, everything: bool) -> list[str]:
    """Return the first warnings of a kind, and how many others there are, unless `everything` is wanted."""
    found = list(warnings)
    if everything or len(found) <= MAX_WARNINGS:
        return found
    return [*found[:MAX_WARNINGS], f"{len(found) - MAX_WARNINGS:,} others like the last one (--all shows them)"]


def _is_sending(config: Config) -> bool:
    is_alerting = config.mail is not None and config.mail.mode != "off"
    return is_alerting or config.reportmail is not None or config.worklistmail is not None


def _deadline_warnings(config: Config, known: Sequence[Target]) -> Iterator[str]:
    """Yield warnings about deadlines and owners without effect: no host has their labels, or there are no audits."""
    if config.audit is None and any(rule.deadlines.needs_audits for rule in config.deadlines):
        yield "the deadlines of vulnerabilities have no effect without audit"
    labels = [target.config.labels for target in known]
    for rule in config.deadlines:
        if rule.labels and not any(rule.applies_to(item) for item in labels):
            named = ", ".join(f"{name}={value}" for name, value in rule.labels.items())
            yield f"the deadlines of {named} match no host"
    found = {target.owner for target in known}
    for owner in config.owners:
        if owner not in found:
            yield f'owners: no host has the label {config.owner_label} with the value "{owner}"'


def _mail_warnings(config: Config) -> Iterator[str]:
    """Yield a warning if mails can be read on their way."""
    if config.mail and config.mail.tls == "none" and _is_sending(config):
        yield 'mails are sent without TLS (smtptls is "none"): anyone on the network path can read them'


def _name_warnings(known: Sequence[Target], looked_up: Mapping[int, Resolution]) -> Iterator[str]:
    """Yield warnings about names of which no address is known, or none that may be scanned."""
    reasons = Counter(resolution.failure.reason for resolution in looked_up.values() if resolution.failure)
    denied = reasons.pop(Reason.DENIED, 0)
    if unresolved := reasons.total():
        yield f"{unresolved:,} of {count(len(known), 'host')} would be unknown, because not every name resolves"
    if denied:
        yield (
            f"{count(denied, 'discovered host')} would be unknown, reason denied: `deny` covers an address of "
            f"{'it' if denied == 1 else 'each'}"
        )
    if not_asked := sum(target.address is None and place not in looked_up for place, target in enumerate(known)):
        yield (
            f"{count(not_asked, 'name')} could not be looked up within {LOOKUP_TIMEOUT:.0f} s, and "
            f"{'counts' if not_asked == 1 else 'count'} as one address each (--all looks all of them up)"
        )


def _web_config(path: str) -> WebConfig:
    """Load a web configuration file, and try its certificate and key. Raises ConfigError."""
    from portspec.access.load import load_web_config
    from portspec.access.tls import server_context

    web = load_web_config(path)
    if web.tls:
        server_context(web.tls)
    return web


def source_warnings(sources: Sequence[SourceStats]) -> Iterator[str]:
    """Yield warnings about sources of discovery that failed, or list hosts that cannot be scanned."""
    for source in sources:
        if source.failure is not None:
            yield f"discovery.{source.name} failed and returned {count(source.hosts, 'host')}: {source.failure}"
        if source.targets_refused:
            yield f"discovery.{source.name} names {count(source.targets_refused, 'target')} that cannot be scanned"


def _feed_warnings(config: Config) -> Iterator[str]:
    """Yield warnings about lists that cannot be used; those that have a URL are not asked for."""
    for name, place in config.feeds.places.items() if config.feeds else ():
        if "://" not in place:
            try:
                read_feed(FeedName(name), files.read_regular(place, MAX_PACKED + 1))
            except FeedError as error:
                yield f"feeds.{name}: the list in {place} {error}"
            except OSError as error:
                yield f"feeds.{name}: {place} cannot be read: {(error.strerror or str(error)).lower()}"
    if config.feeds and not config.audit:
        yield "feeds has no effect without audit: the lists are about the vulnerabilities that audits find"


def _former_name_warnings(known: Sequence[Target]) -> Iterator[str]:
    """Yield warnings about former names that do not count; conf.yml has none of these."""
    for target in known:
        if ignored := [name for name in target.config.renamed_from if name not in target.renamed_from]:
            yield (
                f"{target.host} does not go on with what is known of {', '.join(ignored)}: that is a host, too, or a "
                "former name of several hosts"
            )


def _exception_warnings(config: Config, known: Sequence[Target], now: float) -> Iterator[str]:
    """Yield warnings about exceptions without effect: expired ones, and ones that match no scanned host or port."""
    scanned_by: dict[int, list[PortSet]] = {}
    for target in known:
        for item in target.exceptions:
            scanned_by.setdefault(id(item), []).append(target.config.ports)
    for item in config.exceptions:
        what = _exception(item, f"ports {item.ports}")
        ports = scanned_by.get(id(item))
        if item.until <= now:
            yield f"{what} {_lapsed(item.until)}; its deviations count again: remove it or extend it"
        elif not ports:
            yield f"{what} matches no host"
        elif not any(item.ports & scanned for scanned in ports):
            yield f"{what} is about ports that are not scanned"


def _maintenance_warnings(
    config: Config, known: Sequence[Target], expected: Mapping[str, AuditedHost], now: float
) -> Iterator[str]:
    """Yield warnings about maintenance without effect: such that is over, or matches no host."""
    places = [target.maintenance for target in known] + [entry.maintenance for entry in expected.values()]
    for item in config.maintenance:
        what = f"the maintenance ({'; '.join(_told(item))})"
        if item.until <= now:
            yield f"{what} {_lapsed(item.until)}: remove it or extend it"
        elif not any(item in found for found in places):
            yield f"{what} matches no host"


def _audit_warnings(config: Config, expected: Mapping[str, AuditedHost], now: float) -> Iterator[str]:
    """Yield warnings about exceptions of vulnerabilities without effect, and about an audit block without hosts."""
    for item in config.accepted:
        what = _exception(item, f"ids {', '.join(item.ids)}")
        if item.until <= now:
            yield f"{what} {_lapsed(item.until)}; its vulnerabilities count again: remove it or extend it"
        elif not any(item in entry.exceptions for entry in expected.values()):
            yield f"{what} matches no audited host"
    if config.audit and not expected:
        yield "no host is audited: list hosts in audit.hosts, or set audit: true on hosts or sources"


def _reportfile_warnings(config: Config) -> Iterator[str]:
    """Yield a warning if this user cannot write the report of all machines."""
    path = config.reportfile
    if path is None:
        return
    why = None
    try:
        with directory_of(path) as place:
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=place.directory, effective_ids=True):
                is_read_only = os.fstatvfs(place.directory).f_flag & os.ST_RDONLY
                why = "its file system is read-only" if is_read_only else "this user may not write to its directory"
            elif place.status and not stat.S_ISREG(place.status.st_mode):
                why = "it exists and is not a regular file"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        yield f"reportfile {path} cannot be written: {why}"


def _limit_warnings(config: Config, known: Sequence[Target], looked_up: Mapping[int, Resolution]) -> Iterator[str]:
    """Yield a warning about the hosts that cannot be scanned in time at `host_rate`; it names the slowest one."""
    rate = config.scan.host_rate
    late: list[tuple[float, float, Target]] = []
    for place, target in enumerate(known) if rate else ():
        probes = len(_addresses(target, looked_up.get(place))) * len(target.config.ports)
        limit = max_duration(config.scan.max_duration, target.config.interval)
        if rate and probes / rate > limit:
            late.append((probes / rate, limit, target))
    if late:
        seconds, limit, target = max(late, key=lambda item: item[0])
        others = f" and {count(len(late) - 1, 'other host')}" if len(late) > 1 else ""
        yield (
            f"{target.host}{others} would be unknown, reason timeout: at host_rate {rate:g} a scan takes "
            f"{spell_duration(seconds)}, and it is stopped after {spell_duration(limit)}; raise scan.max_duration or "
            "scan.host_rate, or scan fewer ports"
        )


def _lapsed(until: float) -> str:
    day = last_day(until)
    return f"expired after {day}" if day else f"expired on {timestamp(until)}"


def _exception(item: PortException | VulnerabilityException, about: str) -> str:
    """Name an exception by what it is about, and who knows."""
    return f"the exception ({'; '.join(_told(item, about))})"


def _told(item: PortException | VulnerabilityException | MaintenanceWindow, *about: str) -> list[str]:
    told = [f"hosts {', '.join(item.hosts)}", *about]
    return told + [f"{name} {text}" for name, text in (("reason", item.reason), ("owner", item.owner)) if text]


def _mail(mail: MailConfig) -> str:
    to = count(len(mail.recipients), "address", "addresses")
    when = "while Alertmanager is not healthy " if mail.mode == "fallback" else ""
    return f"mails {when}to {to} by {mail.server} port {mail.port}; test this with `portspec mail-test`"


async def look_up(
    known: Sequence[Target],
    resolver: Resolver,
    *,
    seconds: float,
    shows_progress: bool,
    clock: Callable[[], float] = time.monotonic,
) -> dict[int, Resolution]:
    """Look up names for at most `seconds`; return the resolutions by the index of the target.

    Targets that are addresses are among them only if they are denied.
    """
    names = [(place, target) for place, target in enumerate(known) if target.address is None]
    found: dict[int, Resolution] = {}
    for place, target in enumerate(known):
        if target.address and target.deny.fault_of(target.address):
            found[place] = await addresses_of(target, resolver)
    asked = 0
    rest = iter(names)
    end = clock() + seconds
    with lookup_progress(len(names), is_shown=shows_progress) as report:

        async def take_some() -> None:
            nonlocal asked
            for place, target in rest:
                if clock() >= end:
                    return
                found[place] = await addresses_of(target, resolver)
                asked += 1
                report(asked)

        await asyncio.gather(*(take_some() for _ in range(min(MAX_LOOKUPS, len(names)))))
    return found


def _addresses(target: Target, resolution: Resolution | None) -> tuple[str, ...]:
    """Return the addresses of a host; a name that was not looked up stands for one."""
    return resolution.addresses if resolution else (target.address or target.host,)


def host_lines(known: Sequence[Target], looked_up: Mapping[int, Resolution], *, everything: bool) -> list[str]:
    """Return the lines of the hosts; unless `everything` is wanted a CIDR is one, and there are not too many of them.

    Where there are, names that cannot be looked up come first.
    """
    rows: list[tuple[bool, tuple[str, str, str]]] = []
    most = None if everything else MAX_ADDRESSES
    sizes = Counter(target.config.name for target in known if "/" in target.config.name and not everything)
    for place, target in enumerate(known):
        name = target.config.name
        if name not in sizes:
            resolution = looked_up.get(place)
            ports = _ports(target, MAX_LENGTH if most else None)
            rows.append((_is_faulty(resolution), (target.host, _spelled(target, resolution, most), ports)))
        elif size := sizes[name]:
            rows.append((False, (name, count(size, "address", "addresses"), _ports(target, MAX_LENGTH))))
            sizes[name] = 0
    if everything or len(rows) <= MAX_LINES:
        return _columns([row for _, row in rows])
    shown = sorted(rows, key=lambda row: not row[0])[:MAX_LINES]
    left = f"… and {count(len(rows) - MAX_LINES, 'more line')} (--all shows every host)"
    return [*_columns([row for _, row in shown]), left]


def _columns(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return [f"{host:<{widths[0]}}  {addresses:<{widths[1]}}  {ports}" for host, addresses, ports in rows]


def _is_faulty(resolution: Resolution | None) -> bool:
    return resolution is not None and resolution.failure is not None


def _spelled(target: Target, resolution: Resolution | None, most: int | None) -> str:
    """Format the addresses of a host, at most so many, and what went wrong."""
    if resolution is None:
        return target.address or "not looked up"
    words = list(resolution.addresses[:most])
    if more := len(resolution.addresses) - len(words):
        words.append(f"and {more:,} more")
    if resolution.failure:
        words.append(resolution.failure.detail)
    return ", ".join(words)


def _ports(target: Target, most: int | None) -> str:
    """Format what a host is expected to have open, each list of ports in at most so many characters."""
    specification = target.config.specification
    ports = f"{count(len(target.config.ports), 'port')}, expect {_cut(specification.expect, most)}"
    allowed = f", allow {_cut(specification.allow, most)}" if specification.allow else ""
    former = f", renamed from {', '.join(target.renamed_from)}" if target.renamed_from else ""
    return f"{ports}{allowed}{former}"


def _cut(ports: PortSet, most: int | None) -> str:
    text = str(ports)
    if most is None or len(text) <= most:
        return text
    return f"{text[:most].rpartition(',')[0]}, … ({len(ports):,} in all; --all shows them)"


def _round(config: Config, known: Sequence[Target], looked_up: Mapping[int, Resolution]) -> tuple[str, str]:
    pace = _pace(config)
    hosts = ((_addresses(target, looked_up.get(place)), target.config.ports) for place, target in enumerate(known))
    found = estimate(config, hosts, pace)
    durations = (
        f"{spell_duration(found.best)} if every probe is answered at once, {spell_duration(found.worst)} if none is"
    )
    size = (
        count(len(known), "host"),
        count(found.addresses, "address", "addresses"),
        count(found.probes, "probe"),
    )
    return f"{', '.join(size)} per round", f"estimated duration of a round with the {pace.engine} engine: {durations}"


def _reports(audit: AuditConfig, hosts: int) -> str:
    more = "; both passphrases are valid" if len(audit.passphrases) > 1 else ""
    return (
        f"audits: expected from {count(hosts, 'host')}, late after {spell_duration(audit.max_age)}, "
        f"kept for {spell_duration(audit.keep)}{more}"
    )


def _state(place: StateFileLocation) -> str:
    """Return where the state file is, and which exporter holds it now."""
    from portspec.store import current_lock_holder

    if holder := current_lock_holder(place.path):
        return f"state file: {place.path}, held by {holder}"
    return f"state file: {place.path}{'' if os.access(place.path, os.F_OK) else ', which does not exist yet'}"


def _report_of_all(config: Config) -> str:
    ways = [f"written to {config.reportfile}"] if config.reportfile else []
    if config.reportmail and config.mail:
        to = count(len(config.mail.recipients), "address", "addresses")
        ways.append(f"mailed at {config.reportmail:%H:%M} each day to {to} by {config.mail.server}")
    return f"report of all machines: {', '.join(ways)}"


def _worklists(owners: Mapping[str, Sequence[str]], at: WeeklyTime) -> str:
    named = f"those of {', '.join(owners)} to their addresses, the others" if owners else "all"
    return f"worklists: mailed each {at.spelled}, {named} to alertemail"
