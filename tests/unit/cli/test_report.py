"""`portspec report` as users run it, on state files as the exporter and `portspec receive` leave them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from portspec.audit import document as encoding
from portspec.config import load
from portspec.inventory import audited_hosts, targets
from portspec.state.snapshot import HostState
from portspec.store import Archive, IncomingAudit, Outcome, archive_audit
from portspec.store.schema import APPLICATION_ID, MIGRATIONS, migrate
from tests.unit.cli.run import PROGRAM, Done, call, environment, run
from tests.unit.factories import result, seen
from tests.unit.reporting import HERE, Scene
from tests.unit.signed import CURL, DAY, DB, PASSPHRASE, VULNERABLE, WEB, packed, payload, signed, socket
from tests.unit.store.scenes import opened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.cli.conftest import Configure

SCANNED: Final = "192.0.2.1"
AUDIT: Final = {"passphrase": PASSPHRASE, "hosts": [WEB, DB, SCANNED]}
NOON: Final = time.time() // DAY * DAY - DAY / 2  # of yesterday: so that no test passes midnight
BEFORE: Final = NOON - DAY


def day(at: float) -> str:
    """Return the day of a time, in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


@pytest.fixture
def conf(configure: Configure) -> str:
    """Return a configuration of one host that is scanned and three that have to report, one of them the same."""
    return configure({SCANNED: [22]}, [22, 80], audit=AUDIT)


def state_file(conf: str) -> Path:
    """Return the path of the state file."""
    return Path(conf).with_name("portspec.db")


def arrive(conf: str, host: str, at: float = NOON, **parts: Any) -> bytes:
    """Put a report into the archive as `portspec receive` does; return its payload."""
    body = payload(host, at, **parts)
    assert archive_audit(str(state_file(conf)), IncomingAudit(host, day(at), at, body), at) is Outcome.ACCEPTED
    return body


def scan(conf: str, *is_open: int) -> None:
    """Let an exporter scan the host, and end."""
    (target,) = targets(load(conf, {}))
    state = HostState(target)
    with opened(state_file(conf), [target]) as (store, _):
        store.put(state, state.after(result(target, seen(SCANNED, scanned=[22, 80], is_open=is_open), at=NOON)))


async def export(conf: str, *reports: bytes) -> None:
    """Let an exporter take and read reports, and end."""
    config = load(conf, {})
    with opened(state_file(conf), ()) as (store, _):
        scene = Scene(state_file(conf), lambda: NOON, store)
        scene.audits.apply(config.audit, audited_hosts(config, targets(config)))
        await scene.audits.restore()
        async with scene.running():
            for report in reports:
                assert await scene.audits.take(report, HERE) is Outcome.ACCEPTED
            await scene.read()


def machines(conf: str, *arguments: str) -> dict[str, Any]:
    """Return the machines of the report as JSON by their hosts."""
    done = call("report", "-c", conf, "--format", "json", *arguments)
    assert (done.code, done.err) == (0, "")
    return {machine["host"]: machine for machine in json.loads(done.out)["machines"]}


def statuses(conf: str, *arguments: str) -> dict[str, str]:
    """Return the status of each machine that has to report."""
    return {host: machine["audit"]["status"] for host, machine in machines(conf, *arguments).items()}


def raw(conf: str, *arguments: str) -> bytes:
    """Return what a host has sent, as it is printed."""
    command = [*PROGRAM, "report", "-c", conf, "--raw", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, timeout=60, check=True).stdout


# --- What is in it ---


def test_both_views_of_every_machine(conf: str) -> None:
    """Hosts that are scanned, that only report, and that do both, are one report, whoever reads the outputs."""
    scan(conf, 22, 80)
    asyncio.run(export(conf, packed(WEB, NOON, VULNERABLE)))
    arrive(conf, SCANNED, listeners=[socket(80, "nc", "eve")])
    found = machines(conf)
    assert {host: machine["audit"]["status"] for host, machine in found.items()} == {
        SCANNED: "clean",
        WEB: "vulnerable",
        DB: "never",
    }
    assert (found[SCANNED]["verdict"], found[SCANNED]["unexpected"]) == ("out_of_spec", ["80"])
    ((holder,),) = found[SCANNED]["audit"]["unexpected_listeners"].values()
    assert (holder["process"], holder["user"], holder["package"]) == ("nc", "eve", None)
    assert (found[WEB]["verdict"], found[WEB]["audit"]["vulnerabilities"][0]["id"]) == (None, CURL)


