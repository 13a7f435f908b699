"""What becomes of audits in the running exporter: archived, read, judged, counted; with a real file."""

from __future__ import annotations

import asyncio
import gc
import gzip
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import portspec.audit.service as module
from portspec.audit import document as encoding
from portspec.audit.admission import RejectedError
from portspec.audit.model import Status
from portspec.audit.rejections import MAX_LOGGED
from portspec.audit.service import MAX_READ, AuditService
from portspec.audit.tools import parse
from portspec.config import VulnerabilityException
from portspec.inventory import AuditedHost
from portspec.store import Archive, IncomingAudit, Outcome, StoreError
from portspec.store.faults import StoreFaultKind
from tests.unit.app.exporter import until
from tests.unit.factories import NOW, settle
from tests.unit.reporting import HERE, Clock, in_file, prepared, running
from tests.unit.signed import (
    APP,
    AUDIT,
    CLEAN,
    CURL,
    DAY,
    DB,
    TODAY,
    VULNERABLE,
    WEB,
    YESTERDAY,
    accept,
    packed,
    payload,
    rostered,
    signed,
)
from tests.unit.store.scenes import Logs, opened
from tests.unit.store.test_faults import locked, with_mounts

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Coroutine, MutableMapping

    from portspec.config import AuditConfig

ROOT = Path(__file__).parents[3]


def archive_audit(path: Path, host: str, body: bytes, day: str = TODAY, at: float = NOW) -> None:
    """Put an audit into the archive as `portspec receive` does: from another process."""
    program = (
        "import sys; from portspec.store import IncomingAudit, archive_audit;"
        "path, host, day, at = sys.argv[1:];"
        "print(archive_audit(path, IncomingAudit(host, day, float(at), sys.stdin.buffer.read()), float(at)))"
    )
    command = [sys.executable, "-c", program, str(path), host, day, str(at)]
    done = subprocess.run(command, input=body, capture_output=True, cwd=ROOT, timeout=60, check=True)
    assert done.stdout == b"accepted\n"


class Parsing:
    """Counts the outputs of tools that are read, and holds each up until it may be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.may_begin = threading.Event()
        self.may_begin.set()
        self._parse = parse
        monkeypatch.setattr(module, "parse", self)

    def __call__(self, run: Any) -> Any:
        """Read one."""
        self.count += 1
        assert self.may_begin.wait(10.0)
        return self._parse(run)


@pytest.fixture
def parsing(monkeypatch: pytest.MonkeyPatch) -> Parsing:
    """Return a count of the outputs that are read."""
    return Parsing(monkeypatch)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on an event loop of its own."""
    asyncio.run(asyncio.wait_for(scenario(), 60.0))


def told(logs: Logs) -> list[MutableMapping[str, Any]]:
    """Return what was logged but for the line of each audit that was read."""
    return [event for event in logs.events if event["event"] != "audit read"]


# --- Taking ---


def test_audit_that_is_taken_is_archived_as_it_came_and_read(path: Path, clock: Clock) -> None:
    """What take() has acknowledged is in the archive, byte for byte, and soon in `audits`."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.become(web1=Status.NEVER)
            assert await scene.audits.take(packed(output=VULNERABLE), HERE) is Outcome.ACCEPTED
            assert scene.find_audit() == scene.find_audit(day=TODAY) == payload(output=VULNERABLE)
            await scene.become(web1=Status.VULNERABLE)
            state = scene.audits.states[WEB]
            assert [item.id for item in state.vulnerabilities] == [CURL]
            assert state.host_audit
            assert (state.host_audit.at, state.host_audit.tool, state.host_audit.listeners) == (NOW, "pkg-audit", ())
            await until(lambda: (scene.audits.received, scene.rejected()) == (1, {}))

    run(scenario)


def test_same_audit_again_is_acknowledged_and_counts_once(path: Path, clock: Clock) -> None:
    """Who got no answer may send the very same bytes again."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            outcomes = [await scene.audits.take(packed(), HERE) for _ in range(3)]
            assert outcomes == [Outcome.ACCEPTED, Outcome.IDENTICAL, Outcome.IDENTICAL]
            await until(lambda: scene.audits.received)
            assert (scene.audits.received, scene.rejected(), scene.days()) == (1, {}, [TODAY])

    run(scenario)


def test_refused_audits_leave_nothing_in_memory(path: Path, clock: Clock) -> None:
    """What strangers post is forgotten with the answer, without a search for cycles, which is rare in the exporter."""
    forged = b"portspec-audit 1 %s\n%s" % (b"0" * 64, gzip.compress(payload()[:-1] + b" " * (22 << 20) + b"}", 1))

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.refusal(forged)
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(10):
                assert (await scene.refusal(forged)).reason == "signature"
            after, _ = tracemalloc.get_traced_memory()
            assert after < before + (20 << 20)  # less than one of them

    gc.disable()
    tracemalloc.start()
    try:
        run(scenario)
    finally:
        tracemalloc.stop()
        gc.enable()


