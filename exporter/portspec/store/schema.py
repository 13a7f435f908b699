"""The tables of the state file, migrations from earlier versions, transactions, and the key-value table `meta`."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from portspec.names import canonical
from portspec.store.faults import StoreFault, StoreFaultKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from portspec.inventory import Target

APPLICATION_ID: Final = int.from_bytes(b"pspc")  # https://www.sqlite.org/pragma.html#pragma_application_id

#: The statements that migrate each version to the next. `PRAGMA user_version` is the number of migrations that were
#: applied. Append only: released migrations are never edited.
MIGRATIONS: Final[Sequence[Sequence[str]]] = (
    (
        """CREATE TABLE state (
            host TEXT PRIMARY KEY,
            saved_at REAL NOT NULL,
            document TEXT NOT NULL
        )""",
        # AUTOINCREMENT, so that no id is used twice: it is the cursor of the API's pages
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
        # limited, because thousands of scattered ports in one row would make a key longer than a page
        "CREATE INDEX change_ports ON change (host, address, became, substr(ports, 1, 40))",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value)",
    ),
    (
        # what the recipients of mails know of a host that is not in specification
        "ALTER TABLE state ADD COLUMN story TEXT",
        # notifications to send: inserted with the state they are about, replaced by the mails
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
        # compression dictionaries: the newest of a kind is for all hosts, each of kind "host" for one
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
        # the result of each host's last audit
        """CREATE TABLE audit (
            host TEXT PRIMARY KEY,
            report INTEGER NOT NULL,
            dictionary INTEGER,
            is_sample INTEGER NOT NULL,
            document BLOB NOT NULL
        )""",
        "CREATE INDEX audit_dictionary ON audit (dictionary) WHERE dictionary IS NOT NULL",
        "CREATE INDEX audit_sample ON audit (is_sample, report) WHERE is_sample = 1",
        # totals of accepted audits, and of rejected ones by reason
        "CREATE TABLE report_count (outcome TEXT PRIMARY KEY, count INTEGER NOT NULL)",
        # distinguishes this file from one that is created anew, where numbers of audits restart
        "INSERT INTO meta (key, value) VALUES ('archive', hex(randomblob(16)))",
    ),
    (
        # hosts were stored as conf.yml spells them; of two spellings of one host keep the later state
        """DELETE FROM state WHERE rowid NOT IN (
            SELECT number FROM (SELECT rowid AS number, max(saved_at) FROM state GROUP BY host_key(host))
        )""",
        "UPDATE state SET host = host_key(host) WHERE host <> host_key(host)",
        # distinct hosts first: there may be millions of rows of few hosts
        """UPDATE change SET host = host_key(host) WHERE host IN (
            SELECT host FROM (SELECT DISTINCT host FROM change) WHERE host <> host_key(host)
        )""",
    ),
    (
        # 1 if the audit succeeded, null if not determined yet. Otherwise it may be replaced: 0 minus the number of
        # audits that failed, too, and were rejected in its place
        "ALTER TABLE report ADD COLUMN is_good INTEGER",
        # failed audits that a later one of the same day replaced
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
        # what a host sends in is an audit, what is read from it is the audit's result; rename `audit` first
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
    (
        # each verdict of a host that differs from the one before it
        """CREATE TABLE verdict (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            host TEXT NOT NULL,
            verdict TEXT NOT NULL,
            reason TEXT NOT NULL
        )""",
        "CREATE INDEX verdict_at ON verdict (at)",
        "CREATE INDEX verdict_host ON verdict (host)",
    ),
    # the log has changes of conf.yml, too: until when, why, and who
    ("ALTER TABLE change ADD COLUMN note TEXT NOT NULL DEFAULT ''",),
    (
        # how long vulnerabilities took to be fixed, in seconds; a bucket is its upper bound, which may be infinite
        """CREATE TABLE time_to_fix (
            class TEXT NOT NULL,
            bucket REAL NOT NULL,
            count INTEGER NOT NULL,
            sum REAL NOT NULL,
            PRIMARY KEY (class, bucket)
        )""",
    ),
)

_NO_NOTES = "CREATE TEMP VIEW change AS SELECT *, '' AS note FROM main.change"
_NO_VERDICTS = "CREATE TEMP VIEW verdict AS SELECT 0 AS id, 0.0 AS at, '' AS host, '' AS verdict, '' AS reason WHERE 0"

#: A reader cannot migrate an older file. These views show it the tables under their current names: each entry is for
#: files from its version up to the next entry's.
_VIEWS: Final[Mapping[int, Sequence[str]]] = {
    1: (
        "CREATE TEMP VIEW state AS SELECT host, saved_at, document, NULL AS notification_state FROM main.state",
        _NO_VERDICTS,
        _NO_NOTES,
    ),
    2: (
        "CREATE TEMP VIEW state AS SELECT host, saved_at, document, story AS notification_state FROM main.state",
        _NO_VERDICTS,
        _NO_NOTES,
    ),
    3: (
        _NO_VERDICTS,
        _NO_NOTES,
        "CREATE TEMP VIEW state AS SELECT host, saved_at, document, story AS notification_state FROM main.state",
        "CREATE TEMP VIEW audit AS SELECT * FROM main.report",
        """CREATE TEMP VIEW audit_result AS
            SELECT host, report AS audit_id, dictionary, is_sample, document FROM main.audit""",
    ),
    6: (_NO_VERDICTS, _NO_NOTES),
    7: (_NO_NOTES,),
    8: (),
}


@lru_cache(maxsize=4096)  # a write asks for the key of its host several times, in a batch
def host_key(host: str) -> str:
    """Return the key of a host in all tables, the same for every spelling in conf.yml.

    A text that is not a valid host name is its own key.
    """
    try:
        return canonical(host)
    except ValueError:
        return host


def target_key(target: Target) -> str:
    """Return the key of the host of a target; an address in canonical form is its own."""
    return target.host if target.host == target.address else host_key(target.host)


#: One statement, because another process may create the file between two.
_READ_VERSION: Final = """
    SELECT application_id, user_version, EXISTS (SELECT 1 FROM sqlite_master)
    FROM pragma_application_id, pragma_user_version
