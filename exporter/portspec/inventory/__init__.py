"""Config → targets, and names → addresses."""

from portspec.inventory.resolve import MAX_LOOKUPS, Resolution, Resolver, SystemResolver
from portspec.inventory.targets import Target, select, targets

__all__ = ["MAX_LOOKUPS", "Resolution", "Resolver", "SystemResolver", "Target", "select", "targets"]
