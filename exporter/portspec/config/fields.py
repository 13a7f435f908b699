"""The fields of the schema of conf.yml: how each value is validated, and the message for an invalid one."""

from __future__ import annotations

import io
import os
import re
import shlex
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from portspec import files
from portspec.config.model import SECONDS_A_DAY, EngineChoice
from portspec.errors import shorten
from portspec.exposure import PortSeverity
from portspec.names import MAX_FORMER_NAMES, canonical_one, parse_range
from portspec.ports import PortSet, parse_ports
from portspec.times import is_number, parse_duration, read_begin, read_until

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
L = TypeVar("L", list[PortSet], list[PortSet] | None)
MAX_HISTORY_DAYS = 36_500
MAX_TEXT_FILE_BYTES = 2**20  # bytes of a file of secrets or certificates
#: What may stand in braces in the URL at which a change of conf.yml is proposed: what it does in a sentence, the host,
#: the ports or ids, the path of conf.yml, the difference, and the command that makes it.
ACCEPT_URL_NAMES = ("title", "host", "what", "path", "diff", "command")
_DATABASE_ENDINGS = (".db", ".sqlite", ".sqlite3")
_VULNERABILITY_ID = re.compile(r"[A-Za-z]+-[0-9A-Za-z-]*[0-9][0-9A-Za-z-]*")
_MAX_ID_LENGTH = 500  # characters, as audit.formats keeps


def items(value: object) -> object:
    """Turn a single value into a list, and null into an empty list."""
    if value is None:
        return []
    return [value] if isinstance(value, int | str | float) else value


def none_as_empty(value: object) -> object:
    """Turn null into an empty list."""
    return [] if value is None else value


def _items_if_any(value: object) -> object:
    return None if value is None else items(value)


def _ports(value: object) -> PortSet:
    """Read an item of a list of ports; a list in a list, as an alias (*name) makes it, is as good as its items."""
    if isinstance(value, list):
        return PortSet.of_ranges(chain.from_iterable(_ports(item).ranges for item in value))
    return parse_ports(value)


def _ports_key(value: object) -> object:
    """Return the key of a mapping back if it is what may stand in a list of ports."""
    parse_ports(value)
    return value


def _severity_of_port(value: object) -> PortSeverity:
    if not isinstance(value, str) or value not in set(PortSeverity):
        raise ValueError(f"expected {', '.join(list(PortSeverity)[:-1])} or {list(PortSeverity)[-1]}")
    return PortSeverity(value)


def _not_empty_sets(ports: L) -> L:
    """Leave out what a list in a list adds nothing by, so that only a list of some ports is not empty."""
    if isinstance(ports, list):
        ports[:] = filter(None, ports)
    return ports


def lists_nothing(value: object) -> bool:
    """Return whether a list of ports, unchecked as it is, is empty; one in which there are only empty ones is."""
    return isinstance(value, list) and all(map(lists_nothing, value))


def _seconds(value: object) -> float:
    seconds = parse_duration(value)
    if not 1 <= seconds <= 366 * 86400:
        raise ValueError("expected a duration between 1 second and 366 days")
    return seconds


def _max_duration(value: object) -> float | None:
    return None if value is None else _seconds(value)


def _recheck(value: object) -> float:
    seconds = parse_duration(value)
    if seconds != 0 and not 1 <= seconds <= 366 * 86400:
        raise ValueError("expected a duration between 1 second and 366 days, or 0 for never")
    return seconds


def _timeout(value: object) -> float:
    seconds = parse_duration(value)
    if not 0.01 <= seconds <= 60:  # noqa: PLR2004 - the range is in the message
        raise ValueError("expected a duration between 0.01 and 60 seconds")
    return seconds


def whole(low: int, high: int) -> BeforeValidator:
    """Return the validator of a whole number in a range; a string is accepted too, since ${NAME} yields one."""

    def check(value: object) -> int:
        text = value.strip() if isinstance(value, str) else value
        if isinstance(text, str) and re.fullmatch(r"[0-9]{1,9}", text):
            text = int(text)
        if isinstance(text, bool) or not isinstance(text, int) or not low <= text <= high:
            raise ValueError(f"expected a whole number between {low:,} and {high:,}")
        return text

    return BeforeValidator(check)


