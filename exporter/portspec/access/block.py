"""One mapping of the web config file: its values by type, and problems with line and key for those not valid."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeVar

from portspec.config.fields import flag
from portspec.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from portspec.config.yaml_document import KeyPath, YamlDocument

T = TypeVar("T")


class Block:
    """A mapping at a path of the file. What is no mapping counts as an empty one, after a problem.

    `known` are the keys that it may have; None for a mapping whose keys the user chooses. A method returns its default
    for a key that is missing or null, and for one that is not valid, after a problem.
    """

    def __init__(
        self, source: YamlDocument, path: KeyPath, value: object, known: Collection[str] | None = None
    ) -> None:
        self._source = source
        self._path = path
        self._values: dict[str, object] = {}
        if isinstance(value, dict):
            self._values = {str(key): item for key, item in value.items()}
        elif value is not None:
            self.problem(None, "expected a mapping (key: value)")
        if known is not None:
            for key in self._values.keys() - set(known):
                self.problem(key, _unknown(key, sorted(known)))

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys, in the order of the file."""
        return tuple(self._values)

    def problem(self, key: str | None, message: str, place: int | None = None) -> None:
        """Add a problem with a key, or with the item at a place of its list; None for the mapping itself."""
        path = self._path if key is None else (*self._path, key)
        path = path if place is None else (*path, place)
        if path not in self._source.faulty:  # one fault, one line: an unset ${NAME} is not an invalid value as well
            self._source.problem(path, message)

    def block(self, key: str, known: Collection[str] | None = None) -> Block:
        """Return a mapping in this one."""
        return Block(self._source, (*self._path, key), self._values.get(key), known)

    def text(self, key: str) -> str | None:
        """Return a string; None for "", as exporter-toolkit takes it."""
        value = self._values.get(key)
        found = _text(value)
        if found is None and value is not None:
            self.problem(key, "expected a string (put it in quotes)")
        return found or None

    def raw(self, key: str) -> object:
        """Return a value as it stands in the file."""
        return self._values.get(key)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._values.get(key)
        if value is None:
            return default
        try:
            return flag(value)
        except ValueError as error:
            self.problem(key, str(error))
            return default

    def texts(self, key: str) -> tuple[tuple[int, str], ...] | None:
        """Return the strings of a list, each with its place for problem(); None if there is no list."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            self.problem(key, "expected a list")
            return None
        found = [(place, _text(item)) for place, item in enumerate(value)]
        for place, text in found:
            if not text:
                self.problem(key, "expected a string (put it in quotes)", place)
        return tuple((place, text) for place, text in found if text)

    def choice(self, key: str, choices: Mapping[str, T], default: T) -> T:
        """Return what a word stands for."""
        word = self.text(key)
        if word is None:
            return default
        return self.choose(key, word, choices, default)

    def choose(self, key: str, word: str, choices: Mapping[str, T], default: T, place: int | None = None) -> T:
        """Return what a word stands for that is the value of a key, or the item at a place of its list."""
        if word not in choices:
            self.problem(key, f'"{shorten(word)}" is not known (known: {", ".join(choices)})', place)
        return choices.get(word, default)


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _unknown(key: str, known: list[str]) -> str:
    close = next(iter(difflib.get_close_matches(key, known, n=1)), None)
    return f"unknown key (did you mean {close}?)" if close else f"unknown key (known: {', '.join(known)})"
