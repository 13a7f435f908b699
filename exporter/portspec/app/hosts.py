"""The hosts of an exporter under one configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portspec.inventory import audited_hosts, targets
from portspec.store import Restored

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
    restored: Restored
    prober: Prober

    @property
    def former_names(self) -> dict[str, tuple[str, ...]]:
        """The former names of each host that has some, by its canonical name."""
        return {target.name: target.renamed_from for target in self.targets if target.renamed_from}

    def continued(self, names: Mapping[str, str], states: Mapping[str, HostState]) -> dict[str, str]:
        """Return the hosts that are called otherwise from now on, and what each is called now.

        They only have another spelling, or have left under one of their former names, unless there is a state of the
        present one.

        Args:
            names: The hosts until now, by canonical name.
            states: Their states.
        """
        respelled = ((host, names[name]) for name, host in self.names.items() if name in names)
        found = {host: before for host, before in respelled if before != host and before in states}
        restored = self.restored
        for target in self.targets:
            host = target.host
            has_own = host in states or host in found or (host in restored.states and host not in restored.former)
            if target.renamed_from and not has_own:
                former = (restored.former[host],) if host in restored.former else target.renamed_from
                known = (names[name] for name in former if name in names)
                if before := next((name for name in known if name in states and states[name].latest), None):
                    found[host] = before
        return found


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
    restored = store.restore(new) if new else Restored()
    return Hosts(mine, names, audited, restored, new_prober(config, every))
