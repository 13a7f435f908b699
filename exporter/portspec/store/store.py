"""The interface of the store to the rest of portspec."""

from __future__ import annotations

import math
import os
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from portspec import log
from portspec.heartbeat import Heartbeat
from portspec.store import archive
from portspec.store.archive import Archive
from portspec.store.compression import CompressionError
from portspec.store.faults import StoreError, StoreFault, StoreFaultKind
from portspec.store.lock import LockHolder
from portspec.store.schema import host_key, target_key, verify
from portspec.store.state_file import StateFile
from portspec.store.states import StateCodec, StateDocumentError, read_changes, read_states_of, read_verdicts
from portspec.store.writer import STUCK_AFTER, Writer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from portspec.inventory import Target
    from portspec.state.changes import Change, DatedVerdict
    from portspec.state.snapshot import HostState
    from portspec.store.archive import ArchivedAudit
    from portspec.store.status import StoreStatus

T = TypeVar("T")

DEFAULT_AUDIT_HISTORY: Final = 90 * 86_400.0  # seconds

FLUSH_PATIENCE: Final = 2.0  # seconds to wait for what was just put, before a state is looked for by a former name

_log = log.get("store")


@dataclass(slots=True)
class Restored:
    """What the store knows of some targets.

    Attributes:
        states: The states by host.
        former: By host, the former name under which its state was known, where that is not its present one.
    """

    states: dict[str, HostState] = field(default_factory=dict)
    former: dict[str, str] = field(default_factory=dict)


