"""Reads untrusted JSON that a tool printed: values of an unexpected type fail the result instead of raising."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, TypeVar

from portspec.audit.tools.result import plain, quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from portspec.audit.tools.result import ResultBuilder

_T = TypeVar("_T")
_Json = object  # any value; within JsonReader the name `object` is a method

MAX_DEPTH: Final = 100  # the documents of the tools have about 15 levels
_MAX_INTEGER_DIGITS: Final = 18  # int() is slow for very long ones, and Python rejects them
# Possessive quantifiers and an optional closing quote: linear time for any input.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_STEPS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}
_CLOSING: Final = {"[": "]", "{": "}"}
_WHITESPACE = re.compile(r"[ \t\n\r]*+")
_MAX_PATH_LENGTH: Final = 100


class JsonReader:
    """Reads one value of a JSON document.

    Its methods return the value of a key if it has the type that the method is named after. A value of another type
    fails the result with a reason that names its path ("matches[1].vulnerability is a list, expected an object"), and
    the method returns the same as for a missing key. A missing key only fails the result if it is required.

    null counts as missing, because tools that are written in Go print it for an empty list.
    """

    __slots__ = ("_result", "key", "parent", "value")

    def __init__(self, value: _Json, result: ResultBuilder, parent: JsonReader | None = None, key: str = "") -> None:
        self.value = value
        self._result = result
        self.parent = parent
        self.key = key

    def raw(self, key: str) -> _Json:
        """Return the value of a key whatever its type; None if it is missing. Never fails the result."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def text(self, key: str, *, is_required: bool = False) -> str:
        """Return a string; "" if it is missing. A required one must not be empty."""
        text = self._get(key, str, "a string", is_required=is_required) or ""
        if is_required and not text and self.raw(key) == "":
            JsonReader("", self._result, self, key).fail("a string that is not empty")
        return text

    def texts(self, key: str) -> list[str]:
        """Return the strings of a list; [] if it is missing."""
        texts: list[str] = []
        for item in self._list(key, is_required=False):
            if isinstance(item.value, str):
                texts.append(item.value)
            else:
                item.fail("a string")
        return texts

    def integer(self, key: str, *, is_required: bool = False) -> int | None:
        """Return an integer; None if it is missing."""
        return self._get(key, int, "an integer", is_required=is_required)

    def boolean(self, key: str) -> bool | None:
        """Return a boolean; None if it is missing."""
        return self._get(key, bool, "true or false", is_required=False)

    def object(self, key: str, *, is_required: bool = False) -> JsonReader:
        """Return a reader of an object; of an empty one if it is missing."""
        return JsonReader(self._get(key, dict, "an object", is_required=is_required) or {}, self._result, self, key)

    def objects(self, key: str, *, is_required: bool = False) -> Iterator[JsonReader]:
        """Yield a reader of each object of a list."""
        return _objects(self._list(key, is_required=is_required))

    def members(self) -> Iterator[tuple[str, JsonReader]]:
        """Yield each key of this object with a reader of its value, which must be an object."""
        for key, value in self.value.items() if isinstance(self.value, dict) else ():
            member = JsonReader(value, self._result, self, key)
            if isinstance(value, dict):
                yield key, member
            else:
                member.fail("an object")

    def elements(self) -> Iterator[JsonReader]:
        """Yield a reader of each object of this list."""
        items = self.value if isinstance(self.value, list) else []
        return _objects(JsonReader(item, self._result, self, f"[{index}]") for index, item in enumerate(items))

    def fail(self, expected: str) -> None:
        """Fail the result because this value is not what was expected."""
        self._result.fail(f"{self._path() or 'the JSON document'} is {_kind(self.value)}, expected {expected}")

    def _list(self, key: str, *, is_required: bool) -> Iterator[JsonReader]:
        items = self._get(key, list, "a list", is_required=is_required) or []
        parent = JsonReader(items, self._result, self, key)
        return (JsonReader(item, self._result, parent, f"[{index}]") for index, item in enumerate(items))

    def _get(self, key: str, kind: type[_T], expected: str, *, is_required: bool) -> _T | None:
        value = self.raw(key)
        if value is None and not is_required:
            return None
        if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return value
        JsonReader(value, self._result, self, key).fail(expected)
        return None

    def _path(self) -> str:
        keys: list[str] = []
        reader: JsonReader | None = self
        while reader is not None:
            keys.append(reader.key)
            reader = reader.parent
        path = ".".join(plain(key) for key in reversed(keys) if key).replace(".[", "[")
        return path if len(path) <= _MAX_PATH_LENGTH else f"…{path[-_MAX_PATH_LENGTH:]}"


