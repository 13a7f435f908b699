"""Host states and changes in the state file: the JSON document of a state, and the SQL statements.

A document holds observations, never conclusions: verdict and deviations are derived again from the current
specification and exceptions. Port sets are stored as ranges ("22,8000-8100"), so that all ports of a host take a few
bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from portspec.ports import PortSet
from portspec.scan import AddressObservation, Failure, PortState, Reason
from portspec.state.changes import Change
from portspec.state.snapshot import HostState, ScanResult
from portspec.state.verdict import Judgement, Verdict
from portspec.store.schema import host_key, transaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from portspec.inventory import Target

K = TypeVar("K")
V = TypeVar("V")

DOCUMENT_VERSION: Final = 1
_SAME_AS_LATEST = "latest"  # replaces the conclusive result where that is the latest one
_MAX_TIME = 253_402_300_800.0  # 10000-01-01T00:00:00Z in Unix seconds; datetime supports no later date
_MAX_CACHED_PORT_SETS = 1024

_UPSERT_STATE: Final = """
    INSERT INTO state (host, document, notification_state, saved_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (host) DO UPDATE SET document = excluded.document, notification_state = excluded.notification_state,
        saved_at = excluded.saved_at
"""
_INSERT_NOTIFICATION: Final = "INSERT INTO notification (at, host, document) VALUES (?, ?, ?)"
_INSERT_CHANGE: Final = """
    INSERT INTO change (at, host, address, ports, was, became, first_seen)
    SELECT :at, :host, :address, :ports, :was, :became, min(:at, coalesce(min(first_seen), :at))
    FROM change
    WHERE host = :host AND address = :address AND became = :became
        AND substr(ports, 1, 40) = substr(:ports, 1, 40) AND ports = :ports
"""
_COLUMNS = "id, at, host, address, ports, was, became, first_seen"
_RANGE = "id < :before_id AND at >= :since AND at < :until ORDER BY id DESC LIMIT :limit"
_SELECT_CHANGES: Final = f"SELECT {_COLUMNS} FROM change WHERE {_RANGE}"  # noqa: S608 - of constants
_SELECT_CHANGES_OF_HOST: Final = f"SELECT {_COLUMNS} FROM change WHERE host = :host AND {_RANGE}"  # noqa: S608 - the same
_MAX_ID = 2**63 - 1


class StateDocumentError(ValueError):
    """A document is not a valid host state."""


class StateCodec:
    """Encodes host states as JSON documents and decodes them; not thread-safe.

    It caches port sets: most hosts are scanned on the same ports, which may be hundreds of ranges.
    """

    def __init__(self) -> None:
        self._texts: dict[PortSet, str] = {}
        self._sets: dict[str, PortSet] = {}

    def encode(self, state: HostState) -> str:
        """Return the document of a state. Raises ValueError if the state has an infinite number or NaN."""
        conclusive: Any = _SAME_AS_LATEST if state.conclusive is state.latest else self._plain_result(state.conclusive)
        document = {
            "version": DOCUMENT_VERSION,
            "latest": self._plain_result(state.latest),
            "conclusive": conclusive,
            "last_change": state.last_change,
            **({"pace": state.pace} if state.pace else {}),
            **({"opened": [[at, self._text(ports)] for at, ports in state.opened]} if state.opened else {}),
        }
        return json.dumps(document, separators=(",", ":"), allow_nan=False)

    def decode(self, document: str, target: Target, now: float) -> HostState:
        """Return the state in a document, judged by a target's specification and exceptions at `now` (Unix seconds).

        Raises StateDocumentError if the document is invalid in any way.
        """
        try:
            found = json.loads(document, parse_constant=_reject_constant)
            _verify_version(found["version"])
            latest = self._result(found["latest"])
            conclusive = latest if found["conclusive"] == _SAME_AS_LATEST else self._result(found["conclusive"])
            last_change = None if found["last_change"] is None else _time(found["last_change"])
            pace = found.get("pace")
            known = HostState(
                target,
                latest,
                conclusive,
                last_change,
                pace=None if pace is None else _seconds(pace),
                opened=tuple((_time(at), self._ports(text)) for at, text in found.get("opened", ())),
            )
        except StateDocumentError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise StateDocumentError(f"{type(error).__name__}: {error}") from error
        return replace(known.judged(target, now), judged_at=now)

    def _plain_result(self, result: ScanResult | None) -> dict[str, Any] | None:
        if result is None:
            return None
        plain = {
            "at": result.finished_at,
            "seconds": result.duration,
            "failure": _plain_failure(result.judgement.failure),
            "addresses": [self._plain_observation(item) for item in result.addresses],
        }
        return plain if result.rechecked_at is None else {**plain, "rechecked_at": result.rechecked_at}

    def _plain_observation(self, item: AddressObservation) -> dict[str, Any]:
        """Return an observation as JSON, without fields that have their default value."""
        plain: dict[str, Any] = {"address": item.address, "scanned": self._text(item.scanned)}
        for name in ("open", "filtered", "unconfirmed", "lost"):
            if ports := getattr(item, name):
                plain[name] = self._text(ports)
        if item.answered:
            plain["answered"] = True
        if item.refusals:
            plain["refusals"] = item.refusals
        if item.rtt is not None:
            plain["rtt"] = item.rtt
        if item.failure:
            plain["failure"] = _plain_failure(item.failure)
        return plain

    def _result(self, plain: Any) -> ScanResult | None:
        if plain is None:
            return None
        addresses = tuple(self._observation(item) for item in _typed(plain["addresses"], list))
        # unknown until judged() derives the verdict
        judgement = Judgement(Verdict.UNKNOWN, failure=_failure(plain["failure"]))
        rechecked_at = plain.get("rechecked_at")
        return ScanResult(
            addresses,
            judgement,
            _time(plain["at"]),
            _seconds(plain["seconds"]),
            None if rechecked_at is None else _time(rechecked_at),
        )

    def _observation(self, plain: Any) -> AddressObservation:
        rtt = plain.get("rtt")
        return AddressObservation(
            address=_typed(plain["address"], str),
            scanned=self._ports(plain["scanned"]),
            open=self._ports(plain.get("open", "")),
            filtered=self._ports(plain.get("filtered", "")),
            answered=_typed(plain.get("answered", False), bool),
            rtt=None if rtt is None else _seconds(rtt),
            failure=_failure(plain.get("failure")),
            unconfirmed=self._ports(plain.get("unconfirmed", "")),
            lost=self._ports(plain.get("lost", "")),
            refusals=_typed(plain.get("refusals", 0), int),
        )

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


def _plain_failure(failure: Failure | None) -> dict[str, str] | None:
    return {"reason": failure.reason.value, "detail": failure.detail} if failure else None


def _failure(plain: Any) -> Failure | None:
    return None if plain is None else Failure(Reason(plain["reason"]), _typed(plain["detail"], str))


def _verify_version(version: Any) -> None:
    if version != DOCUMENT_VERSION:
        raise StateDocumentError(f"unsupported version {version!r}, expected {DOCUMENT_VERSION}")


def _time(value: Any) -> float:
    if (seconds := _seconds(value)) >= _MAX_TIME:
        raise StateDocumentError(f"{value!r} is not a time")
    return seconds


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise StateDocumentError(f"{value!r} is not a number of seconds")
    return float(value)


def _typed(value: Any, expected: type[V]) -> V:
    if not isinstance(value, expected):
        raise StateDocumentError(f"{value!r} is not of type {expected.__name__}")
    return value


def _reject_constant(constant: str) -> NoReturn:
    raise StateDocumentError(f"{constant} is not a number")


def write_states(
    connection: sqlite3.Connection,
    states: Iterable[tuple[str, str, str | None]],
    changes: Iterable[Change],
    notifications: Iterable[tuple[str, str]],
    now: float,
) -> None:
    """Write states, changes and notifications in one transaction.

    States and changes are stored under the key of their host, so that another spelling in conf.yml finds them. The
    `first_seen` of a change is the earliest time at which the log has the same ports of the address in that state.

    Args:
        connection: A connection that writes, outside of a transaction.
        states: Host, document, and notification state or None.
        changes: Changes to append to the log.
        notifications: Host and document.
        now: The time of writing, in Unix seconds.
    """
    with transaction(connection):
        connection.executemany(_INSERT_CHANGE, map(_parameters, changes))
        rows = ((host_key(host), document, notification_state, now) for host, document, notification_state in states)
        connection.executemany(_UPSERT_STATE, rows)
        connection.executemany(_INSERT_NOTIFICATION, ((now, host, document) for host, document in notifications))


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


def read_changes(
    connection: sqlite3.Connection,
    *,
    host: str | None,
    since: float | None,
    until: float | None,
    before_id: int | None,
    limit: int,
) -> tuple[tuple[int, Change], ...]:
    """Return changes with their ids, the newest first; see Store.changes()."""
    parameters = {
        "host": None if host is None else host_key(host),
        "since": -math.inf if since is None else since,
        "until": math.inf if until is None else until,
        "before_id": _MAX_ID if before_id is None else max(-_MAX_ID, min(before_id, _MAX_ID)),
        "limit": max(0, min(limit, _MAX_ID)),
    }
    rows = connection.execute(_SELECT_CHANGES if host is None else _SELECT_CHANGES_OF_HOST, parameters)
    return tuple(_change(*row) for row in rows)


def _parameters(change: Change) -> dict[str, Any]:
    return {
        "at": change.at,
        "host": host_key(change.host),
        "address": change.address,
        "ports": change.ports,
        "was": change.before and change.before.value,
        "became": change.after.value,
    }


def _change(number: int, at: float, host: str, address: str, ports: str, *rest: Any) -> tuple[int, Change]:
    was, became, first_seen = rest
    before = None if was is None else PortState(was)
    return number, Change(at, host, address, ports, before, PortState(became), first_seen)
