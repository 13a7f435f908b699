from __future__ import annotations

import asyncio
import base64
import contextlib
import enum
import gc
import itertools
import os
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
import trustme
from aiosmtplib.protocol import SMTPProtocol

from portspec.config import MailConfig
from portspec.notify import DeliveryError, Session
from portspec.notify import DeliveryErrorReason as Reason
from portspec.notify import smtp as module
from tests.unit.app.exporter import until
from tests.unit.factories import settle
from tests.unit.scan.loopback import PATIENCE, V4, V6, silent_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
    from pathlib import Path

NAME: Final = "localhost"
SENDER: Final = "portspec@example.org"
RECIPIENT: Final = "security@example.org"
USER: Final = "portspec"
PASSWORD: Final = "correct-horse\u00df"  # noqa: S105 - beyond ASCII, as UTF-8: RFC 4616, 2
MESSAGE: Final = b"Subject: PortSpec Alert [test]\r\n\r\n.a line that begins with a dot\r\n.\r\nthe end\r\n"
HUNG: Final = 0.5  # seconds that a session waits for a server that hangs
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends an RST


class Step(enum.Enum):
    """A step of the dialogue, on which the server can do something else than it should."""

    GREETING = b"220 mail.test ESMTP\r\n"
    EHLO = b"250-mail.test\r\n250-SIZE 1000000\r\n250 STARTTLS\r\n"
    STARTTLS = b"220 2.0.0 go ahead\r\n"
    HANDSHAKE = None
    SECURE_EHLO = b"250-mail.test\r\n250-SIZE 1000000\r\n250 AUTH LOGIN PLAIN\r\n"
    AUTH = b"235 2.7.0 welcome\r\n"
    MAIL = b"250 2.1.0 sender ok\r\n"
    RCPT = b"250 2.1.5 recipient ok\r\n"
    DATA = b"354 go on\r\n"
    MESSAGE = b"250 2.0.0 queued\r\n"
    RSET = b"250 2.0.0 forgotten\r\n"
    QUIT = b"221 2.0.0 bye\r\n"
    HELO = b"250 mail.test\r\n"
    USERNAME = b"334 VXNlcm5hbWU6\r\n"
    PASSWORD = b"334 UGFzc3dvcmQ6\r\n"
    BEARER = b"334 \r\n"


class OverError(Exception):
    """The server does nothing more on this connection."""


class Peer:
    """The server's end of a connection: what it heard before TLS and inside, and on which steps it came by."""

    def __init__(self, connection: socket.socket, ended: threading.Event) -> None:
        connection.settimeout(PATIENCE)
        self.socket = connection
        self.ended = ended
        self.clear = bytearray()
        self.secure = bytearray()
        self.steps: list[Step] = []
        self.mails: list[tuple[str, str, bytes]] = []
        self.answers: list[bytes] = []  # to challenges
        self.has_refused = False
        self._heard = bytearray()

    @property
    def is_secure(self) -> bool:
        """Whether TLS has begun."""
        return isinstance(self.socket, ssl.SSLSocket)

    def hear(self, end: bytes = b"\r\n") -> bytes:
        """Hear up to an end, which is taken off."""
        while end not in self._heard:
            part = self.socket.recv(65_536)
            if not part:
                raise OverError
            (self.secure if self.is_secure else self.clear).extend(part)
            self._heard += part
        told, _, rest = bytes(self._heard).partition(end)
        self._heard = bytearray(rest)
        return told

    def upgrade(self, identity: ssl.SSLContext) -> None:
        """Begin TLS."""
        self.socket = identity.wrap_socket(self.socket, server_side=True)

    def finish(self) -> None:
        """Close, and note what was sent in clear and not yet heard."""
        with contextlib.suppress(OSError):
            if not self.is_secure:
                self.socket.setblocking(False)  # noqa: FBT003 - the name of the argument is hidden
                while part := self.socket.recv(65_536):
                    self.clear += part
        self.socket.close()


def hang(peer: Peer) -> None:
    """Say nothing, hear nothing."""
    peer.ended.wait(PATIENCE)
    raise OverError


