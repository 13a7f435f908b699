"""The tables, and how an older file becomes a present one."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from portspec.store.encoding import host_key
from portspec.store.trouble import Kind, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

APPLICATION_ID: Final = int.from_bytes(b"pspc")  # https://www.sqlite.org/pragma.html#pragma_application_id

#: The statements that lead from each version to the next; `PRAGMA user_version` is how many were taken. Append only:
#: what has been released is never edited.
MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        """CREATE TABLE state (
            host TEXT PRIMARY KEY,
            saved_at REAL NOT NULL,
            document TEXT NOT NULL
        )""",
        # AUTOINCREMENT, so that a number once given never comes again: pages are turned by it
        """CREATE TABLE change (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            host TEXT NOT NULL,
            address TEXT NOT NULL,
            ports TEXT NOT NULL,
            was TEXT,
            became TEXT NOT NULL,
            first_seen REAL NOT NULL
        )""",
        "CREATE INDEX change_at ON change (at)",
        "CREATE INDEX change_host ON change (host)",
        # thousands of scattered ports in one row would make a key longer than a page
        "CREATE INDEX change_ports ON change (host, address, became, substr(ports, 1, 40))",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value)",
    ),
    (
        # what the recipients of mails were told of a host that is not in specification
        "ALTER TABLE state ADD COLUMN story TEXT",
        # what is to be told: written with the state that it is about, and taken when the mails are
        """CREATE TABLE notice (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            host TEXT NOT NULL,
            document TEXT NOT NULL
        )""",
        """CREATE TABLE mail (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            recipient TEXT NOT NULL,
            message BLOB NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            refusals INTEGER NOT NULL DEFAULT 0,
            due REAL NOT NULL
        )""",
        "CREATE INDEX mail_due ON mail (due)",
    ),
    (
        # what reports and documents are compressed with: the newest of a kind is for all hosts, each of "host" for one
        """CREATE TABLE dictionary (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            made_after INTEGER NOT NULL,
            due INTEGER NOT NULL,
            content BLOB NOT NULL
        )""",
        "CREATE INDEX dictionary_kind ON dictionary (kind)",
        """CREATE TABLE report (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            host TEXT NOT NULL,
            day TEXT NOT NULL,
            at REAL NOT NULL,
            received_at REAL NOT NULL,
            dictionary INTEGER,
            is_sample INTEGER NOT NULL,
            payload BLOB NOT NULL,
            UNIQUE (host, day)
        )""",
        "CREATE INDEX report_received_at ON report (received_at)",
        "CREATE INDEX report_dictionary ON report (dictionary) WHERE dictionary IS NOT NULL",
        "CREATE INDEX report_sample ON report (is_sample) WHERE is_sample = 1",
        # of each host the last report once it was read
        """CREATE TABLE audit (
            host TEXT PRIMARY KEY,
            report INTEGER NOT NULL,
            dictionary INTEGER,
            is_sample INTEGER NOT NULL,
            document BLOB NOT NULL
        )""",
        "CREATE INDEX audit_dictionary ON audit (dictionary) WHERE dictionary IS NOT NULL",
        "CREATE INDEX audit_sample ON audit (is_sample, report) WHERE is_sample = 1",
        # reports that were accepted, and refused by reason, ever
        "CREATE TABLE report_count (outcome TEXT PRIMARY KEY, count INTEGER NOT NULL)",
        # tells this file from one that is begun anew, in which the numbers of reports begin anew, too
        "INSERT INTO meta (key, value) VALUES ('archive', hex(randomblob(16)))",
    ),
    (
        # hosts were written as conf.yml spelled them: of two spellings of one host the later state holds
        """DELETE FROM state WHERE rowid NOT IN (
            SELECT number FROM (SELECT rowid AS number, max(saved_at) FROM state GROUP BY host_key(host))
        )""",
        "UPDATE state SET host = host_key(host) WHERE host <> host_key(host)",
        # few hosts have millions of rows
        """UPDATE change SET host = host_key(host) WHERE host IN (
            SELECT host FROM (SELECT DISTINCT host FROM change) WHERE host <> host_key(host)
        )""",
    ),
    (
        # 1 if its audit was clean or vulnerable, null while nobody had to know; else it may be replaced: 0, less the
        # number of those that failed, too, and were refused in its place
        "ALTER TABLE report ADD COLUMN is_good INTEGER",
        # reports whose audit failed and that a later one of the same day replaced, as they were
        """CREATE TABLE replaced_report (
            id INTEGER PRIMARY KEY,
            host TEXT NOT NULL,
            day TEXT NOT NULL,
            at REAL NOT NULL,
            received_at REAL NOT NULL,
            dictionary INTEGER,
            is_sample INTEGER NOT NULL,
            payload BLOB NOT NULL
        )""",
        "CREATE INDEX replaced_report_day ON replaced_report (host, day)",
        "CREATE INDEX replaced_report_received_at ON replaced_report (received_at)",
        "CREATE INDEX replaced_report_dictionary ON replaced_report (dictionary) WHERE dictionary IS NOT NULL",
    ),
    (
        # what a host sends in is an audit, and what comes of reading it is its result
        "ALTER TABLE audit RENAME TO audit_result",
        "ALTER TABLE audit_result RENAME COLUMN report TO audit_id",
        "DROP INDEX audit_dictionary",
        "DROP INDEX audit_sample",
        "CREATE INDEX audit_result_dictionary ON audit_result (dictionary) WHERE dictionary IS NOT NULL",
        "CREATE INDEX audit_result_sample ON audit_result (is_sample, audit_id) WHERE is_sample = 1",
        "ALTER TABLE report RENAME TO audit",
        "DROP INDEX report_received_at",
        "DROP INDEX report_dictionary",
        "DROP INDEX report_sample",
        "CREATE INDEX audit_received_at ON audit (received_at)",
        "CREATE INDEX audit_dictionary ON audit (dictionary) WHERE dictionary IS NOT NULL",
        "CREATE INDEX audit_sample ON audit (is_sample) WHERE is_sample = 1",
        "ALTER TABLE replaced_report RENAME TO replaced_audit",
        "DROP INDEX replaced_report_day",
        "DROP INDEX replaced_report_received_at",
        "DROP INDEX replaced_report_dictionary",
        "CREATE INDEX replaced_audit_day ON replaced_audit (host, day)",
        "CREATE INDEX replaced_audit_received_at ON replaced_audit (received_at)",
        "CREATE INDEX replaced_audit_dictionary ON replaced_audit (dictionary) WHERE dictionary IS NOT NULL",
        "ALTER TABLE report_count RENAME TO audit_count",
        "UPDATE dictionary SET kind = 'audit_result' WHERE kind = 'audit'",
        "UPDATE dictionary SET kind = 'audit' WHERE kind = 'report'",
        "ALTER TABLE notice RENAME TO notification",
        "ALTER TABLE state RENAME COLUMN story TO notification_state",
    ),
)

#: Views under which a connection that only reads finds the tables of an older file, by the first version that they
#: suit. A reader cannot migrate the file.
_VIEWS: Final[Mapping[int, Sequence[str]]] = {
    1: ("CREATE TEMP VIEW state AS SELECT host, saved_at, document, NULL AS notification_state FROM main.state",),
    2: ("CREATE TEMP VIEW state AS SELECT host, saved_at, document, story AS notification_state FROM main.state",),
    3: (
        "CREATE TEMP VIEW state AS SELECT host, saved_at, document, story AS notification_state FROM main.state",
        "CREATE TEMP VIEW audit AS SELECT * FROM main.report",
        """CREATE TEMP VIEW audit_result AS
            SELECT host, report AS audit_id, dictionary, is_sample, document FROM main.audit""",
    ),
    6: (),
}

#: In one statement: between two, another process may make the file.
_LOOK: Final = """
    SELECT application_id, user_version, EXISTS (SELECT 1 FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version
"""


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all of it or nothing. The lock is taken at once, so that it is not refused half-way."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have rolled back already
            connection.execute("ROLLBACK")
        raise


def verify(connection: sqlite3.Connection, newest: int | None = None) -> int:
    """Give the version of a file; Trouble if it is somebody else's or newer than `newest` (by default, this one's)."""
    application_id, version, has_tables = connection.execute(_LOOK).fetchone()
    if application_id == APPLICATION_ID:
        refuse_newer(version, newest)
        return int(version)
    if application_id == 0 and not has_tables:
        return 0  # nothing at all: its making was interrupted, or goes on in another process
    raise Trouble(Kind.FOREIGN, "it is the database of another program")


def refuse_newer(version: int, newest: int | None = None) -> None:
    """Raise Trouble if a file's version is beyond the newest known."""
    newest = len(MIGRATIONS) if newest is None else newest
    if version > newest:
        raise Trouble(
            Kind.NEWER, f"a newer portspec wrote it (its version is {version}, this portspec knows up to {newest})"
        )


def show_as_current(connection: sqlite3.Connection) -> None:
    """Let a connection that only reads find the tables of an older file under their current names.

    For such a file it begins a transaction, so that a migration by another process does not come between.
    """
    if not 0 < verify(connection) < max(_VIEWS):
        return
    connection.execute("PRAGMA temp_store = MEMORY")  # no temporary file is needed for a few views
    connection.execute("BEGIN")
    version = verify(connection)
    for statement in _VIEWS[max(first for first in _VIEWS if first <= version)]:
        connection.execute(statement)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring a file to the present version, all steps in one transaction."""
    if verify(connection, len(migrations)) == len(migrations):
        return
    connection.create_function("host_key", 1, host_key, deterministic=True)
    with transaction(connection):
        # looked at again, now that nobody else can be at it
        for statements in migrations[verify(connection, len(migrations)) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