def test_audit_of_a_time_that_is_not_yet_does_not_outlast_the_next(path: Path, clock: Clock) -> None:
    """What came while our clock was a year ahead counts no more once it is right, nor after a restart."""

    async def scenario() -> None:
        clock.now += 365 * DAY
        async with running(path, clock) as scene:
            await scene.audits.take(packed(at=clock.now), HERE)
            await scene.become(web1=Status.CLEAN)
            clock.now -= 365 * DAY
            await scene.audits.take(packed(at=clock.now, output=VULNERABLE), HERE)
            await scene.become(web1=Status.VULNERABLE)
        async with running(path, clock) as scene:
            await scene.become(web1=Status.VULNERABLE)

    run(scenario)


def test_audit_that_was_read_has_a_line_in_the_log(path: Path, clock: Clock, logs: Logs) -> None:
    """It says what the audit came to, whichever way it came."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(output=VULNERABLE), HERE)
            await scene.become(web1=Status.VULNERABLE)

    run(scenario)
    (line,) = (event for event in logs.events if event["event"] == "audit read")
    assert (line["level"], line["host"], line["day"], line["status"]) == ("info", WEB, TODAY, "vulnerable")
    assert line["vulnerabilities"] == 1


def test_another_audit_of_the_day_is_refused_and_counted(path: Path, clock: Clock, logs: Logs) -> None:
    """Only the first audit of a host and day counts; the other is an error in the log, with whom it came from."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(), HERE)
            error = await scene.refusal(packed(output=VULNERABLE))
            assert (error.reason, error.host) == ("duplicate", WEB)
            assert str(error) == f"{WEB} has already sent another audit for {TODAY}; only one per day counts"
            await scene.become(web1=Status.CLEAN)
            assert (scene.find_audit(), scene.rejected()) == (payload(), {"duplicate": 1})

    run(scenario)
    assert told(logs) == [
        {
            "event": "audit rejected",
            "level": "error",
            "reason": "duplicate",
            "why": f"{WEB} has already sent another audit for {TODAY}; only one per day counts",
            "origin": HERE,
            "host": WEB,
        }
    ]


def test_audit_of_an_earlier_day_does_not_take_the_place_of_a_later_one(path: Path, clock: Clock) -> None:
    """An audit that was long on its way is archived, and the last day counts, also after a restart."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(at=NOW, output=VULNERABLE), HERE)
            await scene.become(web1=Status.VULNERABLE)
            assert await scene.audits.take(packed(at=NOW - DAY), HERE) is Outcome.ACCEPTED
            await until(lambda: scene.audits.received == 2 and not scene.audits.unread)
            assert scene.days() == [TODAY, YESTERDAY]
            await scene.audits.take(packed(at=NOW - 2 * DAY), HERE)
            await until(lambda: scene.audits.received == 3)
            await settle()
            assert scene.statuses() == {WEB: Status.VULNERABLE}
        async with prepared(path, clock, rostered(WEB)) as scene:
            assert scene.statuses() == {WEB: Status.VULNERABLE}

    run(scenario)


REFUSED = {
    "malformed": b"hello",
    "roster": packed("evil.example.org"),
    "signature": signed(payload(), DB),
    "time": packed(at=NOW - 6 * DAY),
    "duplicate": packed(nonce="11" * 16),
    "too_large": bytes(16 * 1024 * 1024 + 1),
}


def test_refused_audits_are_counted_by_reason_in_the_file(path: Path, clock: Clock, logs: Logs) -> None:
    """Each reason has its count, which goes on after a restart; nothing of them is archived."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(), HERE)
            for reason, audit in REFUSED.items():
                assert (await scene.refusal(audit)).reason == reason
            assert scene.rejected() == dict.fromkeys(REFUSED, 1)
            counts = "SELECT outcome, count FROM audit_count"
            await until(lambda: dict(in_file(path, counts)) == {"accepted": 1, **dict.fromkeys(REFUSED, 1)})
            assert scene.rejected() == dict.fromkeys(REFUSED, 1)
            assert in_file(path, "SELECT host, day FROM audit") == [(WEB, TODAY)]
        async with prepared(path, clock, rostered(WEB)) as scene:
            assert (scene.audits.received, scene.rejected()) == (1, dict.fromkeys(REFUSED, 1))

    run(scenario)
    assert [event["level"] for event in told(logs)] == ["error"] * len(REFUSED)