def close(_: Peer) -> None:
    """Close the connection."""
    raise OverError


def reset(peer: Peer) -> None:
    """End the connection by an RST, where TLS begins when the client has begun it."""
    if peer.steps[-1] is Step.HANDSHAKE:
        peer.socket.recv(1, socket.MSG_PEEK)
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    raise OverError


def say(answer: bytes) -> Callable[[Peer], None]:
    """Say something else, and go on."""
    return lambda peer: peer.socket.sendall(answer)


def refuse(answer: bytes) -> Callable[[Peer], None]:
    """Say something else in place of a challenge, and hear no answer to it."""

    def act(peer: Peer) -> None:
        peer.has_refused = True
        peer.socket.sendall(answer)

    return act


def refuse_token(challenge: bytes, answer: bytes) -> Callable[[Peer], None]:
    """Say why a token is refused, and refuse it when the client has sent its empty line."""

    def act(peer: Peer) -> None:
        peer.socket.sendall(b"334 " + base64.b64encode(challenge) + b"\r\n")
        assert peer.hear() == b""
        peer.socket.sendall(answer)

    return act


def say_for_ever(part: bytes) -> Callable[[Peer], None]:
    """Say something again and again."""

    def act(peer: Peer) -> None:
        while not peer.ended.is_set():
            peer.socket.sendall(part)
        raise OverError

    return act


def trickle(part: bytes) -> Callable[[Peer], None]:
    """Say something again and again, slowly, so that something always comes before the time is up."""

    def act(peer: Peer) -> None:
        while not peer.ended.wait(HUNG / 5):
            peer.socket.sendall(part)
        raise OverError

    return act


def say_and_close(answer: bytes) -> Callable[[Peer], None]:
    """Say something else, and close the connection."""

    def act(peer: Peer) -> None:
        peer.socket.sendall(answer)
        raise OverError

    return act


