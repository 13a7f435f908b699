"""Decides whether a request is answered: what aiohttp knows of it in, a refusal or nothing out.

The order is that of exporter-toolkit: an invalid file (500), the rate limit (429), who it is (401), what it may do
(403). Before the last one come the header Host (421, RFC 9110, 15.5.20), against DNS rebinding, and requests that a
browser sends for a page of another site.
"""

from __future__ import annotations

import base64
import binascii
import math
import pwd
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from portspec import log
from portspec.access.hosts import host_is_ours, local_names, may_be_of_browser
from portspec.access.identity import (
    certificate_identity,
    client_address,
    permitted,
    proxied_identity,
    token_identity,
    user_identity,
)
from portspec.access.model import ClientAddress, Identity, Permission, Proof
from portspec.access.passwords import BusyError, Passwords
from portspec.access.rate import TokenBucket
from portspec.access.tls import is_allowed, sans
from portspec.access.watched import CurrentWebConfig
from portspec.errors import printable
from portspec.threads import in_daemon_thread
from portspec.web.problems import is_of_api, problem

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from portspec.access.model import RateLimit, WebConfig
    from portspec.web.address import ListenAddress

REASONS: Final = ("config", "cross_site", "forbidden", "host", "passwords", "rate_limit", "unauthorized")
_OPEN: Final = frozenset({"/-/healthy", "/-/ready"})
_AUDITS: Final = frozenset({"/api/v1/audits", "/api/v1/reports"})
_AGENT: Final = "/agent.py"
# Later versions of aiohttp warn of a key that is a string, earlier ones take no other.
_CLIENT: Final[Any] = web.RequestKey("client", ClientAddress) if hasattr(web, "RequestKey") else "portspec.client"
_IDENTITY: Final[Any] = web.RequestKey("identity", Identity) if hasattr(web, "RequestKey") else "portspec.identity"

_log = log.get("web")


class RefusedError(Exception):
    """A request that is not answered; `reason` is one of REASONS."""

    def __init__(self, status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers or {}
        super().__init__(printable(message))  # it may quote a header, whose bytes may be no UTF-8


def is_open(path: str) -> bool:
    """Return whether a path is for everybody, whatever is configured: it says no more than that portspec runs."""
    return path in _OPEN


def permission_for(method: str, path: str) -> Permission:
    """Return what a request asks for; what is none of the known paths is read or acted upon."""
    if path in _AUDITS or path.startswith(_AGENT):
        return Permission.AUDIT
    if method not in ("GET", "HEAD"):
        return Permission.ACT
    return Permission.PROBE if path == "/probe" else Permission.READ


def client_of(request: web.Request) -> str:
    """Return the address of the client, which a trusted proxy tells; "" for a Unix socket."""
    client: ClientAddress | None = request.get(_CLIENT)
    return client.address if client else request.remote or ""


def user_of(request: web.Request) -> str:
    """Return the user who asks: the name that was proven, or the owner of a process on a Unix socket; "" if unknown."""
    identity: Identity | None = request.get(_IDENTITY)
    if identity:
        return identity.name
    sock = request.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return ""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))  # unix(7)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


