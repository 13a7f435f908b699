"""The commands: `python -m portspec` as a process of its own, as users start it, or its main() in this process."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self
from unittest import mock
from urllib.parse import urlsplit

from portspec.cli import main
from portspec.scan.syn import privileges
from tests.unit.cli.hermetic.sitecustomize import getaddrinfo
from tests.unit.cli.starter import Starter
from tests.unit.factories import process_restored
from tests.unit.scan.loopback import PATIENCE, eventually

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from tests.unit.cli.starter import Program

PROGRAM: Final = [sys.executable, "-m", "portspec"]
#: The same as if its interpreter had `setcap cap_net_raw=p`; to be started by root in the repository.
ONLY_PERMITTED: Final = [sys.executable, "-m", "tests.unit.privileges_child", "portspec"]
STOP_LIMIT: Final = PATIENCE  # seconds in which a signal must end the program; less than any scan or page would take


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without name servers, and without what the developer's own says of colours or Python."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PYTHONPATH": str(Path(__file__).with_name("hermetic")),
        **(extra or {}),
    }


@dataclass(frozen=True, slots=True)
class Done:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


def run(
    *arguments: str,
    cwd: Path | None = None,
    extra: Mapping[str, str] | None = None,
    program: Sequence[str] | None = None,
) -> Done:
    """Run a command to its end, with pipes for its output.

    Without `program` it is forked, see `starter`.
    """
    if program is None:
        return _forked(arguments, cwd, extra)
    done = subprocess.run(
        [*program, *arguments],
        cwd=cwd,
        env=environment(extra),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60.0,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


#: Starts the programs of these tests; the fixture of conftest.py ends it.
STARTER: Final = Starter(environment())


def _forked(arguments: Sequence[str], cwd: Path | None, extra: Mapping[str, str] | None) -> Done:
    process = STARTER.start(arguments, cwd, extra)
    try:
        with process.stdout, process.stderr, ThreadPoolExecutor(1) as reader:
            err = reader.submit(process.stderr.read)
            out = process.stdout.read()
            return Done(process.wait(60.0), out, err.result())
    finally:
        process.kill()


def call(*arguments: str, cwd: Path | None = None, extra: Mapping[str, str] | None = None, stdin: bytes = b"") -> Done:
    """Run a command to its end in this process, which spares nine tenths of the time: the start of the program.

    Not for a command that scans or serves, since that gives up the capabilities of its process.
    """
    held = privileges.permitted()
    with (
        mock.patch.dict(os.environ, environment(extra), clear=True),
        mock.patch("socket.getaddrinfo", getaddrinfo),
        contextlib.chdir(cwd or Path.cwd()),
        process_restored(),
        _standard_streams(stdin) as (out, err),
    ):
        try:
            code = main(arguments)
        except SystemExit as end:  # argparse has printed a help or an error
            code = int(end.code or 0)
        assert privileges.permitted() == held
        sys.stdout.flush()
        sys.stderr.flush()
        return Done(code, _content(out), _content(err))


@contextlib.contextmanager
def _standard_streams(stdin: bytes) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Put files in the places of the standard streams and of their descriptors; give those of output and errors."""
    with contextlib.ExitStack() as undo:
        files = []
        for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
            file = undo.enter_context(tempfile.TemporaryFile())
            file.write(stdin if mode == "r" else b"")
            file.seek(0)
            kept = os.dup(number)
            undo.callback(os.close, kept)
            undo.callback(os.dup2, kept, number)
            os.dup2(file.fileno(), number)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - of a descriptor
            undo.callback(stream.close)
            undo.enter_context(mock.patch.object(sys, name, stream))
            files.append(file)
        _, out, err = files
        yield out, err


def _content(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


def run_on_terminal(*arguments: str, out: bool = False, err: bool = False) -> Done:
    """Run a command with a terminal as its output, its error output, or both; the others are pipes."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=slave if out else subprocess.PIPE,
        stderr=slave if err else subprocess.PIPE,
    )
    os.close(slave)
    shown = _drain(master)
    try:
        piped_out, piped_err = process.communicate(timeout=60.0)
    finally:
        process.kill()
        process.communicate()
    terminal = shown()
    return Done(process.returncode, terminal if out else piped_out.decode(), terminal if err else piped_err.decode())


class _Drain(threading.Thread):
    """Reads a terminal to its end, so that its writer never waits."""

    def __init__(self, master: int) -> None:
        super().__init__(daemon=True)
        self._master = master
        self._seen: list[bytes] = []
        self.start()

    def run(self) -> None:
        """Read until the other end is closed, which Linux tells by EIO."""
        try:
            while part := os.read(self._master, 65536):
                self._seen.append(part)
        except OSError:
            pass
        finally:
            os.close(self._master)

    def __call__(self) -> str:
        """Return all that was shown."""
        self.join(PATIENCE)
        return b"".join(self._seen).decode()


_drain = _Drain


class Server:
    """`portspec serve -j` on a free port of loopback, killed at the end of the test.

    Without `program` it is forked, see `starter`.
    """

    def __init__(
        self,
        conf: Path,
        *arguments: str,
        command: Sequence[str] = ("serve",),
        program: Sequence[str] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        argv = [*command, "-j", "-c", str(conf), "--web.listen-address", "127.0.0.1:0", *arguments]
        self.process: Program | subprocess.Popen[str]
        if program is None:
            self.process = STARTER.start(argv, extra=extra)
        else:
            self.process = subprocess.Popen(
                [*program, *argv],
                env=environment(extra),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self.log: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        try:
            self.wait_for("listening")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()

    def _read(self) -> None:
        assert self.process.stdout
        self.log.extend(json.loads(line) for line in iter(self.process.stdout.readline, ""))

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of an event."""
        return [entry for entry in list(self.log) if entry["event"] == name]

    def wait_for(self, event: str) -> dict[str, Any]:
        """Wait for a log line; return the first of that event."""
        eventually(lambda: bool(self.events(event)) or self.process.poll() is not None, event)
        assert self.events(event), f"ended without {event}: {self.log}"
        return self.events(event)[0]

    def get(self, path: str) -> tuple[int, str]:
        """Fetch a path; gives status and text."""
        address = urlsplit(self.wait_for("listening")["url"])
        assert address.hostname
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def stop(self, number: signal.Signals) -> int:
        """Send a signal; return the exit code. It is an error if the program has not ended in STOP_LIMIT seconds."""
        self.process.send_signal(number)
        return self.process.wait(timeout=STOP_LIMIT)
