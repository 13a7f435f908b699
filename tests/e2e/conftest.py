"""What several of these tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.e2e.docker import Engine, EngineError
from tests.requirements import forbidden, missing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def engine(pytestconfig: pytest.Config) -> Iterator[Engine]:
    """Start a Docker engine that has the base image."""
    if os.geteuid() != 0:
        forbidden("an ordinary user may start no Docker engine")
    if lacking := Engine.missing():
        missing(f"no Docker engine: {lacking}")
    assert pytestconfig.cache is not None
    try:
        with Engine() as found:
            found.import_base(pytestconfig.cache.mkdir("image"))
            yield found
    except EngineError as error:
        missing(f"no Docker engine: {error}")
