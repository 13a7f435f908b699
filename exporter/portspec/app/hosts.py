"""The hosts of an exporter under one configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.inventory import audited_hosts, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from portspec.config import Config, HostConfig, MaintenanceWindow
    from portspec.inventory import AuditedHost, Shard, Target
    from portspec.schedule.on_demand import Prober
    from portspec.state.snapshot import HostState
    from portspec.store import Store


@dataclass(frozen=True, slots=True)
class Hosts:
    """The targets of this shard, their hosts by canonical name, its roster, what is known of new ones from before.

    The prober knows the targets of all shards.
    """

    targets: tuple[Target, ...]
    names: dict[str, str]
    roster: Mapping[str, AuditedHost]
    restored: dict[str, HostState]
    prober: Prober


def own_targets(every: Iterable[Target], shard: Shard) -> tuple[Target, ...]:
    """Return the targets that belong to a shard."""
    return tuple(target for target in every if shard.holds(target.host))


def hosts_of(
    config: Config,
    discovered: Sequence[HostConfig],
    present: Container[str],
    shard: Shard,
    requested: Mapping[str, MaintenanceWindow],
    store: Store,
    new_prober: Callable[[Config, Sequence[Target]], Prober],
) -> Hosts:
    """Return the hosts of a configuration and of the sources of discovery; blocks for the state file.

    States of `present` hosts are not restored from the file. `requested` is the maintenance that was asked for.
    """
    every = targets(config, discovered, requested)
    mine = own_targets(every, shard)
    new = [target for target in mine if target.host not in present]
    names = {target.name: target.host for target in mine}
    roster = audited_hosts(config, every, requested)
    audited = {name: host for name, host in roster.items() if shard.holds(host.host)}
    restored = store.restore(new) if new else {}
    return Hosts(mine, names, audited, restored, new_prober(config, every))
