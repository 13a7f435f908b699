"""The report as a file: there whole, or as it was before."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def write_file(path: str, pieces: Iterable[bytes]) -> None:
    """Write a file beside `path` and put it in its place, with the mode of the one before.

    What is no file, such as a pipe, is written to. Raises OSError; the file is as it was then.
    """
    given = Path(path)
    if given.exists() and not given.is_file():  # /dev/stdout, a pipe
        with given.open("wb") as device:
            device.writelines(pieces)
        return
    place = Path(os.path.realpath(path))
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}.new")
    try:
        with new.open("xb") as file:
            file.writelines(pieces)
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), place.stat().st_mode & 0o7777)
        new.replace(place)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
