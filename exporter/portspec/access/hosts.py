"""Whether the Host header names this exporter, against DNS rebinding. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def host_is_ours(
    host_header: str | None,
    *,
    listening: Iterable[str],
    external_url: str | None,
    allowed_hosts: Collection[str],
    local_names: Iterable[str],
) -> bool:
    """Return whether a Host header names this exporter."""
    raise NotImplementedError


def local_names() -> frozenset[str]:
    """Return the names of this machine: its host name, and its fully qualified name. May wait for a name server."""
    raise NotImplementedError
