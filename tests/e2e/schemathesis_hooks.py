"""What schemathesis has to know to test the API: how cursors and bodies are made that no schema can describe."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlencode

import schemathesis

from portspec.agent import CONTENT_TYPE
from portspec.web.api.cursor import spell_cursor

_CURSOR: Final = re.compile(r"[A-Za-z0-9_-]{1,4096}")
#: What an item is known by in its host, by the last part of the path.
_ITEMS: Final = {"deviations": ["127.0.0.1", 22, "missing"], "vulnerabilities": ["a", "1", "b", 0], "exceptions": [0]}


MAX_QUERY: Final = 6000  # characters: a longer line of a request is refused before it is known what it asks for


@schemathesis.hook
def filter_case(_: Any, case: Any) -> bool:
    """Leave out requests whose line is too long for any server."""
    return len(urlencode(case.query or {}, doseq=True, errors="replace")) <= MAX_QUERY


@schemathesis.hook
def before_call(_: Any, case: Any, kwargs: Any) -> None:
    """Make of a text that may be a cursor one that portspec made: for the position after the host of that name."""
    query = case.query if isinstance(case.query, dict) else {}
    text, name = query.get("cursor"), case.path.rpartition("/")[2].removesuffix(".csv")
    if name == "changes" or not (isinstance(text, str) and _CURSOR.fullmatch(text)):
        return
    host = text[:100]
    order = query.get("sort", "host")
    query["cursor"] = spell_cursor([host, _ITEMS[name]] if name in _ITEMS else [order, [], host])


@schemathesis.serializer(CONTENT_TYPE)
def write_envelope(_: Any, value: Any) -> bytes:
    """Return a body as it is, or as text."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
