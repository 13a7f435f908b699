"""Both lists, looked up by all the names of a vulnerability; and how either is read from bytes."""

from __future__ import annotations

import enum
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portspec.feeds.epss import Epss, read_epss
from portspec.feeds.errors import FeedError
from portspec.feeds.kev import Kev, KevEntry, read_kev

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PACKED: Final = 16 << 20  # bytes of a file or an answer: EPSS has 2.5 MB with gzip, KEV 1.4 MB without
MAX_UNPACKED: Final = 64 << 20
_GZIP: Final = b"\x1f\x8b"  # RFC 1952, 2.3.1
_CHUNK: Final = 1 << 20
_BEGIN: Final = 1000  # bytes in which HTML begins


class FeedName(enum.StrEnum):
    """The lists that portspec reads."""

    KEV = "kev"
    EPSS = "epss"


@dataclass(frozen=True, slots=True)
class Feeds:
    """The lists that are known; None is one that is not configured, or was never read."""

    kev: Kev | None = None
    epss: Epss | None = None

    def __bool__(self) -> bool:
        return self.kev is not None or self.epss is not None

    def known(self, name: FeedName) -> Kev | Epss | None:
        """Return a list; None if it is not known."""
        return self.kev if name is FeedName.KEV else self.epss

    def having(self, found: Kev | Epss) -> Feeds:
        """Return the lists with one of them replaced."""
        return Feeds(found, self.epss) if isinstance(found, Kev) else Feeds(self.kev, found)

    def only(self, names: Iterable[FeedName]) -> Feeds:
        """Return some of the lists; this object if no other one is known."""
        kept = set(names)
        if all(name in kept or self.known(name) is None for name in FeedName):
            return self
        return Feeds(self.kev if FeedName.KEV in kept else None, self.epss if FeedName.EPSS in kept else None)

    def exploited(self, names: Iterable[str]) -> KevEntry | None:
        """Return the entry of a vulnerability that is exploited, by any of its names; of several the first."""
        if self.kev is None:
            return None
        entries = self.kev.entries
        return next((entries[name] for name in names if name in entries), None)

    def score(self, names: Iterable[str]) -> float | None:
        """Return the highest score of a vulnerability, by any of its names; None if there is none."""
        if self.epss is None:
            return None
        return max((found for name in names if (found := self.epss.score(name)) is not None), default=None)


NO_FEEDS: Final = Feeds()


def unpacked(data: bytes) -> bytes:
    """Return the text of a list, which may be compressed with gzip. Raises FeedError if it is cut off or too large."""
    if len(data) > MAX_PACKED:
        raise FeedError(f"is larger than {MAX_PACKED >> 20} MiB")
    if not data.startswith(_GZIP):
        return data
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
    chunks: list[bytes] = []
    size = 0
    try:
        while data and not decompressor.eof:
            chunks.append(decompressor.decompress(data, _CHUNK))
            data = decompressor.unconsumed_tail
            size += len(chunks[-1])
            if size > MAX_UNPACKED:
                raise FeedError(f"is larger than {MAX_UNPACKED >> 20} MiB when it is unpacked")
    except zlib.error as error:
        raise FeedError(f"is damaged: {error}") from None
    if not decompressor.eof:
        raise FeedError("is cut off: its gzip data does not end")
    return b"".join(chunks)


def read_feed(name: FeedName, data: bytes) -> Kev | Epss:
    """Read a list, compressed or not. Raises FeedError, whose message says what is wrong with it."""
    read = read_kev if name is FeedName.KEV else read_epss
    return read(_no_page(unpacked(data)))  # no name for the text here, so that the reader can free it


def _no_page(text: bytes) -> bytes:
    if text[:_BEGIN].lstrip()[:1] == b"<":
        raise FeedError("is HTML or XML; is the URL or path that of a page about it?")
    return text
