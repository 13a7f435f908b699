"""Keep the report of all machines up to date as an HTML file (`reportfile` in conf.yml)."""

from __future__ import annotations

import asyncio
import errno
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portspec import log
from portspec.errors import NoThreadError
from portspec.report.formats import write_report
from portspec.report.output import write_file
from portspec.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from portspec.report.model import ReportSettings
    from portspec.state.snapshot import Snapshot

POLL_INTERVAL: Final = 1.0  # seconds between checks whether there is anything new
MAX_WRITING_SHARE: Final = 0.1  # of the time; the file of 10,000 hosts takes seconds
FILE_MODE: Final = 0o644  # of a new file, whatever the umask, for a web server; an existing file keeps its mode
REWRITE_INTERVAL: Final = 3600.0  # seconds after which it is rewritten in any case: it says how old audits are

_SANDBOX: Final = "under systemd, name the directory in ReadWritePaths= (docs/deployment/systemd.md)"

_log = log.get("report")


@dataclass(frozen=True, slots=True)
class ReportFileStatus:
    """Whether the last write succeeded, and the Unix time of the last one that did (0: never)."""

    is_up: bool
    last_success: float = 0.0


class ReportFile:
    """Writes the file at `path` after each round of scans and each audit.

    Attributes:
        status: the result of the last attempt; None before the first one.
    """

    def __init__(
        self,
        path: str,
        settings: ReportSettings,
        snapshot: Callable[[], Snapshot],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: `snapshot` returns the current state; `clock` is monotonic, in seconds."""
        self.path = path
        self.settings = settings
        self._snapshot = snapshot
        self._clock = clock
        self._written: Snapshot | None = None
        self._written_at = 0.0
        self._has_failed = False
        self.status: ReportFileStatus | None = None

    async def run(self) -> None:
        """Update the file until cancelled."""
        while True:
            began = self._clock()
            snapshot = self._snapshot()
            if self._is_due(snapshot):
                await self._write(snapshot)
            await asyncio.sleep(max(POLL_INTERVAL, (self._clock() - began) / MAX_WRITING_SHARE))

    def _is_due(self, snapshot: Snapshot) -> bool:
        written = self._written
        return (
            written is None
            or snapshot.rounds != written.rounds
            or snapshot.audits is not written.audits
            or snapshot.hosts.places is not written.hosts.places  # configuration was reloaded
            or self._clock() >= self._written_at + REWRITE_INTERVAL
        )

    async def _write(self, snapshot: Snapshot) -> None:
        def write() -> None:
            pieces = write_report(snapshot, self.settings, time.time(), "html")
            write_file(self.path, (piece.encode(errors="replace") for piece in pieces), FILE_MODE)

        try:
            await in_daemon_thread(write)
        except NoThreadError as error:
            self._fail(str(error), None)
        except OSError as error:
            self._fail((error.strerror or str(error)).lower(), error.errno)
        except Exception:  # noqa: BLE001 - a bug in the report must not end the exporter
            _log.exception("rendering the report failed", file=self.path)
            self._set_status(is_up=False)
        else:
            if self._has_failed:
                _log.info("writing the report succeeded again", file=self.path)
            self._has_failed = False
            self._set_status(is_up=True)
        self._written, self._written_at = snapshot, self._clock()

    def _set_status(self, *, is_up: bool) -> None:
        before = self.status.last_success if self.status else 0.0
        self.status = ReportFileStatus(is_up, time.time() if is_up else before)

    def _fail(self, why: str, number: int | None) -> None:
        self._set_status(is_up=False)
        if not self._has_failed:
            _log.error(
                "writing the report failed; retrying after the next round",
                file=self.path,
                why=why,
                **({"todo": _SANDBOX} if number == errno.EROFS else {}),
            )
        self._has_failed = True
