"""SMTP sessions (RFC 5321) with the submission server: each failure is a DeliveryError, and each step has a timeout.

aiosmtplib speaks the protocol. Names are looked up in daemon threads, since those of the event loop's own look-ups
would keep the privileges that the process started with.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
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
from portspec.notify.cancellation import abandon_on_cancel, finish_on_cancel
from portspec.notify.delivery_errors import DeliveryError, DeliveryErrorReason, reply_error, reply_line, short
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from portspec.config import MailConfig

__all__ = ["TIMEOUT", "DeliveryError", "DeliveryErrorReason", "Session", "send_mails"]

TIMEOUT: Final = 30.0  # seconds for each step of a session
_MAX_PASSWORD = 65_536  # bytes of a password file
_TEMPORARY = 400
# "Command not recognized": the server predates ESMTP (RFC 5321, 3.2 and 4.2.4) and knows HELO. 501, 504 and 550 reject
# the name or the client, and would do so after HELO, too.
_EHLO_UNKNOWN = {500, 502}
_QUIT_TIMEOUT = 5.0  # seconds
_CANCELLED_REPLY_TIMEOUT = 2.0  # seconds that a cancelled session waits for the reply to a message
_MAX_NAME = 253  # characters (RFC 1035, 2.3.4)
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")  # RFC 5321, 4.1.2: sub-domain
# Names below localhost are local to each machine, names below invalid do not exist (RFC 6761, 6.3 and 6.4), and
# installers use localdomain where there is no domain.
_LOCAL_DOMAINS: Final = {
    "localhost",
    "localdomain",
    "localhost4",
    "localhost6",
    "localdomain4",
    "localdomain6",
    "invalid",
}


@dataclass(frozen=True, slots=True)
class _Prepared:
    addresses: tuple[tuple[int, tuple[object, ...]], ...]
    name: str
    trust: ssl.SSLContext
    password: str | None


class Session:
    """A session with the server of `mail`, in which any number of mails are sent, one after the other.

    Entering it connects, starts TLS and authenticates; it raises DeliveryError. Credentials are sent only inside TLS.
    """

    def __init__(self, mail: MailConfig, *, timeout: float = TIMEOUT) -> None:
        self._mail = mail
        self._timeout = timeout
        self._ehlo_name = ""
        self._client: aiosmtplib.SMTP | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._socket: socket.socket | None = None  # connected, but not yet passed to the client

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
                    await abandon_on_cancel(client.quit(timeout=min(self._timeout, _QUIT_TIMEOUT)))
        finally:
            self._close()

    async def send(self, recipient: str, message: bytes) -> str:
        """Send a mail to one address, and return the reply of the server. Raises DeliveryError.

        If this is cancelled after the message was sent, it waits a few seconds for the reply. Once that is received,
        the next await raises CancelledError.
        """
        client = self._client
        if client is None or not client.is_connected:
            raise DeliveryError(DeliveryErrorReason.CLOSED, "the server closed the connection")
        try:
            await abandon_on_cancel(client.mail(self._mail.sender))
            await abandon_on_cancel(client.rcpt(recipient))
            accepted = await finish_on_cancel(client.data(message), min(self._timeout, _CANCELLED_REPLY_TIMEOUT))
        except errors.SMTPResponseException as error:
            failure = self._delivery_error(error)
            if failure.is_of_mail:
                await self._reset(client)
            raise failure from None
        except (aiosmtplib.SMTPException, OSError) as error:
            raise self._delivery_error(error) from None
        except ValueError as error:  # on this side, such as a non-ASCII address: a retry fails, too
            await self._reset(client)
            why = f"invalid mail: {short(str(error))}"
            raise DeliveryError(DeliveryErrorReason.REFUSED, why, is_of_mail=True) from None
        return reply_line(accepted.code, accepted.message)

    async def _reset(self, client: aiosmtplib.SMTP) -> None:
        """Abort the current mail transaction, so that the next mail can be sent."""
        try:
            await abandon_on_cancel(client.rset())
        except (aiosmtplib.SMTPException, OSError):
            self._close()

    async def _open(self) -> None:
        mail = self._mail
        prepared = await in_daemon_thread(lambda: _prepare(mail))
        self._socket = connected = await self._connect(prepared)
        self._ehlo_name = ehlo_name(prepared.name, connected.getsockname()[0])
        self._client = client = aiosmtplib.SMTP(
            hostname=canonical(mail.server),
            local_hostname=self._ehlo_name,
            timeout=self._timeout,
            use_tls=mail.tls == "implicit",
            start_tls=False,
            tls_context=prepared.trust,
            sock=connected,
        )
        try:
            await abandon_on_cancel(client.connect())
            self._note_transport(client)
            await self._send_ehlo(client)
            if mail.tls == "starttls":
                if not client.supports_extension("starttls"):
                    raise DeliveryError(
                        DeliveryErrorReason.TLS,
                        "the server offers no STARTTLS, and mails are only sent over TLS (set smtptls: none to "
                        "send them without TLS and credentials)",
                    )
                try:
                    await abandon_on_cancel(client.starttls())
                except errors.SMTPResponseException as error:
                    if error.code < _TEMPORARY:
                        raise
                    reply = reply_line(error.code, error.message)
                    raise DeliveryError(DeliveryErrorReason.TLS, f"the server rejected STARTTLS: {reply}") from None
                self._note_transport(client)
                await self._send_ehlo(client)
            if mail.username is not None:
                if mail.tls == "none":
                    raise DeliveryError(DeliveryErrorReason.AUTH, "credentials are never sent without TLS")
                await authenticate(
                    client,
                    mail.username,
                    password=prepared.password,
                    command=mail.token_command,
                    time_limit=self._timeout,
                )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise self._delivery_error(error, is_opening=True) from None

    async def _send_ehlo(self, client: aiosmtplib.SMTP) -> None:
        """Send EHLO, or HELO if the server does not know EHLO and neither STARTTLS nor AUTH is to follow."""
        mail = self._mail
        try:
            await abandon_on_cancel(client.ehlo())
        except errors.SMTPHeloError as error:
            if error.code not in _EHLO_UNKNOWN:
                raise
            reply = reply_line(error.code, error.message)
            without = f"the server does not support EHLO ({reply}), and therefore no"
            if mail.tls == "starttls" and not client.get_transport_info("sslcontext"):
                raise DeliveryError(
                    DeliveryErrorReason.TLS, f"{without} STARTTLS; mails are only sent over TLS"
                ) from None
            if mail.username is not None:
                raise DeliveryError(
                    DeliveryErrorReason.AUTH, f"{without} AUTH; remove smtpusername or use another server"
                ) from None
            await abandon_on_cancel(client.helo())

    def _note_transport(self, client: aiosmtplib.SMTP) -> None:
        """Remember the transport in order to close it: the client forgets it after an error."""
        self._socket = None
        if isinstance(client.transport, asyncio.WriteTransport):
            self._transport = client.transport

    async def _connect(self, prepared: _Prepared) -> socket.socket:
        """Connect to the first address that accepts a connection."""
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

    def _delivery_error(self, error: Exception, *, is_opening: bool = False) -> DeliveryError:
        """Return the DeliveryError that an error of a session means."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                why = cause.verify_message or str(cause)
                return DeliveryError(
                    DeliveryErrorReason.CERTIFICATE, f"the certificate of {self._mail.server}: {printable(why)}"
                )
        if any(isinstance(cause, TimeoutError) for cause in causes):
            return DeliveryError(DeliveryErrorReason.TIMEOUT, f"no reply in {self._timeout:g} s")
        if isinstance(error, errors.SMTPResponseException):
            return reply_error(error, self._ehlo_name, is_opening=is_opening)
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return DeliveryError(
                DeliveryErrorReason.TLS, f"TLS handshake with {self._mail.server} failed: {short(str(causes[-1]))}"
            )
        if any(isinstance(cause, ConnectionError) for cause in causes):
            return DeliveryError(DeliveryErrorReason.CLOSED, "the server closed the connection")
        return DeliveryError(DeliveryErrorReason.PROTOCOL, short(str(error)))

    def _close(self) -> None:
        """Close immediately: a clean TLS shutdown would wait for the server."""
        if self._transport:
            self._transport.abort()
            self._transport = None
        if self._client:
            self._client.close()
            self._client = None
        if self._socket:
            # the event loop uses the socket, and closes it after this
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket = None


