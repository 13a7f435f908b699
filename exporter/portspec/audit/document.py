"""The stored result of an audit as JSON, so that its tool's output need not be read again. Pure."""

from __future__ import annotations

from array import array
from dataclasses import fields
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Final
from weakref import WeakValueDictionary

import msgspec
from msgspec import Meta, Struct

from portspec import documents
from portspec.audit.fixes import Known
from portspec.audit.model import Audit, Scope, Severity, Status, Vulnerability
from portspec.audit.payload import Kernel, Library, ListeningSocket
from portspec.audit.since import FirstSeen
from portspec.audit.state import HostAudit
from portspec.documents import Finite
from portspec.ports import MAX_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VERSION: Final = 7  # of the document, and of what reads the output of tools: counted up when it reads them otherwise
_LATEST: Final = 2**32 - 1  # Unix seconds, in 2106: a fleet has millions of times, of four bytes each
_MAX_SHARED: Final = 300  # libraries of a process, or characters of a library, that may be kept for other hosts
_MAX_KNOWN: Final = 4096  # listeners, libraries, and those of a process

# The fields of both, in their order.
_Texts = tuple[str, ...]
_Vulnerability = tuple[str, str, str, Severity, _Texts, _Texts, str, str, _Texts, _Texts, Finite | None, bool]
_Text = str | None
_Listener = tuple[
    str,
    str,
    Annotated[int, Meta(ge=0, le=MAX_PORT)],
    _Text,
    _Text,
    _Text,
    bool,
    _Text,
    _Text,
    _Text,
    _Text,
    _Text,
    _Text,
    _Text,
    _Text,
]
_WithFiles = tuple[_Listener, tuple[int, ...] | None, _Texts]  # numbers of its libraries, replaced files
_Library = tuple[str, str, str, str]


_FirstSeen = tuple[str, _Texts, _Texts, Finite]  # package, ids, advisories, Unix time
_Remembered = tuple[str, tuple[Scope, ...], tuple[tuple[str, Finite], ...]]  # tool, scopes, documents and Unix times


class _Version(Struct):
    version: Any


class _Dated(Struct):
    """What any version of the document has since 7: it must not be lost when the output is read otherwise."""

    first_seen: tuple[_FirstSeen, ...] = ()
    at: Finite | None = None


class _Document(_Version):
    at: Finite
    tool: str
    tool_version: str | None
    status: Status
    without: Status
    reason: str
    database_at: Finite | None
    scopes: tuple[Scope, ...]
    listeners: tuple[_WithFiles, ...] | None
    libraries: tuple[_Library, ...]
    first_seen: tuple[_FirstSeen, ...]
    kernel: tuple[str, str | None] | None
    vulnerabilities: tuple[str, ...]  # a document each, by which equal ones are found
    remembered: tuple[_Remembered, ...] = ()  # what it does not name, and did not show to be gone
    earlier: dict[str, Finite] = {}  # Unix times by id, of what another package had before those in first_seen


_VERSION: Final = msgspec.json.Decoder(_Version)
_DATED: Final = msgspec.json.Decoder(_Dated)
_DOCUMENT: Final = msgspec.json.Decoder(_Document)
_VULNERABILITY: Final = msgspec.json.Decoder(_Vulnerability)

_values_of_vulnerability = attrgetter(*(field.name for field in fields(Vulnerability)))
_FILES: Final = ("libraries", "replaced")  # the last fields of a listener
_values_of_listener = attrgetter(*(field.name for field in fields(ListeningSocket) if field.name not in _FILES))
_values_of_library = attrgetter(*(field.name for field in fields(Library)))


def encode(host_audit: HostAudit, seen: Sequence[FirstSeen] = (), known: Sequence[Known] = ()) -> str:
    """Return the document of an audit: JSON, in which each vulnerability is a text of its own.

    `seen` is what first_seen() returned for it, and `known` what the host had after it, see compare().
    """
    audit, listeners, kernel = host_audit.audit, host_audit.listeners, host_audit.kernel
    libraries = {item: None for listener in listeners or () for item in listener.libraries or ()}
    numbers = {item: number for number, item in enumerate(libraries)}
    count = len(audit.vulnerabilities)
    return documents.encode(
        _Document(
            version=VERSION,
            at=host_audit.at,
            tool=host_audit.tool,
            tool_version=host_audit.tool_version,
            status=audit.status,
            without=audit.without,
            reason=audit.reason,
            database_at=audit.database_at,
            scopes=audit.scopes,
            listeners=None if listeners is None else tuple(_with_files(item, numbers) for item in listeners),
            libraries=tuple(map(_values_of_library, libraries)),
            first_seen=tuple(seen),
            kernel=(kernel.running, kernel.newer) if kernel else None,
            vulnerabilities=tuple(map(_encoded, audit.vulnerabilities)),
            remembered=tuple(_remembered(known[count:])),
            earlier={
                item.vulnerability.id: item.since
                for item, first in zip(known[:count], seen, strict=False)
                if item.since < first.at
            },
        )
    )


