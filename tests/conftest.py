"""The fixture that gives tests a lab."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.lab.network import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """One lab for all tests: each calls ``lab.apply`` first, which undoes whatever the one before did."""
    why = Lab.unavailable()
    if why is not None:
        reason = f"no lab on this machine: {why}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with Lab() as built:
        yield built
