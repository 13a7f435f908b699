"""Engines that are closed after the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from portspec.scan.connect import ConnectEngine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def engine() -> Iterator[ConnectEngine]:
    """Return an engine with a timeout that loopback never meets."""
    made = ConnectEngine(timeout=30.0, retries=0)
    yield made
    made.close()


@pytest.fixture
def quick_engine() -> Iterator[ConnectEngine]:
    """Return an engine that gives up on silence after a tenth of a second: two attempts of 50 ms each."""
    made = ConnectEngine(timeout=0.05, retries=1)
    yield made
    made.close()
