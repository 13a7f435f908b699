"""`portspec receive` as an MTA runs it: a mail on standard input, an exit code that says what becomes of the mail."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import time
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import portspec.cli.receive
from portspec.agent import make_mail, make_parcel
from portspec.audit.mail import MAX_MAIL
from portspec.cli import main
from portspec.store import Store
from tests.unit.cli.run import PROGRAM, Done, call, environment, run
from tests.unit.factories import process_restored
from tests.unit.signed import DAY, DB, PASSPHRASE, VULNERABLE, WEB, payload, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.unit.cli.conftest import Configure

KEPT, REFUSED, LATER = 0, 65, 75  # sysexits(3): EX_OK, EX_DATAERR, EX_TEMPFAIL
AUDIT: Final = {"passphrase": PASSPHRASE, "hosts": [WEB, DB]}
ENVIRONMENT: Final = {  # in which Postfix's local(8) runs a command
    "SENDER": "root@web1.example.org",
    "CLIENT_HOSTNAME": "relay.example.org",
    "CLIENT_ADDRESS": "192.0.2.25",
    "CLIENT_PROTOCOL": "ESMTP",
}


def mail(packed: bytes) -> bytes:
    """Return the mail of an agent."""
    return make_mail(make_parcel(packed, None), "root@web1.example.org", "portspec@example.org")


def today(host: str = WEB, **parts: Any) -> bytes:
    """Return a payload of a host that is of now."""
    return payload(host, time.time(), **parts)


def receive(*arguments: str, mail: bytes) -> Done:
    """Return a mail to the command."""
    return call("receive", *arguments, stdin=mail)


def pipe(*arguments: str, mail: bytes, extra: Mapping[str, str] | None = None) -> Done:
    """Pipe a mail to the command, as an MTA does."""
    done = subprocess.run(
        [*PROGRAM, "receive", *arguments],
        input=mail,
        env=environment(extra),
        capture_output=True,
        timeout=60.0,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def counts(conf: str) -> dict[str, int]:
    """Return the totals in the state file."""
    with contextlib.closing(sqlite3.connect(Path(conf).with_name("portspec.db"))) as connection:
        return dict(connection.execute("SELECT outcome, count FROM audit_count"))


def archived(conf: str, host: str = WEB) -> bytes | None:
    """Return the payload of the last audit of a host."""
    found = Store(str(Path(conf).with_name("portspec.db")), history=1.0).find_audit(host)
    return found.payload if found else None


@pytest.fixture
def conf(configure: Configure) -> str:
    """Return a configuration by which two hosts have to send audits."""
    return configure({"127.0.0.1": []}, audit=AUDIT, state="portspec.db")


def test_good_mail_is_0_and_silent(conf: str) -> None:
    """An audit that is archived when the command ends is 0, and so is the same once more; an MTA has nothing to log."""
    body = today()
    for _ in range(2):
        assert pipe("-c", conf, mail=mail(signed(body))) == Done(KEPT, "", "")
    assert archived(conf) == body
    assert counts(conf) == {"accepted": 1}


def test_good_mail_is_told_to_who_asks(conf: str) -> None:
    """With --log.level info there is a line for what was accepted, and another for what was there."""
    audit = mail(signed(today()))
    told = [json.loads(receive("-j", "-c", conf, "--log.level", "info", mail=audit).err)["event"] for _ in range(2)]
    assert told == ["an audit was accepted", "the audit is already archived"]


def test_audit_of_the_passphrase_before_is_taken(configure: Configure) -> None:
    """During a change-over either key is good by mail, too."""
    before = "a passphrase from before"
    conf = configure({"127.0.0.1": []}, audit=AUDIT | {"previous_passphrase": before}, state="portspec.db")
    assert receive("-c", conf, mail=mail(signed(today(), WEB, before))).code == KEPT


def plain_mail() -> bytes:
    """Write a mail of a human being."""
    message = EmailMessage()
    message["From"], message["Subject"] = "somebody@example.org", "lunch?"
    message.set_content("At noon.")
    return message.as_bytes()


@pytest.mark.parametrize(
    ("audit", "reason"),
    [
        (lambda: mail(signed(today(), DB)), "signature"),
        (lambda: mail(signed(today("evil.example.org"), "evil.example.org")), "roster"),
        (lambda: mail(signed(payload(at=time.time() - 6 * DAY))), "time"),
        (lambda: mail(signed(today()))[:-300], "malformed"),
        (plain_mail, "malformed"),
        (lambda: b"", "malformed"),
        (lambda: b"\0\xff" * 1000, "malformed"),
    ],
)
def test_bad_mail_is_65_and_counted(conf: str, audit: Any, reason: str) -> None:
    """A mail that is no audit of a host of the roster goes back to its sender, with one line that says why."""
    done = receive("-c", conf, mail=audit())
    assert (done.code, done.out) == (REFUSED, "")
    (line,) = done.err.splitlines()
    assert f'event="audit rejected" reason={reason} ' in line
    assert counts(conf) == {reason: 1}
    assert archived(conf) is None


def test_another_audit_of_the_day_is_65(conf: str) -> None:
    """One audit a host and day counts, whichever way it comes; the first stays."""
    body = today()
    assert receive("-c", conf, mail=mail(signed(body))).code == KEPT
    assert receive("-c", conf, mail=mail(signed(today(output=VULNERABLE)))).code == REFUSED
    assert archived(conf) == body
    assert counts(conf) == {"accepted": 1, "duplicate": 1}


def test_log_tells_whence_a_refused_mail_came(conf: str) -> None:
    """The error has the host that the audit says it is of, and the mail's sender, Message-ID and relay."""
    raw = mail(signed(today(), DB))
    done = pipe("-j", "-c", conf, mail=raw, extra=ENVIRONMENT)
    entry = json.loads(done.err)
    identity = raw.partition(b"Message-ID: ")[2].split()[0].decode()
    assert {key: entry[key] for key in ("event", "level", "reason", "host", "sender", "message_id", "relay")} == {
        "event": "audit rejected",
        "level": "error",
        "reason": "signature",
        "host": WEB,
        "sender": "root@web1.example.org",
        "message_id": identity,
        "relay": "relay.example.org[192.0.2.25] ESMTP",
    }
    assert entry["why"].startswith(f"it is not signed with the key of {WEB}")


