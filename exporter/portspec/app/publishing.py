"""The reports that the exporter keeps up to date: a file, a daily mail, and weekly mails to the owners of hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portspec.report import DailyReport, MailedEditions, ReportFile, ReportSettings, ScheduledMail, WeeklyWorklists

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from portspec.app.supervisor import Supervisor
    from portspec.config import Config, MailConfig
    from portspec.report import Edition, ReportFileStatus
    from portspec.state.snapshot import Snapshot
    from portspec.store import Store


class Publishing:
    """Publishes the report of all machines as the present configuration wants it."""

    def __init__(self, snapshot: Callable[[], Snapshot], store: Store, supervisor: Supervisor) -> None:
        self._snapshot = snapshot
        self._store = store
        self._supervisor = supervisor
        self._mailed: dict[str, MailedEditions] = {}
        self._file: ReportFile | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._settings: object = None

    @property
    def file_status(self) -> ReportFileStatus | None:
        """The status of the report file; None without one, and until the first attempt to write it."""
        return self._file.status if self._file else None

    def apply(self, config: Config, tasks: asyncio.TaskGroup) -> None:
        """Publish with the settings of another configuration, and stop publishing with the previous ones."""
        audit = config.audit
        settings = ReportSettings(audit.domain, audit.max_age) if audit else ReportSettings()
        weekly = (config.worklistmail, config.owners)
        used = (settings, config.reportfile, config.reportmail, config.mail, weekly)
        if used == self._settings:
            return
        self._settings = used
        for task in self._tasks:
            task.cancel()
        parts: dict[str, ReportFile | ScheduledMail] = {}
        self._file = None
        if config.reportfile:
            self._file = parts["report file"] = ReportFile(config.reportfile, settings, self._snapshot)
        if config.reportmail and config.mail:
            parts["report mail"] = self._scheduled(DailyReport(config.reportmail, config.mail, settings), config.mail)
        if config.worklistmail and config.mail:
            worklists = WeeklyWorklists(config.worklistmail, config.mail, config.owners, settings.max_age)
            parts["worklist mail"] = self._scheduled(worklists, config.mail)
        keep = self._supervisor.keep
        self._tasks = tuple(tasks.create_task(keep(name, part.run)) for name, part in parts.items())

    def _scheduled(self, edition: Edition, mail: MailConfig) -> ScheduledMail:
        mailed = self._mailed.setdefault(edition.key, MailedEditions())
        return ScheduledMail(edition, mail, self._snapshot, self._store, mailed)
