"""`portspec accept`: write into conf.yml that a deviation or a vulnerability is right."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portspec.cli.output import write
from portspec.cli.reload import reload_if_running
from portspec.config import load
from portspec.config.acceptance import AcceptanceError, edited
from portspec.config.proposal import Request, diff, read_request
from portspec.config.yaml_document import read_bytes
from portspec.errors import STANDARD_INPUT, PortspecError, UsageError
from portspec.files import require_regular
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
    file = os.path.realpath(path)
    if writes:
        _check_editable(path, file)
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
    if os.path.realpath(path) != file or read_bytes(Path(path)) != before:
        raise AcceptanceError(f"{path} was changed meanwhile; nothing is written. Run the command again")
    replace_file(file, after)
    write(f"{path} is written.\n")
    is_in_force, told = reload_if_running(environment, is_automatic=config.autoreload)
    write(told)
    return 0 if is_in_force else PortspecError.exit_code


def _check_editable(path: str, file: str) -> None:
    """Refuse a file that something else writes, or that cannot be replaced; `file` is where a link leads to."""
    hint = "--dry-run prints the diff"
    directory = os.path.dirname(file)  # noqa: PTH120 - as realpath
    places = {os.path.dirname(os.path.abspath(path)), directory, os.path.dirname(directory)}  # noqa: PTH100, PTH120 - the same
    if any(os.path.islink(os.path.join(place, "..data")) for place in places):  # noqa: PTH114, PTH118 - the same
        raise AcceptanceError(f"{path} is a file of a Kubernetes ConfigMap; change the ConfigMap ({hint})")
    try:
        require_regular(file)
        status = os.stat(file)  # noqa: PTH116 - the same
    except FileNotFoundError:
        return  # which load() tells
    except OSError as error:
        raise AcceptanceError(f"{path}: {error.strerror}") from None
    if os.geteuid() not in (0, status.st_uid):
        raise AcceptanceError(f"{path} belongs to another user; run the command as its owner, or as root ({hint})")
    if not os.access(directory, os.W_OK):
        raise AcceptanceError(f"{path} cannot be replaced: {directory} is not writable ({hint})")


def replace_file(path: str, data: bytes) -> None:
    """Replace a file as a whole or not at all; mode and owner stay. Raises AcceptanceError."""
    new = f"{path}.{secrets.token_hex(4)}.new"
    try:
        status = os.stat(path)  # noqa: PTH116 - as the others
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                os.fchmod(file.fileno(), status.st_mode & 0o7777)
                _copy_attributes(path, file.fileno())
                file.flush()
                os.fsync(file.fileno())
            os.rename(new, path)  # noqa: PTH104 - the same
        except BaseException:
            with suppress(OSError):
                os.unlink(new)  # noqa: PTH108 - the same
            raise
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise AcceptanceError(
                f"nothing is written: {path} is mounted as a single file, which cannot be replaced; change it where it "
                "is mounted from (--dry-run prints the diff)"
            ) from None
        raise AcceptanceError(f"nothing is written: {error.strerror or error}".lower()) from None


def _copy_attributes(path: str, descriptor: int) -> None:
    """Copy access control list and other attributes (xattr(7)); with an access control list the mode is its mask.

    Raises OSError if rights would be lost; labels of the system, which it sets by itself, may be.
    """
    for name in os.listxattr(path):
        try:
            os.setxattr(descriptor, name, os.getxattr(path, name))
        except OSError:
            if not name.startswith("security."):
                raise


def _is_confirmed(question: str, source: TextIO | None = None) -> bool:
    """Ask on the terminal. Raises UsageError where there is none."""
    source = source or sys.stdin
    if not source.isatty():
        raise UsageError("nothing is written: there is no terminal to ask on; give --yes, or --dry-run for the diff")
    write(question)
    return source.readline().strip().lower() in _YES
