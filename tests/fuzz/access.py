"""The web config file, where a request comes from (Forwarded, X-Forwarded-For), and the Host header."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from multidict import CIMultiDict

from portspec.access.hosts import host_is_ours
from portspec.access.identity import client_address, permitted, proxied_identity
from portspec.access.load import load_web_config
from portspec.access.model import ClientAddress, Permission, WebConfig
from portspec.errors import ConfigError
from tests.fuzz.configuration import DATA, check_problems, file_of
from tests.fuzz.harness import Harness, Limit, words

if TYPE_CHECKING:
    from collections.abc import Iterator

_STRANGER: Final = ClientAddress("192.0.2.1")
#: Where it belongs, behind a key; who writes one in the place of a key is told which key is unknown.
_SECRET: Final = re.compile(rb": (\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{20,})")


def load_web(data: bytes) -> None:
    """Load a web config file; no problem quotes a hash, and strangers may do no more than the file says."""
    path = file_of("web.yml")
    path.write_bytes(data)
    try:
        config = load_web_config(path, {"NAME": "value"})
    except ConfigError as error:
        check_problems(error, data)
        for secret in _SECRET.findall(data):
            assert secret.decode() not in str(error)
        return
    assert permitted(config, None, _STRANGER) == config.anonymous
    assert (Permission.ACT in config.anonymous) <= (b"act" in data)
    assert config.trusted_proxies or config.user_header is None or b"trusted_proxies" in data
    assert all(warning.isprintable() for warning in config.warnings)
    for secret in (*config.users.values(), *(token.digest.hex() for token in config.tokens)):
        assert secret not in repr(config)


_PROXIES: Final = tuple(map(ipaddress.ip_network, ("127.0.0.1/32", "::1/128", "10.0.0.0/8", "2001:db8:1::/48")))
_WEB: Final = WebConfig(trusted_proxies=_PROXIES, user_header="X-Remote-User", anonymous=frozenset())


def find_client(data: bytes) -> None:
    """Find where a request comes from: the first line has the peer, each other one a header.

    The result is the peer or an address that stands in a header. What a client itself has put in front of what a
    trusted proxy wrote makes no difference, or the result is a proxy. Without a trusted proxy no header counts.
    """
    peer, *lines = data.decode("latin-1").split("\n")
    headers = CIMultiDict((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
    found = client_address(peer, headers, _PROXIES)
    assert found.address == _plain(peer) or _is_in(found.address, lines), found
    assert not (found.is_loopback and ({"forwarded", "x-forwarded-for"} & {name.lower() for name in headers}))
    is_trusted = _is_trusted(_plain(peer))
    if not is_trusted:
        assert found.address == _plain(peer)
        assert proxied_identity(_WEB, peer, headers) is None
        return
    if not _is_trusted(found.address):
        for name in ("X-Forwarded-For", "Forwarded"):
            forged = CIMultiDict(
                (key, f'x="y";for=127.0.0.1, {value}' if key == name else value) for key, value in headers.items()
            )
            other = client_address(peer, forged, _PROXIES).address
            assert other == found.address or _is_trusted(other), other


def _plain(text: str) -> str:
    """Spell an address; a text that is none stays."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_in(address: str, lines: list[str]) -> bool:
    texts = re.findall(r"[0-9A-Fa-f:.]+", "\n".join(lines).replace("\\", ""))
    spellings = (part for text in texts for part in (text, text.rpartition(":")[0], text.strip(":"), text[1:]))
    return any(_plain(part) == address for part in spellings)


def _is_trusted(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in _PROXIES)


_ALLOWED: Final = frozenset({"portspec.example.org", "*.example.net"})


def check_host(data: bytes) -> None:
    """Check a Host header; it is ours only if a browser would see an address in it, or a name of ours."""
    header = data.decode("latin-1")
    if not host_is_ours(
        header, listening=[":10190", "web1:10190"], external_url=None, allowed_hosts=_ALLOWED, local_names=["box"]
    ):
        return
    if header.strip() == "":
        return
    try:
        host = (urlsplit(f"http://{header.strip()}").hostname or "").removesuffix(".")
    except ValueError:  # of an IPv4 address in brackets, for one
        host = header.strip().partition("]")[0].removeprefix("[")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        is_named = host in {"localhost", "portspec.example.org", "web1", "box"}
        assert is_named or host.endswith((".localhost", ".example.net")), host


# --- Seeds ------------------------------------------------------------------------------------------------------------


def _files() -> Iterator[bytes]:
    for path in sorted((DATA / "web").glob("*/*.yml")):
        yield path.read_bytes()


def _requests() -> Iterator[bytes]:
    yield b"127.0.0.1\nX-Forwarded-For: 203.0.113.1, 192.0.2.1, 10.1.2.3\nX-Remote-User: alice"
    yield b'::1\nForwarded: for=192.0.2.43;proto=http, for="[2001:db8::1]:4711";by=_x, For=unknown'
    yield b"192.0.2.1\nX-Forwarded-For: 127.0.0.1\nVia: 1.1 a\nX-Real-IP: ::1"
    yield b'10.0.0.1\nForwarded: for="\\1\\9\\2.0.2.1:_p"\nForwarded: for=192.0.2.1,,\nX-Forwarded-For: [::1]:80'
    yield b"::ffff:10.0.0.1\nX-Forwarded-For: ::ffff:192.0.2.1, 2001:db8:1::2"


def _hosts() -> Iterator[bytes]:
    yield from (
        b"localhost:10190",
        b"192.0.2.1:10190",
        b"[::1]:10190",
        b"PORTSPEC.example.org.",
        b"a.example.net",
        b"box",
    )
    yield from (b"evil.example:10190", b"localhost.evil.example", b"a@localhost", b"[::1", b"127.1", b"x.localhost:80")


_KEYS: Final = (
    "tls_server_config cert_file key_file client_ca_file client_auth_type client_allowed_sans min_version max_version "
    "cipher_suites curve_preferences http_server_config http2 headers basic_auth_users rate_limit interval burst roles "
    "tokens token token_file role anonymous trusted_proxies user_header allowed_hosts"
)
_VALUES: Final = (
    "read probe act audit RequireAndVerifyClientCert TLS12 X25519 1s 0 -1 true ~ [] {} *.example.org 10.0.0.0/8 ::1 "
    "X-Remote-User $2y$10$ ${NAME} &a *a << !!binary |"
)
_WEB_CONFIG: Final = Harness(
    "webconfig",
    load_web,
    _files,
    (*(b"\n" + key + b": " for key in words(_KEYS)), *words(_VALUES), b"\n  ", b"\n- "),
    calls=Limit(100_000, 1500),
    memory=Limit(48 << 20, 2000),  # of which 32 MiB are asked for to read a file of any size
    examples=100,
)
_FORWARDED: Final = Harness(
    "forwarded",
    find_client,
    _requests,
    (
        *words("X-Forwarded-For: Forwarded: for= ;proto= by= host= unknown _x , ; [ ] :: 127.0.0.1 10.0.0.1 192.0.2.1"),
        *(b'"', b"\\", b"\n", b'for="[2001:db8::1]:80"', b"::ffff:7f00:1", b"%eth0", b"X-Remote-User: a"),
    ),
    longest=1024,
    calls=Limit(20_000, 2000),
)
_HOST: Final = Harness(
    "host", check_host, _hosts, words("localhost . : [ ] @ # / \\ ::1 127.0.0.1 % .example.net box web1"), longest=256
)

HARNESSES: Final = (_WEB_CONFIG, _FORWARDED, _HOST)
