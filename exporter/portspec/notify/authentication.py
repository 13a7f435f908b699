"""Authenticating inside TLS: SASL's PLAIN and LOGIN with a password, XOAUTH2 with an access token."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final

from aiosmtplib import errors

from portspec.notify.delivery import DeliveryError, DeliveryErrorReason, answer, offer, short
from portspec.notify.steps import step
from portspec.notify.tokencommand import access_token

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiosmtplib

_GO_ON = 334
_DONE = 235
_REFUSED = 400
_MAX_LINE: Final = 512  # bytes of a command (RFC 5321, 4.5.3.1.4); no initial response goes beyond (RFC 4954, 4)


async def authenticate(
    client: aiosmtplib.SMTP, username: str, *, password: str | None, command: Sequence[str], patience: float
) -> None:
    """Authenticate with a password, or with the token that the command prints.

    The command may take `patience` seconds. Raises DeliveryError, and what aiosmtplib does.
    """
    offered = client.server_auth_methods  # in lower case, those announced as AUTH=… included
    if command:
        if "xoauth2" not in offered:
            raise DeliveryError(DeliveryErrorReason.AUTH, f"the server offers no AUTH XOAUTH2, {_instead(offered)}")
        await _xoauth2(client, username, await access_token(command, patience))
    elif password is not None:
        if "plain" in offered:
            await _converse(client, "PLAIN", [f"\0{username}\0{password}"], is_initial=True)
        elif "login" in offered:
            await _converse(client, "LOGIN", [username, password])
        else:
            raise DeliveryError(
                DeliveryErrorReason.AUTH, f"the server offers neither AUTH PLAIN nor LOGIN, {_instead(offered)}"
            )


def _instead(offered: Sequence[str]) -> str:
    what = offer(offered)
    is_for_token = "xoauth2" in offered
    return f"{what} (smtptokencommand is for XOAUTH2)" if is_for_token else what


async def _converse(
    client: aiosmtplib.SMTP, mechanism: str, replies: Sequence[str], *, is_initial: bool = False
) -> None:
    """Answer each challenge of the server, whatever it says: of these mechanisms none asks for anything else."""
    left = [base64.b64encode(reply.encode()) for reply in replies]
    line = [b"AUTH", mechanism.encode()]
    if is_initial and len(b" ".join((*line, left[0], b"\r\n"))) <= _MAX_LINE:
        line.append(left.pop(0))
    response = await step(client.execute_command(*line))
    while left and response.code == _GO_ON:
        response = await step(client.execute_command(left.pop(0)))
    if response.code != _DONE or left:
        raise errors.SMTPAuthenticationError(response.code, response.message)


async def _xoauth2(client: aiosmtplib.SMTP, username: str, token: str) -> None:
    """Present a token, as Google ("The SASL XOAUTH2 Mechanism") and Microsoft ("SASL XOAUTH2") have it."""
    # longer than a command may be, hence never with it
    response = await step(client.execute_command(b"AUTH", b"XOAUTH2"))
    told = ""
    is_asked = response.code == _GO_ON
    if is_asked:
        response = await step(client.execute_command(_bearer(username, token)))
        if response.code == _GO_ON:  # why not, in JSON, which wants an empty line before the refusal itself
            told = _status(response.message)
            response = await step(client.execute_command(b""))
    if response.code >= _REFUSED:
        said = answer(response.code, response.message)
        raise DeliveryError(DeliveryErrorReason.AUTH, f"the server does not take the token: {said}{told}")
    if response.code != _DONE or not is_asked:
        raise errors.SMTPAuthenticationError(response.code, response.message)


def _bearer(username: str, token: str) -> bytes:
    return base64.b64encode(f"user={username}\x01auth=Bearer {token}\x01\x01".encode())


def _status(challenge: str) -> str:
    """Give what the JSON of a refused token says; nothing if it is none."""
    try:
        said = json.loads(base64.b64decode(challenge))
        status = said["status"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return f" (status {short(str(status))})" if isinstance(status, str | int) else ""