@pytest.mark.parametrize("form", [[], ["--format", "html"], ["--format", "text"], ["--format", "json"]])
def test_report_is_printed_in_three_forms(conf: str, form: Sequence[str]) -> None:
    """One HTML page by default, or text, or JSON, whole, on standard output alone."""
    arrive(conf, WEB, output=VULNERABLE)
    done = run("report", "-c", conf, *form)
    assert (done.code, done.err) == (0, "")
    assert all(text in done.out for text in (WEB, DB, SCANNED, CURL))
    if form == ["--format", "json"]:
        assert json.loads(done.out)["summary"]["machines"] == 3
    else:
        assert done.out.startswith("portspec: report" if "text" in form else "<!doctype html>")
        assert ("</html>" in done.out) == ("text" not in form)


def test_report_that_nobody_has_read_yet_is_read(conf: str) -> None:
    """What came by mail while no exporter runs is in the report, also in place of what one had read before."""
    asyncio.run(export(conf, packed(WEB, BEFORE, VULNERABLE), packed(DB, NOON)))
    assert statuses(conf) == {WEB: "vulnerable", DB: "clean", SCANNED: "never"}
    arrive(conf, WEB)
    arrive(conf, DB, BEFORE, output=VULNERABLE)  # of an earlier day
    assert statuses(conf) == {WEB: "clean", DB: "clean", SCANNED: "never"}


def test_report_is_written_while_an_exporter_runs(conf: str) -> None:
    """The command reads beside whoever has the file open."""
    arrive(conf, WEB)
    with opened(state_file(conf), ()):
        assert statuses(conf) == {WEB: "clean", DB: "never", SCANNED: "never"}


def test_exceptions_of_conf_yml_count(configure: Configure) -> None:
    """What is accepted now is not counted, whatever was in force when the report came."""
    exceptions = [{"hosts": ["web*"], "ids": [CURL.lower()], "until": "2999-12-31", "reason": "no proxy"}]
    conf = configure({SCANNED: []}, audit=AUDIT, exceptions=exceptions)
    arrive(conf, WEB, output=VULNERABLE)
    audit = machines(conf, "--host", WEB)[WEB]["audit"]
    assert (audit["status"], audit["excepted"][0]["reason"]) == ("clean", "no proxy")


def test_domain_is_taken_off_names(configure: Configure) -> None:
    """`audit.domain` shortens the names that are shown, here as in the file that the exporter writes."""
    conf = configure({SCANNED: []}, audit=AUDIT | {"domain": r"\.example\.org"})
    arrive(conf, WEB)
    shown = call("report", "-c", conf, "--format", "text").out
    assert "web1\n" in shown
    assert WEB not in shown


def test_hosts_of_discovery_are_in_it(configure: Configure, tmp_path: Path) -> None:
    """Sources are asked; one that fails is warned of, and the rest is reported."""
    (tmp_path / "found.json").write_text(json.dumps([{"targets": [f"{WEB}:9100"]}]), encoding="utf-8")
    sources = [{"files": ["found.json"], "audit": True}, {"files": ["none.json"], "audit": True}]
    conf = configure({SCANNED: []}, audit={"passphrase": PASSPHRASE}, discovery={"file_sd": sources})
    arrive(conf, WEB)
    done = call("report", "-c", conf, "--format", "json")
    assert done.code == 0
    assert done.err.startswith("warning: discovery.file_sd[1] failed and returned 0 hosts: ")
    assert {machine["host"] for machine in json.loads(done.out)["machines"]} == {SCANNED, WEB}


