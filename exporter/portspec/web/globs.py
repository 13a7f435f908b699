"""Globs that a client sends: compiled for the request, and of bounded length."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH: Final = 256  # characters; a host name has at most 253 (RFC 1035, 2.3.4)


def matcher(glob: str) -> Callable[[str], object]:
    """Return what is true of a text that the glob matches, as fnmatchcase(); it tries each `*` once.

    fnmatchcase() itself keeps 32,768 compiled globs for the life of the process. Raises ValueError if the glob is too
    long.
    """
    if len(glob) > MAX_LENGTH:
        raise ValueError(f"has {len(glob):,} characters (expected at most {MAX_LENGTH})")
    return re.compile(translate(glob)).match
