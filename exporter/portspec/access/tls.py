"""The block tls_server_config → ssl.SSLContext."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from portspec.access.model import TlsConfig


def server_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return the context for connections of clients. Raises ConfigError, with file and reason."""
    raise NotImplementedError


def sans(peercert: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the names in a verified certificate, as ssl's getpeercert() gives it: DNS, e-mail, IP address and URI."""
    raise NotImplementedError


def is_allowed(tls: TlsConfig, peercert: Mapping[str, Any] | None) -> bool:
    """Return whether client_allowed_sans admits a client; if not, close the connection, as the toolkit does."""
    raise NotImplementedError
