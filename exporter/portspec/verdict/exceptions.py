"""What the exceptions in force cover. Pure: the time is an argument."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from portspec.lapse import in_force
from portspec.ports import PortSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portspec.config import PortException


def excepted_ports(exceptions: Iterable[PortException], now: float) -> PortSet:
    """Give the ports whose deviations are accepted at `now`, in Unix seconds."""
    return PortSet.of_ranges(chain.from_iterable(item.ports.ranges for item in in_force(exceptions, now)))
