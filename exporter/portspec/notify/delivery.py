"""What can become of a mail that is not taken, and what an answer of the server tells of whose fault it is. Pure."""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING

from aiosmtplib import errors

from portspec.errors import PortspecError, printable

if TYPE_CHECKING:
    from collections.abc import Collection

_MAX_ANSWER = 200  # characters of what a server says that are told
_PERMANENT = 500
_TEMPORARY = 400
_CLOSING = 421
_NEEDS_AUTHENTICATION = 530  # RFC 4954, 6
_ECHO = re.compile(r"<[^>]*>|\S+@\S+")  # what a server repeats of what it was told
_ABOUT_NAME = re.compile(r"\b(?:helo|ehlo)\b", re.IGNORECASE)
# Postfix answers at RCPT also what it has against the client, its name or the sender (smtpd_delay_reject), and Exchange
# after the message that this user may not send as this sender. 1.7 and 1.8 are about the sender (RFC 3463, 3.2).
_ABOUT_ALL = re.compile(
    r"\A[45]\.1\.[78]\b|client host rejected|sender address rejected|not authenticated|authentication required"
    r"|sendasdenied|\bsend as\b",
    re.IGNORECASE,
)


class DeliveryErrorReason(enum.StrEnum):
    """Why a mail was not taken."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    TLS = "tls"
    CERTIFICATE = "certificate"
    AUTH = "auth"
    TOKEN = "token"  # noqa: S105 - a reason
    TEMPORARY = "temporary"
    REFUSED = "refused"
    PROTOCOL = "protocol"
    SETTINGS = "settings"


class DeliveryError(PortspecError):
    """A mail was not taken: the `reason`, and the `detail` in a few words.

    `is_of_mail` is true if the server goes on and may take others; else there is no dialogue with it any more.
    """

    exit_code = 1

    def __init__(self, reason: DeliveryErrorReason, detail: str, *, is_of_mail: bool = False) -> None:
        self.reason = reason
        self.detail = detail
        self.is_of_mail = is_of_mail
        super().__init__(f"{reason.value}: {detail}")


def refusal(error: errors.SMTPResponseException, own_name: str, *, is_opening: bool) -> DeliveryError:
    """Tell what an answer means that is none of success; `own_name` is what EHLO was said with."""
    if error.code < _TEMPORARY:
        return DeliveryError(
            DeliveryErrorReason.PROTOCOL, f"the server says what cannot be understood: {short(error.message)}"
        )
    said = answer(error.code, error.message)
    if isinstance(error, errors.SMTPAuthenticationError):
        return DeliveryError(DeliveryErrorReason.AUTH, f"the server does not take the credentials: {said}")
    reason = DeliveryErrorReason.REFUSED if error.code >= _PERMANENT else DeliveryErrorReason.TEMPORARY
    meant = _ECHO.sub("", error.message)
    if _ABOUT_NAME.search(meant):
        # it would refuse all mails so, and would take each when the name is right
        advice = f"EHLO is said as {own_name}; give this machine a full name that the server takes (hostname --fqdn)"
        return DeliveryError(reason, f"the server answered {said} ({advice})")
    # whoever refuses the client or the sender, or says that it is closing, refuses all mails
    is_of_all = (
        is_opening
        or isinstance(error, errors.SMTPSenderRefused)
        or error.code in {_CLOSING, _NEEDS_AUTHENTICATION}
        or _ABOUT_ALL.search(meant)
    )
    return DeliveryError(reason, f"the server answered {said}", is_of_mail=not is_of_all)


def answer(code: int, message: str) -> str:
    """Give an answer of the server as one line."""
    return f"{code} {short(message)}".strip()


def short(text: str) -> str:
    """Make one line of what a server or a program said."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _MAX_ANSWER else f"{line[:_MAX_ANSWER]}…"


def offer(methods: Collection[str]) -> str:
    """Tell which ways to authenticate a server offers."""
    listed = ", ".join(dict.fromkeys(method.upper() for method in methods))
    return f"it offers {short(listed)}" if listed else "it offers no AUTH"
