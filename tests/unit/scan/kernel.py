"""A fake kernel: the test sets what it says about route, link and neighbour."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Final

from portspec.scan.netlink import Link, Neighbour, Route

ADDRESS: Final = "192.0.2.7"
GATEWAY: Final = "192.0.2.1"
ROUTE: Final = Route("192.0.2.9", 2, ADDRESS)
LINK: Final = Link("eth0", is_up=True, changes=4, has_neighbours=True)
KNOWN: Final = Neighbour.KNOWN


@dataclass
class Kernel:
    """What the kernel says now; an errno in the place of a route is raised."""

    way: Route | int = ROUTE
    interface: Link = LINK
    next_hop: Neighbour = KNOWN
    asked: list[str] = field(default_factory=list)

    def route(self, address: str) -> Route:
        """Return the route."""
        self.asked.append(f"route {address}")
        if isinstance(self.way, Route):
            return self.way
        raise OSError(self.way, os.strerror(self.way))

    def link(self, index: int) -> Link:
        """Return the link."""
        self.asked.append(f"link {index}")
        return self.interface

    def neighbour(self, route: Route) -> Neighbour:
        """Return the neighbour."""
        self.asked.append(f"neighbour {route.next_hop}")
        return self.next_hop


def link(*, is_up: bool = True, changes: int = 4, has_neighbours: bool = True) -> Link:
    """Make a link."""
    return Link("eth0", is_up, changes, has_neighbours)
