"""What the tests of the configuration share: a conf.yml of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from portspec.config import Config, load
from portspec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Conf(Protocol):
    """Writes a text or bytes to conf.yml and reads it as portspec does."""

    def load(self, content: str | bytes, environment: Mapping[str, str] | None = None) -> Config:
        """Load what must be right."""
        ...

    def problems(self, content: str | bytes, environment: Mapping[str, str] | None = None) -> list[str]:
        """Load what must be wrong, and give the lines of the error, with the path spelled conf.yml."""
        ...


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, content: str | bytes, environment: Mapping[str, str] | None = None) -> Config:
        self._path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load(self._path, environment or {})

    def problems(self, content: str | bytes, environment: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(content, environment)
        return str(caught.value).replace(str(self._path), "conf.yml").split("\n")


@pytest.fixture
def conf(tmp_path: Path) -> Conf:
    """Return a conf.yml in a directory of its own."""
    return _File(tmp_path / "conf.yml")
