from __future__ import annotations

import pytest

from portspec.deny import DEFAULT, NOTHING, deny_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", "127.0.0.0/8"),
        ("127.255.255.254", "127.0.0.0/8"),
        ("0.0.0.0", "0.0.0.0/8"),  # noqa: S104 - it is denied
        ("169.254.169.254", "169.254.0.0/16"),
        ("224.0.0.1", "224.0.0.0/4"),
        ("255.255.255.255", "255.255.255.255/32"),
        ("100.100.100.200", "100.100.100.200/32"),
        ("168.63.129.16", "168.63.129.16/32"),
        ("192.0.0.192", "192.0.0.192/32"),
        ("::", "::/128"),
        ("::1", "::1/128"),
        ("fe80::1", "fe80::/10"),
        ("fe80::1%2", "fe80::/10"),
        ("ff02::1", "ff00::/8"),
        ("fd00:ec2::254", "fd00:ec2::/32"),
        ("fd20:ce::254", "fd20:ce::254/128"),
        ("fd00:c1::a9fe:a9fe", "fd00:c1::a9fe:a9fe/128"),
        ("fd00:42::42", "fd00:42::42/128"),
    ],
)
def test_machine_itself_its_link_and_metadata_services_are_denied(address: str, network: str) -> None:
    """By default a discovered host leads neither to this machine or its link, nor to the metadata of its cloud."""
    assert str(DEFAULT.network_of(address)) == network


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00::",
        "2002:a9fe:a9fe::1",
        "2001:db8::5efe:a9fe:a9fe",
        "2001:db8::200:5efe:a9fe:a9fe",
        "2001:0:a9fe:a9fe::1",
        "2001:0:c000:201::5601:5601",
    ],
)
def test_ipv6_spelling_of_a_denied_ipv4_address_is_denied(address: str) -> None:
    """An address that a translator or a tunnel turns into a denied one leads there, too."""
    assert str(DEFAULT.network_of(address)) == "169.254.0.0/16"


@pytest.mark.parametrize(
    "address",
    [
        *("192.0.2.1", "10.0.0.1", "100.64.0.1", "169.253.255.255", "128.0.0.1"),
        *("2001:db8::1", "fd00::1", "64:ff9b::192.0.2.1", "64:ff9b:1::c000:201", "2002:c000:201::1"),
        *("::ffff:192.0.2.1", "localhost", ""),
    ],
)
def test_other_addresses_are_allowed(address: str) -> None:
    """Hosts of private and public networks may be discovered; what is no address is not judged."""
    assert DEFAULT.network_of(address) is None
    assert DEFAULT.fault_of(address) is None


def test_nothing_is_denied_by_an_empty_list() -> None:
    """With `deny: []` every address is allowed."""
    assert deny_of([]) == NOTHING
    assert NOTHING.network_of("127.0.0.1") is None


def test_denied_address_is_told_with_its_network_and_the_remedy() -> None:
    """The message names the entry of deny, and what to change."""
    assert deny_of(["10.0.0.0/8"]).fault_of("10.1.2.3") == (
        "is denied to discovered hosts (deny: 10.0.0.0/8); to scan it, name the host under hosts, "
        "or leave the network out of deny"
    )