def _rate(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and is_number(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 10_000_000:  # noqa: PLR2004 - below
        raise ValueError("expected probes per second, 1 to 10,000,000 (omit the key for no limit)")
    return float(value)


def _host_rate(value: object) -> float | None:
    """Read a rate, or `auto`: no limit, but for hosts that were cut off."""
    if value == "auto":
        return None
    try:
        return _rate(value)
    except ValueError:
        raise ValueError('expected "auto" or probes per second, 1 to 10,000,000') from None


def flag(value: object) -> bool:
    """Read one of YAML's words for true and false; ValueError if it is not one."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    found = words.get(str(value).lower()) if isinstance(value, bool | str) else None
    if found is None:
        raise ValueError("expected true or false")
    return found


def _engine(value: object) -> str:
    if not isinstance(value, str) or value not in {"auto", "syn", "connect"}:
        raise ValueError('expected "auto", "syn" or "connect"')
    return str(value)


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("expected a string (put it in quotes)")  # noqa: TRY004 - pydantic takes ValueError
    return str(value)


def _until(value: object) -> float:
    """Read the end of an exception, which begins when it is written."""
    return read_until(value, now=time.time())


def _glob(value: object) -> str:
    text = _text(value).strip()
    if not text or any(letter.isspace() for letter in text):
        raise ValueError(f'"{shorten(text)}" is not a host or a glob such as "web*.example.org"')
    return text


def read_identifier(value: object) -> str:
    """Validate the id of a vulnerability, in lower case; one without an id has its title as id, which has blanks."""
    text = _text(value).strip()
    words = re.split(r"[\s,;]+", text)
    if len(words) > 1 and all(_VULNERABILITY_ID.fullmatch(word) for word in words):
        raise ValueError(f'"{shorten(text)}" is more than one id; write a list, such as [CVE-2026-12345, DSA-6789-1]')
    is_glob = len(words) == 1 and re.search(r"[*?]", text)
    if not text.isprintable() or not 0 < len(text) <= _MAX_ID_LENGTH or is_glob:
        raise ValueError(f'"{shorten(text)}" is not the id of a vulnerability, such as "CVE-2026-12345"')
    return text.lower()


def some(given: list[T]) -> list[T]:
    """Reject an empty list."""
    if not given:
        raise ValueError("is empty; name at least one")
    return given


def _former_name(value: object) -> str:
    """Validate a name that a host had; returns it in canonical form."""
    if not isinstance(value, str):
        raise ValueError("expected the name or address that the host had")  # noqa: TRY004 - pydantic takes ValueError
    return canonical_one(value)


def _not_too_many(names: list[str]) -> list[str]:
    if len(names) > MAX_FORMER_NAMES:
        raise ValueError(f"a host may have at most {MAX_FORMER_NAMES} former names; keep the most recent ones")
    return names


def read_days(value: object, least: float, most: float, expected: str) -> float:
    """Read a number of days, or a duration, between two of seconds; returns seconds. Raises ValueError."""
    has_no_unit = not isinstance(value, str) or is_number(value)
    try:
        seconds = parse_duration(value) * (SECONDS_A_DAY if has_no_unit else 1)
    except ValueError:
        seconds = 0.0
    if not least <= seconds <= most:
        raise ValueError(f"expected {expected}")
    return seconds


def _days(value: object) -> float:
    expected = 'days, such as 365, or a duration, such as "52w", between 1 and 36,500 days'
    return read_days(value, SECONDS_A_DAY, MAX_HISTORY_DAYS * SECONDS_A_DAY, expected)


def _network(value: object) -> str:
    return str(parse_range(_text(value).strip()))


def _module_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise ValueError(f'"{shorten(name)}" is not the name of a module (letters, digits, "_", "." and "-")')
    return name


def _path(value: object) -> str:
    text = _text(value)
    if not text.strip() or "\0" in text:
        raise ValueError("expected the path of a file, which is created if it is missing")
    if not text.endswith(_DATABASE_ENDINGS):  # what is no database is set aside: no slip may do that to another file
        raise ValueError(f"expected the path of an SQLite file, which ends in {' or '.join(_DATABASE_ENDINGS)}")
    return text


def check_label_name(name: str) -> str:
    """Return the name of a label back; ValueError if conf.yml may not have it."""
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or name.startswith("__"):
        raise ValueError(f'"{name}" is not a label name (letters, digits and _, no digit first, no __ first)')
    if name == "host":
        raise ValueError('"host" is the label that names the host itself; choose another name')
    return name


def read_secret(value: object, info: ValidationInfo) -> tuple[Path, str]:
    """Return the path, relative to conf.yml, and the text of a file that holds a secret; ValueError if there is none.

    It is read once, so that it may be a pipe.
    """
    return _read_text(value, info, files.read)


def _readable(value: object, info: ValidationInfo) -> str:
    """Validate the path of a file that is read at each use, and hence cannot be a pipe."""
    path, _ = _read_text(value, info, files.read_regular)
    return str(path)


def command_words(value: object) -> list[str]:
    """Parse a command: a list of words, or a string with shell quotes; no shell runs it.

    Raises ValueError, which quotes nothing of it.
    """
    if isinstance(value, str):
        lexer = shlex.shlex(value, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        try:
            words = list(lexer)
        except ValueError:
            raise ValueError("has an unclosed quote; write a list of words") from None
        if any(set(word) <= set("();<>|&") for word in words) or "`" in value or "$(" in value:
            raise ValueError("is run without a shell; put pipes and redirections into a script, and name the script")
    elif isinstance(value, list):
        words = [_text(word) for word in value]
    else:
        raise ValueError("expected a command: a string or a list of words")  # noqa: TRY004 - pydantic takes ValueError
    if not words or not words[0].strip() or any("\0" in word for word in words):
        raise ValueError("expected the path of a program and its arguments")
    return words


def _command(value: object, info: ValidationInfo) -> tuple[str, ...]:
    """Validate a command whose program, relative to conf.yml, exists and is executable."""
    if value is None:
        return ()
    words = command_words(value)
    path = Path(info.context or ".").absolute() / words[0]
    try:
        files.require_regular(path)
    except OSError as error:
        hint = "" if "/" in words[0] else "; write the full path, since PATH is not searched"
        raise ValueError(f'the program "{path}" cannot be run: {(error.strerror or "no file").lower()}{hint}') from None
    if not os.access(path, os.X_OK):
        raise ValueError(f'the program "{path}" is not executable: chmod +x {shlex.quote(str(path))}')
    return (str(path), *words[1:])


def _read_text(value: object, info: ValidationInfo, read: Callable[[Path, int], bytes]) -> tuple[Path, str]:
    path = Path(info.context or ".") / _text(value)
    try:
        data = read(path, MAX_TEXT_FILE_BYTES + 1)
        text = io.StringIO(data.decode(), newline=None).read()  # with the ends of lines of any system
    except (OSError, UnicodeError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "not a text file"
        raise ValueError(f'the file "{path}" cannot be read: {why}') from None
    if len(data) > MAX_TEXT_FILE_BYTES:
        raise ValueError(
            f'the file "{path}" is larger than {MAX_TEXT_FILE_BYTES // 2**20} MiB; is this the right file?'
        )
    return path, text


def base_url(value: object) -> str | None:
    """Return a URL of host, port and path without its final slashes; None if it is not one of HTTP or HTTPS.

    It has no query or fragment, since paths are appended to it, and no credentials, since it is displayed.
    """
    try:
        # RFC 3986, 2: neither spaces nor quotes, nor letters beyond ASCII
        parts = urlsplit(value if isinstance(value, str) and re.fullmatch(r"[!#-;=?-~]+", value) else "")
        is_url = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return None
    if not is_url or "@" in parts.netloc or re.search(r"[?#]", str(value)):
        return None
    return str(value).rstrip("/")


def check_external_url(value: object) -> str:
    """Return the URL at which people reach the pages of the exporter; ValueError if it is not one."""
    found = base_url(value)
    if found is None:
        raise ValueError(
            "expected the URL at which people reach this exporter, such as https://portspec.example.org, without "
            "query, fragment and credentials"
        )
    return found


def check_runbook_url(value: object) -> str:
    """Return the URL of a page with a section for each alert; ValueError if it is not one."""
    found = base_url(value)
    if found is None:
        raise ValueError(
            "expected the URL of a page with a section for each alert, such as https://wiki.example.org/runbooks, "
            "without query, fragment and credentials"
        )
    return found


def check_accept_url(value: object) -> str:
    """Return the template of a URL at which a change of conf.yml is proposed; ValueError if it is not one."""
    text = value if isinstance(value, str) else ""
    if unknown := set(re.findall(r"\{([^{}]*)\}", text)) - set(ACCEPT_URL_NAMES):
        known = ", ".join(f"{{{name}}}" for name in ACCEPT_URL_NAMES)
        raise ValueError(f'"{{{shorten(min(unknown))}}}" stands for nothing (known: {known})')
    plain = re.sub(r"\{[a-z]+\}", "", text)
    host = re.match(r"https?://[^/?#{}]+", text)
    if host is None or base_url(host[0]) is None or not re.fullmatch(r"[!#-;=?-z|~]+", plain):
        example = "https://git.example.org/ops/conf/issues/new?title={title}&body={diff}"
        raise ValueError(f"expected the URL at which a change is proposed, such as {example}")
    return text


_PortsItem = Annotated[PortSet, BeforeValidator(_ports)]
Ports = Annotated[list[_PortsItem], BeforeValidator(items), AfterValidator(_not_empty_sets)]
OptionalPorts = Annotated[list[_PortsItem] | None, BeforeValidator(_items_if_any), AfterValidator(_not_empty_sets)]
PortsKey = Annotated[str | int, BeforeValidator(_ports_key)]
SeverityOfPort = Annotated[PortSeverity, BeforeValidator(_severity_of_port)]
Flag = Annotated[bool, BeforeValidator(flag)]
Interval = Annotated[float, BeforeValidator(_seconds)]
MaxDuration = Annotated[float | None, BeforeValidator(_max_duration)]
Recheck = Annotated[float, BeforeValidator(_recheck)]
Rate = Annotated[float | None, BeforeValidator(_rate)]
HostRate = Annotated[float | None, BeforeValidator(_host_rate)]
Text = Annotated[str, BeforeValidator(_text)]
ReadableFile = Annotated[str | None, BeforeValidator(_readable)]
Command = Annotated[tuple[str, ...], BeforeValidator(_command)]
Timeout = Annotated[float, BeforeValidator(_timeout)]
EngineName = Annotated[EngineChoice, BeforeValidator(_engine)]
Glob = Annotated[str, BeforeValidator(_glob)]
Identifier = Annotated[str, BeforeValidator(read_identifier)]
Begin = Annotated[float, BeforeValidator(read_begin)]
Until = Annotated[float, BeforeValidator(_until)]
Days = Annotated[float, BeforeValidator(_days)]
Network = Annotated[str, BeforeValidator(_network)]
ModuleName = Annotated[str, AfterValidator(_module_name)]
StateFile = Annotated[str | None, BeforeValidator(_path)]
LabelName = Annotated[str, AfterValidator(check_label_name)]
FormerNames = Annotated[
    list[Annotated[str, BeforeValidator(_former_name)]], BeforeValidator(items), AfterValidator(_not_too_many)
]


class _WhenGiven:
    """Marks a model whose validator is built when a file has the block: building all takes longer than reading one."""

    def __get_pydantic_core_schema__(self, model: type[BaseModel], _: GetCoreSchemaHandler) -> CoreSchema:
        def check(value: object, info: ValidationInfo) -> BaseModel:
            return model.model_validate(value, context=info.context)  # pydantic prefixes the paths of its errors

        return core_schema.with_info_plain_validator_function(check)


WHEN_GIVEN = _WhenGiven()

#: What is not in the file is not built: see WHEN_GIVEN.
STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True, defer_build=True)


class HostModel(BaseModel):
    """The mapping form of a host; a list of ports is short for `expect`."""

    model_config = STRICT

    expect: Ports = []
    allow: Ports = []
    scanports: OptionalPorts = None
    interval: Interval | None = None
    labels: dict[LabelName, Text] = {}
    audit: Flag = False
