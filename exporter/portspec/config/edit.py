"""Edits of conf.yml that leave every other line as it is: comments, order, quotes, indentation.

The text is not written anew from its values, as YAML libraries do, but changed in the one place that is meant. Whether
the result says what was intended is for the caller to check, by loading it: a file can be written in more ways than
these edits know. They raise EditError where they know that they cannot.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from portspec.config.layout import Place, read_layout
from portspec.errors import shorten
from portspec.ports import PortError, PortSet, parse_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_INDENT: Final = 2
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*( [A-Za-z0-9_.-]+)*")
_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")
_RESERVED: Final = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # YAML 1.1


class EditError(Exception):
    """The text cannot be changed so; the message says why."""


@dataclass(frozen=True, slots=True)
class _Change:
    """Characters from `start` to before `end` that are replaced."""

    start: int
    end: int
    new: str


class Editor:
    """Changes the text of one conf.yml, which is valid."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._root, self._aliases = read_layout(text)
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._changes: list[_Change] = []

    def result(self) -> str:
        """Return the changed text."""
        text = self._text
        for change in sorted(self._changes, key=lambda item: (item.start, item.end), reverse=True):
            text = text[: change.start] + change.new + text[change.end :]
        return text

    def host(self, is_it: Callable[[str], bool]) -> Place | None:
        """Return the value of the first key of `hosts` that is it; None if the file has none."""
        hosts = self._root.get("hosts") if self._root else None
        return next((value for key, value in (hosts.pairs or ()) if is_it(key.text or "")), None) if hosts else None

    def line(self, place: Place) -> int:
        """Return the line of a value, from 1."""
        return self._text.count("\n", 0, place.start) + 1

    def set_ports(self, host: Place, before: Mapping[str, PortSet], after: Mapping[str, PortSet]) -> None:
        """Change the ports of a host under `expect` and `allow`: what they are in all, and what they are to be."""
        self._check_shared(host, "its value")
        if host.pairs is None:
            if after["allow"] == before["allow"]:
                self._change_list(host, before["expect"], after["expect"])
            else:
                self._make_mapping(host, before, after)
            return
        added = {}
        for key in ("expect", "allow"):
            if after[key] == before[key]:
                continue
            value = host.get(key)
            if value is None:
                added[key] = after[key]
            else:
                self._check_shared(value, key)
                self._change_list(value, before[key], after[key])
        if added:
            self._add_pairs(host, {key: _flow(ports) for key, ports in added.items()})

    def add_exception(self, fields: Mapping[str, object]) -> None:
        """Add an item to `exceptions`; values are texts, or lists of texts and numbers."""
        if self._root is None or self._root.pairs is None:
            raise EditError("it has no keys")
        item = self._mapping({key: _json(value) for key, value in fields.items()})
        block = [f"{key}: {_yaml(value)}" for key, value in fields.items()]
        found = self._root.get("exceptions")
        if found is None:
            if self._root.is_flow:
                self._add_pairs(self._root, {"exceptions": f"[{item}]"})
            else:
                self._insert_lines_after(self._root.pairs[-1], ["exceptions:", *_item(block, " " * _INDENT)])
        elif found.is_empty:
            self._replace_value(found, f"[{item}]")
        elif found.items is None or found.is_alias:
            raise EditError(f"exceptions on line {self.line(found)} is not a list")
        elif found.is_flow:
            self._add_to_flow(found, found.items, item)
        else:
            indent = " " * self._dash_column(found.items[0])
            self._insert_lines_after(found.items[-1], _item(block, indent))

    def _check_shared(self, place: Place, what: str) -> None:
        if place.anchor in self._aliases:
            raise EditError(f"{what} on line {self.line(place)} is used in other places, too: &{place.anchor}")

    def _change_list(self, value: Place, before: PortSet, after: PortSet) -> None:
        """Change a list of ports, in whatever way it is written."""
        new, gone = after - before, before - after
        if not new and not gone:
            return
        if value.items and not value.is_flow:
            if not self._change_block(value, gone, new):
                after_key = self._text.index(":", value.key_end) + 1
                self._changes.append(_Change(after_key, after_key, " []"))
        elif value.items and not gone:
            self._add_to_flow(value, value.items, _flow(new)[1:-1])
        elif value.items and self._has_lines(value):
            self._cut(value.items, gone)
            if new:
                self._add_to_flow(value, value.items, _flow(new)[1:-1])
        else:
            self._replace_value(value, self._in_brackets(value, gone, new))

    def _has_lines(self, place: Place) -> bool:
        """Return whether a list in brackets goes over several lines: there may be comments between its items."""
        return "\n" in self._spelled(place)

    def _cut(self, items: Sequence[Place], gone: PortSet) -> None:
        """Take ports out of a list in brackets, each with its comma; comments and lines stay."""
        kept_end = None
        for item in items:
            words = self._without(item, gone)
            if words is None or words:
                kept_end = item.end
                if words:
                    self._replace(item, words[0] if len(words) == 1 else f"[{', '.join(words)}]")
                continue
            comma = _COMMA.match(self._text, item.end)
            if comma:
                self._changes.append(_Change(item.start, comma.end(), ""))
            elif kept_end is None or self._text[kept_end : item.start].strip() != ",":
                raise EditError(f"line {self.line(item)} has the last item of a list over several lines")
            else:
                self._changes.append(_Change(kept_end, item.end, ""))

    def _change_block(self, value: Place, gone: PortSet, new: PortSet) -> bool:
        """Change a list with an item on each line: what stays of it stays as it is. Returns whether it has items."""
        items = value.items or []
        kept = 0
        for item in items:
            words = self._without(item, gone)
            if words is None:
                kept += 1
            elif words:
                kept += 1
                self._replace(item, words[0] if len(words) == 1 else f"[{', '.join(words)}]")
            else:
                self._delete_line(item)
        if new:
            indent = " " * self._dash_column(items[0])
            self._insert_lines_after(items[-1], [f"{indent}- {word}" for word in _words(new)])
        return bool(kept or new)

    def _in_brackets(self, value: Place, gone: PortSet, new: PortSet) -> str:
        """Return a list of ports in brackets, without some ports and with others."""
        if value.items is not None and self._has_lines(value):
            raise EditError(f"line {self.line(value)} has a list over several lines")
        items = [] if value.is_empty else [value] if value.items is None else value.items
        words: list[str] = []
        for item in items:
            rest = self._without(item, gone)
            words += [self._spelled(item)] if rest is None else rest
        inside = ", ".join((*words, *_words(new)))
        return f"[{inside} ]" if inside.startswith("*") and "," not in inside else f"[{inside}]"

    def _without(self, item: Place, gone: PortSet) -> list[str] | None:
        """Return what is left of an item of a list without some ports; None if it has none of them."""
        if not gone:
            return None
        ports = _ports(item)
        if not ports & gone:
            return None
        if item.is_alias:
            raise EditError(f"line {self.line(item)} has an alias, whose ports are listed elsewhere")
        return _words(ports - gone)

    def _make_mapping(self, host: Place, before: Mapping[str, PortSet], after: Mapping[str, PortSet]) -> None:
        """Make a mapping of a list of ports, which is short for `expect`; the lines of a list stay as they are."""
        gone, new = before["expect"] - after["expect"], after["expect"] - before["expect"]
        if host.items and host.is_flow and self._has_lines(host):
            key, value = self._mapping({"expect": "", "allow": _flow(after["allow"])})[:-1].split(", ", 1)
            self._changes.append(_Change(host.start, host.start, key))
            self._change_list(host, before["expect"], after["expect"])
            self._changes.append(_Change(host.end, host.end, f", {value}}}"))
            return
        if not host.items or host.is_flow:
            expect = {"expect": self._in_brackets(host, gone, new)} if not host.is_empty or new else {}
            self._replace_value(host, self._mapping(expect | {"allow": _flow(after["allow"])}))
            return
        first, last = self._line_start(host.items[0].start), host.items[-1]
        column = self._dash_column(host.items[0])
        value = "" if self._change_block(host, gone, new) else " []"
        if column <= self._key_column(host):  # the dashes stand below the name: they move to the right
            deleted = [(change.start, change.end) for change in self._changes if not change.new]
            for start in self._line_starts(first, last.end):
                if not any(begin <= start < end for begin, end in deleted):
                    self._changes.append(_Change(start, start, " " * _INDENT))
            self._changes = [
                replace(change, new=f"{' ' * _INDENT}{change.new}") if change.new.lstrip().startswith("- ") else change
                for change in self._changes
            ]
            column += _INDENT
        self._changes.append(_Change(first, first, f"{' ' * column}expect:{value}{self._newline}"))
        self._insert_lines_after(last, [f"{' ' * column}allow: {_flow(after['allow'])}"])

    def _mapping(self, pairs: Mapping[str, str]) -> str:
        """Return a mapping in braces; its values are spelled already."""
        is_json = self._root is not None and self._root.is_flow
        return "{" + ", ".join(f"{_json(key) if is_json else key}: {value}" for key, value in pairs.items()) + "}"

    def _add_pairs(self, mapping: Place, added: Mapping[str, str]) -> None:
        """Add keys to a mapping; values are in flow style."""
        pairs = mapping.pairs or []
        if mapping.is_flow:
            self._add_to_flow(mapping, [value for _, value in pairs], self._mapping(added)[1:-1])
        else:
            indent = " " * pairs[0][0].column
            self._insert_lines_after(pairs[-1], [f"{indent}{key}: {value}" for key, value in added.items()])

    def _add_to_flow(self, place: Place, inside: Sequence[Place], words: str) -> None:
        """Add to what is in brackets or braces, after its last value."""
        if inside:
            last = inside[-1]
            self._changes.append(_Change(last.end, last.end, f", {words}"))
        else:
            self._replace(place, f"{self._text[place.start]}{words}{self._text[place.end - 1]}")

    def _insert_lines_after(self, place: Place | tuple[Place, Place], lines: Sequence[str]) -> None:
        """Add lines after that on which a value ends."""
        end = place[1].end if isinstance(place, tuple) else place.end
        if isinstance(place, tuple) and self._is_unwritten(place[1]):
            end = max(end, place[0].end)
        if end and self._text[end - 1] == "\n":  # a block scalar has its line end
            end -= 1
        at = self._text.find("\n", end)
        if at < 0:
            text = self._newline + self._newline.join(lines)
            self._changes.append(_Change(len(self._text), len(self._text), text))
        else:
            self._changes.append(_Change(at + 1, at + 1, "".join(f"{line}{self._newline}" for line in lines)))

    def _replace_value(self, place: Place, new: str) -> None:
        """Replace the value of a key, which may not be written out."""
        self._replace(place, f" {new}" if self._is_unwritten(place) else new)

    def _delete_line(self, item: Place) -> None:
        """Delete the line of an item, with the comment behind it."""
        start = self._line_start(item.start)
        end = self._text.find("\n", item.end) + 1 or len(self._text)
        self._changes.append(_Change(start, end, ""))

    def _replace(self, place: Place, new: str) -> None:
        self._changes.append(_Change(place.start, place.end, new))

    def _spelled(self, place: Place) -> str:
        return self._text[place.start : place.end]

    def _is_unwritten(self, place: Place) -> bool:
        return place.start == place.end

    def _line_start(self, index: int) -> int:
        return self._text.rfind("\n", 0, index) + 1

    def _line_starts(self, first: int, end: int) -> list[int]:
        """Return where the lines begin that are not empty, from the first to the one that a value ends on."""
        starts = [first]
        while 0 < (following := self._text.find("\n", starts[-1]) + 1) < end:
            starts.append(following)
        return [start for start in starts if self._text[start : start + 1] not in ("\n", "\r")]

    def _key_column(self, value: Place) -> int:
        """Return the column of the key of a value below `hosts`."""
        hosts = self._root.get("hosts") if self._root else None
        return next((key.column for key, other in (hosts.pairs or ()) if other is value), 0) if hosts else 0

    def _dash_column(self, item: Place) -> int:
        """Return the column of the dash before the item of a block of lines."""
        dash = self._text.rfind("-", 0, max(item.start, 1))
        return dash - self._line_start(dash)


def _item(lines: Sequence[str], indent: str) -> list[str]:
    """Return the lines of an item of a list."""
    return [f"{indent}{'  ' if number else '- '}{line}" for number, line in enumerate(lines)]


def _ports(place: Place) -> PortSet:
    """Return the ports that a value stands for. Raises EditError for a scalar that has variables, and for a mapping."""
    if place.is_alias:
        return _ports(place.target) if place.target else PortSet()
    if place.items is not None:
        return PortSet.of_ranges(span for item in place.items for span in _ports(item).ranges)
    text = place.text or ""
    try:
        return parse_ports(text)
    except PortError as error:
        raise EditError(f'"{shorten(text)}" cannot be split: {error}') from None


def _words(ports: PortSet) -> list[str]:
    return [word if word.isdigit() else json.dumps(word) for word in ports.spellings()]


def _flow(ports: PortSet) -> str:
    return f"[{', '.join(_words(ports))}]"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _yaml(value: object) -> str:
    """Spell a text, or a list of texts and numbers, as people write them."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    text = str(value)
    is_plain = isinstance(value, int) or (_PLAIN.fullmatch(text) and text.lower() not in _RESERVED)
    return text if is_plain else _json(text)