def test_garbled_document_is_read_anew(conf: str) -> None:
    """What was kept of a report and makes no sense does not end the command: the report itself is there."""
    asyncio.run(export(conf, packed(WEB, NOON, VULNERABLE), packed(DB, NOON, VULNERABLE)))
    with opened(state_file(conf), ()) as (store, _):
        held = Archive()

        def put(file: sqlite3.Connection) -> None:
            mark = held.read_position(file)
            assert mark
            numbers = dict(file.execute("SELECT host, id FROM audit").fetchall())
            other = json.dumps({"version": encoding.VERSION + 1})
            held.save_results(file, [(WEB, numbers[WEB], "{}"), (DB, numbers[DB], other)], mark)

        store.transact(put)
    done = call("report", "-c", conf, "--format", "json")
    assert done.code == 0
    assert {item["host"]: item["audit"]["status"] for item in json.loads(done.out)["machines"]} == {
        WEB: "vulnerable",
        DB: "vulnerable",
        SCANNED: "never",
    }
    (line,) = done.err.splitlines()
    assert f"reading the tool's output again\" host={WEB}" in line


# --- One machine, one day ---


def test_report_of_one_machine(conf: str) -> None:
    """--host gives that machine alone, in any spelling."""
    scan(conf, 22)
    arrive(conf, WEB)
    assert set(machines(conf, "--host", "WEB1.Example.org.")) == {WEB}
    assert set(machines(conf, "--host", SCANNED)) == {SCANNED}


def test_report_of_a_day(conf: str) -> None:
    """--day shows the machine as it reported then, and not the last report."""
    arrive(conf, WEB, BEFORE, output=VULNERABLE)
    arrive(conf, WEB, NOON)
    assert statuses(conf, "--host", WEB) == statuses(conf, "--host", WEB, "--day", day(NOON)) == {WEB: "clean"}
    assert statuses(conf, "--host", WEB, "--day", day(BEFORE)) == {WEB: "vulnerable"}


def test_raw_is_what_the_host_sent_byte_for_byte(conf: str, tmp_path: Path) -> None:
    """--raw gives the payload of a day, or the last, on standard output or in a file."""
    before = arrive(conf, WEB, BEFORE, output=f"caf\u00e9\r\n\x00{VULNERABLE}")
    last = arrive(conf, WEB, NOON)
    assert raw(conf, "--host", WEB) == raw(conf, "--host", "WEB1.example.org.", "--day", day(NOON)) == last
    assert raw(conf, "--host", WEB, "--day", day(BEFORE)) == before
    assert raw(conf, "--host", WEB, "-o", str(tmp_path / "raw")) == b""
    assert (tmp_path / "raw").read_bytes() == last


def test_days_are_named_where_there_is_no_report_of_one(conf: str) -> None:
    """Who asks for a day without a report is told of which there are some."""
    for number in range(9):
        arrive(conf, WEB, NOON - number * DAY)
    days = ", ".join(day(NOON - number * DAY) for number in range(7))
    for arguments in (["--raw"], []):
        done = call("report", "-c", conf, "--host", WEB, "--day", "2020-02-29", *arguments)
        told = f"no audit of {WEB} for 2020-02-29; available: {days} and earlier\n"
        assert done == Done(2, "", told)
    assert call("report", "-c", conf, "--host", DB, "--raw") == Done(2, "", f"no audit of {DB}\n")