def test_counts_never_go_back(path: Path, clock: Clock, logs: Logs) -> None:
    """Whenever /metrics is asked, no count is lower than before: Prometheus would take it for a restart, and add it."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            seen: list[int] = []
            is_over = False

            def scrape() -> None:
                while not is_over:
                    seen.append(scene.audits.rejected["malformed"])

            scraper = threading.Thread(target=scrape)
            scraper.start()
            try:
                for _ in range(50):
                    await scene.refusal(b"hello")
                await until(lambda: in_file(path, "SELECT count FROM audit_count") == [(50,)])
            finally:
                is_over = True
                scraper.join()
            assert seen == sorted(seen)
            assert scene.rejected() == {"malformed": 50}

    run(scenario)
    assert len(told(logs)) == 50


def test_many_posts_at_once_are_archived_in_few_transactions(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 hosts that send audits in the same second are all taken, many with one write to the disk."""
    hosts = [f"host{number}.example.org" for number in range(200)]
    added: list[int] = []
    add = Archive.add

    def counted(*parts: Any) -> list[Outcome]:
        added.append(len(parts[2]))
        return add(*parts)

    monkeypatch.setattr(Archive, "add", counted)

    async def scenario() -> None:
        async with running(path, clock, *hosts) as scene:
            outcomes = await asyncio.gather(*(scene.audits.take(packed(host), HERE) for host in hosts))
            assert outcomes == [Outcome.ACCEPTED] * len(hosts)
            await until(lambda: set(scene.statuses().values()) == {Status.CLEAN})
            assert (len(scene.statuses()), scene.audits.received) == (200, 200)

    run(scenario)
    assert sum(added) == len(hosts)
    assert len(added) <= 10


def test_of_many_audits_of_one_host_and_day_one_wins(path: Path, clock: Clock, logs: Logs) -> None:
    """200 different audits at once: one is accepted, and is what the archive has; the others are refused."""
    audits = [packed(nonce=f"{number:032x}") for number in range(200)]

    async def scenario() -> None:
        async with running(path, clock) as scene:
            posts = (scene.audits.take(audit, HERE) for audit in audits)
            outcomes = await asyncio.gather(*posts, return_exceptions=True)
            (winner,) = [place for place, outcome in enumerate(outcomes) if outcome is Outcome.ACCEPTED]
            assert all(isinstance(item, RejectedError) for place, item in enumerate(outcomes) if place != winner)
            assert scene.find_audit() == payload(nonce=f"{winner:032x}")
            assert scene.rejected() == {"duplicate": 199}

    run(scenario)
    assert len(told(logs)) == MAX_LOGGED


def test_log_is_not_flooded_by_refused_audits(path: Path, clock: Clock, logs: Logs) -> None:
    """Of refused audits some in a minute have a line, and then there is one that says how many more there were."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            for _ in range(MAX_LOGGED + 40):
                await scene.refusal(b"hello")
            assert len(told(logs)) == MAX_LOGGED
            clock.now += 60
            await until(lambda: len(told(logs)) > MAX_LOGGED)
            assert told(logs)[-1] == {"event": "more audits rejected", "level": "error", "audits": 40}
            await scene.refusal(b"hello")
            clock.now += 60
            await settle()
            assert len(told(logs)) == MAX_LOGGED + 2
            assert scene.rejected() == {"malformed": MAX_LOGGED + 41}

    run(scenario)


def test_post_whose_client_has_gone_is_not_archived(path: Path, clock: Clock) -> None:
    """An audit that waits for its turn is forgotten with the request that brought it; the others are taken."""

    async def scenario() -> None:
        async with prepared(path, clock, rostered(WEB, DB)) as scene:
            posts = [asyncio.create_task(scene.audits.take(packed(host), HERE)) for host in (WEB, DB)]
            await settle()
            posts[0].cancel()
            async with scene.running():
                assert await posts[1] is Outcome.ACCEPTED
                await scene.become(web1=Status.NEVER, db1=Status.CLEAN)
                assert scene.days(WEB) == []

    run(scenario)


def test_audit_whose_client_goes_while_it_is_archived_is_kept(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way onto the disk gets there; the agent that sends it again is told so."""
    is_adding, may_add, add = threading.Event(), threading.Event(), Archive.add

    def slow(*parts: Any) -> list[Outcome]:
        is_adding.set()
        assert may_add.wait(10.0)
        return add(*parts)

    async def scenario() -> None:
        async with running(path, clock) as scene:
            monkeypatch.setattr(Archive, "add", slow)
            post = asyncio.create_task(scene.audits.take(packed(), HERE))
            await until(is_adding.is_set)
            post.cancel()
            await settle()
            may_add.set()
            assert await scene.audits.take(packed(), HERE) is Outcome.IDENTICAL
            await scene.become(web1=Status.CLEAN)

    run(scenario)


