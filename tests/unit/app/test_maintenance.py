from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from portspec.app.maintenance import Maintenance
from portspec.store import Store, StoreError
from tests.unit.factories import NOW, window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Scene:
    """Maintenance of an exporter with a state file; `applied` are the hosts under maintenance at each change."""

    def __init__(self, path: Path) -> None:
        self.now = NOW
        self.applied: list[set[str]] = []
        self.store = Store(str(path), history=1e6, wall_clock=lambda: self.now, retry=0.01)
        self.store.open([])
        self.maintenance = Maintenance(self.store, self._apply, lambda: self.now)
        self.maintenance.restore()
        self.store.start()
        self.store.flush(10)

    async def _apply(self) -> None:
        self.applied.append(set(self.maintenance.windows))

    def begin(self, *hosts: str, until: float, reason: str = "") -> None:
        """Begin maintenance."""
        asyncio.run(self.maintenance.begin(hosts, until, reason, ""))


@pytest.fixture
def scene(path: Path) -> Iterator[Scene]:
    """Return an exporter that holds the state file."""
    found = Scene(path)
    yield found
    found.store.close()


def test_maintenance_survives_a_restart(scene: Scene, path: Path) -> None:
    """What was asked for is in the state file, with its beginning, its reason, and its end."""
    scene.begin("db1", "db2", until=NOW + 60, reason="a «reason»")
    assert scene.applied == [{"db1", "db2"}]
    scene.store.close()
    again = Scene(path)
    try:
        assert again.maintenance.windows == {
            host: window(NOW, NOW + 60, "a «reason»", hosts=[host]) for host in ("db1", "db2")
        }
    finally:
        again.store.close()


def test_maintenance_of_a_former_name_is_that_of_the_host(scene: Scene) -> None:
    """Another request under the new name takes its place, and it is ended under the new name."""
    scene.begin("old1", "db1", until=NOW + 60)
    scene.store.former_names = {"new1": ("older1", "old1")}
    assert scene.maintenance.window_of("new1") == window(NOW, NOW + 60, hosts=["old1"])
    scene.now = NOW + 30
    scene.begin("new1", until=NOW + 40)
    assert set(scene.maintenance.windows) == {"new1", "db1"}
    assert scene.maintenance.window_of("new1") == window(NOW, NOW + 40, hosts=["new1"])
    scene.begin("old1", until=NOW + 60)
    asyncio.run(scene.maintenance.end(["new1"]))
    assert set(scene.maintenance.windows) == {"db1"}


def test_another_request_changes_the_end_and_keeps_the_beginning(scene: Scene) -> None:
    """A host has one maintenance that was asked for; what is over is forgotten with the next request."""
    scene.begin("db1", until=NOW + 60)
    scene.now = NOW + 30
    scene.begin("db1", until=NOW + 90)
    assert scene.maintenance.windows == {"db1": window(NOW, NOW + 90, hosts=["db1"])}
    scene.now = NOW + 90
    scene.begin("db2", until=NOW + 99)
    assert scene.maintenance.windows == {"db2": window(NOW + 90, NOW + 99, hosts=["db2"])}
    asyncio.run(scene.maintenance.end(["db2"]))
    assert scene.maintenance.windows == {}
    assert scene.applied == [{"db1"}, {"db1"}, {"db2"}, set()]


def test_exporter_on_standby_follows_the_one_that_holds_the_file(scene: Scene, path: Path) -> None:
    """It knows the maintenance before it takes over, and can begin none itself."""
    scene.begin("db1", until=NOW + 60)
    other = Scene(path)
    try:
        assert set(other.maintenance.windows) == {"db1"}
        scene.begin("db2", until=NOW + 60)
        asyncio.run(other.maintenance.look())
        assert other.applied == [{"db1", "db2"}]
        with pytest.raises(StoreError):
            other.begin("db3", until=NOW + 60)
        assert set(other.maintenance.windows) == {"db1", "db2"}
    finally:
        other.store.close()


def test_state_file_that_has_lost_the_maintenance_gets_it_again(scene: Scene, path: Path) -> None:
    """A file that is new, since the one before was removed, gets what the exporter knows."""
    scene.begin("db1", until=NOW + 60)
    scene.store.transact(lambda file: file.execute("DELETE FROM meta WHERE key = 'maintenance'"))
    asyncio.run(scene.maintenance.look())
    assert set(scene.maintenance.windows) == {"db1"}
    with closing(sqlite3.connect(path)) as file:
        ((document,),) = file.execute("SELECT value FROM meta WHERE key = 'maintenance'").fetchall()
    assert '"host":"db1"' in document


@pytest.mark.parametrize("document", ["", "[", "{}", '[{"host": 1}]', '[{"host": "a", "begins": -1, "until": 2}]'])
def test_document_that_is_not_valid_counts_as_none(scene: Scene, document: str) -> None:
    """Other programs may write the file; the next request replaces what they wrote."""
    scene.store.transact(lambda file: file.execute("INSERT INTO meta VALUES ('maintenance', ?)", (document,)))
    asyncio.run(scene.maintenance.look())
    scene.begin("db1", until=NOW + 60)
    assert set(scene.maintenance.windows) == {"db1"}
