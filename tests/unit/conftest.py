from __future__ import annotations

import pytest

from portspec.store import database


@pytest.fixture
def no_lock_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for locks."""
    monkeypatch.setattr(database, "WRITE_LOCK_TIMEOUT", 0.0)
    monkeypatch.setattr(database, "READ_LOCK_TIMEOUT", 0.0)