def _prepare(mail: MailConfig) -> _Prepared:
    """Read files and look up the name of the server, which may block. Raises DeliveryError."""
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
        raise DeliveryError(DeliveryErrorReason.SETTINGS, f"failed to read {path}: {why}") from None
    try:
        found = socket.getaddrinfo(query_name(mail.server), mail.port, type=socket.SOCK_STREAM)
    except OSError as error:
        why = error.strerror or "no such name"
        raise DeliveryError(DeliveryErrorReason.RESOLVE, f"failed to look up {mail.server}: {why.lower()}") from None
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
    mails: Mapping[str, bytes],
    on_outcome: Callable[[str, str, DeliveryError | None], Awaitable[None]],
) -> None:
    """Send a mail to each recipient in one session.

    Args:
        mail: The settings of the server.
        mails: The mails by recipient.
        on_outcome: Called, and awaited before the next mail, with the recipient, the reply of the server, and the error
            if the mail was not accepted. If the session fails, it is called with that error for each remaining mail.
    """
    left = list(mails)
    try:
        async with Session(mail) as session:
            while left:
                recipient, reply = left[0], ""
                error: DeliveryError | None = None
                try:
                    reply = await session.send(recipient, mails[recipient])
                except DeliveryError as rejection:
                    if not rejection.is_of_mail:
                        raise
                    error = rejection
                left.pop(0)
                await on_outcome(recipient, reply, error)
    except DeliveryError as failure:
        for recipient in left:
            await on_outcome(recipient, "", failure)


def ehlo_name(name: str, address: str) -> str:
    """Return the name for EHLO: the name of this machine if it is fully qualified, otherwise an address literal.

    `address` is the local address of the connection (RFC 5321, 4.1.1.1, 4.1.3 and 4.1.4).
    """
    name = name.removesuffix(".")
    return name if _is_fully_qualified(name) else _literal(address)


def _is_fully_qualified(name: str) -> bool:
    labels = name.split(".")
    last = labels[-1].lower()
    return (
        len(labels) > 1  # a container ID such as a1b2c3d4e5f6 has no domain
        and len(name) <= _MAX_NAME
        and all(map(_LABEL.fullmatch, labels))
        and not last.isdigit()  # an address (RFC 3696, 2)
        and last not in _LOCAL_DOMAINS
    )


def _literal(address: str) -> str:
    found = ipaddress.ip_address(address.partition("%")[0])  # a zone is local, and not allowed in a literal
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return f"[IPv6:{found}]"
        found = found.ipv4_mapped  # the connection uses IPv4
    return f"[{found}]"
