"""Where the results of commands go."""

from __future__ import annotations

import sys

from portspec.errors import OutputError


def write(text: str) -> None:
    """Write a result to standard output, now; OutputError when it cannot be written."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise OutputError(error) from None


def count(number: int, noun: str, plural: str = "") -> str:
    """Spell a number of things: "1 host", "10,000 hosts"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
