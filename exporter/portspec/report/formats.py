"""The formats of the report by name. Add one here, in a module of its own, and to FORMATS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec.report.html import write_page
from portspec.report.json import write_json
from portspec.report.model import FleetReport, ReportSettings
from portspec.report.text import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from portspec.state.snapshot import Snapshot

_WRITERS: Final[Mapping[str, Callable[[FleetReport], Iterator[str]]]] = {
    "html": write_page,
    "text": write_text,
    "json": write_json,
}
FORMATS: Final = tuple(_WRITERS)
_MIN_PIECE: Final = 1 << 16  # characters of each piece except for the last


def write_report(snapshot: Snapshot, settings: ReportSettings, now: float, form: str) -> Iterator[str]:
    """Return the report of all machines at a Unix time, in pieces of text.

    Machines are sorted before this returns; the pieces are written when they are iterated over.

    Raises:
        ValueError: `form` is not one of FORMATS.
    """
    if form not in FORMATS:
        raise ValueError(f'"{form}" is not a format (expected {", ".join(FORMATS)})')
    return _join_pieces(_WRITERS[form](FleetReport.of(snapshot, settings, now)))


def _join_pieces(pieces: Iterable[str]) -> Iterator[str]:
    joined: list[str] = []
    size = 0
    for piece in pieces:
        joined.append(piece)
        size += len(piece)
        if size >= _MIN_PIECE:
            yield "".join(joined)
            joined.clear()
            size = 0
    yield "".join(joined)
