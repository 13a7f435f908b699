"""Which hosts are scanned (`Target`), and which ones are audited (`AuditedHost`)."""

from __future__ import annotations

import difflib
import fnmatch
import ipaddress
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from portspec.config.model import CONF_YML
from portspec.deadlines import NO_DEADLINES, Deadlines, deadlines_of
from portspec.deny import NOTHING
from portspec.errors import UsageError
from portspec.exposure import DEFAULT_SEVERITIES, PortSeverities
from portspec.maintenance import requested_of
from portspec.names import address_of, canonical, canonical_glob

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from portspec.config import Config, HostConfig, MaintenanceWindow, PortException, VulnerabilityException
    from portspec.deny import Deny

E = TypeVar("E", bound="_OfHosts")

_ADDRESS_PREFIX_LENGTH = 129  # above every prefix: an entry of its own is the most specific


@dataclass(frozen=True, slots=True)
class Target:
    """One host to scan: the label `host` in metrics, its configuration, and its address if it is no name.

    `exceptions` are those of the configuration that are about this host, in force or not, and `maintenance` its times
    of maintenance, over or not. `deny` are the networks that it may not lead to, none for a host that stands in
    conf.yml. `severities` are those of its ports that are open and not expected. `owner` is who is responsible for it,
    "" if it has no such label; `deadlines` say by when what was found is to be fixed. `renamed_from` are the names that
    it had, in canonical form, the last one first: those of its configuration that no other host has or had.
    """

    host: str
    config: HostConfig
    address: str | None = None
    exceptions: tuple[PortException, ...] = ()
    deny: Deny = NOTHING
    maintenance: tuple[MaintenanceWindow, ...] = ()
    severities: PortSeverities = DEFAULT_SEVERITIES
    owner: str = ""
    deadlines: Deadlines = NO_DEADLINES
    renamed_from: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The host in canonical form, see names.canonical()."""
        return self.host if self.host == self.address else canonical(self.host)  # addresses are canonical already

    def is_scanned_otherwise(self, old: Target | None) -> bool:
        """Return whether it needs another scan than the target it is compared with."""
        return old is None or (self.address, self.config.ports, self.config.specification, self.deny) != (
            old.address,
            old.config.ports,
            old.config.specification,
            old.deny,
        )


def targets(
    config: Config,
    discovered: Sequence[HostConfig] = (),
    requested: Mapping[str, MaintenanceWindow] = MappingProxyType({}),
) -> tuple[Target, ...]:
    """Return every host of a configuration, in the order of the file, and then those discovered.

    Where an address stands under several entries, the most specific one holds: the address itself,
    then the CIDR with the longest prefix. What the file has, a source of discovery does not change.
    `requested` is the maintenance that somebody asked for, by the canonical name of its host, or one that it had.
    """
    found = _expanded(config.hosts, config)
    for name, target in _expanded(discovered, config, config.deny).items():
        found.setdefault(name, target)
    found |= _renamed(found, {canonical(host) for host in config.audit.hosts} if config.audit else set())
    if not (config.exceptions or config.maintenance or requested):
        return tuple(found.values())
    exceptions, maintenance = HostGlobs(config.exceptions), HostGlobs(config.maintenance)
    return tuple(
        replace(
            target,
            exceptions=exceptions.matching(target.host, target.config.name),
            maintenance=maintenance.matching(target.host, target.config.name)
            + _requested(requested, (name, *target.renamed_from)),
        )
        for name, target in found.items()
    )


def _requested(requested: Mapping[str, MaintenanceWindow], names: Sequence[str]) -> tuple[MaintenanceWindow, ...]:
    """Return the maintenance that somebody asked for, of a host by its canonical names."""
    own = requested_of(requested, names)
    return (own,) if own else ()


def _renamed(hosts: Mapping[str, Target], audited: Collection[str]) -> dict[str, Target]:
    """Return the hosts that had other names, with those that count, by canonical name.

    A name that is that of a host, or of one that is only `audited`, does not count, nor does one that several hosts
    claim, except that what the file says comes before what sources of discovery say: a list must not lead what is known
    of one host to another.
    """
    claims = {
        name: tuple(former for former in target.config.renamed_from if former not in hosts and former not in audited)
        for name, target in hosts.items()
        if target.config.renamed_from
    }
    heirs: dict[str, str] = {}
    for is_of_the_file in (True, False):
        own = {name: former for name, former in claims.items() if _is_of_the_file(hosts[name]) is is_of_the_file}
        numbers = Counter(item for former in own.values() for item in former)
        for name, former in own.items():
            for item in former:
                if numbers[item] == 1:
                    heirs.setdefault(item, name)
    found = {name: tuple(item for item in former if heirs.get(item) == name) for name, former in claims.items()}
    return {name: replace(hosts[name], renamed_from=former) for name, former in found.items() if former}


def _is_of_the_file(target: Target) -> bool:
    return target.config.source == CONF_YML


def _expanded(entries: Sequence[HostConfig], config: Config, deny: Deny = NOTHING) -> dict[str, Target]:
    """Return the target of each address and name that entries stand for, by its canonical name, in their order."""
    found: dict[str, tuple[int, int, Target]] = {}  # prefix, place among the entries, target
    for place, entry in enumerate(entries):
        owner, deadlines = entry.labels.get(config.owner_label, ""), deadlines_of(config.deadlines, entry.labels)
        make = partial(Target, deny=deny, severities=config.severities, owner=owner, deadlines=deadlines)
        if "/" in entry.name:
            network = ipaddress.ip_network(entry.name)
            for address in map(str, network):
                held = found.get(address)
                if held is None or held[0] < network.prefixlen:
                    found[address] = (network.prefixlen, place, make(address, entry, address))
        else:
            key = canonical(entry.name)
            if key not in found or found[key][0] < _ADDRESS_PREFIX_LENGTH:
                own = key if address_of(key) else None
                found[key] = (_ADDRESS_PREFIX_LENGTH, place, make(entry.name, entry, own))
    return {name: target for name, (_, _, target) in sorted(found.items(), key=lambda item: item[1][1])}


def select(known: Sequence[Target], hosts: Iterable[str]) -> tuple[Target, ...]:
    """Pick targets by host, or all of a CIDR by its name; UsageError for one that is not there. No hosts: all."""
    by_name: dict[str, list[Target]] = {}
    for target in known:
        by_name.setdefault(target.name, []).append(target)
        if "/" in target.config.name:
            by_name.setdefault(canonical(target.config.name), []).append(target)
    picked: list[Target] = []
    for host in hosts:
        try:
            found = by_name.get(canonical(host))
        except ValueError:
            found = None
        if found is None:
            close = difflib.get_close_matches(host.lower(), by_name, n=1)
            hint = f"; did you mean {by_name[close[0]][0].host}?" if close else ""
            raise UsageError(f'"{host}" is not a host of the configuration{hint}')
        picked += found
    return tuple({target.host: target for target in picked}.values()) or tuple(known)


@dataclass(frozen=True, slots=True)
class AuditedHost:
    """A host whose audits are expected: the label `host`, and the exceptions about it, in force or not.

    `maintenance` are its times of maintenance, over or not; none of a host that is also scanned, whose target has them.
    `owner` and `deadlines` are those of its target; one that is not scanned has no labels.
    `renamed_from` are the names that it had, as Target has them.
    """

    host: str
    exceptions: tuple[VulnerabilityException, ...] = ()
    maintenance: tuple[MaintenanceWindow, ...] = ()
    owner: str = ""
    deadlines: Deadlines = NO_DEADLINES
    renamed_from: tuple[str, ...] = ()


def audited_hosts(
    config: Config,
    targets: Iterable[Target],
    requested: Mapping[str, MaintenanceWindow] = MappingProxyType({}),
) -> Mapping[str, AuditedHost]:
    """Return the hosts of `audit.hosts` and of entries with `audit: true`, by canonical name.

    A host that is also scanned has the name of its target. `requested` as for targets().
    """
    if config.audit is None:
        return {}
    others = deadlines_of(config.deadlines, {})
    accepted, maintenance = HostGlobs(config.accepted), HostGlobs(config.maintenance)
    found = {
        canonical(host): AuditedHost(
            host,
            accepted.matching(host, host),
            maintenance.matching(host, host) + _requested(requested, (canonical(host),)),
            deadlines=others,
        )
        for host in config.audit.hosts
    }
    for target in targets:
        name = target.name
        if target.config.is_audited or name in found:
            found[name] = AuditedHost(
                target.host,
                accepted.matching(target.host, target.config.name),
                owner=target.owner,
                deadlines=target.deadlines,
                renamed_from=target.renamed_from,
            )
    return found


class _OfHosts(Protocol):
    """An exception of any kind, or a time of maintenance."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The globs of the hosts that it is about."""
        ...


