"""Rows of the page's long tables, joined by hand: there may be a million, and a template takes much longer.

Nothing in here is trusted: every text is made printable and escaped.
"""

from __future__ import annotations

from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Final

from portspec.audit.model import Severity
from portspec.errors import is_printable, printable
from portspec.report import phrases
from portspec.state.document import accepting, exception_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from portspec.audit.model import Vulnerability
    from portspec.audit.state import AuditState
    from portspec.report.facts import Fact
    from portspec.report.sockets import Socket

_BETWEEN: Final = " "  # of many texts that are checked at once
_SPECIAL: Final = "&<>\"'"  # what html.escape() replaces
_AT_ONCE: Final = 1000  # rows of a piece
_MAX_KEPT: Final = 50_000  # rows that are kept for other machines with the same finding: about 20 MB
_BEGINNINGS: Final = {severity: f'<tr valign="top"><td class="{severity}">{severity}<td>' for severity in Severity}


class FindingRows:
    """Writes the rows of vulnerabilities; those of an object that many machines share are written once.

    At most `limit` rows are kept for that.
    """

    def __init__(self, limit: int = _MAX_KEPT) -> None:
        self._limit = limit
        self._kept: dict[int, tuple[Vulnerability, str]] = {}  # by id(), and the object, so that it stays the same one

    def write(self, found: Iterable[Vulnerability]) -> Iterator[str]:
        """Give the rows, many in a piece."""
        rest = iter(found)
        while some := list(islice(rest, _AT_ONCE)):
            yield "".join(self._rows(some))

    def _rows(self, some: Sequence[Vulnerability]) -> Iterable[str]:
        kept = self._kept
        new = [item for item in some if id(item) not in kept]
        rows = _finding_rows(new)
        if len(kept) + len(new) <= self._limit:
            kept.update((id(item), (item, row)) for item, row in zip(new, rows, strict=True))
        if len(new) == len(some):
            return rows
        rest = iter(rows)
        return (kept[id(item)][1] if id(item) in kept else next(rest) for item in some)


def fact_rows(facts: Iterable[Fact]) -> str:
    """Give the rows of the table at the head of a machine's section."""
    return "".join(map(_fact_row, facts))


def _fact_row(fact: Fact) -> str:
    cell = f'<td class="{fact.tone}">' if fact.tone else "<td>"
    return f'<tr align="left" valign="top"><th scope="row">{fact.label}{cell}{"<br>".join(_escaped(fact.lines))}\n'


def accepted_rows(audit: AuditState, excepted: Iterable[Vulnerability]) -> Iterator[str]:
    """Give the rows of the vulnerabilities that do not count, with until when and why."""
    by_id = accepting(audit)
    for item in excepted:
        why = _escaped((phrases.acceptance(exception_for(item, by_id)),))[0]
        yield f"{_cells(item.severity, _escaped(_fields(item)))}<td>{why}\n"


def socket_rows(sockets: Sequence[Socket]) -> str:
    """Give the rows of listening sockets."""
    rows = [(item.port, item.addresses, item.process or "-", item.user or "-") for item in sockets]
    return "".join([f'<tr valign="top"><td>{"<td>".join(cells)}\n' for cells in _all_escaped(rows)])


def _finding_rows(found: Sequence[Vulnerability]) -> list[str]:
    rows = _all_escaped([_fields(item) for item in found])
    return [f"{_cells(item.severity, cells)}\n" for item, cells in zip(found, rows, strict=True)]


def _fields(item: Vulnerability) -> Sequence[str]:
    fixed_in = ", ".join(item.fixed_in) if item.fixed_in else "-"
    advisories, paths = ", ".join(item.advisories), ", ".join(item.paths)
    return item.package, item.version, item.id, fixed_in, item.title, item.link, advisories, paths


def _cells(severity: Severity, escaped: Sequence[str]) -> str:
    package, version, name, fixed_in, title, url, advisories, paths = escaped
    name = name or "without an id"
    shown = f'<a href="{url}">{name}</a>' if _is_link(url) else name
    if advisories:
        shown = f"{shown} ({advisories})"
    about = f"{shown}: {title}" if title and title != name else shown
    where = f"<br>in {paths}" if paths else ""
    return f"{_BEGINNINGS[severity]}{package} {version}{where}<td>{about}<td>{fixed_in}"


def _is_link(url: str) -> bool:
    """Tell whether a URL, escaped or not, leads to a page, and does not run anything."""
    return url.startswith("https://") or url[:8].lower().startswith(("https://", "http://"))


def _all_escaped(rows: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """Make the texts of many rows printable, and escape them; one look tells whether there is anything to do."""
    return rows if _is_safe(_BETWEEN.join(map(_BETWEEN.join, rows))) else list(map(_escaped, rows))


def _escaped(fields: Sequence[str]) -> Sequence[str]:
    """Make texts printable, and escape them; most are as they should be."""
    return fields if _is_safe(_BETWEEN.join(fields)) else [escape(printable(text)) for text in fields]


def _is_safe(text: str) -> bool:
    """Tell whether a text stays as it is: five searches of C's memchr() and one pass, whatever its length."""
    return is_printable(text) and not any(letter in text for letter in _SPECIAL)
