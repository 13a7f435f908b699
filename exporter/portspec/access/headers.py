"""The blocks http_server_config.headers and rate_limit of the web config file."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from portspec.access.model import RateLimit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.access.block import Block

MAX_BURST: Final = 1_000_000_000
# The headers that may be set, and their values where these are fixed (exporter-toolkit, web/handler.go).
HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
# A duration as Go's time.ParseDuration reads it.
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def headers(block: Block) -> Mapping[str, str]:
    """Return the headers to add to each response; one with a blank value is not set."""
    found: dict[str, str] = {}
    for name in block.keys:
        if name not in HEADERS:
            block.problem(name, f"cannot be configured (known: {', '.join(HEADERS)})")
            continue
        value = block.text(name) or ""
        allowed = HEADERS[name]
        if allowed and value not in allowed:
            block.problem(name, f"expected {' or '.join(allowed)}")
        elif not value.isascii() or not value.isprintable():
            block.problem(name, "expected printable ASCII on one line")
        elif value:
            found[name] = value
    return MappingProxyType(found)


def rate_limit(block: Block) -> RateLimit | None:
    """Return the limit; None if there is none, or its interval is 0."""
    interval = _interval(block)
    burst = block.raw("burst") or 0
    if isinstance(burst, bool) or not isinstance(burst, int) or not 0 <= burst <= MAX_BURST:
        block.problem("burst", f"expected a whole number between 1 and {MAX_BURST:,}")
        return None
    if not interval:
        return None
    if not burst:
        block.problem("burst" if "burst" in block else None, "requires a burst of at least 1; 0 refuses every request")
        return None
    return RateLimit(interval, burst)


def _interval(block: Block) -> float:
    value = block.raw("interval")
    if value in (None, 0, "0"):
        return 0.0
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(value))
    hint = " with a unit (exporter-toolkit reads a plain number as nanoseconds)" if isinstance(value, int) else ""
    block.problem("interval", f'expected a duration{hint}, such as "1s" or "100ms", or 0 for no limit')
    return 0.0
