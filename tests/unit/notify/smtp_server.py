"""A mail server that misbehaves on any step of a session, and checks of what a session leaves behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import enum
import gc
import os
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from portspec.config import MailConfig
from tests.unit.factories import settle
from tests.unit.scan.loopback import PATIENCE, V4

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

NAME: Final = "localhost"
SENDER: Final = "portspec@example.org"
RECIPIENT: Final = "security@example.org"
USER: Final = "portspec"
PASSWORD: Final = "correct-horse\u00df"  # noqa: S105 - beyond ASCII, as UTF-8: RFC 4616, 2
MESSAGE: Final = b"Subject: PortSpec Alert [test]\r\n\r\n.a line that begins with a dot\r\n.\r\nthe end\r\n"
HUNG: Final = 0.5  # seconds that a session waits for a server that hangs
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends an RST


class Step(enum.Enum):
    """A step of the session, on which the server can misbehave."""

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
    """The server stops serving this connection."""


class Peer:
    """The server's end of a connection: what it received before and inside TLS, and its steps so far."""

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
        self._received = bytearray()

    @property
    def is_secure(self) -> bool:
        """Whether TLS has begun."""
        return isinstance(self.socket, ssl.SSLSocket)

    def read(self, end: bytes = b"\r\n") -> bytes:
        """Read up to a terminator, which is removed."""
        while end not in self._received:
            part = self.socket.recv(65_536)
            if not part:
                raise OverError
            (self.secure if self.is_secure else self.clear).extend(part)
            self._received += part
        told, _, rest = bytes(self._received).partition(end)
        self._received = bytearray(rest)
        return told

    def upgrade(self, identity: ssl.SSLContext) -> None:
        """Begin TLS."""
        self.socket = identity.wrap_socket(self.socket, server_side=True)

    def finish(self) -> None:
        """Close, and record the cleartext that was not read yet."""
        with contextlib.suppress(OSError):
            if not self.is_secure:
                self.socket.setblocking(False)  # noqa: FBT003 - the name of the argument is hidden
                while part := self.socket.recv(65_536):
                    self.clear += part
        self.socket.close()


def hang(peer: Peer) -> None:
    """Send and read nothing."""
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
    """Send something else, and continue."""
    return lambda peer: peer.socket.sendall(answer)


def refuse(answer: bytes) -> Callable[[Peer], None]:
    """Send something else instead of a challenge, and read no response."""

    def act(peer: Peer) -> None:
        peer.has_refused = True
        peer.socket.sendall(answer)

    return act


def refuse_token(challenge: bytes, answer: bytes) -> Callable[[Peer], None]:
    """Send the reason of a rejected token, and reject it after the empty line of the client."""

    def act(peer: Peer) -> None:
        peer.socket.sendall(b"334 " + base64.b64encode(challenge) + b"\r\n")
        assert peer.read() == b""
        peer.socket.sendall(answer)

    return act


def say_for_ever(part: bytes) -> Callable[[Peer], None]:
    """Send something repeatedly."""

    def act(peer: Peer) -> None:
        while not peer.ended.is_set():
            peer.socket.sendall(part)
        raise OverError

    return act


def trickle(part: bytes) -> Callable[[Peer], None]:
    """Send something repeatedly, more often than the timeout."""

    def act(peer: Peer) -> None:
        while not peer.ended.wait(HUNG / 5):
            peer.socket.sendall(part)
        raise OverError

    return act


def say_and_close(answer: bytes) -> Callable[[Peer], None]:
    """Send something else, and close the connection."""

    def act(peer: Peer) -> None:
        peer.socket.sendall(answer)
        raise OverError

    return act


class Server:
    """A mail server on a free port that misbehaves on the steps in `twists`, in the first connection only.

    `lasting` are the twists of later connections. It serves one connection at a time, in a thread with blocking
    sockets: while it hangs, it reads nothing.
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
        self.release()
        for ending in (self._listener, *(peer.socket for peer in self.peers)):
            with contextlib.suppress(OSError):  # it has ended
                ending.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._listener.close()
        assert not self._thread.is_alive()

    def release(self) -> None:
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
            command = peer.read().decode()
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
                        peer.mails.append((sender, recipient, peer.read(b"\r\n.\r\n")))
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
        """Send the challenges of a mechanism; a rejection instead of a challenge ends it."""
        for challenge in (Step.USERNAME, Step.PASSWORD) if command.endswith("LOGIN") else (Step.BEARER,):
            step(challenge)
            if peer.has_refused:
                return
            peer.answers.append(base64.b64decode(peer.read()))
        step(Step.AUTH)


@dataclass(frozen=True, slots=True)
class Identities:
    """Server contexts with different certificates, and the file of the authority that issued the good ones."""

    authority: str
    good: ssl.SSLContext
    other_name: ssl.SSLContext
    expired: ssl.SSLContext
    unknown: ssl.SSLContext


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
    """Run a scenario, and check that it leaves no task, transport or unretrieved error."""
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
    """Return the name of a socket as the links of /proc/self/fd have it; None if the server's thread has closed it."""
    try:
        return f"socket:[{os.fstat(of.fileno()).st_ino}]"
    except OSError:
        return None


@contextlib.asynccontextmanager
async def nothing_left(server: Server) -> AsyncIterator[None]:
    """Check that within, no socket is left but those of the server, though that does not close them."""
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
    """Check that neither the credentials nor the mail left before TLS, in any form."""
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


BEARER_ONLY: Final = say(b"250-mail.test\r\n250 AUTH LOGIN XOAUTH2\r\n")


LOGIN_ONLY: Final = say(b"250-mail.test\r\n250 AUTH LOGIN\r\n")
