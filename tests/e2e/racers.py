"""`portspec receive` as processes that begin at the same instant: forked, so that none is late by its interpreter."""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from threading import Barrier

PATIENCE: Final = 60.0  # seconds


def context() -> ForkServerContext:
    """Return what starts processes in which portspec is loaded already."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__, "portspec.cli.receive"])
    return found


def receive(conf: str, mail: bytes, start: Barrier) -> None:
    """Be `portspec receive -c conf` with a mail on standard input, once all have come to the start."""
    from portspec.cli import main

    file = os.memfd_create("mail")
    os.write(file, mail)
    os.lseek(file, 0, os.SEEK_SET)
    os.dup2(file, 0)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - multiprocessing has closed the one that was there
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    start.wait(PATIENCE)
    sys.exit(main(["receive", "-c", conf]))
