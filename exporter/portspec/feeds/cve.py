"""Names of the form CVE-2026-12345, and a number for each, by which hundreds of thousands fit into an array."""

from __future__ import annotations

import re
from typing import Final

_CVE: Final = re.compile(r"CVE-([0-9]{4})-([0-9]{4,15})")  # up to 19 by the schema of KEV; 15 fit
_DIGITS: Final = 10**15


def is_cve(text: str) -> bool:
    """Return whether a text is the name of a CVE."""
    return _CVE.fullmatch(text) is not None


def number_of(text: str) -> int | None:
    """Return the number of a CVE, of 64 bits; None for what is none. No two have the same."""
    found = _CVE.fullmatch(text)
    if found is None or (found[2][0] == "0" and len(found[2]) > 4):  # noqa: PLR2004 - digits that every CVE has
        return None
    return int(found[1]) * _DIGITS + int(found[2])
