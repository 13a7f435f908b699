from __future__ import annotations

import ipaddress
import re
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portspec.inventory.discovery.hosts import host_of
from portspec.names import (
    address_of,
    canonical,
    canonical_glob,
    canonical_one,
    check_host,
    duplicates,
    fault_of,
    query_name,
)


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("db1", "db1"),
        ("DB1.Example.ORG", "db1.example.org"),
        ("example.org.", "example.org"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher。example．", "xn--bcher-kva.example"),  # noqa: RUF001
        ("XN--FA-HIA.test.", "xn--fa-hia.test"),
        ("web.1", "web.1"),
        ("0x7f000001.example", "0x7f000001.example"),
        ("1password", "1password"),
        ("2026-11", "2026-11"),
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
        *("1", "10.0.0", "300.1.2.3", "192.0.2.01", "1.2.3.4.5", "１.２.３.４", "127。0。0。1"),  # noqa: RUF001
        *("0x7f000001", "127.1", "0177.0.0.1", "2130706433", "0x7F.1", "1.2", "127.0.0.1.", "0x", "1.0x", "1."),
        *("127.0.0.1 ", " 127.0.0.1", "127.0.0.1\t", "0x7f000001.", "0ｘ7f000001", "①.1"),  # noqa: RUF001
        *("2001:db8::1%eth0/128", "fe80::1%eth0", "_ü.example", "☕.example", "a\u200db", "ü" * 60, "a" * 300 + "ü"),
        *("::1%lo", "fe80::1%lo/64", "2001:db8::g", "db1:22", "192.0.2.1:22", "[::1]", "[::1]:22", ":"),
        *("192.0.2.0/33", "192.0.2.1/24", "/24", "db1/24", "192.0.2.0/", "192.0.2.0/24/24", "192.0.2.0/x"),
        *("10.0.0.0/15", "2001:db8::/111", "https://example.org", "ssh://db1", "a" * 64, ".".join(["a" * 50] * 6)),
    ],
)
def test_what_is_no_host_is_refused(written: str) -> None:
    """Only names, addresses and networks of a size to be scanned are hosts."""
    with pytest.raises(ValueError, match=r"^\""):
        canonical(written)


def test_what_idna_2008_has_no_name_for_is_told() -> None:
    """The message says which letter it is, and how a name that exists all the same is written."""
    with pytest.raises(
        ValueError, match=r'^"☕\.test" is not a name by IDNA 2008 \(.*U\+2615.*\).*write its xn-- form$'
    ):
        canonical("☕.test")
    assert canonical("xn--53h.test") == "xn--53h.test"
    with pytest.raises(ValueError, match=r"a name has at most 253 characters, 63 between two dots"):
        canonical("ü" * 60)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=20), st.from_regex(r"[A-Za-z0-9.:/%_-]{1,20}", fullmatch=True)))
def test_the_form_of_a_form_is_itself(written: str) -> None:
    """Any text is no host, or has a form that stays the same when it is read again."""
    try:
        form = canonical(written)
    except ValueError:
        return
    assert canonical(form) == form


@pytest.mark.parametrize("written", ["faß.test", "FAß.TEST", "fa\u1e9e.test", "ｆａß．test"])  # noqa: RUF001
def test_sharp_s_is_a_letter_of_its_own(written: str) -> None:
    """IDNA 2003 took faß for fass, which is the name of another host."""
    assert canonical(written) == "xn--fa-hia.test"


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("βόλος.example", "xn--nxasmm1c.example"),  # ends in a final sigma; IDNA 2003: xn--nxasmq6b
        ("نامه\u200cای.example", "xn--mgba3gch31f060k.example"),  # noqa: RUF001  # a zero width non-joiner
    ],
)
def test_letters_that_idna_2003_lost_are_kept(written: str, form: str) -> None:
    """The four deviation characters of UTS #46 stay what they are."""
    assert canonical(written) == form


ADDRESS_LIKE = st.one_of(
    st.lists(st.from_regex(r"(0[xX]?)?[0-9a-fA-F]{0,4}", fullmatch=True), min_size=1, max_size=5).map(".".join),
    st.tuples(
        st.sampled_from(
            ["{}", "0{}", "{}.", " {}", "{} ", "{}\n", "{}%lo", "{}%1", "[{}]", "0x{}", "::ffff:{}", "::{}"]
        ),
        st.ip_addresses().map(str),
    ).map(lambda drawn: drawn[0].format(drawn[1])),
    st.integers(0, 2**34).flatmap(lambda number: st.sampled_from([str(number), hex(number), f"0{number:o}"])),
    st.text("0123456789.xXaf:%/。．０１２ｘ²①", max_size=12),  # noqa: RUF001
    st.text(max_size=8),
)


