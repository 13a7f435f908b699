"""The mailer in the running exporter, which starts, replaces and stops it according to conf.yml."""

from __future__ import annotations

import asyncio
import time
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

import portspec.notify.mailer
from portspec.store import outbox
from portspec.store.archive import Outcome
from tests.unit.app.exporter import answering, engines, metric, running, until, write
from tests.unit.factories import ScriptedEngine
from tests.unit.signed import PASSPHRASE, payload, signed, socket

if TYPE_CHECKING:
    from pathlib import Path

    from portspec.app.service import Service

A: Final = "192.0.2.1"
MAIL: Final[dict[str, Any]] = {
    "sendemail": True,
    "smtpserver": "mail.example.org",
    "fromemail": "portspec@example.org",
    "alertemail": ["a@example.org", "b@example.org"],
}


class Taken(list[tuple[str, str]]):
    """Recipients and alerts of the mails that a server accepted, in place of a Session; and their texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def __call__(self, *_: object) -> Self:
        """Begin a session."""
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, recipient: str, message: bytes) -> str:
        """Accept a mail."""
        mail = message_from_bytes(message, policy=policy.default)
        self.append((recipient, str(mail["X-PortSpec-Alert"])))
        text = mail.get_body(("plain",))
        assert text
        self.texts.append(text.get_content().replace("\r\n", "\n"))
        return "250 queued"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """Return the mails that a server accepts, without pauses."""
    server = Taken()
    monkeypatch.setattr(portspec.notify.mailer, "Session", server)
    monkeypatch.setattr(portspec.notify.mailer, "POLL_INTERVAL", 0.0)
    return server


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return the path of conf.yml."""
    return tmp_path / "conf.yml"


def about(*recipients: str) -> list[tuple[str, str]]:
    """Return the mails about the host."""
    return [(recipient, f"PortSpec Alert [{A}]") for recipient in recipients]


def waits(service: Service) -> tuple[int, int]:
    """Return the numbers of queued notifications and mails."""
    found = service.store.transact(outbox.read_status)
    return found.notifications, found.mails


def test_mail_to_each_recipient_is_sent_and_counted(conf: Path, taken: Taken) -> None:
    """The first scan causes mails, and /metrics has the numbers of sent and queued mails."""
    write(conf, {A: [22]}, **MAIL)

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: metric(service, "portspec_mails_sent_total") == ["portspec_mails_sent_total 2.0"])
            assert taken == about("a@example.org", "b@example.org")
            await until(lambda: metric(service, "portspec_mail_outbox") == ["portspec_mail_outbox 0.0"])

    asyncio.run(scenario())


def test_reload_changes_the_recipients(conf: Path, taken: Taken) -> None:
    """After a reload nothing is notified again, and counters continue."""
    write(conf, {A: [22]}, **MAIL)

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: len(taken) == 2)
            write(conf, {A: [22, 80]}, **{**MAIL, "alertemail": "c@example.org"})
            assert await service.reload() is None
            await until(lambda: metric(service, "portspec_mails_sent_total") == ["portspec_mails_sent_total 3.0"])
            assert taken == about("a@example.org", "b@example.org", "c@example.org")

    asyncio.run(scenario())


def test_counters_continue_when_mails_are_enabled_again(conf: Path, taken: Taken) -> None:
    """While `sendemail` is false, /metrics has no metrics of mails; afterwards counters continue."""
    write(conf, {A: [22]}, **MAIL)

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: metric(service, "portspec_mails_sent_total") == ["portspec_mails_sent_total 2.0"])
            write(conf, {A: [22]}, **(MAIL | {"sendemail": False}))
            assert await service.reload() is None
            assert metric(service, "portspec_mails_sent_total") == []
            write(conf, {A: [22]}, **MAIL)
            assert await service.reload() is None
            assert metric(service, "portspec_mails_sent_total") == ["portspec_mails_sent_total 2.0"]

    asyncio.run(scenario())


def test_nothing_is_sent_while_mails_are_disabled(conf: Path, taken: Taken) -> None:
    """Without `sendemail` nothing is queued or sent, and /metrics has no metrics of mails."""
    write(conf, {A: [22]}, **(MAIL | {"sendemail": False}))

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: service.is_ready)
            assert metric(service, "portspec_mail_outbox") == []
            assert waits(service) == (0, 0)
            write(conf, {A: [22]}, **MAIL)
            assert await service.reload() is None
            service.scan_now(A)
            await until(lambda: len(taken) == 2)
            write(conf, {A: [22, 80]}, **(MAIL | {"sendemail": False}))
            assert await service.reload() is None
            assert metric(service, "portspec_mail_outbox") == []
            assert len(taken) == 2

    asyncio.run(scenario())


def test_links_follow_a_reload(conf: Path, taken: Taken) -> None:
    """Mails link to the URLs that conf.yml has when they are rendered."""
    write(conf, {A: [22]}, external_url="https://one.example.org", **MAIL | {"alertemail": "a@example.org"})

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: len(taken) == 1)
            assert f"\nHost: https://one.example.org/hosts/{A}\n" in taken.texts[0]
            keys = {"external_url": "https://two.example.org/x/", "runbook_url": "https://wiki.example.org"}
            write(conf, {A: [22, 80]}, **keys, **MAIL | {"alertemail": "a@example.org"})
            assert await service.reload() is None
            await until(lambda: len(taken) == 2)
            assert f"\nHost: https://two.example.org/x/hosts/{A}\n" in taken.texts[1]
            assert "\nRunbook: https://wiki.example.org#" in taken.texts[1]

    asyncio.run(scenario())


def test_url_of_the_command_line_has_precedence(conf: Path, taken: Taken) -> None:
    """--web.external-url overrides conf.yml."""
    write(conf, {A: [22]}, external_url="https://one.example.org", **MAIL)

    async def scenario() -> None:
        async with running(conf, external_url="https://flag.example.org"):
            await until(lambda: len(taken) == 2)
            assert f"\nHost: https://flag.example.org/hosts/{A}\n" in taken.texts[0]

    asyncio.run(scenario())


def test_mail_names_the_listening_process(conf: Path, taken: Taken) -> None:
    """The mail has the process that the last audit names, with the time of the audit."""
    audit = {"passphrase": PASSPHRASE}
    write(conf, {A: {"expect": [], "audit": True}}, audit=audit, **MAIL | {"alertemail": "a@example.org"})
    scanner = ScriptedEngine(answering())
    at = time.time() - 60

    async def scenario() -> None:
        async with running(conf, engines(scanner)) as service:
            await until(lambda: service.is_ready)
            body = payload(A, at, listeners=[socket(80, "redis-server", "redis")])
            assert await service.audits.take(signed(body, A), A) is Outcome.ACCEPTED
            await until(lambda: service.snapshot.audits[A].host_audit)
            scanner._answer = answering(80)
            service.scan_now(A)
            await until(lambda: taken)
            assert "  redis-server (redis) listened there according to the audit of " in taken.texts[0]

    asyncio.run(scenario())


def test_fault_in_the_decision_does_not_stop_scans(conf: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """States are written and scans continue."""

    def fault(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(portspec.notify.mailer, "decide", fault)
    write(conf, {A: [22]}, **MAIL)

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: service.is_ready)
            assert service.scan_now(A)
            await until(lambda: service.scan_now(A))
            assert waits(service) == (0, 0)
            assert taken == []

    asyncio.run(scenario())
