"""What the exceptions in force cover. Pure: the time is an argument."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING

from portspec.config.model import SECONDS_A_DAY
from portspec.exceptions import in_force
from portspec.ports import PortSet

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from portspec.config import PortException


def excepted_ports(exceptions: Iterable[PortException], now: float) -> PortSet:
    """Give the ports whose deviations are accepted at `now`, in Unix seconds."""
    return PortSet.of_ranges(chain.from_iterable(item.ports.ranges for item in in_force(exceptions, now)))


def last_day(until: float) -> date | None:
    """Give the last day (UTC) on which an exception that ends at `until` (Unix seconds) holds, as conf.yml spells it.

    None for one that does not end with a day.
    """
    if until % SECONDS_A_DAY:
        return None
    return datetime.fromtimestamp(until - SECONDS_A_DAY, UTC).date()