# --- The file in trouble ---


@pytest.mark.usefixtures("logs", "no_lock_timeout")
def test_audit_that_cannot_be_archived_is_said_to_be_so_and_taken_later(path: Path, clock: Clock) -> None:
    """While another process holds the file take() raises StoreError, and nothing is lost; then it goes on by itself."""

    async def scenario() -> None:
        async with running(path, clock, WEB, DB) as scene:
            await scene.audits.take(packed(WEB), HERE)
            await scene.become(web1=Status.CLEAN, db1=Status.NEVER)
            with locked(path, "immediate"):
                with pytest.raises(StoreError) as caught:
                    await scene.audits.take(packed(DB), HERE)
                assert caught.value.kind is StoreFaultKind.LOCKED
                assert (await scene.refusal(b"hello")).reason == "malformed"
                assert scene.rejected() == {"malformed": 1}
                assert scene.statuses() == {WEB: Status.CLEAN, DB: Status.NEVER}
            await until(lambda: scene.store.status.is_up)
            assert await scene.audits.take(packed(DB), HERE) is Outcome.ACCEPTED
            await scene.become(web1=Status.CLEAN, db1=Status.CLEAN)
            await until(lambda: dict(in_file(path, "SELECT * FROM audit_count")) == {"accepted": 2, "malformed": 1})
            assert scene.rejected() == {"malformed": 1}

    run(scenario)


def test_full_disk_loses_no_audit(tmp_path: Path) -> None:
    """On a full disk an audit is not acknowledged, and not half there; it is taken once there is space."""
    command = [sys.executable, "-m", "tests.unit.audit.service_child"]
    assert with_mounts("full_disk", tmp_path, command) == {
        "before": "accepted",
        "full": "database or disk is full",
        "days": [],
        "again": "accepted",
        "is_whole": True,
        "statuses": {WEB: "clean", DB: "failed"},  # for it is noise, so that it needs space
    }


@pytest.mark.usefixtures("logs", "no_lock_timeout")
def test_what_is_known_is_known_while_the_file_cannot_be_written(path: Path, clock: Clock) -> None:
    """After a restart the last audits are taken up also from a file that may only be read."""

    async def scenario() -> None:
        async with running(path, clock, WEB, DB) as scene:
            await scene.audits.take(packed(WEB), HERE)
            await scene.become(web1=Status.CLEAN, db1=Status.NEVER)
        with locked(path, "immediate"):
            async with prepared(path, clock, rostered(WEB, DB)) as scene:
                assert scene.statuses() == {WEB: Status.CLEAN, DB: Status.NEVER}

    run(scenario)


@pytest.mark.usefixtures("logs")
def test_file_that_is_begun_anew_takes_audits(path: Path, clock: Clock) -> None:
    """When the file is replaced by a fresh one, what is known stays so, and what comes goes into the new one."""

    async def scenario() -> None:
        async with running(path, clock, WEB, DB) as scene:
            await scene.audits.take(packed(WEB, output=VULNERABLE), HERE)
            await scene.become(web1=Status.VULNERABLE, db1=Status.NEVER)
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink()
            await until(lambda: scene.store.status.is_up and path.exists())
            assert await scene.audits.take(packed(DB), HERE) is Outcome.ACCEPTED
            await scene.become(web1=Status.VULNERABLE, db1=Status.CLEAN)
            assert (scene.days(WEB), scene.days(DB)) == ([], [TODAY])
            later = packed(WEB, at=NOW + 1)
            assert await scene.audits.take(later, HERE) is Outcome.ACCEPTED
            await scene.become(web1=Status.CLEAN, db1=Status.CLEAN)
        async with prepared(path, clock, rostered(WEB, DB)) as scene:
            assert scene.statuses() == {WEB: Status.CLEAN, DB: Status.CLEAN}

    run(scenario)


# --- What is known ---


def test_host_that_never_reported_is_never_only_once_the_archive_was_asked(path: Path, clock: Clock) -> None:
    """Before that nobody can say so, and the host is absent."""

    async def scenario() -> None:
        with opened(path, (), wall_clock=clock) as (store, _):
            audits = AuditService(store, clock)
            audits.apply(AUDIT, rostered(WEB, DB))
            assert dict(audits.states) == {}
            await audits.restore()
            assert {host: state.status for host, state in audits.states.items()} == {
                WEB: Status.NEVER,
                DB: Status.NEVER,
            }

    run(scenario)


