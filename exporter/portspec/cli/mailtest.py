"""`portspec mail-test`: tell whether the mailer of a configuration reaches everybody."""

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

FAILED = 1


def mail_test(config: Config) -> int:
    """Send a message to every alertemail and print what the server answered to each; 1 if any was not taken."""
    if config.mail is None:
        raise UsageError(f"{config.path}: names no mail server to test; set smtpserver, alertemail and fromemail")
    return asyncio.run(_send_all(config.mail, others="" if config.reportmail is None else " and the daily report"))


async def _send_all(mail: MailConfig, others: str) -> int:
    how = {"starttls": "STARTTLS", "implicit": "TLS", "none": "WITHOUT TLS"}[mail.tls]
    write(
        f"{mail.server} port {mail.port}, {how}, {f'as {mail.username}' if mail.username else 'without credentials'}\n"
    )
    is_taken = True
    letters = {
        recipient: render_test_mail(sender=mail.sender, recipient=recipient, now=time.time())
        for recipient in mail.recipients
    }

    async def tell(recipient: str, answer: str, error: DeliveryError | None) -> None:
        nonlocal is_taken
        is_taken = is_taken and error is None
        write(f"{recipient}: {'taken' if error is None else 'NOT taken'}: {error or answer}\n")

    await send_mails(mail, letters, tell)
    if mail.mode == "off":
        write(f"note: sendemail is false; nothing but this test{others} is sent\n")
    return 0 if is_taken else FAILED
