"""Where a request comes from, who sent it, and what it may do."""

from __future__ import annotations

import hashlib
import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from portspec.access.identity import (
    certificate_identity,
    client_address,
    permitted,
    proxied_identity,
    token_identity,
    user_identity,
)
from portspec.access.model import ClientAddress, Identity, Permission, Proof, Role, Token, WebConfig

PROXIES = tuple(map(ipaddress.ip_network, ("127.0.0.1", "::1", "10.0.0.0/8", "2001:db8:1::/48")))
READ, PROBE, ACT, AUDIT = Permission.READ, Permission.PROBE, Permission.ACT, Permission.AUDIT
TOKEN = "uQ0mAvAjyvVYlpYyfDCzNtJK"  # noqa: S105 - of nobody
CLIENT = ClientAddress("192.0.2.9")
LOOPBACK = ClientAddress("127.0.0.1")
USERS = WebConfig(
    users={"alice": "$2b$04$…", "bob": "$2b$04$…"},
    tokens=(Token("ci", hashlib.sha256(TOKEN.encode()).digest(), Role.PROBE),),
    roles={"bob": Role.READ, "prometheus.example.org": Role.READ, "admin@example.org": Role.ACT},
    anonymous=frozenset({AUDIT}),
)
PROXIED = WebConfig(
    roles={"carol": Role.ACT}, anonymous=frozenset({AUDIT}), trusted_proxies=PROXIES, user_header="X-Remote-User"
)


def forwarded(*values: str, name: str = "Forwarded") -> CIMultiDict[str]:
    """Make headers of one name."""
    return CIMultiDict((name, value) for value in values)


def forwarded_for(*values: str) -> CIMultiDict[str]:
    """Make headers X-Forwarded-For."""
    return forwarded(*values, name="X-Forwarded-For")


