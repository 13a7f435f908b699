"""Fixtures of many tests: the path of a state file, the log, a state file without waiting for locks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from portspec.store import database
from tests.unit.store.scenes import Logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust no authority of the system: no test has a peer that one knows, and to read them takes 30 ms of CPU."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a state file that does not exist yet."""
    return tmp_path / "portspec.db"


@pytest.fixture
def logs() -> Iterator[Logs]:
    """Yield the events that the test logs."""
    with Logs() as found:
        yield found


@pytest.fixture
def no_lock_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for locks."""
    monkeypatch.setattr(database, "WRITE_LOCK_TIMEOUT", 0.0)
    monkeypatch.setattr(database, "READ_LOCK_TIMEOUT", 0.0)
