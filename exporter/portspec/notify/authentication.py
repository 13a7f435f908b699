"""SMTP AUTH (RFC 4954): PLAIN and LOGIN with a password, XOAUTH2 with an access token that a program prints.

The program runs without a shell, with limits of time and output.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Final

from aiosmtplib import errors

from portspec.notify.cancellation import abandon_on_cancel
from portspec.notify.delivery_errors import DeliveryError, DeliveryErrorReason, offered_methods, reply_line, short
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiosmtplib

_CONTINUE = 334
_SUCCEEDED = 235
_MIN_FAILURE = 400
_MAX_LINE: Final = 512  # bytes of a command (RFC 5321, 4.5.3.1.4), including an initial response (RFC 4954, 4)
MAX_OUTPUT: Final = 65_536  # bytes; tokens have a few thousand
_CHUNK = 65_536
_POLL_INTERVAL = 0.01  # seconds
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9._-]{20,}=*")  # RFC 7519: begins with '{"' in base64url


async def authenticate(
    client: aiosmtplib.SMTP, username: str, *, password: str | None, command: Sequence[str], time_limit: float
) -> None:
    """Authenticate with a password, or with the token that the command prints.

    Args:
        client: A connection, after EHLO.
        username: The user.
        password: The password, if there is no command.
        command: The command that prints an access token; empty without one.
        time_limit: The time limit of the command, in seconds.

    Raises:
        DeliveryError: The server offers no suitable method or rejects the token, or the command fails.
        SMTPException: The server rejects the password, or the session fails.
    """
    offered = client.server_auth_methods  # in lower case, including those announced as AUTH=…
    if command:
        if "xoauth2" not in offered:
            raise DeliveryError(DeliveryErrorReason.AUTH, f"the server offers no AUTH XOAUTH2, {_instead(offered)}")
        await _xoauth2(client, username, await access_token(command, time_limit))
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
    what = offered_methods(offered)
    is_for_token = "xoauth2" in offered
    return f"{what} (smtptokencommand is for XOAUTH2)" if is_for_token else what


async def _converse(
    client: aiosmtplib.SMTP, mechanism: str, replies: Sequence[str], *, is_initial: bool = False
) -> None:
    """Send a reply to each challenge, whatever its text: these mechanisms ask for nothing else."""
    left = [base64.b64encode(reply.encode()) for reply in replies]
    line = [b"AUTH", mechanism.encode()]
    if is_initial and len(b" ".join((*line, left[0], b"\r\n"))) <= _MAX_LINE:
        line.append(left.pop(0))
    response = await abandon_on_cancel(client.execute_command(*line))
    while left and response.code == _CONTINUE:
        response = await abandon_on_cancel(client.execute_command(left.pop(0)))
    if response.code != _SUCCEEDED or left:
        raise errors.SMTPAuthenticationError(response.code, response.message)


async def _xoauth2(client: aiosmtplib.SMTP, username: str, token: str) -> None:
    """Authenticate with a token, as Google ("The SASL XOAUTH2 Mechanism") and Microsoft ("SASL XOAUTH2") specify."""
    # never an initial response: a token is longer than a command may be
    response = await abandon_on_cancel(client.execute_command(b"AUTH", b"XOAUTH2"))
    status = ""
    is_asked = response.code == _CONTINUE
    if is_asked:
        response = await abandon_on_cancel(client.execute_command(_bearer(username, token)))
        if response.code == _CONTINUE:  # an error in JSON; the final reply follows an empty line
            status = _status(response.message)
            response = await abandon_on_cancel(client.execute_command(b""))
    if response.code >= _MIN_FAILURE:
        reply = reply_line(response.code, response.message)
        raise DeliveryError(DeliveryErrorReason.AUTH, f"the server rejected the token: {reply}{status}")
    if response.code != _SUCCEEDED or not is_asked:
        raise errors.SMTPAuthenticationError(response.code, response.message)


def _bearer(username: str, token: str) -> bytes:
    return base64.b64encode(f"user={username}\x01auth=Bearer {token}\x01\x01".encode())


def _status(challenge: str) -> str:
    """Return the status in the JSON of a rejected token; "" if there is none."""
    try:
        error = json.loads(base64.b64decode(challenge))
        status = error["status"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return f" (status {short(str(status))})" if isinstance(status, str | int) else ""


async def access_token(command: Sequence[str], time_limit: float) -> str:
    """Run a command and return the token that it prints.

    The command and its children are killed after `time_limit` seconds, or when this is cancelled.

    Raises:
        DeliveryError: The command fails or prints no token. The error quotes no token.
    """
    token_command = _TokenCommand(command)
    try:
        return await in_daemon_thread(lambda: token_command.run(time_limit))
    finally:
        token_command.kill()


class _TokenCommand:
    """One run of the command, which another thread may end."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_cancelled = False

    def run(self, time_limit: float) -> str:
        """Run it and return the token."""
        try:
            process = subprocess.Popen(  # noqa: S603 - the command is conf.yml's
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",  # not the directory in which portspec was started
                start_new_session=True,  # a process group, so that its children are killed, too
            )
        except (OSError, ValueError) as error:
            why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
            raise self._error(f"cannot be run: {why}") from None
        with self._lock:
            self._process = process
        try:
            output, errors = self._read(process, time_limit)
        finally:
            self._finish(process)
        return self._token(output, errors, process.returncode)

    def kill(self) -> None:
        """Kill it and its children, unless it has ended."""
        with self._lock:
            self._is_cancelled = True
            self._kill()

    def _kill(self) -> None:
        # Until it is waited for, its process ID is not reused.
        if self._process is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._kill()
        with contextlib.suppress(OSError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._process = None
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def _read(self, process: subprocess.Popen[bytes], time_limit: float) -> tuple[bytes, bytes]:
        """Read both of its outputs to their ends and wait for its exit."""
        until = time.monotonic() + time_limit
        output, errors = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)  # type: ignore[arg-type]
            selector.register(process.stderr, selectors.EVENT_READ, errors)  # type: ignore[arg-type]
            while selector.get_map():
                self._check(until, time_limit)
                for key, _ in selector.select(max(until - time.monotonic(), 0.0)):
                    if part := os.read(key.fd, _CHUNK):
                        key.data.extend(part)
                    else:
                        selector.unregister(key.fileobj)
                if len(output) > MAX_OUTPUT:
                    raise self._error(f"printed more than {MAX_OUTPUT:,} bytes, expected only an access token")
                del errors[MAX_OUTPUT:]
        # It may have closed both and still run.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            self._check(until, time_limit)
            time.sleep(_POLL_INTERVAL)
        return bytes(output), bytes(errors)

    def _check(self, until: float, time_limit: float) -> None:
        if self._is_cancelled:
            raise self._error("was cancelled")
        if time.monotonic() >= until:
            raise self._error(f"timed out after {time_limit:g} s")

    def _token(self, output: bytes, errors: bytes, code: int) -> str:
        lines = output.decode("utf-8", "replace").split("\n")
        printed = [line.strip() for line in lines if line.strip()]
        if code:
            end = f"exit status {code}" if code > 0 else f"killed by {_signal(-code)}"
            raise self._error(f"failed ({end}){_first_line(errors, printed)}")
        if not printed:
            raise self._error(f"printed nothing, expected an access token{_first_line(errors, printed)}")
        if len(printed) > 1:
            raise self._error(f"printed {len(printed)} lines, expected one line with an access token")
        if not _TOKEN.fullmatch(printed[0]):
            raise self._error("did not print an access token (RFC 6750) alone; extract it from JSON with jq -r")
        return printed[0]

    def _error(self, what: str) -> DeliveryError:
        return DeliveryError(DeliveryErrorReason.TOKEN, f"smtptokencommand {self._command[0]} {what}")


def _first_line(errors: bytes, secrets: Sequence[str]) -> str:
    """Return the first line of its standard error, without anything that may be a token."""
    line = next((line for line in errors.decode("utf-8", "replace").splitlines() if line.strip()), "")
    for secret in secrets:
        line = line.replace(secret, "…")
    return f": {short(_JWT.sub('…', line))}" if line else ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
