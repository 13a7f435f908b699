"""The thread that writes the state file: batches what was put into transactions, and retries after failures.

Public methods of Writer put scans into a queue, or jobs, and wake the thread. Each turn of the thread moves the queue
into the pending writes, writes them if it is time to, then runs the jobs, each in a transaction of its own.

While another exporter holds the file, this one is on standby: it remembers the last state of each host and nothing
else. When it gets the lock, it takes over: it continues from the states in the file, and where its own state of a host
is newer, it writes that with the changes between the two.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from portspec import log
from portspec.restartable import RestartableThread
from portspec.state.snapshot import HostState
from portspec.store import retention
from portspec.store.faults import StoreError, StoreFault, StoreFaultKind, classify_error
from portspec.store.pending import PendingCommitter, PendingWrite, PendingWrites
from portspec.store.schema import host_key, target_key, transaction
from portspec.store.states import StateCodec, StateDocumentError, read_states
from portspec.store.status import StoreStatus
from portspec.store.takeover import is_newer, take_over, with_former

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from portspec.store.state_file import StateFile

    Job = Callable[[sqlite3.Connection], Any]

T = TypeVar("T")

BATCH_DELAY: Final = 0.5  # seconds from the first scan to the transaction, so that many share one fsync
MAX_PENDING_CHANGES: Final = 100_000
LEFT_HOSTS: Final = 65_536  # hosts that leave until the number of states in the file is limited again
STUCK_AFTER: Final = 60.0  # seconds of one turn; a commit takes milliseconds, a slow disk a few seconds
MAX_QUEUED: Final = 100_000  # scans that the thread has not processed yet, because SQLite or the disk blocks it

_THREAD_ENDED: Final = "the thread that writes has ended unexpectedly"

_log = log.get("store")


@dataclass(frozen=True, slots=True)
class _QueuedScan:
    """A host's key, its states before and after a scan, and the notification documents, see Store.put()."""

    key: str
    before: HostState
    after: HostState
    notification_state: str | None
    notification: str | None


