"""Config → targets, and names → addresses."""

from portspec.inventory.resolve import MAX_LOOKUPS, Lookups, Resolution, Resolver, SystemResolver
from portspec.inventory.roster import Rostered, roster
from portspec.inventory.shard import Shard, parse_shard
from portspec.inventory.targets import Target, select, targets

__all__ = [
    "MAX_LOOKUPS",
    "Lookups",
    "Resolution",
    "Resolver",
    "Rostered",
    "Shard",
    "SystemResolver",
    "Target",
    "parse_shard",
    "roster",
    "select",
    "targets",
]
