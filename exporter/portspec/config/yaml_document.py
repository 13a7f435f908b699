"""YAML text → plain values with their lines: the first check of untrusted input.

PyYAML composes the node tree (which bounds nesting and keeps aliases shared); the walk over it is ours,
since a configuration needs what a YAML library does not give: lines, duplicate keys as errors, all of
them at once, and a limit to what aliases may expand to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from portspec import files
from portspec.errors import STANDARD_INPUT, ConfigError, Problem, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KeyPath = tuple[str | int, ...]

MAX_BYTES = 32 * 1024 * 1024
MAX_VALUES = 1_000_000  # 10,000 hosts with 20 ports each are 220,000
MAX_DEPTH = 40
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_NUMBERS = {"int": re.compile(r"0|-?[1-9][0-9]{0,17}"), "float": re.compile(r"-?[0-9]+\.[0-9]*")}

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE_TAG = "tag:yaml.org,2002:merge"
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HASH = re.compile(r"\$2[a-z]?\$[./A-Za-z0-9$]*")  # of bcrypt
_EXTENSION_PREFIX = "x-"  # at the top level: a place for anchors, which is not read by itself
_SECRET_KEY = re.compile(r"password|passphrase|token")  # in the name of a key


class SpelledFloat(float):
    """A float that knows how it was written: 1.10 is a version or a password as often as a number."""

    __slots__ = ("spelling",)
    spelling: str

    def __str__(self) -> str:
        return self.spelling

    __repr__ = __str__


@dataclass(slots=True)
class YamlDocument:
    """The values of one file, the line (from 1) of each path, and the problems found."""

    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faulty: set[KeyPath] = field(default_factory=set)
    expanded: set[KeyPath] = field(default_factory=set)  # whose values have something of the environment in them

    def line(self, path: KeyPath) -> int:
        """Return the line of a path, or of the nearest thing above it that has one; 0 for the whole file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def problem(self, path: KeyPath, message: str, line: int = 0) -> None:
        """Add a problem at a path; `line` overrides the line of the path."""
        self.faulty.add(path)
        self.problems.append(Problem(line or self.line(path), spell_path(path), _without_hash(message)))


def spell_path(path: KeyPath) -> str:
    """Format a path as `hosts."db1".expect`; the place in a list is left to the line number."""
    words: list[str] = []
    for place, step in enumerate(path):
        if isinstance(step, str):
            quoted = place > 0 and path[place - 1] in {"hosts", "labels"}
            bare = not quoted and _NAME.fullmatch(step)
            words.append(step if bare else f'"{shorten(_without_hash(step))}"')
    return ".".join(words)


def _without_hash(text: str) -> str:
    """Leave out the hash of a password, which may stand where it does not belong: a message gets into logs."""
    return _HASH.sub("$2…", text)


def is_depth_limit(error: yaml.MarkedYAMLError) -> bool:
    """Return whether libyaml stopped at its own limit of nesting, which newer versions have.

    Its scanner reads ahead of the events, so it gets there before a limit on the events does.
    """
    return error.problem == "exceeded maximum nesting depth"


def read(
    path: Path,
    environment: Mapping[str, str],
    *,
    option: str = "-c",
    may_be_empty: bool = False,
    data: bytes | None = None,
) -> YamlDocument:
    """Read a YAML file, which `option` of the command line names, or `data` as if the file had it.

    Raises ConfigError when there is nothing in it to check, unless it `may_be_empty`: its value is None then.
    """
    text = decode(path, read_bytes(path, option) if data is None else data)
    try:
        _check_depth(text)
        loader = _LOADER(text)
        try:
            node = loader.get_single_node()
            walker = _Walker(loader, environment)
            if node is not None:
                walker.source.value = walker.build(node, ())
        finally:
            loader.dispose()
        if walker.source.value is None and not may_be_empty:
            raise _file_error(path, "is empty; it requires at least the keys hosts and scanports")
    except yaml.MarkedYAMLError as error:
        raise ConfigError(str(path), [_syntax_problem(error, text)]) from None
    except yaml.reader.ReaderError as error:
        code = int(error.character)  # libyaml gives the position in bytes: look for the character instead
        line = text.count("\n", 0, max(0, text.find(chr(code)))) + 1
        message = f"character U+{code:04X} is not allowed in YAML; is this a text file?"
        raise ConfigError(str(path), [Problem(line, "", message)]) from None
    except _TooMuchError as error:
        raise ConfigError(str(path), [Problem(error.line, "", error.message)]) from None
    return walker.source


def _check_depth(text: str) -> None:
    """Reject deep nesting before a tree is composed: libyaml's composer recurses in C and overflows the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH + 1:
                raise _TooMuchError(_line(event), _TOO_DEEP)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def read_bytes(path: Path, option: str = "-c") -> bytes:
    """Read the bytes of a file. Raises ConfigError."""
    try:
        is_input = str(path) == STANDARD_INPUT
        data = files.read_input(MAX_BYTES + 1) if is_input else files.read(path, MAX_BYTES + 1)
    except IsADirectoryError:
        raise _file_error(path, "is a directory; name the configuration file in it") from None
    except FileNotFoundError:
        raise _file_error(path, f"no such file; {_how_to_name(path, option)}") from None
    except PermissionError:
        raise _file_error(path, "permission denied; the user that runs portspec must be able to read it") from None
    except OSError as error:
        raise _file_error(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise _file_error(path, "cannot be read: the path contains a NUL character") from None
    if len(data) > MAX_BYTES:
        raise _file_error(path, f"is larger than {MAX_BYTES // 2**20} MiB; is this the right file?")
    return data


def decode(path: Path, data: bytes) -> str:
    """Decode what is in a file. Raises ConfigError."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8 text"
        raise ConfigError(str(path), [Problem(line, "", message)]) from None
    return text


