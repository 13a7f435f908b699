"""The report of all machines as a file that is kept up to date."""

from __future__ import annotations

import asyncio
import errno
import time
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.errors import NoThreadError
from portspec.metrics import ReportFileStatus
from portspec.report import write_report
from portspec.report.file import write_file
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.report import ReportSettings
    from portspec.state.snapshot import Snapshot

LOOK: Final = 1.0  # seconds between two looks whether there is anything new
SHARE: Final = 0.1  # of the time that writing may take: the file of 10,000 hosts takes seconds
MODE: Final = 0o644  # of a new file, whatever the umask: it is for a web server; a file that is there keeps its own
STALE: Final = 3600.0  # seconds after which it is written anew in any case: it tells how old reports are

_SANDBOX: Final = "under systemd, name the directory in ReadWritePaths= (docs/deployment/systemd.md)"

_log = log.get("report")


class ReportFile:
    """Writes the file at `path` after each round and each report that was read; `snapshot` gives the present state.

    `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        path: str,
        settings: ReportSettings,
        snapshot: Callable[[], Snapshot],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.settings = settings
        self._snapshot = snapshot
        self._clock = clock
        self._written: Snapshot | None = None
        self._written_at = 0.0
        self._has_failed = False
        self.status: ReportFileStatus | None = None  # until it was first tried

    async def run(self) -> None:
        """Keep the file up to date until cancelled."""
        while True:
            began = self._clock()
            snapshot = self._snapshot()
            if self._is_due(snapshot):
                await self._write(snapshot)
            await asyncio.sleep(max(LOOK, (self._clock() - began) / SHARE))

    def _is_due(self, snapshot: Snapshot) -> bool:
        written = self._written
        return (
            written is None
            or snapshot.rounds != written.rounds
            or snapshot.audits is not written.audits
            or snapshot.hosts.places is not written.hosts.places  # a reload
            or self._clock() >= self._written_at + STALE
        )

    async def _write(self, snapshot: Snapshot) -> None:
        def write() -> None:
            pieces = write_report(snapshot, self.settings, time.time(), "html")  # which sorts all machines at once
            write_file(self.path, (piece.encode(errors="replace") for piece in pieces), MODE)

        try:
            await in_daemon_thread(write)
        except NoThreadError as error:
            self._tell(str(error), None)
        except OSError as error:
            self._tell((error.strerror or str(error)).lower(), error.errno)
        except Exception:  # noqa: BLE001 - a report that cannot be made must not end the exporter
            _log.exception("the report cannot be made", file=self.path)
            self._note(is_up=False)
        else:
            if self._has_failed:
                _log.info("the report is written again", file=self.path)
            self._has_failed = False
            self._note(is_up=True)
        self._written, self._written_at = snapshot, self._clock()

    def _note(self, *, is_up: bool) -> None:
        before = self.status.last_success if self.status else 0.0
        self.status = ReportFileStatus(is_up, time.time() if is_up else before)

    def _tell(self, why: str, number: int | None) -> None:
        self._note(is_up=False)
        if not self._has_failed:
            _log.error(
                "the report cannot be written; it is tried again after the next round",
                file=self.path,
                why=why,
                **({"todo": _SANDBOX} if number == errno.EROFS else {}),
            )
        self._has_failed = True
