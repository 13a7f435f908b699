"""Fixtures of the tests of audits: a clock, and an archive that is looked at all the time."""

from __future__ import annotations

import pytest

import portspec.audit.service as module
from tests.unit.reporting import Clock


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the archive be looked at all the time."""
    monkeypatch.setattr(module, "POLL", 0.002)
