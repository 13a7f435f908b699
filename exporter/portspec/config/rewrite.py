"""Replace conf.yml on the disk: as a whole or not at all, and only if nobody else has changed it."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from portspec.config.acceptance import AcceptanceError
from portspec.config.yaml_document import read_bytes
from portspec.files import require_regular


class ChangedError(AcceptanceError):
    """Somebody else has changed the file meanwhile."""


def editable_file(path: str) -> str:
    """Return the file that a path leads to; AcceptanceError if something else writes it, or it cannot be replaced."""
    file = os.path.realpath(path)
    hint = "--dry-run prints the diff"
    directory = os.path.dirname(file)  # noqa: PTH120 - as realpath
    places = {os.path.dirname(os.path.abspath(path)), directory, os.path.dirname(directory)}  # noqa: PTH100, PTH120 - the same
    if any(os.path.islink(os.path.join(place, "..data")) for place in places):  # noqa: PTH114, PTH118 - the same
        raise AcceptanceError(f"{path} is a file of a Kubernetes ConfigMap; change the ConfigMap ({hint})")
    try:
        require_regular(file)
        status = os.stat(file)  # noqa: PTH116 - the same
    except FileNotFoundError:
        return file  # which load() tells
    except OSError as error:
        raise AcceptanceError(f"{path}: {error.strerror}") from None
    if os.geteuid() not in (0, status.st_uid):
        raise AcceptanceError(
            f"{path} belongs to another user; run `portspec accept` as its owner, or as root ({hint})"
        )
    if not os.access(directory, os.W_OK):
        raise AcceptanceError(f"{path} cannot be replaced: {directory} is not writable ({hint})")
    return file


def rewrite(path: str, file: str, before: bytes, after: bytes) -> None:
    """Replace what is at a path, which led to `file` and had the content `before`.

    Raises ChangedError if either is no longer so, and AcceptanceError; nothing is written then.
    """
    if os.path.realpath(path) != file or read_bytes(Path(path)) != before:
        raise ChangedError(f"{path} was changed meanwhile; nothing is written. Look at the change again")
    replace_file(file, after)


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
