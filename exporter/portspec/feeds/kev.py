"""CISA's catalogue of known exploited vulnerabilities (KEV), as JSON.

https://www.cisa.gov/known-exploited-vulnerabilities-catalog; its schema is published beside it. The catalogue had some
1,500 entries and 1.4 MB in 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from portspec.feeds.cve import is_cve
from portspec.feeds.errors import FeedError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ENTRIES: Final = 100_000
MAX_SIZE: Final = 4 << 20  # bytes: while it is decoded no other thread runs


class _Entry(msgspec.Struct):
    cveID: str  # noqa: N815 - the schema's
    dateAdded: str  # noqa: N815
    knownRansomwareCampaignUse: str = ""  # noqa: N815


class _Catalogue(msgspec.Struct):
    dateReleased: datetime  # noqa: N815
    count: int
    vulnerabilities: list[_Entry]


_DECODER: Final = msgspec.json.Decoder(_Catalogue)


@dataclass(frozen=True, slots=True)
class KevEntry:
    """A vulnerability that is exploited: since when the catalogue has it, and whether by ransomware."""

    added: date
    is_ransomware: bool

    @property
    def added_at(self) -> float:
        """The beginning of the day on which it was added, in Unix seconds."""
        return datetime.combine(self.added, time(), UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Kev:
    """The catalogue: when it was released, a Unix time, and its entries by CVE."""

    at: float
    entries: Mapping[str, KevEntry]

    def __len__(self) -> int:
        return len(self.entries)


def read_kev(text: bytes) -> Kev:
    """Read the catalogue. Raises FeedError if it is none, if it is cut off, or if an entry makes no sense."""
    if len(text) > MAX_SIZE:
        raise FeedError(f"is larger than {MAX_SIZE >> 20} MiB when it is unpacked")
    try:
        catalogue = _DECODER.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FeedError(f"is not CISA's catalogue of exploited vulnerabilities in JSON: {error}") from None
    if catalogue.dateReleased.tzinfo is None:
        raise FeedError("has a dateReleased without a time zone")
    if not catalogue.vulnerabilities or len(catalogue.vulnerabilities) != catalogue.count:
        found = len(catalogue.vulnerabilities)
        raise FeedError(f"has {found:,} entries, and by its own count {catalogue.count:,}")
    if catalogue.count > MAX_ENTRIES:
        raise FeedError(f"has more than {MAX_ENTRIES:,} entries")
    last_day = _last_day(catalogue.dateReleased)
    entries: dict[str, KevEntry] = {}
    for number, item in enumerate(catalogue.vulnerabilities, 1):
        try:
            added = date.fromisoformat(item.dateAdded)
        except ValueError:
            raise FeedError(f"has no date in dateAdded of entry {number:,}") from None
        if added > last_day:  # which would put off its deadlines
            raise FeedError(f"has a dateAdded in entry {number:,} that is later than its dateReleased")
        if not is_cve(item.cveID):
            raise FeedError(f"has no CVE in cveID of entry {number:,}")
        entries[item.cveID] = KevEntry(added, item.knownRansomwareCampaignUse == "Known")
    return Kev(catalogue.dateReleased.timestamp(), MappingProxyType(entries))


def _last_day(released: datetime) -> date:
    """Return the last day that an entry may have been added on, in any time zone. Raises FeedError."""
    try:
        return released.astimezone(UTC).date() + timedelta(days=1)
    except OverflowError:
        raise FeedError("has a dateReleased that is no time of this age") from None
