from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.exporter import PATIENCE, parse, until, write
from tests.e2e.smtp import PASSWORD, USER, Mail, MailServer
from tests.faults.registry import fault
from tests.lab.program import PROGRAM
from tests.lab.truth import HostTruth, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.lab.network import Lab

HOST: Final = "web.lab"
ADDRESS: Final = "198.18.9.1"
EXPECTED: Final = 22
PORT: Final = 8080
OTHER: Final = 8081
# In a namespace of their own.
ALERTMANAGER: Final = "127.0.0.1:9093"
LISTEN: Final = "127.0.0.1:10190"
RECIPIENTS: Final = ("security@example.org", "oncall@example.org", "boss@example.org")
SENDER: Final = "portspec@example.org"
ROUNDS: Final = 10
# Seconds; no multiple of those between the mailer's looks, each of which would else meet a scan or none would.
INTERVAL: Final = 1.3

# Prints a page of the exporter: `python -c … PATH`. As little as does, since it is run often.
_GET: Final = """
import socket, sys
with socket.create_connection(("127.0.0.1", 10190), 10) as connection:
    connection.sendall(f"GET {sys.argv[1]} HTTP/1.0\\r\\n\\r\\n".encode())
    page = b"".join(iter(lambda: connection.recv(65536), b""))
sys.stdout.write(page.partition(b"\\r\\n\\r\\n")[2].decode())
"""

