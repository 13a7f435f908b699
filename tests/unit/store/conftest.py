"""The file, and the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from portspec.store import database
from tests.unit.store.scenes import Logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a file that is not there yet."""
    return tmp_path / "portspec.db"


@pytest.fixture
def logs() -> Iterator[Logs]:
    """Give the events that the test logs."""
    with Logs() as found:
        yield found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait for a lock."""
    monkeypatch.setattr(database, "WRITE_LOCK_TIMEOUT", 0.0)
    monkeypatch.setattr(database, "READ_LOCK_TIMEOUT", 0.0)
