"""The statements: states and changes in, states and changes out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from portspec.scan import PortState
from portspec.state.changes import Change
from portspec.store.encoding import host_key
from portspec.store.schema import transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

_PUT_STATE: Final = """
    INSERT INTO state (host, document, notification_state, saved_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (host) DO UPDATE SET document = excluded.document, notification_state = excluded.notification_state,
        saved_at = excluded.saved_at
"""
_PUT_NOTICE: Final = "INSERT INTO notification (at, host, document) VALUES (?, ?, ?)"
_PUT_CHANGE: Final = """
    INSERT INTO change (at, host, address, ports, was, became, first_seen)
    SELECT :at, :host, :address, :ports, :was, :became, min(:at, coalesce(min(first_seen), :at))
    FROM change
    WHERE host = :host AND address = :address AND became = :became
        AND substr(ports, 1, 40) = substr(:ports, 1, 40) AND ports = :ports
"""
_COLUMNS = "id, at, host, address, ports, was, became, first_seen"
_RANGE = "id < :before_id AND at >= :since AND at < :until ORDER BY id DESC LIMIT :limit"
_CHANGES: Final = f"SELECT {_COLUMNS} FROM change WHERE {_RANGE}"  # noqa: S608 - of constants
_CHANGES_OF_HOST: Final = f"SELECT {_COLUMNS} FROM change WHERE host = :host AND {_RANGE}"  # noqa: S608 - the same
_MAX_ID = 2**63 - 1


def write(
    connection: sqlite3.Connection,
    documents: Iterable[tuple[str, str, str | None]],
    changes: Iterable[Change],
    notices: Iterable[tuple[str, str]],
    now: float,
) -> None:
    """Write each host's document and story, changes, and notices of hosts, in one transaction at `now`, a Unix time.

    Documents and changes get the key of their host, so that both outlive another spelling in conf.yml.
    A change's `first_seen` becomes the earliest that the log has of the same ports of the address in that state.
    """
    with transaction(connection):
        connection.executemany(_PUT_CHANGE, map(_parameters, changes))
        states = ((host_key(host), document, story, now) for host, document, story in documents)
        connection.executemany(_PUT_STATE, states)
        connection.executemany(_PUT_NOTICE, ((now, host, notice) for host, notice in notices))


def read_documents(connection: sqlite3.Connection) -> Iterator[tuple[str, str, str | None]]:
    """Give the key of every host that is known, its document, and its story if it has one."""
    rows = connection.execute(  # as text, whatever another program made of it
        """SELECT CAST(host AS TEXT), CAST(document AS TEXT), CAST(notification_state AS TEXT)
        FROM state ORDER BY saved_at"""
    )
    for host, document, told in rows:
        yield host_key(host), document, told  # an earlier portspec wrote hosts as conf.yml spells them


def read_changes(
    connection: sqlite3.Connection,
    *,
    host: str | None,
    since: float | None,
    until: float | None,
    before_id: int | None,
    limit: int,
) -> tuple[tuple[int, Change], ...]:
    """Give changes with their numbers, the newest first; see Store.changes()."""
    parameters = {
        "host": None if host is None else host_key(host),
        "since": -math.inf if since is None else since,
        "until": math.inf if until is None else until,
        "before_id": _MAX_ID if before_id is None else max(-_MAX_ID, min(before_id, _MAX_ID)),
        "limit": max(0, min(limit, _MAX_ID)),
    }
    rows = connection.execute(_CHANGES if host is None else _CHANGES_OF_HOST, parameters)
    return tuple(_numbered_change(*row) for row in rows)


def _parameters(change: Change) -> dict[str, Any]:
    return {
        "at": change.at,
        "host": host_key(change.host),
        "address": change.address,
        "ports": change.ports,
        "was": change.before and change.before.value,
        "became": change.after.value,
    }


def _numbered_change(number: int, at: float, host: str, address: str, ports: str, *found: Any) -> tuple[int, Change]:
    was, became, first_seen = found
    before = None if was is None else PortState(was)
    return number, Change(at, host, address, ports, before, PortState(became), first_seen)