class Server:
    """A mail server on a free port that is right on each step but those with a twist, and those only at first.

    `lasting` twists are those of later connections. It serves connections one after the other, in a thread with
    blocking sockets: when it hangs, nothing of it reads.
    """

    def __init__(
        self,
        twists: Mapping[Step, Callable[[Peer], None]],
        identity: ssl.SSLContext,
        *,
        address: str = V4,
        is_implicit: bool = False,
        later: ssl.SSLContext | None = None,
        lasting: Mapping[Step, Callable[[Peer], None]] | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.peers: list[Peer] = []
        self._twists = twists
        self._lasting = lasting or {}
        self._identities = (identity, later or identity)
        self._is_implicit = is_implicit
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self.let_go()
        for ending in (self._listener, *(peer.socket for peer in self.peers)):
            with contextlib.suppress(OSError):  # it has ended
                ending.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listener.close()
        assert not self._thread.is_alive()

    def let_go(self) -> None:
        """End the connections that hang."""
        for peer in self.peers:
            peer.ended.set()

    def _serve(self) -> None:
        while not self._is_over:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            is_first = not self.peers
            peer = Peer(connection, threading.Event())
            self.peers.append(peer)
            twists = self._twists if is_first else self._lasting
            try:
                self._talk(peer, twists, self._identities[not is_first])
            except (OverError, OSError):
                pass
            finally:
                peer.finish()

    def _talk(self, peer: Peer, twists: Mapping[Step, Callable[[Peer], None]], identity: ssl.SSLContext) -> None:
        def step(step: Step) -> None:
            peer.steps.append(step)
            if step in twists:
                twists[step](peer)
            elif step is Step.HANDSHAKE:
                peer.upgrade(identity)
            else:
                peer.socket.sendall(step.value)

        if self._is_implicit:
            step(Step.HANDSHAKE)
        step(Step.GREETING)
        sender = recipient = ""
        while True:
            command = peer.hear().decode()
            match command.partition(" ")[0]:
                case "EHLO":
                    step(Step.SECURE_EHLO if peer.is_secure else Step.EHLO)
                case "AUTH" if command.endswith((" LOGIN", " XOAUTH2")):
                    self._challenge(peer, step, command)
                case "MAIL":
                    sender = command
                    step(Step.MAIL)
                case "RCPT":
                    recipient = command
                    step(Step.RCPT)
                case "DATA":
                    step(Step.DATA)
                    if Step.DATA not in twists:
                        peer.mails.append((sender, recipient, peer.hear(b"\r\n.\r\n")))
                        step(Step.MESSAGE)
                case "STARTTLS":
                    step(Step.STARTTLS)
                    step(Step.HANDSHAKE)
                case "QUIT":
                    step(Step.QUIT)
                    raise OverError
                case other:
                    step(Step[other])

    @staticmethod
    def _challenge(peer: Peer, step: Callable[[Step], None], command: str) -> None:
        """Ask for what a mechanism has to say; an answer of 5xx in place of a challenge is the end of it."""
        for challenge in (Step.USERNAME, Step.PASSWORD) if command.endswith("LOGIN") else (Step.BEARER,):
            step(challenge)
            if peer.has_refused:
                return
            peer.answers.append(base64.b64decode(peer.hear()))
        step(Step.AUTH)


@dataclass(frozen=True, slots=True)
class Identities:
    """Certificates of servers, each as a context, and the file of the authority that the good ones are of."""

    authority: str
    good: ssl.SSLContext
    other_name: ssl.SSLContext
    expired: ssl.SSLContext
    unknown: ssl.SSLContext


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    """Make a test authority and certificates."""
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(path)

    def context(certificate: trustme.LeafCert) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(made)
        return made

    return Identities(
        authority=str(path),
        good=context(authority.issue_cert(NAME, V4, V6)),
        other_name=context(authority.issue_cert("other.test", "192.0.2.1")),
        expired=context(authority.issue_cert(NAME, V4, V6, not_after=datetime(2020, 1, 1, tzinfo=UTC))),
        unknown=context(trustme.CA().issue_cert(NAME, V4, V6)),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """What the server does on some steps, and what comes of it; a `detail` may end in "*"."""

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
    """Make the row of a server that hangs on a step."""
    return Row(
        f"hangs on {step.name}{' ' + tls if tls != 'starttls' else ''}",
        {step: hang},
        Reason.TIMEOUT,
        f"no reply in {HUNG:g} s",
        tls=tls,
        timeout=HUNG,
    )


def closed(step: Step, how: Callable[[Peer], None] = close, tls: str = "starttls") -> Row:
    """Make the row of a server that ends the connection on a step."""
    word = "resets" if how is reset else "closes"
    return Row(
        f"{word} on {step.name}{' ' + tls if tls != 'starttls' else ''}",
        {step: how},
        Reason.CLOSED,
        "the server closed the connection",
        tls=tls,
    )


def answered(step: Step, code: int) -> Row:
    """Make the row of a server that refuses a step."""
    reason = Reason.REFUSED if code >= 500 else Reason.TEMPORARY
    detail = f"the server answered {code} 4.2.0 not now, not here"
    if code == 502 and step in {Step.EHLO, Step.SECURE_EHLO}:
        reason = Reason.TLS if step is Step.EHLO else Reason.AUTH
        rest = (
            "STARTTLS; mails are sent only inside TLS"
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
    """Make the row of a server that says 421, which may come on any step (RFC 5321, 3.8)."""
    return Row(
        f"says 421 on {step.name}",
        {step: say_and_close(b"421 4.3.2 shutting down\r\n")},
        Reason.TEMPORARY,
        "the server answered 421 4.3.2 shutting down",
    )


def not_understood(does: str, step: Step, act: Callable[[Peer], None], detail: str) -> Row:
    """Make the row of a server that says what no server should."""
    return Row(
        f"{does} on {step.name}",
        {step: act},
        Reason.PROTOCOL,
        f"unexpected reply of the server: {detail}",
    )


def mistrusted(identity: str, tls: str, server: str, detail: str) -> Row:
    """Make the row of a server whose certificate is not good."""
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
    """Go on after the 220 of STARTTLS, in one segment with it: what a client that keeps it takes for said in TLS."""
    peer.socket.sendall(Step.STARTTLS.value + b"250-mail.test\r\n250 AUTH PLAIN\r\n")


def inject_late(peer: Peer) -> None:
    """Say more in clear when the client has begun TLS."""
    while not peer.socket.recv(65_536, socket.MSG_PEEK):
        pass
    peer.socket.sendall(b"250-mail.test\r\n250 AUTH PLAIN\r\n")


CHALLENGES: Final = (Step.USERNAME, Step.PASSWORD, Step.BEARER)
DIALOGUE: Final = tuple(step for step in Step if step not in {Step.RSET, Step.QUIT, Step.HELO, *CHALLENGES})
ANSWERED: Final = tuple(step for step in DIALOGUE if step is not Step.HANDSHAKE)
NO_STARTTLS: Final = "the server offers no STARTTLS, and mails are sent only inside TLS (set smtptls: none to send them without TLS and credentials)"
LOGIN_ONLY: Final = say(b"250-mail.test\r\n250 AUTH LOGIN\r\n")
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
    *(answered(step, code) for step in ANSWERED for code in (450, 454, 502, 550)),
    *(closing(step) for step in ANSWERED if step not in {Step.AUTH, Step.STARTTLS}),
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
    Row("speaks no TLS after 220", {Step.HANDSHAKE: say(b"220 hello\r\n")}, Reason.TLS, "TLS handshake with localhost failed: *"),
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
        for step in (Step.GREETING, Step.EHLO, Step.SECURE_EHLO, Step.AUTH, Step.MAIL, Step.RCPT, Step.MESSAGE)
    ),
    *(
        not_understood("says lines without end", step, say_for_ever(b"250-MORE\r\n" * 100), "Response too long")
        for step in (Step.EHLO, Step.SECURE_EHLO, Step.MAIL, Step.MESSAGE)
    ),
    *(
        not_understood("says garbage", step, say(b"\x1b[2J\xff\x00 hm\r\n"), rf"{MALFORMED}\x1b[2J\x00 hm")
        for step in (Step.GREETING, Step.EHLO, Step.STARTTLS, Step.AUTH, Step.RCPT, Step.MESSAGE)
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


def settings(port: int, identities: Identities, **other: Any) -> MailConfig:
    """Make settings with credentials and STARTTLS."""
    made = MailConfig(
        mode="on",
        server=NAME,
        port=port,
        tls="starttls",
        sender=SENDER,
        recipients=(RECIPIENT,),
        ca_file=identities.authority,
        username=USER,
        password=PASSWORD,
    )
    return replace(made, **other)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario, which leaves neither task nor transport, and nothing that nobody hears of."""
    troubles: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        async with asyncio.timeout(2 * PATIENCE):
            await scenario
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(watched())
    gc.collect()  # a socket or transport that was left warns now, and that is an error
    assert troubles == []


def own_sockets() -> set[str]:
    """Name the sockets of this process."""
    found = set()
    for entry in os.scandir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(entry.path))  # noqa: PTH115 - what it links to is no path
    return {name for name in found if name.startswith("socket:")}


def socket_name(of: socket.socket) -> str | None:
    """Give the name of a socket as the links of /proc/self/fd have it; None if the server's thread has closed it."""
    try:
        return f"socket:[{os.fstat(of.fileno()).st_ino}]"
    except OSError:
        return None


@contextlib.asynccontextmanager
async def nothing_left(server: Server) -> AsyncIterator[None]:
    """See that within, no socket is left but those of the server, though that does not close them."""
    before = own_sockets()
    yield
    async with asyncio.timeout(2.0):  # a transport that waits for the other side does so for 30 s
        while True:
            held = {name for peer in server.peers if (name := socket_name(peer.socket))}
            if not (left := own_sockets() - before - held):
                break
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pytest.fail(f"left open: {left}")


def nothing_in_clear(server: Server) -> None:
    """See that neither the credentials nor the mail left before TLS, in any form."""
    secrets = [
        PASSWORD.encode(),
        base64.b64encode(PASSWORD.encode()),
        base64.b64encode(USER.encode()),
        base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()),
        b"AUTH",
        b"MAIL",
        b"Subject",
    ]
    for peer in server.peers:
        assert [secret for secret in secrets if secret in peer.clear] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.does)
def test_each_misbehaviour_of_a_server_is_a_clear_error(identities: Identities, row: Row) -> None:
    """Whatever the server does, the error tells what it was, nothing leaks, and the next mail goes another way."""

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
        server.let_go()
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
    """Several mails go over one connection, with AUTH PLAIN in TLS, to a server by name or address, dots and all."""
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
def test_without_credentials_none_are_sent(identities: Identities, tls: str) -> None:
    """A server that wants no credentials gets none, and without TLS only where that is asked for."""

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


def test_credentials_are_not_sent_without_tls(identities: Identities) -> None:
    """Even where the settings ask for it and the server offers it."""

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


def test_refused_recipient_does_not_stop_the_next(identities: Identities) -> None:
    """One recipient is refused for good, one for now; the next mail is taken over the same connection."""
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


def test_address_that_cannot_be_spelled_does_not_stop_the_next(identities: Identities) -> None:
    """What fails on our side is a refusal of that mail; the next is taken over the same connection."""

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


def test_refused_message_does_not_stop_the_next(identities: Identities) -> None:
    """A message that is refused after DATA is an outcome of that mail alone."""

    def judge(peer: Peer) -> None:
        is_bad = peer.mails[-1][2].startswith(b"Subject: bad")
        peer.socket.sendall(b"554 5.7.1 looks like spam\r\n" if is_bad else Step.MESSAGE.value)

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(settings(server.port, identities)) as session:
            with pytest.raises(DeliveryError, match=r"^refused: the server answered 554 5\.7\.1 looks like spam$"):
                await session.send(RECIPIENT, b"Subject: bad\r\n\r\n")
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    with Server({Step.MESSAGE: judge}, identities.good) as server:
        run(scenario(server))
    assert len(server.peers) == 1


@pytest.mark.parametrize("act", [hang, close, reset, say(b"550 no\r\n"), say_for_ever(b"250-MORE\r\n" * 100)])
def test_mail_that_was_taken_stays_so_whatever_the_server_does_on_quit(
    identities: Identities, act: Callable[[Peer], None]
) -> None:
    """An end that goes wrong is no failure of what was sent, and is not waited for long."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(settings(server.port, identities), timeout=HUNG) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    with Server({Step.QUIT: act}, identities.good) as server:
        run(scenario(server))


@pytest.mark.parametrize("act", [hang, close, say(b"550 no\r\n"), say_for_ever(b"250-MORE\r\n" * 100)])
def test_refusal_is_told_whatever_the_server_does_on_rset(identities: Identities, act: Callable[[Peer], None]) -> None:
    """The refusal is the error, and the next mail tells that the connection is no more."""
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


@pytest.mark.parametrize("step", [Step.GREETING, Step.HANDSHAKE, Step.SECURE_EHLO, Step.MAIL, Step.MESSAGE])
def test_hung_server_holds_up_neither_others_nor_the_end(
    identities: Identities, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a server hangs other tasks go on, and who cancels the session waits for its answer to a mail, not long."""
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


def test_cancelled_goodbye_leaves_nothing(identities: Identities) -> None:
    """A session that is cancelled while it waits for the answer to QUIT ends at once."""

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


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_busy_event_loop_makes_no_other_error(identities: Identities, tls: str) -> None:
    """A handshake that takes too long is told as such also when the loop was too busy to see that in time."""

    async def attempt(mail: MailConfig) -> None:
        async with Session(mail, timeout=HUNG):
            pass

    async def scenario(server: Server) -> None:
        task = asyncio.create_task(attempt(settings(server.port, identities, tls=tls)))
        await until(lambda: server.peers and Step.HANDSHAKE in server.peers[0].steps)
        time.sleep(2 * HUNG)  # noqa: ASYNC251 - holds the event loop up
        await asyncio.wait({task})
        error = task.exception()
        assert isinstance(error, DeliveryError)
        assert (error.reason, error.detail) == (Reason.TIMEOUT, f"no reply in {HUNG:g} s")

    with Server({Step.HANDSHAKE: hang}, identities.good, is_implicit=tls == "implicit") as server:
        run(scenario(server))


def test_reset_in_place_of_a_greeting(identities: Identities) -> None:
    """An RST that comes at once is seen as no connection or as one that was closed: it is a matter of time."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server):
            with pytest.raises(DeliveryError) as caught:
                async with Session(settings(server.port, identities)):
                    pass
        assert (caught.value.reason, caught.value.detail) in {
            (Reason.CLOSED, "the server closed the connection"),
            (Reason.CONNECT, f"no connection to {V4} port {server.port}: connection reset by peer"),
        }

    with Server({Step.GREETING: reset}, identities.good) as server:
        run(scenario(server))


def test_no_connection(identities: Identities) -> None:
    """A port that is closed, and one that answers nothing, each have their reason."""

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


def test_cancelled_connection_leaves_no_socket(identities: Identities) -> None:
    """A session that is cancelled while it connects closes its socket."""

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
    """Of a name with several addresses the first that lets us connect is taken."""
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


def test_name_that_does_not_exist(identities: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error tells which name it is, and why."""

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
    """Give a file that is no certificate."""
    path = tmp_path / "spoiled.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n", encoding="ascii")
    return str(path)


