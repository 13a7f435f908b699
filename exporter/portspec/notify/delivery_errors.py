"""Why the delivery of a mail fails, and which SMTP replies concern all mails rather than one. Pure."""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING

from aiosmtplib import errors

from portspec.errors import PortspecError, printable

if TYPE_CHECKING:
    from collections.abc import Collection

_MAX_REPLY = 200  # characters of a reply that an error quotes
_PERMANENT = 500
_TEMPORARY = 400
_CLOSING = 421
_NEEDS_AUTHENTICATION = 530  # RFC 4954, 6
_ECHO = re.compile(r"<[^>]*>|\S+@\S+")  # addresses that a server repeats
_ABOUT_EHLO_NAME = re.compile(r"\b(?:helo|ehlo)\b", re.IGNORECASE)
# Postfix rejects a client, its EHLO name or the sender only at RCPT (smtpd_delay_reject). Exchange rejects a sender
# that the user may not use only after the message. The codes 1.7 and 1.8 are about the sender (RFC 3463, 3.2).
_ABOUT_ALL = re.compile(
    r"\A[45]\.1\.[78]\b|client host rejected|sender address rejected|not authenticated|authentication required"
    r"|sendasdenied|\bsend as\b",
    re.IGNORECASE,
)


class DeliveryErrorReason(enum.StrEnum):
    """Why a mail was not accepted: the label `reason` of portspec_mails_failed_total."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    TLS = "tls"
    CERTIFICATE = "certificate"
    AUTH = "auth"
    TOKEN = "token"  # noqa: S105 - not a token
    TEMPORARY = "temporary"
    REFUSED = "refused"
    PROTOCOL = "protocol"
    SETTINGS = "settings"


class DeliveryError(PortspecError):
    """A mail was not accepted: the `reason`, and the `detail` in a few words.

    `is_of_mail` is true if only this mail is affected and the session continues; otherwise the session has ended.
    """

    exit_code = 1

    def __init__(self, reason: DeliveryErrorReason, detail: str, *, is_of_mail: bool = False) -> None:
        self.reason = reason
        self.detail = detail
        self.is_of_mail = is_of_mail
        super().__init__(f"{reason.value}: {detail}")


def reply_error(error: errors.SMTPResponseException, own_name: str, *, is_opening: bool) -> DeliveryError:
    """Return the error that a negative or unexpected reply means. `own_name` is the name sent with EHLO."""
    if error.code < _TEMPORARY:
        return DeliveryError(DeliveryErrorReason.PROTOCOL, f"unexpected reply of the server: {short(error.message)}")
    reply = reply_line(error.code, error.message)
    if isinstance(error, errors.SMTPAuthenticationError):
        return DeliveryError(DeliveryErrorReason.AUTH, f"the server rejected the credentials: {reply}")
    reason = DeliveryErrorReason.REFUSED if error.code >= _PERMANENT else DeliveryErrorReason.TEMPORARY
    text = _ECHO.sub("", error.message)
    if _ABOUT_EHLO_NAME.search(text):
        # the server would reject every mail until the name is corrected
        advice = f"the EHLO name is {own_name}; give this machine a full name that the server accepts (hostname --fqdn)"
        return DeliveryError(reason, f"the server answered {reply} ({advice})")
    # a reply that rejects the client or the sender, or closes the session, affects all mails
    is_of_all = (
        is_opening
        or isinstance(error, errors.SMTPSenderRefused)
        or error.code in {_CLOSING, _NEEDS_AUTHENTICATION}
        or _ABOUT_ALL.search(text)
    )
    return DeliveryError(reason, f"the server answered {reply}", is_of_mail=not is_of_all)


def reply_line(code: int, message: str) -> str:
    """Return a reply of the server as one line."""
    return f"{code} {short(message)}".strip()


def short(text: str) -> str:
    """Return what a server or a program wrote as one short, printable line."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _MAX_REPLY else f"{line[:_MAX_REPLY]}…"


def offered_methods(methods: Collection[str]) -> str:
    """Return which authentication methods a server offers, as a clause."""
    listed = ", ".join(dict.fromkeys(method.upper() for method in methods))
    return f"it offers {short(listed)}" if listed else "it offers no AUTH"
