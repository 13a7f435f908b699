"""Configurations of hosts on loopback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.unit.cli.run import STARTER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Configure(Protocol):
    """Writes a configuration file; returns its path."""

    def __call__(self, hosts: Mapping[str, Any], scanports: object = (1,), **keys: object) -> str:
        """Write hosts, scanports and whatever other keys."""
        ...


@pytest.fixture(scope="package", autouse=True)
def starter() -> Iterator[None]:
    """End what programs are forked from with the last of these tests."""
    yield
    STARTER.end()


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """Return a writer of configuration files (JSON is YAML)."""

    def write(hosts: Mapping[str, Any], scanports: object = (1,), **keys: object) -> str:
        path = tmp_path / "conf.yml"
        path.write_text(json.dumps({"hosts": hosts, "scanports": scanports, **keys}), encoding="utf-8")
        path.chmod(0o600)  # there may be a passphrase in it
        return str(path)

    return write
