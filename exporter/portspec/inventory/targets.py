"""Which hosts there are: every entry of `hosts`, and every address of a CIDR, once."""

from __future__ import annotations

import difflib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.config.hostname import canonical
from portspec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portspec.config import Config, HostConfig


_HOST = 129  # above every prefix: an entry of its own is the most specific


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
    found: dict[str, tuple[int, int, Target]] = {}  # by what is scanned: prefix, place in the file, target
    for place, entry in enumerate(config.hosts):
        if "/" in entry.name:
            network = ipaddress.ip_network(entry.name)
            for ip in network:
                held = found.get(str(ip))
                if held is None or held[0] < network.prefixlen:
                    found[str(ip)] = (network.prefixlen, place, Target(str(ip), entry, str(ip)))
        else:
            address = _literal(entry.name)
            found[address or entry.name] = (_HOST, place, Target(entry.name, entry, address))
    return tuple(target for _, _, target in sorted(found.values(), key=lambda item: item[1]))


def select(known: Sequence[Target], hosts: Iterable[str]) -> tuple[Target, ...]:
    """Pick targets by host, or all of a CIDR by its name; UsageError for one that is not there. No hosts: all."""
    by_name: dict[str, list[Target]] = {}
    for target in known:
        by_name.setdefault(canonical(target.host), []).append(target)
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


def _literal(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
