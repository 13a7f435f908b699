"""Header fields with which a client says what it prefers (RFC 9110, 12.4.2 and 12.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def weighted(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Split a header into what it names and the parameters of each, all in lower case."""
    for item in header.lower().split(","):
        word, *parameters = item.split(";")
        pairs = (parameter.partition("=") for parameter in parameters)
        yield word.strip(), {name.strip(): value.strip(' \t"') for name, _, value in pairs}


def weight_of(parameters: dict[str, str]) -> float:
    """Return the weight q, 0 to 1; what is no number is 1, as if it were not there."""
    try:
        weight = float(parameters.get("q", "1"))
    except ValueError:
        return 1.0
    return weight if 0 <= weight <= 1 else 1.0


def media_weight(header: str, media: str) -> float:
    """Return the weight of a media type in a header Accept: that of the most specific range; 1 without a header."""
    if not header.strip():
        return 1.0
    weights = {found: weight_of(parameters) for found, parameters in weighted(header)}
    ranges = (media, f"{media.partition('/')[0]}/*", "*/*")
    return next((weights[found] for found in ranges if found in weights), 0.0)
