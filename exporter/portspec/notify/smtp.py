"""One dialogue with the mail server: every way in which it can fail is an outcome, and none holds anybody up for long.

The dialogue itself is aiosmtplib's. Names are looked up beside the event loop, whose own look-up threads would keep the
rights that the process began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import aiosmtplib
from aiosmtplib import errors

from portspec import files
from portspec.errors import printable
from portspec.names import canonical, query_name
from portspec.notify.authentication import authenticate
from portspec.notify.delivery import DeliveryError, DeliveryErrorReason, answer, refusal, short
from portspec.notify.greeting import greeting
from portspec.notify.steps import last_step, step
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from portspec.config import MailConfig

__all__ = ["TIMEOUT", "DeliveryError", "DeliveryErrorReason", "Session", "send_mails"]

TIMEOUT: Final = 30.0  # seconds for each step of the dialogue
_MAX_PASSWORD = 65_536  # bytes of a file that holds one
_TEMPORARY = 400
# "Command not recognized": the server is of before ESMTP (RFC 5321, 3.2 and 4.2.4), and knows HELO. 501, 504 and 550
# refuse the name or the client, and would after HELO, too.
_KNOWS_NO_EHLO = {500, 502}
_GOODBYE = 5.0  # seconds
_LAST_ANSWER = 2.0  # seconds that a cancelled session waits for the answer to a message, which the server may have


@dataclass(frozen=True, slots=True)
class _Prepared:
    addresses: tuple[tuple[int, tuple[object, ...]], ...]
    name: str
    trust: ssl.SSLContext
    password: str | None


class Session:
    """A connection to the server of `mail`, over which any number of mails are sent, one after the other.

    Entering it connects, upgrades to TLS and authenticates; raises DeliveryError. Credentials leave it inside TLS only.
    """

    def __init__(self, mail: MailConfig, *, timeout: float = TIMEOUT) -> None:
        self._mail = mail
        self._timeout = timeout
        self._greeting = ""
        self._client: aiosmtplib.SMTP | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._socket: socket.socket | None = None  # that of a client which has not yet taken it over

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        client = self._client
        try:
            if client and client.is_connected and kind is None:
                with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                    await step(client.quit(timeout=min(self._timeout, _GOODBYE)))
        finally:
            self._close()

    async def send(self, recipient: str, message: bytes) -> str:
        """Send a mail to one address; gives what the server answered. Raises DeliveryError.

        When this is cancelled while the server has the message, its answer is waited for, for a few seconds; with an
        answer the cancellation comes at the next await.
        """
        client = self._client
        if client is None or not client.is_connected:
            raise DeliveryError(DeliveryErrorReason.CLOSED, "the server closed the connection")
        try:
            await step(client.mail(self._mail.sender))
            await step(client.rcpt(recipient))
            taken = await last_step(client.data(message), min(self._timeout, _LAST_ANSWER))
        except errors.SMTPResponseException as error:
            failure = self._failure(error)
            if failure.is_of_mail:
                await self._abandon(client)
            raise failure from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise self._failure(error) from None
        except ValueError as error:  # of our side, such as an address beyond ASCII: it is the same at the next try
            await self._abandon(client)
            why = f"the mail cannot be sent: {short(str(error))}"
            raise DeliveryError(DeliveryErrorReason.REFUSED, why, is_of_mail=True) from None
        return answer(taken.code, taken.message)

    async def _abandon(self, client: aiosmtplib.SMTP) -> None:
        """End the mail that was begun, so that the next can be sent."""
        try:
            await step(client.rset())
        except (aiosmtplib.SMTPException, OSError):
            self._close()

    async def _open(self) -> None:
        mail = self._mail
        prepared = await in_daemon_thread(lambda: _prepare(mail))
        self._socket = connected = await self._connect(prepared)
        self._greeting = greeting(prepared.name, connected.getsockname()[0])
        self._client = client = aiosmtplib.SMTP(
            hostname=canonical(mail.server),
            local_hostname=self._greeting,
            timeout=self._timeout,
            use_tls=mail.tls == "implicit",
            start_tls=False,
            tls_context=prepared.trust,
            sock=connected,
        )
        try:
            await step(client.connect())
            self._take_over(client)
            await self._greet(client)
            if mail.tls == "starttls":
                if not client.supports_extension("starttls"):
                    raise DeliveryError(
                        DeliveryErrorReason.TLS,
                        "the server offers no STARTTLS, and nothing is sent without TLS (smtptls: none would, without "
                        "credentials)",
                    )
                try:
                    await step(client.starttls())
                except errors.SMTPResponseException as error:
                    if error.code < _TEMPORARY:
                        raise
                    said = answer(error.code, error.message)
                    raise DeliveryError(DeliveryErrorReason.TLS, f"the server does not start TLS: {said}") from None
                self._take_over(client)
                await self._greet(client)
            if mail.username is not None:
                if mail.tls == "none":
                    raise DeliveryError(DeliveryErrorReason.AUTH, "credentials are never sent without TLS")
                await authenticate(
                    client,
                    mail.username,
                    password=prepared.password,
                    command=mail.token_command,
                    patience=self._timeout,
                )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise self._failure(error, is_opening=True) from None

    async def _greet(self, client: aiosmtplib.SMTP) -> None:
        """Say EHLO, or HELO to a server that does not know it, where neither TLS nor credentials are to follow."""
        mail = self._mail
        try:
            await step(client.ehlo())
        except errors.SMTPHeloError as error:
            if error.code not in _KNOWS_NO_EHLO:
                raise
            without = f"the server knows no EHLO ({answer(error.code, error.message)}), and without it there is no"
            if mail.tls == "starttls" and not client.get_transport_info("sslcontext"):
                raise DeliveryError(
                    DeliveryErrorReason.TLS, f"{without} STARTTLS; nothing is sent without TLS"
                ) from None
            if mail.username is not None:
                raise DeliveryError(
                    DeliveryErrorReason.AUTH, f"{without} AUTH; leave smtpusername out, or ask another server"
                ) from None
            await step(client.helo())

    def _take_over(self, client: aiosmtplib.SMTP) -> None:
        """Remember what is to be closed: the client forgets it when something goes wrong."""
        self._socket = None
        if isinstance(client.transport, asyncio.WriteTransport):
            self._transport = client.transport

    async def _connect(self, prepared: _Prepared) -> socket.socket:
        """Connect to the first address that lets us."""
        loop = asyncio.get_running_loop()
        failure = DeliveryError(DeliveryErrorReason.RESOLVE, f"{self._mail.server} has no address")
        for family, address in prepared.addresses:
            connected = socket.socket(family, socket.SOCK_STREAM)
            try:
                connected.setblocking(False)  # noqa: FBT003 - its only argument
                async with asyncio.timeout(self._timeout):
                    await loop.sock_connect(connected, address)
            except BaseException as error:
                connected.close()
                place = f"no connection to {address[0]} port {address[1]}"
                if isinstance(error, TimeoutError):
                    failure = DeliveryError(DeliveryErrorReason.TIMEOUT, place)
                elif isinstance(error, OSError):
                    why = os.strerror(error.errno).lower() if error.errno else str(error)
                    failure = DeliveryError(DeliveryErrorReason.CONNECT, f"{place}: {why}")
                else:
                    raise
            else:
                return connected
        raise failure

    def _failure(self, error: Exception, *, is_opening: bool = False) -> DeliveryError:
        """Tell what an error of the dialogue means."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                why = cause.verify_message or str(cause)
                return DeliveryError(
                    DeliveryErrorReason.CERTIFICATE, f"the certificate of {self._mail.server}: {printable(why)}"
                )
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return DeliveryError(DeliveryErrorReason.TIMEOUT, f"no answer in {self._timeout:g} s")
        if isinstance(error, errors.SMTPResponseException):
            return refusal(error, self._greeting, is_opening=is_opening)
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return DeliveryError(DeliveryErrorReason.TLS, f"no TLS with {self._mail.server}: {short(str(causes[-1]))}")
        if any(isinstance(cause, ConnectionError) for cause in causes):
            return DeliveryError(DeliveryErrorReason.CLOSED, "the server closed the connection")
        return DeliveryError(DeliveryErrorReason.PROTOCOL, short(str(error)))

    def _close(self) -> None:
        """Leave at once: closing TLS in good order waits for the other side."""
        if self._transport:
            self._transport.abort()
            self._transport = None
        if self._client:
            self._client.close()
            self._client = None
        if self._socket:
            # the event loop has it, and closes it when it sees this
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket = None