def test_files_that_cannot_be_read(identities: Identities, tmp_path: Path, spoiled: str) -> None:
    """Files of the settings that are gone, spoiled or pipes since the start are an error of their own."""
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


def test_password_is_read_at_each_use(identities: Identities, tmp_path: Path) -> None:
    """A password file that changes is in force at the next session; the end of its line is none of the password."""
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


def test_authority_is_needed(identities: Identities) -> None:
    """Without `smtpcafile` a certificate of a private authority is not taken."""

    async def scenario(server: Server) -> None:
        with pytest.raises(DeliveryError) as caught:
            async with Session(settings(server.port, identities, ca_file=None)):
                pass
        assert caught.value.reason is Reason.CERTIFICATE

    with Server({}, identities.good) as server:
        run(scenario(server))
    nothing_in_clear(server)


@pytest.mark.parametrize(
    ("offer", "is_login"),
    [
        (b"250 AUTH LOGIN", True),
        (b"250 AUTH=LOGIN", True),
        (b"250-AUTH=LOGIN\r\n250 AUTH LOGIN XOAUTH2 CRAM-MD5", True),
        (b"250 auth login", True),
        (b"250 AUTH LOGIN PLAIN", False),
        (b"250-AUTH LOGIN\r\n250 AUTH=PLAIN", False),
        (b"250 AUTH=PLAIN LOGIN", False),
    ],
)
def test_plain_is_used_or_else_login(identities: Identities, offer: bytes, *, is_login: bool) -> None:
    """Office 365 offers LOGIN and not PLAIN; the old form with "=" is an offer, too."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(settings(server.port, identities)) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    with Server({Step.SECURE_EHLO: say(b"250-mail.test\r\n" + offer + b"\r\n")}, identities.good) as server:
        run(scenario(server))
    (peer,) = server.peers
    assert peer.answers == ([USER.encode(), PASSWORD.encode()] if is_login else [])
    assert (b"\r\nAUTH PLAIN " in peer.secure) is not is_login
    nothing_in_clear(server)


def test_long_password_is_no_initial_response(identities: Identities) -> None:
    """A line that would be longer than 512 bytes is not sent: AUTH PLAIN waits to be asked (RFC 4954, 4)."""
    asked: list[bytes] = []

    def ask(peer: Peer) -> None:
        peer.socket.sendall(b"334 \r\n")
        asked.append(base64.b64decode(peer.hear()))
        peer.socket.sendall(Step.AUTH.value)

    async def scenario(server: Server) -> None:
        async with Session(settings(server.port, identities, password="x" * 400)):
            pass

    with Server({Step.AUTH: ask}, identities.good) as server:
        run(scenario(server))
    assert asked == [f"\0{USER}\0{'x' * 400}".encode()]
    assert b"\r\nAUTH PLAIN\r\n" in server.peers[0].secure


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize(
    ("name", "said"), [("web1.example.org", "web1.example.org"), ("a1b2c3d4e5f6", None), ("localhost", None)]
)
def test_same_name_is_said_before_tls_and_inside(
    identities: Identities, monkeypatch: pytest.MonkeyPatch, address: str, name: str, said: str | None
) -> None:
    """It is the machine's full name, or without one the address of this end of the connection."""
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
def test_server_that_knows_no_ehlo_is_told_helo(identities: Identities, answer: bytes, tls: str) -> None:
    """Without credentials, and where TLS needs no EHLO, an old server gets the mails."""

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
def test_no_other_answer_to_ehlo_leads_to_helo(identities: Identities, code: int) -> None:
    """Whoever does not take the name, or the client, would not after HELO."""

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
def test_refused_name_is_no_fault_of_the_mail(
    identities: Identities, monkeypatch: pytest.MonkeyPatch, step: Step, answer: str
) -> None:
    """Postfix refuses it with the first recipient: mails wait, and the error says which name it is and what to do."""
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