@settings(max_examples=600, deadline=None)
@given(ADDRESS_LIKE)
def test_what_the_resolver_takes_for_an_address_is_that_address_or_refused(written: str) -> None:
    """getaddrinfo(3) never makes an address of what portspec takes for a name, nor another address of an address."""
    try:
        found = socket.getaddrinfo(written, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return
    for spell in (canonical, canonical_one, host_of, check_host):
        try:
            form = canonical(spell(written))
        except ValueError:
            continue
        assert [ipaddress.ip_address(sockaddr[0]) for *_, sockaddr in found] == [ipaddress.ip_address(form)]


@settings(max_examples=200, deadline=None)
@given(ADDRESS_LIKE)
def test_a_name_is_not_asked_for_as_an_address(written: str) -> None:
    """What is handed to getaddrinfo(3) for a name is a name to it, too."""
    try:
        query = query_name(written)
    except ValueError:
        return
    if "/" not in query and address_of(query) is None:
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo(query, None, flags=socket.AI_NUMERICHOST)


@pytest.mark.parametrize(
    ("written", "asked"),
    [("DB1", "db1"), ("db1.", "db1."), ("faß.test。", "xn--fa-hia.test."), ("192.0.2.1", "192.0.2.1")],
)
def test_a_final_dot_is_asked_with(written: str, asked: str) -> None:
    """It makes no other host, but keeps the search list away."""
    assert query_name(written) == asked


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        *((one, "is not the address of one host") for one in ("0.0.0.0", "0.1.2.3", "::", "224.0.0.251", "ff02::1")),  # noqa: S104
        ("255.255.255.255", "is not the address of one host"),
        ("fe80::1", "is a link-local address, which means nothing without a zone; name another one"),
        ("::192.0.2.1", "is an IPv4-compatible IPv6 address; write 192.0.2.1"),
        ("::ffff:192.0.2.1", "is an IPv4-mapped IPv6 address; write 192.0.2.1"),
        ("::ffff:0:192.0.2.1", "is an IPv4-translated IPv6 address; write 192.0.2.1"),
        ("::ffff:0.0.0.0", "is an IPv4-mapped IPv6 address of 0.0.0.0, which is not the address of one host"),
        ("64:ff9b::", "is translated to 0.0.0.0, which is not the address of one host"),
        ("64:ff9b::127.0.0.1", "is translated to 127.0.0.1, which is a loopback address"),
        ("2002:e000:1::1", "is translated to 224.0.0.1, which is not the address of one host"),
        *(
            (one, None)
            for one in ("127.0.0.1", "::1", "64:ff9b::192.0.2.1", "2002:c000:201::1", "fc00::1", "240.0.0.1")
        ),
        *((one, None) for one in ("169.254.169.254", "192.0.2.255", "2001:db8::", "10.0.0.0")),
    ],
)
def test_an_address_that_is_not_one_host_has_a_fault(address: str, fault: str | None) -> None:
    """Addresses that lead to this machine, to many hosts, to none or to another address cannot be scanned."""
    assert fault_of(ipaddress.ip_address(address)) == fault


@settings(max_examples=300, deadline=None)
@given(st.ip_addresses())
def test_an_address_is_a_host_unless_it_has_a_fault(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """What a name may resolve to and what conf.yml may name are the same addresses, alone and as a CIDR."""
    for text in (str(address), f"{address}/{address.max_prefixlen}"):
        if fault_of(address) is None:
            assert canonical(text).partition("/")[0] == str(address)
        else:
            with pytest.raises(ValueError, match=r"^\""):
                canonical(text)


@pytest.mark.parametrize(
    ("glob", "form"),
    [
        ("WEB*.Example.org", "web*.example.org"),
        ("*.faß.test", "*.xn--fa-hia.test"),
        ("DB1.", "db1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("bü*.example", "bü*.example"),
        ("*", "*"),
    ],
)
def test_a_glob_is_spelled_as_the_hosts_that_it_matches(glob: str, form: str) -> None:
    """Labels without a wildcard have their canonical form."""
    assert canonical_glob(glob) == form


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
        ("db1:22", '"db1:22" has a port; write it as: "db1": [22]'),
        ("192.0.2.1:22", '"192.0.2.1:22" has a port; write it as: "192.0.2.1": [22]'),
        ("[2001:db8::1]:22", '"[2001:db8::1]:22" has a port; write it as: "2001:db8::1": [22]'),
        ("[::1]", '"[::1]" is not an IPv6 address (write the host without port, scheme and brackets)'),
        ("::ffff:192.0.2.1", '"::ffff:192.0.2.1" is an IPv4-mapped IPv6 address; write 192.0.2.1'),
        ("fe80::1", '"fe80::1" is a link-local address, which means nothing without a zone; name another one'),
        ("2001:db8::1%eth0/128", '"2001:db8::1%eth0/128" has a zone (%…); portspec scans addresses without one'),
        *(
            (written, f'"{written}" is not an IPv4 address (four numbers from 0 to 255 without leading zeros)')
            for written in ("0x7f000001", "127.1", "10.0.0.256", "1")
        ),
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


@pytest.mark.parametrize(
    "text",
    [
        *("\udcff" * 253 + "-", "é" * 253 + "\ud800", "\U000e0100" * 250, "1." * 100 + "1-" + "2" * 50, "a" * 10_000),
        *("é" * 10_000, "[" + "1" * 300 + "]:80", "x" * 300 + ":80", "http://" + "x" * 300, "::" + "1" * 300),
        *("x/" + "9" * 300, "%" * 300),
    ],
    ids=lambda text: ascii(text[:9]),
)
def test_message_of_a_name_is_short(text: str) -> None:
    """However long a text is that is no host, and whatever the idna package says of it, the message fits into a log."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        canonical(text)
    assert len(str(caught.value)) <= 400
