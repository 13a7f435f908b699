"""The program that prints an access token: run without a shell, for so long, and read only so far."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Final

from portspec.notify.delivery import DeliveryError, DeliveryErrorReason, short
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_OUTPUT: Final = 65_536  # bytes; a token has a few thousand
_CHUNK = 65_536
_LOOK = 0.01  # seconds
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9._-]{20,}=*")  # RFC 7519: begins with '{"' in base64url


async def access_token(command: Sequence[str], patience: float) -> str:
    """Run the command and give the token that it prints; raises DeliveryError, which quotes no token.

    It ends after `patience` seconds, and at once when this is cancelled, with all that it has started.
    """
    program = _Program(command)
    try:
        return await in_daemon_thread(lambda: program.run(patience))
    finally:
        program.end()


class _Program:
    """A run of a program, which another thread may end."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False

    def run(self, patience: float) -> str:
        """Run it, and give the token."""
        try:
            process = subprocess.Popen(  # noqa: S603 - the command is conf.yml's
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",  # wherever portspec was started
                start_new_session=True,  # a group, so that what it starts ends with it
            )
        except (OSError, ValueError) as error:
            why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
            raise self._failure(f"cannot be run: {why}") from None
        with self._lock:
            self._process = process
        try:
            output, errors = self._read(process, patience)
        finally:
            self._finish(process)
        return self._token(output, errors, process.returncode)

    def end(self) -> None:
        """Kill it, and what it has started; does nothing where it has ended."""
        with self._lock:
            self._is_over = True
            self._kill()

    def _kill(self) -> None:
        # While it is not waited for, the number stays that of its group.
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

    def _read(self, process: subprocess.Popen[bytes], patience: float) -> tuple[bytes, bytes]:
        """Read both of its outputs to their ends, and wait for that of the program."""
        until = time.monotonic() + patience
        output, errors = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)  # type: ignore[arg-type]
            selector.register(process.stderr, selectors.EVENT_READ, errors)  # type: ignore[arg-type]
            while selector.get_map():
                self._check(until, patience)
                for key, _ in selector.select(max(until - time.monotonic(), 0.0)):
                    if part := os.read(key.fd, _CHUNK):
                        key.data.extend(part)
                    else:
                        selector.unregister(key.fileobj)
                if len(output) > MAX_OUTPUT:
                    raise self._failure(f"prints more than {MAX_OUTPUT:,} bytes, expected an access token alone")
                del errors[MAX_OUTPUT:]
        # It may have closed both and go on.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            self._check(until, patience)
            time.sleep(_LOOK)
        return bytes(output), bytes(errors)

    def _check(self, until: float, patience: float) -> None:
        if self._is_over:
            raise self._failure("was not needed any more")
        if time.monotonic() >= until:
            raise self._failure(f"has not ended in {patience:g} s")

    def _token(self, output: bytes, errors: bytes, code: int) -> str:
        lines = output.decode("utf-8", "replace").split("\n")
        told = [line.strip() for line in lines if line.strip()]
        if code:
            end = f"exit status {code}" if code > 0 else f"killed by {_signal(-code)}"
            raise self._failure(f"failed ({end}){_first_line(errors, told)}")
        if not told:
            raise self._failure(f"prints nothing, expected an access token{_first_line(errors, told)}")
        if len(told) > 1:
            raise self._failure(f"prints {len(told)} lines, expected one with an access token alone")
        if not _TOKEN.fullmatch(told[0]):
            raise self._failure("prints what is no access token (RFC 6750), expected one alone; JSON needs jq -r")
        return told[0]

    def _failure(self, what: str) -> DeliveryError:
        return DeliveryError(DeliveryErrorReason.TOKEN, f"smtptokencommand {self._command[0]} {what}")


def _first_line(errors: bytes, secrets: Sequence[str]) -> str:
    """Give the first line of what it wrote on standard error, without what may be a token."""
    line = next((line for line in errors.decode("utf-8", "replace").splitlines() if line.strip()), "")
    for secret in secrets:
        line = line.replace(secret, "…")
    return f": {short(_JWT.sub('…', line))}" if line else ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
