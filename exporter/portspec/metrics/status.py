"""What the exporter tells of itself, beside the Snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.inventory import Shard
    from portspec.inventory.discovery import SourceStats
    from portspec.notify import MailStatus
    from portspec.report import ReportFileStatus
    from portspec.store import StoreStatus


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """How the intake of reports does.

    `received` and `rejected` count reports; the latter has every reason of audit.intake.REASONS, from 0 on, so that the
    first refusal is an increase. A report is late after `max_age` seconds. The tool's output of `unread` accepted ones
    is still to be read.
    """

    received: int
    rejected: Mapping[str, int]
    max_age: float
    unread: int


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The state of the parts that are no hosts; `config_loaded_at` in Unix seconds.

    Without `sendemail` in conf.yml there is no `mail`, without `audit` no `audit`, and no `reportfile` until it was
    first tried to write that. `canary_seen` is None as long as nobody knows, and without canaries.
    """

    engine: str
    config_loaded_at: float
    config_is_good: bool
    is_ready: bool
    shard: Shard
    store: StoreStatus
    sources: tuple[SourceStats, ...] = ()
    mail: MailStatus | None = None
    audit: AuditStatus | None = None
    reportfile: ReportFileStatus | None = None
    canary_seen: bool | None = None
