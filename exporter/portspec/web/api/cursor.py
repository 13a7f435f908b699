"""Cursors: a position in a list, by the names of what stands there. Pure.

Hosts come and go while a client reads a list in parts. A number of rows to skip would then skip others.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from portspec.web.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from portspec.web.overview import Row

    #: What an item is known by in its host, and a position: the host and the item after which a part begins.
    Name = tuple[str | int, ...]
    Position = tuple[str, Name]

P = TypeVar("P")
D = TypeVar("D")


def spell_cursor(position: Any) -> str:
    """Return a position (JSON values) as the text of a parameter."""
    # UTF-8, which is shorter than what JSON can escape, also with half a surrogate pair, which a host may send
    plain = json.dumps(position, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")
    return base64.urlsafe_b64encode(plain).decode().rstrip("=")


def read_cursor(text: str, kind: type[P]) -> P:
    """Return the position of a type. Raises ProblemError (400) if portspec cannot have written it."""
    try:
        plain = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        position: P = msgspec.convert(plain, kind)
    except (binascii.Error, ValueError, RecursionError):
        raise ProblemError(400, f'cursor: "{text}" is not a cursor that portspec made for this list') from None
    return position


def part_of(
    rows: Iterable[Row],
    items: Callable[[Row], Iterable[tuple[Name, D]]],
    after: Position | None,
    limit: int,
    *,
    key: Callable[[str], Any],
) -> tuple[list[D], Position | None]:
    """Return the first items of hosts after a position, and the position of the last if there are more.

    `rows` are in the order of `key` of their names. `items` gives those of a host in order, each with what it is known
    by in its host.
    """
    found: list[D] = []
    last: Position | None = None
    for position, item in _after(rows, items, after, key):
        if len(found) == limit:
            return found, last
        found.append(item)
        last = position
    return found, None


def _after(
    rows: Iterable[Row],
    items: Callable[[Row], Iterable[tuple[Name, D]]],
    after: Position | None,
    key: Callable[[str], Any],
) -> Iterator[tuple[Position, D]]:
    for row in rows:
        if after is not None and key(row.host) < key(after[0]):
            continue
        for name, item in items(row):
            if after is None or row.host != after[0] or name > after[1]:
                yield (row.host, name), item
