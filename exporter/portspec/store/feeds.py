"""The lists about vulnerabilities, in the state file: as they came, compressed, in the key-value table.

They are no table of their own, so that an older portspec still opens the file.
"""

from __future__ import annotations

import hashlib
import zlib
from functools import partial
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.feeds import NO_FEEDS, FeedError, FeedName, Feeds, read_feed
from portspec.store.faults import StoreError
from portspec.store.schema import read_value, write_value

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from portspec.store.store import Store

_GZIP: Final = zlib.MAX_WBITS | 16
_log = log.get("feeds")


def write_feed(connection: sqlite3.Connection, name: FeedName, place: str, data: bytes) -> None:
    """Replace a list in the file, and where it is from; in the transaction of the caller."""
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_key(name), _packed(data)))
    write_value(connection, f"{_key(name)}_source", _digest(place))


def read_stored_feed(connection: sqlite3.Connection, name: FeedName, place: str) -> bytes | None:
    """Return a list that the file has from a place; None if it has none."""
    if read_value(connection, f"{_key(name)}_source") != _digest(place):
        return None
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_key(name),)).fetchone()
    return bytes(row[0]) if row and isinstance(row[0], bytes) else None


def stored_feeds(store: Store, places: Mapping[str, str]) -> Feeds:
    """Return the lists of these places, by name, that the file has; what cannot be read is logged. Blocks."""
    feeds = NO_FEEDS
    for word, place in places.items():
        name = FeedName(word)
        try:
            data = store.read(partial(read_stored_feed, name=name, place=place))
            if data is not None:
                feeds = feeds.having(read_feed(name, data))
        except StoreError as error:
            _log.warning("the stored list cannot be read", feed=name.value, file=error.path, why=error.why)
        except FeedError as error:
            _log.warning("the stored list is not used", feed=name.value, why=f"it {error}")
    return feeds


def _digest(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()  # a URL may contain a secret


def _key(name: FeedName) -> str:
    return f"feed_{name.value}"


def _packed(data: bytes) -> bytes:
    if data.startswith(b"\x1f\x8b"):
        return data
    compressor = zlib.compressobj(wbits=_GZIP)
    return compressor.compress(data) + compressor.flush()
