"""The thread that writes: what was put is written together, and again and again while it cannot be."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from portspec import log
from portspec.state.changes import Change, changes
from portspec.state.snapshot import HostState
from portspec.store import history, records
from portspec.store.backlog import Backlog, Entry
from portspec.store.encoding import DocumentError, Encoding, host_key
from portspec.store.schema import transaction
from portspec.store.trouble import Kind, StoreError, Trouble, trouble_of
from portspec.threads import start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from portspec.store.file import File

    Job = Callable[[sqlite3.Connection], Any]

T = TypeVar("T")

LINGER: Final = 0.5  # seconds between what is put first and the transaction: it costs a disk's fsync, not one a host
MAX_CHANGES: Final = 100_000  # that wait
MAX_PUT: Final = 100_000  # scans that the thread has not yet looked at, because SQLite or the disk holds it

_BATCH_ENTRIES, _BATCH_CHANGES = 1000, 10_000  # some tens of milliseconds
#: What SQLite's module says of a value that it cannot take, and now and then of a connection.
_UNWRITABLE = (
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    ValueError,
    TypeError,
    OverflowError,
)

_log = log.get("store")


@dataclass(frozen=True, slots=True)
class _Put:
    """A host's key, its states before and after a scan, what its recipients were told, and what they are to be told."""

    key: str
    before: HostState
    after: HostState
    story: str | None
    notice: str | None


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How the store does: `errors` counts failures, `dropped` changes that are lost.

    `pending` is how many scans wait to be written, several of one host that changed nothing counting once. While
    another exporter holds the file, `is_held`, nothing waits: it is that one's to write.
    """

    is_up: bool
    errors: int
    pending: int
    dropped: int
    is_held: bool = False


class Writer:
    """Writes to a file in a thread of its own. The public methods are for any thread."""

    def __init__(
        self,
        file: File,
        *,
        history: float,
        report_history: float,
        wall_clock: Callable[[], float],
        retry: float,
        on_takeover: Callable[[Sequence[HostState]], None] = lambda _: None,
    ) -> None:
        self._file = file
        self._on_takeover = on_takeover
        self.history = history
        self.report_history = report_history
        self._wall_clock = wall_clock
        self._retry = retry
        self._thread: threading.Thread | None = None
        # Of the thread that writes alone; times are of the monotonic clock:
        self._backlog = Backlog(MAX_CHANGES)
        self._encoding = Encoding()
        # By the key of a host:
        self._known: dict[str, HostState] = {}
        self._told: dict[str, str] = {}  # the stories of what is known
        self._kept: frozenset[str] | None = None  # None is all
        self._adopted: dict[str, HostState] = {}  # what another exporter wrote, until the next scan here
        self._taken: deque[tuple[Job, Future[Any]]] = deque()  # of the jobs, those of this turn
        self._stands_by = False  # another exporter holds the file, or held it when it was last tried
        self._next_try = 0.0
        self._next_forgetting = 0.0
        self._may_advance = False  # not by a restart
        # Shared, by the condition:
        self._condition = threading.Condition()
        self._queue: deque[_Put] = deque()
        self._stories: dict[str, str] = {}  # by the key of a host, as they were put last
        self._jobs: deque[tuple[Job, Future[Any]]] = deque()
        self._queued_since = 0.0
        self._put = self._settled = 0  # scans, ever; those of them that wait no longer
        self._asked = self._answered = 0  # tries to write that were asked for, ever, and that were made
        self._overflowed = 0
        self._is_suspect = False
        self._is_closing = False
        self._has_ended = False

    @property
    def status(self) -> StoreStatus:
        """How it does now."""
        return StoreStatus(
            is_up=self._file.is_up,
            errors=self._file.errors,
            pending=len(self._queue) + len(self._backlog),
            dropped=self._backlog.dropped + self._overflowed,
            is_held=self._file.is_held,
        )

    def start(self, known: Mapping[str, HostState]) -> None:
        """Start the thread; the states that are `known` are written again when the file is another one.

        Raises NoThreadError when no thread can be started.
        """
        self._known = {**{host_key(host): state for host, state in known.items()}, **self._known}
        self._stands_by = self._file.is_held
        self._told = {host: story for host, story in self._stories.items() if host in self._known}
        self._next_try = time.monotonic() + self._retry
        thread = threading.Thread(target=self._run, name="portspec-store", daemon=True)
        start(thread)
        self._thread = thread

    def put(self, before: HostState, after: HostState, story: str | None, notice: str | None) -> None:
        """Take a host's states before and after a scan, its story and perhaps a notice; at once."""
        key = host_key(after.host)
        with self._condition:
            if self._is_closing:
                return
            if not self._queue:
                self._queued_since = time.monotonic()
                self._condition.notify_all()
            elif len(self._queue) >= MAX_PUT:
                self._drop_oldest()
            self._queue.append(_Put(key, before, after, story, notice))
            self._put += 1
            _note(self._stories, key, story)

    def known(self, hosts: Iterable[str]) -> dict[str, HostState]:
        """Give the states of some hosts that were put and are kept."""
        return {host: state for host in hosts if (state := self._known.get(host_key(host)))}

    def _drop_oldest(self) -> None:
        """Drop the oldest scan that waits to be looked at, but for those with a notice."""
        for place, put in enumerate(self._queue):
            if put.notice is None:
                del self._queue[place]
                self._overflowed += 1
                return

    def story(self, host: str) -> str | None:
        """Give what was told of a host, as it was put last or restored."""
        return self._stories.get(host_key(host))

    def restore_story(self, host: str, story: str) -> None:
        """Take up what the file has, of a host that was not put."""
        key = host_key(host)
        with self._condition:
            if key not in self._known:
                self._stories.setdefault(key, story)

    def perform(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Have the thread do something in a transaction, after what was put so far, and wait for it.

        Raises StoreError when the file cannot be written, at once while that is known.
        """
        future: Future[T] = Future()
        with self._condition:
            if self._is_closing or self._has_ended or self._thread is None:
                raise StoreError(self._file.path, Trouble(Kind.OTHER, "it is closed"))
            self._jobs.append((job, future))
            self._condition.notify_all()
        return future.result()

    def keep(self, hosts: Iterable[str]) -> None:
        """Keep the states of these hosts only, from when the others are written."""
        kept = frozenset(map(host_key, hosts))
        with self._condition:
            self._kept = kept

    def flush(self, timeout: float) -> bool:
        """Try at once to write what was put so far, for `timeout` seconds at most; tell whether it is committed."""
        with self._condition:
            goal = self._put
            if self._settled < goal and self._thread is not None:
                self._asked += 1
                number = self._asked
                self._condition.notify_all()
                self._condition.wait_for(
                    lambda: self._settled >= goal or self._answered >= number or self._has_ended, timeout
                )
            return self._settled >= goal

    def suspect(self) -> None:
        """Have the file looked at for corruption, soon."""
        with self._condition:
            self._is_suspect = True
            self._asked += 1
            self._condition.notify_all()

    def close(self, timeout: float) -> None:
        """Write what waits, once, end the thread and close the file; after `timeout` seconds leave it to itself."""
        with self._condition:
            self._is_closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)
        elif not self._has_ended:
            self._run()
        if not self._has_ended:
            _log.error("the state file does not answer: what waits to be written is lost", file=self._file.path)

    def _run(self) -> None:
        try:
            while not self._turn():
                pass
            self._tell_lost()
        finally:
            self._end()

    def _turn(self) -> bool:
        """Wait for something to do and do it; return whether it was the last. No error ends the thread."""
        queue, jobs, put, asked, is_last = self._wait()
        self._taken = jobs
        is_written = False
        try:
            self._absorb(queue)
            is_written = self._is_time(is_asked=asked > self._answered, is_last=is_last) and self._try()
        except Exception:  # noqa: BLE001 - others wait for this thread
            _log.exception("the thread that writes the state failed, and goes on", file=self._file.path)
            self._file.is_up = False
            self._next_try = time.monotonic() + self._retry
        with self._condition:
            if is_written:
                self._settled = put
            self._answered = asked
            self._condition.notify_all()
        for job, future in jobs:
            self._perform(job, future)
        self._taken = deque()
        return is_last

    def _tell_lost(self) -> None:
        if self._backlog:
            _log.error(
                "the state could not be written before the end: it is lost",
                file=self._file.path,
                hosts=len(self._backlog),
                changes=self._backlog.changes,
            )

    def _end(self) -> None:
        """Let go of the file, and of everybody who waits."""
        self._file.is_up = False
        try:
            self._file.release()
        finally:
            with self._condition:
                self._has_ended = True
                jobs, self._jobs = (*self._taken, *self._jobs), deque()
                self._condition.notify_all()
            for future in (future for _, future in jobs if not future.done()):
                future.set_exception(StoreError(self._file.path, Trouble(Kind.OTHER, "it is closed")))

    def _wait(self) -> tuple[deque[_Put], deque[tuple[Job, Future[Any]]], int, int, bool]:
        """Wait for something to do.

        Gives what was put, the jobs, how much was put in all, the tries that were asked for, and whether to end.
        """
        with self._condition:
            while not self._is_closing and self._asked == self._answered and not self._jobs:
                due = self._next_forgetting if self._file.is_up else self._next_try
                if self._queue:
                    due = min(due, self._queued_since + LINGER)
                pause = due - time.monotonic()
                if pause <= 0:
                    break
                self._condition.wait(pause)
            queue, self._queue = self._queue, deque()
            jobs, self._jobs = self._jobs, deque()
            return queue, jobs, self._put, self._asked, self._is_closing

    def _perform(self, job: Job, future: Future[Any]) -> None:
        """Do a job, unless the file is known not to be writable."""
        if not self._file.is_up:
            future.set_exception(StoreError(self._file.path, self._file.trouble))
            return
        try:
            connection = self._file.opened()
            self._file.verify_place()
            with transaction(connection):
                result = job(connection)
            self._file.verify_place(is_after_commit=True)
        except (Trouble, sqlite3.Error, OSError) as error:
            self._file.failed(error)
            self._next_try = time.monotonic() + self._retry
            future.set_exception(StoreError(self._file.path, trouble_of(error)))
        except BaseException as error:  # noqa: BLE001 - of the one who asked, who waits for it
            future.set_exception(error)
        else:
            future.set_result(result)

    def _absorb(self, queue: Iterable[_Put]) -> None:
        for put in queue:
            after = put.after
            if self._stands_by:  # what changed, and whom to tell, is found out by what the other one wrote in the end
                self._known[put.key] = after
                continue
            theirs = self._adopted.get(put.key)
            if theirs is not None and _is_newer(theirs, after):
                continue  # the other one has seen more
            before = self._adopted.pop(put.key, put.before)
            self._known[put.key] = after
            _note(self._told, put.key, put.story)
            self._backlog.add(Entry(after, _changes(before, after), put.story, put.notice))

    def _is_time(self, *, is_asked: bool, is_last: bool) -> bool:
        if is_last:
            return bool(self._backlog)
        return is_asked or self._file.is_up or time.monotonic() >= self._next_try

    def _try(self) -> bool:
        """Write all that waits; tell whether that was done."""
        for _ in range(2):
            try:
                self._write()
            except Exception as error:  # noqa: BLE001 - told in the log, and tried again
                is_to_be_tried = self._file.failed(error)
                self._stands_by = self._stands_by or self._file.is_held
                if not is_to_be_tried:
                    break
            else:
                self._file.succeeded(self.status.dropped)
                if self._kept is not None:
                    self._known = {host: state for host, state in self._known.items() if host in self._kept}
                    self._told = {host: told for host, told in self._told.items() if host in self._kept}
                    with self._condition:
                        self._stories = {host: told for host, told in self._stories.items() if host in self._kept}
                    self._kept = None
                return True
        self._next_try = time.monotonic() + self._retry
        return False

    def _write(self) -> None:
        is_suspect, self._is_suspect = self._is_suspect, False
        is_another = is_suspect or not self._file.is_open
        connection = self._file.opened(is_suspect=is_suspect)
        if self._stands_by:
            self._take_over(connection)
        elif is_another:
            if not connection.execute("SELECT EXISTS (SELECT 1 FROM state)").fetchone()[0]:
                self._forget_stories()  # the mails that were to tell them are gone: they are told anew
            for key, state in self._known.items():
                if key not in self._backlog:
                    self._backlog.add(Entry(state, story=self._told.get(key)))
        self._file.verify_place()
        while batch := self._backlog.batch(_BATCH_ENTRIES, _BATCH_CHANGES):
            self._write_batch(connection, batch)
        if time.monotonic() >= self._next_forgetting:
            is_more = history.forget(
                connection,
                self.history,
                self._wall_clock(),
                report_history=self.report_history,
                may_advance=self._may_advance,
            )
            self._may_advance = not is_more
            if not is_more:
                self._next_forgetting = time.monotonic() + history.EVERY

    def _write_batch(self, connection: sqlite3.Connection, batch: Sequence[Entry]) -> None:
        """Write the oldest entries; what can never be written must not keep the others from being so."""
        try:
            self._write_together(connection, batch)
        except _UNWRITABLE as error:
            connection.execute("SELECT 1")  # raises if it is the connection that is at fault
            if len(batch) > 1:
                for entry in batch:
                    self._write_batch(connection, [entry])
                return
            (entry,) = batch
            _log.error("what is known of a host cannot be written and is lost", host=entry.state.host, why=str(error))
            self._backlog.remove(1)
            self._backlog.dropped += len(entry.changes)

    def _write_together(self, connection: sqlite3.Connection, batch: Sequence[Entry]) -> None:
        found = [change for entry in batch for change in entry.changes]
        notices = [(entry.state.host, entry.notice) for entry in batch if entry.notice is not None]
        records.write(connection, self._documents(batch), found, notices, self._wall_clock())
        self._file.verify_place(is_after_commit=True)
        self._backlog.remove(len(batch))

    def _take_over(self, connection: sqlite3.Connection) -> None:
        """Go on from what another exporter wrote: its states, and what it told the recipients of mails.

        Of a host that was scanned here later, what changed since its scan is written. What waited here is dropped: the
        other one has written the same, and sent the same mails.
        """
        filed = {host_key(host): (document, story) for host, document, story in records.read_documents(connection)}
        with self._condition:
            self._absorb(self._queue)
            self._queue.clear()
            self._stories = {key: story for key, (_, story) in filed.items() if story is not None}
        self._told = {key: self._stories[key] for key in self._known if key in self._stories}
        self._backlog = Backlog(MAX_CHANGES, self._backlog.dropped)
        self._adopted = {}
        for key, state in self._known.items():
            theirs = self._filed(filed.get(key), state)
            if _is_newer(theirs, state):
                self._adopted[key] = theirs
            else:
                last_change = max(filter(None, (state.last_change, theirs.last_change)), default=None)
                merged = replace(state, last_change=last_change)
                self._backlog.add(Entry(merged, _changes(theirs, merged), self._told.get(key)))
        self._known |= self._adopted
        self._stands_by = False
        self._on_takeover(tuple(self._adopted.values()))

    def _filed(self, row: tuple[str, str | None] | None, state: HostState) -> HostState:
        """Read the state of a host in the file; that before a first scan if there is none."""
        if row is not None:
            try:
                return self._encoding.decode(row[0], state.target, self._wall_clock())
            except DocumentError as error:
                _log.error("a state in the file cannot be read", host=state.host, why=str(error))
        return HostState(state.target)

    def _forget_stories(self) -> None:
        self._told.clear()
        with self._condition:
            self._stories.clear()

    def _documents(self, batch: Sequence[Entry]) -> list[tuple[str, str, str | None]]:
        """Give the document of each host's last state, and its story."""
        documents = []
        for entry in {entry.key: entry for entry in batch}.values():
            host = entry.state.host
            try:
                documents.append((host, self._encoding.encode(entry.state), entry.story))
            except Exception:  # noqa: BLE001 - one host's must not keep the others' from being written
                _log.exception("a state cannot be written and is left out", host=host)
        return documents


def _note(stories: dict[str, str], key: str, story: str | None) -> None:
    if story is None:
        stories.pop(key, None)
    else:
        stories[key] = story


def _changes(before: HostState, after: HostState) -> tuple[Change, ...]:
    try:
        return tuple(changes(before, after))
    except Exception:  # noqa: BLE001 - one host's must not keep the others' from being written
        _log.exception("what changed cannot be told, and is not in the log", host=after.host)
        return ()


def _is_newer(one: HostState, other: HostState) -> bool:
    """Tell whether a state knows of a later scan than another, be it of one that reached a verdict."""
    pairs = ((one.latest, other.latest), (one.conclusive, other.conclusive))
    return any(a is not None and (b is None or a.finished_at > b.finished_at) for a, b in pairs)