@pytest.mark.usefixtures("logs")
def test_host_is_absent_while_the_archive_cannot_be_asked(tmp_path: Path, clock: Clock) -> None:
    """Where the file cannot be made no host is said to have never reported; it is when there is one."""
    path = tmp_path / "later" / "portspec.db"

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await settle()
            assert scene.statuses() == {}
            path.parent.mkdir()
            await scene.become(web1=Status.NEVER)
            assert await scene.audits.take(packed(), HERE) is Outcome.ACCEPTED
            await scene.become(web1=Status.CLEAN)

    run(scenario)


@pytest.mark.parametrize("audit", [None, AUDIT])
def test_who_expects_no_audits_is_not_told_that_they_cannot_be_read(
    audit: AuditConfig | None, tmp_path: Path, clock: Clock, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an `audit` block a state file that cannot be made is no matter of audits."""
    looks = 0

    async def scenario() -> None:
        async with prepared(tmp_path / "later" / "portspec.db", clock, {}) as scene:
            perform = scene.store.transact

            def counting(work: Callable[[sqlite3.Connection], object]) -> object:
                nonlocal looks
                looks += 1
                return perform(work)

            monkeypatch.setattr(scene.store, "transact", counting)
            scene.audits.apply(audit, {})
            async with scene.running():
                await until(lambda: looks > 0)
                scene.audits.apply(audit, {})  # the next look comes after the first one was dealt with
                await until(lambda: looks > 1)

    run(scenario)
    unread = [entry for entry in logs.events if entry["event"] == "failed to read audits; retrying"]
    assert len(unread) == bool(audit)


def test_restart_reads_no_output_again(path: Path, clock: Clock, parsing: Parsing) -> None:
    """What audits came to is kept, and taken up before anything else runs."""

    async def scenario() -> None:
        async with running(path, clock, WEB, DB, APP) as scene:
            for host, output in ((WEB, VULNERABLE), (DB, CLEAN)):
                await scene.audits.take(packed(host, output=output), HERE)
            await scene.become(web1=Status.VULNERABLE, db1=Status.CLEAN, app1=Status.NEVER)
            states = dict(scene.audits.states)
        assert parsing.count == 2
        async with prepared(path, clock, rostered(WEB, DB, APP)) as scene:
            assert dict(scene.audits.states) == states
            async with scene.running():
                await scene.audits.take(packed(APP), HERE)
                await scene.become(web1=Status.VULNERABLE, db1=Status.CLEAN, app1=Status.CLEAN)
        assert parsing.count == 3

    run(scenario)


def test_audit_that_was_not_read_before_the_end_is_read_after_a_restart(
    path: Path, clock: Clock, parsing: Parsing
) -> None:
    """An exporter that is killed between the archive and the reading loses nothing."""
    parsing.may_begin.clear()

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.become(web1=Status.NEVER)
            await scene.audits.take(packed(), HERE)
            await until(lambda: parsing.count)
        parsing.may_begin.set()
        async with running(path, clock) as scene:
            await scene.become(web1=Status.CLEAN)

    run(scenario)


@pytest.mark.parametrize("hosts", [1, MAX_READ + 5])
def test_document_of_another_version_is_read_anew(
    path: Path, clock: Clock, parsing: Parsing, monkeypatch: pytest.MonkeyPatch, hosts: int
) -> None:
    """A portspec that reads outputs otherwise does so with what is in the archive, once."""
    names = [f"host{number}.example.org" for number in range(hosts)]

    async def scenario() -> None:
        async with running(path, clock, *names) as scene:
            await asyncio.gather(*(scene.audits.take(packed(name), HERE) for name in names))
            await until(lambda: set(scene.statuses().values()) == {Status.CLEAN})
        monkeypatch.setattr(encoding, "VERSION", encoding.VERSION + 1)
        async with prepared(path, clock, rostered(*names)) as scene:
            assert scene.statuses() == {}
            async with scene.running():
                await until(lambda: scene.statuses() == dict.fromkeys(names, Status.CLEAN))
        async with prepared(path, clock, rostered(*names)) as scene:
            assert scene.statuses() == dict.fromkeys(names, Status.CLEAN)
        assert parsing.count == 2 * hosts

    run(scenario)


@pytest.mark.parametrize("document", [None, "", "{}", "[1]", '{"version":1}', '{"version":1,"at":"x"}', "[" * 100_000])
def test_garbled_document_is_read_anew(
    path: Path, clock: Clock, parsing: Parsing, logs: Logs, document: str | None
) -> None:
    """What was kept and makes no sense is told once, and made anew from the audit itself."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(output=VULNERABLE), HERE)
            await scene.become(web1=Status.VULNERABLE)
            if document is not None:
                held = Archive()
                text = document.replace('"version":1', f'"version":{encoding.VERSION}')

                def put(file: sqlite3.Connection) -> None:
                    mark = held.read_position(file)
                    assert mark
                    held.save_results(file, [(WEB, mark.number, text)], mark)

                scene.store.transact(put)
        if document is None:
            in_file(path, "UPDATE audit_result SET document = x'00'")
        async with prepared(path, clock, rostered(WEB)) as scene:
            assert scene.statuses() == {}
            assert [event["level"] for event in told(logs)] == ["error"]
            async with scene.running():
                await scene.become(web1=Status.VULNERABLE)
        async with prepared(path, clock, rostered(WEB)) as scene:
            assert scene.statuses() == {WEB: Status.VULNERABLE}
        assert (parsing.count, [event["level"] for event in told(logs)]) == (2, ["error"])

    run(scenario)


def test_audit_of_another_process_appears(path: Path, clock: Clock) -> None:
    """What `portspec receive` puts into the file is found without anybody telling."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.become(web1=Status.NEVER)
            await asyncio.to_thread(archive_audit, path, WEB, payload(output=VULNERABLE))
            await scene.become(web1=Status.VULNERABLE)
            await until(lambda: scene.audits.received == 1)
            assert (await scene.refusal(packed())).reason == "duplicate"

    run(scenario)


def test_payload_that_cannot_be_read_is_a_failed_audit(path: Path, clock: Clock, logs: Logs) -> None:
    """One that an earlier portspec took, and this one makes nothing of, is shown as that, and stops no other."""

    async def scenario() -> None:
        async with running(path, clock, WEB, DB) as scene:
            await scene.become(web1=Status.NEVER, db1=Status.NEVER)
            held = Archive()
            arrival = IncomingAudit(WEB, TODAY, NOW - 5, b"from another age")
            scene.store.transact(lambda file: held.add(file, [arrival], NOW))
            await scene.audits.take(packed(DB), HERE)
            await scene.become(web1=Status.FAILED, db1=Status.CLEAN)
            state = scene.audits.states[WEB]
            assert state.reason.startswith("portspec could not read it: the payload ")
            assert state.host_audit
            assert state.host_audit.at == NOW - 5
        async with prepared(path, clock, rostered(WEB)) as scene:
            assert scene.audits.states[WEB] == state

    run(scenario)
    assert [event["event"] for event in told(logs)] == ["failed to read an archived audit"]


def test_fault_in_reading_one_output_stops_no_other(
    path: Path, clock: Clock, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours is a failed audit of that host alone, with a traceback in the log."""

    def faulty(run: Any) -> Any:
        if run.output == VULNERABLE:
            raise ZeroDivisionError("somewhere")
        return parse(run)

    monkeypatch.setattr(module, "parse", faulty)

    async def scenario() -> None:
        async with running(path, clock, WEB, DB) as scene:
            await scene.audits.take(packed(WEB, output=VULNERABLE), HERE)
            await scene.audits.take(packed(DB), HERE)
            await scene.become(web1=Status.FAILED, db1=Status.CLEAN)
            assert scene.audits.states[WEB].reason == "portspec could not read it: somewhere"

    run(scenario)
    assert len(told(logs)) == 1


@pytest.mark.parametrize(
    ("spoilt", "status"),
    [({"package": "a\ud800b"}, Status.VULNERABLE), ({"package": object()}, Status.FAILED)],
    ids=["surrogate", "type"],
)
def test_audit_that_cannot_be_kept_stops_no_other(
    path: Path, clock: Clock, logs: Logs, monkeypatch: pytest.MonkeyPatch, spoilt: dict[str, Any], status: Status
) -> None:
    """An audit of which no document can be made is a failed one of that host alone; a lone surrogate is kept."""

    def faulty(run: Any) -> Any:
        audit = parse(run)
        return replace(audit, vulnerabilities=tuple(replace(item, **spoilt) for item in audit.vulnerabilities))

    monkeypatch.setattr(module, "parse", faulty)

    async def scenario() -> None:
        async with running(path, clock, WEB, DB) as scene:
            await scene.audits.take(packed(WEB, output=VULNERABLE), HERE)
            await scene.audits.take(packed(DB), HERE)
            await scene.become(web1=status, db1=Status.CLEAN)
            assert scene.audits.unread == 0

    run(scenario)
    assert len(told(logs)) == (status is Status.FAILED)


@pytest.mark.usefixtures("logs")
def test_garbled_audit_leaves_the_one_before(path: Path, clock: Clock) -> None:
    """Where the last audit cannot be unpacked any more, the one of the day before counts."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(at=NOW - DAY, output=VULNERABLE), HERE)
            await scene.audits.take(packed(), HERE)
            await scene.become(web1=Status.CLEAN)
        in_file(path, "UPDATE audit SET payload = x'00' WHERE day = ?", TODAY)
        in_file(path, "DELETE FROM audit_result")
        async with running(path, clock) as scene:
            await scene.become(web1=Status.VULNERABLE)
            assert await scene.audits.take(packed(), HERE) is Outcome.ACCEPTED
            await scene.become(web1=Status.CLEAN)

    run(scenario)


# --- The roster ---


def test_host_that_joins_the_roster_has_what_the_archive_has(path: Path, clock: Clock) -> None:
    """A host that is rostered once more is known by its last audit, and one that leaves is not shown any longer."""

    async def scenario() -> None:
        async with running(path, clock, WEB, DB) as scene:
            await scene.audits.take(packed(WEB, output=VULNERABLE), HERE)
            await scene.become(web1=Status.VULNERABLE, db1=Status.NEVER)
            scene.audits.apply(AUDIT, rostered(DB, APP))
            assert scene.statuses() == {DB: Status.NEVER}
            assert (await scene.refusal(packed(WEB, at=NOW + 1))).reason == "roster"
            await scene.become(db1=Status.NEVER, app1=Status.NEVER)
            scene.audits.apply(AUDIT, rostered(APP, WEB))
            await scene.become(app1=Status.NEVER, web1=Status.VULNERABLE)
            assert list(scene.statuses()) == [APP, WEB]
            assert not scene.audits.unread

    run(scenario)


def test_many_hosts_that_join_the_roster_are_restored(path: Path, clock: Clock, parsing: Parsing) -> None:
    """Hosts that a source of discovery names after a restart are taken up without their outputs being read again."""
    names = [f"host{number}.example.org" for number in range(MAX_READ + 1)]

    async def scenario() -> None:
        async with running(path, clock, *names) as scene:
            await asyncio.gather(*(scene.audits.take(packed(name), HERE) for name in names))
            await until(lambda: set(scene.statuses().values()) == {Status.CLEAN})
        async with running(path, clock, roster={}) as scene:
            assert scene.statuses() == {}
            scene.audits.apply(AUDIT, rostered(*names))
            await until(lambda: scene.statuses() == dict.fromkeys(names, Status.CLEAN))
        assert parsing.count == len(names)

    run(scenario)


def test_host_that_is_spelled_otherwise_is_the_same_host(path: Path, clock: Clock) -> None:
    """The label is the name in conf.yml, and what is known of the host goes with it."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(), HERE)
            await scene.become(web1=Status.CLEAN)
            scene.audits.apply(AUDIT, {WEB: AuditedHost("Web1.Example.ORG.")})
            assert scene.statuses() == {"Web1.Example.ORG.": Status.CLEAN}
            clock.now += DAY
            later = signed(payload("WEB1.EXAMPLE.org", clock.now, VULNERABLE))
            assert await scene.audits.take(later, HERE) is Outcome.ACCEPTED
            await until(lambda: scene.statuses() == {"Web1.Example.ORG.": Status.VULNERABLE})

    run(scenario)


def test_audits_that_another_roster_leaves_alone_are_the_same_objects(path: Path, clock: Clock) -> None:
    """A change of discovery makes nothing anew of which nothing differs, so that it is not rendered again."""
    names = [f"host{number}.example.org" for number in range(3)]
    accepted = VulnerabilityException(("*",), ("cve-2026-1",), until=clock.now + DAY)

    async def scenario() -> None:
        async with running(path, clock, roster={name: AuditedHost(name, (accepted,)) for name in names}) as scene:
            await until(lambda: len(scene.audits.states) == len(names))
            before = scene.audits.states
            clock.now += DAY / 2
            scene.audits.apply(AUDIT, {name: AuditedHost(name, (replace(accepted),)) for name in names})
            assert scene.audits.states is before
            scene.audits.apply(AUDIT, {name: AuditedHost(name, (accepted,)) for name in (WEB, *names)})
            await until(lambda: len(scene.audits.states) == len(names) + 1)
            assert all(scene.audits.states[name] is before[name] for name in names)
            clock.now += DAY
            scene.audits.apply(AUDIT, {name: AuditedHost(name, (accepted,)) for name in (WEB, *names)})
            assert all(scene.audits.states[name].judged_at == clock.now for name in names)

    run(scenario)


def test_audit_that_waits_is_held_to_the_roster_of_its_turn(path: Path, clock: Clock, logs: Logs) -> None:
    """A host that leaves the roster while its audit waits to be archived is refused."""

    async def scenario() -> None:
        async with prepared(path, clock, rostered(WEB)) as scene:
            post = asyncio.create_task(scene.audits.take(packed(), HERE))
            await settle()
            scene.audits.apply(AUDIT, rostered(DB))
            async with scene.running():
                with pytest.raises(RejectedError) as caught:
                    await post
                assert caught.value.reason == "roster"
                assert scene.days() == []

    run(scenario)
    assert len(told(logs)) == 1


def test_audit_of_a_host_that_has_left_is_known_when_it_is_back(path: Path, clock: Clock) -> None:
    """An audit that came by mail for a host off the roster is read, and counts from when the host is rostered."""

    async def scenario() -> None:
        async with running(path, clock, DB) as scene:
            await asyncio.to_thread(archive_audit, path, WEB, payload())
            await until(lambda: in_file(path, "SELECT host FROM audit_result") == [(WEB,)])
            assert scene.statuses() == {DB: Status.NEVER}
            scene.audits.apply(AUDIT, rostered(WEB, DB))
            await scene.become(web1=Status.CLEAN, db1=Status.NEVER)

    run(scenario)


def test_host_that_joins_while_an_earlier_audit_of_it_is_read_has_its_last(
    path: Path, clock: Clock, parsing: Parsing
) -> None:
    """A late audit of a host does not count for its last one, though it is read in the moment that the host joins."""

    async def scenario() -> None:
        async with running(path, clock, DB) as scene:
            await asyncio.to_thread(archive_audit, path, WEB, payload(output=VULNERABLE))
            await until(lambda: in_file(path, "SELECT host FROM audit_result") == [(WEB,)])
            parsing.may_begin.clear()
            await asyncio.to_thread(archive_audit, path, WEB, payload(at=NOW - DAY), YESTERDAY, NOW - DAY)
            await until(lambda: parsing.count == 2)
            scene.audits.apply(AUDIT, rostered(WEB, DB))
            parsing.may_begin.set()
            await scene.become(web1=Status.VULNERABLE, db1=Status.NEVER)

    run(scenario)


def test_without_an_audit_block_nothing_is_expected(path: Path, clock: Clock) -> None:
    """When conf.yml loses the block no host has to send audits, and none may; what is archived stays."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(), HERE)
            await scene.become(web1=Status.CLEAN)
            assert scene.audits.is_expecting
            scene.audits.apply(None, {})
            assert (scene.audits.is_expecting, scene.statuses()) == (False, {})
            assert (await scene.refusal(packed(at=NOW + 1))).reason == "roster"
            scene.audits.apply(AUDIT, rostered(WEB))
            await scene.become(web1=Status.CLEAN)

    run(scenario)


# --- Exceptions ---


def test_exception_that_lapses_changes_the_status_by_itself(path: Path, clock: Clock) -> None:
    """A vulnerability counts from the moment on at which it is not accepted any longer; nothing else has to happen."""
    roster = rostered(WEB, DB, exceptions=[accept(CURL, until=NOW + 3600), accept("CVE-2000-1", until=NOW - 1)])

    async def scenario() -> None:
        async with running(path, clock, roster=roster) as scene:
            await scene.audits.take(packed(output=VULNERABLE), HERE)
            await scene.become(web1=Status.CLEAN, db1=Status.NEVER)
            assert [item.id for item in scene.audits.states[WEB].excepted] == [CURL]
            before = scene.audits.states
            clock.now = NOW + 3599
            await settle()
            assert scene.audits.states is before
            clock.now = NOW + 3600
            await scene.become(web1=Status.VULNERABLE, db1=Status.NEVER)
            clock.now = NOW  # set back
            await scene.become(web1=Status.CLEAN, db1=Status.NEVER)

    run(scenario)


def test_exceptions_of_a_reload_count_at_once(path: Path, clock: Clock) -> None:
    """What apply() brings is in force when it returns."""

    async def scenario() -> None:
        async with running(path, clock) as scene:
            await scene.audits.take(packed(output=VULNERABLE), HERE)
            await scene.become(web1=Status.VULNERABLE)
            scene.audits.apply(AUDIT, rostered(WEB, exceptions=[accept(CURL, until=NOW + 60)]))
            assert scene.statuses() == {WEB: Status.CLEAN}
            scene.audits.apply(AUDIT, rostered(WEB, exceptions=[accept(CURL, until=NOW)]))
            assert scene.statuses() == {WEB: Status.VULNERABLE}

    run(scenario)


# --- The end ---


def test_it_ends_when_it_is_cancelled_also_while_there_is_news(path: Path, clock: Clock) -> None:
    """An exporter that is stopped in the moment of a reload, or of an audit, does not hang."""

    async def scenario() -> None:
        async with prepared(path, clock, rostered(WEB)) as scene:
            for _ in range(30):
                task = asyncio.create_task(scene.audits.run())
                await until(lambda: scene.statuses() == {WEB: Status.NEVER})
                for _ in range(100):
                    await asyncio.sleep(0)
                scene.audits.apply(AUDIT, rostered(WEB))
                task.cancel()
                await asyncio.wait({task}, timeout=10.0)
                assert task.cancelled()

    run(scenario)
