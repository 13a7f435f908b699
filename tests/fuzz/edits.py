"""Changes of texts and bytes, drawn by hypothesis: what is there is moved, doubled and cut, and tokens are put in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, AnyStr, Final, TypeVar

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

Edit = tuple[str, int, int, AnyStr]
BY_PLACE: Final = ("insert", "replace", "delete", "double", "swap", "cut", "drop")
BY_LINE: Final = ("line", "delete line", "double line", "swap lines")
places: Final = st.integers(0, 2**16)
lengths: Final = st.one_of(st.integers(0, 40), places)


def edits(tokens: st.SearchStrategy[AnyStr], kinds: tuple[str, ...] = BY_PLACE + BY_LINE) -> Any:
    """Return some changes, which put in tokens, take out and move what is there."""
    return st.lists(st.tuples(st.sampled_from(kinds), places, lengths, tokens), min_size=1, max_size=4)


def edited(data: AnyStr, changes: list[Edit[AnyStr]], end: AnyStr) -> AnyStr:
    """Return a text or bytes with the changes made, one after the other; `end` is how a line that is put in ends."""
    for kind, place, length, token in changes:
        if kind in BY_LINE:
            data = data[:0].join(_by_line(data.splitlines(keepends=True), kind, place, length, token + end))
        else:
            data = _by_place(data, kind, place, length, token)
    return data


def _by_place(data: AnyStr, kind: str, place: int, length: int, token: AnyStr) -> AnyStr:
    begin = place % (len(data) + 1)
    end = min(begin + length, len(data))
    before, span, after = data[:begin], data[begin:end], data[end:]
    middle = len(after) // 2
    return {
        "insert": before + token + span + after,
        "replace": before + token + data[begin + len(token) :],
        "delete": before + after,
        "double": before + span + span + after,
        "swap": before + after[:middle] + span + after[middle:],
        "cut": before,
        "drop": after,
    }[kind]


def _by_line(lines: Sequence[T], kind: str, place: int, length: int, token: T) -> Sequence[T]:
    begin, other = sorted((place % (len(lines) + 1), length % (len(lines) + 1)))
    before, line, after = lines[:begin], lines[begin : begin + 1], lines[begin + 1 :]
    return {
        "line": [*before, token, *line, *after],
        "delete line": [*before, *after],
        "double line": [*before, *line, *line, *after],
        "swap lines": [*before, *lines[other : other + 1], *lines[begin + 1 : other], *line, *lines[other + 1 :]],
    }[kind]
