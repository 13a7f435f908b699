"""The web configuration as the rest of portspec sees it: immutable, checked, every default filled in."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ALLOW_ALL_HOSTS = "*"  # in allowed_hosts: the Host header is not checked


class Permission(Enum):
    """What a request does."""

    READ = "read"  # GET of pages, /api, /metrics and /sd/targets
    PROBE = "probe"  # /probe, which sends packets to others
    ACT = "act"  # POST /api/v1/scan, /api/v1/maintenance and /-/reload
    AUDIT = "audit"  # POST /api/v1/audits, /agent.py and its signature


class Role(Enum):
    """What a user, a token or a certificate may do. Each of the first three includes the ones before it."""

    READ = "read"
    PROBE = "probe"
    ACT = "act"  # everything
    AUDIT = "audit"  # audits, and nothing else

    @property
    def permissions(self) -> frozenset[Permission]:
        """Return what the role permits."""
        return _PERMISSIONS[self]


_PERMISSIONS = {
    Role.READ: frozenset({Permission.READ}),
    Role.PROBE: frozenset({Permission.READ, Permission.PROBE}),
    Role.ACT: frozenset(Permission),
    Role.AUDIT: frozenset({Permission.AUDIT}),
}


class ClientAuth(Enum):
    """Whether a client needs a certificate, by the names of Go's crypto/tls (those that Python's ssl can do)."""

    NONE = "NoClientCert"
    IF_GIVEN = "VerifyClientCertIfGiven"
    REQUIRED = "RequireAndVerifyClientCert"


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate or a key in PEM: its text in the web config file, or the path of its file (never both)."""

    text: str | None = field(default=None, repr=False)
    path: str | None = None


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The block `tls_server_config`.

    `ciphers` and `curves` have the names of OpenSSL, in order; empty for those of OpenSSL by default.
    `client_allowed_sans` is None if any verified certificate is admitted.
    """

    certificate: Pem
    key: Pem
    client_ca: Pem | None = None
    client_auth: ClientAuth = ClientAuth.NONE
    client_allowed_sans: frozenset[str] | None = None
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: tuple[str, ...] = ()
    prefer_server_ciphers: bool = True
    curves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token: a name for the log, the SHA-256 of the token, and what it permits."""

    name: str
    digest: bytes = field(repr=False)
    role: Role


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One request each `interval` seconds (above 0) on average, and up to `burst` (at least 1) at once."""

    interval: float
    burst: int


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the web config file says.

    `users` are bcrypt hashes by name. `roles` are those of users, names in certificates, and users that a proxy names;
    `role_of` has the defaults. `anonymous` are the permissions that nobody has to authenticate for. `warnings` are for
    the log. `files` are the paths whose content makes the configuration, the web config file first; `trusted` says of
    each whether it holds a secret, as config/trust.py takes it.
    """

    path: str | None = None
    tls: TlsConfig | None = None
    http2: bool = True  # as written; portspec serves HTTP/1.1 only
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    users: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    tokens: tuple[Token, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=lambda: MappingProxyType({}))
    anonymous: frozenset[Permission] = frozenset({Permission.READ, Permission.PROBE, Permission.AUDIT})
    rate_limit: RateLimit | None = None
    trusted_proxies: tuple[Network, ...] = ()
    user_header: str | None = None
    allowed_hosts: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    trusted: tuple[tuple[str, bool], ...] = ()

    @classmethod
    def default(cls) -> WebConfig:
        """Return what holds without a web config file: plain HTTP, and everybody may do all but act."""
        return cls()

    @property
    def has_users(self) -> bool:
        """Return whether somebody can authenticate by a password, a token or a proxy: else loopback may act."""
        return bool(self.users or self.tokens or self.user_header)


class Proof(Enum):
    """How a client has shown who it is."""

    PASSWORD = "password"  # noqa: S105 - a word, no password
    TOKEN = "token"  # noqa: S105 - the same
    CERTIFICATE = "certificate"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is: a name for the log, the proof of it, and its role (None if it adds no permission)."""

    name: str
    proof: Proof
    role: Role | None


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """Where a request comes from: the address for shares and the log, "" for a Unix socket.

    `is_proxied` if somebody has passed the request on, trusted or not; then it never counts as from loopback.
    """

    address: str
    is_proxied: bool = False

    @property
    def is_loopback(self) -> bool:
        """Return whether a program of this machine sent it: from 127.0.0.0/8, ::1 or a Unix socket, by no proxy."""
        if self.is_proxied:
            return False
        if not self.address:
            return True
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return False
