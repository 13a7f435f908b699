"""As what EHLO is said: RFC 5321, 4.1.1.1, 4.1.3 and 4.1.4."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portspec.notify.smtp import ehlo_name

ADDRESS = "192.0.2.1"
# RFC 5321, 4.1.2: Domain, of at least two labels; 4.1.3 has the literals.
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+")


@pytest.mark.parametrize(
    "name",
    ["web1.example.org", "WEB1.Example.ORG", "a.b", "xn--mller-kva.example", "1.example.org", "web.lan", "a-b.c1"],
)
def test_full_name_is_said(name: str) -> None:
    """A name of a domain is said as it is, without the dot at its end."""
    assert ehlo_name(name, ADDRESS) == ehlo_name(f"{name}.", ADDRESS) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "localhost", "a1b2c3d4e5f6", "web1", "localhost.localdomain", "web1.localdomain", "web1.LocalHost"),
        *("localhost6.localdomain6", "web1.invalid", "web_1.example.org", "-web.example.org", "web-.example.org"),
        *("web..example.org", ".example.org", "m\u00fcller.example", "192.0.2.7", "2001:db8::1", "a b.example.org"),
        *(
            "web1.example.org\n",
            "web1.example.org..",
            f"{'a' * 64}.example.org",
            f"{'a.' * 127}org",
            "web\u0661.example",
        ),
    ],
)
def test_anything_else_is_not(name: str) -> None:
    """A container's name, one that each machine has, and what is no name at all: the address is said."""
    assert ehlo_name(name, ADDRESS) == "[192.0.2.1]"


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("127.0.0.1", "[127.0.0.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("2001:DB8:0:0:0:0:0:1", "[IPv6:2001:db8::1]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
        ("::ffff:192.0.2.1", "[192.0.2.1]"),
        ("::ffff:c000:201", "[192.0.2.1]"),
        ("::1", "[IPv6:::1]"),
    ],
)
def test_address_is_said_as_a_literal(address: str, literal: str) -> None:
    """IPv6 has its tag, a zone is left out, and an IPv4 address in an IPv6 socket is one of IPv4."""
    assert ehlo_name("localhost", address) == literal


@given(
    st.one_of(
        st.text(max_size=30), st.from_regex(r"[A-Za-z0-9._-]{0,40}", fullmatch=True), st.just("a." * 130 + "org")
    ),
    st.ip_addresses(),
)
def test_whatever_the_machine_is_called(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """What is said is a domain name of several labels or an address literal, and the same each time."""
    said = ehlo_name(name, str(address))
    assert said == ehlo_name(said, str(address))
    if said.startswith("["):
        inner = ipaddress.ip_address(said.strip("[]").removeprefix("IPv6:"))
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        assert inner == (mapped or address)
        assert said.startswith("[IPv6:") is (inner.version == 6)
    else:
        assert _DOMAIN.fullmatch(said)
        assert len(said) <= 253
        assert said == name.removesuffix(".")