class Writer:
    """Writes to a file in a separate thread. The public methods are thread-safe."""

    def __init__(
        self,
        file: StateFile,
        *,
        history: float,
        audit_history: float,
        wall_clock: Callable[[], float],
        retry: float,
        on_takeover: Callable[[Sequence[HostState]], None] = lambda _: None,
    ) -> None:
        self._file = file
        self._on_takeover = on_takeover
        self.history = history
        self.audit_history = audit_history
        self._wall_clock = wall_clock
        self._retry = retry
        self._thread = RestartableThread("portspec-store", self._run, self._die)
        # Used by the writer's thread only; times are of the monotonic clock:
        self._pending = PendingWrites(MAX_PENDING_CHANGES)
        self._codec = StateCodec()
        self._committer = PendingCommitter(file, self._codec, wall_clock)
        # By host key:
        self._known: dict[str, HostState] = {}
        self._known_notification_states: dict[str, str] = {}  # notification states of `_known`
        self._retained: frozenset[str] | None = None  # hosts to retain; None means all
        self._left = LEFT_HOSTS  # hosts that left since the number of states in the file was limited
        self._adopted: dict[str, HostState] = {}  # states that another exporter wrote, until the next scan here
        self._current_queue: deque[_QueuedScan] = deque()
        self._current_jobs: deque[tuple[Job, Future[Any]]] = deque()
        self._is_standby = False  # another exporter held the file at the last attempt
        self._next_try = 0.0
        self._next_retention = 0.0
        self._may_advance = False  # a restart does not advance the reference time, see retention.py
        # Shared, guarded by the condition:
        self._condition = threading.Condition()
        self._queue: deque[_QueuedScan] = deque()
        self._notification_states: dict[str, str] = {}  # notification states by host key, as they were put last
        self._jobs: deque[tuple[Job, Future[Any]]] = deque()
        self._queued_since = 0.0
        self._put_count = self._written_count = 0  # scans in total, and those that are written or dropped
        self._requested_attempts = self._made_attempts = 0  # attempts to write in total
        self._overflowed = 0
        self._is_suspect = False
        self._is_closing = False
        self._has_ended = False
        self._turns = 0
        self._turn_began: float | None = None  # None while the thread waits for work

    @property
    def status(self) -> StoreStatus:
        """The current status."""
        began = self._turn_began
        return StoreStatus(
            is_up=self._file.is_up and (began is None or time.monotonic() - began < STUCK_AFTER),
            errors=self._file.errors,
            pending=len(self._queue) + len(self._current_queue) + len(self._pending),
            dropped=self._pending.dropped + self._overflowed,
            is_held=self._file.is_held,
        )

    def start(self, known: Mapping[str, HostState]) -> None:
        """Start the thread. Raises NoThreadError if no thread can be started.

        Args:
            known: The states by host that the file has; they are written again if the file is replaced.
        """
        self._known = {**{target_key(state.target): state for state in known.values()}, **self._known}
        self._is_standby = self._file.is_held
        self._known_notification_states = _only(self._notification_states, self._known)
        self._next_try = time.monotonic() + self._retry
        self._thread.start()

    @property
    def death(self) -> BaseException | None:
        """What ended the thread unexpectedly; None while it lives, and after restart()."""
        return self._thread.death

    def restart(self) -> None:
        """Start the thread again if it has ended unexpectedly; nothing that was put is lost. Raises NoThreadError."""
        if not self._is_closing:
            self._thread.restart()

    def beat(self) -> int | None:
        """Return a number that differs from that of the last call unless the thread hangs; None while it waits."""
        return None if self._turn_began is None else self._turns

    def put(
        self, before: HostState, after: HostState, notification_state: str | None, notification: str | None
    ) -> None:
        """Queue the states before and after a scan with the notification documents; never blocks."""
        key = target_key(after.target)
        with self._condition:
            if self._is_closing:
                return
            if not self._queue:
                self._queued_since = time.monotonic()
                self._condition.notify_all()
            elif len(self._queue) >= MAX_QUEUED:
                self._drop_oldest_queued()
            self._queue.append(_QueuedScan(key, before, after, notification_state, notification))
            self._put_count += 1
            _set_or_remove(self._notification_states, key, notification_state)

    def known(self, hosts: Iterable[str]) -> dict[str, HostState]:
        """Return the states in memory of some hosts."""
        return {host: state for host in hosts if (state := self._known.get(host_key(host)))}

    def _drop_oldest_queued(self) -> None:
        """Drop the oldest queued scan that has no notification."""
        for index, queued in enumerate(self._queue):
            if queued.notification is None:
                del self._queue[index]
                self._overflowed += 1
                return

    def notification_state(self, host: str) -> str | None:
        """Return the notification state of a host, as it was put or restored last."""
        return self._notification_states.get(host_key(host))

    def restore_notification_state(self, host: str, document: str) -> None:
        """Set the notification state of a host from the file, unless the host was put."""
        key = host_key(host)
        with self._condition:
            if key not in self._known:
                self._notification_states.setdefault(key, document)

    def carry_notification_state(self, former: str, host: str) -> None:
        """Set the notification state of a host to that under its former name."""
        with self._condition:
            _set_or_remove(self._notification_states, host_key(host), self.notification_state(former))

    def transact(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run a job in a transaction of the thread, after what was put so far; wait for its result.

        Raises StoreError if the file cannot be written, at once if that is already known.
        """
        future: Future[T] = Future()
        with self._condition:
            if self._is_closing or self._has_ended or not self._thread.was_started:
                raise self._error("it is closed")
            if self._thread.death is not None:
                raise self._error(_THREAD_ENDED)
            self._jobs.append((job, future))
            self._condition.notify_all()
        return future.result()

    def retain(self, keys: Iterable[str]) -> None:
        """Retain only the hosts of these keys in memory, once the states of the others are written."""
        retained = frozenset(keys)
        with self._condition:
            self._retained = retained

    def flush(self, timeout: float) -> bool:
        """Attempt to write at once; return whether everything put so far is committed within `timeout` seconds."""
        with self._condition:
            goal = self._put_count
            if self._written_count < goal and self._thread.was_started:
                self._requested_attempts += 1
                attempt = self._requested_attempts
                self._condition.notify_all()
                self._condition.wait_for(
                    lambda: self._written_count >= goal or self._made_attempts >= attempt or self._is_out_of_work,
                    timeout,
                )
            return self._written_count >= goal

    def suspect(self) -> None:
        """Have the thread check the file for corruption soon."""
        with self._condition:
            self._is_suspect = True
            self._requested_attempts += 1
            self._condition.notify_all()

    def close(self, timeout: float) -> None:
        """Attempt to write once more, stop the thread and close the file; give up after `timeout` seconds."""
        with self._condition:
            self._is_closing = True
            self._condition.notify_all()
        self._thread.join(timeout)
        if not self._has_ended and (not self._thread.was_started or self._thread.death is not None):
            self._run()
        if not self._has_ended:
            _log.error("timed out writing the state file; pending results are lost", file=self._file.path)

    @property
    def _is_out_of_work(self) -> bool:
        return self._has_ended or self._thread.death is not None

    def _run(self) -> None:
        while not self._turn():
            pass
        try:
            self._log_lost()
        finally:
            self._end()

    def _die(self, _: BaseException) -> None:
        """Close the file, and fail the jobs that other threads wait for; scans wait for restart()."""
        self._file.is_up = False
        self._turn_began = None
        with self._condition:
            self._put_back()
            self._condition.notify_all()
        self._fail_jobs(_THREAD_ENDED)
        self._file.close()

    def _turn(self) -> bool:
        """Wait for work and do it; return whether this was the last turn. No Exception ends the thread."""
        queue, jobs, put_count, requested, is_last = self._wait()
        self._current_queue, self._current_jobs = queue, jobs
        self._turn_began = time.monotonic()
        self._turns += 1
        is_written = False
        try:
            self._absorb(queue)
            is_written = self._is_due(is_requested=requested > self._made_attempts, is_last=is_last) and self._attempt()
        except Exception:  # noqa: BLE001 - other threads wait for this one
            _log.exception("unexpected error while writing the state file; continuing", file=self._file.path)
            self._file.is_up = False
            self._next_try = time.monotonic() + self._retry
        with self._condition:
            self._put_back()
            if is_written:
                self._written_count = put_count
            self._made_attempts = requested
            self._condition.notify_all()
        for job, future in jobs:
            self._run_job(job, future)
            self._turns += 1
        self._current_jobs = deque()
        self._turn_began = None
        return is_last

    def _log_lost(self) -> None:
        if self._pending:
            _log.error(
                "could not write the state file before the shutdown; pending results are lost",
                file=self._file.path,
                hosts=len(self._pending),
                changes=self._pending.changes,
            )

    def _end(self) -> None:
        """Release the file, and fail the jobs that other threads wait for."""
        self._file.is_up = False
        self._turn_began = None
        try:
            self._file.release()
        finally:
            with self._condition:
                self._has_ended = True
                self._condition.notify_all()
            self._fail_jobs("it is closed")

    def _put_back(self) -> None:
        """Queue the scans again that a turn left, since an error ended it."""
        if self._current_queue:
            self._queue.extendleft(reversed(self._current_queue))
            self._current_queue.clear()
            self._queued_since = time.monotonic()

    def _fail_jobs(self, why: str) -> None:
        with self._condition:
            jobs, self._jobs = (*self._current_jobs, *self._jobs), deque()
            self._current_jobs = deque()
        for future in (future for _, future in jobs if not future.done()):
            future.set_exception(self._error(why))

    def _error(self, why: str) -> StoreError:
        return StoreError(self._file.path, StoreFault(StoreFaultKind.OTHER, why))

    def _wait(self) -> tuple[deque[_QueuedScan], deque[tuple[Job, Future[Any]]], int, int, bool]:
        """Wait for work.

        Returns:
            The queued scans, the jobs, the number of scans put so far, the number of attempts requested so far, and
            whether to stop.
        """
        with self._condition:
            while not self._is_closing and self._requested_attempts == self._made_attempts and not self._jobs:
                due = self._next_retention if self._file.is_up else self._next_try
                if self._queue:
                    due = min(due, self._queued_since + BATCH_DELAY)
                pause = due - time.monotonic()
                if pause <= 0:
                    break
                self._condition.wait(pause)
            queue, self._queue = self._queue, deque()
            jobs, self._jobs = self._jobs, deque()
            return queue, jobs, self._put_count, self._requested_attempts, self._is_closing

    def _run_job(self, job: Job, future: Future[Any]) -> None:
        """Run a job, unless the file is known not to be writable."""
        if not self._file.is_up:
            future.set_exception(StoreError(self._file.path, self._file.fault))
            return
        try:
            connection = self._file.open()
            self._file.verify_not_replaced()
            with transaction(connection):
                result = job(connection)
            self._file.verify_not_replaced(is_after_commit=True)
        except (StoreFault, sqlite3.Error, OSError) as error:
            self._file.failed(error)
            self._next_try = time.monotonic() + self._retry
            future.set_exception(StoreError(self._file.path, classify_error(error)))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for the job
            future.set_exception(error)
        else:
            future.set_result(result)

    def _absorb(self, queue: deque[_QueuedScan]) -> None:
        """Move queued scans into the pending writes; what is moved is in the queue no more, whatever ends this."""
        while queue:
            queued = queue.popleft()
            key, after = queued.key, queued.after
            if self._is_standby:  # changes and notifications are derived from the other exporter's states at takeover
                self._known[key] = after
                continue
            adopted = self._adopted.get(key)
            if adopted is not None and is_newer(adopted, after):
                continue
            before = self._adopted.pop(key, queued.before)
            self._known[key] = after
            _set_or_remove(self._known_notification_states, key, queued.notification_state)
            self._pending.add(PendingWrite.between(before, after, queued.notification_state, queued.notification))

    def _is_due(self, *, is_requested: bool, is_last: bool) -> bool:
        if is_last:
            return bool(self._pending)
        return is_requested or self._file.is_up or time.monotonic() >= self._next_try

    def _attempt(self) -> bool:
        """Write everything that is pending; return whether that succeeded."""
        for _ in range(2):
            try:
                self._write()
            except Exception as error:  # noqa: BLE001 - logged and retried
                is_to_be_retried = self._file.failed(error)
                self._is_standby = self._is_standby or self._file.is_held
                if not is_to_be_retried:
                    break
            else:
                self._file.succeeded(self.status.dropped)
                if self._retained is not None:
                    self._left += len(self._known.keys() - self._retained)
                    self._known = _only(self._known, self._retained)
                    self._known_notification_states = _only(self._known_notification_states, self._retained)
                    with self._condition:
                        self._notification_states = _only(self._notification_states, self._retained)
                    self._retained = None
                return True
        self._next_try = time.monotonic() + self._retry
        return False

    def _write(self) -> None:
        is_suspect, self._is_suspect = self._is_suspect, False
        is_new_connection = is_suspect or not self._file.is_open
        connection = self._file.open(is_suspect=is_suspect)
        if self._is_standby:
            self._take_over(connection)
        elif is_new_connection:
            self._write_again(connection)
        self._file.verify_not_replaced()
        self._committer.commit(connection, self._pending)
        if time.monotonic() >= self._next_retention:
            has_more = retention.delete_expired(
                connection,
                self.history,
                self._wall_clock(),
                audit_history=self.audit_history,
                may_advance=self._may_advance,
            )
            self._may_advance = not has_more
            if not has_more:
                self._next_retention = time.monotonic() + retention.INTERVAL
        if self._left >= LEFT_HOSTS:
            if deleted := retention.delete_excess_states(connection):
                _log.warning(
                    "the state file has too many hosts that left; the oldest states are deleted", states=deleted
                )
            self._left = 0

    def _write_again(self, connection: sqlite3.Connection) -> None:
        """Write all known states again: the file may be another one than before."""
        if not connection.execute("SELECT EXISTS (SELECT 1 FROM state)").fetchone()[0]:
            # queued mails are lost with the old file, so that the notifications must be sent again
            self._known_notification_states.clear()
            with self._condition:
                self._notification_states.clear()
        for key, state in self._known.items():
            if key not in self._pending:
                document = self._known_notification_states.get(key)
                self._pending.add(PendingWrite(state, notification_state=document))

    def _take_over(self, connection: sqlite3.Connection) -> None:
        """Continue from the states and notification states that another exporter wrote.

        If this exporter scanned a host later, its state is written with the changes since the other one's. Pending
        writes are dropped: the other exporter has written the same and sent the same mails.
        """
        rows = {host_key(host): (document, notified) for host, document, notified in read_states(connection)}
        with self._condition:
            self._absorb(self._queue)
            rows = with_former(rows, self._known)
            self._notification_states = {key: notified for key, (_, notified) in rows.items() if notified is not None}
        self._known_notification_states = _only(self._notification_states, self._known)
        self._pending = PendingWrites(MAX_PENDING_CHANGES, self._pending.dropped)
        found = take_over(self._known, lambda key, state: self._decode(rows.get(key), state))
        self._adopted = found.adopted
        for key, (theirs, ours) in found.ours.items():
            self._pending.add(PendingWrite.between(theirs, ours, self._known_notification_states.get(key)))
        self._known |= self._adopted
        self._is_standby = False
        self._on_takeover(tuple(self._adopted.values()))

    def _decode(self, row: tuple[str, str | None] | None, state: HostState) -> HostState:
        """Return the state of a host in the file, or an empty one."""
        if row is not None:
            try:
                return self._codec.decode(row[0], state.target, self._wall_clock())
            except StateDocumentError as error:
                _log.error("the state file has an invalid state", host=state.host, why=str(error))
        return HostState(state.target)


def _only(values: Mapping[str, T], keys: Container[str]) -> dict[str, T]:
    return {key: value for key, value in values.items() if key in keys}


def _set_or_remove(documents: dict[str, str], key: str, document: str | None) -> None:
    if document is None:
        documents.pop(key, None)
    else:
        documents[key] = document
