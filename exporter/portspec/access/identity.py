"""Where a request comes from, who sent it, and what it may do. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from portspec.access.model import ClientAddress, Identity, Network, Permission, WebConfig


def client_address(peer: str, headers: Mapping[str, str], trusted_proxies: Sequence[Network]) -> ClientAddress:
    """Return where a request really comes from; `peer` is the address of the connection, "" for a Unix socket.

    `headers` may have a name several times, as the multidict of aiohttp has it: `items()` is read.
    """
    raise NotImplementedError


def user_identity(config: WebConfig, user: str) -> Identity:
    """Return the identity of a user whose password is right."""
    raise NotImplementedError


def token_identity(config: WebConfig, token: str) -> Identity | None:
    """Return the identity of a bearer token; None if it is not one of the configured ones. In constant time."""
    raise NotImplementedError


def certificate_identity(config: WebConfig, sans: Iterable[str]) -> Identity | None:
    """Return the identity of a verified client certificate with these names; None if it has no name."""
    raise NotImplementedError


def proxied_identity(config: WebConfig, peer: str, headers: Mapping[str, str]) -> Identity | None:
    """Return the user whom a trusted proxy names in `user_header`; None if there is none, or the peer is no such."""
    raise NotImplementedError


def permitted(config: WebConfig, identity: Identity | None, client: ClientAddress) -> frozenset[Permission]:
    """Return what a request may do: what everybody may, and what the identity adds."""
    raise NotImplementedError