@pytest.mark.parametrize(
    ("peer", "value", "address"),
    [
        ("127.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "198.51.100.7, 192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "192.0.2.1, 10.1.2.3", "192.0.2.1"),
        ("127.0.0.1", "203.0.113.1, 192.0.2.1,10.1.2.3 , 10.9.9.9", "192.0.2.1"),
        ("127.0.0.1", "10.1.2.3", "10.1.2.3"),
        ("::ffff:127.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("::1", "2001:DB8::1", "2001:db8::1"),
        ("::1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("::1", "192.0.2.1:4711", "192.0.2.1"),
        ("::1", "::ffff:192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "192.0.2.1, junk", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.1, junk, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "192.0.2.1,", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.01", "127.0.0.1"),
        ("127.0.0.1", "fe80::1%eth0", "127.0.0.1"),
        ("192.0.2.66", "127.0.0.1", "192.0.2.66"),
        ("192.0.2.66", "10.1.2.3", "192.0.2.66"),
    ],
)
def test_the_client_of_x_forwarded_for(peer: str, value: str, address: str) -> None:
    """It is the last address that is not a trusted proxy; what is no address ends the search, as a stranger does."""
    assert client_address(peer, forwarded_for(value), PROXIES) == ClientAddress(address, is_proxied=True)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("for=192.0.2.1", "192.0.2.1"),
        ("For=192.0.2.1;proto=https;by=203.0.113.43", "192.0.2.1"),
        ('proto=https ; for="192.0.2.1:47011"', "192.0.2.1"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ('for="[2001:db8:cafe::17]"', "2001:db8:cafe::17"),
        ('for="192.0.2.1:_port"', "192.0.2.1"),
        (r'for="192\.0.2.1"', "192.0.2.1"),
        ("for=198.51.100.7, for=192.0.2.1", "192.0.2.1"),
        ('for="198.51.100.7", FOR="10.1.2.3", for="10.9.9.9"', "198.51.100.7"),
        ('by="a, b;c";for=192.0.2.1, for=10.1.2.3', "192.0.2.1"),
        ("for=192.0.2.1, , for=10.1.2.3,", "192.0.2.1"),
        (";for=192.0.2.1;", "192.0.2.1"),
        ("for=unknown", "127.0.0.1"),
        ("for=192.0.2.1, for=unknown", "127.0.0.1"),
        ("for=192.0.2.1, for=_hidden, for=10.1.2.3", "10.1.2.3"),
        ("for=192.0.2.1, proto=https", "127.0.0.1"),
        ("for=192.0.2.1;for=192.0.2.2", "127.0.0.1"),
        ("for=2001:db8::1", "127.0.0.1"),
        ("for=[2001:db8::1]", "127.0.0.1"),
        ('for="2001:db8::1"', "127.0.0.1"),
        ("for=", "127.0.0.1"),
        ("192.0.2.1", "127.0.0.1"),
        ('for="192.0.2.1', "127.0.0.1"),
        ('for="x, for=192.0.2.1', "127.0.0.1"),
        ("for=192.0.2.1 for=192.0.2.2", "127.0.0.1"),
        ("for = 192.0.2.1", "127.0.0.1"),
    ],
)
def test_the_client_of_forwarded(value: str, address: str) -> None:
    """The header of RFC 7239 is read as strictly as it defines it; a malformed one is as if it named nobody."""
    assert client_address("127.0.0.1", forwarded(value), PROXIES) == ClientAddress(address, is_proxied=True)


def test_several_headers_of_one_name_are_one_list() -> None:
    """A proxy may add a header instead of an entry; a malformed one of the client does not hide what it added."""
    assert client_address("::1", forwarded_for("192.0.2.7", "192.0.2.1"), PROXIES).address == "192.0.2.1"
    assert client_address("::1", forwarded('for="192.0.2.7', "for=192.0.2.1"), PROXIES).address == "192.0.2.1"


def test_two_headers_that_disagree_name_nobody() -> None:
    """A proxy that sets one header may pass on the other one as the client sent it."""
    both = CIMultiDict([("Forwarded", "for=192.0.2.1"), ("X-Forwarded-For", "198.51.100.7")])
    assert client_address("127.0.0.1", both, PROXIES) == ClientAddress("127.0.0.1", is_proxied=True)
    both["X-Forwarded-For"] = "192.0.2.1"
    assert client_address("127.0.0.1", both, PROXIES) == ClientAddress("192.0.2.1", is_proxied=True)


def test_a_long_way_of_proxies_is_not_walked_to_its_end() -> None:
    """No header makes work without bound: after some proxies in a row the search ends at one of them."""
    long = ", ".join(["192.0.2.1", *["10.1.2.3"] * 600])
    assert client_address("127.0.0.1", forwarded_for(long), PROXIES).address == "10.1.2.3"
    pairs = ";".join(["a=b"] * 100)
    assert client_address("127.0.0.1", forwarded(f"{pairs};for=192.0.2.1"), PROXIES).address == "127.0.0.1"


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", ""])
def test_loopback(peer: str) -> None:
    """A request of this machine counts as such, over a Unix socket, too."""
    assert client_address(peer, {}, ()).is_loopback


@pytest.mark.parametrize("peer", ["192.0.2.1", "::", "::2", "0.0.0.0", "fe80::1%lo", "somewhere"])  # noqa: S104
def test_what_is_not_loopback(peer: str) -> None:
    """No other address counts as this machine."""
    assert not client_address(peer, {}, ()).is_loopback


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "x-real-ip", "Via", "X-Forwarded-Host"])
@pytest.mark.parametrize("proxies", [(), PROXIES])
def test_a_request_through_a_proxy_is_not_of_this_machine(name: str, proxies: tuple[()]) -> None:
    """Behind a proxy on this machine everybody has its address; its headers show that, trusted or not."""
    assert not client_address("127.0.0.1", {name: "127.0.0.1"}, proxies).is_loopback


addresses = st.one_of(st.ip_addresses().map(str), st.sampled_from(["127.0.0.1", "10.1.2.3", "::1", "192.0.2.1"]))
pieces = st.one_of(
    addresses,
    st.sampled_from(
        ["for=", "For=", '"', "[", "]", ":", ",", ";", " ", "\t", "=", "\\", "unknown", "_x", ":80", "by="]
    ),
    st.text(max_size=4),
)
header_values = st.one_of(st.lists(pieces, max_size=12).map("".join), st.text())


@settings(deadline=None)
@given(
    peer=st.one_of(addresses, st.text(max_size=5)),
    headers=st.lists(st.tuples(st.sampled_from(["Forwarded", "X-Forwarded-For", "Via"]), header_values), max_size=4),
    proxies=st.sampled_from([(), PROXIES, tuple(map(ipaddress.ip_network, ("0.0.0.0/0", "::/0")))]),
)
def test_the_result_is_the_peer_or_stands_in_a_header(
    peer: str, headers: list[tuple[str, str]], proxies: tuple[ipaddress.IPv4Network, ...]
) -> None:
    """No header raises, and no address comes from nowhere; without a trusted proxy it is the peer's."""
    found = client_address(peer, CIMultiDict(headers), proxies)
    peers = client_address(peer, {}, ()).address
    if found.address != peers:
        assert proxies
        text = " ".join(value.replace("\\", "") for name, value in headers if name != "Via").lower()
        written = ipaddress.ip_address(found.address)
        spellings = {word for word in _words(text) if _is(word, written)}
        assert spellings, (found, text)


