"""Fixtures: the path of a state file, the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.store.scenes import Logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that does not exist yet."""
    return tmp_path / "portspec.db"


@pytest.fixture
def logs() -> Iterator[Logs]:
    """Yield the events that the test logs."""
    with Logs() as found:
        yield found