def read_json(text: str, result: ResultBuilder, start: int = 0) -> JsonReader | None:
    """Return a reader of the JSON document that begins at `start` and extends to the end of the text.

    A broken or truncated document fails the result. The part before the last closing bracket is read nevertheless, so
    that the vulnerabilities in it are kept. Takes time linear in the length of the text.

    Returns:
        The reader of the document; None if nothing can be read.
    """
    space = _WHITESPACE.match(text, start)
    start = space.end() if space else start
    if start == len(text):
        result.no_output("a JSON document")
        return None
    too_deep_at = _find_excess_depth(text, start)
    if too_deep_at is None:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except _DuplicateKeyError as error:
            result.fail(str(error))
            return None
        except json.JSONDecodeError as error:
            why = error.msg.lower().removesuffix(" at").removesuffix(" starting")
            result.fail(f"the JSON document is broken or truncated in line {error.lineno}: {why}")
            return _salvage(text, start, error.pos, result)
        if text[end:].strip():
            rest = len(text) - len(text[end:].lstrip())
            line = quote(_line_text(text, rest))
            result.fail(f"line {_line_number(text, rest)} is {line}, expected the end of the JSON document")
        return JsonReader(value, result)
    result.fail(
        f"the JSON document is nested more than {MAX_DEPTH} levels deep in line {_line_number(text, too_deep_at)}"
    )
    return _salvage(text, start, too_deep_at, result)


def _salvage(text: str, start: int, end: int, result: ResultBuilder) -> JsonReader | None:
    """Read the text up to its last closing bracket, with the brackets that are still open there closed."""
    stack: list[str] = []
    cut, missing = start, ""
    for token in _TOKEN.finditer(text, start, end):
        bracket = token[0]
        if bracket in _CLOSING:
            stack.append(_CLOSING[bracket])
        elif bracket in "]}":
            if not stack:
                break
            stack.pop()
            cut, missing = token.end(), "".join(reversed(stack))
    try:
        return JsonReader(_DECODER.decode(text[start:cut] + missing), result)
    except (json.JSONDecodeError, _DuplicateKeyError):
        return None


def _find_excess_depth(text: str, start: int) -> int | None:
    """Return the offset where the nesting exceeds MAX_DEPTH; None if it does not.

    json's C scanner recurses, and the stack size of a thread depends on the C library and the version of Python.
    """
    if text.count("[", start) + text.count("{", start) <= MAX_DEPTH:
        return None
    # Without escapes, every other piece between quotes is outside of strings. Three times as fast as the tokens below.
    structure = "".join(text[start:].replace("\\\\", "").replace('\\"', "").split('"')[::2])
    if max(accumulate(map(_STEPS.__getitem__, _BRACKET.findall(structure))), default=0) <= MAX_DEPTH:
        return None
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += _STEPS.get(token[0], 0)
        if depth > MAX_DEPTH:
            return token.start()
    return None


def _objects(readers: Iterable[JsonReader]) -> Iterator[JsonReader]:
    for reader in readers:
        if isinstance(reader.value, dict):
            yield reader
        else:
            reader.fail("an object")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else float(digits)


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the string {quote(value)}"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "a list" if isinstance(value, list) else "an object"


def _line_number(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _line_text(text: str, position: int) -> str:
    return text[position : position + 200].partition("\n")[0]


class _DuplicateKeyError(ValueError):
    """An object has a duplicate key. JSON parsers disagree on which value counts, and no tool prints such an object."""


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((duplicate, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise _DuplicateKeyError(f"an object in the JSON document has the duplicate key {quote(duplicate)}")
    return found


_DECODER: Final = json.JSONDecoder(parse_int=_integer, object_pairs_hook=_reject_duplicate_keys)
