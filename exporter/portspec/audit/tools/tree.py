"""A JSON document that a tool printed, or a stranger wrote, read with care."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeVar

from portspec.audit.tools.draft import plain, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.audit.tools.draft import Draft

_T = TypeVar("_T")

MAX_DEPTH: Final = 100  # the tools' own documents have about 15 levels
_LONGEST_INTEGER: Final = 18  # digits; int() of very long ones is refused by Python and would be slow
# Possessive, and open at the end: linear on any input.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_STEPS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}
_CLOSERS: Final = {"[": "]", "{": "}"}
_SPACE = re.compile(r"[ \t\n\r]*+")
_LONGEST_PATH: Final = 100


class Node:
    """A value in the document. What is asked for and is of another type fails the draft, with its path.

    null is as if it was not there: the tools write it for an empty list (Go's nil slice).
    """

    __slots__ = ("_draft", "key", "parent", "value")

    def __init__(self, value: object, draft: Draft, parent: Node | None = None, key: str = "") -> None:
        self.value = value
        self._draft = draft
        self.parent = parent
        self.key = key

    def peek(self, key: str) -> object:
        """Give whatever is there, None if nothing is; it fails nothing."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def text(self, key: str, *, is_required: bool = False) -> str:
        """Give a text; "" if there is none. One that is required must not be empty."""
        text = self._get(key, str, "a text", is_required=is_required) or ""
        if is_required and not text and self.peek(key) == "":
            Node("", self._draft, self, key).fail("a text that is not empty")
        return text

    def texts(self, key: str) -> list[str]:
        """Give the texts of a list."""
        texts: list[str] = []
        for item in self._items(key, is_required=False):
            if isinstance(item.value, str):
                texts.append(item.value)
            else:
                item.fail("a text")
        return texts

    def count(self, key: str, *, is_required: bool = False) -> int | None:
        """Give a whole number; None if there is none."""
        return self._get(key, int, "a whole number", is_required=is_required)

    def flag(self, key: str) -> bool | None:
        """Give true or false; None if there is neither."""
        return self._get(key, bool, "true or false", is_required=False)

    def branch(self, key: str, *, is_required: bool = False) -> Node:
        """Give an object; an empty one if there is none."""
        return Node(self._get(key, dict, "an object", is_required=is_required) or {}, self._draft, self, key)

    def branches(self, key: str, *, is_required: bool = False) -> Iterator[Node]:
        """Give the objects of a list."""
        return _objects(self._items(key, is_required=is_required))

    def members(self) -> Iterator[tuple[str, Node]]:
        """Give the objects of this object, with their keys."""
        for key, value in self.value.items() if isinstance(self.value, dict) else ():
            member = Node(value, self._draft, self, key)
            if isinstance(value, dict):
                yield key, member
            else:
                member.fail("an object")

    def own_branches(self) -> Iterator[Node]:
        """Give the objects of the list that this is."""
        items = self.value if isinstance(self.value, list) else []
        return _objects(Node(item, self._draft, self, f"[{index}]") for index, item in enumerate(items))

    def fail(self, expected: str) -> None:
        """Fail the draft, since this value is not what was expected."""
        self._draft.fail(f"{self._path() or 'the JSON document'} is {_kind(self.value)}, expected {expected}")

    def _items(self, key: str, *, is_required: bool) -> Iterator[Node]:
        items = self._get(key, list, "a list", is_required=is_required) or []
        above = Node(items, self._draft, self, key)
        return (Node(item, self._draft, above, f"[{index}]") for index, item in enumerate(items))

    def _get(self, key: str, kind: type[_T], expected: str, *, is_required: bool) -> _T | None:
        value = self.peek(key)
        if value is None and not is_required:
            return None
        if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return value
        Node(value, self._draft, self, key).fail(expected)
        return None

    def _path(self) -> str:
        keys: list[str] = []
        node: Node | None = self
        while node is not None:
            keys.append(node.key)
            node = node.parent
        path = ".".join(plain(key) for key in reversed(keys) if key).replace(".[", "[")
        return path if len(path) <= _LONGEST_PATH else f"…{path[-_LONGEST_PATH:]}"


def read_tree(text: str, draft: Draft, start: int = 0) -> Node | None:
    """Read the one document that the text has from `start` on.

    A document that is broken or cut fails the draft; what could be read of it is given all the same: all that stands
    before the last bracket that was closed. None if there is nothing. Linear in the length of the text.
    """
    space = _SPACE.match(text, start)
    start = space.end() if space else start
    if start == len(text):
        draft.no_output("a JSON document")
        return None
    depth_ends = _too_deep(text, start)
    if depth_ends is None:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except _AmbiguousError as error:
            draft.fail(str(error))
            return None
        except json.JSONDecodeError as error:
            why = error.msg.lower().removesuffix(" at").removesuffix(" starting")
            draft.fail(f"the JSON document is broken or cut off in line {error.lineno}: {why}")
            return _salvage(text, start, error.pos, draft)
        if text[end:].strip():
            rest = len(text) - len(text[end:].lstrip())
            draft.fail(
                f"line {_line(text, rest)} is {quote(_line_at(text, rest))}, expected the end of the JSON document"
            )
        return Node(value, draft)
    draft.fail(f"the JSON document is nested more than {MAX_DEPTH} levels deep in line {_line(text, depth_ends)}")
    return _salvage(text, start, depth_ends, draft)


def _salvage(text: str, start: int, end: int, draft: Draft) -> Node | None:
    """Read what stands before the last closed bracket, as if all that are open there were closed as well."""
    stack: list[str] = []
    cut, missing = start, ""
    for token in _TOKEN.finditer(text, start, end):
        bracket = token[0]
        if bracket in _CLOSERS:
            stack.append(_CLOSERS[bracket])
        elif bracket in "]}":
            if not stack:
                break
            stack.pop()
            cut, missing = token.end(), "".join(reversed(stack))
    try:
        return Node(_DECODER.decode(text[start:cut] + missing), draft)
    except (json.JSONDecodeError, _AmbiguousError):
        return None


def _too_deep(text: str, start: int) -> int | None:
    """Give where the nesting is too deep; None if it is nowhere.

    json's C scanner recurses, and how deep a thread's stack goes depends on the C library and on Python's version.
    """
    if text.count("[", start) + text.count("{", start) <= MAX_DEPTH:
        return None
    # Without escapes, every other piece between quotes is outside of strings: thrice as fast as the tokens below.
    structure = "".join(text[start:].replace("\\\\", "").replace('\\"', "").split('"')[::2])
    if max(accumulate(map(_STEPS.__getitem__, _BRACKET.findall(structure))), default=0) <= MAX_DEPTH:
        return None
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += _STEPS.get(token[0], 0)
        if depth > MAX_DEPTH:
            return token.start()
    return None


def _objects(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        if isinstance(node.value, dict):
            yield node
        else:
            node.fail("an object")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


def _kind(value: object) -> str:
    if value is None:
        return "not there"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {quote(value)}"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "a list" if isinstance(value, list) else "an object"


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _line_at(text: str, position: int) -> str:
    return text[position : position + 200].partition("\n")[0]


class _AmbiguousError(ValueError):
    """An object has a key twice, and each reader would take another one: no tool writes such a thing."""


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise _AmbiguousError(f"an object of the JSON document has the key {quote(twice)} more than once")
    return found


_DECODER: Final = json.JSONDecoder(parse_int=_integer, object_pairs_hook=_unambiguous)
