"""What the tests of the store run in a separate process: `python -m tests.unit.store.child NAME DIRECTORY`.

Each prints one JSON value. Those that mount something are started in a mount namespace of their own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portspec.state.snapshot import HostState
from portspec.store import Archive, IncomingAudit, Store, StoreError, archive_audit
from tests.unit.factories import NOW
from tests.unit.store.scenes import DB, WEB, Logs, logged_changes, opened, scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.store import Outcome

NOBODY = 65534
TODAY = "2023-11-14"


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _answers(store: Store, logs: Logs, *flushed: bool) -> dict[str, Any]:
    return {
        "flushed": "".join("ny"[is_committed] for is_committed in flushed),
        "is_up": store.status.is_up,
        "has_errors": store.status.errors > 0,
        "pending": store.status.pending,
        "levels": logs.levels,
        "why": [event["why"] for event in logs.events if "why" in event],
    }


def _fill(directory: Path) -> Path:
    """Take every byte that is left."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return filler


def full_disk(directory: Path) -> None:
    """Fill a small file system that a store uses, and free space again."""
    _mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", str(directory))
    with Logs() as logs, opened(directory / "portspec.db") as (store, _):
        web = scan(store, HostState(WEB), 22)
        before = store.flush(5)
        filler = _fill(directory)
        every: tuple[int, ...] = ()
        count = 0
        while store.flush(5) and count < 100:  # until what is free in the -wal is used up
            count += 1
            every = tuple(range(1000 * count, 1000 * count + 90))
            web = scan(store, web, *every, at=NOW + count)
        for number in range(3):
            db = scan(store, HostState(DB), 22 + number, at=NOW + number)
        found: dict[str, Any] = {"full": _answers(store, logs, before, store.flush(5), store.flush(5), store.flush(5))}
        found["readable"] = bool(store.changes())
        filler.unlink()
        found["again"] = _answers(store, logs, store.flush(5))
        found["log_is_whole"] = (
            len([row for row in logged_changes(store, limit=10**6) if row[0] == "web1"]) >= 90 * count
        )
    with opened(directory / "portspec.db") as (_, restored):
        found["restored"] = restored["web1"].latest == web.latest and restored["db1"].latest == db.latest
    print(json.dumps(found))  # noqa: T201


def full_from_the_start(directory: Path) -> None:
    """Open a store on a full file system, and free space."""
    _mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", str(directory))
    filler = _fill(directory)
    with Logs() as logs, opened(directory / "portspec.db") as (store, _):
        scan(store, HostState(WEB), 22)
        found = {"full": _answers(store, logs, store.flush(5))}
        filler.unlink()
        found["again"] = _answers(store, logs, store.flush(5))
    print(json.dumps(found))  # noqa: T201


def read_only(directory: Path) -> None:
    """Restart a store on a file system that is read-only, and later writable."""
    path = directory / "portspec.db"
    with opened(path) as (store, _):
        web = scan(store, HostState(WEB), 22)
    _mount("--bind", str(directory), str(directory))
    _mount("-o", "remount,bind,ro", str(directory))
    with Logs() as logs, opened(path) as (store, restored):
        found: dict[str, Any] = {"restored": restored["web1"].latest == web.latest, "log": logged_changes(store)}
        web = scan(store, restored["web1"], 22, 80, at=NOW + 1)
        found["refused"] = _answers(store, logs, store.flush(5), store.flush(5))
        _mount("-o", "remount,bind,rw", str(directory))
        found["again"] = _answers(store, logs, store.flush(5))
        found["log_again"] = logged_changes(store)
    print(json.dumps(found))  # noqa: T201