def _how_to_name(path: Path, option: str) -> str:
    """Say what to do where there is no file; in a container the default is a file that nobody has mounted."""
    if str(path) == files.DEFAULT_CONFIG:
        return (
            "write the configuration there (in a container, mount it: -v ./conf.yml:"
            f"{files.DEFAULT_CONFIG}:ro), or name another file with -c FILE"
        )
    return f"name the configuration file with {option} FILE"


def _file_error(path: Path, message: str) -> ConfigError:
    return ConfigError(str(path), [Problem(0, "", message)])


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 0
    if is_depth_limit(error):
        return Problem(line, "", _TOO_DEEP)
    lines = text.splitlines()
    here = lines[line - 1] if 0 < line <= len(lines) else ""
    said = " ".join(filter(None, (error.context, error.problem)))
    begin = error.context_mark.line + 1 if mark and error.context_mark else line
    if begin != line and said.startswith("while"):
        said += f" (starting on line {begin})"
    if "\t" in here[: len(here) - len(here.lstrip())]:
        said = "the line is indented with a tab; YAML allows only spaces"
    return Problem(line, "", f"not valid YAML: {said}")


class _TooMuchError(Exception):
    def __init__(self, line: int, message: str) -> None:
        self.line = line
        self.message = message
        super().__init__(message)


class _Walker:
    """Turns nodes into values, and reports what is wrong to `source.problems`."""

    def __init__(self, loader: Any, environment: Mapping[str, str]) -> None:
        self.source = YamlDocument()
        self._loader = loader
        self._environment = environment
        self._values = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath, key_line: int = 0) -> Any:
        line = _line(node)
        self.source.lines[path] = key_line or line
        self._values += 1
        if self._values > MAX_VALUES:
            raise _TooMuchError(line, f"more than {MAX_VALUES:,} values; do aliases (*name) expand too often?")
        if len(path) > MAX_DEPTH:
            raise _TooMuchError(line, _TOO_DEEP)
        if id(node) in self._open:
            raise _TooMuchError(line, "an alias (*name) contains itself")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, place)) for place, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:  # first, so that the lines of the mapping's own keys hold
            if key_node.tag == _MERGE_TAG:
                merged |= self._merge(value_node, path, _line(key_node))
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.source.problem(path, "a key must be a plain word, not a list or a mapping", line)
                continue
            key = self._expand(key_node.value, (*path, key_node.value), line)
            here = (*path, key)
            if not path and key.startswith(_EXTENSION_PREFIX):
                continue
            if key in first:
                self.source.problems.append(
                    Problem(line, spell_path(here), f"duplicate key (first defined on line {first[key]})")
                )
                continue
            first[key] = line
            values[key] = self.build(value_node, here, line)
        return merged | values

    def _merge(self, node: yaml.Node, path: KeyPath, line: int) -> dict[str, Any]:
        """Return what `<<: *name` brings in; keys of the mapping itself win, as in YAML 1.1's merge."""
        merged: dict[str, Any] = {}
        for item in reversed(node.value) if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(item, yaml.MappingNode):
                merged |= self.build(item, path, self.source.lines[path])
            else:
                self.source.problem(path, "<< takes a mapping or a list of mappings", line)
        return merged

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag not in _PLAIN_TAGS or node.style in {"'", '"', "|", ">"}:
            return self._expand(node.value, path, _line(node))
        kind = node.tag.rpartition(":")[2]
        if kind in _NUMBERS and not _NUMBERS[kind].fullmatch(node.value):
            # 1:30 is 90 and 010 is 8 to YAML 1.1; nobody who types them here means that
            return node.value
        try:
            value = self._loader.construct_object(node)
        except (KeyError, ValueError):
            self.source.problem(path, f"the value does not match its tag (!!{kind})", _line(node))
            return None
        if isinstance(value, float):
            value = SpelledFloat(value)
            value.spelling = node.value
        return self._expand(value, path, _line(node)) if isinstance(value, str) else value

    def _expand(self, text: str, path: KeyPath, line: int) -> str:
        """Replace ${NAME} by the environment's value; $${ stands for a literal ${."""
        if "${" not in text:
            return text

        def replace(found: re.Match[str]) -> str:
            if found[0].startswith("$$"):
                return found[0][1:]
            if not found[0].endswith("}") or not _NAME.fullmatch(found[1]):
                message = "${ does not start a variable such as ${NAME}; write $${ for a literal ${"
                self.source.problem(path, message, line)
                return found[0]
            if found[1] not in self._environment:
                if path and _SECRET_KEY.search(str(path[-1])) and found[0] != text.strip():
                    # what looks like a variable may be a piece of a password
                    message = "an environment variable in it is not set (write $${ for a literal ${)"
                else:
                    message = f"the environment variable {shorten(found[1])} is not set"
                self.source.problem(path, message, line)
                return found[0]
            self.source.expanded.add(path)
            value = self._environment[found[1]]
            if any("\ud800" <= letter <= "\udfff" for letter in value):  # how Python carries bytes that are no text
                self.source.problem(path, f"the environment variable {shorten(found[1])} is not UTF-8 text", line)
            return value

        return _VARIABLE.sub(replace, text)


def _line(item: yaml.Node | yaml.Event) -> int:
    mark: Any = item.start_mark
    line: int = mark.line + 1
    return line
