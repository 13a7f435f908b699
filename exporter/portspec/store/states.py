"""Host states and changes in the state file: the JSON document of a state, and the SQL statements.

A document holds observations, never conclusions: verdict and deviations are derived again from the current
specification and exceptions. Port sets are stored as ranges ("22,8000-8100"), so that all ports of a host take a few
bytes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Struct, structs

from portspec import documents
from portspec.config.rulings import Ruling
from portspec.documents import Seconds, UnixTime
from portspec.names import address_of
from portspec.ports import PortSet
from portspec.scan import AddressObservation, Failure, PortState
from portspec.state.changes import Change, DatedVerdict
from portspec.state.snapshot import HostState, ScanResult
from portspec.state.verdict import Judgement, Verdict
from portspec.store.schema import host_key, target_key, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from portspec.inventory import Target

K = TypeVar("K")
V = TypeVar("V")

_MAX_CACHED_PORT_SETS = 1024
MAX_CHANGES_OF_HOST = 100_000  # rows of the log: a host that changes all the time does not fill the disk

_UPSERT_STATE: Final = """
    INSERT INTO state (host, document, notification_state, saved_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (host) DO UPDATE SET document = excluded.document, notification_state = excluded.notification_state,
        saved_at = excluded.saved_at
"""
_INSERT_NOTIFICATION: Final = "INSERT INTO notification (at, host, document) VALUES (?, ?, ?)"
_INSERT_CHANGE: Final = """
    INSERT INTO change (at, host, address, ports, was, became, first_seen, note)
    SELECT :at, :host, :address, :ports, :was, :became, min(:at, :earlier, coalesce(min(first_seen), :at)), :note
    FROM change
    WHERE host = :host AND address = :address AND became = :became
        AND substr(ports, 1, 40) = substr(:ports, 1, 40) AND ports = :ports
"""
_SELECT_FIRST_SEEN: Final = """
    SELECT min(first_seen) FROM change
    WHERE host = :host AND address = :address AND became = :became
        AND substr(ports, 1, 40) = substr(:ports, 1, 40) AND ports = :ports
"""
_DELETE_OLD_CHANGES: Final = """
    DELETE FROM change WHERE host = :host AND id <= (
        SELECT id FROM change WHERE host = :host ORDER BY id DESC LIMIT 1 OFFSET :most
    )
"""
MAX_VERDICTS_OF_HOST = 10_000  # rows of the history of verdicts

_INSERT_VERDICT: Final = """
    INSERT INTO verdict (at, host, verdict, reason)
    SELECT :at, :host, :verdict, :reason
    WHERE (SELECT verdict FROM verdict WHERE host = :host ORDER BY id DESC LIMIT 1) IS NOT :verdict
"""
_DELETE_OLD_VERDICTS: Final = """
    DELETE FROM verdict WHERE host = :host AND id <= (
        SELECT id FROM verdict WHERE host = :host ORDER BY id DESC LIMIT 1 OFFSET :most
    )
"""
_SELECT_VERDICTS: Final = """
    SELECT at, verdict, reason FROM verdict WHERE host = :host ORDER BY id DESC LIMIT :limit
"""
_SELECT_ALL_VERDICTS: Final = "SELECT at, verdict, reason FROM verdict WHERE host IN ({}) ORDER BY id DESC"
_PORT_STATES: Final = frozenset(PortState)
_COLUMNS = "id, at, host, address, ports, was, became, first_seen, note"
_RANGE = "id < :before_id AND at >= :since AND at < :until ORDER BY id DESC LIMIT :limit"
_SELECT_CHANGES: Final = f"SELECT {_COLUMNS} FROM change WHERE {_RANGE}"  # noqa: S608 - of constants
_SELECT_CHANGES_OF_HOST: Final = f"SELECT {_COLUMNS} FROM change WHERE host IN ({{}}) AND {_RANGE}"  # noqa: S608 - the same
_MAX_ID = 2**63 - 1


class StateDocumentError(ValueError):
    """A document is not a valid host state."""


class _Observation(Struct, omit_defaults=True):
    """An AddressObservation, whose `pace` is not stored."""

    address: str
    scanned: str
    open: str = ""
    filtered: str = ""
    unconfirmed: str = ""
    lost: str = ""
    answered: bool = False
    refusals: int = 0
    rtt: Seconds | None = None
    failure: Failure | None = None


class _Result(Struct, omit_defaults=True):
    at: UnixTime
    seconds: Seconds
    failure: Failure | None
    addresses: tuple[_Observation, ...]
    rechecked_at: UnixTime | None = None


class _Document(Struct, omit_defaults=True):
    version: Literal[1]
    latest: _Result | None
    conclusive: _Result | Literal["latest"] | None  # "latest" where both are the same
    last_change: UnixTime | None
    pace: Seconds | None = None
    opened: tuple[tuple[UnixTime, str], ...] = ()
    missing: tuple[tuple[UnixTime, str], ...] = ()
    unexpected: tuple[tuple[UnixTime, str], ...] | None = None  # None: an older version wrote it


_DECODER: Final = msgspec.json.Decoder(_Document)
_PORT_SETS: Final = ("scanned", "open", "filtered", "unconfirmed", "lost")


class StateCodec:
    """Encodes host states as JSON documents and decodes them; not thread-safe.

    It caches port sets: most hosts are scanned on the same ports, which may be hundreds of ranges.
    """

    def __init__(self) -> None:
        self._texts: dict[PortSet, str] = {}
        self._sets: dict[str, PortSet] = {}

    def encode(self, state: HostState) -> str:
        """Return the document of a state. Raises ValueError if the state has an infinite number or NaN."""
        is_conclusive = state.conclusive is state.latest
        document = _Document(
            version=1,
            latest=self._stored_result(state.latest),
            conclusive="latest" if is_conclusive else self._stored_result(state.conclusive),
            last_change=state.last_change,
            pace=state.pace,
            opened=tuple((at, self._text(ports)) for at, ports in state.opened),
            missing=tuple((at, self._text(ports)) for at, ports in state.missing),
            unexpected=tuple((at, self._text(ports)) for at, ports in state.unexpected),
        )
        return documents.encode(document)

    def decode(self, document: str, target: Target, now: float) -> HostState:
        """Return the state in a document, judged by a target's specification and exceptions at `now` (Unix seconds).

        Raises StateDocumentError if the document is invalid in any way.
        """
        try:
            stored = documents.decode(_DECODER, document)
            latest = self._result(stored.latest, target.address)
            conclusive = latest if stored.conclusive == "latest" else self._result(stored.conclusive, target.address)
            opened, missing, unexpected = (
                tuple((at, self._ports(text)) for at, text in groups)
                for groups in (
                    stored.opened,
                    stored.missing,
                    stored.opened if stored.unexpected is None else stored.unexpected,
                )
            )
        except ValueError as error:
            raise StateDocumentError(str(error)) from error
        last_change, pace = stored.last_change, stored.pace
        known = HostState(
            target,
            latest,
            conclusive,
            last_change,
            pace=pace,
            opened=opened,
            missing=missing,
            unexpected=unexpected,
        )
        return replace(known.judged(target, now), judged_at=now)

    def _stored_result(self, result: ScanResult | None) -> _Result | None:
        if result is None:
            return None
        addresses = tuple(map(self._stored_observation, result.addresses))
        failure = result.judgement.failure
        return _Result(result.finished_at, result.duration, failure, addresses, result.rechecked_at)

    def _result(self, stored: _Result | None, known: str | None) -> ScanResult | None:
        if stored is None:
            return None
        addresses = tuple([self._observation(item, known) for item in stored.addresses])
        judgement = Judgement(Verdict.UNKNOWN, failure=stored.failure)  # until judged() derives the verdict
        return ScanResult(addresses, judgement, stored.at, stored.seconds, stored.rechecked_at)

    def _stored_observation(self, item: AddressObservation) -> _Observation:
        values = {name: getattr(item, name) for name in _Observation.__struct_fields__}
        return _Observation(**values | {name: self._text(values[name]) for name in _PORT_SETS})

    def _observation(self, stored: _Observation, known: str | None) -> AddressObservation:
        """Return what was observed of an address; `known` is one that need not be read to see that it is one."""
        if stored.address != known and address_of(stored.address) is None:
            raise ValueError(f"{stored.address!r} is not an address")
        values = structs.asdict(stored)
        return AddressObservation(**values | {name: self._ports(values[name]) for name in _PORT_SETS})

    def _text(self, ports: PortSet) -> str:
        text = self._texts.get(ports)
        if text is None:
            text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ports.ranges)
            _cache(self._texts, ports, text)
        return text

    def _ports(self, text: str) -> PortSet:
        ports = self._sets.get(text)
        if ports is None:
            ranges = (word.partition("-") for word in text.split(",") if word)
            ports = PortSet.of_ranges((int(first), int(last or first)) for first, _, last in ranges)
            _cache(self._sets, text, ports)
        return ports


def _cache(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= _MAX_CACHED_PORT_SETS:
        cache.clear()
    cache[key] = value


def write_states(
    connection: sqlite3.Connection,
    states: Iterable[tuple[str, str, str | None]],
    changes: Iterable[Change],
    verdicts: Iterable[DatedVerdict],
    notifications: Iterable[tuple[str, str]],
    now: float,
    former: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Write states, changes, verdicts and notifications in one transaction.

    States and changes are stored under the key of their host, so that another spelling in conf.yml finds them. The
    `first_seen` of a change is the earliest time at which the log has the same ports of the address in that state, also
    under a former name of the host. Of each host that changed, the log keeps the newest MAX_CHANGES_OF_HOST changes. A
    verdict is stored if it differs from the last one of its host, of which the newest MAX_VERDICTS_OF_HOST are kept.

    Args:
        connection: A connection that writes, outside of a transaction.
        states: Host, document, and notification state or None.
        changes: Changes to append to the log.
        verdicts: The verdicts of the states, the oldest first.
        notifications: Host and document.
        now: The time of writing, in Unix seconds.
        former: The former names of hosts, by the key of the host.
    """
    with transaction(connection):
        write_changes(connection, changes, former)
        _write_verdicts(connection, verdicts)
        rows = ((host_key(host), document, notification_state, now) for host, document, notification_state in states)
        connection.executemany(_UPSERT_STATE, rows)
        connection.executemany(_INSERT_NOTIFICATION, ((now, host, document) for host, document in notifications))


def write_changes(
    connection: sqlite3.Connection,
    changes: Iterable[Change],
    former: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Append changes to the log, in the transaction of the caller; see write_states()."""
    parameters = [_parameters(change) for change in changes]
    for row in parameters:
        names = former.get(row["host"], ())
        seen = [connection.execute(_SELECT_FIRST_SEEN, {**row, "host": name}).fetchone()[0] for name in names]
        row["earlier"] = min((at for at in seen if at is not None), default=row["at"])
    connection.executemany(_INSERT_CHANGE, parameters)
    hosts = {row["host"] for row in parameters}
    connection.executemany(_DELETE_OLD_CHANGES, [{"host": host, "most": MAX_CHANGES_OF_HOST} for host in hosts])


def _write_verdicts(connection: sqlite3.Connection, verdicts: Iterable[DatedVerdict]) -> None:
    changed: set[str] = set()
    for item in verdicts:
        host = host_key(item.host)
        row = {"at": item.at, "host": host, "verdict": item.verdict.value, "reason": item.reason}
        if connection.execute(_INSERT_VERDICT, row).rowcount:
            changed.add(host)
    connection.executemany(_DELETE_OLD_VERDICTS, [{"host": host, "most": MAX_VERDICTS_OF_HOST} for host in changed])


def read_states(connection: sqlite3.Connection) -> Iterator[tuple[str, str, str | None]]:
    """Return the key, the document, and the notification state (None if it has none) of every known host."""
    rows = connection.execute(  # cast, because another program may have stored values of any type
        """SELECT CAST(host AS TEXT), CAST(document AS TEXT), CAST(notification_state AS TEXT)
        FROM state ORDER BY saved_at"""
    )
    for host, document, notification_state in rows:
        yield (
            host_key(host),
            document,
            notification_state,
        )  # schemas before version 4 have no keys


def read_states_of(
    connection: sqlite3.Connection, targets: Iterable[Target]
) -> Iterator[tuple[Target, str, str, str | None]]:
    """Return the state of each target that has one in the file, in no order.

    It is that under the name of the host, or else under the first of its former names that has one: target, key of that
    name, document, and notification state (None if it has none).
    """
    wanted = {target_key(target): target for target in targets}
    renamed = {key: target for key, target in wanted.items() if target.renamed_from}
    former = {name for target in renamed.values() for name in target.renamed_from}
    found: dict[str, tuple[str, str | None]] = {}
    for key, document, notification_state in read_states(connection):
        if key in former:
            found[key] = document, notification_state
        if target := wanted.get(key):
            renamed.pop(key, None)
            yield target, key, document, notification_state
    for target in renamed.values():
        if name := next((name for name in target.renamed_from if name in found), None):
            yield target, name, *found[name]


def read_changes(
    connection: sqlite3.Connection,
    *,
    host: str | None,
    former: Sequence[str] = (),
    since: float | None,
    until: float | None,
    before_id: int | None,
    limit: int,
) -> tuple[tuple[int, Change], ...]:
    """Return changes with their ids, the newest first, also those under the `former` names; see Store.changes()."""
    hosts = () if host is None else (host_key(host), *former)
    parameters = {
        **_named(hosts),
        "since": -math.inf if since is None else since,
        "until": math.inf if until is None else until,
        "before_id": _MAX_ID if before_id is None else max(-_MAX_ID, min(before_id, _MAX_ID)),
        "limit": max(0, min(limit, _MAX_ID)),
    }
    statement = _SELECT_CHANGES_OF_HOST.format(_placeholders(hosts)) if hosts else _SELECT_CHANGES
    rows = connection.execute(statement, parameters)
    return tuple(_change(*row) for row in rows)


def read_verdicts(
    connection: sqlite3.Connection, host: str, limit: int, former: Sequence[str] = ()
) -> tuple[DatedVerdict, ...]:
    """Return the verdicts of a host, the newest first, also those under its `former` names; see Store.verdicts()."""
    key, limit = host_key(host), max(0, min(limit, _MAX_ID))
    if former:  # the first one under another name may be like the last one before it
        hosts = (key, *former)
        every = connection.execute(_SELECT_ALL_VERDICTS.format(_placeholders(hosts)), _named(hosts)).fetchall()
        rows = [row for row, before in pairwise((*every, (0.0, None, ""))) if row[1] != before[1]][:limit]
    else:
        rows = connection.execute(_SELECT_VERDICTS, {"host": key, "limit": limit}).fetchall()
    return tuple(DatedVerdict(at, key, Verdict(verdict), reason) for at, verdict, reason in rows)


def _named(hosts: Sequence[str]) -> dict[str, str]:
    """Return the parameters of a statement about some hosts."""
    return {f"host{place}": host for place, host in enumerate(hosts)}


def _placeholders(hosts: Sequence[str]) -> str:
    return ", ".join(f":{name}" for name in _named(hosts))


def _parameters(change: Change) -> dict[str, Any]:
    return {
        "at": change.at,
        "host": host_key(change.host),
        "address": change.address,
        "ports": change.ports,
        "was": change.before and change.before.value,
        "became": change.after.value,
        "note": change.note,
    }


def _change(number: int, at: float, host: str, address: str, ports: str, *rest: Any) -> tuple[int, Change]:
    was, became, first_seen, note = rest
    before = None if was is None else PortState(was)
    after = PortState(became) if became in _PORT_STATES else Ruling(became)
    return number, Change(at, host, address, ports, before, after, first_seen, note)