class Store:
    """The states of hosts, the change log, the verdicts and the archive of audits, in the SQLite file at `path`.

    While the file cannot be written, results are kept in memory and writing is retried; beyond
    writer.MAX_PENDING_CHANGES the oldest changes are dropped.

    open() takes the lock of the file and close() releases it. While another process has the lock, nothing is written
    and nothing is kept for later.

    A host whose target has former names goes on with what is known under the first of them that has a state, if there
    is none under its present name. `former_names` are those of the hosts, by the key of the host: their changes and
    verdicts are read under all names.

    Args:
        path: The path of the file.
        history: How long to keep changes, in seconds.
        audit_history: How long to keep audits, in seconds.
        wall_clock: Returns Unix seconds.
        retry: The interval between attempts to write after a failure, in seconds.
        config: The path of conf.yml, for the lock file.
        shard: The shard of this process, such as "0/3", for the lock file; empty without shards.
        on_takeover: Called in the writer's thread when another process has released the lock, with the states in the
            file that are newer than those of this process.
    """

    def __init__(
        self,
        path: str,
        *,
        history: float,
        audit_history: float = DEFAULT_AUDIT_HISTORY,
        wall_clock: Callable[[], float] = time.time,
        retry: float = 10.0,
        config: str = "",
        shard: str = "",
        on_takeover: Callable[[Sequence[HostState]], None] = lambda _: None,
    ) -> None:
        self._wall_clock = wall_clock
        holder = LockHolder(os.getpid(), socket.gethostname(), os.path.realpath(config), time.time(), shard)
        self._file = StateFile(path, wall_clock, holder)
        self._writer = Writer(
            self._file,
            history=history,
            audit_history=audit_history,
            wall_clock=wall_clock,
            retry=retry,
            on_takeover=on_takeover,
        )
        self._restored: dict[str, HostState] = {}
        self.former_names: Mapping[str, Sequence[str]] = MappingProxyType({})

    @property
    def path(self) -> str:
        """The real path of the file."""
        return self._file.path

    def open(self, targets: Iterable[Target]) -> dict[str, HostState]:
        """Open or create the file and return the states of these targets by host, judged by their specification.

        Call it once, before start(). It takes a few seconds at most, longer only for a migration. It never raises:
        faults are logged and shown in `status`, and states that are readable are returned anyway.
        """
        for _ in range(2):
            try:
                self._file.open()
            except Exception as error:  # noqa: BLE001 - scanning continues in any case
                if not self._file.failed(error):
                    break
            else:
                self._file.succeeded()
                break
        try:
            self._restored = self._read_states(targets)[0].states
        except StoreError as error:
            if self._file.is_up:
                self._file.errors += 1
                _log.error("cannot read the last states", file=error.path, why=error.why, todo=error.kind.value)
                self._suspect(error)
        return dict(self._restored)

    def restore(self, targets: Iterable[Target]) -> Restored:
        """Return the states of targets that were not passed to open(): those that were put, else those in the file."""
        wanted = tuple(targets)
        if any(target.renamed_from for target in wanted):
            self._writer.flush(FLUSH_PATIENCE)
        try:
            found, keys = self._read_states(wanted)
        except StoreError as error:
            self._suspect(error)
            found, keys = Restored(), {}
        now = self._wall_clock()
        for target in wanted:
            names = (target_key(target), *target.renamed_from)
            known = self._writer.known(names)
            name = next((name for name in names if name in known or name == keys.get(target.host)), None)
            if name in known:
                found.states[target.host] = known[name].under(target, now)
                found.former.pop(target.host, None)
                if name != names[0]:
                    found.former[target.host] = name
                    self._writer.carry_notification_state(name, target.host)
        return found

    def carry_notification_state(self, former: str, host: str) -> None:
        """Have what the recipients of mails know of a host under its former name count for it."""
        self._writer.carry_notification_state(former, host)

    def retain(self, keys: Iterable[str]) -> None:
        """Drop other hosts than those of these keys (schema.host_key) from memory once their states are written."""
        self._writer.retain(keys)

    @property
    def history(self) -> float:
        """How long to keep changes, in seconds; may be changed."""
        return self._writer.history

    @history.setter
    def history(self, seconds: float) -> None:
        self._writer.history = seconds

    @property
    def audit_history(self) -> float:
        """How long to keep audits, in seconds; may be changed."""
        return self._writer.audit_history

    @audit_history.setter
    def audit_history(self, seconds: float) -> None:
        self._writer.audit_history = seconds

    def start(self) -> None:
        """Start the writer's thread; call it once. Raises NoThreadError if no thread can be started."""
        self._writer.start(self._restored)

    @property
    def death(self) -> BaseException | None:
        """What ended the writer's thread unexpectedly; None while it lives, and after restart()."""
        return self._writer.death

    def restart(self) -> None:
        """Start the writer's thread again if it has ended unexpectedly. Raises NoThreadError."""
        self._writer.restart()

    def heartbeats(self) -> tuple[Heartbeat]:
        """Return the heartbeat of the writer's thread; a restart does not help a disk that does not answer."""
        return (Heartbeat("state file", self._writer.beat(), STUCK_AFTER, is_vital=False),)

    def put(
        self,
        before: HostState,
        after: HostState,
        notification_state: str | None = None,
        notification: str | None = None,
    ) -> None:
        """Write a host's state after a scan, and the changes since the state `before`; never blocks or raises.

        All of it is one transaction, which is committed within about a second; flush() waits for that.

        Args:
            before: The state before the scan.
            after: The state after the scan.
            notification_state: What the recipients of mails know of the host from now on, as a document.
            notification: The notification to send to them, as a document.
        """
        self._writer.put(before, after, notification_state, notification)

    def notification_state(self, host: str) -> str | None:
        """Return the notification state of a host, as it was put or is in the file; None if it has none."""
        return self._writer.notification_state(host)

    def transact(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run a job in one transaction and return its result; blocks, so do not call it on the event loop.

        Raises StoreError if the file cannot be written, at once if that is already known.
        """
        return self._writer.transact(job)

    def read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Run a job that only reads, and return its result; blocks. Also while another exporter holds the file.

        Raises StoreError if the file cannot be read.
        """
        try:
            with self._file.reading() as connection:
                return job(connection)
        except StoreError as error:
            self._suspect(error)
            raise

    def flush(self, timeout: float) -> bool:
        """Return whether everything put so far is committed, after at most `timeout` seconds.

        Writing is attempted at once, even if the next retry is later; if it fails, this returns False at once.
        """
        return self._writer.flush(timeout)

    def changes(
        self,
        *,
        host: str | None = None,
        since: float | None = None,
        until: float | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> tuple[tuple[int, Change], ...]:
        """Return committed changes with their ids, the newest first. Thread-safe.

        The `host` of a change is the key of the host, see schema.host_key().

        Args:
            host: Return changes of this host only, also those under its former names.
            since: The earliest time of a change, in Unix seconds.
            until: The end of the time range (exclusive), in Unix seconds.
            before_id: The last id of the previous page.
            limit: The maximum number of changes.

        Raises:
            StoreError: The file cannot be read.
        """
        former = () if host is None else self.former_names.get(host_key(host), ())
        return self.read(
            lambda file: read_changes(
                file, host=host, former=former, since=since, until=until, before_id=before_id, limit=limit
            )
        )

    def verdicts(self, host: str, *, limit: int = 100) -> tuple[DatedVerdict, ...]:
        """Return the committed verdicts of a host, each with the time since when it held, the newest first.

        Those under its former names are among them. Thread-safe. Their `host` is the key of the host, see
        schema.host_key(). A verdict that held only while the file could not be written may be missing. Raises
        StoreError if the file cannot be read.
        """
        former = self.former_names.get(host_key(host), ())
        return self.read(lambda file: read_verdicts(file, host, limit, former))

    def find_audit(self, host: str, day: str | None = None, *, until: float = math.inf) -> ArchivedAudit | None:
        """Return the audit of a host and day ("2026-11-22"), by default the latest one made until a Unix time.

        This and the following methods are thread-safe and need neither open() nor start(). They raise StoreError if the
        file does not exist or cannot be read. A file from before schema version 3 has no audits.
        """
        with self._reading_archive() as connection:
            try:
                if connection is None:
                    return None
                audits = Archive()
                return audits.latest(connection, host, until) if day is None else audits.find(connection, host, day)
            except CompressionError as error:
                why = f"the audit of {host} of {day} is corrupt: {error}"
                raise StoreError(self._file.path, StoreFault(StoreFaultKind.CORRUPT, why)) from error

    def audit_days(self, host: str) -> list[str]:
        """Return the days for which there is an audit of a host, the newest first."""
        with self._reading_archive() as connection:
            return [] if connection is None else Archive().days(connection, host)

    def latest_audits(self, until: float = math.inf) -> dict[str, int]:
        """Return the number of each host's audit of the latest day, of those that were made until a Unix time."""
        with self._reading_archive() as connection:
            return {} if connection is None else archive.latest_numbers(connection, until)

    def audit_results(self) -> dict[str, tuple[int, str]]:
        """Return by host the number of the audit that was read last, and its result as a document."""
        with self._reading_archive() as connection:
            if connection is None:
                return {}
            return {host: (number, document) for host, number, document in Archive().results(connection)}

    @property
    def status(self) -> StoreStatus:
        """The status of the store. Thread-safe."""
        return self._writer.status

    def close(self, timeout: float = 5.0) -> None:
        """Write pending results, stop the thread and close the file; may be called again.

        Gives up after `timeout` seconds.
        """
        self._writer.close(timeout)

    @contextmanager
    def _reading_archive(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a read-only connection; None if the file has no archive."""
        with self._file.reading() as connection:
            yield connection if verify(connection) >= archive.MIN_VERSION else None

    def _read_states(self, targets: Iterable[Target]) -> tuple[Restored, dict[str, str]]:
        """Return what the file knows of targets, without invalid states, and by host the name that has a state.

        Raises StoreError.
        """
        codec, now = StateCodec(), self._wall_clock()
        found = Restored()
        keys: dict[str, str] = {}
        invalid: dict[str, StateDocumentError] = {}
        with self._file.reading() as connection:
            for target, key, document, notification_state in read_states_of(connection, targets):
                own, host = target_key(target), target.host
                keys[host] = key
                if notification_state is not None:
                    self._writer.restore_notification_state(own, notification_state)
                try:
                    found.states[host] = codec.decode(document, target, now)
                except StateDocumentError as error:
                    invalid[host] = error
                else:
                    if key != own:
                        found.former[host] = key
        if invalid:
            self._file.errors += len(invalid)
            host, first = next(iter(invalid.items()))
            _log.error(
                "the state file has invalid states; these hosts are unknown until their next scan",
                file=self._file.path,
                hosts=len(invalid),
                first=host,
                why=str(first),
            )
        return found, keys

    def _suspect(self, error: StoreError) -> None:
        if error.kind is StoreFaultKind.CORRUPT:
            self._writer.suspect()
