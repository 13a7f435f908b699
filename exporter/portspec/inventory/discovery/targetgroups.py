"""Lists of targets as Prometheus's service discovery has them, which a stranger may have written → plain values.

https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass, field
from itertools import accumulate, chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from portspec.config.fields import check_label_name
from portspec.config.yaml_document import MAX_DEPTH, MAX_VALUES, is_depth_limit
from portspec.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


_MAX_LABEL_NAME = 1024  # characters


def check_label(name: str, value: object) -> str:
    """Return the value of a label that a source has; ValueError if conf.yml would refuse the label."""
    if len(name) > _MAX_LABEL_NAME:  # first, for by aliases of YAML many labels may have the same name of a MB
        raise ValueError(f'the name of the label "{shorten(name)}" has more than {_MAX_LABEL_NAME} characters')
    check_label_name(name)
    if not isinstance(value, str):
        raise ValueError(f'the value of the label "{name}" is not a text')  # noqa: TRY004 - as for a wrong name
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, UTF-8 cannot
        raise ValueError(f'the value of the label "{name}" is not Unicode text') from None
    return value


class ListError(ValueError):
    """A list of targets that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """Targets and their labels as they were written: keys are texts, all else may be anything."""

    targets: tuple[object, ...]
    labels: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


_EMPTY = "is empty; a list without targets is []"
_TOO_MANY_VALUES = f"has more than {MAX_VALUES:,} values"
_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive, and open at the end: linear on any input
_DEPTH_CHANGES = {"[": 1, "{": 1, "]": -1, "}": -1}


def read_json(data: bytes) -> tuple[TargetGroup, ...]:
    """Read target groups from JSON; numbers become texts as they are spelled. Raises ListError.

    As in Go, which reads them for Prometheus, null is an empty list, keys of a group may be written in capitals, and
    bytes in a string that are not UTF-8 become U+FFFD.
    """
    text = data.decode("utf-8-sig", errors="replace")
    structure = _STRING.sub("", text)
    if "\ufffd" in structure:
        text = _text(data)
    if max(sum(map(structure.count, "[{,")), sum(map(structure.count, "]}"))) > MAX_VALUES:
        raise ListError(_TOO_MANY_VALUES)
    # The C scanner recurses, and how deep a thread's stack goes depends on the C library.
    if (
        max(accumulate(_DEPTH_CHANGES[bracket] for bracket in re.findall(r"[\[\]{}]", structure)), default=0)
        > MAX_DEPTH
    ):
        raise ListError(_TOO_DEEP)
    if not text.strip():
        raise ListError(_EMPTY)
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        raise ListError(f"is not valid JSON: {error.msg.lower()} on line {error.lineno}") from None
    return _groups(value, keys=str.lower)


