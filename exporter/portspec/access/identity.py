"""Where a request comes from, who sent it, and what it may do. Pure.

Headers are those that clients and proxies send. None of them counts unless the connection is from a trusted proxy.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from portspec.access.model import ClientAddress, Identity, Permission, Proof, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from portspec.access.model import Network, WebConfig

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORWARDED: Final = "forwarded"
_FORWARDED_FOR: Final = "x-forwarded-for"
_TRACES: Final = {_FORWARDED, "via", "x-real-ip"}  # and all that begin with x-forwarded-: a proxy was here
_MAX_USER: Final = 256  # characters
_REMEMBERED: Final = 1024  # addresses that were parsed: a client sends many requests
_MAX_HOPS: Final = 32  # proxies one behind the other
_MAX_PAIRS: Final = 16  # in an element; RFC 7239 knows four
# forwarded-pair (RFC 7239, 4), which may be missing: a token, "=", and a token or a quoted string.
_PAIR: Final = re.compile(
    r"""[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([!#$%&'*+.^_`|~0-9A-Za-z-]+))[ \t]*)?"""
)
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
# node (RFC 7239, 6) that is an address: IPv4, or IPv6 in brackets; and perhaps a port, which may be obfuscated.
_NODE: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")


def client_address(peer: str, headers: Mapping[str, str], trusted_proxies: Sequence[Network]) -> ClientAddress:
    """Return where a request comes from; `peer` is the address of the connection, "" for a Unix socket.

    `headers` may have a name several times, as the multidict of aiohttp has it: `items()` is read.

    From a trusted proxy, the addresses in X-Forwarded-For or Forwarded (RFC 7239) are read from the last one, which
    that proxy wrote, to the first. The result is the first one that is not a trusted proxy itself. An entry that is no
    address (malformed, "unknown", obfuscated) ends the search: the result is then the last trusted proxy. If both
    headers are there and do not lead to the same address, one is not from the proxy, and the result is the peer.
    """
    found = [(name.lower(), value) for name, value in headers.items()]
    is_proxied = any(name in _TRACES or name.startswith("x-forwarded-") for name, _ in found)
    if not _is_trusted(peer, trusted_proxies):
        return ClientAddress(_spelled(peer), is_proxied)
    walks = {
        _walk(peer, entries, read, trusted_proxies)
        for entries, read in (
            ([entry for name, value in found if name == _FORWARDED for entry in _forwarded(value)], _node),
            ([entry for name, value in found if name == _FORWARDED_FOR for entry in value.split(",")], _entry),
        )
        if entries
    }
    return ClientAddress(walks.pop() if len(walks) == 1 else _spelled(peer), is_proxied)


def _walk(
    peer: str, entries: Sequence[str], read: Callable[[str], Address | None], trusted_proxies: Sequence[Network]
) -> str:
    address = _spelled(peer)
    for entry in reversed(entries[-_MAX_HOPS:]):
        if not _is_trusted(address, trusted_proxies) or (found := read(entry)) is None:
            break
        address = str(found)
    return address


def _is_trusted(address: str, trusted_proxies: Sequence[Network]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(
        parsed in network for network in trusted_proxies if network.version == parsed.version
    )


@lru_cache(maxsize=_REMEMBERED)
def _parsed(text: str) -> Address | None:
    """Return the address of a connection or of a header: without zone, and IPv4 if it is IPv4-mapped."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _spelled(peer: str) -> str:
    """Return the one spelling of a peer's address."""
    address = _parsed(peer)
    return peer if address is None else str(address)


def _entry(text: str) -> Address | None:
    """Return the address of an entry of X-Forwarded-For, some of which have a port or brackets."""
    text = text.strip(" \t")
    return _node(text) or (None if "%" in text else _parsed(text))


def _node(text: str) -> Address | None:
    """Return the address of a node of Forwarded; None if it is unknown, obfuscated or malformed."""
    found = _NODE.fullmatch(text)
    return _parsed(found[1] or found[2]) if found else None


def _forwarded(value: str) -> list[str]:
    """Return the node of each element of one Forwarded header; "" for an element that does not have one.

    A header that is malformed anywhere has one element without a node: an open quote may hide the elements behind it.
    """
    nodes: list[str] = []
    at = 0
    while at <= len(value):
        pairs: list[tuple[str, str]] = []
        while found := _PAIR.match(value, at):
            at = found.end()
            if found[1]:
                text = found[3] if found[2] is None else _QUOTED_PAIR.sub(r"\1", found[2])
                pairs.append((found[1].lower(), text))
            if value[at : at + 1] != ";" or len(pairs) > _MAX_PAIRS:
                break
            at += 1
        if value[at : at + 1] not in ("", ","):
            return [""]
        at += 1
        ours = [text for name, text in pairs if name == "for"]
        if pairs:  # an empty element adds nothing (RFC 9110, 5.6.1)
            nodes.append(ours[0] if len(ours) == 1 else "")
    return nodes or [""]


def user_identity(config: WebConfig, user: str) -> Identity:
    """Return the identity of a user whose password is right."""
    return Identity(user, Proof.PASSWORD, config.roles.get(user, Role.ACT))


def token_identity(config: WebConfig, token: str) -> Identity | None:
    """Return the identity of a bearer token; None if it is not one of the configured ones.

    The time that it takes depends on the length of the token and the number of the configured ones alone.
    """
    digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
    found = None
    for known in config.tokens:
        if hmac.compare_digest(digest, known.digest):
            found = Identity(known.name, Proof.TOKEN, known.role)
    return found


def certificate_identity(config: WebConfig, sans: Iterable[str]) -> Identity | None:
    """Return the identity of a verified client certificate with these names; None if it has none.

    Of several names that `roles` lists, the one whose role permits most. A certificate that `roles` does not list may
    probe; if somebody can also authenticate by a password, a token or a proxy, it adds nothing: exporter-toolkit asks
    for certificate and password then.
    """
    names = sorted(sans)
    listed = [(len(config.roles[name].permissions), name) for name in names if name in config.roles]
    if listed:
        _, name = max(listed)
        return Identity(name, Proof.CERTIFICATE, config.roles[name])
    if not names:
        return None
    return Identity(names[0], Proof.CERTIFICATE, None if config.has_users else Role.PROBE)


def proxied_identity(config: WebConfig, peer: str, headers: Mapping[str, str]) -> Identity | None:
    """Return the user whom a trusted proxy names in `user_header`; None if there is none, or the peer is no such.

    A header that is there twice names nobody: one of them may be the client's.
    """
    if config.user_header is None or not _is_trusted(peer, config.trusted_proxies):
        return None
    wanted = config.user_header.lower()
    names = [value.strip() for name, value in headers.items() if name.lower() == wanted]
    if len(names) != 1 or not 0 < len(names[0]) <= _MAX_USER or not names[0].isprintable():
        return None
    return Identity(names[0], Proof.PROXY, config.roles.get(names[0], Role.PROBE))


def permitted(config: WebConfig, identity: Identity | None, client: ClientAddress) -> frozenset[Permission]:
    """Return what a request may do: what everybody may, and what the identity adds.

    While nobody can authenticate, programs of this machine may act, too.
    """
    role = identity.role if identity else None
    found = config.anonymous | (role.permissions if role else frozenset())
    if not config.has_users and client.is_loopback:
        found |= {Permission.ACT}
    return found
