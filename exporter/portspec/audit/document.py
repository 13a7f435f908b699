"""The stored result of an audit as JSON, so that its tool's output need not be read again. Pure."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from itertools import starmap
from operator import attrgetter
from typing import Annotated, Any, Final
from weakref import WeakValueDictionary

import msgspec
from msgspec import Meta, Struct

from portspec import documents
from portspec.audit.model import Audit, Scope, Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import HostAudit
from portspec.documents import Finite
from portspec.ports import MAX_PORT

VERSION: Final = 6  # of the document, and of what reads the output of tools: counted up when it reads them otherwise
_MAX_KNOWN: Final = 4096  # listeners

# The fields of both, in their order.
_Texts = tuple[str, ...]
_Vulnerability = tuple[str, str, str, Severity, _Texts, _Texts, str, str, _Texts, _Texts]
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


class _Version(Struct):
    version: Any


class _Document(_Version):
    at: Finite
    tool: str
    tool_version: str | None
    status: Status
    without: Status
    reason: str
    database_at: Finite | None
    scopes: tuple[Scope, ...]
    listeners: tuple[_Listener, ...] | None
    vulnerabilities: tuple[str, ...]  # a document each, by which equal ones are found


_VERSION: Final = msgspec.json.Decoder(_Version)
_DOCUMENT: Final = msgspec.json.Decoder(_Document)
_VULNERABILITY: Final = msgspec.json.Decoder(_Vulnerability)

_values_of_vulnerability = attrgetter(*(field.name for field in fields(Vulnerability)))
_values_of_listener = attrgetter(*(field.name for field in fields(ListeningSocket)))


def encode(host_audit: HostAudit) -> str:
    """Return the document of an audit: JSON, in which each vulnerability is a text of its own."""
    audit, listeners = host_audit.audit, host_audit.listeners
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
            listeners=None if listeners is None else tuple(map(_values_of_listener, listeners)),
            vulnerabilities=tuple(documents.encode(_values_of_vulnerability(item)) for item in audit.vulnerabilities),
        )
    )


class Decoder:
    """Reads documents. Vulnerabilities that many hosts have are one object: 10,000 hosts share most of theirs.

    So are the most frequent listeners, such as sshd on port 22 of all addresses.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Vulnerability] = WeakValueDictionary()
        self._listener = lru_cache(_MAX_KNOWN)(ListeningSocket)

    def decode(self, document: str) -> HostAudit | None:
        """Return the audit; None for a document of another version. Raises ValueError for what is no document."""
        if documents.decode(_VERSION, document).version != VERSION:
            return None
        stored = documents.decode(_DOCUMENT, document)
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
            listeners=None if stored.listeners is None else tuple(starmap(self._listener, stored.listeners)),
        )

    def _vulnerability(self, text: str) -> Vulnerability:
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = Vulnerability(*documents.decode(_VULNERABILITY, text))
        return found
