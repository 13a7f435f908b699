from __future__ import annotations

import asyncio
import base64
import os
import socket
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import pytest

from portspec.notify import DeliveryError, Session
from portspec.notify import DeliveryErrorReason as Reason
from portspec.notify import smtp as module
from tests.unit.app.exporter import until
from tests.unit.notify.smtp_server import (
    HUNG,
    LOGIN_ONLY,
    MESSAGE,
    NAME,
    PASSWORD,
    RECIPIENT,
    SENDER,
    USER,
    Identities,
    Peer,
    Server,
    Step,
    close,
    hang,
    nothing_in_clear,
    nothing_left,
    own_sockets,
    refuse,
    reset,
    run,
    say,
    say_and_close,
    say_for_ever,
    settings,
    trickle,
)
from tests.unit.scan.loopback import PATIENCE, V4, V6, silent_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from portspec.config import MailConfig
import ipaddress
import re

from hypothesis import given
from hypothesis import strategies as st

from portspec.notify.smtp import ehlo_name
from tests.faults.registry import fault


@dataclass(frozen=True, slots=True)
class Row:
    """What the server does on some steps, and the resulting error; a `detail` may end in "*"."""

    does: str
    twists: Mapping[Step, Callable[[Peer], None]]
    reason: Reason
    detail: str
    is_of_mail: bool = False
    tls: str = "starttls"
    identity: str = "good"
    server: str = NAME
    message: bytes = MESSAGE
    timeout: float = PATIENCE


def hung(step: Step, tls: str = "starttls") -> Row:
    """Return the row of a server that hangs on a step."""
    return Row(
        f"hangs on {step.name}{' ' + tls if tls != 'starttls' else ''}",
        {step: hang},
        Reason.TIMEOUT,
        f"no reply in {HUNG:g} s",
        tls=tls,
        timeout=HUNG,
    )


def closed(step: Step, how: Callable[[Peer], None] = close, tls: str = "starttls") -> Row:
    """Return the row of a server that ends the connection on a step."""
    word = "resets" if how is reset else "closes"
    return Row(
        f"{word} on {step.name}{' ' + tls if tls != 'starttls' else ''}",
        {step: how},
        Reason.CLOSED,
        "the server closed the connection",
        tls=tls,
    )


def answered(step: Step, code: int) -> Row:
    """Return the row of a server that refuses a step."""
    reason = Reason.REFUSED if code >= 500 else Reason.TEMPORARY
    detail = f"the server answered {code} 4.2.0 not now, not here"
    if code == 502 and step in {Step.EHLO, Step.SECURE_EHLO}:
        reason = Reason.TLS if step is Step.EHLO else Reason.AUTH
        rest = (
            "STARTTLS; mails are only sent over TLS"
            if step is Step.EHLO
            else "AUTH; remove smtpusername or use another server"
        )
        detail = f"the server does not support EHLO (502 4.2.0 not now, not here), and therefore no {rest}"
    if step is Step.AUTH:
        reason, detail = Reason.AUTH, detail.replace("answered", "rejected the credentials:")
    if step is Step.STARTTLS:
        reason, detail = Reason.TLS, detail.replace("answered", "rejected STARTTLS:")
    return Row(
        f"answers {code} to {step.name}",
        {step: say(b"%d 4.2.0 not now,\tnot here\r\n" % code)},
        reason,
        detail,
        is_of_mail=step in {Step.RCPT, Step.DATA, Step.MESSAGE},
    )


def closing(step: Step) -> Row:
    """Return the row of a server that replies 421, which may happen on any step (RFC 5321, 3.8)."""
    return Row(
        f"says 421 on {step.name}",
        {step: say_and_close(b"421 4.3.2 shutting down\r\n")},
        Reason.TEMPORARY,
        "the server answered 421 4.3.2 shutting down",
    )


def not_understood(does: str, step: Step, act: Callable[[Peer], None], detail: str) -> Row:
    """Return the row of a server that sends an invalid reply."""
    return Row(
        f"{does} on {step.name}",
        {step: act},
        Reason.PROTOCOL,
        f"unexpected reply of the server: {detail}",
    )


def mistrusted(identity: str, tls: str, server: str, detail: str) -> Row:
    """Return the row of a server whose certificate is not good."""
    return Row(
        f"{tls}: {server} presents a certificate that is {identity}",
        {},
        Reason.CERTIFICATE,
        f"the certificate of {server}: {detail}",
        tls=tls,
        identity=identity,
        server=server,
    )


