"""`portspec accept`: write into conf.yml that a deviation or a vulnerability is right."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portspec.cli.output import write
from portspec.cli.reload import reload_if_running
from portspec.config import load
from portspec.config.acceptance import edited
from portspec.config.proposal import Request, diff, read_request
from portspec.config.rewrite import editable_file, rewrite
from portspec.config.yaml_document import read_bytes
from portspec.errors import STANDARD_INPUT, PortspecError, UsageError
from portspec.inventory import select, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

_YES: Final = ("y", "yes")


def accept(
    path: str,
    request: Request,
    *,
    asks: bool = True,
    writes: bool = True,
    environment: Mapping[str, str] = os.environ,
    now: Callable[[], float] = time.time,
) -> int:
    """Show how conf.yml changes, and write it once that is confirmed; 0 if it is written, 1 if it is not.

    Raises PortspecError; nothing is written then. `environment` serves ${NAME} in the file.
    """
    if path == STANDARD_INPUT:
        raise UsageError("standard input cannot be edited; name the configuration file with -c FILE")
    acceptance = read_request(request, now())
    file = editable_file(path) if writes else path
    before = read_bytes(Path(path))
    config = load(path, environment, data=before)
    try:
        select(targets(config), [request.host])
    except UsageError:
        if not config.discovery:  # of a host that nobody scans there is nothing to accept
            raise
        write(f"{request.host} is not in {path}; this holds for a host that is discovered by that name.\n")
    after = edited(path, before, acceptance, environment)
    if after == before:
        write(f"{path} has this already.\n")
        return 0
    write(diff(path, before, after))
    if not writes:
        return 0
    if asks and not _is_confirmed(f"Write this to {path}? [y/N] "):
        write("nothing is written.\n")
        return 1
    rewrite(path, file, before, after)
    write(f"{path} is written.\n")
    is_in_force, told = reload_if_running(environment, is_automatic=config.autoreload)
    write(told)
    return 0 if is_in_force else PortspecError.exit_code


def _is_confirmed(question: str, source: TextIO | None = None) -> bool:
    """Ask on the terminal. Raises UsageError where there is none."""
    source = source or sys.stdin
    if not source.isatty():
        raise UsageError("nothing is written: there is no terminal to ask on; give --yes, or --dry-run for the diff")
    write(question)
    return source.readline().strip().lower() in _YES
