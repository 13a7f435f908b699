"""The interface of the exporter that the web server uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from portspec.audit.agent_key import AgentKey
    from portspec.audit.service import AuditService
    from portspec.config import Config, MaintenanceWindow
    from portspec.config.rulings import ExemptionKey
    from portspec.metrics import Exposition, ServiceStatus
    from portspec.schedule.on_demand import Prober
    from portspec.state.changes import DatedVerdict
    from portspec.state.snapshot import HostState, Snapshot
    from portspec.store import Change


class Maintenance(Protocol):
    """The maintenance that was asked for."""

    @property
    def windows(self) -> Mapping[str, MaintenanceWindow]:
        """The times of maintenance by the canonical name of their host."""
        ...

    def window_of(self, host: str) -> MaintenanceWindow | None:
        """Return that of a host, by canonical name, also if it was asked for under a former name; None without."""
        ...

    async def begin(self, hosts: Collection[str], until: float, reason: str, owner: str) -> None:
        """Begin maintenance of hosts, by canonical name, until a Unix time; StoreError if it cannot be kept."""
        ...

    async def end(self, hosts: Collection[str]) -> None:
        """End maintenance of hosts, by canonical name; StoreError if that cannot be kept."""
        ...


class Rulings(Protocol):
    """What is known of the rules of conf.yml over time."""

    @property
    def exception_times(self) -> Mapping[ExemptionKey, float | None]:
        """Since when conf.yml has each exception, in Unix seconds; see config.rulings.since_of()."""
        ...


class Backend(Protocol):
    """The running exporter."""

    exposition: Exposition
    audits: AuditService
    agent_key: AgentKey

    @property
    def maintenance(self) -> Maintenance:
        """The maintenance that was asked for."""
        ...

    @property
    def snapshot(self) -> Snapshot:
        """The state of all hosts now."""
        ...

    @property
    def is_ready(self) -> bool:
        """True once every host was scanned; it stays true when hosts are added."""
        ...

    @property
    def hanging(self) -> Sequence[str]:
        """The parts that hang, and that only a restart of the exporter helps."""
        ...

    @property
    def status(self) -> ServiceStatus:
        """The state of the exporter itself."""
        ...

    @property
    def config(self) -> Config:
        """The configuration in force."""
        ...

    @property
    def rulings(self) -> Rulings:
        """What is known of the rules of conf.yml over time."""
        ...

    @property
    def prober(self) -> Prober:
        """What answers /probe."""
        ...

    def find(self, host: str) -> HostState:
        """Return the state of a host, however its name is spelled; KeyError if it is not scanned here."""
        ...

    async def reload(self, by: str = "") -> str | None:
        """Reload conf.yml, as `by` asks; return the message if it is invalid."""
        ...

    def scan_now(self, host: str) -> bool:
        """Start a scan of a host, KeyError if it is not scanned here; False if one is on its way already."""
        ...

    async def changes(
        self, *, host: str | None, since: float | None, until: float | None, before_id: int | None, limit: int
    ) -> tuple[tuple[int, Change], ...]:
        """Return rows of the change log, newest first; StoreError if it cannot be read."""
        ...

    async def verdicts(self, host: str, *, limit: int) -> tuple[DatedVerdict, ...]:
        """Return the verdicts of a host, each since when it held, newest first; StoreError if they cannot be read."""
        ...