def test_host_that_left_the_roster_has_what_it_sent(configure: Configure) -> None:
    """What is archived of a host that need not report any longer is given raw; --day alone would show nothing of it."""
    conf = configure({SCANNED: []}, audit={"passphrase": PASSPHRASE, "hosts": [DB]})
    body = arrive(conf, SCANNED)
    assert raw(conf, "--host", SCANNED) == body
    assert machines(conf, "--host", SCANNED)[SCANNED]["audit"] is None
    done = call("report", "-c", conf, "--host", SCANNED, "--day", day(NOON))
    told = f"--day: {SCANNED} is not an audited host of the configuration; --raw writes what it sent\n"
    assert done == Done(2, "", told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "elsewhere"], '"elsewhere" is not a host of the configuration'),
        (["--host", "a b"], '"a b" is not '),
        (["--raw", "--host", "a b"], '"a b" is not '),
        (["--host", "192.0.2.0/24"], '"192.0.2.0/24" is not a host of the configuration'),
        (["--raw"], "--raw requires --host"),
        (["--day", "2027-03-31"], "--day requires --host"),
        (["--host", WEB, "--day", "31.3.2027"], "usage: "),
        (["--host", WEB, "--day", "2027-02-29"], "usage: "),
        (["--format", "pdf"], "usage: "),
    ],
)
def test_what_makes_no_sense_is_exit_2(conf: str, arguments: Sequence[str], told: str) -> None:
    """A command line that cannot be meant is told in a line, and nothing is printed."""
    arrive(conf, WEB)
    done = call("report", "-c", conf, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(told)
    assert "Traceback" not in done.err


# --- Where it goes ---


def test_file_is_written_whole(conf: str, tmp_path: Path) -> None:
    """-o writes a file and prints nothing; the file keeps its mode, and nothing stays beside it."""
    arrive(conf, WEB)
    page = tmp_path / "pages" / "all.html"
    page.parent.mkdir()
    page.write_text("before", encoding="utf-8")
    page.chmod(0o604)
    before = page.stat().st_ino
    assert call("report", "-c", conf, "-o", str(page)) == Done(0, "", "")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (page.stat().st_mode & 0o7777, page.stat().st_ino == before) == (0o604, False)
    assert [entry.name for entry in page.parent.iterdir()] == ["all.html"]


def test_link_leads_to_the_file(conf: str, tmp_path: Path) -> None:
    """Where the name is a symbolic link, what it leads to is written, and it stays a link."""
    arrive(conf, WEB)
    page, link = tmp_path / "there.html", tmp_path / "link.html"
    link.symlink_to(page)
    for _ in range(2):
        assert call("report", "-c", conf, "-o", str(link)) == Done(0, "", "")
        assert link.is_symlink()
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_file_that_cannot_be_written_whole_stays_as_it_was(configure: Configure, tmp_path: Path) -> None:
    """When there is not enough space the page of before stays, the exit is 2, and nothing stays beside it."""
    hosts = [WEB, *(f"host{number}" for number in range(1000))]
    conf = configure({SCANNED: []}, audit={"passphrase": PASSPHRASE, "hosts": hosts})
    arrive(conf, WEB)
    page = tmp_path / "pages" / "all.html"
    page.parent.mkdir()
    page.write_text("before", encoding="utf-8")
    limited = ["/bin/sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *PROGRAM]  # blocks of 512 bytes
    done = run("report", "-c", conf, "-o", str(page), program=limited)
    assert done == Done(2, "", f"cannot write {page}: file too large\n")
    assert page.read_text(encoding="utf-8") == "before"
    assert [entry.name for entry in page.parent.iterdir()] == ["all.html"]


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("none/all.html", "no such file or directory"),
        (".", "is a directory"),
        ("/dev/full", "no space left on device"),
        ("x" * 300, "file name too long"),
    ],
)
def test_place_that_cannot_be_written_to_is_exit_2(conf: str, tmp_path: Path, output: str, why: str) -> None:
    """What is wrong with the place is one line, with its name."""
    arrive(conf, WEB)
    done = call("report", "-c", conf, "-o", output, cwd=tmp_path)
    assert done == Done(2, "", f"cannot write {output}: {why}\n")


def test_dash_is_standard_output(conf: str) -> None:
    """`-o -` prints the page, as without it."""
    arrive(conf, WEB)
    done = call("report", "-c", conf, "-o", "-")
    assert (done.code, done.out.startswith("<!doctype html>"), done.err) == (0, True, "")


@pytest.mark.parametrize("arguments", [[], ["--format", "json"], ["--raw", "--host", WEB]])
@pytest.mark.parametrize(
    ("redirection", "left"),
    [
        (">/dev/full", Done(2, "", "cannot write the result: no space left on device\n")),
        (">&-", Done(0, "", "")),
    ],
)
def test_output_that_takes_nothing(conf: str, arguments: Sequence[str], redirection: str, left: Done) -> None:
    """A full disk behind standard output is exit 2 with a line; who closes it wants the exit code alone."""
    arrive(conf, WEB)
    shell = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM]
    assert run("report", "-c", conf, *arguments, program=shell) == left


