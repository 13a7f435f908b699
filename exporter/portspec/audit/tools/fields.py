"""Values that several tools print in the same form: times, severities, names of packages, references."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from portspec.audit.model import CVE, Severity

_MAX_TIMESTAMP_LENGTH: Final = 64  # characters
_VALID_YEARS: Final = range(1990, 9999)  # others mean "unknown" or "never": Go's zero time is in the year 1
_MONTHS: Final = {
    name: number
    for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)  # noqa: SIM905 - reads
}
_WORDS_OF_DATE: Final = 6  # Fri Jun 23 12:19:35 UTC 2023

_SEVERITIES: Final = {
    "critical": Severity.CRITICAL,
    "high": Severity.HIGH,
    "important": Severity.HIGH,  # Red Hat
    "medium": Severity.MEDIUM,
    "moderate": Severity.MEDIUM,  # GitHub and Red Hat
    "low": Severity.LOW,
    "negligible": Severity.NEGLIGIBLE,
}
_CVSS_BANDS: Final = ((9.0, Severity.CRITICAL), (7.0, Severity.HIGH), (4.0, Severity.MEDIUM))
_MAX_CVSS_SCORE: Final = 10.0
_MAX_SCORE_LENGTH: Final = 8  # characters

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_MAX_NAME_LENGTH: Final = 500  # characters of a package name or a URL


def parse_timestamp(text: str) -> float | None:
    """Return the Unix time of an RFC 3339 timestamp, or of the output of date(1) in the C locale; None for other text.

    The time zone abbreviation of date(1) is ignored, because abbreviations are ambiguous. The result is then off by at
    most 14 hours, which does not matter: timestamps only serve to tell the age of a database in days.
    """
    if len(text) > _MAX_TIMESTAMP_LENGTH or not text.isascii():
        return None
    words = text.split()
    if len(words) == _WORDS_OF_DATE:
        _, month, day, clock, _, year = words
        text = f"{year}-{_MONTHS.get(month, 0):02}-{day:>02}T{clock}"
    try:
        time = datetime.fromisoformat(text.strip())
        if time.year not in _VALID_YEARS:
            return None
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def severity_of_word(word: str) -> Severity:
    """Return the severity that a word such as "Important" means, in any case; unknown for any other word."""
    return _SEVERITIES.get(word.strip().lower(), Severity.UNKNOWN)


def severity_of_score(text: str) -> Severity:
    """Return the severity of a CVSS base score such as "8.6" (CVSS 3.1, section 5); unknown for any other text."""
    if len(text) > _MAX_SCORE_LENGTH or not text.isascii() or not text.replace(".", "", 1).isdigit():
        return Severity.UNKNOWN
    score = float(text)
    if not 0 < score <= _MAX_CVSS_SCORE:
        return Severity.UNKNOWN
    return next((severity for lowest, severity in _CVSS_BANDS if score >= lowest), Severity.LOW)


def split_name_version(text: str) -> tuple[str, str]:
    """Split name-version at the last hyphen, as pkg(8) and pkgsrc do; the version is "" without a hyphen."""
    name, hyphen, version = text.rpartition("-")
    return (name, version) if hyphen else (text, "")


def is_name_version(text: str) -> bool:
    """Return whether a line may be a name-version, as printed with -q: one word, with a digit in the version."""
    name, version = split_name_version(text)
    return bool(
        name
        and len(text) <= _MAX_NAME_LENGTH
        and not any(character.isspace() for character in text)
        and any(character.isdigit() for character in version)
        and not text.endswith((":", "."))
    )


def find_cves(url: str) -> list[str]:
    """Return the CVEs that a URL contains."""
    return CVE.findall(url[:_MAX_NAME_LENGTH])


def find_vuxml_ids(url: str) -> list[str]:
    """Return the ids of VuXML entries that a URL contains. An entry is an advisory, which may cover several CVEs."""
    return [found.lower() for found in _UUID.findall(url[:_MAX_NAME_LENGTH])]
