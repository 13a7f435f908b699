"""The payload of an audit: the JSON object that a host's agent signed, as values."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from portspec.audit.envelope import EnvelopeError
from portspec.audit.model import System, ToolRun
from portspec.errors import printable
from portspec.names import canonical_one
from portspec.ports import MAX_PORT

# Read by json, not msgspec, which accepts duplicate keys, refuses half a surrogate pair, which hosts may send, and says
# where a wrong value is, not what was expected. Neither limits what characters beyond U+FFFF cost: see _narrow().
VERSION = 1
_MAX_WORD = 1000  # characters of a name, a version, an address
_MAX_LISTENERS = 200_000
_MAX_MORE_TOOLS = 4
_MAX_LIKE = 20
_MAX_FILES = 20_000
_MAX_REPLACED = 100  # files of a process
_MAX_COMMAND = 100  # words
MAX_VALUES = 500_000  # of JSON; one costs up to 200 bytes of memory. 10 MB that a tool prints have some 300,000
SHORT_ID = 12  # digits of the id of a container that `docker ps` shows
MAX_HEAD = 4096  # bytes of a payload, among which its host is named
_LARGE = 4 << 20  # bytes of a payload; of a larger one, no character may make Python take four bytes for each (PEP 393)
# A character beyond U+FFFF, as itself or escaped (RFC 8259, 7); an escaped backslash may stand before it.
_WIDE = re.compile(rb"[\xf0-\xf4][\x80-\xbf]{3}")
_WIDE_ESCAPED = re.compile(rb"(?<!\\)((?:\\\\)*+)\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2})?")
_TEXT = re.compile(rb'"[^"]*+"')  # of JSON, without escapes
_HOST = re.compile(rb'\s*+\{[^{}\[\]]*?"host"\s*+:\s*+"([^"\\]++)"')

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Library:
    """A file whose code a process has mapped, and the package that owns it, with its version and source package."""

    path: str
    package: str
    version: str
    source: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """The release of the kernel that runs, and the one that is installed and newer; None if none is."""

    running: str
    newer: str | None = None


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A socket that something listens on, and what; None where the agent does not see it, and `note` says why.

    The process runs the file `executable`, which is gone if `is_deleted`, as after an upgrade. `package`, its `version`
    and its `source` package own that file. `unit` is the unit of systemd, `container` the id of a container, with its
    name and its `image` if the agent may ask for them. `libraries` are those of packages; None if the agent does not
    see them. `replaced` are the files of which the process runs another version than the present one.
    """

    protocol: str
    address: str
    port: int
    process: str | None = None
    user: str | None = None
    executable: str | None = None
    is_deleted: bool = False
    unit: str | None = None
    container: str | None = None
    container_name: str | None = None
    image: str | None = None
    package: str | None = None
    version: str | None = None
    source: str | None = None
    note: str | None = None
    libraries: tuple[Library, ...] | None = None
    replaced: tuple[str, ...] = ()

    @property
    def spelled(self) -> str:
        """The process, its user and what it is part of, as "nginx (www) [package nginx 1.22, nginx.service]"."""
        details = f" [{self.details}]" if self.details else ""
        return f"{self.process or 'unknown process'}{f' ({self.user})' if self.user else ''}{details}"

    @property
    def details(self) -> str:
        """What the process is part of, as far as it is known; "" if nothing is."""
        found = (
            f"package {self.package} {self.version or ''}".rstrip() if self.package else None,
            self.unit,
            f"container {self.container_name or self.container[:SHORT_ID]}" if self.container else None,
            f"image {self.image}" if self.image else None,
            f"{self.executable} is gone" if self.is_deleted else None,
        )
        return ", ".join(filter(None, found))


@dataclass(frozen=True, slots=True)
class AuditPayload:
    """The audit of a host of one day: `at` is when its tool ended, a Unix time, and `day` its day in UTC.

    `host` is canonical. `listeners` is None if they could not be gathered, `kernel` if the agent does not see which
    ones are installed.
    """

    host: str
    day: str
    at: float
    nonce: str
    agent: str
    tool_version: str | None
    runs: tuple[ToolRun, ...]
    listeners: tuple[ListeningSocket, ...] | None
    kernel: Kernel | None = None


def host_of(payload: bytes) -> str:
    """Return the canonical name of the host that a payload says it is of, without reading the rest of it.

    The name stands among its first members, before any that is a list or an object. Raises EnvelopeError, reason
    "malformed".
    """
    found = _HOST.match(payload[:MAX_HEAD])
    if found is None:
        raise EnvelopeError("malformed", 'the payload does not begin with an object that names its "host"')
    try:
        host = canonical_one(found[1].decode("utf-8"))
    except ValueError as error:
        raise EnvelopeError("malformed", f"the payload cannot be read: {printable(str(error))}") from None
    return host