def test_reader_that_is_gone_is_exit_141(conf: str) -> None:
    """A pipe without a reader ends the command as SIGPIPE does."""
    arrive(conf, WEB)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        command = [*PROGRAM, "report", "-c", conf]
        done = subprocess.run(command, env=environment(), stdout=pipe, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


# --- State files ---


def test_missing_state_file_is_exit_2(conf: str) -> None:
    """Without a state file there is nothing to report, and what to do is told; none is made."""
    told = f"cannot read {state_file(conf)}: there is no such file; start the exporter, which creates it, or set "
    for arguments in ([], ["--raw", "--host", WEB], ["--host", WEB, "--day", day(NOON)]):
        done = call("report", "-c", conf, *arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(told)
    assert not state_file(conf).exists()


def test_state_file_of_an_earlier_portspec_has_scans_and_no_reports(conf: str) -> None:
    """A file from before there were reports is read as it is."""
    scan(conf, 22, 80)
    with closing(sqlite3.connect(state_file(conf))) as connection:
        (document,) = connection.execute("SELECT document FROM state").fetchone()
    for path in state_file(conf).parent.glob("portspec.db*"):
        path.unlink()
    with contextlib.closing(sqlite3.connect(state_file(conf), isolation_level=None)) as connection:
        migrate(connection, MIGRATIONS[:2])
        connection.execute("INSERT INTO state (host, saved_at, document) VALUES (?, 0, ?)", (SCANNED, document))
    before = state_file(conf).read_bytes()
    found = machines(conf)
    assert (found[SCANNED]["verdict"], found[SCANNED]["unexpected"]) == ("out_of_spec", ["80"])
    assert {host: item["audit"]["status"] for host, item in found.items()} == dict.fromkeys(found, "never")
    done = call("report", "-c", conf, "--raw", "--host", WEB)
    assert done == Done(2, "", f"no audit of {WEB}\n")
    assert state_file(conf).read_bytes() == before


@pytest.mark.parametrize(
    ("application", "version", "why"),
    [(APPLICATION_ID, 999, "a newer portspec wrote it"), (1, 0, "it is the database of another program")],
)
def test_state_file_of_others_is_exit_2(conf: str, application: int, version: int, why: str) -> None:
    """A file that a newer portspec or another program wrote is not guessed at."""
    with contextlib.closing(sqlite3.connect(state_file(conf))) as connection:
        connection.executescript(
            f"PRAGMA application_id = {application}; PRAGMA user_version = {version}; CREATE TABLE x (y)"
        )
    done = call("report", "-c", conf)
    assert (done.code, done.out) == (2, "")
    assert why in done.err


def test_machine_that_is_not_scanned_yet_is_in_it(conf: str) -> None:
    """A file in which nothing is known yet makes a report of machines that were neither scanned nor heard of."""
    with opened(state_file(conf), ()):
        pass
    found = machines(conf)
    assert (found[SCANNED]["verdict"], found[SCANNED]["last_scan"]) == ("unknown", None)
    assert statuses(conf) == dict.fromkeys((SCANNED, WEB, DB), "never")


def test_without_an_audit_block_it_is_a_report_of_scans(configure: Configure) -> None:
    """Nobody needs reports of hosts to have one of what is open."""
    conf = configure({SCANNED: [22]}, [22, 80])
    scan(conf, 22)
    found = machines(conf)
    assert (found[SCANNED]["verdict"], found[SCANNED]["audit"]) == ("in_spec", None)


def test_forged_report_in_the_archive_is_no_matter_of_this_command(conf: str) -> None:
    """Signatures were looked at when reports came in; what cannot be read is a failed audit with its reason."""
    path = str(state_file(conf))
    archive_audit(path, IncomingAudit(WEB, day(NOON), NOON, signed(b"as it was sent")), NOON)
    audit = machines_with_log(conf)[WEB]["audit"]
    assert (audit["status"], audit["reason"].startswith("portspec could not read it: ")) == ("failed", True)


def machines_with_log(conf: str) -> dict[str, Any]:
    """Return the machines of a report that tells something in its log, too."""
    done = call("report", "-c", conf, "--format", "json")
    assert done.code == 0
    assert 'event="failed to read an archived audit"' in done.err
    return {machine["host"]: machine for machine in json.loads(done.out)["machines"]}