def inject(peer: Peer) -> None:
    """Send more after the 220 of STARTTLS, in one segment: a client that buffers it would read it inside TLS."""
    peer.socket.sendall(Step.STARTTLS.value + b"250-mail.test\r\n250 AUTH PLAIN\r\n")


def inject_late(peer: Peer) -> None:
    """Send cleartext after the client has started TLS."""
    while not peer.socket.recv(65_536, socket.MSG_PEEK):
        pass
    peer.socket.sendall(b"250-mail.test\r\n250 AUTH PLAIN\r\n")


CHALLENGES: Final = (Step.USERNAME, Step.PASSWORD, Step.BEARER)
DIALOGUE: Final = tuple(step for step in Step if step not in {Step.RSET, Step.QUIT, Step.HELO, *CHALLENGES})
ANSWERED: Final = tuple(step for step in DIALOGUE if step is not Step.HANDSHAKE)
NO_STARTTLS: Final = (
    "the server offers no STARTTLS, and mails are only sent over TLS (set smtptls: none to send them without TLS and "
    "credentials)"
)
MALFORMED: Final = "Malformed SMTP response line: "
ROWS: Final = (
    *(hung(step) for step in DIALOGUE),
    hung(Step.HANDSHAKE, "implicit"),
    hung(Step.GREETING, "implicit"),
    Row(
        "hears no more of a message that fills every buffer",
        {Step.DATA: lambda peer: (say(Step.DATA.value)(peer), hang(peer))[0]},  # type: ignore[func-returns-value]
        Reason.TIMEOUT,
        f"no reply in {HUNG:g} s",
        message=b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 500_000,
        timeout=HUNG,
    ),
    Row(
        "answers EHLO a line at a time, without end",
        {Step.EHLO: trickle(b"250-MORE\r\n")},
        Reason.TIMEOUT,
        f"no reply in {HUNG:g} s",
        timeout=HUNG,
    ),
    Row(
        "answers MAIL a letter at a time, without end",
        {Step.MAIL: trickle(b"2")},
        Reason.TIMEOUT,
        f"no reply in {HUNG:g} s",
        timeout=HUNG,
    ),
    *(closed(step) for step in DIALOGUE),
    *(closed(step, reset) for step in DIALOGUE if step is not Step.GREETING),
    closed(Step.HANDSHAKE, tls="implicit"),
    closed(Step.HANDSHAKE, reset, tls="implicit"),
    *(answered(step, code) for step in ANSWERED for code in (450, 550)),
    answered(Step.EHLO, 502),
    answered(Step.SECURE_EHLO, 502),
    answered(Step.STARTTLS, 454),
    *(closing(step) for step in (Step.GREETING, Step.SECURE_EHLO, Step.MAIL, Step.RCPT, Step.MESSAGE)),
    Row(
        "refuses the credentials",
        {Step.AUTH: say(b"535 5.7.8 bad credentials\r\n")},
        Reason.AUTH,
        "the server rejected the credentials: 535 5.7.8 bad credentials",
    ),
    Row(
        "wants to hear more than AUTH PLAIN says",
        {Step.AUTH: say(b"334 \r\n")},
        Reason.PROTOCOL,
        "unexpected reply of the server: ",
    ),
    *(
        Row(
            f"refuses LOGIN in place of {step.name}",
            {Step.SECURE_EHLO: LOGIN_ONLY, step: refuse(b"535 5.7.8 bad credentials\r\n")},
            Reason.AUTH,
            "the server rejected the credentials: 535 5.7.8 bad credentials",
        )
        for step in (Step.USERNAME, Step.PASSWORD)
    ),
    Row(
        "refuses the password of LOGIN",
        {Step.SECURE_EHLO: LOGIN_ONLY, Step.AUTH: say(b"535 5.7.3 Authentication unsuccessful\r\n")},
        Reason.AUTH,
        "the server rejected the credentials: 535 5.7.3 Authentication unsuccessful",
    ),
    Row(
        "wants to hear more than LOGIN says",
        {Step.SECURE_EHLO: LOGIN_ONLY, Step.AUTH: say(b"334 QXV0aDI6\r\n")},
        Reason.PROTOCOL,
        "unexpected reply of the server: QXV0aDI6",
    ),
    Row(
        "lets nobody in before LOGIN has said all",
        {Step.SECURE_EHLO: LOGIN_ONLY, Step.PASSWORD: refuse(b"235 2.7.0 welcome\r\n")},
        Reason.PROTOCOL,
        "unexpected reply of the server: 2.7.0 welcome",
    ),
    *(
        replace(row, does=f"LOGIN only, {row.does}", twists={Step.SECURE_EHLO: LOGIN_ONLY, **row.twists})
        for step in (Step.USERNAME, Step.PASSWORD)
        for row in (hung(step), closed(step), closed(step, reset))
    ),
    *(
        Row(
            f"refuses the client at {step.name}: {code}",
            {step: say(f"{code} {text}\r\n".encode())},
            Reason.REFUSED if code >= 500 else Reason.TEMPORARY,
            f"the server answered {code} {text}",
        )
        for step, code, text in (
            (Step.RCPT, 554, "5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied"),
            (Step.RCPT, 450, "4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]"),
            (Step.RCPT, 553, "5.7.1 <a@example.org>: Sender address rejected: not owned by user portspec"),
            (Step.RCPT, 550, "5.1.8 Domain of sender address does not resolve"),
            (Step.RCPT, 530, "5.7.0 Must issue a STARTTLS command first"),
            (Step.MESSAGE, 550, "5.7.60 SMTP; Client does not have permissions to send as this sender"),
            (Step.MESSAGE, 554, "5.2.252 SendAsDenied; a@example.org not allowed to send as b@example.org"),
        )
    ),
    *(
        Row(
            f"refuses the mail, not the client: {code} {text}",
            {Step.RCPT: say(f"{code} {text}\r\n".encode())},
            Reason.REFUSED,
            f"the server answered {code} {text}",
            is_of_mail=True,
        )
        for code, text in (
            (550, "5.1.1 <helo@example.org>: Recipient address rejected: User unknown"),
            (550, "5.1.1 helo@ehlo.example.org is unknown here"),
            (554, "5.7.1 <a@example.org>: Relay access denied"),
        )
    ),
    Row("offers no STARTTLS", {Step.EHLO: say(b"250-mail.test\r\n250 AUTH PLAIN\r\n")}, Reason.TLS, NO_STARTTLS),
    Row(
        "has STARTTLS stripped from its answer",
        {Step.EHLO: say(b"250-mail.test\r\n250-XXXXXXXA\r\n250 AUTH PLAIN LOGIN\r\n")},
        Reason.TLS,
        NO_STARTTLS,
    ),
    Row(
        "has STARTTLS in its name only",
        {Step.EHLO: say(b"250-STARTTLS\r\n250 AUTH PLAIN\r\n")},
        Reason.TLS,
        NO_STARTTLS,
    ),
    Row(
        "offers no AUTH",
        {Step.SECURE_EHLO: say(b"250 mail.test\r\n")},
        Reason.AUTH,
        "the server offers neither AUTH PLAIN nor LOGIN, it offers no AUTH",
    ),
    Row(
        "offers other AUTH only",
        {Step.SECURE_EHLO: say(b"250-mail.test\r\n250-AUTH CRAM-MD5 XOAUTH2\r\n250 AUTH=CRAM-MD5 NTLM\r\n")},
        Reason.AUTH,
        "the server offers neither AUTH PLAIN nor LOGIN, it offers CRAM-MD5, XOAUTH2, NTLM (smtptokencommand is for "
        "XOAUTH2)",
    ),
    Row(
        "has an offer of AUTH injected before TLS",
        {Step.STARTTLS: inject, Step.SECURE_EHLO: say(b"250 mail.test\r\n")},
        Reason.AUTH,
        "the server offers neither AUTH PLAIN nor LOGIN, it offers no AUTH",
    ),
    Row(
        "has an offer of AUTH injected into the handshake",
        {Step.HANDSHAKE: inject_late},
        Reason.TLS,
        "TLS handshake with localhost failed: *",
    ),
    Row(
        "speaks no TLS after 220",
        {Step.HANDSHAKE: say(b"220 hello\r\n")},
        Reason.TLS,
        "TLS handshake with localhost failed: *",
    ),
    Row(
        "speaks no TLS on the port for it",
        {Step.HANDSHAKE: lambda _: None},
        Reason.TLS,
        "TLS handshake with localhost failed: *",
        tls="implicit",
    ),
    *(
        mistrusted(identity, tls, server, detail)
        for tls in ("starttls", "implicit")
        for identity, server, detail in (
            ("unknown", NAME, "unable to get local issuer certificate"),
            ("expired", NAME, "certificate has expired"),
            ("other_name", NAME, "Hostname mismatch, certificate is not valid for 'localhost'."),
            ("other_name", V4, "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        )
    ),
    *(
        not_understood("says a line of 1 MB", step, say(b"250 " + b"x" * 1_000_000 + b"\r\n"), "Response too long")
        for step in (Step.GREETING, Step.SECURE_EHLO, Step.MESSAGE)
    ),
    *(
        not_understood("says lines without end", step, say_for_ever(b"250-MORE\r\n" * 100), "Response too long")
        for step in (Step.EHLO, Step.MESSAGE)
    ),
    *(
        not_understood("says garbage", step, say(b"\x1b[2J\xff\x00 hm\r\n"), rf"{MALFORMED}\x1b[2J\x00 hm")
        for step in (Step.GREETING, Step.STARTTLS, Step.AUTH, Step.MESSAGE)
    ),
    not_understood("is a web server", Step.GREETING, say(b"HTTP/1.1 400 No\r\n"), f"{MALFORMED}HTTP/1.1 400 No"),
    not_understood("answers with the code of another step", Step.GREETING, say(b"250 hello\r\n"), "hello"),
    not_understood("answers with the code of another step", Step.MAIL, say(b"354 go on\r\n"), "go on"),
    Row(
        "refuses in many words, with control characters",
        {Step.RCPT: say(b"550-" + b"a" * 150 + b"\r\n550-\x1b[31m\r\n550 " + b"b" * 150 + b"\r\n")},
        Reason.REFUSED,
        f"the server answered 550 {'a' * 150} \\x1b[31m {'b' * 40}…",
        is_of_mail=True,
    ),
)  # fmt: skip


@fault("mail server", "mails", "With an invalid certificate, a broken reply or a closed connection, all mails wait.")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.does)
def test_each_misbehaviour_of_a_server_is_an_error(identities: Identities, row: Row) -> None:
    """The error names the cause, no secret is sent, nothing leaks, and the next session works."""

    async def scenario(server: Server) -> None:
        mail = settings(server.port, identities, tls=row.tls, server=row.server)
        async with nothing_left(server):
            with pytest.raises(DeliveryError) as caught:
                async with Session(mail, timeout=row.timeout) as session:
                    await session.send(RECIPIENT, row.message)
        error = caught.value
        told = error.detail
        if row.detail.endswith("*"):
            told = f"{told[: len(row.detail) - 1]}*"
        assert (error.reason, told, error.is_of_mail) == (row.reason, row.detail, row.is_of_mail)
        assert str(error) == f"{row.reason.value}: {error.detail}"
        assert PASSWORD not in str(error)
        assert all(step in server.peers[0].steps for step in row.twists)
        # in the same event loop, whose book-keeping must have survived:
        server.release()
        async with nothing_left(server), Session(mail, timeout=PATIENCE) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    identity = getattr(identities, row.identity)
    is_implicit = row.tls == "implicit"
    with Server(row.twists, identity, is_implicit=is_implicit, later=identities.good) as server:
        run(scenario(server))
    nothing_in_clear(server)
    assert len(server.peers) == 2


@pytest.mark.parametrize(
    ("tls", "name", "address"),
    [(tls, *way) for tls in ("starttls", "implicit") for way in ((NAME, V4), (V4, V4), (V6, V6))],
)
def test_mails_are_sent_inside_tls_with_credentials(identities: Identities, tls: str, name: str, address: str) -> None:
    """Several mails share a session with AUTH PLAIN inside TLS, with a server by name or address."""
    recipients = [RECIPIENT, "oncall@example.org", "third@example.org"]

    async def scenario(server: Server) -> None:
        mail = settings(server.port, identities, tls=tls, server=name)
        async with nothing_left(server), Session(mail) as session:
            for recipient in recipients:
                assert await session.send(recipient, MESSAGE) == "250 2.0.0 queued"

    with Server({}, identities.good, address=address, is_implicit=tls == "implicit") as server:
        run(scenario(server))
    (peer,) = server.peers
    sent = MESSAGE.removesuffix(b"\r\n").replace(b"\r\n.", b"\r\n..")  # RFC 5321, 4.5.2
    assert peer.mails == [(f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{recipient}>", sent) for recipient in recipients]
    assert peer.steps[-1] is Step.QUIT
    assert b"AUTH PLAIN " + base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()) + b"\r\n" in peer.secure
    nothing_in_clear(server)


@pytest.mark.parametrize("tls", ["starttls", "implicit", "none"])
def test_session_without_credentials(identities: Identities, tls: str) -> None:
    """A server without AUTH works, and TLS is omitted only with `smtptls: none`."""

    async def scenario(server: Server) -> None:
        mail = settings(server.port, identities, tls=tls, username=None, password=None)
        async with nothing_left(server), Session(mail) as session:
            await session.send(RECIPIENT, MESSAGE)

    with Server({}, identities.good, is_implicit=tls == "implicit") as server:
        run(scenario(server))
    (peer,) = server.peers
    assert len(peer.mails) == 1
    assert Step.AUTH not in peer.steps
    assert (Step.HANDSHAKE in peer.steps) is (tls != "none")


@fault("mail server", "mails", "No credentials are sent to a server without TLS.")
def test_credentials_are_not_sent_without_tls(identities: Identities) -> None:
    """Not even if the settings and the server allow it."""

    async def scenario(server: Server) -> None:
        with pytest.raises(DeliveryError) as caught:
            async with Session(settings(server.port, identities, tls="none")):
                pass
        assert (caught.value.reason, caught.value.detail) == (
            Reason.AUTH,
            "credentials are never sent without TLS",
        )

    with Server({Step.EHLO: say(b"250-mail.test\r\n250 AUTH PLAIN\r\n")}, identities.good) as server:
        run(scenario(server))
    nothing_in_clear(server)


def test_session_continues_after_a_rejected_recipient(identities: Identities) -> None:
    """After permanent and temporary rejections the next mail is accepted in the same session."""
    answers = {
        b"gone@": b"550 5.1.1 no such user\r\n",
        b"full@": b"452 4.2.2 mailbox full\r\n",
    }

    def judge(peer: Peer) -> None:
        line = bytes(peer.secure).splitlines()[-1]
        peer.socket.sendall(next((answer for part, answer in answers.items() if part in line), Step.RCPT.value))

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(settings(server.port, identities)) as session:
            for recipient, reason, detail in (
                ("gone@example.org", Reason.REFUSED, "the server answered 550 5.1.1 no such user"),
                ("full@example.org", Reason.TEMPORARY, "the server answered 452 4.2.2 mailbox full"),
            ):
                with pytest.raises(DeliveryError) as caught:
                    await session.send(recipient, MESSAGE)
                assert (caught.value.reason, caught.value.detail, caught.value.is_of_mail) == (reason, detail, True)
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    with Server({Step.RCPT: judge}, identities.good) as server:
        run(scenario(server))
    (peer,) = server.peers
    assert [recipient for _, recipient, _ in peer.mails] == [f"RCPT TO:<{RECIPIENT}>"]
    assert peer.steps.count(Step.RSET) == 2


def test_session_continues_after_an_invalid_address(identities: Identities) -> None:
    """An error on this side rejects that mail, and the next one is accepted in the same session."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(settings(server.port, identities)) as session:
            for recipient in ("j\u00f6rg@example.org", "a\ud800@example.org"):
                with pytest.raises(DeliveryError) as caught:
                    await session.send(recipient, MESSAGE)
                assert (caught.value.reason, caught.value.is_of_mail) == (Reason.REFUSED, True)
                assert caught.value.detail.startswith("invalid mail: ")
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    with Server({}, identities.good) as server:
        run(scenario(server))
    (peer,) = server.peers
    assert [recipient for _, recipient, _ in peer.mails] == [f"RCPT TO:<{RECIPIENT}>"]


@pytest.mark.parametrize("act", [hang, close, reset, say(b"550 no\r\n"), say_for_ever(b"250-MORE\r\n" * 100)])
def test_failure_of_quit_is_ignored(identities: Identities, act: Callable[[Peer], None]) -> None:
    """Accepted mails stay accepted, and the session ends within its timeout."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(settings(server.port, identities), timeout=HUNG) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    with Server({Step.QUIT: act}, identities.good) as server:
        run(scenario(server))


@pytest.mark.parametrize("act", [hang, close, say(b"550 no\r\n"), say_for_ever(b"250-MORE\r\n" * 100)])
def test_failure_of_rset_keeps_the_rejection(identities: Identities, act: Callable[[Peer], None]) -> None:
    """The rejection is the error, and the next mail finds the session closed."""
    twists = {Step.RCPT: say(b"550 5.1.1 no such user\r\n"), Step.RSET: act}

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(settings(server.port, identities), timeout=HUNG) as session:
            with pytest.raises(DeliveryError) as refused:
                await session.send(RECIPIENT, MESSAGE)
            assert (refused.value.reason, refused.value.is_of_mail) == (Reason.REFUSED, True)
            with pytest.raises(DeliveryError) as after:
                await session.send(RECIPIENT, MESSAGE)
            assert (after.value.reason, after.value.is_of_mail) == (Reason.CLOSED, False)

    with Server(twists, identities.good) as server:
        run(scenario(server))


@fault("mail server", "whole exporter", "A mail server that hangs delays only mails.")
@pytest.mark.parametrize("step", [Step.GREETING, Step.HANDSHAKE, Step.MESSAGE])
def test_server_that_hangs_does_not_delay_others(
    identities: Identities, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks continue, and a cancelled session ends after a short wait for the reply to a message."""
    monkeypatch.setattr(module, "_CANCELLED_REPLY_TIMEOUT", HUNG)

    async def attempt(mail: MailConfig) -> None:
        async with Session(mail, timeout=PATIENCE) as session:
            await session.send(RECIPIENT, MESSAGE)

    async def scenario(server: Server) -> None:
        async with nothing_left(server):
            task = asyncio.create_task(attempt(settings(server.port, identities)))
            await until(lambda: server.peers and step in server.peers[0].steps)
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert not task.done()
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=2.0)
            assert done, "it is still waited for"
            assert task.cancelled()

    with Server({step: hang}, identities.good) as server:
        run(scenario(server))


def test_quit_is_abandoned_on_cancellation(identities: Identities) -> None:
    """A session that waits for the reply to QUIT ends at once."""

    async def attempt(mail: MailConfig) -> None:
        async with Session(mail, timeout=PATIENCE) as session:
            await session.send(RECIPIENT, MESSAGE)

    async def scenario(server: Server) -> None:
        async with nothing_left(server):
            task = asyncio.create_task(attempt(settings(server.port, identities)))
            await until(lambda: server.peers and Step.QUIT in server.peers[0].steps)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=2.0)
            assert done

    with Server({Step.QUIT: hang}, identities.good) as server:
        run(scenario(server))


def test_busy_event_loop_does_not_change_the_error(identities: Identities) -> None:
    """A timeout of the handshake is reported as such even if the event loop is blocked meanwhile."""

    async def attempt(mail: MailConfig) -> None:
        async with Session(mail, timeout=HUNG):
            pass

    async def scenario(server: Server) -> None:
        task = asyncio.create_task(attempt(settings(server.port, identities)))
        await until(lambda: server.peers and Step.HANDSHAKE in server.peers[0].steps)
        time.sleep(2 * HUNG)  # noqa: ASYNC251 - holds the event loop up
        await asyncio.wait({task})
        error = task.exception()
        assert isinstance(error, DeliveryError)
        assert (error.reason, error.detail) == (Reason.TIMEOUT, f"no reply in {HUNG:g} s")

    with Server({Step.HANDSHAKE: hang}, identities.good) as server:
        run(scenario(server))


@fault(
    "mail server",
    "mails",
    "Mails wait in the state file; `portspec_mails_failed_total` has the reason (PortspecMailStuck).",
)
def test_connection_fails(identities: Identities) -> None:
    """A closed port and a silent one have different reasons."""

    async def scenario(closed: int, silent: int) -> None:
        for port, reason, why in (
            (closed, Reason.CONNECT, ": connection refused"),
            (silent, Reason.TIMEOUT, ""),
        ):
            with pytest.raises(DeliveryError) as caught:
                async with Session(settings(port, identities, server=V4), timeout=HUNG):
                    pass
            assert (caught.value.reason, caught.value.detail) == (reason, f"no connection to {V4} port {port}{why}")

    with silent_ports(V4) as silent, socket.socket() as bound:
        bound.bind((V4, 0))  # and does not listen
        run(scenario(bound.getsockname()[1], next(iter(silent))))


def test_cancelled_connection_closes_its_socket(identities: Identities) -> None:
    """No socket remains after a cancellation."""

    async def attempt(port: int) -> None:
        async with Session(settings(port, identities, server=V4), timeout=PATIENCE):
            pass

    async def scenario(port: int) -> None:
        before = own_sockets()
        task = asyncio.create_task(attempt(port))
        await until(lambda: own_sockets() != before)
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        await asyncio.wait({task})
        assert own_sockets() == before

    with silent_ports(V4) as silent:
        run(scenario(next(iter(silent))))


def test_next_address_is_tried(identities: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address of a name that accepts a connection is used."""
    with Server({}, identities.good) as server:
        found = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (V6, server.port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (V4, server.port)),
        ]
        monkeypatch.setattr("portspec.notify.smtp.socket.getaddrinfo", lambda *_, **__: found)

        async def scenario() -> None:
            async with nothing_left(server), Session(settings(server.port, identities)) as session:
                assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

        run(scenario())


def test_name_that_does_not_resolve(identities: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the name and the cause."""

    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("portspec.notify.smtp.socket.getaddrinfo", look_up)

    async def scenario() -> None:
        with pytest.raises(DeliveryError) as caught:
            async with Session(settings(587, identities, server="mail.example.org")):
                pass
        assert caught.value.reason is Reason.RESOLVE
        assert caught.value.detail == "failed to look up mail.example.org: name or service not known"

    run(scenario())


@pytest.fixture
def spoiled(tmp_path: Path) -> str:
    """Return a file that is no certificate."""
    path = tmp_path / "spoiled.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n", encoding="ascii")
    return str(path)


def test_files_that_cannot_be_read(identities: Identities, tmp_path: Path, spoiled: str) -> None:
    """Files that were removed or replaced since the start are an error of the settings."""
    gone = str(tmp_path / "gone")
    beyond = tmp_path / "beyond"
    beyond.write_bytes(b"\xff\n")
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with Server({}, identities.good) as server:

        async def scenario() -> None:
            for changed, path, why in (
                ({"ca_file": gone}, gone, "no such file or directory"),
                ({"ca_file": spoiled}, spoiled, ""),
                ({"ca_file": pipe}, pipe, "it is a pipe; put a regular file in its place"),
                ({"password": None, "password_file": gone}, gone, "no such file or directory"),
                ({"password": None, "password_file": str(beyond)}, str(beyond), ""),
                ({"password": None, "password_file": pipe}, pipe, "it is a pipe; put a regular file in its place"),
            ):
                with pytest.raises(DeliveryError) as caught:
                    async with Session(settings(server.port, identities, **changed)):
                        pass
                assert caught.value.reason is Reason.SETTINGS
                assert caught.value.detail.startswith(f"failed to read {path}: {why}")

        run(scenario())
    assert server.peers == []


def test_password_file_is_read_for_each_session(identities: Identities, tmp_path: Path) -> None:
    """A changed password is used in the next session, without its newline."""
    path = tmp_path / "password"

    async def scenario(server: Server) -> None:
        mail = settings(server.port, identities, password=None, password_file=str(path))
        for text in ("first\n", PASSWORD):
            path.write_text(text, encoding="utf-8")
            async with Session(mail):
                pass

    with Server({}, identities.good) as server:
        run(scenario(server))
    for peer, password in zip(server.peers, ("first", PASSWORD), strict=True):
        assert b"AUTH PLAIN " + base64.b64encode(f"\0{USER}\0{password}".encode()) + b"\r\n" in peer.secure
    nothing_in_clear(server)


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize(
    ("name", "said"), [("web1.example.org", "web1.example.org"), ("a1b2c3d4e5f6", None), ("localhost", None)]
)
def test_ehlo_name_is_the_same_before_and_inside_tls(
    identities: Identities, monkeypatch: pytest.MonkeyPatch, address: str, name: str, said: str | None
) -> None:
    """It is the full name of this machine, otherwise the local address of the connection."""
    monkeypatch.setattr("portspec.notify.smtp.socket.getfqdn", lambda: name)

    async def scenario(server: Server) -> None:
        async with Session(settings(server.port, identities, server=address)):
            pass

    with Server({}, identities.good, address=address) as server:
        run(scenario(server))
    (peer,) = server.peers
    hello = f"EHLO {said or (f'[IPv6:{V6}]' if address == V6 else f'[{V4}]')}".encode()
    assert peer.clear.splitlines()[0] == hello
    assert peer.secure.splitlines()[0] == hello


@pytest.mark.parametrize("answer", [b"500 5.5.1 command unrecognized", b"502 5.5.2 Error: command not implemented"])
@pytest.mark.parametrize("tls", ["none", "implicit"])
def test_helo_is_the_fallback_for_ehlo(identities: Identities, answer: bytes, tls: str) -> None:
    """Without credentials and STARTTLS an old server gets the mails."""

    async def scenario(server: Server) -> None:
        mail = settings(server.port, identities, tls=tls, username=None, password=None)
        async with nothing_left(server), Session(mail) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    is_implicit = tls == "implicit"
    step = Step.SECURE_EHLO if is_implicit else Step.EHLO
    with Server({step: say(answer + b"\r\n")}, identities.good, is_implicit=is_implicit) as server:
        run(scenario(server))
    (peer,) = server.peers
    assert Step.HELO in peer.steps
    assert len(peer.mails) == 1


@pytest.mark.parametrize("code", [450, 501, 504, 550])
def test_helo_is_not_sent_after_a_rejection(identities: Identities, code: int) -> None:
    """A server that rejects the name or the client would do so after HELO, too."""

    async def scenario(server: Server) -> None:
        mail = settings(server.port, identities, tls="none", username=None, password=None)
        with pytest.raises(DeliveryError, match=f"the server answered {code} no"):
            async with Session(mail):
                pass

    with Server({Step.EHLO: say(b"%d no\r\n" % code)}, identities.good) as server:
        run(scenario(server))
    assert Step.HELO not in server.peers[0].steps


@pytest.mark.parametrize(
    ("step", "answer"),
    [
        (Step.RCPT, "504 5.5.2 <a1b2c3d4e5f6>: Helo command rejected: need fully-qualified hostname"),
        (Step.RCPT, "450 4.7.1 <web1.example.org>: Helo command rejected: Host not found"),
        (Step.MAIL, "550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)"),
        (Step.SECURE_EHLO, "501 5.5.4 Invalid EHLO domain"),
    ],
)
def test_rejected_ehlo_name_affects_all_mails(
    identities: Identities, monkeypatch: pytest.MonkeyPatch, step: Step, answer: str
) -> None:
    """Mails wait, and the error has the name and the remedy."""
    monkeypatch.setattr("portspec.notify.smtp.socket.getfqdn", lambda: "web1.example.org")

    async def scenario(server: Server) -> None:
        with pytest.raises(DeliveryError) as caught:
            async with nothing_left(server), Session(settings(server.port, identities)) as session:
                await session.send(RECIPIENT, MESSAGE)
        assert not caught.value.is_of_mail
        assert caught.value.reason is (Reason.TEMPORARY if answer.startswith("4") else Reason.REFUSED)
        assert caught.value.detail == (
            f"the server answered {answer} (the EHLO name is web1.example.org; give this machine a full name that the "
            "server accepts (hostname --fqdn))"
        )

    with Server({step: say(f"{answer}\r\n".encode())}, identities.good) as server:
        run(scenario(server))


ADDRESS = "192.0.2.1"
# RFC 5321, 4.1.2: Domain, of at least two labels; 4.1.3 has the literals.
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+")


@pytest.mark.parametrize(
    "name",
    ["web1.example.org", "WEB1.Example.ORG", "a.b", "xn--mller-kva.example", "1.example.org", "web.lan", "a-b.c1"],
)
def test_fully_qualified_name_is_used(name: str) -> None:
    """A trailing dot is removed."""
    assert ehlo_name(name, ADDRESS) == ehlo_name(f"{name}.", ADDRESS) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "localhost", "a1b2c3d4e5f6", "web1", "localhost.localdomain", "web1.localdomain", "web1.LocalHost"),
        *("localhost6.localdomain6", "web1.invalid", "web_1.example.org", "-web.example.org", "web-.example.org"),
        *("web..example.org", ".example.org", "m\u00fcller.example", "192.0.2.7", "2001:db8::1", "a b.example.org"),
        *(
            "web1.example.org\n",
            "web1.example.org..",
            f"{'a' * 64}.example.org",
            f"{'a.' * 127}org",
            "web\u0661.example",
        ),
    ],
)
def test_other_names_are_replaced_by_the_address(name: str) -> None:
    """Container IDs, local names and invalid names are not used."""
    assert ehlo_name(name, ADDRESS) == "[192.0.2.1]"


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("127.0.0.1", "[127.0.0.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("2001:DB8:0:0:0:0:0:1", "[IPv6:2001:db8::1]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
        ("::ffff:192.0.2.1", "[192.0.2.1]"),
        ("::ffff:c000:201", "[192.0.2.1]"),
        ("::1", "[IPv6:::1]"),
    ],
)
def test_address_is_a_literal(address: str, literal: str) -> None:
    """IPv6 literals have their tag and no zone; IPv4-mapped addresses are IPv4."""
    assert ehlo_name("localhost", address) == literal


@given(
    st.one_of(
        st.text(max_size=30), st.from_regex(r"[A-Za-z0-9._-]{0,40}", fullmatch=True), st.just("a." * 130 + "org")
    ),
    st.ip_addresses(),
)
def test_any_name_of_the_machine_gives_a_valid_ehlo_name(
    name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    """The result is a domain name of several labels or an address literal."""
    said = ehlo_name(name, str(address))
    assert said == ehlo_name(said, str(address))
    if said.startswith("["):
        inner = ipaddress.ip_address(said.strip("[]").removeprefix("IPv6:"))
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        assert inner == (mapped or address)
        assert said.startswith("[IPv6:") is (inner.version == 6)
    else:
        assert _DOMAIN.fullmatch(said)
        assert len(said) <= 253
        assert said == name.removesuffix(".")