def test_every_line_tells_which_mail_it_is_about(conf: str) -> None:
    """Also of a mail that is accepted or has to wait the line has sender, Message-ID and exim's own id, if known."""
    raw = mail(signed(today()))
    identity = raw.partition(b"Message-ID: ")[2].split()[0].decode()
    exim = {"SENDER": "root@web1.example.org", "MESSAGE_ID": "1xXU5u-0001bk-24"}
    of_mail = {"sender": "root@web1.example.org", "message_id": identity, "queue_id": "1xXU5u-0001bk-24"}
    told = [json.loads(pipe("-j", "-c", conf, "--log.level", "info", mail=raw, extra=exim).err) for _ in range(2)]
    right = Path(conf).read_text(encoding="utf-8")
    Path(conf).write_text("{", encoding="utf-8")
    told.append(json.loads(pipe("-j", "-c", conf, mail=raw, extra=exim).err))
    Path(conf).write_text(right, encoding="utf-8")
    assert [entry["event"] for entry in told] == [
        "an audit was accepted",
        "the audit is already archived",
        "mail deferred",
    ]
    for entry in told:
        assert {name: entry.get(name) for name in (*of_mail, "relay")} == {**of_mail, "relay": None}


def test_mail_without_end_is_read_to_its_end_and_65(conf: str) -> None:
    """100 MB are taken off the pipe, so that the MTA gets rid of them, and refused for their size."""
    process = subprocess.Popen(
        [*PROGRAM, "receive", "-c", conf],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stderr
    with process, process.stdin, process.stderr:
        for _ in range(100):
            process.stdin.write(b"x" * 999_999 + b"\n")
        process.stdin.close()
        told = process.stderr.read().decode()
        assert process.wait(60.0) == REFUSED
    assert f'reason=too_large why="the mail has more than {MAX_MAIL:,} bytes"' in told
    assert counts(conf) == {"too_large": 1}


# --- Try again later ---


def test_broken_configuration_is_75(conf: str) -> None:
    """A mistake in conf.yml costs no audit: the MTA keeps the mail, and the line of the mistake is told."""
    right = Path(conf).read_text(encoding="utf-8")
    audit = mail(signed(today()))
    for wrong in (right.replace('"hosts"', '"hostss"', 1), "{", "", f"{right}\nintervall: 5\n"):
        Path(conf).write_text(wrong, encoding="utf-8")
        done = receive("-c", conf, mail=audit)
        assert (done.code, done.out) == (LATER, "")
        assert 'event="mail deferred"' in done.err
        assert conf in done.err
    Path(conf).write_text(right, encoding="utf-8")
    assert receive("-c", conf, mail=audit).code == KEPT


def test_missing_configuration_is_75(tmp_path: Path) -> None:
    """So is a conf.yml that is not there, as while it is installed anew."""
    done = receive("-c", str(tmp_path / "conf.yml"), mail=mail(signed(today())))
    assert (done.code, done.out) == (LATER, "")
    assert "no such file" in done.err


def test_configuration_without_an_audit_block_is_75(configure: Configure) -> None:
    """Where no audit is expected the mail waits: the block may have been taken out by mistake."""
    conf = configure({"127.0.0.1": []})
    done = receive("-c", conf, mail=mail(signed(today())))
    assert (done.code, done.out) == (LATER, "")
    assert f"{conf}: has no audit block, so no audit is expected" in done.err


def test_missing_state_directory_is_75(configure: Configure, tmp_path: Path) -> None:
    """While the state file cannot be made the mail waits, good or bad; then it is taken."""
    state = tmp_path / "state" / "portspec.db"
    conf = configure({"127.0.0.1": []}, audit=AUDIT, state=str(state))
    good, bad = mail(signed(today())), mail(signed(today(), DB))
    for audit in (good, bad):
        done = receive("-c", conf, mail=audit)
        assert (done.code, done.out) == (LATER, "")
        assert f"cannot write {state}: no such file or directory" in done.err
    state.parent.mkdir()
    assert [receive("-c", conf, mail=audit).code for audit in (good, bad)] == [KEPT, REFUSED]


def test_state_file_of_somebody_else_is_75(conf: str) -> None:
    """A file that must not be written to is left as it is, and the mail waits."""
    foreign = Path(conf).with_name("portspec.db")
    with contextlib.closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = foreign.read_bytes()
    done = receive("-c", conf, mail=mail(signed(today())))
    assert done.code == LATER
    assert "it is the database of another program" in done.err
    assert foreign.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [["receive", "--nonsense"], ["receive", "-c"], ["receive", "-c", "conf.yml", "more"], ["-x", "receive"]],
)
def test_wrong_command_line_is_75(arguments: list[str]) -> None:
    """A slip in the MTA's configuration costs no audit, either."""
    done = call(*arguments)
    assert (done.code, done.out) == (LATER, "")
    assert done.err.startswith("usage: portspec")


