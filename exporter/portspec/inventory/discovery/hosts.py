"""Target groups → hosts, each with its specification."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from portspec.config import HostConfig, Specification
from portspec.inventory.discovery.targetgroups import check_label
from portspec.names import MAX_FORMER_NAMES, canonical, canonical_one
from portspec.ports import PortSet, parse_ports

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portspec.config.model import SourceEntry
    from portspec.inventory.discovery.targetgroups import TargetGroup

MAX_HOSTS = 262_144  # of one list, each address of a CIDR being one: four times what a CIDR may have
MAX_LABELS = 24  # of a host: with ours, and those of Prometheus, less than the 30 that many servers take
MAX_LABEL_NAME = 256  # bytes
MAX_LABEL_VALUE = 1024  # bytes, half of what many servers take
MAX_LABEL_BYTES = 32 << 20  # of all hosts of one list: a group has its labels once, /metrics has them for each host
MAX_COMPLAINTS = 3  # that are kept of one list; all of them are counted
_MAX_COMPLAINT_LENGTH = 200  # characters
_MAX_TARGET_LENGTH = 300  # characters: a name has at most 253, a port six
_BRACKETS = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one file, URL or name gave: its hosts, each once, or the `failure` that says why it gave none.

    `refused` targets and `dropped` labels were left out, for which the `complaints` give the first reasons.
    """

    hosts: tuple[HostConfig, ...] = ()
    refused: int = 0
    dropped: int = 0
    complaints: tuple[str, ...] = ()
    failure: str | None = None


def find_hosts(groups: Iterable[TargetGroup], entry: SourceEntry) -> Answer:
    """Build hosts from target groups; the first target of a host wins, and invalid targets are counted."""
    finder = _Finder(entry)
    for group in groups:
        finder.add(group)
    return Answer(tuple(finder.hosts.values()), finder.refused, finder.dropped, tuple(finder.complaints))


def host_of(target: object) -> str:
    """Return the host of a target in its canonical spelling: host, host:port, [v6]:port, a bare v6, or a CIDR.

    The port is the one that Prometheus would scrape; here it says nothing. Raises ValueError if there is no host.
    """
    if not isinstance(target, str):
        raise ValueError('a target is not a string, such as "web1:9100"')  # noqa: TRY004 - as for a wrong text
    if len(target) > _MAX_TARGET_LENGTH:
        raise ValueError(f'"{target[:40]}…" is too long for a host')
    if "/" in target:
        return canonical(target)
    if found := _BRACKETS.fullmatch(target):
        if ":" not in found[1]:
            raise ValueError(f'"{target}" has no IPv6 address in brackets')
        host, port = found[1], found[2]
    elif target.count(":") == 1:
        host, _, port = target.partition(":")
    else:
        host, port = target, None
    if port is not None and not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(f'"{target}" has no numeric port')
    return canonical(host)


_RENAMED_FROM = "__portspec_renamed_from"
_Read = tuple[Specification, PortSet, "Mapping[str, str]", tuple[str, ...]]  # what the labels of a group say


