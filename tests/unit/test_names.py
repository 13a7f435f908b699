from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.names import canonical, duplicates

if TYPE_CHECKING:
    import ipaddress


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("db1", "db1"),
        ("DB1.Example.ORG", "db1.example.org"),
        ("example.org.", "example.org"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_ldap._tcp.example.org", "_ldap._tcp.example.org"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("2001:DB8:0::/112", "2001:db8::/112"),
        (".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61]), ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])),
    ],
)
def test_equal_hosts_have_one_form(written: str, form: str) -> None:
    """Case, a final dot, international spelling, IPv6 spelling and netmasks make no difference."""
    assert canonical(written) == form


@pytest.mark.parametrize(
    "written",
    [
        *("", ".", "..", "a..b", "-a", "a-", "a.-b", "a b", "a\n", "a_b!", "*.example.org", "user@example.org"),
        *("1", "10.0.0", "300.1.2.3", "192.0.2.01", "1.2.3.4.5", "example.1", "１.２.３.４"),  # noqa: RUF001
        *("::1%lo", "fe80::1%lo/64", "2001:db8::g", "db1:22", "192.0.2.1:22", "[::1]", "[::1]:22", ":"),
        *("192.0.2.0/33", "192.0.2.1/24", "/24", "db1/24", "192.0.2.0/", "192.0.2.0/24/24", "192.0.2.0/x"),
        *("10.0.0.0/15", "2001:db8::/111", "https://example.org", "ssh://db1", "a" * 64, ".".join(["a" * 50] * 6)),
    ],
)
def test_what_is_no_host_is_refused(written: str) -> None:
    """Only names, addresses and networks of a size to be scanned are hosts."""
    with pytest.raises(ValueError, match=r"^\""):
        canonical(written)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=20), st.from_regex(r"[A-Za-z0-9.:/%_-]{1,20}", fullmatch=True)))
def test_the_form_of_a_form_is_itself(written: str) -> None:
    """Any text is no host, or has a form that stays the same when it is read again."""
    try:
        form = canonical(written)
    except ValueError:
        return
    assert canonical(form) == form


@settings(max_examples=60, deadline=None)
@given(st.ip_addresses(v=6, network="2000::/3"), st.booleans(), st.booleans())
def test_every_spelling_of_an_ipv6_address_is_the_same_host(
    address: ipaddress.IPv6Address, exploded: bool, upper: bool  # noqa: FBT001 - drawn
) -> None:  # fmt: skip
    """Long or short, upper or lower case: RFC 5952 gives the form."""
    written = address.exploded if exploded else address.compressed
    assert canonical(written.upper() if upper else written) == str(address)


def test_duplicates_name_the_first_spelling() -> None:
    """Each later spelling of a host is found, with the first; what is no host is left to others."""
    assert duplicates(["db1", "::1", "DB1", "no host", "db2", "0::1", "db1.", "no host"]) == {
        "DB1": "db1",
        "0::1": "::1",
        "db1.": "db1",
    }


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("db1:22", '"db1:22" has a port; write it behind: "db1": [22]'),
        ("192.0.2.1:22", '"192.0.2.1:22" has a port; write it behind: "192.0.2.1": [22]'),
        ("[2001:db8::1]:22", '"[2001:db8::1]:22" has a port; write it behind: "2001:db8::1": [22]'),
        ("[::1]", '"[::1]" is not an IPv6 address (a host stands without port, scheme and brackets)'),
        ("::ffff:192.0.2.1", '"::ffff:192.0.2.1" is an IPv4 address in disguise; write 192.0.2.1'),
        ("fe80::1", '"fe80::1" is a link-local address, which means nothing without a zone; name another one'),
        *(
            (written, f'"{written}" looks like a range of addresses; write a CIDR, or one line for each address')
            for written in ("127.0.0.1-20", "192.0.2.1-192.0.2.20", "10.0.0-3")
        ),
    ],
)
def test_what_is_nearly_a_host_is_told_what_to_write(written: str, message: str) -> None:
    """Common slips have messages of their own."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        canonical(written)


@pytest.mark.parametrize("network", ["fe80::/112", "::ffff:192.0.2.0/120", "0.0.0.0/24", "::/112", "224.0.1.0/24"])
def test_cidr_of_addresses_that_are_no_hosts_is_refused(network: str) -> None:
    """What may not stand as an address may not stand as a CIDR."""
    with pytest.raises(ValueError, match=r"address"):
        canonical(network)
