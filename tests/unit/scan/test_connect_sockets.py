from __future__ import annotations

import errno

import pytest

from portspec.scan.connect.sockets import explain, is_own_address
from tests.unit.scan.loopback import V4, V6, own_address


@pytest.mark.parametrize("address", [V4, V6, pytest.param(own_address(), id="another")])
def test_addresses_of_this_machine_are_its_own(address: str) -> None:
    """All of loopback is this machine's, in both families."""
    assert is_own_address(address)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_addresses_of_other_machines_are_not_its_own(address: str) -> None:
    """An address that nobody has (RFC 5737, RFC 3849) is not this machine's."""
    assert not is_own_address(address)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EINVAL, "the route is a blackhole"),
        (errno.ENETUNREACH, "network is unreachable"),
        (errno.EMFILE, "too many open files"),
    ],
)
def test_error_numbers_are_explained(code: int, said: str) -> None:
    """EINVAL, whose own text would mislead, is what a blackhole route gives; others have their text."""
    assert explain(code) == said
