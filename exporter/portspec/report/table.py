"""Tables as CSV (RFC 4180), which a spreadsheet may open: text from outside is never a formula there. Pure."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: What begins a formula in a spreadsheet (OWASP, CSV Injection).
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> bytes:
    """Return a table with a header line, in UTF-8; lines end with CRLF.

    Values are texts, numbers, truth values, None (an empty cell), lists of texts and maps of texts.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return lines.getvalue().encode(errors="replace")


def _cell(value: object) -> object:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return value
        case str():
            return _harmless(value)
        case list():
            return _harmless(", ".join(value))
        case dict():
            return _harmless(", ".join(f"{name}={text}" for name, text in value.items()))
    raise TypeError(f"{value!r} is no value of a table")


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
