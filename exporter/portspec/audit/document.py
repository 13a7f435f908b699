"""The stored result of an audit as JSON, so that its tool's output need not be read again. Pure."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any, Final, NoReturn
from weakref import WeakValueDictionary

from portspec.audit.model import Audit, Scope, Severity, Status, Vulnerability
from portspec.audit.payload import ListeningSocket
from portspec.audit.state import HostAudit
from portspec.ports import MAX_PORT

VERSION: Final = 4  # of the document, and of what reads the output of tools: counted up when it reads them otherwise
_MAX_KNOWN: Final = 4096  # listeners


def encode(host_audit: HostAudit) -> str:
    """Return the document of an audit: JSON, in which each vulnerability is a text of its own."""
    audit = host_audit.audit
    return _dump(
        {
            "version": VERSION,
            "at": host_audit.at,
            "tool": host_audit.tool,
            "tool_version": host_audit.tool_version,
            "status": audit.status.value,
            "without": audit.without.value,
            "reason": audit.reason,
            "database_at": audit.database_at,
            "scopes": audit.scopes,
            "listeners": host_audit.listeners
            and [[item.protocol, item.address, item.port, item.process, item.user] for item in host_audit.listeners],
            "vulnerabilities": [_dump(_fields(item)) for item in audit.vulnerabilities],
        }
    )


class Decoder:
    """Reads documents. Vulnerabilities that many hosts have are one object: 10,000 hosts share most of theirs.

    So are the most frequent listeners, such as sshd on port 22 of all addresses.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Vulnerability] = WeakValueDictionary()
        self._listener = lru_cache(_MAX_KNOWN)(_listener)

    def decode(self, document: str) -> HostAudit | None:
        """Return the audit; None for a document of another version. Raises ValueError for what is no document."""
        try:
            plain = json.loads(document, parse_constant=_refuse)
            if plain["version"] != VERSION:
                return None
            listeners = plain["listeners"]
            return HostAudit(
                at=_number(plain["at"]),
                tool=_text(plain["tool"]),
                tool_version=_text_if_any(plain["tool_version"]),
                audit=Audit(
                    status=Status(plain["status"]),
                    vulnerabilities=tuple(map(self._vulnerability, _list(plain["vulnerabilities"]))),
                    reason=_text(plain["reason"]),
                    without=Status(plain["without"]),
                    database_at=None if plain["database_at"] is None else _number(plain["database_at"]),
                    scopes=tuple(map(Scope, _list(plain["scopes"]))),
                ),
                listeners=None if listeners is None else tuple(self._listener(*item) for item in _list(listeners)),
            )
        except (TypeError, LookupError, OverflowError, RecursionError) as error:
            raise ValueError(f"it is not a document of an audit: {error}") from None

    def _vulnerability(self, text: str) -> Vulnerability:
        if found := self._known.get(text):
            return found
        package, version, identifier, severity, aliases, fixed_in, title, url, advisories, paths = json.loads(text)
        item = Vulnerability(
            _text(package),
            _text(version),
            _text(identifier),
            Severity(severity),
            tuple(map(_text, _list(aliases))),
            tuple(map(_text, _list(fixed_in))),
            _text(title),
            _text(url),
            tuple(map(_text, _list(advisories))),
            tuple(map(_text, _list(paths))),
        )
        self._known[text] = item
        return item


def _listener(protocol: Any, address: Any, port: Any, process: Any, user: Any) -> ListeningSocket:
    is_one = type(port) is int and 0 <= port <= MAX_PORT and isinstance(protocol, str) and isinstance(address, str)
    is_held = (process is None or isinstance(process, str)) and (user is None or isinstance(user, str))
    if not is_one or not is_held:
        raise TypeError("expected a protocol, an address, a port, a process and a user")
    return ListeningSocket(protocol, address, port, process, user)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return value


def _text_if_any(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, str | bool) or not math.isfinite(number):
        raise TypeError("expected a finite number")
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _fields(item: Vulnerability) -> list[Any]:
    return [
        item.package,
        item.version,
        item.id,
        item.severity.value,
        item.aliases,
        item.fixed_in,
        item.title,
        item.url,
        item.advisories,
        item.paths,
    ]


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