def read_payload(payload: bytes) -> AuditPayload:
    """Read a payload whose signature was verified. Raises EnvelopeError, reason "malformed", whatever the bytes are."""
    try:
        _verify_values(payload)
        plain = json.loads(_narrow(payload).decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unambiguous)
        if _typed(plain, dict).get("version") != VERSION:
            raise ValueError(f"version: expected {VERSION}, found {_quoted(plain.get('version'))}")  # noqa: TRY301 - told below
        at = _time(plain)
        return AuditPayload(
            host=host_of(payload),
            day=_day(plain, at),
            at=at,
            nonce=_word(plain, "nonce"),
            agent=_word(plain, "agent"),
            tool_version=_word_if_any(_mapping(plain, "tool"), "version"),
            runs=_runs(plain, at),
            listeners=_listeners(plain["listeners"], _files(plain.get("files", []))),
            kernel=None if plain.get("kernel") is None else _kernel(_mapping(plain, "kernel")),
        )
    except KeyError as error:
        raise EnvelopeError("malformed", f"the payload lacks {error}") from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else printable(str(error))
        raise EnvelopeError("malformed", f"the payload cannot be read: {why}") from None


def _runs(plain: dict[str, Any], at: float) -> tuple[ToolRun, ...]:
    """Read the run of the host's tool, and those of others that complete it."""
    more = _typed(plain.get("more_tools", []), list)
    if len(more) > _MAX_MORE_TOOLS:
        raise ValueError(f"more_tools: more than {_MAX_MORE_TOOLS}")
    system = None if plain.get("system") is None else _system(_mapping(plain, "system"))
    return tuple(_run(_typed(tool, dict), at, system) for tool in (plain["tool"], *more))


def _system(plain: dict[str, Any]) -> System:
    return System(
        kernel=_word(plain, "kernel"),
        id=_word(plain, "id"),
        like=_words(plain, "id_like", _MAX_LIKE),
        version=_word(plain, "version_id"),
    )


def _verify_values(payload: bytes) -> None:
    """Raise ValueError for a payload of more values than MAX_VALUES, before any of them is made."""
    if _has_too_many_values(payload):
        raise ValueError(f"more than {MAX_VALUES:,} values")


def _has_too_many_values(text: bytes) -> bool:
    """Return whether JSON has more values than MAX_VALUES, each of which follows a bracket or a comma.

    What stands in texts, as the JSON that a tool printed or the commas of a title, is taken out only if all of it is
    too much.
    """
    if _values_in(text) <= MAX_VALUES:
        return False
    rest = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if rest.count(b'"') <= 4 * MAX_VALUES:  # two for a key and two for a text
        rest = _TEXT.sub(b"", rest)
    return _values_in(rest) > MAX_VALUES


def _narrow(payload: bytes) -> bytes:
    """Put a question mark in the place of each character beyond U+FFFF, where the payload is large."""
    if len(payload) < _LARGE:
        return payload
    narrow = payload if payload.isascii() else _WIDE.sub(b"?", payload)
    if b"\\ud" in narrow or b"\\uD" in narrow:  # nearly never, and the expression is slow
        narrow = _WIDE_ESCAPED.sub(rb"\1?", narrow)
    return narrow


