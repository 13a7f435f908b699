"""The maintenance that somebody asked for, in the state file: one document in the key-value table.

It is no table of its own, so that an older portspec still opens the file; it alerts during maintenance, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from portspec import documents
from portspec.config import MaintenanceWindow
from portspec.documents import UnixTime
from portspec.store.schema import host_key, read_value, write_value

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

_KEY: Final = "maintenance"


class _Window(Struct, omit_defaults=True):
    host: str
    begins: UnixTime
    until: UnixTime
    reason: str = ""
    owner: str = ""


_DECODER: Final = msgspec.json.Decoder(tuple[_Window, ...])


def read_maintenance(connection: sqlite3.Connection) -> dict[str, MaintenanceWindow] | None:
    """Return the maintenance by the key of its host, see host_key(); None if the file has never had any.

    Raises ValueError if the document is not valid.
    """
    document = read_value(connection, _KEY)
    if document is None:
        return None
    found = documents.decode(_DECODER, document)
    return {
        host_key(item.host): MaintenanceWindow((item.host,), item.begins, item.until, item.reason, item.owner)
        for item in found
    }


def write_maintenance(connection: sqlite3.Connection, windows: Mapping[str, MaintenanceWindow]) -> None:
    """Replace the maintenance in the file, by the key of its host; in the transaction of the caller."""
    found = [_Window(key, item.begins, item.until, item.reason, item.owner) for key, item in windows.items()]
    write_value(connection, _KEY, documents.encode(found))