"""


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit all statements or none. The write lock is taken at the start, so that no statement fails to get it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have rolled back already
            connection.execute("ROLLBACK")
        raise


def verify(connection: sqlite3.Connection, newest: int | None = None) -> int:
    """Return the schema version of a file, 0 if it has no tables yet.

    Raises:
        StoreFault: The file belongs to another program, or is newer than `newest` (default: the current version).
    """
    application_id, version, has_tables = connection.execute(_READ_VERSION).fetchone()
    if application_id == APPLICATION_ID:
        verify_version(version, newest)
        return int(version)
    if application_id == 0 and not has_tables:
        return 0  # another process is creating it, or was interrupted
    raise StoreFault(StoreFaultKind.FOREIGN, "it is the database of another program")


def verify_version(version: int, newest: int | None = None) -> None:
    """Raise StoreFault if a file's version is newer than `newest` (default: the current version)."""
    newest = len(MIGRATIONS) if newest is None else newest
    if version > newest:
        raise StoreFault(
            StoreFaultKind.NEWER,
            f"a newer portspec wrote it (schema version {version}; this portspec supports up to {newest})",
        )


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Migrate a file to the current version in one transaction."""
    if verify(connection, len(migrations)) == len(migrations):
        return
    connection.create_function("host_key", 1, host_key, deterministic=True)
    with transaction(connection):
        # check again: another process may have migrated it before this one got the lock
        for statements in migrations[verify(connection, len(migrations)) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


def create_views_for_older_version(connection: sqlite3.Connection) -> None:
    """Show the tables of an older file to a read-only connection under their current names.

    For such a file this begins a read transaction, so that no other process migrates it between this and the queries.
    """
    if not 0 < verify(connection) < max(_VIEWS):
        return
    connection.execute("PRAGMA temp_store = MEMORY")  # so that the views need no temporary file
    connection.execute("BEGIN")
    version = verify(connection)
    for statement in _VIEWS[max(first for first in _VIEWS if first <= version)]:
        connection.execute(statement)


def read_value(connection: sqlite3.Connection, key: str) -> str | None:
    """Return the value of a key in the key-value table; None if there is none."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def write_value(connection: sqlite3.Connection, key: str, value: str | float) -> None:
    """Set the value of a key in the key-value table."""
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))
