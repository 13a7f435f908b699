"""Which hosts have to report: those of `audit.hosts`, and every host that `audit: true` stands at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.inventory.targets import matching
from portspec.names import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portspec.config import Config, VulnerabilityException
    from portspec.inventory.targets import Target


@dataclass(frozen=True, slots=True)
class Rostered:
    """One host that has to report: the label `host`, and the exceptions that are about it, in force or not."""

    host: str
    exceptions: tuple[VulnerabilityException, ...] = ()


def roster(config: Config, targets: Iterable[Target]) -> Mapping[str, Rostered]:
    """Give the hosts that have to report by their canonical names; of those that are scanned, the name is theirs."""
    if config.audit is None:
        return {}
    names = {canonical(host): (host, host) for host in config.audit.hosts}
    for target in targets:
        name = target.address or canonical(target.host)  # an address is canonical already
        if target.config.must_report or name in names:
            names[name] = (target.host, target.config.name)
    return {
        name: Rostered(host, matching(config.accepted, host, entry) if config.accepted else ())
        for name, (host, entry) in names.items()
    }
