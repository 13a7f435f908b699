"""Routes on loopback; tests/lab/test_link.py covers links and next hops."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from portspec.scan.netlink import Netlink, Route
from tests.unit.scan.loopback import V4, V6


@pytest.mark.parametrize("address", [V4, V6, "127.9.8.7"])
def test_route_to_this_machine_is_loopback(address: str) -> None:
    """The addresses of this machine are reached over loopback, which is up and has no neighbours."""
    with contextlib.closing(Netlink()) as netlink:
        route = netlink.route(address)
        link = netlink.link(route.index)
    assert route == Route(route.source, 1, address)
    assert (link.name, link.is_up, link.has_neighbours) == ("lo", True, False)


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("::ffff:192.0.2.1", errno.EAFNOSUPPORT),
        ("224.0.0.1", errno.ENETUNREACH),
        ("255.255.255.255", errno.ENETUNREACH),
    ],
)
def test_address_without_a_route(address: str, code: int) -> None:
    """IPv4-mapped, multicast and broadcast addresses have no route for probes."""
    with contextlib.closing(Netlink()) as netlink, pytest.raises(OSError, match=os.strerror(code)):
        netlink.route(address)


def test_missing_interface_is_an_error() -> None:
    """A missing interface is ENODEV, and the client still works afterwards."""
    with contextlib.closing(Netlink()) as netlink:
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
            netlink.link(2**31 - 1)
        assert netlink.link(1).name == "lo"
