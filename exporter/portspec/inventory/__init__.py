"""Config → targets, and names → addresses."""

from portspec.inventory.resolve import Resolution, Resolver, SystemResolver
from portspec.inventory.targets import Target, select, targets

__all__ = ["Resolution", "Resolver", "SystemResolver", "Target", "select", "targets"]
