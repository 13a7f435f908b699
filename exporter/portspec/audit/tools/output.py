"""The text that the agent sends: the lines of a tool's output, and the lines that the agent adds to it.

A line that the agent adds begins with AGENT_PREFIX. There are three kinds:

* An end marker ("# portspec: debsecan ended with 0") is the last line of the output of tools that print nothing, or
  nothing that shows the end, when all is well. It proves that all commands exited with 0. Without it the output may be
  truncated, or that of a failure.
* The command line of a second command ("# portspec: pkg_info"), whose output follows. It shows what the first command
  looked at.
* A list header ("# portspec: list of updateinfo list cves") before each output, where the agent runs the tool several
  times with other arguments.
"""

from __future__ import annotations

import re
from io import StringIO
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from portspec.audit.tools.result import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portspec.audit.tools.result import ResultBuilder

AGENT_PREFIX: Final = "# portspec: "  # these lines are written by portspec/agent.py
LIST_HEADER: Final = f"{AGENT_PREFIX}list of "  # followed by the arguments of the tool

_LIST_HEADER_LINE = re.compile(rf"^{LIST_HEADER}([^\r\n]{{0,500}})\r?\n?", re.MULTILINE)


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    r"""Yield each line that is not blank, without trailing space, with its number from 1.

    Only \n, \r\n and \r (progress bars) end a line, none of the other line separators of Unicode.
    """
    for number, line in enumerate(StringIO(text, newline=None), 1):
        if stripped := line.rstrip():
            yield number, stripped


def ends_with_newline(text: str) -> bool:
    """Return whether the last line is complete, so that it cannot have been cut in the middle."""
    return text.endswith(("\n", "\r"))


def end_marker_of(program: str) -> str:
    """Return the end marker of a program."""
    return f"{AGENT_PREFIX}{program} ended with 0"


def split_end_marker(output: str, marker: str) -> tuple[str, bool]:
    """Return an output without its end marker, and whether it has one."""
    text = output.rstrip()
    start = len(text) - len(marker)
    has_end_marker = text.endswith(marker) and (start == 0 or text[start - 1] in "\r\n")
    return (text[:start], True) if has_end_marker else (output, False)


def read_marked_output(result: ResultBuilder, marker: str, expected: str, read: Callable[[str], None]) -> None:
    """Call `read` with the output before its end marker; fail if the output is empty or has no end marker.

    For tools that always exit with 0. `expected` names what the tool prints, for the reason of an empty output.
    """
    if not result.run.output.strip():
        result.no_output(f"{expected}, and the last line {quote(marker)}")
        return
    body, has_end_marker = split_end_marker(result.run.output, marker)
    read(body)
    if not has_end_marker:
        result.fail(f"the last line is not {quote(marker)}: the output is truncated, or the tool failed")
    result.complete(clean=(0,), vulnerable=(0,))


def split_lists(output: str, arguments: str) -> Iterator[tuple[str, int, int]]:
    """Yield the arguments of each list, with the offsets of its begin and its end in the output.

    Text before the first list header is a list with the given `arguments`.
    """
    headers = list(_LIST_HEADER_LINE.finditer(output))
    first = headers[0].start() if headers else len(output)
    if output[:first].strip():
        yield arguments, 0, first
    for header, following in zip_longest(headers, headers[1:]):
        yield header[1], header.end(), following.start() if following else len(output)