def test_help_is_0() -> None:
    """Who asks for help gets it."""
    assert call("receive", "--help").code == KEPT


def test_closed_input_is_75(conf: str) -> None:
    """Without a standard input there is no mail that could be refused."""
    done = run("receive", "-c", conf, program=["/bin/sh", "-c", 'exec "$@" <&-', "sh", *PROGRAM])
    assert done.code == LATER
    assert "mail deferred" in done.err


def test_crash_is_75(
    conf: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A fault of the program must not lose a mail that may be good: it is logged with its traceback."""

    def crash(_: bytes) -> bytes:
        raise ZeroDivisionError("somewhere")

    audit = tmp_path / "mail"
    audit.write_bytes(mail(signed(today())))
    monkeypatch.setattr(portspec.cli.receive, "read_mail", crash)
    with audit.open() as stdin, process_restored():
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["receive", "-c", conf]) == LATER
    out, err = capsys.readouterr()
    assert out == ""
    assert 'event="mail deferred: portspec crashed"' in err
    assert "ZeroDivisionError: somewhere" in err


# --- Hosts that a source of discovery puts on the roster ---


def discovering(configure: Configure, *sources: Mapping[str, Any], kind: str = "file_sd") -> str:
    """Configure sources of discovery."""
    audit = {"passphrase": PASSPHRASE}
    return configure({"127.0.0.1": []}, audit=audit, discovery={kind: list(sources)}, state="portspec.db")


def test_host_that_a_source_names_may_audit(configure: Configure, tmp_path: Path) -> None:
    """Sources are asked for a host that conf.yml itself does not name; one that they do not name is refused."""
    (tmp_path / "found.json").write_text(json.dumps([{"targets": [f"{WEB}:9100"]}]), encoding="utf-8")
    conf = discovering(configure, {"files": ["found.json"], "audit": True})
    assert receive("-c", conf, mail=mail(signed(today()))).code == KEPT
    done = receive("-c", conf, mail=mail(signed(today(DB), DB)))
    assert (done.code, "reason=roster" in done.err) == (REFUSED, True)


def test_source_that_cannot_be_asked_is_75(configure: Configure, tmp_path: Path) -> None:
    """Nobody knows whether it names the host: the mail waits until the source answers."""
    conf = discovering(configure, {"files": ["found.json"], "audit": True})
    audit = mail(signed(today()))
    done = receive("-c", conf, mail=audit)
    assert (done.code, done.out) == (LATER, "")
    assert f"{WEB} is not on the roster" in done.err
    assert "file_sd[0], which may name it, cannot be reached" in done.err
    assert not Path(conf).with_name("portspec.db").exists()
    (tmp_path / "found.json").write_text(json.dumps([{"targets": [WEB]}]), encoding="utf-8")
    assert receive("-c", conf, mail=audit).code == KEPT


def test_url_that_cannot_be_asked_is_75(configure: Configure) -> None:
    """The same holds for a source over HTTP."""
    conf = discovering(configure, {"url": "http://127.0.0.1:1/", "audit": True}, kind="http_sd")
    done = receive("-c", conf, mail=mail(signed(today())))
    assert (done.code, "http_sd[0], which may name it, cannot be reached" in done.err) == (LATER, True)


def test_source_that_puts_nobody_on_the_roster_is_not_asked(configure: Configure) -> None:
    """A source without `audit: true` says nothing about who may send audits."""
    conf = discovering(configure, {"files": ["none.json"]})
    done = receive("-c", conf, mail=mail(signed(today())))
    assert (done.code, "reason=roster" in done.err) == (REFUSED, True)


def test_host_of_conf_yml_needs_no_source(configure: Configure) -> None:
    """While a source is down, hosts that conf.yml names audit as ever."""
    source = {"file_sd": [{"files": ["none.json"], "audit": True}]}
    conf = configure({"127.0.0.1": []}, audit=AUDIT, discovery=source, state="portspec.db")
    assert receive("-c", conf, mail=mail(signed(today()))).code == KEPT