class HostGlobs(Generic[E]):
    """Exceptions, or times of maintenance, by the hosts that their globs match.

    A glob without * ? [ is looked up by its name: of thousands of hosts, each usually has exceptions of its own.
    """

    def __init__(self, exceptions: Sequence[E]) -> None:
        self._exceptions = exceptions
        self._by_name: dict[str, list[int]] = {}
        self._patterns: list[tuple[Callable[[str], object], bool, int]] = []  # whether it is about CIDRs, and the place
        for place, item in enumerate(exceptions):
            for glob in item.hosts:
                spelled = canonical_glob(glob)
                if any(character in spelled for character in "*?["):
                    self._patterns.append((re.compile(fnmatch.translate(spelled)).match, "/" in glob, place))
                else:
                    self._by_name.setdefault(spelled, []).append(place)

    def matching(self, host: str, entry: str) -> tuple[E, ...]:
        """Return those one of whose globs matches a host, or (a glob with a /) the CIDR that it stands under.

        `entry` is the name of its entry in conf.yml.
        """
        if not self._exceptions:
            return ()
        hosts, entries = _spellings(host, entry)
        found = {place for name in hosts | entries for place in self._by_name.get(name, ())}
        for matches, is_of_cidrs, place in self._patterns:
            if place not in found and any(map(matches, entries if is_of_cidrs else hosts)):
                found.add(place)
        return tuple(self._exceptions[place] for place in sorted(found))


def matching_globs(globs: Sequence[str], host: str, entry: str) -> list[str]:
    """Return the globs that match a host, or (one with a /) the CIDR that it stands under; see HostGlobs.matching()."""
    hosts, entries = _spellings(host, entry)

    def matches(glob: str) -> bool:
        return any(fnmatch.fnmatchcase(name, canonical_glob(glob)) for name in (entries if "/" in glob else hosts))

    return list(filter(matches, globs))


def _spellings(host: str, entry: str) -> tuple[set[str], set[str]]:
    """Return the names by which globs match a host, and those of the CIDR that it stands under."""
    return {host.lower(), canonical(host)}, ({entry.lower(), canonical(entry)} if "/" in entry else set())
