"""Runs programs on the scanner's side without starting Python for each: a fork server.

To import what a scan needs takes half a second of a processor, more than most scans. This process imports it once, and
forks for each program. What a program gets is as if it had been started: standard streams, arguments and exit code of
its own, and the interpreter's own end.

Standard input: JSON lines such as {"program": "portspec", "arguments": [...], "input": TEXT, "timeout": SECONDS}, where
the program is one of `PROGRAMS`. Each is answered by {"code": N, "stdout": TEXT, "stderr": TEXT} when it has ended, or
by {"timeout": SECONDS} after it was killed for having taken longer. The code of a program that a signal ended is the
negative number of that signal.
"""

from __future__ import annotations

import gc
import http.client
import json
import os
import select
import signal
import sys
from contextlib import closing
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TextIO

from portspec import __main__ as portspec
from tests.lab import observe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Imported late by `portspec scan`, by some of its ways at least.
_LATE: Final = ("portspec.cli.scan", "encodings.idna", "encodings.utf_8_sig", "numpy.ma", "structlog.dev")


def _get() -> int:
    """Print what HTTP gives for the address (HOST:PORT) and the path that are the arguments."""
    with closing(http.client.HTTPConnection(sys.argv[1], timeout=10)) as connection:
        connection.request("GET", sys.argv[2])
        sys.stdout.write(connection.getresponse().read().decode())
    return 0


#: What can be run: `python -m portspec`, observe.py, and a client of HTTP.
PROGRAMS: Final[Mapping[str, Callable[[], int | None]]] = {
    "portspec": portspec.main,
    "observe": observe.main,
    "get": _get,
}


def _memory_file(content: str = "") -> int:
    file = os.memfd_create("stream")
    os.write(file, content.encode())
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _content(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with os.fdopen(file, encoding="utf-8") as text:
        return text.read()


def _wait(pid: int, seconds: float) -> int | None:
    """Wait for the end of a child; returns its code, or None after it was killed for having taken longer."""
    descriptor = os.pidfd_open(pid)
    try:
        is_over = bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
    if not is_over:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if is_over else None


def _serve(commands: TextIO, answers: TextIO) -> Callable[[], int | None] | None:
    """Run what is asked for until the commands end. In the child it gives the program, to be called by who called."""
    for line in commands:
        command: dict[str, Any] = json.loads(line)
        streams = (_memory_file(command["input"]), _memory_file(), _memory_file())
        pid = os.fork()
        if not pid:
            commands.close()
            answers.close()
            for number, file in enumerate(streams):
                os.dup2(file, number)
                os.close(file)
            sys.argv = [command["program"], *command["arguments"]]
            return PROGRAMS[command["program"]]
        code = _wait(pid, command["timeout"])
        os.close(streams[0])
        said = {"code": code, "stdout": _content(streams[1]), "stderr": _content(streams[2])}
        answers.write(json.dumps(said if code is not None else {"timeout": command["timeout"]}) + "\n")
        answers.flush()
    return None


def main() -> int | None:
    """Serve; in a child, be the program."""
    for name in _LATE:
        import_module(name)
    # Children neither look through, nor copy, what they all share.
    gc.collect()
    gc.freeze()
    program = _serve(os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w"))
    return program() if program else 0


if __name__ == "__main__":
    sys.exit(main())
