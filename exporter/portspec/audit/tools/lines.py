"""The lines of a tool's output."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    r"""Give each line that is not blank, without trailing space, with its number from 1.

    Lines end with \n, \r\n or \r, as progress bars have it, and with nothing else that Unicode calls a line end.
    """
    for number, line in enumerate(StringIO(text, newline=None), 1):
        if stripped := line.rstrip():
            yield number, stripped


def ends_whole(text: str) -> bool:
    """Tell whether the last line is ended, so that it cannot have been cut in the middle."""
    return text.endswith(("\n", "\r"))