TOKEN: Final = "ya29.a0AfH6SMBx-" + 60 * "0123456789_" + "=="
BEARER_ONLY: Final = say(b"250-mail.test\r\n250 AUTH LOGIN XOAUTH2\r\n")
EXPIRED: Final = b'{"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}'


def token_settings(port: int, identities: Identities, *command: str) -> MailConfig:
    """Make settings with a command that prints a token."""
    return settings(port, identities, password=None, token_command=command or ("/bin/echo", TOKEN))


def test_token_of_a_command_is_presented(identities: Identities) -> None:
    """XOAUTH2 has the user and the token, in an answer of its own: a token is longer than a command may be."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server), Session(token_settings(server.port, identities)) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    with Server({Step.SECURE_EHLO: BEARER_ONLY}, identities.good) as server:
        run(scenario(server))
    (peer,) = server.peers
    assert peer.answers == [f"user={USER}\x01auth=Bearer {TOKEN}\x01\x01".encode()]
    nothing_in_clear(server)


@pytest.mark.parametrize(
    ("twists", "reason", "detail"),
    [
        (
            {Step.AUTH: refuse_token(EXPIRED, b"535 5.7.8 Username and Password not accepted\r\n")},
            Reason.AUTH,
            "the server rejected the token: 535 5.7.8 Username and Password not accepted (status 401)",
        ),
        (
            {Step.AUTH: refuse_token(b'{"status": 400}', b"535 no\r\n")},
            Reason.AUTH,
            "the server rejected the token: 535 no (status 400)",
        ),
        *(
            (
                {Step.AUTH: refuse_token(challenge, b"535 no\r\n")},
                Reason.AUTH,
                "the server rejected the token: 535 no",
            )
            for challenge in (b"", b"no JSON", b"[1]", b'"x"', b"{}", b'{"status": [1]}', b"[" * 5_000, b"\xff")
        ),
        (
            {Step.AUTH: say(b"535 5.7.3 Authentication unsuccessful\r\n")},
            Reason.AUTH,
            "the server rejected the token: 535 5.7.3 Authentication unsuccessful",
        ),
        (
            {Step.BEARER: refuse(b"504 5.7.4 Unrecognized authentication type\r\n")},
            Reason.AUTH,
            "the server rejected the token: 504 5.7.4 Unrecognized authentication type",
        ),
        (
            {Step.BEARER: refuse(b"235 2.7.0 welcome\r\n")},
            Reason.PROTOCOL,
            "unexpected reply of the server: 2.7.0 welcome",
        ),
        (
            {Step.SECURE_EHLO: say(b"250-mail.test\r\n250 AUTH PLAIN LOGIN\r\n")},
            Reason.AUTH,
            "the server offers no AUTH XOAUTH2, it offers PLAIN, LOGIN",
        ),
        *(({step: close}, Reason.CLOSED, "the server closed the connection") for step in (Step.BEARER, Step.AUTH)),
    ],
)
def test_token_that_is_refused(
    identities: Identities, twists: Mapping[Step, Callable[[Peer], None]], reason: Reason, detail: str
) -> None:
    """The error tells the status that the server's JSON has, if it has one, and never the token."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server):
            with pytest.raises(DeliveryError) as caught:
                async with Session(token_settings(server.port, identities)):
                    pass
        assert (caught.value.reason, caught.value.detail) == (reason, detail)
        assert not caught.value.is_of_mail

    with Server({Step.SECURE_EHLO: BEARER_ONLY, **twists}, identities.good) as server:
        run(scenario(server))
    nothing_in_clear(server)


