"""Renders /metrics while scans finish, so that a scrape finds most of it rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.clock import SystemClock
from portspec.errors import NoThreadError
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.clock import Clock
    from portspec.metrics import Exposition
    from portspec.state.snapshot import Snapshot

INTERVAL: Final = 0.25  # seconds between checks for changes that the next scrape would have to render
REST: Final = 3.0  # times as long as it took to render: with many hosts the scans need the time more
MAX_REST: Final = 3.0  # seconds; see metrics.exposition.MAX_AHEAD_AGE

_log = log.get("app")


async def render_ahead(exposition: Exposition, snapshot: Callable[[], Snapshot], clock: Clock | None = None) -> None:
    """Render what has changed, until cancelled."""
    clock = clock or SystemClock()
    written: Snapshot | None = None
    took = 0.0
    while True:
        await clock.sleep(max(INTERVAL, min(REST * took, MAX_REST)))
        now = snapshot()
        if written is None or now.hosts is not written.hosts or now.audits is not written.audits:
            began = clock.now()
            try:
                await in_daemon_thread(exposition.write_ahead)
            except NoThreadError:  # the scrape writes it
                continue
            except Exception:  # noqa: BLE001 - the exporter continues; the scrape reports the error, too
                _log.exception("rendering the metrics failed")
            written, took = now, clock.now() - began
