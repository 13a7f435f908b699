"""The store as the rest of portspec sees it."""

from __future__ import annotations

import math
import os
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from portspec import log
from portspec.store import archive, records
from portspec.store.archive import Archive
from portspec.store.encoding import DocumentError, Encoding, host_key
from portspec.store.file import File
from portspec.store.lock import Holder
from portspec.store.packing import PackingError
from portspec.store.schema import verify
from portspec.store.trouble import Kind, StoreError, Trouble
from portspec.store.writer import StoreStatus, Writer

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from portspec.inventory import Target
    from portspec.state.changes import Change
    from portspec.state.snapshot import HostState
    from portspec.store.archive import Archived

T = TypeVar("T")

REPORT_HISTORY: Final = 90 * 86_400.0  # seconds

_log = log.get("store")


class Store:
    """The last state of every host, the log of their changes and their reports, in the SQLite file at `path`.

    Changes are kept for `history` seconds, reports for `report_history`. While the file cannot be written, what is put
    is kept in memory, the oldest changes being dropped beyond writer.MAX_CHANGES, and the writing is tried again every
    `retry` seconds. `wall_clock` gives Unix seconds.

    open() takes the lock of the file for this process, which runs with the conf.yml at `config`, as one `shard` ("0/3")
    of several or as the only one; close() releases it. While another process has the lock nothing is written, nothing
    waits, and it is tried again. Once the lock is free, `on_takeover` is called in the thread that writes, with the
    states in the file that are newer than those that were put.
    """

    def __init__(
        self,
        path: str,
        *,
        history: float,
        report_history: float = REPORT_HISTORY,
        wall_clock: Callable[[], float] = time.time,
        retry: float = 10.0,
        config: str = "",
        shard: str = "",
        on_takeover: Callable[[Sequence[HostState]], None] = lambda _: None,
    ) -> None:
        self._wall_clock = wall_clock
        holder = Holder(os.getpid(), socket.gethostname(), os.path.realpath(config), time.time(), shard)
        self._file = File(path, wall_clock, holder)
        self._writer = Writer(
            self._file,
            history=history,
            report_history=report_history,
            wall_clock=wall_clock,
            retry=retry,
            on_takeover=on_takeover,
        )
        self._restored: dict[str, HostState] = {}

    @property
    def path(self) -> str:
        """The real path of the file."""
        return self._file.path

    def open(self, targets: Iterable[Target]) -> dict[str, HostState]:
        """Open or create the file, and give what it has of these targets, judged anew, by host.

        Call it once, before start(). It takes a few seconds at most, and never raises: what is wrong is told in the
        log, and in the status; what can be read is given all the same.
        """
        for _ in range(2):
            try:
                self._file.opened()
            except Exception as error:  # noqa: BLE001 - whatever it is, scanning goes on
                if not self._file.failed(error):
                    break
            else:
                self._file.succeeded()
                break
        try:
            self._restored = self._restore(targets)
        except StoreError as error:
            if self._file.is_up:
                self._file.errors += 1
                _log.error("the last states cannot be read", file=error.path, why=error.why, todo=error.kind.value)
                self._suspect(error)
        return dict(self._restored)

    def restore(self, targets: Iterable[Target]) -> dict[str, HostState]:
        """Give what is known of targets that open() was not told of: what was put, else what the file has."""
        wanted = {target.host: target for target in targets}
        try:
            found = self._restore(wanted.values())
        except StoreError as error:
            self._suspect(error)
            found = {}
        now = self._wall_clock()
        return found | {host: state.under(wanted[host], now) for host, state in self._writer.known(wanted).items()}

    def keep(self, hosts: Iterable[str]) -> None:
        """Forget what is kept in memory of any other host, once it is written."""
        self._writer.keep(hosts)

    @property
    def history(self) -> float:
        """How long changes are kept, in seconds; may be set anew."""
        return self._writer.history

    @history.setter
    def history(self, seconds: float) -> None:
        self._writer.history = seconds

    @property
    def report_history(self) -> float:
        """How long reports of hosts are kept, in seconds; may be set anew."""
        return self._writer.report_history

    @report_history.setter
    def report_history(self, seconds: float) -> None:
        self._writer.report_history = seconds

    def start(self) -> None:
        """Start the thread that writes, once. Raises NoThreadError when no thread can be started."""
        self._writer.start(self._restored)

    def put(self, before: HostState, after: HostState, story: str | None = None, notice: str | None = None) -> None:
        """Have a host's state after a scan written, and what changed since the one `before`; at once, never raises.

        `story` is what is known by then to those who get mails of it, `notice` what they are to be told. All of it is
        written in one transaction. It is committed within a second or so; flush() waits for that.
        """
        self._writer.put(before, after, story, notice)

    def story(self, host: str) -> str | None:
        """Give the story of a host that was put, or is in the file; None if it has none."""
        return self._writer.story(host)

    def perform(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Do something to the file in one transaction and give what comes of it; not on the event loop.

        Raises StoreError when the file cannot be written, at once while that is known.
        """
        return self._writer.perform(job)

    def flush(self, timeout: float) -> bool:
        """Tell whether everything put so far is committed, after at most `timeout` seconds.

        It is tried at once, also where the next try would be later; when that fails, the answer is False without
        further waiting.
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
        """Give committed changes with their numbers, the newest first: `limit` at most, of all hosts or one.

        Their `host` is the key of the host, however conf.yml spells it. since ≤ at < until, in Unix seconds.
        `before_id` turns the page: the last number of the one before. Callable from any thread; raises StoreError when
        the file cannot be read.
        """
        try:
            with self._file.reading() as connection:
                return records.read_changes(
                    connection, host=host, since=since, until=until, before_id=before_id, limit=limit
                )
        except StoreError as error:
            self._suspect(error)
            raise

    def archived(self, host: str, day: str | None = None, *, until: float = math.inf) -> Archived | None:
        """Give the report of a host and day ("2026-11-22"), by default the last that was made until a Unix time.

        This and what follows need neither open() nor start(), are for any thread, and raise StoreError when the file is
        not there or cannot be read. A file that an earlier portspec wrote has no reports.
        """
        with self._reading_archive() as connection:
            try:
                if connection is None:
                    return None
                held = Archive()
                return held.last(connection, host, until) if day is None else held.of_day(connection, host, day)
            except PackingError as error:
                why = f"the report of {host} of {day} is garbled: {error}"
                raise StoreError(self._file.path, Trouble(Kind.CORRUPT, why)) from error

    def archived_days(self, host: str) -> list[str]:
        """Give the days of which there is a report of a host, the newest first."""
        with self._reading_archive() as connection:
            return [] if connection is None else Archive().days(connection, host)

    def last_reports(self, until: float = math.inf) -> dict[str, int]:
        """Give the number of each host's report of the last day, of those that were made until a Unix time."""
        with self._reading_archive() as connection:
            return {} if connection is None else archive.last_numbers(connection, until)

    def audit_documents(self) -> dict[str, tuple[int, str]]:
        """Give by host the number of the report that was read last, and what it came to, as a document."""
        with self._reading_archive() as connection:
            if connection is None:
                return {}
            return {host: (number, document) for host, number, document in Archive().documents(connection)}

    @property
    def status(self) -> StoreStatus:
        """How the store does; callable from any thread."""
        return self._writer.status

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, end the thread, write the -wal back into the file and close it; may be called again.

        After `timeout` seconds it is left to itself.
        """
        self._writer.close(timeout)

    @contextmanager
    def _reading_archive(self) -> Iterator[sqlite3.Connection | None]:
        """Give a connection that reads; None if the file is of a version without an archive."""
        with self._file.reading() as connection:
            yield connection if verify(connection) >= archive.VERSION else None

    def _restore(self, targets: Iterable[Target]) -> dict[str, HostState]:
        """Read the states of targets by host, leaving out those that cannot be read. Raises StoreError."""
        wanted = {host_key(target.host): target for target in targets}
        encoding, now = Encoding(), self._wall_clock()
        found: dict[str, HostState] = {}
        unreadable: dict[str, DocumentError] = {}
        with self._file.reading() as connection:
            for key, document, story in records.read_documents(connection):
                if target := wanted.get(key):
                    if story is not None:
                        self._writer.restore_story(key, story)
                    try:
                        found[target.host] = encoding.decode(document, target, now)
                    except DocumentError as error:
                        unreadable[target.host] = error
        if unreadable:
            self._file.errors += len(unreadable)
            host, first = next(iter(unreadable.items()))
            _log.error(
                "states in the file cannot be read: these hosts are unknown until their next scan",
                file=self._file.path,
                hosts=len(unreadable),
                first=host,
                why=str(first),
            )
        return found

    def _suspect(self, error: StoreError) -> None:
        if error.kind is Kind.CORRUPT:
            self._writer.suspect()
