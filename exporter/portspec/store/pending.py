"""Pending writes: states with the changes that led to them, in memory until they are committed. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from portspec.store.schema import host_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.state.changes import Change
    from portspec.state.snapshot import HostState


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """A state, the changes that led to it, and the host's notification documents; written in one transaction.

    Attributes:
        state: The state after a scan.
        changes: The changes since the state before.
        notification_state: What the recipients of mails know of the host, as a document; None if nothing.
        notification: The notification to send, as a document; None if there is none.
    """

    state: HostState
    changes: Sequence[Change] = ()
    notification_state: str | None = None
    notification: str | None = None

    @property
    def key(self) -> str:
        """The key of the host, see host_key()."""
        return host_key(self.state.host)


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
                self._entries[number], state=entry.state, notification_state=entry.notification_state
            )
            return
        if number is not None and not self._entries[number].changes and self._entries[number].notification is None:
            del self._entries[number]
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
