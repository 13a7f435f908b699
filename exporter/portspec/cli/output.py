"""Where the results of commands go."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from portspec.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable


def write(text: str) -> None:
    """Write a result to standard output, now; OutputError when it cannot be written."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from None


def write_bytes(pieces: Iterable[bytes]) -> None:
    """Write a result to standard output piece by piece; OutputError when it cannot be written."""
    try:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(error) from None


def count(number: int, noun: str, plural: str = "") -> str:
    """Format a number of things: "1 host", "10,000 hosts"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
