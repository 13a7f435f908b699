"""The order in which the ports of an address are probed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portspec.ports import PortSet


def shuffled(ports: PortSet, seed: int | str) -> list[int]:
    """Give every port once, in an order that the seed alone decides.

    In order, ports trip port-scan detectors, and a burst on neighbouring services loads one machine at once.
    """
    order = list(ports)
    random.Random(seed).shuffle(order)  # noqa: S311 - not a secret
    return order
