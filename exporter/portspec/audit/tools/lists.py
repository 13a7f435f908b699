"""The outputs of several command lines of one tool, which the agent puts one behind the other."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from portspec.audit.tools.proof import MARK

if TYPE_CHECKING:
    from collections.abc import Iterator

LIST: Final = f"{MARK}list of "  # a line before each, with the arguments of the tool

_LIST = re.compile(rf"^{LIST}([^\r\n]{{0,500}})\r?\n?", re.MULTILINE)


def split_lists(output: str, arguments: str) -> Iterator[tuple[str, int, int]]:
    """Give the arguments of each output, where it begins and where it ends.

    What stands before the first line of the agent, if anything does, is that of `arguments`.
    """
    heads = list(_LIST.finditer(output))
    first = heads[0].start() if heads else len(output)
    if output[:first].strip():
        yield arguments, 0, first
    for head, following in zip_longest(heads, heads[1:]):
        yield head[1], head.end(), following.start() if following else len(output)
