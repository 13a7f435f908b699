"""What somebody has changed about the rules of conf.yml, in the change log: the file remembers the rules before."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from portspec import documents
from portspec.config.rulings import Changed, Rules, changed_rules, dated
from portspec.ports import PortError
from portspec.state.changes import Change
from portspec.store.schema import read_value, write_value
from portspec.store.states import write_changes

if TYPE_CHECKING:
    import sqlite3

MAX_CHANGES: Final = 1000  # rows of one change of conf.yml: a generator may write it anew
_KEY: Final = "rules"
_DECODER: Final = msgspec.json.Decoder(Rules)


def log_rules(connection: sqlite3.Connection, rules: Rules, now: float, by: str = "") -> int:
    """Append what has changed to the log, in the transaction of the caller; return the number of rows.

    A file that has no rules yet gets them, and no row. `by` is who changed conf.yml, as far as that is known.
    """
    before = read_rules(connection)
    if before == rules:
        return 0
    rows = []
    if before is not None:
        for item in _changed(before, rules, now):
            note = ", ".join(part for part in (item.note, by and f"by {by}") if part)
            rows.append(Change(now, item.host, "", item.what, None, item.ruling, now, note))
        write_changes(connection, rows)
    write_value(connection, _KEY, documents.encode(dated(before, rules, now)))
    return len(rows)


def _changed(before: Rules, after: Rules, now: float) -> list[Changed]:
    """Return what has changed; nothing if another program has written ports into the file that are none."""
    try:
        return list(islice(changed_rules(before, after, now), MAX_CHANGES))
    except PortError:
        return []


def read_rules(connection: sqlite3.Connection) -> Rules | None:
    """Return the rules of the file; None if it has none, or none that can be read."""
    document = read_value(connection, _KEY)
    try:
        return None if document is None else documents.decode(_DECODER, document)
    except ValueError:
        return None