# Listens and never answers: `python -c … PORT`.
_SILENT: Final = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("listening", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def network(lab: Lab) -> Lab:
    """Return the lab with one host that is as it should be."""
    lab.apply([HostTruth(HOST, (ADDRESS,), {(ADDRESS, EXPECTED): State.OPEN})])
    return lab


@pytest.fixture
def server(network: Lab, tmp_path: Path) -> Iterator[MailServer]:
    """Return a mail server beside the exporter."""
    with MailServer(tmp_path / "mail", network.popen) as running:
        yield running


def configure(path: Path, server: MailServer, **keys: Any) -> Path:
    """Write a conf.yml that scans the host all the time and mails all recipients; keys that are None are left out."""
    mail = {
        "interval": INTERVAL,
        "sendemail": True,
        "fromemail": SENDER,
        "alertemail": list(RECIPIENTS),
        **server.keys(),
        **keys,
    }
    given = {name: value for name, value in mail.items() if value is not None}
    return write(path, {HOST: [EXPECTED]}, scanports=[EXPECTED, PORT, OTHER], **given)


class Service:
    """`portspec serve` on the scanner's side of the lab."""

    def __init__(self, lab: Lab, conf: Path, log: Path) -> None:
        self.log = log
        self._lab = lab
        with log.open("w") as output:
            argv = [*PROGRAM, "serve", "-c", str(conf), "-j", "--web.listen-address", LISTEN]
            self.process = lab.popen(argv, stdout=output, stderr=output, env={**os.environ, "TZ": "CET-1"})

    def series(self) -> dict[str, dict[str, float]]:
        """Scrape; nothing while it does not listen."""
        assert self.process.poll() is None, self.log.read_text()
        done = self._lab.run([sys.executable, "-I", "-S", "-c", _GET, "/metrics"])
        return parse(done.stdout) if done.returncode == 0 else {}

    def value(self, name: str, labels: str = "") -> float:
        """Return the value of one series; 0 while there is none."""
        return self.series().get(name, {}).get(labels, 0.0)

    def wait_for_rounds(self, count: int) -> float:
        """Wait until so many more rounds have ended; returns how many there were by then."""
        goal = self.value("portspec_scan_rounds_total") + count
        until(lambda: self.value("portspec_scan_rounds_total") >= goal)
        return self.value("portspec_scan_rounds_total")

    def wait_for_outbox(self, count: int) -> None:
        """Wait until so many mails wait."""
        until(lambda: self.value("portspec_mail_outbox") == count)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the log that are about something."""
        lines = (json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if line["event"] == name]

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait(PATIENCE)


@contextmanager
def serving(lab: Lab, conf: Path, log: Path) -> Iterator[Service]:
    """Run the exporter, and end it."""
    running = Service(lab, conf, log)
    try:
        yield running
    finally:
        running.kill()


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End a program on leaving."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def alertmanager(lab: Lab, directory: Path) -> AbstractContextManager[object]:
    """Run an Alertmanager beside the exporter, which tells nobody anything."""
    conf = directory / "alertmanager.yml"
    conf.write_text(json.dumps({"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}), encoding="utf-8")
    argv = ["prometheus-alertmanager", f"--config.file={conf}", f"--storage.path={directory / 'alertmanager'}"]
    argv += [f"--web.listen-address={ALERTMANAGER}", "--cluster.listen-address="]
    return ending(lab.popen(argv, stdout=DEVNULL, stderr=DEVNULL))


def wait_for_mails(server: MailServer, count: int) -> list[Mail]:
    """Wait until the server has so many mails; returns the youngest of them, one for each recipient."""
    mails: list[Mail] = until(lambda: found if len(found := server.mails()) >= count else None)
    assert len(mails) == count
    return mails[-len(RECIPIENTS) :]


def check(mails: list[Mail], host: str = HOST) -> None:
    """See that these mails are one to each recipient, from whom they should be, about a host."""
    assert sorted(mail.recipients for mail in mails) == sorted((recipient,) for recipient in RECIPIENTS)
    assert len({mail.identity for mail in mails}) == len(RECIPIENTS)
    for mail in mails:
        assert (mail.sender, mail.user) == (SENDER, USER)
        assert mail.message["To"] == mail.recipients[0]
        assert mail.message["From"] == f"PortSpec <{SENDER}>"
        assert mail.message["X-PortSpec-Alert"] == f"PortSpec Alert [{host}]"
        assert mail.message["Subject"].startswith("[portspec] test mail" if host == "test" else f"[portspec] {host}: ")
        assert mail.message["Auto-Submitted"] == "auto-generated"
        assert mail.message["Date"].datetime is not None
        assert not mail.message.defects


def threads(mails: list[Mail]) -> set[tuple[str, str]]:
    """Return the conversations that mails belong to."""
    return {(str(mail.message["References"]), str(mail.message["In-Reply-To"])) for mail in mails}


def only_says_hello(clear: bytes) -> bool:
    """Return whether nothing but the beginning of TLS was sent in clear."""
    return Counter(line.split(b" ")[0] for line in clear.splitlines()).keys() <= {b"EHLO", b"STARTTLS"}


def test_each_change_is_one_mail_to_each_recipient(network: Lab, server: MailServer, tmp_path: Path) -> None:
    """A port opens and closes again: three recipients get one mail each for either, and none more in ten rounds."""
    with serving(network, configure(tmp_path / "conf.yml", server), tmp_path / "log") as service:
        first = service.wait_for_rounds(1)
        assert server.mails() == []

        network.open_port(ADDRESS, PORT)
        opened = wait_for_mails(server, 3)
        check(opened)
        for mail in opened:
            assert f"{HOST} is out of specification." in mail.text
            unexpected = mail.text.partition("Open, not expected\n")[2].splitlines()
            assert re.fullmatch(rf"- {PORT}( \(.*\))? on {re.escape(ADDRESS)}", unexpected[0])
            assert unexpected[1] == "  severity: warning"
            assert unexpected[2].startswith("  first seen ")
            assert f"Expected ports: {EXPECTED}\nOpen ports: {EXPECTED}, {PORT}\n" in mail.text
            assert re.search(r"Scanned: [-0-9]+ [:0-9]+ UTC \([-0-9: ]+ CET\)", mail.text)
        service.wait_for_rounds(int(first + ROUNDS / 2 - service.value("portspec_scan_rounds_total")))
        assert len(server.mails()) == 3

        network.close_port(ADDRESS, PORT)
        closed = wait_for_mails(server, 6)
        check(closed)
        for mail in closed:
            assert f"{HOST} is in specification again, after " in mail.text
            over = mail.text.partition("What was wrong\n")[2].splitlines()[0]
            assert re.fullmatch(rf"- {PORT}( \(.*\))? on {re.escape(ADDRESS)}: no longer open", over)
        assert len(threads(opened + closed)) == 1
        assert len({mail.identity for mail in opened + closed}) == 6

        service.wait_for_rounds(int(first + ROUNDS - service.value("portspec_scan_rounds_total")))
        mails = server.mails()
        page = service.series()
        assert len(mails) == 6
        assert page["portspec_mails_sent_total"] == {"": len(mails)}
        assert page["portspec_mail_outbox"] == {"": 0.0}
        assert page["portspec_mails_given_up_total"] == {"": 0.0}
        assert sum(page["portspec_mails_failed_total"].values()) == 0
    assert only_says_hello(server.clear)


def test_end_of_a_deviation_is_mailed_though_the_host_is_scanned_once_a_day(
    network: Lab, server: MailServer, tmp_path: Path
) -> None:
    """An open port is closed, and the mail that says so comes within `recheck`, long before the next scan."""
    network.open_port(ADDRESS, PORT)
    conf = configure(tmp_path / "conf.yml", server, interval="1d", recheck="2s")
    with serving(network, conf, tmp_path / "log") as service:
        check(wait_for_mails(server, 3))
        network.close_port(ADDRESS, PORT)
        closed = wait_for_mails(server, 6)
        check(closed)
        for mail in closed:
            assert f"{HOST} is in specification again, after " in mail.text
            over = mail.text.partition("What was wrong\n")[2].splitlines()[0]
            assert re.fullmatch(rf"- {PORT}( \(.*\))? on {re.escape(ADDRESS)}: no longer open", over)
        assert service.value("portspec_scan_rounds_total") == 1
        assert service.value("portspec_rechecks_total") >= 1


@fault("mail server", "mails", "No notification is lost if the exporter is killed meanwhile.")
def test_no_mail_is_lost_while_the_server_is_down_and_portspec_is_killed(
    network: Lab, server: MailServer, tmp_path: Path
) -> None:
    """Changes that happen before a kill -9, and while portspec is down, are told when the server is there again."""
    conf = configure(tmp_path / "conf.yml", server)
    with serving(network, conf, tmp_path / "first.log") as service:
        service.wait_for_rounds(1)
        server.kill()
        network.open_port(ADDRESS, PORT)
        until(lambda: service.value("portspec_mails_failed_total", 'reason="connect"'))
        service.wait_for_outbox(3)
        service.kill()
    network.open_port(ADDRESS, OTHER)
    with serving(network, conf, tmp_path / "second.log") as service:
        service.wait_for_outbox(6)
        service.kill()
    network.close_port(ADDRESS, PORT)
    network.close_port(ADDRESS, OTHER)
    server.start()
    with serving(network, conf, tmp_path / "third.log") as service:
        until(lambda: len({mail.identity for mail in server.mails()}) >= 9)
        service.wait_for_outbox(0)
        service.wait_for_rounds(2)
        assert service.value("portspec_mails_sent_total") == len(server.mails())
    found = {mail.identity: mail for mail in server.mails()}
    for recipient in RECIPIENTS:
        told = [
            re.sub(r"(, after .*)?\.$", "", mail.text.splitlines()[0])
            for mail in found.values()
            if mail.recipients == (recipient,)
        ]
        assert told == [
            f"{HOST} is out of specification",
            f"{HOST} is out of specification with other deviations than before",
            f"{HOST} is in specification again",
        ]
    assert only_says_hello(server.clear)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)])
def test_mail_that_may_have_been_taken_comes_again_as_the_same(
    network: Lab, server: MailServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ended before the server said that it has a mail, portspec waits for a moment only; the mail comes again."""
    conf = configure(tmp_path / "conf.yml", server)
    with serving(network, conf, tmp_path / "first.log") as service:
        service.wait_for_rounds(1)
        server.hold(is_held=True)
        network.open_port(ADDRESS, PORT)
        until(server.mails)
        service.process.send_signal(number)
        assert service.process.wait(10.0) == code, service.log.read_text()
    server.hold(is_held=False)
    with serving(network, conf, tmp_path / "second.log") as service:
        until(lambda: len(server.mails()) >= 4)
        service.wait_for_outbox(0)
        service.wait_for_rounds(2)
    mails = server.mails()
    assert len(mails) == 4
    check(mails[1:])
    assert mails[1].message.as_bytes() == mails[0].message.as_bytes()


def test_scans_go_on_while_the_mail_server_is_silent(network: Lab, server: MailServer, tmp_path: Path) -> None:
    """A mail server that never answers holds up neither the rounds nor the end of the program."""
    with ending(network.popen([sys.executable, "-c", _SILENT, "2525"], stdin=PIPE, stdout=PIPE)) as silent:
        assert silent.stdout is not None
        assert silent.stdout.readline() == "listening\n"
        conf = configure(tmp_path / "conf.yml", server, smtpport=2525)
        with serving(network, conf, tmp_path / "log") as service:
            service.wait_for_rounds(1)
            network.open_port(ADDRESS, PORT)
            service.wait_for_outbox(3)
            service.wait_for_rounds(3)
            assert sum(service.series()["portspec_mails_failed_total"].values()) == 0  # it still waits
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(5.0) == 0, service.log.read_text()
    assert server.mails() == []


def test_portspec_stands_in_for_alertmanager(network: Lab, server: MailServer, tmp_path: Path) -> None:
    """With `fallback` nothing is sent while Alertmanager is healthy; when it is not, what is wrong now is told."""
    keys = {"sendemail": "fallback", "alertmanager": f"http://{ALERTMANAGER}", "fallback_after": 1}
    conf = configure(tmp_path / "conf.yml", server, **keys)
    with serving(network, conf, tmp_path / "log") as service:

        def wait_for_silence(times: int) -> None:
            until(lambda: len(service.events("Alertmanager is healthy, portspec sends no mails")) == times)

        with alertmanager(network, tmp_path):
            wait_for_silence(1)
            network.open_port(ADDRESS, PORT)
            service.wait_for_rounds(2)
            assert server.mails() == []
            assert service.value("portspec_mail_outbox") == 0
        opened = wait_for_mails(server, 3)
        check(opened)
        assert all(re.search(rf"(?m)^- {PORT}( \(.*\))? on {re.escape(ADDRESS)}$", mail.text) for mail in opened)
        service.wait_for_rounds(2)
        assert len(server.mails()) == 3
        network.open_port(ADDRESS, OTHER)  # what changes is told, too
        check(wait_for_mails(server, 6))

        with alertmanager(network, tmp_path):
            wait_for_silence(2)
            network.close_port(ADDRESS, PORT)
            service.wait_for_rounds(2)
            assert len(server.mails()) == 6
            assert service.value("portspec_mail_outbox") == 0


def mail_test(lab: Lab, conf: Path) -> tuple[int, list[str], str]:
    """Run `portspec mail-test`; returns the exit code, the lines of its output, and what it wrote on standard error."""
    done = lab.run([*PROGRAM, "mail-test", "-c", str(conf)])
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_mail_test_tells_what_the_server_answered(network: Lab, server: MailServer, tmp_path: Path) -> None:
    """`portspec mail-test` sends one message to each address and prints the server's answer to each."""
    code, lines, errors = mail_test(network, configure(tmp_path / "conf.yml", server))
    assert (code, errors) == (0, "")
    assert lines == [
        f"127.0.0.1 port {server.port}, STARTTLS, as {USER}",
        *(f"{recipient}: accepted: 250 2.0.0 kept as {number}" for number, recipient in enumerate(RECIPIENTS, 1)),
    ]
    check(server.mails(), "test")
    assert only_says_hello(server.clear)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (
            {"smtppassword": "wrong-" + PASSWORD},
            "auth: the server rejected the credentials: 535 5.7.8 Authentication credentials invalid",
        ),
        ({"smtpcafile": None}, "certificate: the certificate of 127.0.0.1: unable to get local issuer certificate"),
        ({"smtptls": "implicit"}, "tls: TLS handshake with 127.0.0.1 failed: *"),
    ],
)
def test_mail_test_tells_what_is_wrong(
    network: Lab, server: MailServer, tmp_path: Path, keys: Mapping[str, Any], why: str
) -> None:
    """Where the server does not take the mails, the exit code is 1 and each address has a line that says why."""
    code, lines, errors = mail_test(network, configure(tmp_path / "conf.yml", server, **keys))
    assert (code, errors) == (1, "")
    if why.endswith("*"):
        lines = [f"{line.partition(why[:-1])[0]}{why}" if why[:-1] in line else line for line in lines]
    assert lines[1:] == [f"{recipient}: NOT accepted: {why}" for recipient in RECIPIENTS]
    assert server.mails() == []
    assert PASSWORD not in "".join(lines)
    assert b"AUTH" not in server.clear


def test_mail_test_over_implicit_tls(network: Lab, tmp_path: Path) -> None:
    """The same with TLS from the first byte."""
    with MailServer(tmp_path / "mail", network.popen, tls="implicit") as server:
        code, lines, errors = mail_test(network, configure(tmp_path / "conf.yml", server, sendemail=False))
        assert (code, errors) == (0, "")
        assert lines[0] == f"127.0.0.1 port {server.port}, TLS, as {USER}"
        assert lines[-1] == "note: sendemail is false; portspec sends only this test"
        check(server.mails(), "test")
        assert server.clear == b""
