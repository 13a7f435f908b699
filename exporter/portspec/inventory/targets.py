"""Which hosts there are: every entry of `hosts`, and every address of a CIDR, once."""

from __future__ import annotations

import difflib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.config import Config, HostConfig


@dataclass(frozen=True, slots=True)
class Target:
    """One host to scan: the label `host` in metrics, its configuration, and its address if it is no name."""

    host: str
    config: HostConfig
    address: str | None = None


def targets(config: Config) -> tuple[Target, ...]:
    """Give every host of a configuration, in the order of the file.

    Where an address stands under several entries, the most specific one holds: the address itself,
    then the CIDR with the longest prefix.
    """
    found: dict[str, Target] = {}
    networks: list[tuple[int, int, HostConfig]] = []
    for place, entry in enumerate(config.hosts):
        if "/" in entry.name:
            prefix = ipaddress.ip_network(entry.name).prefixlen
            networks.append((-prefix, place, entry))
            continue
        address = _literal(entry.name)
        found[address or entry.name] = Target(entry.name, entry, address)
    for _, _, entry in sorted(networks, key=lambda item: item[:2]):
        for ip in ipaddress.ip_network(entry.name):
            found.setdefault(str(ip), Target(str(ip), entry, str(ip)))
    return tuple(found.values())


def select(known: Sequence[Target], hosts: Iterable[str]) -> tuple[Target, ...]:
    """Pick targets by host; UsageError for one that is not there. No hosts: all of them."""
    by_host = {target.host.lower(): target for target in known}
    picked: list[Target] = []
    for host in hosts:
        target = by_host.get(host.lower()) or by_host.get(_literal(host) or "")
        if target is None:
            close = difflib.get_close_matches(host, by_host, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f'"{host}" is not a host of the configuration{hint}')
        picked.append(target)
    return tuple(picked) or tuple(known)


def _literal(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
