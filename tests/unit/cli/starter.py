"""Starts portspec by fork(2) in a process that has imported it, which spares the imports: most of the time of a start.

The program is as `python -m portspec` makes it: a process of its own with the streams, the directory and the arguments
that it is given, which runs `main` and ends as Python ends. Only what Python and libraries read as they start, such as
PYTHONPATH and OPENBLAS_NUM_THREADS, cannot be given to it, nor a umask or ignored signals. `Starter` is for the tests;
run as a program, this file is that process.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_IMPORTED: Final = (
    "portspec.app.process",
    "portspec.cli.check",
    "portspec.cli.learn",
    "portspec.cli.report",
    "portspec.cli.scan",
    "portspec.scan.syn.engine",
    "rich.progress",
    "rich.table",
)
_LONGEST: Final = 65536  # bytes of a request


class Program:
    """A program that was started, with what subprocess.Popen has of the same names."""

    def __init__(self, status: socket.socket, out: int, err: int) -> None:
        self._status = status
        self.pid = int(status.recv(_LONGEST))
        self.returncode: int | None = None
        self.stdout = open(out, encoding="utf-8")  # noqa: SIM115 - closed by whoever reads it
        self.stderr = open(err, encoding="utf-8")  # noqa: SIM115

    def poll(self) -> int | None:
        """Return the exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, no longer than some seconds (else subprocess.TimeoutExpired); return what poll() gives."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("portspec", timeout or 0.0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._status.recv(_LONGEST))
            self._status.close()
        return self.returncode


class Starter:
    """Starts programs; the process that they are forked from begins with the first of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, arguments: Sequence[str], cwd: Path | None = None, extra: Mapping[str, str] | None = None
    ) -> Program:
        """Start portspec with arguments and further environment, nothing as its input, and pipes for its output."""
        if self._process is None:
            self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with control:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", __file__, str(control.fileno())],
                    env={**self._environment, "OPENBLAS_NUM_THREADS": "1"},
                    pass_fds=[control.fileno()],
                    stdin=subprocess.DEVNULL,
                )
        own_status, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        with status:
            given = array.array("i", [its_out, its_err, status.fileno()])
            request = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "extra": dict(extra or {})}
            self._control.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, given)])
        os.close(its_out)
        os.close(its_err)
        return Program(own_status, out, err)

    def end(self) -> None:
        """End the process that programs are forked from."""
        if self._process is not None:
            self._control.close()
            self._process.wait()
            self._process = None


def _main() -> int:
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        request, given, _, _ = socket.recv_fds(control, _LONGEST, 3)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # those that watched programs that have ended
        if not request:
            return 0
        if os.fork() == 0:
            control.close()
            return _watch(given, **json.loads(request))
        for descriptor in given:
            os.close(descriptor)


def _watch(given: list[int], arguments: list[str], cwd: str, extra: dict[str, str]) -> int:
    """Fork the program and tell its number and its exit code; gives that in the program itself."""
    out, err, told = given
    status = socket.socket(fileno=told)
    pid = os.fork()
    if pid == 0:
        status.close()
        del os.environ["OPENBLAS_NUM_THREADS"]
        os.environ.update(extra)
        os.chdir(cwd)
        return _run(out, err, arguments)
    os.close(out)
    os.close(err)
    status.send(str(pid).encode())
    _, code = os.waitpid(pid, 0)
    status.send(str(os.waitstatus_to_exitcode(code)).encode())
    os._exit(0)


def _run(out: int, err: int, arguments: list[str]) -> int:
    from portspec.__main__ import main

    for number, descriptor in {1: out, 2: err}.items():
        os.dup2(descriptor, number)
        os.close(descriptor)
    # Anew, for those that Python made are of another file; as it makes them in the locale C.UTF-8.
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["portspec", *arguments]
    return main()


if __name__ == "__main__":
    sys.exit(_main())