@pytest.mark.parametrize(
    ("twists", "has_token", "number"),
    [
        ({}, False, 1),
        *(({Step.SECURE_EHLO: LOGIN_ONLY}, False, number) for number in (1, 2, 3)),
        *(({Step.SECURE_EHLO: BEARER_ONLY}, True, number) for number in (1, 2)),
        ({Step.SECURE_EHLO: BEARER_ONLY, Step.AUTH: refuse_token(EXPIRED, b"535 no\r\n")}, True, 2),
    ],
)
def test_cancellation_is_not_lost_when_an_answer_about_credentials_comes(
    identities: Identities,
    monkeypatch: pytest.MonkeyPatch,
    twists: Mapping[Step, Callable[[Peer], None]],
    number: int,
    *,
    has_token: bool,
) -> None:
    """A session that is cancelled in the moment of such an answer ends, and sends nothing."""

    async def attempt(mail: MailConfig) -> None:
        async with Session(mail) as session:
            await session.send(RECIPIENT, MESSAGE)

    async def scenario(server: Server) -> None:
        mail = (token_settings if has_token else settings)(server.port, identities)
        count, real = itertools.count(1), SMTPProtocol.data_received

        def data_received(self: SMTPProtocol, data: bytes) -> None:
            real(self, data)
            if data[:3] in {b"334", b"235"} and next(count) == number:
                task.cancel()

        monkeypatch.setattr(SMTPProtocol, "data_received", data_received)
        async with nothing_left(server):
            task = asyncio.create_task(attempt(mail))
            await asyncio.wait({task})
            assert task.cancelled()
            assert next(count) == number + 1

    with Server(twists, identities.good) as server:
        run(scenario(server))
    assert server.peers[0].mails == []


