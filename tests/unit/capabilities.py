"""Capabilities (capabilities(7)): what a process has, and how to start a program that has fewer."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from tests.requirements import forbidden, missing

SETPCAP: Final = 8  # linux/capability.h
NET_RAW: Final = 13

#: Options of setpriv(1) for a program of root's: with nothing, as `docker run --cap-drop ALL --cap-add NET_RAW` and
#: as a systemd unit of an ordinary user with AmbientCapabilities=CAP_NET_RAW start it.
NOTHING: Final = ("--bounding-set=-all", "--inh-caps=-all")
AS_DOCKER: Final = ("--bounding-set=-all,+net_raw", "--inh-caps=-all")
AS_SYSTEMD: Final = (
    "--securebits=+noroot",
    "--bounding-set=-all,+net_raw",
    "--inh-caps=+net_raw",
    "--ambient-caps=+net_raw",
)
ALL_BUT_SETPCAP: Final = ("--bounding-set=-setpcap", "--inh-caps=-all")


def fields(status: str) -> dict[str, int]:
    """Read CapInh, CapPrm, CapEff, CapBnd and CapAmb, as bits, and NoNewPrivs from a /proc/PID/status."""
    lines = (line.split(":") for line in status.splitlines())
    return {name: int(value, 16) for name, value, *_ in lines if name.startswith("Cap") or name == "NoNewPrivs"}


def of_threads(pid: int) -> list[dict[str, int]]:
    """Return these fields of every thread of a process."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found.append(fields(path.read_text(encoding="utf-8")))
    return found


def _own() -> int:
    return fields(Path("/proc/self/status").read_text(encoding="utf-8"))["CapEff"]


def need_raw_sockets() -> None:
    """Leave a test to those who may open raw sockets."""
    if not _own() >> NET_RAW & 1:
        forbidden("only who has CAP_NET_RAW, such as root, may open raw sockets")


def setpriv(*options: str) -> list[str]:
    """Return the beginning of a command that starts a program with other capabilities than root's."""
    if os.geteuid() or not _own() >> SETPCAP & 1:
        forbidden("only root may start programs with some capabilities of its own")
    tool = shutil.which("setpriv")
    if tool is None:
        missing("setpriv (util-linux) is not installed")
    return [tool, *options]


def unprivileged() -> list[str]:
    """Return the beginning of a command that starts a program without any capability."""
    return setpriv(*NOTHING) if _own() else []
