"""Pending writes: states with what led to them, in memory until they are committed in batches."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import TYPE_CHECKING

from portspec import log
from portspec.state.changes import Change, DatedVerdict, changes, dated_verdicts
from portspec.store.schema import target_key
from portspec.store.states import write_states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portspec.state.snapshot import HostState
    from portspec.store.state_file import StateFile
    from portspec.store.states import StateCodec

_BATCH_WRITES, _BATCH_CHANGES = 1000, 10_000  # per transaction, some tens of milliseconds
MAX_PENDING_VERDICTS = 100  # of one host, of those that differ, while the file cannot be written
#: Raised by the sqlite3 module for unsupported values, and sometimes for a broken connection.
_VALUE_ERRORS = (
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    ValueError,
    TypeError,
    OverflowError,
)

_log = log.get("store")


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """A state, what led to it, and the host's notification documents; written in one transaction.

    Attributes:
        state: The state after a scan.
        changes: The changes since the state before.
        notification_state: What the recipients of mails know of the host, as a document; None if nothing.
        notification: The notification to send, as a document; None if there is none.
        verdicts: The verdicts since the state before, the oldest first; the last is that of the state.
    """

    state: HostState
    changes: Sequence[Change] = ()
    notification_state: str | None = None
    notification: str | None = None
    verdicts: tuple[DatedVerdict, ...] = ()

    @classmethod
    def between(
        cls, before: HostState, after: HostState, notification_state: str | None = None, notification: str | None = None
    ) -> PendingWrite:
        """Return what is to be written after a scan that led from one state of a host to another.

        What cannot be determined is missing, with a log line.
        """
        try:
            changed, verdicts = tuple(changes(before, after)), tuple(dated_verdicts(before, after))
        except Exception:  # noqa: BLE001 - it must not block other hosts
            _log.exception("cannot determine the changes of a host; they are missing in the log", host=after.host)
            changed, verdicts = (), ()
        return cls(after, changed, notification_state, notification, verdicts)

    @property
    def key(self) -> str:
        """The key of the host, see schema.host_key()."""
        return target_key(self.state.target)


class PendingWrites:
    """A queue of pending writes; not thread-safe.

    A state without changes or notification replaces the last pending one of its host, so the queue is never longer
    than the number of hosts, changes and notifications together. About `max_changes` of the newest changes are kept;
    `dropped` counts the others.
    """

    def __init__(self, max_changes: int, dropped: int = 0) -> None:
        self.changes = 0
        self.dropped = dropped
        self._max_changes = max_changes
        self._numbers = count()
        self._entries: OrderedDict[int, PendingWrite] = OrderedDict()
        self._last: dict[str, int] = {}  # host key -> number of its last entry
        self._changed: deque[int] = deque()  # numbers of entries with changes

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._last

    def add(self, entry: PendingWrite) -> None:
        """Append a write. Beyond `max_changes` drop the oldest changes, one entry at a time."""
        key = entry.key
        number = self._last.get(key)
        if number is not None and not entry.changes and entry.notification is None:
            self._entries[number] = replace(
                self._entries[number],
                state=entry.state,
                notification_state=entry.notification_state,
                verdicts=_joined(self._entries[number].verdicts, entry.verdicts),
            )
            return
        if number is not None and not self._entries[number].changes and self._entries[number].notification is None:
            entry = replace(entry, verdicts=_joined(self._entries.pop(number).verdicts, entry.verdicts))
        number = self._last[key] = next(self._numbers)
        self._entries[number] = entry
        if entry.changes:
            self._changed.append(number)
        self.changes += len(entry.changes)
        while self.changes > self._max_changes:
            self._drop_oldest()

    def batch(self, entries: int, changes: int) -> list[PendingWrite]:
        """Return the oldest writes: at most `entries`, and none after those that have `changes` changes together."""
        found: list[PendingWrite] = []
        for entry in self._entries.values():
            if len(found) >= entries or changes <= 0:
                break
            found.append(entry)
            changes -= len(entry.changes)
        return found

    def remove(self, entries: int) -> None:
        """Remove the oldest writes after they were committed."""
        for _ in range(entries):
            number, entry = self._entries.popitem(last=False)
            if entry.changes:
                self._changed.popleft()
            self.changes -= len(entry.changes)
            if self._last[entry.key] == number:
                del self._last[entry.key]

    def _drop_oldest(self) -> None:
        """Drop the oldest changes, and their entry unless it has the last state of its host or a notification."""
        number = self._changed.popleft()
        entry = self._entries[number]
        self.changes -= len(entry.changes)
        self.dropped += len(entry.changes)
        if self._last[entry.key] == number or entry.notification is not None:
            self._entries[number] = replace(entry, changes=())
        else:
            del self._entries[number]


class PendingCommitter:
    """Commits pending writes to the state file, in the thread of the writer."""

    def __init__(self, file: StateFile, codec: StateCodec, wall_clock: Callable[[], float]) -> None:
        self._file = file
        self._codec = codec
        self._wall_clock = wall_clock

    def commit(self, connection: sqlite3.Connection, pending: PendingWrites) -> None:
        """Commit all pending writes, the oldest first, and remove them. Raises what SQLite raises, and StoreFault."""
        while batch := pending.batch(_BATCH_WRITES, _BATCH_CHANGES):
            self._commit_or_drop(connection, pending, batch)

    def _commit_or_drop(
        self, connection: sqlite3.Connection, pending: PendingWrites, batch: Sequence[PendingWrite]
    ) -> None:
        """Commit the oldest pending writes; drop those that can never be written, so that they do not block others."""
        try:
            self._commit_batch(connection, pending, batch)
        except _VALUE_ERRORS as error:
            connection.execute("SELECT 1")  # raises if the connection is broken
            if len(batch) > 1:
                for entry in batch:
                    self._commit_or_drop(connection, pending, [entry])
                return
            (entry,) = batch
            _log.error("cannot write the state of a host; it is lost", host=entry.state.host, why=str(error))
            pending.remove(1)
            pending.dropped += len(entry.changes)

    def _commit_batch(
        self, connection: sqlite3.Connection, pending: PendingWrites, batch: Sequence[PendingWrite]
    ) -> None:
        changes = [change for entry in batch for change in entry.changes]
        notifications = [(entry.state.host, entry.notification) for entry in batch if entry.notification is not None]
        verdicts = [verdict for entry in batch for verdict in entry.verdicts]
        former = {entry.key: names for entry in batch if (names := entry.state.target.renamed_from)}
        write_states(connection, self._encode(batch), changes, verdicts, notifications, self._wall_clock(), former)
        self._file.verify_not_replaced(is_after_commit=True)
        pending.remove(len(batch))

    def _encode(self, batch: Sequence[PendingWrite]) -> list[tuple[str, str, str | None]]:
        """Return host, document and notification state of each host's last state."""
        documents = []
        for entry in {entry.key: entry for entry in batch}.values():
            host = entry.state.host
            try:
                documents.append((host, self._codec.encode(entry.state), entry.notification_state))
            except Exception:  # noqa: BLE001 - it must not block other hosts
                _log.exception("cannot encode the state of a host; skipping it", host=host)
        return documents


def _joined(earlier: tuple[DatedVerdict, ...], later: tuple[DatedVerdict, ...]) -> tuple[DatedVerdict, ...]:
    """Return verdicts without those that are like the one before them; the newest MAX_PENDING_VERDICTS of a host."""
    found = [*earlier[:1]]
    found += [item for last, item in pairwise((*earlier, *later)) if item.verdict is not last.verdict]
    return tuple(found[-MAX_PENDING_VERDICTS:] if earlier else later)
