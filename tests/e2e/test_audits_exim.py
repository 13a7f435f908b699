"""Audits by mail where the MTA is exim, set up as docs/audit.md has it, with Portaudit Central's alias."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.audits import PACKAGE, Agent, key, mail, make, payload_of, received, rejected, status
from tests.e2e.exim import PORTAUDIT, EximHost
from tests.e2e.exporter import until
from tests.e2e.mailhost import changed_body, changed_signature, notice_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST: Final = "db1.example.org"
OTHER: Final = "db2.example.org"
SENDER: Final = f"root@{HOST}"


@pytest.fixture
def host() -> Iterator[EximHost]:
    """Return a mail host to which two hosts have to send audits."""
    with EximHost([HOST, OTHER]) as found:
        yield found


def message_id(raw: bytes) -> str:
    """Return the Message-ID of a mail."""
    found = re.search(rb"^Message-ID: (\S+)", raw, re.MULTILINE)
    assert found
    return found[1].decode()


def output_of(host: EximHost, count: int = 1) -> re.Match[str]:
    """Return exim's own id, and what it logged of the output of its command, when it has done so often enough."""
    lines = re.compile(r"(?m)^\S+ \S+ (\S+) (?:<.*>: )?portspec_pipe transport output: (.*)$")
    found = until(lambda: len(seen := list(lines.finditer(host.log()))) >= count and seen)
    assert isinstance(found, list)
    assert len(found) == count
    last: re.Match[str] = found[-1]
    return last


def test_audit_goes_through_exim_from_the_agent_to_the_page(host: EximHost, tmp_path: Path) -> None:
    """What the agent hands to exim's sendmail shows in metrics and page, and is kept as sent; nobody gets mail back."""
    agent = Agent(tmp_path / "db1", HOST, key(host.conf, HOST))
    agent.within = host.within
    agent.configure(mail_to=PORTAUDIT, sendmail=host.sendmail)
    with host.exporter() as exporter:
        exporter.wait_until_ready()
        done = agent.send("--print")
        assert (done.code, done.errors) == (0, "")
        until(lambda: status(exporter, HOST) == "vulnerable")
        assert (received(exporter), rejected(exporter)) == (1, {})
        page = host.state / "all.html"
        until(lambda: page.exists() and PACKAGE in page.read_text(encoding="utf-8"))
    host.wait_until_done()
    assert host.returned() == []
    assert "transport output" not in host.log()
    made = make(HOST, time.time())
    day = payload_of(done).partition(b'"day":"')[2][:10].decode()
    assert made.day == day, "this test ran over midnight of UTC"
    assert host.archived(made) == payload_of(done)


@pytest.mark.parametrize(
    ("of", "tamper", "reason", "words"),
    [
        (HOST, changed_body, "malformed", "gzip|truncated|cannot be read"),
        (HOST, changed_signature, "signature", "not signed"),
        ("web9.example.org", bytes, "roster", "not on the roster"),
        (OTHER, bytes, "duplicate", "already sent another audit for .*"),
    ],
    ids=["body", "signature", "roster", "second"],
)
def test_exim_logs_and_returns_the_reason_of_a_refusal(
    host: EximHost, of: str, tamper: Callable[[bytes], bytes], reason: str, words: str
) -> None:
    """The log of exim has the reason, the sender, the Message-ID and exim's own id; the sender gets the reason back."""
    first, made = make(OTHER, time.time()), make(of, time.time())
    raw = mail(made, SENDER, PORTAUDIT)
    with host.exporter() as exporter:
        host.send(mail(first, f"root@{OTHER}", PORTAUDIT), f"root@{OTHER}", PORTAUDIT)
        until(lambda: received(exporter) == 1)
        host.send(tamper(raw), SENDER, PORTAUDIT)
        (returned,) = until(host.returned)
        until(lambda: rejected(exporter) == {reason: 1})
    found = output_of(host)
    assert f"reason={reason} " in found[2]
    assert re.search(f'why="[^"]*({words})', found[2])
    assert f" sender={SENDER} message_id={message_id(raw)} queue_id={found[1]} " in found[2]
    assert f" {found[1]} <= {SENDER} " in host.log()
    assert returned["To"] == SENDER
    assert re.search(words, notice_of(returned))
    host.wait_until_done()
    assert host.archived(first) == first.payload


def test_same_mail_twice_is_no_trouble(host: EximHost) -> None:
    """A mail that comes twice is acknowledged twice, kept once, and nobody gets mail back."""
    made = make(HOST, time.time())
    with host.exporter() as exporter:
        for _ in range(2):
            host.send(mail(made, SENDER, PORTAUDIT), SENDER, PORTAUDIT)
        until(lambda: host.log().count(" Completed\n") == 2)
        until(lambda: received(exporter) == 1)
        assert rejected(exporter) == {}
    assert host.returned() == []
    assert "transport output" not in host.log()
    assert host.archived(made) == made.payload


def test_mail_waits_in_exim_while_portspec_is_set_up_wrong(host: EximHost) -> None:
    """A mail that cannot be judged waits in exim's queue, its log says why, and it is taken when all is right."""
    host.conf.write_text("audit: {passphrase: short\n", encoding="utf-8")
    made = make(HOST, time.time())
    raw = mail(made, SENDER, PORTAUDIT)
    host.send(raw, SENDER, PORTAUDIT)
    found = output_of(host)
    assert 'event="mail deferred" why="' in found[2]
    assert f"{host.conf}:" in found[2]
    assert f" sender={SENDER} message_id={message_id(raw)} queue_id={found[1]} " in found[2]
    assert host.queue() == [found[1]]
    host.configure()
    host.flush()
    assert host.returned() == []
    assert host.archived(made) == made.payload


@pytest.mark.parametrize("command", ["/nonexistent/portspec receive", "/etc/passwd", "/bin/sh -c 'exit 126'"])
def test_mail_waits_in_exim_while_portspec_cannot_be_started(host: EximHost, command: str) -> None:
    """While the command is not there, as in the middle of an upgrade, exim keeps the mail."""
    host.alias(command)
    made = make(HOST, time.time())
    host.send(mail(made, SENDER, PORTAUDIT), SENDER, PORTAUDIT)
    until(lambda: " == |" in host.log())
    assert len(host.queue()) == 1
    host.alias(host.receive)
    host.flush()
    assert host.returned() == []
    assert host.archived(made) == made.payload
