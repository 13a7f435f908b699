"""Header fields that every answer has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiohttp import web

# What a browser may do with an answer: show it with its own styles, and nothing else (CSP 3, Fetch, RFC 9110).
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # without a referrer, Origin is "null" also in our own forms
    "Cross-Origin-Resource-Policy": "same-origin",
}
SERVER: Final = {"Server": "portspec"}  # aiohttp would name its version and Python's
ERROR_HEADERS: Final = {**SECURITY_HEADERS, **SERVER}


async def protect(_: web.BaseRequest, answer: web.StreamResponse) -> None:
    """Add them to an answer; what a handler has set stays."""
    for name, value in SECURITY_HEADERS.items():
        answer.headers.setdefault(name, value)
    answer.headers.update(SERVER)
