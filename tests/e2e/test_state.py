"""One state file, one writer: two exporters, the commands beside them, and commands in another environment."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final

from tests.e2e.audits import PASSPHRASE, PORTSPEC, mail, make, run
from tests.e2e.exporter import Exporter, exporter, until, write
from tests.e2e.smtp import MailServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ADDRESS: Final = "127.61.0.1"
REPORTING: Final = "db1.example.org"
RECIPIENT: Final = "oncall@example.org"


def free_port() -> int:
    """Return a port on which nobody listens."""
    with closing(socket.create_server((ADDRESS, 0))) as listener:
        return int(listener.getsockname()[1])


def configure(path: Path, port: int, **keys: Any) -> Path:
    """Write a conf.yml that expects nothing on a port of loopback, and takes the audits of one host."""
    audit = {"passphrase": PASSPHRASE, "hosts": [REPORTING]}
    return write(path, {ADDRESS: []}, scanports=[port], interval="1d", audit=audit, **keys)


def changes(state: Path) -> list[tuple[str, str]]:
    """Return ports and new state of each row of the change log."""
    with closing(sqlite3.connect(state)) as connection:
        return connection.execute("SELECT ports, became FROM change ORDER BY id").fetchall()


def scan_by(service: Exporter, verdict: str) -> None:
    """Have an exporter scan its host, and wait for a verdict."""

    def is_found() -> bool:
        service.post(f"/api/v1/scan?host={ADDRESS}")
        return bool(service.json(f"/api/v1/hosts/{ADDRESS}")["verdict"] == verdict)

    until(is_found)


def log_of(service: Exporter, event: str) -> list[dict[str, Any]]:
    """Return the log lines of an event."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if event in line["event"]]


def environment(**more: str) -> Mapping[str, str]:
    """Return the environment that an MTA leaves a command."""
    return {"PATH": "/usr/bin:/bin", **more}


def test_two_exporters_write_each_change_and_mail_once(tmp_path: Path) -> None:
    """The second exporter on a state file says who holds it, scans without it, mails nobody, and takes it over."""
    port = free_port()
    with MailServer(tmp_path / "mail") as server:
        keys = {"sendemail": True, "fromemail": "portspec@example.org", "alertemail": RECIPIENT, **server.keys()}
        conf = configure(tmp_path / "conf.yml", port, **keys)
        state = tmp_path / "portspec.db"
        with ExitStack() as stack:
            first = stack.enter_context(exporter(conf))
            first.wait_until_ready()
            second = stack.enter_context(exporter(conf, log=tmp_path / "second.log"))
            second.wait_until_ready()
            (held,) = until(lambda: log_of(second, "another exporter"))
            assert (held["pid"], held["on"], held["config"]) == (
                first.process.pid,
                socket.gethostname(),
                str(conf),
            )
            assert second.series()["portspec_store_up"] == {"": 0.0}
            with socket.create_server((ADDRESS, port)):
                scan_by(first, "out_of_spec")
                scan_by(second, "out_of_spec")
                # A mail that the server took from an exporter that is killed before it wrote that down is sent again.
                until(lambda: server.mails() and first.series()["portspec_mail_outbox"] == {"": 0.0})
                until(lambda: log_of(second, "writing the state file fails, mails wait"))
                assert changes(state) == [(str(port), "open")]
                first.kill()
                until(lambda: second.series()["portspec_store_up"] == {"": 1.0})
                scan_by(second, "out_of_spec")
            scan_by(second, "in_spec")
            until(lambda: len(server.mails()) >= 2 and second.series()["portspec_mail_outbox"] == {"": 0.0})
            # mails are sent in their order: one sent twice would have come before
            subjects = [str(mail.message["Subject"]) for mail in server.mails()]
            assert [subject.partition(": ")[2].split(" after")[0] for subject in subjects] == [
                f"{port} open, not expected",
                "in specification again",
            ]
            assert changes(state) == [(str(port), "open"), (str(port), "closed")]


def test_every_command_finds_the_file_of_the_service_manager(tmp_path: Path) -> None:
    """What `receive` takes in an empty environment is in the archive of an exporter with $STATE_DIRECTORY."""
    conf = configure(tmp_path / "conf.yml", free_port())
    state = tmp_path / "state"
    state.mkdir()
    receive = (PORTSPEC, "receive", "-c", str(conf))
    packed = mail(make(REPORTING, time.time()), "root@db1.example.org", RECIPIENT)
    before = run(*receive, stdin=packed, environment=environment())
    assert before.code == 75, before
    assert not list(tmp_path.rglob("*.db"))
    with exporter(conf, environment={"STATE_DIRECTORY": str(state)}) as service:
        service.wait_until_ready()
        for more in ({}, {"STATE_DIRECTORY": "/var/lib/postfix"}):
            done = run(*receive, stdin=packed, environment=environment(**more))
            assert done.code == 0, done
        until(lambda: service.json(f"/api/v1/hosts/{REPORTING}")["audit"]["status"] == "vulnerable")
        with exporter(conf, log=tmp_path / "second.log") as second:
            second.wait_until_ready()
            assert until(lambda: log_of(second, "another exporter"))
        service.kill(signal.SIGTERM)
    report = run(PORTSPEC, "report", "-c", str(conf), "--format", "text", environment=environment())
    assert report.code == 0, report
    assert "vulnerable" in report.output.decode()
    assert run(*receive, stdin=packed, environment=environment()).code == 0
    assert [path.parent for path in tmp_path.rglob("*.db")] == [state]