def _words(text: str) -> set[str]:
    """Return all pieces of a text that may be an address."""
    letters = "".join(letter if letter in "0123456789abcdef:." else " " for letter in text)
    words = set(letters.split())
    return words | {word.rpartition(":")[0] for word in words}


def _is(word: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        found = ipaddress.ip_address(word)
    except ValueError:
        return False
    return address in (found, getattr(found, "ipv4_mapped", None))


@pytest.mark.parametrize(
    ("role", "permissions"),
    [
        (Role.READ, {READ}),
        (Role.PROBE, {READ, PROBE}),
        (Role.ACT, {READ, PROBE, ACT, AUDIT}),
        (Role.AUDIT, {AUDIT}),
    ],
)
def test_roles(role: Role, permissions: set[Permission]) -> None:
    """Each role includes the ones before it, but `audit` stands alone."""
    assert role.permissions == permissions


def test_without_a_file_loopback_may_act_and_others_all_else() -> None:
    """The default is what portspec always allowed, but a stranger starts no scans."""
    config = WebConfig.default()
    assert permitted(config, None, CLIENT) == {READ, PROBE, AUDIT}
    assert permitted(config, None, LOOPBACK) == set(Permission)
    assert permitted(config, None, ClientAddress("")) == set(Permission)
    assert permitted(config, None, ClientAddress("127.0.0.1", is_proxied=True)) == {READ, PROBE, AUDIT}


@pytest.mark.parametrize("client", [CLIENT, LOOPBACK])
def test_with_users_everybody_has_to_authenticate(client: ClientAddress) -> None:
    """Loopback is no exception: a user's role decides, and a user that `roles` does not list may do everything."""
    assert permitted(USERS, None, client) == {AUDIT}
    assert permitted(USERS, user_identity(USERS, "alice"), client) == set(Permission)
    assert permitted(USERS, user_identity(USERS, "bob"), client) == {READ, AUDIT}


@pytest.mark.parametrize("wrong", ["", TOKEN[:-1], f"{TOKEN}x", TOKEN.lower(), "\udcff", "é"])
def test_tokens(wrong: str) -> None:
    """The whole token identifies, by the name that it has in the file; nothing else does."""
    assert token_identity(USERS, TOKEN) == Identity("ci", Proof.TOKEN, Role.PROBE)
    assert token_identity(USERS, wrong) is None
    assert token_identity(WebConfig.default(), TOKEN) is None


def test_certificates() -> None:
    """The name with the most rights counts. What `roles` does not list may probe, unless somebody has a password."""
    found = certificate_identity(USERS, ["x", "prometheus.example.org", "admin@example.org"])
    assert found == Identity("admin@example.org", Proof.CERTIFICATE, Role.ACT)
    assert certificate_identity(WebConfig.default(), ["b", "a"]) == Identity("a", Proof.CERTIFICATE, Role.PROBE)
    unlisted = certificate_identity(USERS, ["b", "a"])
    assert unlisted == Identity("a", Proof.CERTIFICATE, None)
    assert permitted(USERS, unlisted, CLIENT) == {AUDIT}
    assert certificate_identity(USERS, []) is None


def test_users_that_a_proxy_names() -> None:
    """Only a trusted proxy names users, one for each request; one that `roles` does not list may probe."""
    headers = CIMultiDict([("x-remote-user", "carol"), ("X-Forwarded-For", "192.0.2.1")])
    assert proxied_identity(PROXIED, "127.0.0.1", headers) == Identity("carol", Proof.PROXY, Role.ACT)
    assert proxied_identity(PROXIED, "127.0.0.1", {"X-Remote-User": "dan"}) == Identity("dan", Proof.PROXY, Role.PROBE)
    assert proxied_identity(PROXIED, "192.0.2.66", headers) is None
    assert proxied_identity(USERS, "127.0.0.1", headers) is None
    assert permitted(PROXIED, None, LOOPBACK) == {AUDIT}


@pytest.mark.parametrize("names", [[], [""], ["  "], ["carol", "carol"], ["carol\n"], ["\udcff"], ["x" * 257], ["a\0"]])
def test_headers_that_name_no_user(names: list[str]) -> None:
    """A header that is empty, unprintable, endless or there twice names nobody."""
    headers = CIMultiDict(("X-Remote-User", name.replace("\n", "\x0b.")) for name in names)
    assert proxied_identity(PROXIED, "127.0.0.1", headers) is None
