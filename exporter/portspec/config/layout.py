"""Where the values of a YAML file stand: a tree of positions, so that a line can be changed and no other.

PyYAML gives events with the position of their first and last character; an alias is an event of its own, unlike in a
tree of nodes, where it is the node of its anchor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Place:
    """A value in the text, from character `start` to before `end`; of a block of lines `end` is that of its last value.

    Attributes:
        text: The value of a scalar, None for anything else.
        items: The items of a list.
        pairs: The keys and values of a mapping.
        is_flow: True for a list or mapping in brackets or braces.
        is_alias: True for *name.
        anchor: The name of &name, None without.
        is_plain: True for a scalar without quotes.
        key_end: Where its key ends, if it is the value of one.
        target: What an alias stands for.
    """

    start: int
    end: int
    column: int
    text: str | None = None
    items: list[Place] | None = None
    pairs: list[tuple[Place, Place]] | None = None
    is_flow: bool = False
    is_alias: bool = False
    is_plain: bool = False
    anchor: str | None = None
    key_end: int = -1
    target: Place | None = None

    @property
    def is_empty(self) -> bool:
        """True for null, written out or not."""
        return self.is_plain and self.text in ("", "~", "null", "Null", "NULL")

    def get(self, key: str) -> Place | None:
        """Return the value of a key of a mapping, None if there is none."""
        return next((value for name, value in self.pairs or () if name.text == key), None)


@dataclass(slots=True)
class _Events:
    events: Iterator[Any]
    aliases: set[str] = field(default_factory=set)
    anchors: dict[str, Place] = field(default_factory=dict)


def read_layout(text: str) -> tuple[Place | None, frozenset[str]]:
    """Return where the values of a document stand, and the names that are used as aliases. The text is valid YAML."""
    source = _Events(iter(yaml.parse(text, Loader=_LOADER)))
    for event in source.events:
        if isinstance(event, yaml.NodeEvent):
            return _place(source, event), frozenset(source.aliases)
    return None, frozenset()


def _place(source: _Events, event: Any) -> Place:
    start, end, column = event.start_mark.index, event.end_mark.index, event.start_mark.column
    if isinstance(event, yaml.AliasEvent):
        source.aliases.add(str(event.anchor))
        return Place(start, end, column, is_alias=True, target=source.anchors.get(str(event.anchor)))
    place = Place(start, end, column, anchor=event.anchor)
    if place.anchor:
        source.anchors[place.anchor] = place
    if isinstance(event, yaml.ScalarEvent):
        place.text = event.value
        place.is_plain = not event.style and not event.tag
        return place
    place.is_flow = bool(event.flow_style)
    children: list[Place] = []
    for inner in source.events:
        if isinstance(inner, yaml.CollectionEndEvent):
            place.end = cast("Any", inner).end_mark.index
            break
        children.append(_place(source, inner))
    if isinstance(event, yaml.SequenceStartEvent):
        place.items = children
    else:
        place.pairs = list(zip(children[::2], children[1::2], strict=True))
        for key, value in place.pairs:
            value.key_end = key.end
    if children and not place.is_flow:
        place.end = children[-1].end  # the end of a block is where the next thing starts, after comments
    return place
