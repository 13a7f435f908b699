"""The hosts of an exporter under one configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.inventory import AuditedHost, Target
    from portspec.schedule.on_demand import Prober
    from portspec.state.snapshot import HostState


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