def decode_first_seen(document: str) -> tuple[FirstSeen, ...]:
    """Return since when the vulnerabilities in a document of any version are known; none if it does not tell."""
    try:
        return tuple(FirstSeen(*item) for item in documents.decode(_DATED, document).first_seen)
    except ValueError:
        return ()


def decode_time(document: str) -> float | None:
    """Return when the audit in a document of any version was made, a Unix time; None if it does not tell."""
    try:
        return documents.decode(_DATED, document).at
    except ValueError:
        return None


def _encoded(item: Vulnerability) -> str:
    return documents.encode(_values_of_vulnerability(item))


def _remembered(known: Sequence[Known]) -> Iterator[_Remembered]:
    for (tool, scopes), items in groupby(known, key=lambda item: (item.tool, item.scopes)):
        yield tool, scopes, tuple((_encoded(item.vulnerability), item.since) for item in items)


def _with_files(item: ListeningSocket, numbers: Mapping[Library, int]) -> _WithFiles:
    found = None if item.libraries is None else tuple(numbers[library] for library in item.libraries)
    return _values_of_listener(item), found, item.replaced


class Decoder:
    """Reads documents. Vulnerabilities that many hosts have are one object: 10,000 hosts share most of theirs.

    So are the most frequent listeners, such as sshd on port 22 of all addresses, and their libraries.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Vulnerability] = WeakValueDictionary()
        self._listener = lru_cache(_MAX_KNOWN)(ListeningSocket)
        self._library = lru_cache(_MAX_KNOWN)(Library)
        self._libraries = lru_cache(_MAX_KNOWN)(_same)

    def decode(self, document: str) -> HostAudit | None:
        """Return the audit; None for a document of another version. Raises ValueError for what is no document."""
        stored = _stored(document)
        return None if stored is None else self._host_audit(stored)

    def decode_known(self, document: str) -> tuple[HostAudit, tuple[Known, ...]] | None:
        """Return the audit, and what the host had after it, as far as that is dated; else as decode() does."""
        stored = _stored(document)
        if stored is None:
            return None
        host_audit = self._host_audit(stored)
        audit, dated = host_audit.audit, stored.first_seen
        known = [
            Known(item, min(at, stored.earlier.get(item.id, at)), host_audit.tool, audit.scopes)
            for item, (*_, at) in zip(audit.vulnerabilities, dated, strict=False)
        ]
        for tool, scopes, items in stored.remembered:
            known += [Known(self._vulnerability(text), at, tool, scopes) for text, at in items]
        return host_audit, tuple(known)

    def _host_audit(self, stored: _Document) -> HostAudit:
        libraries = tuple(map(self._shared_library, stored.libraries))
        return HostAudit(
            at=stored.at,
            tool=stored.tool,
            tool_version=stored.tool_version,
            audit=Audit(
                status=stored.status,
                vulnerabilities=tuple(map(self._vulnerability, stored.vulnerabilities)),
                reason=stored.reason,
                without=stored.without,
                database_at=stored.database_at,
                scopes=stored.scopes,
            ),
            listeners=None
            if stored.listeners is None
            else tuple(self._with_libraries(item, libraries) for item in stored.listeners),
            kernel=Kernel(*stored.kernel) if stored.kernel else None,
            since=_times(stored),
        )

    def _shared_library(self, item: _Library) -> Library:
        return self._library(*item) if sum(map(len, item)) <= _MAX_SHARED else Library(*item)

    def _with_libraries(self, item: _WithFiles, libraries: tuple[Library, ...]) -> ListeningSocket:
        """Return a listener; raise ValueError for a library that the document does not have."""
        values, numbers, replaced = item
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(libraries):
            raise ValueError("a listener has a library that is not in the document")
        found = None if numbers is None else tuple(libraries[number] for number in numbers)
        # A host could fill the caches with large values, which would stay.
        size = sum(len(value) for value in (*values, *replaced) if isinstance(value, str))
        if len(found or ()) > _MAX_SHARED or size > 2 * _MAX_SHARED:
            return ListeningSocket(*values, found, replaced)
        return self._listener(*values, found and self._libraries(found), replaced)

    def _vulnerability(self, text: str) -> Vulnerability:
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = Vulnerability(*documents.decode(_VULNERABILITY, text))
        return found


def _stored(document: str) -> _Document | None:
    """Return a document; None for one of another version. Raises ValueError for what is no document."""
    if documents.decode(_VERSION, document).version != VERSION:
        return None
    return documents.decode(_DOCUMENT, document)


def _times(stored: _Document) -> Sequence[int]:
    """Return the times of the vulnerabilities, in their order; nothing if the document does not have all of them."""
    times = [item[3] for item in stored.first_seen[: len(stored.vulnerabilities)]]
    if not times or len(times) < len(stored.vulnerabilities):
        return ()
    return array("I", (min(max(int(at), 0), _LATEST) for at in times))


def _same(libraries: tuple[Library, ...]) -> tuple[Library, ...]:
    return libraries
