"""The errors that portspec raises for what its users did or what their machine refuses; each becomes one clear line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class PortspecError(Exception):
    """Base of all. The command line prints str(error) and leaves with exit_code; no traceback."""

    exit_code = 2


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in a configuration file: where (line from 1, 0 = the file as a whole), which key, what."""

    line: int
    key: str
    message: str


STANDARD_INPUT = "-"  # in the place of the path of a configuration


def spell_source(path: str) -> str:
    """Return how messages name the file of a configuration."""
    return "standard input" if path == STANDARD_INPUT else path


class ConfigError(PortspecError):
    """A configuration that cannot be used; `problems` holds every one that was found, by line."""

    def __init__(self, path: str, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """Return one line a problem, in the form `conf.yml:14: hosts."db1".expect: message`."""
        name = spell_source(self.path)
        return [
            printable(": ".join(filter(None, (f"{name}:{p.line}" if p.line else name, p.key, p.message))))
            for p in self.problems
        ]


def printable(line: str) -> str:
    """Escape what would break the line, move the cursor, change the direction of writing or not be seen.

    A message quotes what others wrote.
    """
    if is_printable(line):
        return line
    return "".join(c if is_printable(c) else c.encode("unicode_escape").decode() for c in line)


def is_printable(line: str) -> bool:
    """Return whether printable() leaves a text as it is."""
    return line.isprintable() and (line.isascii() or not _UNSEEN.search(line))


# What nobody sees and Python takes for printable all the same: the letters and marks among the code points that
# Unicode calls Default_Ignorable, and the empty pattern of Braille.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def why(error: OSError) -> str:
    """Say what the system says of an error in lower case, and of which file where the error knows one."""
    text = error.strerror.lower() if error.strerror else str(error)
    return text if error.filename is None else f"{printable(os.fsdecode(error.filename))}: {text}"


def shorten(text: str) -> str:
    """Cut a quoted text to a length that fits a line."""
    return text if len(text) <= 80 else f"{text[:80]}…"  # noqa: PLR2004 - a terminal's width


class ListenError(PortspecError):
    """An address that the web server cannot listen on."""

    def __init__(self, address: str, why: str) -> None:
        self.address = address
        self.why = why
        super().__init__(f"cannot listen on {address}: {why}; choose another address with --web.listen-address")


class EngineError(PortspecError):
    """The SYN engine was asked for and cannot run here; `lacks_right` if that is for want of CAP_NET_RAW."""

    def __init__(self, why: str, *, lacks_right: bool) -> None:
        self.why = why
        how = (
            "it needs the right to use raw sockets: run as root, or `setcap cap_net_raw=ep` a private copy of the "
            "Python interpreter, or set AmbientCapabilities=CAP_NET_RAW in the systemd unit, --cap-add NET_RAW for "
            "Docker, securityContext.capabilities.add: [NET_RAW] for Kubernetes (see docs/deployment/raw-sockets.md); "
        )
        super().__init__(
            f"the syn engine cannot run: {why}; {how if lacks_right else ''}`engine: auto` and `engine: connect` do "
            "without"
        )


class NoThreadError(PortspecError, RuntimeError):
    """The system lets this process have no other thread now."""

    def __init__(self) -> None:
        super().__init__(
            "no thread can be started: raise TasksMax= of the systemd unit, the pids limit of the container, or the "
            "user's limit of processes (ulimit -u)"
        )


class EngineStoppedError(PortspecError):
    """The thread of an engine has ended unexpectedly; it accepts jobs again once restart() was called."""

    def __init__(self, engine: str, cause: BaseException) -> None:
        self.engine = engine
        super().__init__(f"the thread of the {engine} engine has ended unexpectedly: {described(cause)}")


class PartFailedError(PortspecError):
    """A part of the exporter that fails again and again, and without which the exporter is of no use."""

    exit_code = 70  # sysexits(3), EX_SOFTWARE: a service manager starts the exporter again

    def __init__(self, part: str, failures: int, cause: BaseException) -> None:
        self.part = part
        super().__init__(
            f"the part {part} failed {failures} times in a row, the last time with: {described(cause)}; portspec ends, "
            "so that the service manager starts it again"
        )


def described(error: BaseException) -> str:
    """Return the kind of an error and what it says, in one line; of a group the first one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return printable(shorten(f"{type(error).__name__}: {error}".removesuffix(": ")))


class OutputError(PortspecError):
    """A result that could not be written: a full disk, a closed pipe."""

    def __init__(self, error: OSError) -> None:
        self.is_broken_pipe = isinstance(error, BrokenPipeError)
        super().__init__(f"cannot write the result: {(error.strerror or str(error)).lower()}")


class UsageError(PortspecError):
    """A command line that parses but makes no sense, such as a host that the configuration does not have."""
