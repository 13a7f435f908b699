"""Which hosts there are: the configuration and discovered lists become targets, and names become addresses."""

from portspec.inventory.resolve import MAX_LOOKUPS, Lookups, Resolution, Resolver, SystemResolver, addresses_of
from portspec.inventory.shard import Shard, parse_shard
from portspec.inventory.targets import AuditedHost, Target, audited_hosts, matching_globs, select, targets

__all__ = [
    "MAX_LOOKUPS",
    "AuditedHost",
    "Lookups",
    "Resolution",
    "Resolver",
    "Shard",
    "SystemResolver",
    "Target",
    "addresses_of",
    "audited_hosts",
    "matching_globs",
    "parse_shard",
    "select",
    "targets",
]
