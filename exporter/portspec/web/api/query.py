"""Reads the query of a request by the struct that declares its parameters."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, inspect

from portspec.web.globs import MAX_LENGTH
from portspec.web.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multidict import MultiMapping

Q = TypeVar("Q", bound=msgspec.Struct)

DEFAULT_PAGE_LENGTH: Final = 1000  # rows of a JSON document
MAX_PAGE_LENGTH: Final = 10_000  # and of a table, unless less is asked for
_NUMBER: Final = re.compile(r"[0-9]{1,19}")
_MOST: Final = 2**62
_TIME: Final = 'a time (expected Unix seconds, or "2027-03-31T18:00:00Z")'

Limit = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_PAGE_LENGTH,
        description=f"Most rows in the answer; without it {DEFAULT_PAGE_LENGTH:,} in JSON, {MAX_PAGE_LENGTH:,} in CSV.",
    ),
]
HostGlob = Annotated[
    str,
    Meta(
        max_length=MAX_LENGTH,
        description="Only hosts whose name this glob (`*`, `?`, `[…]`) matches; case does not count.",
    ),
]
Label = Annotated[
    str,
    Meta(
        max_length=200,
        pattern="^[^=]+=",
        description="Only hosts with this label.",
        examples=["team=web"],
        extra={"expected": "a name and a value (expected for example team=web)"},
    ),
]
Labels = Annotated[tuple[Label, ...], Meta(max_length=10, description="Only hosts that have all of these labels.")]
Cursor = Annotated[
    str,
    Meta(
        max_length=4096,  # the line of a request has at most 8 KiB
        pattern="^[A-Za-z0-9_-]+$",
        description="Where to go on: `next_cursor` of the answer before, with the same other parameters.",
        extra={"expected": "a cursor that portspec made"},
    ),
]


class Moment(float):
    """A time in a query, as Unix seconds: these, or RFC 3339; without an offset it is UTC."""

    __slots__ = ()

    @classmethod
    def read(cls, text: str) -> Moment:
        """Return the time that a text spells. Raises ValueError for any other text."""
        try:
            seconds = float(text)
        except ValueError:
            moment = datetime.fromisoformat(text.replace(" ", "+"))  # what a + in a URL has become
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if not math.isfinite(seconds):
            raise ValueError(text)
        return cls(seconds)


def read_query(kind: type[Q], query: MultiMapping[str], path: str) -> Q:
    """Return the parameters of a request to `path`. Raises ProblemError (400) for what `kind` does not allow."""
    fields = _fields(kind)
    values: dict[str, Any] = {}
    for name in query:
        if name not in fields:
            known = f"known: {', '.join(fields)}" if fields else "it has none"
            raise ProblemError(400, f'"{name}" is not a parameter of {path} ({known})')
        given = query.getall(name)
        shape = _plain(fields[name].type)
        if isinstance(shape, inspect.VarTupleType):
            if shape.max_length is not None and len(given) > shape.max_length:
                raise ProblemError(400, f"{name}: it is given {len(given)} times (expected at most {shape.max_length})")
            values[name] = tuple(_value(name, text, shape.item_type) for text in given)
        elif len(given) > 1:
            raise ProblemError(400, f"the parameter {name} is given more than once")
        else:
            values[name] = _value(name, given[0], fields[name].type)
    if missing := [name for name, one in fields.items() if one.required and not values.get(name)]:
        raise ProblemError(400, f"the parameter {missing[0]} is missing")
    return kind(**{fields[name].name: value for name, value in values.items()})


@lru_cache(maxsize=64)
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, inspect.Field]:
    found = inspect.type_info(kind)
    if not isinstance(found, inspect.StructType):
        raise TypeError(f"{kind} is no struct")
    return {one.encode_name: one for one in found.fields}


def _plain(shape: inspect.Type) -> inspect.Type:
    """Return a type without what is told of it, and without None: a parameter that is not given."""
    while True:
        if isinstance(shape, inspect.Metadata):
            shape = shape.type
        elif isinstance(shape, inspect.UnionType):
            shape = next(one for one in shape.types if not isinstance(one, inspect.NoneType))
        else:
            return shape


def _value(name: str, text: str, shape: inspect.Type) -> Any:
    """Return the value of a parameter. Raises ProblemError."""
    match _plain(shape):
        case inspect.IntType() as number:
            return _number(name, text, number)
        case inspect.EnumType(cls=cls):
            try:
                return cls(text)
            except ValueError:
                raise ProblemError(400, f'{name}: "{text}" is not known (known: {", ".join(cls)})') from None
        case inspect.CustomType(cls=cls) if issubclass(cls, Moment):
            try:
                return cls.read(text)
            except (ValueError, OverflowError):
                raise _invalid(name, text, _TIME) from None
        case inspect.StrType() as string:
            return _text(name, text, string, _expected(shape))
        case other:
            raise TypeError(f"{name}: a query has no values of the type {other}")


def _number(name: str, text: str, number: inspect.IntType) -> int:
    least, most = number.ge or 0, number.le if number.le is not None else _MOST
    if not (_NUMBER.fullmatch(text) and least <= int(text) <= most):
        raise _invalid(name, text, f"a whole number between {least} and {most}")
    return int(text)


def _text(name: str, text: str, string: inspect.StrType, expected: str) -> str:
    if string.min_length and not text:
        raise ProblemError(400, f"the parameter {name} is missing")
    if string.max_length is not None and len(text) > string.max_length:
        most = f"{string.max_length:,}"
        raise ProblemError(400, f"{name}: it has {len(text):,} characters (expected at most {most})")
    # "$" is the end alone, as in JSON schemas (ECMA-262), and not also the place before a line feed there
    if string.pattern is not None and not re.search(re.sub(r"\$$", r"\\Z", string.pattern), text):
        raise _invalid(name, text, expected or f"of the form {string.pattern}")
    return text


def _expected(shape: inspect.Type) -> str:
    """Return what a type says that it expects, "" if nothing."""
    while not isinstance(shape, inspect.Metadata):
        if not isinstance(shape, inspect.UnionType):
            return ""
        shape = next(one for one in shape.types if not isinstance(one, inspect.NoneType))
    return str((shape.extra or {}).get("expected", ""))


def _invalid(name: str, text: str, expected: str) -> ProblemError:
    return ProblemError(400, f'{name}: "{text}" is not {expected}')
