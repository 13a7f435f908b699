"""Globs that a client sends: compiled for the request, and of bounded length."""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH: Final = 256  # characters; a host name has at most 253 (RFC 1035, 2.3.4)


def matcher(glob: str) -> Callable[[str], object]:
    """Return what is true of a text that a glob of at most MAX_LENGTH characters matches, as fnmatchcase().

    fnmatchcase() keeps 32,768 compiled globs of any length. re.compile() keeps 512, of at most 42 kB each for globs of
    this length. Each `*` is tried once: translate() writes atomic groups.
    """
    return re.compile(translate(glob)).match
