"""What waits to be written: states, each with the changes that led to it. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from portspec.store.encoding import host_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portspec.state.changes import Change
    from portspec.state.snapshot import HostState


@dataclass(frozen=True, slots=True)
class Entry:
    """A state, the changes that led to it, and what is to be told of it: they are written together or not at all.

    `story` is what was told of the host so far, None if there is nothing; `notice` what is to be told, None likewise.
    """

    state: HostState
    changes: Sequence[Change] = ()
    story: str | None = None
    notice: str | None = None

    @property
    def key(self) -> str:
        """The key of its host: the same however conf.yml spells the name."""
        return host_key(self.state.host)


class Backlog:
    """Entries in the order they came; use it in one thread.

    A state without changes and notice takes the place of the host's last waiting one, so that there are never more
    entries than hosts, changes and notices together. Of changes about the `bound` newest are kept; `dropped` counts
    the others.
    """

    def __init__(self, bound: int, dropped: int = 0) -> None:
        self.changes = 0
        self.dropped = dropped
        self._bound = bound
        self._numbers = count()
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._last: dict[str, int] = {}  # by the key of a host: the number of its last entry
        self._changed: deque[int] = deque()  # the numbers of entries with changes

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._last

    def add(self, entry: Entry) -> None:
        """Append an entry, and drop the oldest changes beyond the bound, those of a whole entry at a time."""
        key = entry.key
        number = self._last.get(key)
        if number is not None and not entry.changes and entry.notice is None:
            self._entries[number] = replace(self._entries[number], state=entry.state, story=entry.story)
            return
        if number is not None and not self._entries[number].changes and self._entries[number].notice is None:
            del self._entries[number]
        number = self._last[key] = next(self._numbers)
        self._entries[number] = entry
        if entry.changes:
            self._changed.append(number)
        self.changes += len(entry.changes)
        while self.changes > self._bound:
            self._drop_oldest()

    def batch(self, entries: int, changes: int) -> list[Entry]:
        """Give the oldest entries: so many at most, and no more once they have that many changes."""
        found: list[Entry] = []
        for entry in self._entries.values():
            if len(found) >= entries or changes <= 0:
                break
            found.append(entry)
            changes -= len(entry.changes)
        return found

    def remove(self, entries: int) -> None:
        """Forget so many of the oldest entries: they have been written."""
        for _ in range(entries):
            number, entry = self._entries.popitem(last=False)
            if entry.changes:
                self._changed.popleft()
            self.changes -= len(entry.changes)
            if self._last[entry.key] == number:
                del self._last[entry.key]

    def _drop_oldest(self) -> None:
        """Drop the oldest changes, and their entry unless it has the last state of its host, or a notice."""
        number = self._changed.popleft()
        entry = self._entries[number]
        self.changes -= len(entry.changes)
        self.dropped += len(entry.changes)
        if self._last[entry.key] == number or entry.notice is not None:
            self._entries[number] = replace(entry, changes=())
        else:
            del self._entries[number]
