"""Mail through a real submission server (Postfix), from a machine with the name of a container."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.audits import PORTSPEC, run
from tests.e2e.exporter import PATIENCE, until, write
from tests.e2e.submission import LOGIN, MAILBOX, PASSWORD, REFUSED, SubmissionHost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message
    from pathlib import Path

    from tests.e2e.audits import Done

CONTAINER: Final = "a1b2c3d4e5f6"
FULL: Final = "no-such-machine.example.org"
# Sets the host name in a UTS namespace, and runs a program there.
_RUN_WITH_HOSTNAME: Final = 'hostname "$1"; shift; exec "$@"'


@pytest.fixture(scope="module")
def server() -> Iterator[SubmissionHost]:
    """Return a submission server."""
    with SubmissionHost([]) as running:
        yield running


def configure(server: SubmissionHost, directory: Path, **keys: Any) -> Path:
    """Write a conf.yml with a host that has a missing port, and with the server."""
    mail = {
        "smtpserver": "127.0.0.1",
        "smtpport": 25,
        "smtpcafile": str(server.authority),
        "smtpusername": LOGIN,
        "smtppassword": PASSWORD,
        "fromemail": "portspec@example.org",
        "alertemail": [MAILBOX],
    }
    state = str(directory / "portspec.db")
    return write(directory / "conf.yml", {"127.0.0.1": [22]}, scanports=[22], state=state, **mail | keys)


def named(server: SubmissionHost, name: str, *arguments: str) -> list[str]:
    """Return the argv that runs portspec in the namespaces of the server, under a host name."""
    return server.inside("unshare", "--uts", "sh", "-c", _RUN_WITH_HOSTNAME, "sh", name, PORTSPEC, *arguments)


def mail_test(server: SubmissionHost, conf: Path, name: str) -> Done:
    """Run `portspec mail-test` there."""
    return run(*named(server, name, "mail-test", "-c", str(conf)))


@contextmanager
def serving(server: SubmissionHost, conf: Path, name: str) -> Iterator[Path]:
    """Run `portspec serve` there, and end it. Return its log."""
    log = conf.with_suffix(".log")
    argv = named(server, name, "serve", "-c", str(conf), "-j", "--web.listen-address", "127.0.0.1:0")
    with log.open("w") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        yield log
    finally:
        process.kill()
        process.wait(PATIENCE)


def events(log: Path, name: str) -> list[dict[str, Any]]:
    """Return the log lines with an event."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]
    return [line for line in lines if line["event"] == name]


def check(mail: Message, ehlo_name: str) -> None:
    """Check that Postfix received a mail inside TLS, from the authenticated user, with an EHLO name."""
    received = " ".join(mail["Received"].split())
    assert received.startswith(f"from {ehlo_name} (")
    assert re.search(r"\(using TLSv1\.[23] with cipher ", received)
    assert re.search(rf"\(Authenticated sender: {LOGIN}\b", received)
    assert " with ESMTPSA " in received


@pytest.mark.parametrize(("name", "said"), [(CONTAINER, "[127.0.0.1]"), (FULL, FULL)])
def test_mail_of_a_container_is_delivered(server: SubmissionHost, tmp_path: Path, name: str, said: str) -> None:
    """Postfix, which offers only LOGIN and rejects names without a domain, accepts the mail."""
    before = len(server.returned())
    done = mail_test(server, configure(server, tmp_path), name)
    assert done.code == 0, done.output.decode() + done.errors + server.log()
    server.wait_until_done()
    (mail,) = server.returned()[before:]
    assert mail["X-PortSpec-Alert"] == "PortSpec Alert [test]"
    check(mail, said)
    assert set(re.findall(r"sasl_method=(\w+)", server.log())) == {"LOGIN"}


def test_wrong_password_is_an_error(server: SubmissionHost, tmp_path: Path) -> None:
    """The output has the reply of Postfix, but not the password."""
    done = mail_test(server, configure(server, tmp_path, smtppassword="wrong-" + PASSWORD), CONTAINER)
    assert done.code == 1
    assert f"{MAILBOX}: NOT accepted: auth: the server rejected the credentials: 535 5.7.8" in done.output.decode()
    assert PASSWORD not in done.output.decode() + done.errors


def test_mail_waits_while_the_ehlo_name_is_rejected(server: SubmissionHost, tmp_path: Path) -> None:
    """Postfix rejects the name at RCPT. The mail waits, and is accepted soon after the name is."""
    before = len(server.returned())
    with serving(server, configure(server, tmp_path, sendemail=True), REFUSED) as log:
        (waits, *_) = until(lambda: events(log, "delivery failed, mails wait"))
        assert waits["reason"] == "refused"
        assert f"the EHLO name is {REFUSED}; give this machine a full name" in waits["why"]
        assert "Helo command rejected" in waits["why"]
        server.take_all_names()
        until(lambda: events(log, "mail sent"))
        assert events(log, "mail rejected, retrying later") == []
        assert events(log, "discarding a mail that cannot be delivered") == []
    server.wait_until_done()
    (mail,) = server.returned()[before:]
    assert mail["X-PortSpec-Alert"] == "PortSpec Alert [127.0.0.1]"
    check(mail, REFUSED)
