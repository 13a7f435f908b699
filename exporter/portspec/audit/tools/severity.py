"""How bad a vulnerability is: the tools' words and scores → Severity."""

from __future__ import annotations

from typing import Final

from portspec.audit.model import Severity

_WORDS: Final = {
    "critical": Severity.CRITICAL,
    "high": Severity.HIGH,
    "important": Severity.HIGH,  # Red Hat's
    "medium": Severity.MEDIUM,
    "moderate": Severity.MEDIUM,  # GitHub's and Red Hat's
    "low": Severity.LOW,
    "negligible": Severity.NEGLIGIBLE,
}
_BANDS: Final = ((9.0, Severity.CRITICAL), (7.0, Severity.HIGH), (4.0, Severity.MEDIUM))
_HIGHEST: Final = 10.0
_LONGEST: Final = 8  # characters of a score


def of_word(word: str) -> Severity:
    """Give the severity that a word stands for, in capitals or not; unknown for any other word."""
    return _WORDS.get(word.strip().lower(), Severity.UNKNOWN)


def of_score(text: str) -> Severity:
    """Give the severity of a CVSS base score such as "8.6" (CVSS 3.1, section 5); unknown for what is none."""
    if len(text) > _LONGEST or not text.isascii() or not text.replace(".", "", 1).isdigit():
        return Severity.UNKNOWN
    score = float(text)
    if not 0 < score <= _HIGHEST:
        return Severity.UNKNOWN
    return next((severity for least, severity in _BANDS if score >= least), Severity.LOW)
