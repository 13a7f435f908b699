"""Parts of the tests of the store: a running store, hosts whose ports open and close, the log."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from portspec import log
from portspec.store import Store
from tests.unit.factories import NOW, result, seen, target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, MutableMapping
    from pathlib import Path

    from portspec.inventory import Target
    from portspec.state.snapshot import HostState

DAY: Final = 86_400.0
PATIENCE: Final = 30.0  # seconds until a test gives up
WEB: Final = target("web1", expect=[22])
DB: Final = target("db1", expect=[22], address="192.0.2.2")


def scanned(state: HostState, *is_open: int, at: float = NOW) -> HostState:
    """Return the state after a scan that found these ports open."""
    address = state.target.address
    assert address is not None
    return state.after(result(state.target, seen(address, is_open=is_open), at=at))


def scan(store: Store, state: HostState, *is_open: int, at: float = NOW) -> HostState:
    """Put the state after such a scan, and return it."""
    after = scanned(state, *is_open, at=at)
    store.put(state, after)
    return after


def commit(store: Store) -> None:
    """Wait until everything that was put is committed."""
    assert store.flush(PATIENCE)


@contextlib.contextmanager
def opened(
    path: Path,
    targets: Iterable[Target] = (WEB, DB),
    *,
    history: float = 365 * DAY,
    retry: float = 3600.0,
    wall_clock: Callable[[], float] = lambda: NOW,
) -> Iterator[tuple[Store, dict[str, HostState]]]:
    """Open and start a store; yield it and what it restored; close it."""
    store = Store(str(path), history=history, wall_clock=wall_clock, retry=retry)
    try:
        restored = store.open(targets)
        store.start()
        yield store, restored
    finally:
        store.close(PATIENCE)


def logged_changes(store: Store, **conditions: Any) -> list[tuple[str, str, str]]:
    """Return host, ports and new state of every change, the oldest first."""
    return [(item.host, item.ports, item.after.value) for _, item in reversed(store.changes(**conditions))]


class Logs:
    """Context manager that records the events logged by any thread."""

    def __init__(self) -> None:
        self.events: list[MutableMapping[str, Any]] = []
        self._condition = threading.Condition()

    def __call__(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Record an event, as the only processor."""
        with self._condition:
            self.events.append({**event, "level": method})
            self._condition.notify_all()
        raise structlog.DropEvent

    def __enter__(self) -> Self:
        structlog.configure(processors=[self])
        return self

    def __exit__(self, *_: object) -> None:
        structlog.reset_defaults()
        log.configure()  # else capture_logs() of a later test would leave structlog in a state of its own

    @property
    def levels(self) -> list[str]:
        """The level of each event."""
        return [event["level"] for event in self.events]

    def wait(self, level: str) -> None:
        """Wait for an event of a level."""
        with self._condition:
            assert self._condition.wait_for(lambda: level in self.levels, PATIENCE), self.events