def _values_in(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _run(tool: dict[str, Any], at: float, system: System | None) -> ToolRun:
    status = tool["exit_status"]
    if status is not None and (isinstance(status, bool) or not isinstance(status, int)):
        raise ValueError(f"tool.exit_status: expected a whole number or null, found {_quoted(status)}")
    output, errors, is_truncated = _typed(tool["output"], str), _typed(tool["errors"], str), tool["truncated"]
    if len(output) > MAX_VALUES and _has_too_many_values(output.encode("utf-8", "surrogatepass")):
        # as if the agent had cut it off: it may be JSON, whose values would be as many
        output, is_truncated = "", True
    return ToolRun(
        tool=_word(tool, "name"),
        exit_status=status,
        output=output,
        errors=errors,
        is_truncated=_typed(is_truncated, bool),
        ended_at=at,
        command=_command(tool),
        system=system,
        is_of_applications=_scope(tool) == "applications",
    )


def _command(tool: dict[str, Any]) -> tuple[str, ...]:
    """Return the begin of the command line, which only helps to understand the output: none is too long."""
    words = tool.get("command", [])
    return tuple(str(word)[:_MAX_WORD] for word in words[:_MAX_COMMAND]) if isinstance(words, list) else ()


def _scope(tool: dict[str, Any]) -> str:
    scope = tool.get("scope", "system")
    if scope not in ("system", "applications"):
        raise ValueError(f'tool.scope: expected "system" or "applications", found {_quoted(scope)}')
    return str(scope)


def _kernel(plain: dict[str, Any]) -> Kernel:
    return Kernel(_word(plain, "running"), _word_if_any(plain, "newer"))


def _files(plain: Any) -> tuple[Library, ...]:
    """Read the libraries of all processes: path, package, version and source package of each."""
    files = []
    for item in _typed(plain, list):
        if len(_typed(item, list)) != len(fields(Library)):
            raise ValueError(f"files: expected path, package, version and source, found {_quoted(item)}")
        files.append(Library(*_words({"files": item}, "files", len(item))))
        if len(files) > _MAX_FILES:
            raise ValueError(f"files: more than {_MAX_FILES:,}")
    return tuple(files)


def _libraries(plain: Any, files: tuple[Library, ...]) -> tuple[Library, ...]:
    """Return the files that a listener has by their numbers."""
    numbers = _typed(plain, list)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(files):
            raise ValueError(f"libraries: {_quoted(number)} is not the number of a file")
    return tuple(files[number] for number in dict.fromkeys(numbers))


def _listeners(plain: Any, files: tuple[Library, ...]) -> tuple[ListeningSocket, ...] | None:
    if plain is None:
        return None
    if len(_typed(plain, list)) > _MAX_LISTENERS:
        raise ValueError(f"listeners: more than {_MAX_LISTENERS:,}")
    return tuple(_listener(_typed(item, dict), files) for item in plain)


def _listener(item: dict[str, Any], files: tuple[Library, ...]) -> ListeningSocket:
    port = item["port"]
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= MAX_PORT:
        raise ValueError(f"listeners: {_quoted(port)} is not a port")
    return ListeningSocket(
        protocol=_word(item, "protocol"),
        address=_word(item, "address"),
        port=port,
        process=_word_if_any(item, "process"),
        user=_word_if_any(item, "user"),
        executable=_word_if_any(item, "executable"),
        is_deleted=_typed(item.get("is_deleted", False), bool),
        unit=_word_if_any(item, "unit"),
        container=_word_if_any(item, "container"),
        container_name=_word_if_any(item, "container_name"),
        image=_word_if_any(item, "image"),
        package=_word_if_any(item, "package"),
        version=_word_if_any(item, "version"),
        source=_word_if_any(item, "source"),
        note=_word_if_any(item, "note"),
        libraries=None if item.get("libraries") is None else _libraries(item["libraries"], files),
        replaced=_words(item, "replaced", _MAX_REPLACED),
    )


def _time(plain: dict[str, Any]) -> float:
    text = _word(plain, "time")
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError  # noqa: TRY301 - as any other that is no time
    except ValueError:
        raise ValueError(f'time: expected RFC 3339, such as "2026-11-22T03:17:09Z", found {_quoted(text)}') from None
    return at.timestamp()


def _day(plain: dict[str, Any], at: float) -> str:
    day = _word(plain, "day")
    if day != datetime.fromtimestamp(at, UTC).date().isoformat():
        raise ValueError(f"day: {_quoted(day)} is not the UTC day of its time")
    return day


def _mapping(plain: dict[str, Any], name: str) -> dict[str, Any]:
    return _typed(plain[name], dict)


def _word(plain: dict[str, Any], name: str) -> str:
    value = plain[name]
    if not isinstance(value, str) or len(value) > _MAX_WORD:
        raise ValueError(f"{name}: expected a string of at most {_MAX_WORD} characters, found {_quoted(value)}")
    return printable(value)[:_MAX_WORD]


def _words(plain: dict[str, Any], name: str, most: int) -> tuple[str, ...]:
    """Return a list of texts; none if it is not there, as in the payloads of older agents."""
    items = _typed(plain.get(name, []), list)
    if len(items) > most or not all(isinstance(item, str) and len(item) <= _MAX_WORD for item in items):
        raise ValueError(f"{name}: expected at most {most} strings of at most {_MAX_WORD} characters")
    return tuple(printable(item)[:_MAX_WORD] for item in items)


def _word_if_any(plain: dict[str, Any], name: str) -> str | None:
    return None if plain.get(name) is None else _word(plain, name)


def _typed(value: Any, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {_quoted(value)}")
    return value


def _quoted(value: object) -> str:
    text = repr(value) if not isinstance(value, float) or math.isfinite(value) else str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"  # noqa: PLR2004 - a message of one line


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a key twice: each reader would take another one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a duplicate key")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")