class _Finder:
    """Collects the hosts of one list."""

    def __init__(self, entry: SourceEntry) -> None:
        self.hosts: dict[str, HostConfig] = {}
        self.refused = 0
        self.dropped = 0
        self.complaints: list[str] = []
        self._entry = entry
        self._addresses = 0
        self._label_bytes = 0
        self._ports_of = cache(_ports)  # many groups have the same ports, right or wrong
        self._known: dict[int, tuple[Mapping[str, object], _Read | ValueError]] = {}

    def add(self, group: TargetGroup) -> None:
        """Add every target of a group; a group with invalid ports is rejected as a whole."""
        read = self._read(group.labels)
        if isinstance(read, ValueError):
            if group.targets:
                self.refused += len(group.targets)
                self._complain(read)
            return
        specification, ports, labels, former = read
        names: set[str] = set()
        before = len(self.hosts)
        for target in group.targets:
            try:
                name = host_of(target)
                names.add(name)
                if name not in self.hosts:
                    size = self._count(name)
                    self.hosts[name] = HostConfig(
                        name,
                        specification,
                        ports,
                        self._entry.interval,
                        self._afford(labels, size),
                        self._entry.is_audited,
                        source=self._entry.source,
                    )
            except ValueError as error:
                self.refused += 1
                self._complain(error)
        if former and len(self.hosts) > before:
            self._rename(names, former)

    def _rename(self, names: set[str], former: tuple[str, ...]) -> None:
        """Note what a host was called before; that of a group with several hosts is that of none of them."""
        name = min(names)
        if len(names) == 1 and "/" not in name:
            self.hosts[name] = replace(self.hosts[name], renamed_from=former)
        else:
            self.dropped += 1
            self._complain(ValueError(f"{_RENAMED_FROM}: the group has several hosts; give each a group of its own"))

    def _read(self, labels: Mapping[str, object]) -> _Read | ValueError:
        """Read the labels of a group; those that many groups share, by aliases of YAML, only once.

        Otherwise a list of some hundred kB takes hours: 20,000 times the same 10,000 labels.
        """
        if id(labels) not in self._known:
            found: _Read | ValueError
            try:
                specification, ports = self._specification(labels)
                found = (specification, ports, self._labels(labels), self._former_names(labels))
            except ValueError as error:
                found = error
            self._known[id(labels)] = (labels, found)  # with the labels, so that no others get their id
        return self._known[id(labels)][1]

    def _specification(self, labels: Mapping[str, object]) -> tuple[Specification, PortSet]:
        own = self._entry.specification
        specification = Specification(
            self._ports(labels, "__portspec_expect", own.expect), self._ports(labels, "__portspec_allow", own.allow)
        )
        scanports = self._ports(labels, "__portspec_scanports", self._entry.scanports)
        ports = scanports | specification.expect | specification.allow
        if not ports:
            raise ValueError("a target group has no port to scan; set expect, allow or scanports")
        return specification, ports

    def _ports(self, labels: Mapping[str, object], label: str, default: PortSet) -> PortSet:
        if label not in labels:
            return default
        value = "" if labels[label] is None else labels[label]  # as in conf.yml
        if not isinstance(value, str):
            raise ValueError(f"{label}: the value is not a string")  # noqa: TRY004 - as for a wrong text
        ports = self._ports_of(value)
        if isinstance(ports, ValueError):
            raise ValueError(f"{label}: {ports}")  # noqa: TRY004 - as for a wrong text
        return ports

    def _former_names(self, labels: Mapping[str, object]) -> tuple[str, ...]:
        """Return the former names of a host; none if one is wrong, since the host is to be scanned all the same."""
        try:
            return _names(labels.get(_RENAMED_FROM))
        except ValueError as error:
            self.dropped += 1
            self._complain(ValueError(f"{_RENAMED_FROM}: {error}"))
            return ()

    def _labels(self, labels: Mapping[str, object]) -> Mapping[str, str]:
        kept = dict(self._entry.labels)
        for name, value in labels.items():
            if name.startswith("__"):
                continue
            if value is None:  # as an empty label to Prometheus: none
                kept.pop(name, None)
                continue
            try:
                kept[name] = _within_limits(name, check_label(name, value), kept)
            except ValueError as error:
                self.dropped += 1
                self._complain(error)
        return MappingProxyType(dict(sorted(kept.items())))

    def _afford(self, labels: Mapping[str, str], hosts: int) -> Mapping[str, str]:
        """Return the labels of an entry of so many hosts; those of the source if the list has too much of them."""
        size = hosts * sum(len(name) + len(value.encode()) for name, value in labels.items())
        if self._label_bytes + size <= MAX_LABEL_BYTES:
            self._label_bytes += size
            return labels
        self.dropped += len(labels) - len(self._entry.labels)
        self._complain(ValueError(f"the labels of the hosts are more than {MAX_LABEL_BYTES >> 20} MiB together"))
        return self._entry.labels

    def _count(self, name: str) -> int:
        """Count the hosts of an entry, and return how many they are."""
        size = ipaddress.ip_network(name).num_addresses if "/" in name else 1
        if self._addresses + size > MAX_HOSTS:
            raise ValueError(f'"{name}" is ignored: the list has more than {MAX_HOSTS:,} hosts')
        self._addresses += size
        return size

    def _complain(self, error: ValueError) -> None:
        if len(self.complaints) < MAX_COMPLAINTS:
            self.complaints.append(str(error)[:_MAX_COMPLAINT_LENGTH])


def _within_limits(name: str, value: str, others: Mapping[str, str]) -> str:
    """Return the value of a label; ValueError if it or its name is too long, or there are too many others."""
    if name not in others and len(others) >= MAX_LABELS:
        raise ValueError(f"a host has more than {MAX_LABELS} labels")
    if len(name) > MAX_LABEL_NAME:
        raise ValueError(f'the name of the label "{name[:40]}…" is longer than {MAX_LABEL_NAME} bytes')
    if len(value) > MAX_LABEL_VALUE or len(value.encode()) > MAX_LABEL_VALUE:
        raise ValueError(f'the value of the label "{name}" is longer than {MAX_LABEL_VALUE:,} bytes')
    return value


def _names(value: object) -> tuple[str, ...]:
    """Read names that are separated by commas or spaces, in canonical form; null is none."""
    if value is None:
        return ()
    if not isinstance(value, str):
        raise ValueError("the value is not a string")  # noqa: TRY004 - as for a wrong text
    words = re.split(r"[\s,]+", value.strip(" \t\r\n,"), maxsplit=MAX_FORMER_NAMES)
    if len(words) > MAX_FORMER_NAMES:
        raise ValueError(f"a host may have at most {MAX_FORMER_NAMES} former names")
    return tuple(dict.fromkeys(canonical_one(word) for word in words if word))


def _ports(text: str) -> PortSet | ValueError:
    """Read ports as conf.yml spells them, separated by commas or spaces; nothing is none. Gives what is wrong."""
    try:
        return PortSet.of_ranges(
            span for word in re.split(r"[\s,]+", text.strip(" \t\r\n,")) if word for span in parse_ports(word).ranges
        )
    except ValueError as error:
        return error
