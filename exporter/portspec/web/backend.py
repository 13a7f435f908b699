"""What the web server asks of the exporter behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from portspec.audit.service import AuditService
    from portspec.metrics import Exposition
    from portspec.schedule.on_demand import Prober
    from portspec.state.snapshot import HostState, Snapshot
    from portspec.store import Change


class Backend(Protocol):
    """The running exporter."""

    exposition: Exposition
    audits: AuditService

    @property
    def snapshot(self) -> Snapshot:
        """The state of all hosts now."""
        ...

    @property
    def is_ready(self) -> bool:
        """True once every host was scanned; it stays true when hosts are added."""
        ...

    @property
    def prober(self) -> Prober:
        """What answers /probe."""
        ...

    def find(self, host: str) -> HostState:
        """Give the state of a host, however its name is spelled; KeyError if it is not scanned here."""
        ...

    async def reload(self) -> str | None:
        """Read conf.yml again; gives the message if it is not right."""
        ...

    def scan_now(self, host: str) -> bool:
        """Start a scan of a host, KeyError if it is not scanned here; False if one is on its way already."""
        ...

    async def changes(
        self, *, host: str | None, since: float | None, until: float | None, before_id: int | None, limit: int
    ) -> tuple[tuple[int, Change], ...]:
        """Give rows of the change log, newest first; StoreError if it cannot be read."""
        ...
