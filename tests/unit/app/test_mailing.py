"""The mailer as a part of the running exporter: begun, replaced and ended by what conf.yml says."""

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
    """Recipients and alerts of the mails that a server took, which is asked in place of a Session; also their texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def __call__(self, *_: object) -> Self:
        """Begin a dialogue."""
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, recipient: str, message: bytes) -> str:
        """Take a mail."""
        mail = message_from_bytes(message, policy=policy.default)
        self.append((recipient, str(mail["X-PortSpec-Alert"])))
        text = mail.get_body(("plain",))
        assert text
        self.texts.append(text.get_content().replace("\r\n", "\n"))
        return "250 queued"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """Give what a mail server takes, at once."""
    server = Taken()
    monkeypatch.setattr(portspec.notify.mailer, "Session", server)
    monkeypatch.setattr(portspec.notify.mailer, "POLL_INTERVAL", 0.0)
    return server


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Give a place for a conf.yml."""
    return tmp_path / "conf.yml"


def about(*recipients: str) -> list[tuple[str, str]]:
    """Give the mails about the host."""
    return [(recipient, f"PortSpec Alert [{A}]") for recipient in recipients]


def waits(service: Service) -> tuple[int, int]:
    """Give how many notices and mails wait."""
    found = service.store.transact(outbox.read_status)
    return found.notifications, found.mails


def test_a_host_out_of_spec_is_mailed_to_each_address_and_counted(conf: Path, taken: Taken) -> None:
    """What the first scan finds is told, and /metrics says how many mails were sent and wait."""
    write(conf, {A: [22]}, **MAIL)

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: metric(service, "portspec_mails_sent_total") == ["portspec_mails_sent_total 2.0"])
            assert taken == about("a@example.org", "b@example.org")
            await until(lambda: metric(service, "portspec_mail_outbox") == ["portspec_mail_outbox 0.0"])

    asyncio.run(scenario())


def test_other_addresses_get_what_comes_after_a_reload(conf: Path, taken: Taken) -> None:
    """With other settings the mailer goes on: what was told is not told again, and what was counted is counted on."""
    write(conf, {A: [22]}, **MAIL)

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: len(taken) == 2)
            write(conf, {A: [22, 80]}, **{**MAIL, "alertemail": "c@example.org"})
            assert await service.reload() is None
            await until(lambda: metric(service, "portspec_mails_sent_total") == ["portspec_mails_sent_total 3.0"])
            assert taken == about("a@example.org", "b@example.org", "c@example.org")

    asyncio.run(scenario())


def test_what_was_counted_is_counted_on_when_mails_are_switched_on_again(conf: Path, taken: Taken) -> None:
    """While `sendemail` is false /metrics has nothing of mails; what it has afterwards includes what was before."""
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


def test_nothing_is_sent_while_it_is_switched_off(conf: Path, taken: Taken) -> None:
    """Without `sendemail` nothing is told or noted, and /metrics has nothing of mails."""
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


def test_mails_link_where_conf_yml_says_by_then(conf: Path, taken: Taken) -> None:
    """The links of a mail are those of conf.yml when it is written, also after a reload."""
    write(conf, {A: [22]}, external_url="https://one.example.org", **MAIL | {"alertemail": "a@example.org"})

    async def scenario() -> None:
        async with running(conf) as service:
            await until(lambda: len(taken) == 1)
            assert f"\nHost: https://one.example.org/#{A}\n" in taken.texts[0]
            keys = {"external_url": "https://two.example.org/x/", "runbook_url": "https://wiki.example.org"}
            write(conf, {A: [22, 80]}, **keys, **MAIL | {"alertemail": "a@example.org"})
            assert await service.reload() is None
            await until(lambda: len(taken) == 2)
            assert f"\nHost: https://two.example.org/x/#{A}\n" in taken.texts[1]
            assert "\nRunbook: https://wiki.example.org#" in taken.texts[1]

    asyncio.run(scenario())


def test_url_of_the_command_line_wins(conf: Path, taken: Taken) -> None:
    """What --web.external-url says has precedence over conf.yml."""
    write(conf, {A: [22]}, external_url="https://one.example.org", **MAIL)

    async def scenario() -> None:
        async with running(conf, external_url="https://flag.example.org"):
            await until(lambda: len(taken) == 2)
            assert f"\nHost: https://flag.example.org/#{A}\n" in taken.texts[0]

    asyncio.run(scenario())


def test_mail_names_who_listens_by_the_last_audit(conf: Path, taken: Taken) -> None:
    """What the host itself reported of an open port stands in the mail, with the time of the report."""
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


def test_fault_in_what_is_to_be_told_ends_no_scan(conf: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """The states of hosts are written, and scans go on, though the mailer has a fault."""

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