def nobody(directory: Path) -> None:
    """Open a store as a user without permissions for the directory."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    with Logs() as logs, opened(directory / "portspec.db") as (store, restored):
        scan(store, HostState(WEB), 22)
        found = {"refused": _answers(store, logs, store.flush(5)), "restored": len(restored)}
    print(json.dumps(found))  # noqa: T201


def _archived(path: Path, host: str, payload: bytes = b"{}") -> str:
    """Archive an audit; return the outcome, or the error without the path."""
    try:
        return archive_audit(str(path), IncomingAudit(host, TODAY, NOW, payload), NOW).value
    except StoreError as error:
        return str(error).replace(f" {path}", "")


def full_archive(directory: Path) -> None:
    """Fill a small file system that an archive uses, and free space again."""
    _mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory))
    path = directory / "portspec.db"
    noise = os.urandom(200_000)
    found: dict[str, Any] = {"before": [_archived(path, "web1", noise)]}
    filler = _fill(directory)
    found["full"] = [_archived(path, "db1", noise[::-1])]
    os.truncate(filler, filler.stat().st_size - 100_000)  # room for the -shm and the beginning of the -wal
    found["full"] += [_archived(path, host, noise[::-1]) for host in ("db1", "db2")]
    filler.unlink()
    found["there"] = [len(Store(str(path), history=1.0).audit_days(host)) for host in ("web1", "db1", "db2")]
    found["again"] = [_archived(path, host, noise[::-1]) for host in ("web1", "db1", "db2")]
    archived = Store(str(path), history=1.0).find_audit("db1")
    found["is_whole"] = archived is not None and archived.payload == noise[::-1]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found["check"] = connection.execute("PRAGMA integrity_check").fetchone()[0]
    print(json.dumps(found))  # noqa: T201


def full_from_the_start_archive(directory: Path) -> None:
    """Archive an audit on a full file system, and free space."""
    _mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", str(directory))
    filler = _fill(directory)
    full = _archived(directory / "portspec.db", "web1")
    filler.unlink()
    print(json.dumps([full, _archived(directory / "portspec.db", "web1")]))  # noqa: T201


def read_only_archive(directory: Path) -> None:
    """Archive an audit on a read-only file system, with and without a file, and later on a writable one."""
    paths = [directory / "portspec.db", directory / "none.db"]
    _mount("--bind", str(directory), str(directory))
    found = [_archived(paths[0], "web1")]
    _mount("-o", "remount,bind,ro", str(directory))
    found += [_archived(path, "db1") for path in paths]
    _mount("-o", "remount,bind,rw", str(directory))
    found += [_archived(path, "db1") for path in paths]
    print(json.dumps(found))  # noqa: T201


def archiver() -> None:
    """Archive an audit for each input line with a path and a host, and print the outcome."""
    _race(lambda path, arrival: archive_audit(path, arrival, NOW))


def exporter(path: str) -> None:
    """Do the same with a store that has the file open; open it first."""
    archive = Archive()
    store = Store(path, history=1.0, wall_clock=lambda: NOW)
    store.open([])
    store.start()
    _race(lambda _, arrival: store.transact(lambda file: archive.add(file, [arrival], NOW))[0])
    store.close()


def _race(add: Callable[[str, IncomingAudit], Outcome]) -> None:
    os.write(1, b"ready\n")  # at once and whole, as every line: it may be killed
    for line in sys.stdin:
        path, host = json.loads(line)
        payload = os.urandom(500) + 50 * host.encode()
        outcome = add(path, IncomingAudit(host, TODAY, NOW, payload))
        os.write(1, f"{outcome} {payload.hex()}\n".encode())


def hold(directory: Path, mode: str) -> None:
    """Lock the file, report that, and hold it until the input ends; `mode` "exclusive" blocks readers, too."""
    connection = sqlite3.connect(directory / "portspec.db", isolation_level=None)
    if mode == "exclusive":
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)  # noqa: T201
    sys.stdin.read()
    connection.execute("ROLLBACK")
    connection.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["hold", directory, mode]:
            hold(Path(directory), mode)
        case ["archiver"]:
            archiver()
        case ["exporter", path]:
            exporter(path)
        case [name, directory]:
            {
                "full_disk": full_disk,
                "full_archive": full_archive,
                "full_from_the_start": full_from_the_start,
                "full_from_the_start_archive": full_from_the_start_archive,
                "read_only": read_only,
                "read_only_archive": read_only_archive,
                "nobody": nobody,
            }[name](Path(directory))
