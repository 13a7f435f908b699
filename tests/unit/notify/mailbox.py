"""A real mail server in the event loop of a test."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from typing import TYPE_CHECKING

from aiosmtpd.smtp import SMTP

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import EmailMessage

    from aiosmtpd.smtp import Envelope, Session


@dataclass
class Mailbox:
    """A mail server on loopback, without TLS.

    What it took, whom it refuses, and what happens when it has taken a mail. It answers to none but while `is_awake`.
    """

    taken: list[EmailMessage] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    on_taken: Callable[[], object] = lambda: None
    is_awake: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    port: int = 0
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, always on the same port."""
        self.is_awake.set()
        self._server = await asyncio.get_running_loop().create_server(self._session, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def _session(self) -> SMTP:
        self.connections += 1
        return SMTP(self, hostname="mail.test")

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _: SMTP, __: Session, envelope: Envelope, address: str, ___: list[str]
    ) -> str:
        """Accept or reject a recipient."""
        if address in self.refused:
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, _: SMTP, __: Session, envelope: Envelope) -> str:  # noqa: N802 - the same
        """Accept a mail."""
        message = message_from_bytes(envelope.original_content or b"", policy=policy.default)
        assert envelope.rcpt_tos == [message["To"]]
        self.taken.append(message)
        self.on_taken()
        await self.is_awake.wait()
        return "250 2.0.0 queued"

    def told(self) -> list[str]:
        """Return the recipients of the mails since the last call."""
        taken, self.taken = self.taken, []
        return [str(message["To"]) for message in taken]