def read_yaml(data: bytes) -> tuple[TargetGroup, ...]:
    """Read target groups from YAML; every scalar is a text, or None. Raises ListError.

    Of several documents each is a list. One that holds nothing is an empty list, as it is to Prometheus.
    """
    text = _text(data, "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    builder = _YamlBuilder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        if is_depth_limit(error):
            raise ListError(_TOO_DEEP) from None
        where = f" on line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ListError(f"is not valid YAML: {error.problem or error.context}{where}") from None
    except yaml.YAMLError:
        raise ListError("has a character that YAML does not allow") from None
    except ListError:
        raise
    except (ValueError, OverflowError):  # PyYAML's own scanner, of an escape beyond Unicode
        raise ListError("is not valid YAML: invalid escape sequence") from None
    return tuple(chain.from_iterable(map(_groups, builder.documents)))


def _text(data: bytes, encoding: str = "utf-8-sig") -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ListError(f"is not UTF-8 text (byte 0x{data[error.start]:02x} at {error.start})") from None
    if not text.strip():
        raise ListError(_EMPTY)
    return text


def _groups(value: object, keys: Callable[[str], str] = str) -> tuple[TargetGroup, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ListError('is not a list of target groups, [{"targets": […], "labels": {…}}, …]')
    made: dict[int, TargetGroup] = {}  # aliases of YAML are the same item
    targets = 0
    for number, item in enumerate(value, 1):
        if id(item) not in made:
            made[id(item)] = _group(number, item, keys)
        targets += len(made[id(item)].targets)
        if targets > MAX_VALUES:  # aliases multiply; before all of them are copied
            raise ListError(_TOO_MANY_VALUES)
    return tuple(made[id(item)] for item in value)


def _group(number: int, item: object, keys: Callable[[str], str]) -> TargetGroup:
    """Read a group; one without targets is an empty one, unless another key looks as if it held them."""
    if not isinstance(item, dict):
        raise ListError(f"has a target group, number {number}, that is not a mapping")
    group = {keys(key): value for key, value in item.items()} | item
    targets = group.get("targets")
    labels = group.get("labels")
    if targets is not None and not isinstance(targets, list):
        raise ListError(f"has a target group, number {number}, whose targets are not a list")
    if "targets" not in group and (others := set(map(keys, item)) - {"labels", "source"}):
        key = shorten(min(others))
        raise ListError(f'has a target group, number {number}, with "{key}" and without targets')
    if labels is not None and not isinstance(labels, dict):
        raise ListError(f"has a target group, number {number}, whose labels are not a mapping")
    return TargetGroup(tuple(targets or ()), labels or {})


class _YamlBuilder:
    """Makes plain values of YAML's events, without recursion and tags; an alias is the same object again."""

    def __init__(self) -> None:
        self.documents: list[Any] = []
        self._open: list[list[Any] | dict[str, Any]] = [self.documents]
        self._keys: list[str | None] = [None]  # of the mapping at each level, the key whose value comes next
        self._merges: list[list[Any]] = [[]]  # of the mapping at each level, what << brings in, the nearest first
        self._is_merge = False  # the next value is such a one
        self._anchors: dict[str, Any] = {}
        self._values = 0

    def take(self, event: yaml.Event) -> None:
        """Return the next event."""
        if isinstance(event, yaml.ScalarEvent):
            is_plain = event.style not in {"'", '"', "|", ">"}
            if is_plain and event.value == "<<" and self._expects_key():
                self._is_merge = True
                return
            self._add(None if is_plain and event.value in {"", "~", "null", "Null", "NULL"} else event.value, event)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise ListError(f"is not valid YAML: the alias *{shorten(str(event.anchor))} is undefined")
            self._add(self._anchors[event.anchor], None)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened: list[Any] | dict[str, Any] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
            self._add(opened, event)
            self._open.append(opened)
            self._keys.append(None)
            self._merges.append([])
            if len(self._open) > MAX_DEPTH + 1:
                raise ListError(_TOO_DEEP)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._keys.pop()
            self._merge(self._open.pop(), self._merges.pop())

    def _expects_key(self) -> bool:
        return isinstance(self._open[-1], dict) and self._keys[-1] is None and not self._is_merge

    def _merge(self, into: list[Any] | dict[str, Any], merges: Sequence[Any]) -> None:
        """Merge the values of << into a mapping, whose own keys win (https://yaml.org/type/merge.html)."""
        for merged in merges:
            for item in merged if isinstance(merged, list) else [merged]:
                if not isinstance(item, dict) or not isinstance(into, dict):
                    raise ListError("merges (<<) something other than a mapping or a list of mappings")
                self._count(1 + len(item))
                for key, value in item.items() if item is not into else ():
                    into.setdefault(key, value)

    def _add(self, value: Any, event: yaml.NodeEvent | None) -> None:
        self._count(1)
        if event is not None and event.anchor is not None:
            self._anchors[event.anchor] = value
        above = self._open[-1]
        if self._is_merge:
            self._is_merge = False
            self._merges[-1].append(value)
        elif isinstance(above, list):
            above.append(value)
        elif (key := self._keys[-1]) is not None:
            above[key] = value
            self._keys[-1] = None
        elif isinstance(value, str):
            self._keys[-1] = value
        else:
            raise ListError("has a key that is not a plain word")

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise ListError(_TOO_MANY_VALUES)
