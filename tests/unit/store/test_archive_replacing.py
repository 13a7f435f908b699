"""Failed audits and the audits that replace them, and the quota of a host."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from portspec.store import Archive, Outcome, archive, retention
from portspec.store.archive import MAX_REPLACED, IncomingAudit
from portspec.store.schema import transaction
from tests.unit.factories import NOW
from tests.unit.store.test_archive import connected

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

DAY = "2023-11-14"
FUTURE = NOW + 1000 * 86_400.0


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return a connection to a new file."""
    found = connected(tmp_path / "portspec.db")
    yield found
    found.close()


class Judge:
    """Treats payloads that start with "good" as good, and counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, payload: bytes) -> bool:
        """Return whether a payload is good."""
        self.count += 1
        return payload.startswith(b"good")


def add(connection: sqlite3.Connection, payload: bytes, at: float = NOW, judge: Judge | None = None) -> Outcome:
    """Add an audit of the day."""
    with transaction(connection):
        (outcome,) = Archive(judge or Judge()).add(connection, [IncomingAudit("web1", DAY, at, payload)], NOW)
    return outcome


def present(connection: sqlite3.Connection) -> bytes:
    """Return the payload of the day's audit that counts."""
    found = Archive().find(connection, "web1", DAY)
    assert found
    return found.payload


def test_good_audit_replaces_a_failed_one(connection: sqlite3.Connection) -> None:
    """Then no other audit of the day replaces it, and resending either of them is acknowledged."""
    assert add(connection, b"failed") is Outcome.ACCEPTED
    assert add(connection, b"good") is Outcome.REPLACED
    for other in (b"good, too", b"failed again"):
        assert add(connection, other, NOW + 1) is Outcome.CONFLICT
    for known in (b"good", b"failed"):
        assert add(connection, known) is Outcome.IDENTICAL
    assert present(connection) == b"good"
    assert connection.execute("SELECT count(*) FROM replaced_audit").fetchone() == (1,)
    assert archive.read_counts(connection) == {"accepted": 2}


def test_older_audit_replaces_nothing(connection: sqlite3.Connection) -> None:
    """A delayed or withheld audit does not replace one that was made later."""
    assert add(connection, b"failed") is Outcome.ACCEPTED
    assert add(connection, b"good", NOW - 1) is Outcome.CONFLICT
    assert present(connection) == b"failed"


def test_failed_audits_replace_each_other_a_limited_number_of_times(connection: sqlite3.Connection) -> None:
    """After ten replacements per day only a good audit is accepted."""
    for number in range(MAX_REPLACED + 1):
        expected = Outcome.REPLACED if number else Outcome.ACCEPTED
        assert add(connection, b"failed %d" % number, NOW + number) is expected
    assert add(connection, b"failed once more", NOW + 60) is Outcome.CONFLICT
    assert present(connection) == b"failed %d" % MAX_REPLACED
    assert add(connection, b"good", NOW + 70) is Outcome.REPLACED


def test_further_failed_audits_are_not_parsed(connection: sqlite3.Connection) -> None:
    """After ten rejected audits the others of the day are rejected unread; the next day is not affected."""
    judge = Judge()
    for number in range(60):
        add(connection, b"failed %d" % number, NOW + number, judge)
    assert judge.count <= 2 * MAX_REPLACED + 1
    assert add(connection, b"good", NOW + 70, judge) is Outcome.CONFLICT
    with transaction(connection):
        tomorrow = IncomingAudit("web1", "2023-11-15", NOW + 86_400, b"good")
        assert Archive(judge).add(connection, [tomorrow], NOW) == [Outcome.ACCEPTED]


def test_archived_audit_is_judged_once(connection: sqlite3.Connection) -> None:
    """Its tool's output is parsed for the first other audit of the day only."""
    judge = Judge()
    add(connection, b"good", judge=judge)
    for number in range(5):
        assert add(connection, b"good %d" % number, judge=judge) is Outcome.CONFLICT
    assert judge.count == 1


def test_replacement_is_read_after_the_replaced_audit(connection: sqlite3.Connection) -> None:
    """A reader that continues from its position finds the replacement, even if it has read the replaced audit."""
    add(connection, b"failed")
    _, mark, _ = Archive().read_after(connection, None, 10)
    add(connection, b"good")
    found, _, left = Archive().read_after(connection, mark, 10)
    assert ([item.payload for item in found], left) == ([b"good"], 0)
    assert archive.latest_numbers(connection) == {"web1": found[0].number}


def test_replaced_audits_expire(connection: sqlite3.Connection) -> None:
    """They are deleted with their dictionaries, and the host's last audit stays."""
    body = random.Random(1).randbytes(5000)  # noqa: S311 - repeatable
    for number in range(5):
        add(connection, b"failed %d" % number + body, NOW + number)
    assert connection.execute("SELECT count(*) FROM replaced_audit WHERE dictionary IS NOT NULL").fetchone() != (0,)
    assert not retention.delete_expired_audits(connection, NOW - 1, 100)
    assert connection.execute("SELECT count(*) FROM replaced_audit").fetchone() == (4,)
    assert [row for row in connection.execute("SELECT dictionary FROM replaced_audit") if row[0]]
    for (number,) in connection.execute("SELECT DISTINCT dictionary FROM replaced_audit WHERE dictionary > 0"):
        assert connection.execute("SELECT 1 FROM dictionary WHERE id = ?", (number,)).fetchone()
    retention.delete_expired_audits(connection, NOW + 86_400, 100)
    assert connection.execute("SELECT count(*) FROM replaced_audit").fetchone() == (0,)
    assert present(connection) == b"failed 4" + body


def test_host_has_a_quota(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the quota a host's audits are rejected, its earlier ones stay, and other hosts are not affected."""
    monkeypatch.setattr(archive, "MAX_HOST_SIZE", 1_000_000)
    rng = random.Random(1)  # noqa: S311 - repeatable
    outcomes = []
    for number in range(6):
        item = IncomingAudit("evil", f"2023-11-{number + 10}", NOW, rng.randbytes(300_000))
        with transaction(connection):
            outcomes += Archive().add(connection, [item], NOW)
    assert outcomes == [Outcome.ACCEPTED] * 3 + [Outcome.QUOTA_EXCEEDED] * 3
    with transaction(connection):
        held = [
            IncomingAudit("evil", "2023-11-20", NOW, b"small"),
            IncomingAudit("web1", DAY, NOW, rng.randbytes(300_000)),
        ]
        assert Archive().add(connection, held, NOW) == [Outcome.ACCEPTED] * 2
    assert archive.read_counts(connection) == {"accepted": 5}
