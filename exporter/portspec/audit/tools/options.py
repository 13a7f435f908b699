"""The options that a tool ran with, as far as they say that it was to look at less than the whole host."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_END = re.compile(r"[0-9]?[|;&<>]")  # where a shell's command ends
_OFF: Final = {"false", "0", "f"}  # Go's and Python's words for an option that is not set after all


def words_of(command: Sequence[str], program: str) -> tuple[str, ...]:
    """Give what follows the program in a command; () without it.

    In front of it may stand others, such as sudo, and all may be one word for a shell ("sh -c").
    """
    words = " ".join(command).split()
    for start, word in enumerate(words):
        if PurePosixPath(word).name == program:
            rest = words[start + 1 :]
            return tuple(rest[: next((at for at, each in enumerate(rest) if _END.match(each)), len(rest))])
    return ()


def values_of(words: Sequence[str], *options: str) -> list[str]:
    """Give what some options are set to, as "--option value" or "--option=value", at each place that they stand in."""
    values = []
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in options:
            values.append(value if equals else words[at + 1] if at + 1 < len(words) else "")
    return values


def first_set(words: Iterable[str], *options: str) -> str:
    """Give the first of some options without a value that is set; "" if none is."""
    for word in words:
        option, _, value = word.partition("=")
        if option in options and value.lower() not in _OFF:
            return option
    return ""