class Gate:
    """Applies the web configuration to requests, and gives the TLS context of connections."""

    def __init__(
        self, access: CurrentWebConfig, *, listening: Sequence[str] = (), external_url: str | None = None
    ) -> None:
        self._access = access
        self._listening = tuple(listening)
        self.external_url = external_url
        self._local_names = frozenset({socket.gethostname().lower()})
        self._passwords = Passwords()
        self._limit: tuple[RateLimit, TokenBucket] | None = None
        self._lines = log.Throttle()
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))

    @classmethod
    def open(cls, path: str | None, listeners: Sequence[ListenAddress], *, external_url: str | None) -> Gate:
        """Load the web configuration file at a path; None is the default configuration. Raises ConfigError."""
        return cls(
            CurrentWebConfig(path), listening=[one.host for one in listeners if one.host], external_url=external_url
        )

    @property
    def is_encrypted(self) -> bool:
        """Whether connections are TLS."""
        return self._access.is_tls

    @property
    def config(self) -> WebConfig:
        """The web configuration in force."""
        return self._access.config

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context for a new connection, None for plain HTTP. Raises ConfigError if there is none now."""
        return self._access.context_for_new_connection() if self._access.is_tls else None

    async def learn_names(self) -> None:
        """Look up the names of this machine, which the header Host may have."""
        self._local_names |= await in_daemon_thread(local_names)

    async def admit(self, request: web.Request) -> None:
        """Return if a request is to be answered. Raises RefusedError."""
        try:
            await self._admit(request)
        except RefusedError as error:
            self._note(request, error)
            raise

    async def _admit(self, request: web.Request) -> None:
        config = self._access.refresh()
        client = client_address(request.remote or "", request.headers, config.trusted_proxies)
        request[_CLIENT] = client
        if self._access.problem is not None:
            raise RefusedError(500, "config", "the web configuration file is not valid; the log of portspec says why")
        self._take_place(config)
        identity = request[_IDENTITY] = await self._identify(request, config)
        wanted = permission_for(request.method, request.path)
        self._check_site(request, config, identity, wanted)
        if wanted not in permitted(config, identity, client):
            raise _refusal(config, identity, wanted)
        if wanted is Permission.ACT:
            who = {"user": identity.name} if identity else {}
            _log.info("request", method=request.method, path=request.path, client=client.address, **who)

    def _take_place(self, config: WebConfig) -> None:
        limit = config.rate_limit
        if limit is None:
            self._limit = None
            return
        if self._limit is None or self._limit[0] != limit:
            self._limit = limit, TokenBucket(limit)
        bucket = self._limit[1]
        if not bucket.allow():
            wait = {"Retry-After": str(math.ceil(bucket.retry_after()))}
            raise RefusedError(429, "rate_limit", "too many requests: the rate limit of this portspec is reached", wait)

    async def _identify(self, request: web.Request, config: WebConfig) -> Identity | None:
        certificate = _certificate(request)
        if config.tls and not is_allowed(config.tls, certificate):
            raise RefusedError(403, "forbidden", "the client certificate has none of the names in client_allowed_sans")
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic" and config.users:
            user, password = _credentials(value) or ("", "")
            try:
                is_right = await self._passwords.check(user, password, config.users)
            except BusyError as error:
                wait = {"Retry-After": str(math.ceil(error.retry_after))}
                raise RefusedError(503, "passwords", str(error), wait) from None
            if not is_right:
                raise _unauthorized(config, "the user or the password is wrong")
            return user_identity(config, user)
        if scheme.lower() == "bearer" and config.tokens:
            identity = token_identity(config, value.strip())
            if identity is None:
                raise _unauthorized(config, "the token is wrong")
            return identity
        return proxied_identity(config, request.remote or "", request.headers) or (
            certificate_identity(config, sans(certificate)) if certificate else None
        )

    def _check_site(
        self, request: web.Request, config: WebConfig, identity: Identity | None, wanted: Permission
    ) -> None:
        """Refuse what a page of another site makes a browser send. Raises RefusedError."""
        if wanted is not Permission.READ and self._is_of_another_site(request):
            raise RefusedError(403, "cross_site", "cross-site requests are not allowed")
        # A page whose name now leads here can neither know a password or token, nor have a certificate for its name.
        is_proven = identity is not None and identity.proof in (Proof.PASSWORD, Proof.TOKEN)
        if is_proven or _certificate(request) or not (wanted is Permission.ACT or may_be_of_browser(request.headers)):
            return
        if not host_is_ours(
            request.headers.get("Host"),
            listening=self._listening,
            external_url=self.external_url,
            allowed_hosts=config.allowed_hosts,
            local_names=self._local_names,
        ):
            raise RefusedError(
                421,
                "host",
                f'this portspec does not know itself by the name "{request.host[:253]}": start it with '
                "--web.external-url, or add the name to allowed_hosts in the file of --web.config.file",
            )

    def _is_of_another_site(self, request: web.Request) -> bool:
        """Return whether a page of another site sends this (Fetch Metadata; older browsers tell the origin)."""
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site != "none":  # no page can set it; browsers send it over TLS and to loopback
            return site != "same-origin"
        origin = request.headers.get("Origin")
        if origin is None:
            return False
        host = origin.partition("://")[2].lower()
        ours = {request.host.lower()}
        if self.external_url:
            ours.add(urlsplit(self.external_url).netloc.lower())
        return host not in ours

    def _note(self, request: web.Request, error: RefusedError) -> None:
        """Count a refusal, and log it unless there were many just now."""
        self.refused[error.reason] += 1
        if (unlogged := self._lines.take()) is None:
            return
        more = {"unlogged": unlogged} if unlogged else {}
        _log.warning(
            "request refused",
            reason=error.reason,
            client=client_of(request),
            method=request.method,
            path=request.path[:200],
            **more,
        )


def refusal_page(request: web.Request, error: RefusedError) -> web.Response:
    """Return the answer to a request that is refused."""
    if is_of_api(request.path):
        return problem(request, error.status, str(error), headers=error.headers, error=error.reason)
    return web.Response(status=error.status, text=f"{error}.\n", headers=error.headers)


def _refusal(config: WebConfig, identity: Identity | None, wanted: Permission) -> RefusedError:
    if config.has_users and (identity is None or identity.role is None):
        return _unauthorized(config, "this requires a user with a password, or a token")
    if identity is None and wanted is Permission.ACT:
        message = (
            "only programs of this machine may do this, over 127.0.0.1 or ::1 and by no proxy, since this portspec has "
            "no users: it takes them from the file of --web.config.file"
        )
    elif identity is None:
        message = f'this requires the permission "{wanted.value}", which nobody has here: see `anonymous` and users'
    else:
        message = f'"{identity.name}" has no permission "{wanted.value}": see `roles` in the file of --web.config.file'
    return RefusedError(403, "forbidden", message)


def _unauthorized(config: WebConfig, message: str) -> RefusedError:
    """Return a refusal with the ways to authenticate (RFC 9110, 11.6.1)."""
    ways = (['Basic realm="portspec", charset="UTF-8"'] if config.users else []) + (
        ['Bearer realm="portspec"'] if config.tokens else []
    )
    return RefusedError(401, "unauthorized", message, {"WWW-Authenticate": ", ".join(ways)} if ways else {})


def _credentials(text: str) -> tuple[str, str] | None:
    """Read the user and the password of the scheme Basic (RFC 7617, 2); None if it is neither."""
    try:
        user, colon, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    return (user, password) if colon else None


def _certificate(request: web.Request) -> dict[str, object] | None:
    """Return the verified certificate of a client, None without one."""
    transport = request.transport
    if transport is None:
        return None
    return transport.get_extra_info("peercert") or None