def _prepare(mail: MailConfig) -> _Prepared:
    """Read files and look names up: what may take time. Raises DeliveryError."""
    path = mail.ca_file
    try:
        trust = ssl.create_default_context()
        if mail.ca_file:
            files.require_regular(mail.ca_file)
            trust.load_verify_locations(mail.ca_file)
        password = mail.password
        if mail.password_file:
            path = mail.password_file
            password = files.read_regular(mail.password_file, _MAX_PASSWORD).decode().rstrip("\r\n")
    except (OSError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise DeliveryError(DeliveryErrorReason.SETTINGS, f"{path} cannot be read: {why}") from None
    try:
        found = socket.getaddrinfo(query_name(mail.server), mail.port, type=socket.SOCK_STREAM)
    except OSError as error:
        why = error.strerror or "no such name"
        raise DeliveryError(DeliveryErrorReason.RESOLVE, f"{mail.server} cannot be looked up: {why.lower()}") from None
    addresses = tuple(dict.fromkeys((int(family), tuple(address)) for family, _, _, _, address in found))
    return _Prepared(addresses, socket.getfqdn(), trust, password)


def _causes(error: BaseException | None) -> list[BaseException]:
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


async def send_mails(
    mail: MailConfig,
    letters: Mapping[str, bytes],
    on_outcome: Callable[[str, str, DeliveryError | None], Awaitable[None]],
) -> None:
    """Send a letter to each recipient, and tell of each what the server answered, or why it was not taken.

    `on_outcome` is awaited before the next letter is sent. What no dialogue could be had about fails for all that are
    left. The connection is closed when this returns, is cancelled, or `on_outcome` raises.
    """
    left = list(letters)
    try:
        async with Session(mail) as session:
            while left:
                recipient, answer = left[0], ""
                refusal: DeliveryError | None = None
                try:
                    answer = await session.send(recipient, letters[recipient])
                except DeliveryError as error:
                    if not error.is_of_mail:
                        raise
                    refusal = error
                left.pop(0)
                await on_outcome(recipient, answer, refusal)
    except DeliveryError as error:
        for recipient in left:
            await on_outcome(recipient, "", error)