def test_command_is_run_for_each_connection(identities: Identities, tmp_path: Path) -> None:
    """A token that has expired is asked for anew with the next try; none is kept."""
    tokens = tmp_path / "tokens"
    script = tmp_path / "token"
    script.write_text(f"#!/bin/sh\nhead -n 1 {tokens}\nsed -i 1d {tokens}\n", encoding="utf-8")
    script.chmod(0o755)
    tokens.write_text("expired\ngood\n", encoding="utf-8")

    async def scenario(server: Server) -> None:
        mail = token_settings(server.port, identities, str(script))
        with pytest.raises(DeliveryError, match="status 401"):
            async with Session(mail):
                pass
        async with Session(mail) as session:
            assert await session.send(RECIPIENT, MESSAGE) == "250 2.0.0 queued"

    twists = {Step.SECURE_EHLO: BEARER_ONLY, Step.AUTH: refuse_token(EXPIRED, b"535 no\r\n")}
    with Server(twists, identities.good, lasting={Step.SECURE_EHLO: BEARER_ONLY}) as server:
        run(scenario(server))
    assert [peer.answers[0].split(b"Bearer ")[1].strip(b"\x01") for peer in server.peers] == [b"expired", b"good"]


def test_command_that_fails_leaves_nothing(identities: Identities) -> None:
    """The connection is closed, and the reason is the token's own."""

    async def scenario(server: Server) -> None:
        async with nothing_left(server):
            with pytest.raises(DeliveryError) as caught:
                async with Session(token_settings(server.port, identities, "/bin/false")):
                    pass
        assert (caught.value.reason, caught.value.detail) == (
            Reason.TOKEN,
            "smtptokencommand /bin/false failed (exit status 1)",
        )

    with Server({Step.SECURE_EHLO: BEARER_ONLY}, identities.good) as server:
        run(scenario(server))
    assert Step.BEARER not in server.peers[0].steps
