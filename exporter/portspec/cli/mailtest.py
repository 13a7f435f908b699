"""`portspec mail-test`: send a test mail to each recipient of a configuration."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from portspec.cli.output import write
from portspec.errors import UsageError
from portspec.notify import render_test_mail, send_mails

if TYPE_CHECKING:
    from portspec.config import Config, MailConfig
    from portspec.notify import DeliveryError

EXIT_NOT_ACCEPTED = 1


def mail_test(config: Config) -> int:
    """Send a message to every alertemail and print the answers of the server; return 1 unless it accepts all."""
    if config.mail is None:
        raise UsageError(f"{config.path}: has no mail server to test; set smtpserver, alertemail and fromemail")
    return asyncio.run(_send_all(config.mail, others="" if config.reportmail is None else " and the daily report"))


async def _send_all(mail: MailConfig, others: str) -> int:
    how = {"starttls": "STARTTLS", "implicit": "TLS", "none": "WITHOUT TLS"}[mail.tls]
    write(
        f"{mail.server} port {mail.port}, {how}, {f'as {mail.username}' if mail.username else 'without credentials'}\n"
    )
    are_all_accepted = True
    letters = {
        recipient: render_test_mail(sender=mail.sender, recipient=recipient, now=time.time())
        for recipient in mail.recipients
    }

    async def print_answer(recipient: str, answer: str, error: DeliveryError | None) -> None:
        nonlocal are_all_accepted
        are_all_accepted = are_all_accepted and error is None
        write(f"{recipient}: {'accepted' if error is None else 'NOT accepted'}: {error or answer}\n")

    await send_mails(mail, letters, print_answer)
    if mail.mode == "off":
        write(f"note: sendemail is false; portspec sends only this test{others}\n")
    return 0 if are_all_accepted else EXIT_NOT_ACCEPTED
